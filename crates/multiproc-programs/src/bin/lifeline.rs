//! Main processes in environments where a start or a lifeline could fail: user and PID namespaces,
//! other users, sandboxes, bare root directories. One of many scenarios, chosen by name. Prints
//! "refused" if the system doesn't let this process create such an environment.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::ptr::null;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use multiproc::process::Stdio;
use multiproc::sync::Event;
use multiproc::{Error, Process, StartMethod, current_process};
use multiproc_programs::{say, sleep_long, start_method};

/// The ids of another user, by tradition `nobody`.
const OTHER: u32 = 65_534;

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let method = start_method(argument(2));
    multiproc::set_start_method(method);
    match argument(1) {
        "changes-user" => changes_user(),
        "changes-user-unguarded" => changes_user_unguarded(),
        "first-of-namespace" => first_of_namespace(method, argument(3) == "blocks"),
        "first-of-namespace-terminated" => first_of_namespace_terminated(),
        "namespace-with-init" => namespace_with_init(),
        "gave-up-root" => gave_up_root(),
        "both-change-user" => both_change_user(),
        "gave-up-root-scope" => gave_up_root_in_scope(),
        "gave-up-root-kill" => gave_up_root_and_kills(),
        "refused-call" => refused_call(argument(3)),
        "bare-root" => bare_root(argument(3), argument(4)),
        "close-on-exec" => close_on_exec(),
        "number-in-use" => number_in_use(),
        "one" => one(),
        other => panic!("no scenario {other}"),
    }
}

/// Starts a child, and prints the outcome.
fn one() {
    match Process::new(|| 7, ()).start() {
        Ok(child) => say(&format!("value {:?}", child.join())),
        Err(error) => say(&format!("error {error}")),
    }
}

fn refused() -> ! {
    say("refused");
    std::process::exit(0)
}

/// Makes this process root of a user namespace with 65,536 users, none of which is root outside: a
/// rootless container.
fn enter_container() {
    let (mut told, mut tell) = std::io::pipe().unwrap();
    let (mut heard, mut hear) = std::io::pipe().unwrap();
    // SAFETY: there is one thread. The copy, which stays outside to write the maps, exits without
    // running the original's handlers.
    unsafe {
        let main = libc::getpid();
        let helper = libc::fork();
        let mut byte = [0];
        if helper == 0 {
            told.read_exact(&mut byte).unwrap();
            let map = |name: &str| std::fs::write(format!("/proc/{main}/{name}"), "0 100000 65536").is_ok();
            hear.write_all(&[u8::from(byte == [1] && map("uid_map") && map("gid_map"))]).unwrap();
            libc::_exit(0);
        }
        let unshared = libc::unshare(libc::CLONE_NEWUSER) == 0;
        tell.write_all(&[u8::from(unshared)]).unwrap();
        heard.read_exact(&mut byte).unwrap();
        libc::waitpid(helper, std::ptr::null_mut(), 0);
        if byte == [0] || libc::setgid(0) != 0 || libc::setuid(0) != 0 {
            refused();
        }
    }
}

fn become_another_user() {
    // SAFETY: no memory is touched.
    assert_eq!(unsafe { (libc::setgid(OTHER), libc::setuid(OTHER)) }, (0, 0));
}

fn is_root() -> bool {
    // SAFETY: no memory is touched.
    unsafe { libc::geteuid() == 0 }
}

/// Starts children that change their user: the first one, one that may have been started ahead, and
/// one of another method. Then waits to be killed.
fn changes_user() {
    enter_container();
    let method = multiproc::process::start_method();
    for method in [method, method, StartMethod::Spawn] {
        let (ready, changed) =
            multiproc::connection::one_way::<i32>().map(|(sender, receiver)| (receiver, sender)).unwrap();
        let target = |changed: multiproc::connection::Sender<i32>| {
            become_another_user();
            changed.send(current_process().pid()).unwrap();
            sleep_long();
        };
        Process::new(target, (changed,)).start_method(method).start().unwrap();
        say(&format!("child {}", ready.recv().unwrap()));
        // Time for a child to be started ahead of the next start.
        std::thread::sleep(Duration::from_millis(50));
        // Otherwise there would be a thread, and Fork would refuse to copy it.
        multiproc::process::set_standby(method == StartMethod::ForkServer);
    }
    say("ready");
    sleep_long();
}

