//! A child has the rights and the settings that its creator has at the moment of the start,
//! whatever the creator had when it started its first child.

use std::ffi::CString;
use std::fs;

use crate::common;
use crate::seccomp::forbid;
use multiproc::{Process, StartMethod};

/// What a process is started from: a server that has started others, or a standby child, if the
/// method has one.
const STANDBY: [bool; 2] = [false, true];

fn check(result: libc::c_long) -> Result<(), String> {
    if result == -1 { Err(std::io::Error::last_os_error().to_string()) } else { Ok(()) }
}

/// The calling thread's rights, as far as they can be read.
fn rights() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let names = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Spec"];
    let mut lines: Vec<String> =
        status.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect();
    for name in ["cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "uts", "user"] {
        lines.push(format!("{:?}", fs::read_link(format!("/proc/thread-self/ns/{name}"))));
    }
    lines.push(fs::read_to_string("/proc/thread-self/cgroup").unwrap());
    let root = mount_of_root();
    // SAFETY: these calls take no pointers.
    let (secure_bits, memory_deny, session) =
        unsafe { (libc::prctl(libc::PR_GET_SECUREBITS), libc::prctl(66, 0, 0, 0, 0), libc::getsid(0)) };
    lines.push(format!("{secure_bits} {memory_deny} {session} {root}"));
    lines.join("\n")
}

/// The number of the mount that the root directory is on.
fn mount_of_root() -> u64 {
    // SAFETY: all-zero bytes are a valid value of the structure, the path is NUL-terminated, and
    // the structure is a local variable.
    unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        libc::statx(libc::AT_FDCWD, c"/".as_ptr(), 0, libc::STATX_MNT_ID, &raw mut stat);
        stat.stx_mnt_id
    }
}

/// Forbids the calling thread to make directories from now on, by Landlock.
fn enter_domain() -> Result<(), String> {
    let make_dir: u64 = 1 << 7;
    // SAFETY: the attributes are as large as stated; the descriptor is owned here.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const make_dir, 8, 0);
        check(ruleset)?;
        let entered = check(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0));
        libc::close(ruleset as i32);
        entered
    }
}

fn may_make_a_directory() -> bool {
    let scratch = std::env::temp_dir().join(format!("multiproc-confined-{}", std::process::id()));
    let made = fs::create_dir(&scratch).is_ok();
    let _ = fs::remove_dir(&scratch);
    made
}

fn may_ask_for_uname() -> bool {
    // SAFETY: all-zero bytes are a valid value of the structure.
    unsafe { libc::uname(&mut std::mem::zeroed()) == 0 }
}

/// Waits until a standby child exists.
fn until_there_is_a_standby() {
    let this = std::process::id();
    common::time_until(|| {
        let children = fs::read_to_string(format!("/proc/{this}/task/{this}/children")).unwrap();
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        // Children that the keeper thread has made are listed as its children.
        let of_threads = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let all: Vec<String> = of_threads.chain([children]).collect();
        let mut pids = all.iter().flat_map(|list| list.split_whitespace());
        pids.any(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "multiproc-ready\n"))
    });
}

/// In a process of its own: starts a server, and waits for a standby child if `standby` is set.
fn warm_up(standby: bool) {
    multiproc::process::set_standby(standby);
    Process::new(|| (), ()).start_method(StartMethod::ForkServer).start().unwrap().join().unwrap();
    if standby {
        until_there_is_a_standby();
    }
}

/// A change that a process makes to itself between two starts, and what must be the same in its
/// children afterwards.
struct Case {
    name: &'static str,
    /// What it does before it starts anything.
    prepare: fn() -> Result<(), String>,
    change: fn() -> Result<(), String>,
    look: fn() -> String,
    /// Whether the process must have one thread, and so can't have a standby child.
    one_thread: bool,
}

fn nothing() -> Result<(), String> {
    Ok(())
}

fn unshare(flags: i32) -> Result<(), String> {
    // SAFETY: the call takes only numbers.
    check(unsafe { libc::unshare(flags) }.into())
}

