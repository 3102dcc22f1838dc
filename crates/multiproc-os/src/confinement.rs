//! How the calling thread is confined, to be compared with what another process was made with:
//! credentials, seccomp(2), landlock(7), namespaces(7), cgroups(7), root directory.
//!
//! Most of it is an attribute of a thread, not of a process, and is inherited by what that thread
//! clones or executes. One read of `/proc/thread-self/status` tells nearly all; what isn't there is
//! asked for by itself. Landlock tells nothing. But it lets no thread look into a process that is
//! outside the thread's own domain, and [`may_look_into`] tries to.

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use crate::credentials::Credentials;

/// See capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;

/// The lines of `/proc/PID/status` that count; see proc_pid_status(5).
const LINES: [&[u8]; 13] = [
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"CapInh:",
    b"CapPrm:",
    b"CapEff:",
    b"CapBnd:",
    b"CapAmb:",
    b"NoNewPrivs:",
    b"Seccomp:",
    b"Seccomp_filters:",
    b"Speculation_Store_Bypass:",
    b"SpeculationIndirectBranch:",
];

/// How a thread is confined. Two that are equal have the same rights, as far as they can be read;
/// see also [`may_tighten_unseen`](Confinement::may_tighten_unseen).
#[derive(Debug, Clone)]
pub struct Confinement {
    credentials: Told,
    /// `PR_GET_SECUREBITS`, without what an exec clears.
    secure_bits: i32,
    /// `PR_GET_MDWE`.
    memory_deny: i32,
    session: i32,
    root: Root,
    /// Of the security module that has labels, such as AppArmor or SELinux.
    label: Option<Vec<u8>>,
    control_groups: Option<Vec<u8>>,
    namespaces: Namespaces,
    has: Has,
}

/// Ids, groups, capabilities, seccomp.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The lines of the file.
    File(Vec<u8>),
    /// Without the file.
    Asked(Box<Credentials>),
}

/// What decides whether a thread can confine itself further in a way that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Has {
    admin: bool,
    no_new_privileges: bool,
    filters: bool,
    /// How many, where that is told.
    filter_count: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root {
    inode: Option<(u32, u32, u64)>,
    /// Each mount is in one mount namespace, and a copy of a namespace has mounts of its own. Linux
    /// 5.8.
    mount: Option<u64>,
}

/// The numbers of namespaces; see [`NAMES`].
type Namespaces = [Option<u64>; NAMES.len()];

const NAMES: [&CStr; 8] = [
    c"ns/cgroup",
    c"ns/ipc",
    c"ns/net",
    c"ns/pid_for_children",
    c"ns/time_for_children",
    c"ns/uts",
    c"ns/user",
    c"ns/mnt",
];

/// The place in [`NAMES`] of one that is not there until it has a process.
const PID_FOR_CHILDREN: usize = 3;

/// The place in [`NAMES`] of the one that owns the others.
const USER: usize = 6;

/// The place in [`NAMES`] of the one that the root directory tells of, as a rule.
const MOUNT: usize = 7;

impl PartialEq for Confinement {
    fn eq(&self, other: &Confinement) -> bool {
        let of = |it: &Confinement| (it.secure_bits, it.memory_deny, it.session, it.root, it.namespaces);
        of(self) == of(other)
            && self.credentials == other.credentials
            && self.control_groups == other.control_groups
            && self.label == other.label
    }
}

impl Confinement {
    /// That of the calling thread, now; and the umask, which is in the same file.
    ///
    /// A thread that has `CAP_SYS_ADMIN` can enter another namespace at any time, and its
    /// namespaces are looked at. One that hasn't can do so only by way of a new user namespace, in
    /// which it has all capabilities at first; so it is enough to look once, unless there is
    /// another user namespace than then, which costs one look.
    pub fn current() -> (Confinement, Option<u32>) {
        let thread = Directory::of_this_thread();
        let (credentials, has, umask) = match thread.read(c"status").ok().and_then(|status| parse_status(&status)) {
            Some((lines, has, umask)) => (Told::File(lines), has, umask),
            None => {
                let asked = Credentials::current();
                let has = Has {
                    admin: asked.permits(CAP_SYS_ADMIN),
                    no_new_privileges: asked.no_new_privileges,
                    filters: asked.seccomp_mode != 0,
                    filter_count: None,
                };
                (Told::Asked(Box::new(asked)), has, None)
            }
        };
        const KEEP_CAPS: i32 = 1 << 4;
        const PR_GET_MDWE: libc::c_int = 66;
        // SAFETY: these two take no pointers.
        let (secure_bits, memory_deny) =
            unsafe { (libc::prctl(libc::PR_GET_SECUREBITS), libc::prctl(PR_GET_MDWE, 0, 0, 0, 0)) };
        let root = root();
        let confinement = Confinement {
            credentials,
            secure_bits: secure_bits & !KEEP_CAPS,
            memory_deny,
            // Of a session that began outside of this PID namespace it is 0.
            // SAFETY: it takes no pointers.
            session: unsafe { libc::getsid(0) },
            root,
            label: label(&thread),
            control_groups: thread.read(c"cgroup").ok(),
            namespaces: namespaces(&thread, has.admin, root.mount.is_some()),
            has,
        };
        (confinement, umask)
    }

