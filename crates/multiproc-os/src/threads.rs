//! How many threads this process has, which one is asking, and what it is bothered with.

use std::io;

/// The number of threads of the calling process, itself included, as `/proc/self/task` lists them.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
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
