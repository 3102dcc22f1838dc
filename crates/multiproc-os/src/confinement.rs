//! The confinement of the calling thread, for comparison with that of the thread that created
//! another process: credentials, seccomp(2), landlock(7), namespaces(7), cgroups(7), root
//! directory.
//!
//! Most of these are attributes of a thread, not of a process, and are inherited by what the thread
//! clones or executes. A single read of `/proc/thread-self/status` tells nearly all of them; the
//! others are queried one by one. A Landlock domain can't be queried. But a thread in a domain may
//! not inspect a process outside that domain, and [`may_look_into`] tests for this.

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use crate::credentials::Credentials;

/// See capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;

/// The lines of `/proc/PID/status` that are compared; see proc_pid_status(5).
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

/// The confinement of a thread. Equal values mean that the threads have the same rights, as far as
/// rights can be read; see also [`may_tighten_unseen`](Confinement::may_tighten_unseen).
#[derive(Debug, Clone)]
pub struct Confinement {
    credentials: Told,
    /// `PR_GET_SECUREBITS`, without the bit that an exec clears.
    secure_bits: i32,
    /// `PR_GET_MDWE`.
    memory_deny: i32,
    session: i32,
    root: Root,
    /// The label of a security module that has labels, such as AppArmor or SELinux.
    label: Option<Vec<u8>>,
    control_groups: Option<Vec<u8>>,
    namespaces: Namespaces,
    has: Has,
}

/// Ids, groups, capabilities and seccomp mode.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The lines of `/proc/thread-self/status`.
    File(Vec<u8>),
    /// The results of system calls, when the file can't be read.
    Asked(Box<Credentials>),
}

/// What decides whether a thread can confine itself further in a way that can't be read afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Has {
    admin: bool,
    no_new_privileges: bool,
    filters: bool,
    /// The number of filters, if the kernel shows it.
    filter_count: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root {
    inode: Option<(u32, u32, u64)>,
    /// The id of the root's mount, which also identifies the mount namespace: each mount is in one
    /// mount namespace, and a copy of a namespace has mounts of its own. Since Linux 5.8.
    mount: Option<u64>,
}

/// The inode numbers of the namespaces, in the order of [`NAMES`].
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

/// Index in [`NAMES`] of the namespace that can't be opened until it has a process.
const PID_FOR_CHILDREN: usize = 3;

/// Index in [`NAMES`] of the namespace that owns the others.
const USER: usize = 6;

/// Index in [`NAMES`] of the namespace that the mount of the root directory usually identifies.
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
    /// Returns the confinement of the calling thread at this moment, and its umask, which is in the
    /// same file.
    ///
    /// A thread with `CAP_SYS_ADMIN` can enter another namespace at any time, so its namespaces are
    /// read on each call. A thread without it can do so only through a new user namespace, in which
    /// it has all capabilities at first. So for such a thread it is enough to read the namespaces
    /// once, and then only to check, with one read, that the user namespace is still the same.
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
            // 0 if the session began outside of this PID namespace.
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

    /// Returns whether the thread may have confined itself further without a difference that can be
    /// read: by a Landlock domain, or by another seccomp filter on kernels that don't count filters
    /// (before Linux 5.9). Both require `no_new_privs` or `CAP_SYS_ADMIN`. `may_look` is whether
    /// [`may_look_into`] can detect domains.
    pub fn may_tighten_unseen(&self, may_look: bool) -> bool {
        let unseen = !may_look || self.has.filters && self.has.filter_count.is_none();
        unseen && (self.has.admin || self.has.no_new_privileges)
    }

    /// Returns whether the thread has seccomp filters beyond those that all threads of this process
    /// have, that is, more than when [`note_start`] was called. Two threads with equal numbers of
    /// filters may have different ones.
    pub fn has_filters_of_its_own(&self) -> bool {
        self.has.filter_count.is_some_and(|count| count > FILTERS_AT_START.load(Relaxed))
    }

    /// Fills in the PID namespace of the thread's children, if it had no process when `self` was
    /// read and so could not be identified. `later` returns what the same thread reads once it has
    /// created a process.
    pub fn complete(&mut self, later: impl FnOnce() -> Confinement) {
        if self.namespaces[PID_FOR_CHILDREN].is_none() {
            self.namespaces[PID_FOR_CHILDREN] = later().namespaces[PID_FOR_CHILDREN];
        }
    }
}

/// The number of seccomp filters that this process had at its start.
static FILTERS_AT_START: AtomicU32 = AtomicU32::new(0);

/// Records the seccomp filters that this process has now. Must be called before it has a second
/// thread: then all threads have these filters, since a thread can only add filters.
pub fn note_start() {
    // SAFETY: it takes no pointers. A filter that kills the process for this call would have done
    // so before this point. Reading /proc would give the same answer, but takes longer.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) } == 0 {
        return;
    }
    let status = Directory::of_this_thread().read(c"status");
    let has = status.ok().and_then(|status| parse_status(&status)).map(|(_, has, _)| has);
    FILTERS_AT_START.store(has.and_then(|has| has.filter_count).unwrap_or(0), Relaxed);
}

