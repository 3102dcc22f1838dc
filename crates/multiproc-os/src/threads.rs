//! How many threads this process has, which one is asking, and what it is bothered with.

use std::io;

/// The number of threads of the calling process, itself included, as `/proc/self/task` lists them.
/// Where `/proc` is not mounted, the kernel can still be asked whether there is one alone.
///
/// # Errors
/// When `/proc` is not mounted, and there are several, or a sandbox refuses the question.
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

/// Whether this process has one thread, the calling one, and shares its memory with no other
/// process. With these flags unshare(2) changes nothing, and fails if it has.
fn is_alone() -> bool {
    // SAFETY: nothing is changed, as said.
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

/// The threads of this process by id and name, the calling one first.
///
/// # Errors
/// As [`count`].
pub fn list() -> io::Result<Vec<(i32, String)>> {
    let this = gettid();
    let mut list: Vec<(i32, String)> = std::fs::read_dir("/proc/self/task")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // One that has just ended has no name any more, but was there when the folder was read.
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
        })
        .collect();
    list.sort_by_key(|(id, _)| (*id != this, *id));
    Ok(list)
}

/// The process's id as the kernel sees it now; never cached, so it is right after a fork too.
pub fn getpid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Whether the calling thread is the one that the process began with.
pub fn is_main() -> bool {
    gettid() == getpid()
}

/// The id of this process's parent; 0 if that is in another PID namespace.
pub fn getppid() -> i32 {
    // SAFETY: it returns a number.
    unsafe { libc::getppid() }
}

/// The calling thread's id, which no other thread of the system has at the same time.
pub fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether there is a thread with this id, in any process.
pub fn exists(id: i32) -> bool {
    // Those of other users are there too, though they may not be signalled.
    let Some(id) = rustix::process::Pid::from_raw(id.max(0)) else { return false };
    rustix::process::test_kill_process(id) != Err(rustix::io::Errno::SRCH)
}

/// What `/proc` says of a thread: see [`seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The process that it is of.
    pub process: i32,
    /// The letter of its state, proc_pid_status(5): `T` and `t` are stopped ones, by a signal and
    /// by a debugger.
    pub state: u8,
}

impl Seen {
    /// Whether it is stopped.
    pub fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Whether it runs, or would if there were a processor for it.
    pub fn is_running(self) -> bool {
        self.state == b'R'
    }
}

/// Looks at a thread of any process. None where `/proc` doesn't tell.
pub fn seen(id: i32) -> Option<Seen> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let state = *field("State:")?.as_bytes().first()?;
    Some(Seen { process: field("Tgid:")?.parse().ok()?, state })
}

/// Whether there may be a thread with this id that has the memory at `address` too, which the calling process has mapped from a file. True where `/proc` doesn't tell.
pub fn may_share(id: i32, address: *const u8) -> bool {
    if !exists(id) {
        return false;
    }
    // That of another PID namespace tells of strangers.
    if std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() != getpid().to_string().as_str()) {
        return true;
    }
    let Ok(ours) = std::fs::read_to_string("/proc/self/maps") else { return true };
    let Some(file) = ours.lines().find(|line| spans(line, address.addr())).and_then(mapped_file) else { return true };
    match std::fs::read_to_string(format!("/proc/{id}/maps")) {
        Ok(theirs) => theirs.lines().any(|line| mapped_file(line) == Some(file)),
        // A thread of the kernel, or one that has ended by now, has no memory. One that lives may be hidden: proc(5), hidepid.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => exists(id),
        Err(_) => true,
    }
}

/// Whether `line` of a `maps` file, proc_pid_maps(5), is that of the memory at `address`.
fn spans(line: &str, address: usize) -> bool {
    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
    let Some((begin, end)) = range else { return false };
    let number = |digits| usize::from_str_radix(digits, 16);
    matches!((number(begin), number(end)), (Ok(begin), Ok(end)) if (begin..end).contains(&address))
}

/// The device and the inode of the file that is mapped there. None for memory without a file.
fn mapped_file(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (device, inode) = (fields.next()?, fields.next()?);
    (inode != "0").then_some((device, inode))
}

/// Names the calling thread; of a process's first thread this is the name that `ps` and `top` show. Cut at 15 bytes.
pub fn set_name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(bytes) {
        // Only a bad address can make it fail.
        let _ = rustix::thread::set_name(&name);
    }
}

/// How many processors the machine has that are online; 1 if it doesn't say. See sysconf(3).
pub fn processors() -> usize {
    // SAFETY: no memory is touched.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_memory::{Mapping, SharedFile};

    #[test]
    fn who_has_not_mapped_a_file_does_not_share_it() {
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
            // SAFETY: no memory is touched.
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
        // Nobody knows where such memory came from.
        assert!(may_share(1, std::ptr::from_ref(&0_u8)));
    }
}