    /// Whether the thread can have entered a Landlock domain, or have added a filter where filters
    /// aren't counted (before Linux 5.9), without any difference to read: both take `no_new_privs`
    /// or `CAP_SYS_ADMIN`. `may_look` says whether [`may_look_into`] tells of domains.
    pub fn may_tighten_unseen(&self, may_look: bool) -> bool {
        let unseen = !may_look || self.has.filters && self.has.filter_count.is_none();
        unseen && (self.has.admin || self.has.no_new_privileges)
    }

    /// Whether the thread has seccomp filters beside those that all threads of this process have:
    /// more than there were when [`note_start`] was called. Another thread with as many may have
    /// others.
    pub fn has_filters_of_its_own(&self) -> bool {
        self.has.filter_count.is_some_and(|count| count > FILTERS_AT_START.load(Relaxed))
    }

    /// Takes what the PID namespace of the thread's children is called, if it had no process, and
    /// so no name, when this was made. `later` gives what the same thread reads once it has made a
    /// process.
    pub fn complete(&mut self, later: impl FnOnce() -> Confinement) {
        if self.namespaces[PID_FOR_CHILDREN].is_none() {
            self.namespaces[PID_FOR_CHILDREN] = later().namespaces[PID_FOR_CHILDREN];
        }
    }
}

/// How many seccomp filters this process had at its start.
static FILTERS_AT_START: AtomicU32 = AtomicU32::new(0);

/// To be called before this process has a second thread: its filters of now are those of all
/// threads, which can only add some.
pub fn note_start() {
    // SAFETY: it takes no pointers. With a filter that kills for this call, the process would not
    // have come this far: /proc tells the same, but takes longer.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) } == 0 {
        return;
    }
    let status = Directory::of_this_thread().read(c"status");
    let has = status.ok().and_then(|status| parse_status(&status)).map(|(_, has, _)| has);
    FILTERS_AT_START.store(has.and_then(|has| has.filter_count).unwrap_or(0), Relaxed);
}

/// Whether the calling thread may look into the process `pid` of the same user, with the same
/// capabilities: into one that it has executed, say. Not if it has entered a Landlock domain or a
/// user namespace that the process isn't in (ptrace(2), "Ptrace access mode checking").
///
/// It also isn't allowed into a process whose memory no other may read: a set-user-id
/// program, or one whose file may not be read.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn may_look_into(pid: i32) -> io::Result<bool> {
    let (mut head, mut len) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
    // It asks for PTRACE_MODE_READ, and for nothing else. The least of its kind, and containers
    // allow it. SAFETY: the kernel writes one pointer and one size.
    let asked = crate::cvt_long(unsafe { libc::syscall(libc::SYS_get_robust_list, pid, &raw mut head, &raw mut len) });
    match asked.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(true),
        Err((Some(libc::ESRCH), error)) => Err(error),
        // Not allowed; or a filter doesn't allow the call.
        Err(_) => Ok(rustix::fs::readlink(format!("/proc/{pid}/exe"), Vec::new()).is_ok()),
    }
}

/// `/proc/thread-self`; looked up once for several files. None where there is no such thing.
struct Directory(Option<OwnedFd>);

impl Directory {
    fn of_this_thread() -> Directory {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Directory(rustix::fs::open(c"/proc/thread-self", flags, Mode::empty()).ok())
    }

