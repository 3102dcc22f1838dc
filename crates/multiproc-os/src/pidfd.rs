//! Processes referred to by a descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2) with
//! `P_PIDFD`.
//!
//! A pidfd refers to one process for good, even after the process's id has been reused. It becomes
//! readable when the process has ended: [`poll::wait_readable`](crate::poll::wait_readable) waits
//! for that.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open};

use crate::cvt_long;
use crate::poll::wait_hung_up;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code, 0 to 255.
    Exited(i32),
    /// This signal killed it.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel reports a core dump.
        core_dumped: bool,
    },
}

impl End {
    /// Converts the status word of wait(2).
    fn from_wait_status(status: i32) -> End {
        match libc::WIFSIGNALED(status) {
            true => End::Signalled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) },
            false => End::Exited(libc::WEXITSTATUS(status)),
        }
    }
}

/// Opens the thread `id` of this process: the descriptor becomes readable when the thread ends.
/// Needs Linux 6.9.
///
/// # Errors
/// `EINVAL` on older kernels; `ESRCH` when there is no such thread; `EMFILE`.
pub fn open_thread(id: i32) -> io::Result<OwnedFd> {
    /// `PIDFD_THREAD` of linux/pidfd.h.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let id = Pid::from_raw(id.max(0)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    crate::fd_passing::above_stdio(pidfd_open(id, THREAD)?)
}

/// The resources that a process had used when it ended, including those of children that it waited
/// for. See getrusage(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The largest resident set, in bytes.
    pub max_rss: u64,
    /// Time in user mode.
    pub user_time: Duration,
    /// Time in the kernel.
    pub system_time: Duration,
}

/// Opens the process `pid`; the descriptor is close-on-exec.
///
/// # Errors
/// `ESRCH` when there is no such process; `EMFILE`.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // A negative number is not a pid, and rustix doesn't accept one.
    let pid = Pid::from_raw(pid.max(0)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => crate::fd_passing::above_stdio(pidfd),
        // The kernel requires no privilege for it, and has the call since Linux 5.3.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "pidfd_open(2) is refused, as by the seccomp profile of an old container runtime; processes can't be waited for without it",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Opens the process `pid`, which this process has just made. Returns None if another part of this
/// program has reaped it already: its id may have been reused by then, so the opened process is
/// checked to be a child.
///
/// # Errors
/// `EMFILE`.
pub fn open_child(pid: i32) -> io::Result<Option<OwnedFd>> {
    match open(pid) {
        Ok(pidfd) => Ok(is_child(&pidfd).then_some(pidfd)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends `signal` to the process.
///
/// # Errors
/// `ESRCH` when the process has been reaped; `EPERM`; `EINVAL` if `signal` is not a signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null info is allowed, and no memory is touched.
    cvt_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) }).map(drop)
}

/// Takes the status of the process if it has ended, which lets the kernel discard it. None while it
/// runs.
///
/// # Errors
/// `ECHILD` when the status was taken elsewhere in the program (by a wait for any child), or
/// `SIGCHLD` is ignored; see [`end_of_reaped`].
pub fn reap(pidfd: impl AsFd) -> io::Result<Option<(End, Usage)>> {
    wait_id(pidfd, libc::WNOHANG)
}

/// As [`reap`], for a process that has ended according to its descriptor. If a debugger traces the
/// process, the tracer takes the status first, and this call waits for that.
///
/// # Errors
/// As [`reap`].
pub fn reap_ended(pidfd: impl AsFd) -> io::Result<Option<(End, Usage)>> {
    wait_id(pidfd, 0)
}

