//! How many threads this process has, and which one is asking.

use std::io;

/// The number of threads of the calling process, itself included, as `/proc/self/task` lists them.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// The process's id as the kernel sees it now; never cached, so it is right after a fork too.
pub fn getpid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Names the calling thread; of a process's first thread this is the name that `ps` and `top` show. Cut at 15 bytes.
pub fn set_name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(bytes) {
        // Only a bad address can make it fail.
        let _ = rustix::thread::set_name(&name);
    }
}