/// Creates a user namespace, and others within it as `flags` says, and becomes its root.
fn become_root_of_a_namespace(flags: i32) -> Result<(), String> {
    // SAFETY: the calls take no arguments.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    unshare(libc::CLONE_NEWUSER | flags)?;
    let write = |file, text: String| fs::write(file, text).map_err(|error| format!("{file}: {error}"));
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// As [`rights`], except for capabilities: an exec by a user other than root drops them.
fn rights_but_capabilities() -> String {
    rights().lines().filter(|line| !line.starts_with("Cap")).collect()
}

fn mount(from: &str, to: &str, flags: libc::c_ulong) -> Result<(), String> {
    let (from, to) = (CString::new(from).unwrap(), CString::new(to).unwrap());
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) }.into())
}

/// Drops one capability from the effective and permitted sets.
fn drop_capability(number: u32) -> Result<(), String> {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: the arrays are laid out as capget(2) says.
    unsafe {
        check(libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()))?;
        let before = data;
        data[0] &= !(1 << number);
        data[1] &= !(1 << number);
        if data == before {
            return Err("this process hasn't got the capability".into());
        }
        check(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
    }
}

fn become_user(id: u32) -> Result<(), String> {
    // SAFETY: these calls take numbers, and one null pointer for an empty list.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(id, id, id).into())?;
        check(libc::setresuid(id, id, id).into())?;
        // As after an exec by such a user: the process owns its files in /proc.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())
    }
}

fn prctl(option: i32, argument: libc::c_ulong) -> Result<(), String> {
    // SAFETY: the options that are used take numbers.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into())
}

/// What a process under Landlock and seccomp confinement may still do.
fn deeds() -> String {
    format!("{}\ndirectories {}, uname {}", rights(), may_make_a_directory(), may_ask_for_uname())
}

const PR_SET_MDWE: i32 = 65;
const CAP_NET_RAW: u32 = 13;
const CAP_MKNOD: libc::c_ulong = 27;
const USER: u32 = 60_127;

fn as_in_a_container() -> Result<(), String> {
    forbid(libc::SYS_swapon)
}

