//! The threads of this process and of others: their number, ids, names and states, as `/proc` shows
//! them.

use std::io;

/// The number of threads of the calling process, including the caller, as listed in
/// `/proc/self/task`. Where `/proc` is not mounted, the kernel can only tell whether there is
/// exactly one.
///
/// # Errors
/// When `/proc` is not mounted, and there are several threads or a sandbox refuses the system call.
pub fn count() -> io::Result<usize> {
    match std::fs::read_dir("/proc/self/task") {
        Ok(tasks) => Ok(tasks.count()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_alone() => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(io::Error::new(
            error.kind(),
            "/proc is not mounted, and without it threads can't be counted unless there is just one. Mount it \
             (mount -t proc proc /proc), in a new root directory too",
        )),
        Err(error) => Err(error),
    }
}

/// As [`count`], without the threads that have run their last instruction of the program. The
/// kernel lists a thread for a moment after it has been joined.
///
/// # Errors
/// As [`count`].
pub fn count_running() -> io::Result<usize> {
    match count()? {
        1 => Ok(1),
        _ => Ok(ids()?.into_iter().filter(|id| !is_exiting(*id)).count()),
    }
}

/// Whether a thread of this process is past its last instruction, or gone: `PF_EXITING`, in the
/// flags of proc_pid_stat(5).
fn is_exiting(id: i32) -> bool {
    const EXITING: u32 = 4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")) else { return true };
    // The name, in parentheses, may contain anything.
    let flags = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & EXITING != 0)
}

/// Whether the calling thread is the only one of this process, and the process shares its memory
/// with no other. With these flags unshare(2) changes nothing, and fails if there are others.
fn is_alone() -> bool {
    // SAFETY: the call changes nothing, as described above.
    unsafe { libc::unshare(libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) == 0 }
}

/// The ids of the threads of this process.
///
/// # Errors
/// As [`count`].
pub fn ids() -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc/self/task")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The ids and names of the threads of this process, the calling thread first.
///
/// # Errors
/// As [`count`].
pub fn list() -> io::Result<Vec<(i32, String)>> {
    let this = gettid();
    let mut list: Vec<(i32, String)> = std::fs::read_dir("/proc/self/task")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // A thread that has just ended has no name any more, but is in the directory listing.
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
        })
        .collect();
    list.sort_by_key(|(id, _)| (*id != this, *id));
    Ok(list)
}

/// The id of this process, asked from the kernel each time, so it is right after a fork too.
pub fn getpid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Whether the calling thread is the process's first thread.
pub fn is_main() -> bool {
    gettid() == getpid()
}

/// The id of this process's parent; 0 if the parent is in another PID namespace.
pub fn getppid() -> i32 {
    // SAFETY: it only returns a number.
    unsafe { libc::getppid() }
}

/// The calling thread's id, which is unique in the system while the thread lives.
pub fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether a thread with this id exists, in any process.
pub fn exists(id: i32) -> bool {
    // A thread of another user exists too, even if this process may not signal it.
    let Some(id) = rustix::process::Pid::from_raw(id.max(0)) else { return false };
    rustix::process::test_kill_process(id) != Err(rustix::io::Errno::SRCH)
}

/// The state of a thread according to `/proc`: see [`seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The id of the thread's process.
    pub process: i32,
    /// The letter of the thread's state, proc_pid_status(5): `T` is stopped by a signal, `t` by a
    /// debugger.
    pub state: u8,
}

impl Seen {
    /// Whether the thread is stopped.
    pub fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Whether the thread runs, or is ready to run.
    pub fn is_running(self) -> bool {
        self.state == b'R'
    }
}

/// Reads the state of a thread of any process. None if `/proc` doesn't show it.
pub fn seen(id: i32) -> Option<Seen> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let state = *field("State:")?.as_bytes().first()?;
    Some(Seen { process: field("Tgid:")?.parse().ok()?, state })
}

/// Whether a thread with this id may exist and share the memory at `address`, which the calling
/// process has mapped from a file. True if `/proc` doesn't tell.
pub fn may_share(id: i32, address: *const u8) -> bool {
    if !exists(id) {
        return false;
    }
    // A `/proc` mounted for another PID namespace shows other processes under these ids.
    if std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() != getpid().to_string().as_str()) {
        return true;
    }
    let Ok(ours) = std::fs::read_to_string("/proc/self/maps") else { return true };
    let Some(file) = ours.lines().find(|line| spans(line, address.addr())).and_then(mapped_file) else { return true };
    match std::fs::read_to_string(format!("/proc/{id}/maps")) {
        Ok(theirs) => theirs.lines().any(|line| mapped_file(line) == Some(file)),
        // A kernel thread, or a thread that has just ended, has no memory. A living thread may be
        // hidden: proc(5), hidepid.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => exists(id),
        Err(_) => true,
    }
}

/// Whether `line` of a `maps` file, proc_pid_maps(5), describes the memory at `address`.
fn spans(line: &str, address: usize) -> bool {
    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
    let Some((begin, end)) = range else { return false };
    let number = |digits| usize::from_str_radix(digits, 16);
    matches!((number(begin), number(end)), (Ok(begin), Ok(end)) if (begin..end).contains(&address))
}

/// The device and inode of the mapped file. None for memory without a file.
fn mapped_file(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (device, inode) = (fields.next()?, fields.next()?);
    (inode != "0").then_some((device, inode))
}

/// Names the calling thread, cutting the name at 15 bytes; `ps` and `top` show the name of a
/// process's first thread.
pub fn set_name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(bytes) {
        // It fails only for a bad address.
        let _ = rustix::thread::set_name(&name);
    }
}

/// The number of online processors; 1 if the system doesn't tell. See sysconf(3).
pub fn processors() -> usize {
    // SAFETY: it touches no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_threads_do_not_count() {
        let is_alone = || std::thread::spawn(|| ()).join().is_ok() && count_running().is_ok_and(|running| running == 1);
        // In a copy, where other tests have no threads.
        assert_eq!(crate::copy::exit_code_of(|| i32::from(!(0..200).all(|_| is_alone()))), 0);
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || told.recv());
        assert!(count_running().unwrap() >= 2);
        drop(tell);
        assert!(thread.join().unwrap().is_err());
    }
    use crate::shared_memory::{Mapping, SharedFile};

    #[test]
    fn shares_mapping() {
        let file = SharedFile::create("multiproc-test", 4096).unwrap();
        let mapping = Mapping::new(&file, 0, 4096).unwrap();
        let address = mapping.start().as_ptr().cast_const();
        assert!(may_share(gettid(), address));
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = sleeper.id() as i32;
        assert!(exists(id));
        assert!(!may_share(id, address));
        assert_eq!(seen(gettid()).map(|seen| (seen.process, seen.is_running())), Some((getpid(), true)));
        let signal = |number| {
            // SAFETY: it touches no memory.
            assert_eq!(unsafe { libc::kill(id, number) }, 0);
            let mut status = 0;
            // SAFETY: the status is ours.
            assert_eq!(unsafe { libc::waitpid(id, &raw mut status, libc::WUNTRACED | libc::WCONTINUED) }, id);
        };
        signal(libc::SIGSTOP);
        assert!(seen(id).unwrap().is_stopped());
        signal(libc::SIGCONT);
        assert!(!seen(id).unwrap().is_stopped());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(seen(id), None);
        assert!(!may_share(id, address));
        // Memory without a file can't be compared.
        assert!(may_share(1, std::ptr::from_ref(&0_u8)));
    }
}