/// Returns whether the calling thread may inspect the process `pid`, which must have the same user
/// and the same capabilities; for example, a process that this one has executed. The answer is
/// false if the thread has entered a Landlock domain or a user namespace that the process isn't in
/// (ptrace(2), "Ptrace access mode checking").
///
/// It is also false for a process with memory that no other process may read: a set-user-id
/// program, or a program with a file that may not be read.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn may_look_into(pid: i32) -> io::Result<bool> {
    let (mut head, mut len) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
    // get_robust_list(2) checks PTRACE_MODE_READ and nothing else. It is the least powerful call of
    // this kind, and containers allow it.
    // SAFETY: the kernel writes one pointer and one size.
    let asked = crate::cvt_long(unsafe { libc::syscall(libc::SYS_get_robust_list, pid, &raw mut head, &raw mut len) });
    match asked.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(true),
        Err((Some(libc::ESRCH), error)) => Err(error),
        // The access was refused, or a seccomp filter refused the call.
        Err(_) => Ok(rustix::fs::readlink(format!("/proc/{pid}/exe"), Vec::new()).is_ok()),
    }
}

/// `/proc/thread-self`, opened once for several files. `None` where it doesn't exist.
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

    /// Returns the number in a link such as `net:[4026531840]`.
    fn number(&self, name: &CStr) -> Option<u64> {
        let mut buffer = [0; 64];
        let length = rustix::fs::readlinkat_raw(self.0.as_ref()?, name, &mut buffer[..]).ok()?;
        let digits = buffer.get(..length)?.rsplit(|byte| *byte == b'[').next()?.strip_suffix(b"]")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// Reads all of a small file, usually with one system call. Files in /proc report no size, and a
/// reader learns that it has reached the end only by a read that returns nothing.
fn read_all(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let room = bytes.capacity() - bytes.len();
        let count = match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // The kernel generates these files in a single read if the buffer is large enough.
        if count == 0 || count < room / 2 {
            return Ok(bytes);
        }
        bytes.reserve(4096);
    }
}

/// Returns the lines to compare, the `Has` that follows from them, and the umask. `None` if a line
/// is missing that all kernels write.
fn parse_status(status: &[u8]) -> Option<(Vec<u8>, Has, Option<u32>)> {
    let mut lines = Vec::with_capacity(512);
    let mut umask = None;
    let (mut permitted, mut no_new_privileges, mut mode, mut count) = (None, None, None, None);
    for line in status.split(|byte| *byte == b'\n') {
        let value = |radix| {
            let text = std::str::from_utf8(line.split(|byte| *byte == b':').nth(1)?).ok()?;
            u64::from_str_radix(text.trim(), radix).ok()
        };
        // Skips most of the other lines cheaply.
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
        // A kernel without seccomp doesn't write the line.
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
        // Seccomp filters that predate statx(2) refuse it.
        Err(_) => {
            let stat = rustix::fs::stat(c"/").ok();
            let device = |stat: &rustix::fs::Stat| (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            let inode = stat.map(|stat| (device(&stat).0, device(&stat).1, stat.st_ino));
            Root { inode, mount: None }
        }
    }
}

/// Returns the label of the calling thread. Where no security module has labels, returns `None`,
/// and reads nothing after the first call.
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

/// Returns the namespaces of the calling thread. They are read again if the thread `may_enter`
/// others.
fn namespaces(thread: &Directory, may_enter: bool, mount_is_known: bool) -> Namespaces {
    thread_local! {
        /// The namespaces found when this thread could no longer enter others. A copy of the thread
        /// is in the same ones.
        static SETTLED: Cell<Option<Namespaces>> = const { Cell::new(None) };
    }
    if !may_enter
        && let Some(settled) = SETTLED.try_with(Cell::get).ok().flatten()
        && settled[USER] == thread.number(NAMES[USER])
    {
        return settled;
    }
    // The root directory's mount already identifies the mount namespace.
    let found = NAMES.map(|name| if mount_is_known && name == NAMES[MOUNT] { None } else { thread.number(name) });
    let _ = SETTLED.try_with(|settled| settled.set((!may_enter).then_some(found)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_in_another_thread() {
        let (first, umask) = Confinement::current();
        assert_eq!(first, Confinement::current().0);
        assert_eq!(first, std::thread::spawn(|| Confinement::current().0).join().unwrap());
        assert!(umask.is_some(), "since Linux 4.7");
        assert!(matches!(first.credentials, Told::File(_)));
        assert!(first.control_groups.is_some() && first.namespaces[0].is_some());
    }

    #[test]
    fn differs_after_a_drop_of_privileges() {
        // In a thread of its own, since these attributes belong to a thread.
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
                eprintln!("not shown: namespaces, since this process may not create one");
            }
        })
        .join()
        .unwrap();
        assert_eq!(same, Confinement::current().0);
    }

    #[test]
    fn status_of_all_kernels() {
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
    fn inspect_peer_with_same_rights() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(may_look_into(pid).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(may_look_into(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