const CONFINEMENTS: &[Case] = &[
    Case {
        name: "a first filter",
        prepare: nothing,
        change: || forbid(libc::SYS_uname),
        look: deeds,
        one_thread: false,
    },
    Case {
        name: "a second filter",
        prepare: as_in_a_container,
        change: || forbid(libc::SYS_uname),
        look: deeds,
        one_thread: false,
    },
    Case {
        name: "a second filter, of a user",
        prepare: || become_user(USER).and_then(|()| as_in_a_container()),
        change: || forbid(libc::SYS_uname),
        look: deeds,
        one_thread: false,
    },
    Case { name: "a first domain", prepare: nothing, change: enter_domain, look: deeds, one_thread: false },
    Case {
        name: "a domain, with no_new_privs before",
        prepare: || prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
        change: enter_domain,
        look: deeds,
        one_thread: false,
    },
    Case {
        name: "a domain, of a user, in a container",
        prepare: || become_user(USER).and_then(|()| as_in_a_container()),
        change: enter_domain,
        look: deeds,
        one_thread: false,
    },
    Case {
        name: "no_new_privs",
        prepare: nothing,
        change: || prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "the bounding set",
        prepare: nothing,
        change: || prctl(libc::PR_CAPBSET_DROP, CAP_MKNOD).and_then(|()| drop_capability(CAP_MKNOD as u32)),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "a capability of root",
        prepare: nothing,
        change: || drop_capability(CAP_NET_RAW),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "securebits",
        prepare: nothing,
        change: || prctl(libc::PR_SET_SECUREBITS, 1 << 6),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "no memory that is both written and executed",
        prepare: nothing,
        change: || prctl(PR_SET_MDWE, 1),
        look: rights,
        one_thread: false,
    },
    Case { name: "another user", prepare: nothing, change: || become_user(USER), look: rights, one_thread: false },
    Case {
        name: "file-system ids",
        prepare: nothing,
        // SAFETY: the calls take only numbers.
        change: || unsafe {
            libc::setfsgid(USER);
            libc::setfsuid(USER);
            check(if libc::setfsuid(u32::MAX) == USER as i32 { 0 } else { -1 })
        },
        look: rights,
        one_thread: false,
    },
    Case {
        name: "a session",
        prepare: nothing,
        // SAFETY: the call takes no arguments.
        change: || check(unsafe { libc::setsid() }.into()),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "most namespaces",
        prepare: nothing,
        change: || unshare(libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "a network namespace, and no right to make one any more",
        prepare: nothing,
        change: || unshare(libc::CLONE_NEWNET).and_then(|()| become_user(USER)),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "a mount namespace",
        prepare: nothing,
        change: || unshare(libc::CLONE_NEWNS),
        look: rights,
        one_thread: false,
    },
    Case {
        name: "a control-group namespace",
        prepare: nothing,
        change: || unshare(libc::CLONE_NEWCGROUP),
        look: rights,
        one_thread: false,
    },
    Case { name: "a control group", prepare: nothing, change: enter_a_control_group, look: rights, one_thread: false },
    Case {
        name: "a user namespace",
        prepare: nothing,
        change: || become_root_of_a_namespace(0),
        look: rights,
        one_thread: true,
    },
    Case {
        name: "a user namespace in which it is nobody",
        prepare: nothing,
        change: || unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWUTS),
        look: rights_but_capabilities,
        one_thread: true,
    },
    Case {
        name: "a user namespace of a user, and others within",
        prepare: || become_user(USER),
        change: || become_root_of_a_namespace(libc::CLONE_NEWNET | libc::CLONE_NEWNS),
        look: rights,
        one_thread: true,
    },
    Case {
        name: "a user namespace, and what it gives is given up",
        prepare: || become_user(USER),
        change: || {
            become_root_of_a_namespace(libc::CLONE_NEWNET)?;
            drop_capability(CAP_NET_RAW)
        },
        look: rights,
        one_thread: true,
    },
    Case {
        name: "another root directory, of the same inode",
        prepare: || {
            unshare(libc::CLONE_NEWNS)?;
            mount("none", "/", libc::MS_REC | libc::MS_PRIVATE)?;
            mount("/", "/mnt", libc::MS_BIND | libc::MS_REC)
        },
        // SAFETY: the path is NUL-terminated.
        change: || check(unsafe { libc::chroot(c"/mnt".as_ptr()) }.into()),
        look: rights,
        one_thread: false,
    },
];

/// The directory of this process's control group of version 2; `None` if nothing is mounted at the
/// usual path.
fn control_group() -> Option<std::path::PathBuf> {
    let table = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|mount| std::path::Path::new(mount).join(&path));
    mounts.into_iter().find(|directory| directory.join("cgroup.procs").exists())
}

/// The name of a control group that the process `pid` makes.
fn group_of(pid: u32) -> String {
    format!("multiproc-test-{pid}")
}

fn enter_a_control_group() -> Result<(), String> {
    let own = control_group().ok_or("no control groups of version 2")?;
    let group = own.join(group_of(std::process::id()));
    fs::create_dir(&group).map_err(|error| error.to_string())?;
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).map_err(|error| error.to_string())
}

/// The settings that a process passes on to its children.
fn settings() -> String {
    let umask = fs::read_to_string("/proc/self/status").unwrap();
    let umask = umask.lines().find(|line| line.starts_with("Umask")).unwrap().to_owned();
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    // SAFETY: the calls write to local variables of the size that they expect.
    unsafe {
        let mut processors: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&processors), &raw mut processors);
        let processors: Vec<usize> = (0..1024).filter(|number| libc::CPU_ISSET(*number, &processors)).collect();
        let mut priority = [0_i32];
        libc::sched_getparam(0, priority.as_mut_ptr().cast());
        let limits: Vec<(u64, u64)> = (0..16)
            .map(|resource| {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::getrlimit(resource, &raw mut limit);
                (limit.rlim_cur, limit.rlim_max)
            })
            .collect();
        format!(
            "{umask}, oom {}, group {}, nice {}, policy {} {priority:?}, io {}, slack {}, personality {:x}, {processors:?}, {limits:?}",
            score.trim(),
            libc::getpgid(0),
            libc::getpriority(libc::PRIO_PROCESS, 0),
            libc::sched_getscheduler(0),
            libc::syscall(libc::SYS_ioprio_get, 1, 0),
            libc::prctl(libc::PR_GET_TIMERSLACK),
            libc::personality(0xFFFF_FFFF),
        )
    }
}

