//! The few system calls that the standard library doesn't wrap.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Reads CLOCK_MONOTONIC, which is the same clock in all processes. [`Instant`](std::time::Instant)
/// reads it too, but can't be sent to another process.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to the given address.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// As [`monotonic`], in nanoseconds.
pub fn nanoseconds() -> u64 {
    monotonic().as_nanos() as u64
}

/// A zeroed memory file of `length` bytes.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn memory_file(length: usize) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = cvt(unsafe { libc::memfd_create(c"multiproc-bench".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and nothing else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length as u64)?;
    Ok(file)
}

/// Maps the beginning of a file, shared; it is never unmapped. Without a file, maps fresh zeroed
/// memory, which this process shares with all fork copies that are made of it from now on.
///
/// # Errors
/// Those of mmap(2).
pub fn map_shared(file: Option<&File>, length: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (anonymous, fd) = file.map_or((libc::MAP_ANONYMOUS, -1), |file| (0, file.as_raw_fd()));
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE | anonymous;
    // SAFETY: this creates a fresh mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("the kernel mapped memory at address 0"))
}

/// A pair of connected SOCK_SEQPACKET sockets, close-on-exec.
///
/// # Errors
/// Those of socketpair(2).
pub fn packet_pair() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two descriptors to the given array.
    cvt(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both are open, and nothing else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// An eventfd(2), close-on-exec, with the initial value `count`.
///
/// # Errors
/// Those of eventfd(2).
pub fn event_fd(count: u32, flags: libc::c_int) -> io::Result<File> {
    // SAFETY: no memory is touched.
    let fd = cvt(unsafe { libc::eventfd(count, flags | libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Sleeps while `word` is `expected`, see futex(2); may wake spuriously. The word may be shared
/// with other processes.
pub fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the kernel reads the word, which outlives the call. There is no timeout.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, std::ptr::null::<u8>()) };
}

/// Wakes up to `count` threads that sleep on `word`.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: the address is only a key; nothing is read or written there.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// The kernel's id of this thread.
pub fn thread_id() -> i32 {
    // SAFETY: gettid(2) has no preconditions.
    unsafe { libc::gettid() }
}

/// Pins this thread to one of the processors that it may use, the same one for the same `index`.
///
/// # Errors
/// Those of sched_getaffinity(2) and sched_setaffinity(2).
pub fn keep_to_processor(index: usize) -> io::Result<()> {
    // SAFETY: a set of processors is a plain bit field, for which zero is valid. The kernel writes
    // one to the given address, and reads one from there.
    unsafe {
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        cvt(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut may))?;
        let processors = (0..libc::CPU_SETSIZE as usize).filter(|processor| libc::CPU_ISSET(*processor, &may));
        let Some(processor) = processors.cycle().nth(index) else { return Ok(()) };
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut one);
        cvt(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one)).map(drop)
    }
}

/// Makes the process that `command` will start end with the thread that starts it, or after
/// `seconds`.
pub fn keep_short(command: &mut Command, seconds: u32) {
    // SAFETY: the closure only makes two system calls.
    unsafe {
        command.pre_exec(move || {
            cvt(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // Both settings survive execve(2).
            libc::alarm(seconds);
            Ok(())
        })
    };
}

/// Converts the -1 of a C function to the error in `errno`.
///
/// # Errors
/// When `result` is -1.
pub fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