fn wait_id(pidfd: impl AsFd, options: libc::c_int) -> io::Result<Option<(End, Usage)>> {
    let fd = pidfd.as_fd().as_raw_fd();
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = options | libc::WEXITED | libc::__WALL;
    loop {
        // The C library's waitid has no parameter for the usage; the system call has one.
        // SAFETY: both structures are ours and as large as the kernel expects.
        let result = cvt_long(unsafe {
            libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, info.as_mut_ptr(), options, usage.as_mut_ptr())
        });
        match result {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: zeroed first, then filled in by the kernel; all-zero bytes are a value of both types.
    let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
    // SAFETY: waitid fills in these fields of the union, or leaves them zero when there is nothing
    // to report.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let end = match info.si_code {
        libc::CLD_EXITED => End::Exited(status),
        code => End::Signalled { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let usage = Usage {
        max_rss: usage.ru_maxrss as u64 * 1024,
        user_time: time(usage.ru_utime),
        system_time: time(usage.ru_stime),
    };
    Ok(Some((end, usage)))
}

/// Waits until the status of a child that has ended can be taken, or has been taken; returns false
/// if `deadline` passes first. It can be taken at once unless a debugger traces the child: the
/// debugger takes the status first then, see "Death under ptrace" in ptrace(2).
///
/// Only SIGCHLD announces that moment, so with a deadline the status is checked every 10 ms.
///
/// # Errors
/// None is expected.
pub fn wait_for_status(pidfd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    const STEP: Duration = Duration::from_millis(10);
    let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let fd = pidfd.as_fd().as_raw_fd() as libc::id_t;
        let options = if deadline.is_some() { options | libc::WNOHANG } else { options };
        // SAFETY: the structure is ours and as large as the kernel expects; WNOWAIT leaves the
        // status where it is.
        match crate::cvt(unsafe { libc::waitid(libc::P_PIDFD, fd, info.as_mut_ptr(), options) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(true),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        // SAFETY: zeroed first, and filled in by the kernel or left zero; the field holds the pid
        // in both cases.
        if unsafe { info.assume_init().si_pid() } != 0 {
            return Ok(true);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Ok(false),
            Some(left) => std::thread::sleep(left.min(STEP)),
            None => {}
        }
    }
}

/// Returns whether the process is a child of this one with a status that can still be taken.
fn is_child(pidfd: impl AsFd) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the structure is ours and as large as the kernel expects; WNOWAIT leaves the status
    // in place.
    unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_fd().as_raw_fd() as libc::id_t, info.as_mut_ptr(), options) == 0 }
}

/// Kills and reaps a child that can't be opened, for example at the limit of open files. Does
/// nothing if `pid` is not a child of this process, or has been reaped.
pub fn kill_unopened_child(pid: i32) {
    let Some(child) = Pid::from_raw(pid) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    // Its id can't be reused until it is reaped.
    if rustix::process::waitid(WaitId::Pid(child), options).is_ok() {
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED));
    }
}

/// Returns how an ended process ended after something else has taken its status: `PIDFD_GET_INFO`,
/// Linux 6.15 and later. None when the kernel doesn't know, or not within `patience`.
///
/// The kernel records the status when the process is reaped, which takes a moment: the reaping
/// thread, or the process itself where the kernel reaps it, is in the middle of a system call and
/// may not be running. So for a process that is certainly being reaped, `patience` may be long.
pub fn end_of_reaped(pidfd: impl AsFd, patience: Duration) -> Option<End> {
    /// `struct pidfd_info`, the fields of version 0.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup_id: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::Ioctl =
        (3 << 30 | (size_of::<PidfdInfo>() as u32) << 16 | 0xFF << 8 | 11) as libc::Ioctl;

    let deadline = Instant::now().checked_add(patience);
    loop {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the request's number holds the size of the structure, and the kernel writes at
        // most that.
        let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        if result == -1 || info.mask & PIDFD_INFO_EXIT != 0 {
            return (result == 0).then(|| End::from_wait_status(info.exit_code));
        }
        // The descriptor hangs up once the process has been reaped.
        if !wait_hung_up(&pidfd, deadline).unwrap_or(false) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::wait_readable;

    fn ended(mut command: std::process::Command) -> (OwnedFd, std::process::Child) {
        let child = command.spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert!(wait_readable(&fd, None).unwrap());
        (fd, child)
    }

    #[test]
    fn exit_code_and_signal() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exit 7"]);
        let (fd, _child) = ended(command);
        let (end, usage) = reap(&fd).unwrap().unwrap();
        assert_eq!(end, End::Exited(7));
        assert!(usage.max_rss > 0);

        let mut command = std::process::Command::new("sh");
        command.args(["-c", "kill -TERM $$"]);
        let (fd, _child) = ended(command);
        assert_eq!(reap(&fd).unwrap().unwrap().0, End::Signalled { signal: libc::SIGTERM, core_dumped: false });
    }

    #[test]
    fn reaped_elsewhere() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exit 9"]);
        let (fd, mut child) = ended(command);
        child.wait().unwrap();
        assert_eq!(reap(&fd).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert!(matches!(end_of_reaped(&fd, Duration::ZERO), Some(End::Exited(9)) | None));
    }

    #[test]
    fn invalid_pid() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }

    #[test]
    fn expired_deadline() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert!(!wait_readable(&fd, Some(Instant::now())).unwrap());
        assert_eq!(reap(&fd).unwrap(), None);
        send_signal(&fd, libc::SIGKILL).unwrap();
        assert!(wait_readable(&fd, None).unwrap());
        child.wait().unwrap();
        assert!(send_signal(&fd, libc::SIGKILL).is_err());
    }
}