fn set_policy(policy: i32, priority: i32) -> Result<(), String> {
    // SAFETY: the parameter is one number.
    check(unsafe { libc::sched_setscheduler(0, policy, [priority].as_ptr().cast()) }.into())
}

fn nice(niceness: i32) -> Result<(), String> {
    // SAFETY: the call takes only numbers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) }.into())
}

fn score(score: i32) -> Result<(), String> {
    fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(|error| error.to_string())
}

fn limit(resource: u32, soft: u64) -> Result<(), String> {
    // SAFETY: the pointer is to a local structure.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(resource, &raw mut limit);
        limit.rlim_cur = soft;
        limit.rlim_max = limit.rlim_max.min(soft + 10);
        check(libc::setrlimit(resource, &raw const limit).into())
    }
}

/// Changes everything that a process may change without privileges.
fn change_settings() -> Result<(), String> {
    // SAFETY: these calls take numbers, except for the set of processors, which is a local
    // variable.
    unsafe {
        libc::umask(0o077);
        check(libc::setpgid(0, 0).into())?;
        check(libc::syscall(libc::SYS_ioprio_set, 1, 0, 2 << 13 | 7))?;
        check(libc::personality(0x004_0000).into())?;
        let mut processors: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&processors), &raw mut processors);
        let first = (0..1024).find(|number| libc::CPU_ISSET(*number, &processors)).unwrap();
        libc::CPU_ZERO(&mut processors);
        libc::CPU_SET(first, &mut processors);
        check(libc::sched_setaffinity(0, size_of_val(&processors), &raw const processors).into())?;
    }
    prctl(libc::PR_SET_TIMERSLACK, 123_456)?;
    set_policy(libc::SCHED_BATCH, 0)?;
    nice(3)?;
    score(500)?;
    limit(libc::RLIMIT_NOFILE, 200)?;
    limit(libc::RLIMIT_CORE, 0)
}

const SETTINGS: &[Case] = &[
    Case { name: "settings", prepare: nothing, change: change_settings, look: settings, one_thread: false },
    Case {
        name: "settings of a user",
        prepare: || become_user(USER),
        change: change_settings,
        look: settings,
        one_thread: false,
    },
    Case {
        name: "more favourable settings",
        prepare: change_settings,
        change: || nice(-2).and_then(|()| score(100)),
        look: settings,
        one_thread: false,
    },
    Case {
        name: "a real-time policy",
        prepare: nothing,
        change: || set_policy(libc::SCHED_FIFO, 2),
        look: settings,
        one_thread: false,
    },
    Case {
        name: "no real-time policy any more",
        prepare: || set_policy(libc::SCHED_RR, 2),
        change: || set_policy(libc::SCHED_OTHER, 0).and_then(|()| nice(1)),
        look: settings,
        one_thread: false,
    },
];

/// What a process sees in itself, in its next child, and in the one after that.
type Seen = Result<[String; 3], String>;

fn case(settings: bool, index: usize) -> &'static Case {
    if settings { &SETTINGS[index] } else { &CONFINEMENTS[index] }
}

/// In a process of its own: starts a child, makes a change, and starts others.
fn before_and_after(settings: bool, index: usize, method: StartMethod, standby: bool) -> Seen {
    let case = case(settings, index);
    (case.prepare)()?;
    warm_up(standby);
    (case.change)()?;
    let here = (case.look)();
    let start = || {
        let child = Process::new(look, (settings, index)).start_method(method).start();
        child.map_err(|error| format!("start: {error}")).unwrap().join().unwrap()
    };
    let first = start();
    if standby {
        // The second start must use a new standby.
        until_there_is_a_standby();
    }
    Ok([here, first, start()])
}