/// Starts a child that changes its user and continues to call the library.
fn changes_user_unguarded() {
    enter_container();
    let event = Event::new().unwrap();
    let target = |event: Event| {
        become_another_user();
        say(&format!("child {}", current_process().pid()));
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let _ = event.wait_timeout(Duration::from_millis(1));
        }
    };
    Process::new(target, (event,)).start().unwrap();
    sleep_long();
}

/// Puts future children of this process in a new PID namespace.
fn unshare_pids() {
    // SAFETY: no memory is touched.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        refused();
    }
}

/// Starts a child that is the first process of a PID namespace, and a child of it; then waits to be
/// killed.
fn first_of_namespace(method: StartMethod, blocks: bool) {
    unshare_pids();
    let (ready, word) = multiproc::connection::one_way::<i32>().map(|(sender, receiver)| (receiver, sender)).unwrap();
    let target = |blocks: bool, method: StartMethod, word: multiproc::connection::Sender<i32>| {
        assert_eq!(current_process().pid(), 1);
        let grandchild = Process::new(sleep_long, ()).start_method(method).start().unwrap();
        if blocks {
            // SAFETY: the set is filled in before it is read.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            }
        }
        word.send(grandchild.pid()).unwrap();
        sleep_long();
    };
    let child = Process::new(target, (blocks, method, word)).start().unwrap();
    say(&format!("child {}", child.pid()));
    say(&format!("grandchild {}", ready.recv().unwrap()));
    sleep_long();
}

/// terminate() ends the first process of a PID namespace too, and so does the end of main.
fn first_of_namespace_terminated() {
    unshare_pids();
    let (sender, receiver) = multiproc::connection::one_way::<()>().unwrap();
    let target = |sender: multiproc::connection::Sender<()>| {
        sender.send(()).unwrap();
        sleep_long();
    };
    let child = Process::new(target, (sender,)).start().unwrap();
    receiver.recv().unwrap();
    child.terminate().unwrap();
    say(&format!("{}", child.wait().unwrap()));
    // The namespace's first process has ended.
    one();
}

/// In a PID namespace that has a first process, any number of children can be started and end.
fn namespace_with_init() {
    unshare_pids();
    let init = Process::new(sleep_long, ()).daemon(true).start().unwrap();
    for _ in 0..3 {
        let child = Process::new(|| (7, current_process().pid() > 1), ()).start().unwrap();
        say(&format!("{:?}", child.join().unwrap()));
    }
    init.kill().unwrap();
    init.wait().unwrap();
    one();
}

/// A daemon keeps root; the main process becomes another user and ends.
fn gave_up_root() {
    if !is_root() {
        refused();
    }
    multiproc::process::set_grace_period(Duration::from_millis(50));
    let daemon = Process::new(sleep_long, ()).daemon(true).start().unwrap();
    say(&format!("daemon {}", daemon.pid()));
    become_another_user();
}

/// In a container, a daemon becomes one user, and the main process another and ends: neither may
/// signal the other.
fn both_change_user() {
    enter_container();
    multiproc::process::set_grace_period(Duration::from_millis(50));
    let (ready, changed) = multiproc::connection::one_way::<()>().map(|(sender, receiver)| (receiver, sender)).unwrap();
    let target = |changed: multiproc::connection::Sender<()>| {
        become_another_user();
        changed.send(()).unwrap();
        sleep_long();
    };
    let daemon = Process::new(target, (changed,)).daemon(true).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = daemon.start().unwrap();
    ready.recv().unwrap();
    say(&format!("daemon {}", daemon.pid()));
    // SAFETY: no memory is touched.
    assert_eq!(unsafe { (libc::setgid(OTHER - 1), libc::setuid(OTHER - 1)) }, (0, 0));
    say(&daemon.kill().unwrap_err().to_string());
}