    fn read(&self, name: &CStr) -> io::Result<Vec<u8>> {
        let directory = self.0.as_ref().ok_or(io::ErrorKind::NotFound)?;
        read_all(&rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The number in a link as `net:[4026531840]`.
    fn number(&self, name: &CStr) -> Option<u64> {
        let mut buffer = [0; 64];
        let length = rustix::fs::readlinkat_raw(self.0.as_ref()?, name, &mut buffer[..]).ok()?;
        let digits = buffer.get(..length)?.rsplit(|byte| *byte == b'[').next()?.strip_suffix(b"]")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// Reads a small file whole, with one call as a rule: proc files have no size, and a reader can't
/// know that it has read all but by reading nothing.
fn read_all(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let room = bytes.capacity() - bytes.len();
        let count = match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // These files are made by one read if there is room for all.
        if count == 0 || count < room / 2 {
            return Ok(bytes);
        }
        bytes.reserve(4096);
    }
}

/// The lines that count, what follows from them, and the umask. None if one is missing that has
/// always been there.
fn parse_status(status: &[u8]) -> Option<(Vec<u8>, Has, Option<u32>)> {
    let mut lines = Vec::with_capacity(512);
    let mut umask = None;
    let (mut permitted, mut no_new_privileges, mut mode, mut count) = (None, None, None, None);
    for line in status.split(|byte| *byte == b'\n') {
        let value = |radix| {
            let text = std::str::from_utf8(line.split(|byte| *byte == b':').nth(1)?).ok()?;
            u64::from_str_radix(text.trim(), radix).ok()
        };
        // Most of the lines are others.
        if !matches!(line.first(), Some(b'U' | b'G' | b'C' | b'N' | b'S')) {
            continue;
        }
        if line.starts_with(b"Umask:") {
            umask = value(8).and_then(|umask| u32::try_from(umask).ok());
        } else if LINES.iter().any(|name| line.starts_with(name)) {
            lines.extend_from_slice(line);
            lines.push(b'\n');
            match line {
                _ if line.starts_with(b"CapPrm:") => permitted = value(16),
                _ if line.starts_with(b"NoNewPrivs:") => no_new_privileges = value(10),
                _ if line.starts_with(b"Seccomp:") => mode = value(10),
                _ if line.starts_with(b"Seccomp_filters:") => count = value(10),
                _ => {}
            }
        }
    }
    let has = Has {
        admin: permitted? & 1 << CAP_SYS_ADMIN != 0,
        no_new_privileges: no_new_privileges? != 0,
        // A kernel without it doesn't show it.
        filters: mode.unwrap_or(0) != 0,
        filter_count: count.and_then(|count| u32::try_from(count).ok()),
    };
    Some((lines, has, umask))
}

fn root() -> Root {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    match rustix::fs::statx(rustix::fs::CWD, c"/", AtFlags::empty(), wanted) {
        Ok(stat) => Root {
            inode: Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)),
            mount: (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id),
        },
        // Filters that are older than the call.
        Err(_) => {
            let stat = rustix::fs::stat(c"/").ok();
            let device = |stat: &rustix::fs::Stat| (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            let inode = stat.map(|stat| (device(&stat).0, device(&stat).1, stat.st_ino));
            Root { inode, mount: None }
        }
    }
}

/// None, and nothing is asked after the first time, where no security module has labels.
fn label(thread: &Directory) -> Option<Vec<u8>> {
    static NONE: AtomicBool = AtomicBool::new(false);
    if NONE.load(Relaxed) {
        return None;
    }
    let label = thread.read(c"attr/current");
    if matches!(&label, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
        NONE.store(true, Relaxed);
    }
    label.ok()
}

/// The namespaces of the calling thread. It can have changed if it `may_enter` others.
fn namespaces(thread: &Directory, may_enter: bool, mount_is_known: bool) -> Namespaces {
    thread_local! {
        /// What was found when this thread could not enter others any more. A copy of the thread is
        /// in the same.
        static SETTLED: Cell<Option<Namespaces>> = const { Cell::new(None) };
    }
    if !may_enter
        && let Some(settled) = SETTLED.try_with(Cell::get).ok().flatten()
        && settled[USER] == thread.number(NAMES[USER])
    {
        return settled;
    }
    // The mount that the root directory is on tells the last one.
    let found = NAMES.map(|name| if mount_is_known && name == NAMES[MOUNT] { None } else { thread.number(name) });
    let _ = SETTLED.try_with(|settled| settled.set((!may_enter).then_some(found)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_a_moment_later_and_in_another_thread() {
        let (first, umask) = Confinement::current();
        assert_eq!(first, Confinement::current().0);
        assert_eq!(first, std::thread::spawn(|| Confinement::current().0).join().unwrap());
        assert!(umask.is_some(), "since Linux 4.7");
        assert!(matches!(first.credentials, Told::File(_)));
        assert!(first.control_groups.is_some() && first.namespaces[0].is_some());
    }

    #[test]
    fn a_thread_that_gives_something_up_differs() {
        // Threads, since these are theirs alone.
        let before = Confinement::current().0;
        let same = before.clone();
        std::thread::spawn(move || {
            // SAFETY: it takes no pointers.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let after = Confinement::current().0;
            assert_ne!(before, after);
            assert!(after.has.no_new_privileges && after.may_tighten_unseen(false) && !after.may_tighten_unseen(true));
            // SAFETY: as above.
            if unsafe { libc::unshare(libc::CLONE_NEWUTS) } == 0 {
                assert_ne!(after, Confinement::current().0);
            } else {
                eprintln!("not shown: namespaces, for want of the right to make one");
            }
        })
        .join()
        .unwrap();
        assert_eq!(same, Confinement::current().0);
    }

    #[test]
    fn lines_of_all_kernels() {
        let old = b"Name:\tx\nUid:\t1\t1\t1\t1\nCapPrm:\t0000000000200000\nNoNewPrivs:\t0\n";
        let (lines, has, umask) = parse_status(old).unwrap();
        assert_eq!(lines, &old[8..]);
        assert_eq!((has, umask), (Has { admin: true, ..Has::default() }, None));
        let new = b"Umask:\t0027\nCapPrm:\t000001ffffdfffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let (_, has, umask) = parse_status(new).unwrap();
        let all = Has { admin: false, no_new_privileges: true, filters: true, filter_count: Some(3) };
        assert_eq!((has, umask), (all, Some(0o27)));
        assert!(parse_status(b"CapPrm:\tx\nNoNewPrivs:\t1\n").is_none());
        assert!(parse_status(b"").is_none());
    }

    #[test]
    fn a_process_of_the_same_rights_may_be_looked_into() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(may_look_into(pid).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(may_look_into(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