fn look(settings: bool, index: usize) -> String {
    (case(settings, index).look)()
}

fn all_of(settings: bool, method: StartMethod) {
    let cases = if settings { SETTINGS } else { CONFINEMENTS };
    for (index, case) in cases.iter().enumerate() {
        for standby in STANDBY {
            if standby && (case.one_thread || method != StartMethod::ForkServer) {
                continue;
            }
            let outer = Process::new(before_and_after, (settings, index, method, standby));
            let outer = outer.start().unwrap();
            let group = control_group().map(|own| own.join(group_of(outer.pid() as u32)));
            let seen = outer.join().unwrap();
            group.into_iter().for_each(|group| drop(fs::remove_dir(group)));
            match seen {
                Ok([here, first, second]) => {
                    assert_eq!(here, first, "{}, {method:?}, standby {standby}", case.name);
                    assert_eq!(here, second, "{}, {method:?}, standby {standby}, the second", case.name);
                }
                Err(why) => eprintln!("skipped: {}, {method:?}: {why}", case.name),
            }
        }
    }
}

mod a_child_has_the_rights_of_the_moment {
    use super::*;

    #[multiproc::test]
    fn forkserver() {
        all_of(false, StartMethod::ForkServer);
    }

    #[multiproc::test]
    fn spawn() {
        all_of(false, StartMethod::Spawn);
    }

    #[multiproc::test]
    fn fork() {
        all_of(false, StartMethod::Fork);
    }
}

mod a_child_has_the_settings_of_the_moment {
    use super::*;

    #[multiproc::test]
    fn forkserver() {
        all_of(true, StartMethod::ForkServer);
    }

    #[multiproc::test]
    fn spawn() {
        all_of(true, StartMethod::Spawn);
    }

    #[multiproc::test]
    fn fork() {
        all_of(true, StartMethod::Fork);
    }
}

/// In a process of its own, as a user that can't lower its niceness again: what a thread with less
/// niceness and one with more have, and their children.
fn threads_that_are_scheduled_differently() -> Result<Vec<(String, String)>, String> {
    become_user(USER)?;
    multiproc::process::set_standby(false);
    let start = || Process::new(settings, ()).start_method(StartMethod::ForkServer).start().unwrap().join().unwrap();
    std::thread::scope(|scope| {
        let nicer = scope.spawn(|| {
            nice(10).unwrap();
            [0, 1].map(|_| (settings(), start()))
        });
        let mut seen = nicer.join().unwrap().to_vec();
        // The server was started by the other thread. Its children can't get back this thread's
        // lower niceness.
        seen.push((settings(), start()));
        seen.push((settings(), start()));
        Ok(seen)
    })
}

#[multiproc::test]
fn niceness_of_starting_thread() {
    match Process::new(threads_that_are_scheduled_differently, ()).start().unwrap().join().unwrap() {
        Ok(pairs) => pairs.iter().for_each(|(here, child)| assert_eq!(here, child)),
        Err(why) => eprintln!("skipped: {why}"),
    }
}

/// In a process of its own: one thread confines itself, another doesn't, and both start children in
/// turn.
fn threads_that_are_confined_differently(method: StartMethod) -> Result<Vec<(String, String)>, String> {
    warm_up(false);
    let (turn, turns) = (std::sync::Barrier::new(2), 0..3);
    let start = || Process::new(deeds, ()).start_method(method).start().unwrap().join().unwrap();
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let entered = enter_domain().and_then(|()| forbid(libc::SYS_uname));
            let mut seen = vec![];
            for _ in turns.clone() {
                turn.wait();
                seen.push((deeds(), start()));
                turn.wait();
            }
            entered.map(|()| seen)
        });
        let mut seen = vec![];
        for _ in turns.clone() {
            turn.wait();
            turn.wait();
            seen.push((deeds(), start()));
        }
        Ok(confined.join().unwrap()?.into_iter().chain(seen).collect())
    })
}