fn gave_up_root_in_scope() {
    if !is_root() {
        refused();
    }
    multiproc::process::set_grace_period(Duration::from_millis(50));
    multiproc::scope(|scope| {
        scope.start(Process::new(sleep_long, ()).daemon(true))?;
        become_another_user();
        Ok::<_, Error>(())
    })
    .unwrap();
    say("the scope has ended");
    multiproc::scope(|scope| {
        scope.start(Process::new(sleep_long, ()).daemon(true))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    say("and another one");
}

fn gave_up_root_and_kills() {
    if !is_root() {
        refused();
    }
    let child = Process::new(sleep_long, ()).start().unwrap();
    // Without its output, so that the reader of this process's output doesn't wait for it.
    let free = Process::new(sleep_long, ()).outlive_parent(true).stdout(Stdio::null()).stderr(Stdio::null());
    let free = free.start().unwrap();
    say(&format!("free {}", free.pid()));
    become_another_user();
    say(&child.terminate().unwrap_err().to_string());
    child.kill().unwrap();
    say(&child.wait().unwrap().to_string());
    let begun = Instant::now();
    say(&free.kill().unwrap_err().to_string());
    assert!(begun.elapsed() < Duration::from_secs(60));
}

/// Makes a system call fail with `EPERM`, and starts a child.
fn refused_call(name: &str) {
    let number = match name {
        "close_range" => libc::SYS_close_range,
        "pidfd_open" => libc::SYS_pidfd_open,
        "clone3" => libc::SYS_clone3,
        "clone" => libc::SYS_clone,
        "memfd_create" => libc::SYS_memfd_create,
        "unshare" => libc::SYS_unshare,
        "none" => -1,
        other => panic!("no call {other}"),
    };
    let filter = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The system call number is the first word.
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the filter is valid and has the given length.
    unsafe {
        let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
        if !set {
            refused();
        }
    }
    one();
}

/// Changes to a root directory that has what the program needs of /usr and /lib, and also /proc if
/// `proc` is "proc".
fn bare_root(directory: &str, proc: &str) {
    let c = |path: String| CString::new(path).unwrap();
    // SAFETY: all paths are null-terminated; the process has one thread, and a mount namespace of
    // its own.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            refused();
        }
        assert_eq!(libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()), 0);
        for name in ["usr", "lib", "lib64", "tmp", if proc == "proc" { "proc" } else { "usr" }] {
            let (from, to) = (format!("/{name}"), format!("{directory}/{name}"));
            if !Path::new(&from).exists() {
                continue;
            }
            std::fs::create_dir_all(&to).unwrap();
            let flags = libc::MS_BIND | libc::MS_REC;
            assert_eq!(libc::mount(c(from).as_ptr(), c(to).as_ptr(), null(), flags, null()), 0, "{name}");
        }
        assert_eq!(libc::chroot(c(directory.to_owned()).as_ptr()), 0);
        assert_eq!(libc::chdir(c"/".as_ptr()), 0);
    }
    one();
    // Only this start needs /dev/null.
    match Process::new(|| 7, ()).stdout(Stdio::null()).start() {
        Ok(child) => say(&format!("value {:?}", child.join())),
        Err(error) => say(&format!("error {error}")),
    }
    close_stdin();
    one();
}

/// Closes descriptor 0 permanently.
fn close_stdin() {
    // SAFETY: the standard library only uses the number, and treats a closed stdin as empty.
    assert_eq!(unsafe { libc::close(0) }, 0);
}

/// Starts children while descriptor 0 is closed permanently, and the files of another thread get
/// its number for a moment each.
fn number_in_use() {
    close_stdin();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                drop(File::open("/dev/null").unwrap());
            }
        });
        for n in 0..100 {
            match Process::new(|n: i32| n, (n,)).start() {
                Ok(child) => assert_eq!(child.join().unwrap(), n),
                Err(error) => say(&format!("error {error}")),
            }
        }
        done.store(true, Relaxed);
    });
    say("started");
}

/// Descriptors 0 to 2 are close-on-exec here, but a child has them nevertheless.
fn close_on_exec() {
    let files = || [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string());
    for fd in 0..3 {
        // SAFETY: no memory is touched.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
    }
    let ours = files();
    for _ in 0..3 {
        let theirs = Process::new(files, ()).start().unwrap().join().unwrap();
        assert_eq!(theirs, ours);
        let nested = Process::new(|| Process::new(|| (), ()).start().unwrap().join(), ()).start().unwrap();
        nested.join().unwrap().unwrap();
    }
    say("as here");
}