#[multiproc::test]
fn confinement_of_starting_thread() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        match Process::new(threads_that_are_confined_differently, (method,)).start().unwrap().join().unwrap() {
            Ok(pairs) => pairs.iter().for_each(|(here, child)| assert_eq!(here, child, "{method:?}")),
            Err(why) => eprintln!("skipped: {why}"),
        }
    }
}

/// In a process of its own: two threads have the same number of filters each, but different ones,
/// and start children in turn.
fn threads_with_as_many_filters() -> Result<Vec<(String, String)>, String> {
    warm_up(true);
    let turn = std::sync::Barrier::new(2);
    let start = || Process::new(deeds, ()).start_method(StartMethod::ForkServer).start().unwrap().join().unwrap();
    let work = |is_first: bool, call| {
        let forbidden = forbid(call);
        let mut seen = vec![];
        for round in 0..6 {
            turn.wait();
            if (round % 2 == 0) == is_first {
                seen.push((deeds(), start()));
            }
        }
        forbidden.map(|()| seen)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(false, libc::SYS_mkdir));
        let mut seen = work(true, libc::SYS_uname)?;
        seen.extend(other.join().unwrap()?);
        Ok(seen)
    })
}

#[multiproc::test]
#[cfg(target_arch = "x86_64")] // Others have no mkdir(2).
fn seccomp_filters_of_starting_thread() {
    match Process::new(threads_with_as_many_filters, ()).start().unwrap().join().unwrap() {
        Ok(pairs) => {
            pairs.iter().for_each(|(here, child)| assert_eq!(here, child));
            assert_ne!(pairs[0].0, pairs[3].0);
        }
        Err(why) => eprintln!("skipped: {why}"),
    }
}

/// Whether `/proc/PID/environ` of this process shows a variable with this name.
fn shows(name: &str) -> bool {
    let text = fs::read("/proc/self/environ").unwrap();
    text.split(|byte| *byte == 0).any(|variable| variable.starts_with(format!("{name}=").as_bytes()))
}

fn shown() -> Vec<bool> {
    ["MULTIPROC_TEST_SECRET", "MULTIPROC_TEST_NEW", "PATH"].map(shows).to_vec()
}

fn with_a_secret_for_a_while(method: StartMethod, standby: bool) -> (Vec<Vec<bool>>, Vec<String>) {
    // SAFETY: no other thread accesses the environment except through the standard library, which
    // the threads of multiproc use too.
    unsafe { std::env::set_var("MULTIPROC_TEST_SECRET", "hidden") };
    warm_up(standby);
    let start = |child: Process<_>| child.start_method(method).start().unwrap().join().unwrap();
    // With the variable removed by option, while it is still in the environment of this process.
    let mut seen =
        vec![start(Process::new(shown, ()).env_remove("MULTIPROC_TEST_SECRET").env("MULTIPROC_TEST_NEW", "1"))];
    // SAFETY: as above.
    unsafe {
        std::env::remove_var("MULTIPROC_TEST_SECRET");
        std::env::set_var("MULTIPROC_TEST_NEW", "1");
    }
    seen.push(start(Process::new(shown, ())));
    seen.push(start(Process::new(shown, ())));
    // The server and the standby show no variable that was removed.
    let children = fs::read_dir("/proc/self/task").unwrap().flatten().flat_map(|thread| {
        let pids = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let shown = children.filter_map(|pid| fs::read(format!("/proc/{pid}/environ")).ok());
    let secrets = shown.map(|text| String::from_utf8_lossy(&text).into_owned());
    (seen, secrets.filter(|text| text.contains("MULTIPROC_TEST_SECRET=hidden")).collect())
}

#[multiproc::test]
fn removed_variable_is_not_in_proc() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork] {
        for standby in STANDBY {
            let outer = Process::new(with_a_secret_for_a_while, (method, standby));
            let (seen, secrets) = outer.start().unwrap().join().unwrap();
            assert_eq!(seen, vec![vec![false, true, true]; 3], "{method:?}, standby {standby}");
            assert_eq!(secrets, Vec::<String>::new(), "{method:?}, standby {standby}");
        }
    }
}
