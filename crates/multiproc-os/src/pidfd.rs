//! A process by descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2) with `P_PIDFD`.
//!
//! A descriptor is this process and no other, even when its id has been given to somebody else; it becomes readable when the
//! process has ended, so waiting for it is poll(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open};

use crate::cvt_long;
use crate::poll::poll_until;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code, 0 to 255.
    Exited(i32),
    /// This signal killed it.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Whether a core file was asked for.
        core_dumped: bool,
    },
}

impl End {
    /// From the status word of wait(2).
    fn from_wait_status(status: i32) -> End {
        match libc::WIFSIGNALED(status) {
            true => End::Signalled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) },
            false => End::Exited(libc::WEXITSTATUS(status)),
        }
    }
}

/// Opens the thread `id`, of this process: the descriptor becomes readable when the thread ends.
/// Linux 6.9 and later.
///
/// # Errors
/// `EINVAL` on older kernels; `ESRCH` when there is none; `EMFILE`.
pub fn open_thread(id: i32) -> io::Result<OwnedFd> {
    /// `PIDFD_THREAD` of linux/pidfd.h.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let id = Pid::from_raw(id.max(0)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    crate::fd_passing::above_stdio(pidfd_open(id, THREAD)?)
}

/// What a process had used when it ended, its own waited-for children included. See getrusage(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The largest resident set, in bytes.
    pub max_rss: u64,
    /// Time in user mode.
    pub user_time: Duration,
    /// Time in the kernel.
    pub system_time: Duration,
}

/// Opens the process `pid`, close-on-exec.
///
/// # Errors
/// `ESRCH` when there is none; `EMFILE`.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // A negative number is no pid, and rustix will not have one.
    let pid = Pid::from_raw(pid.max(0)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => crate::fd_passing::above_stdio(pidfd),
        // The kernel itself needs no right for it, and has it since 5.3.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "pidfd_open(2) is refused, as by the seccomp profile of an old container runtime; processes can't be waited for without it",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Opens the process `pid`, which this one has just made; none if it is gone already, reaped by somebody else in this program. By then its
/// id may be another's, so what was opened is looked at.
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
/// `ESRCH` when it has been reaped; `EPERM`; `EINVAL` for no such signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the info is null, as allowed; no memory is touched.
    cvt_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) }).map(drop)
}

/// Waits until one of `fds` is readable or closed, or `deadline` has passed. Says which are, in the order given.
///
/// # Errors
/// As poll(2); interruptions by signals are not among them.
pub fn wait_any<const N: usize>(fds: [&dyn AsFd; N], deadline: Option<Instant>) -> io::Result<[bool; N]> {
    let borrowed = fds.map(|fd| fd.as_fd());
    let mut polled = [const { None }; N];
    for (slot, fd) in polled.iter_mut().zip(&borrowed) {
        *slot = Some(PollFd::new(fd, PollFlags::IN));
    }
    let mut polled = polled.map(|fd| fd.expect("every slot was filled"));
    poll_until(&mut polled, deadline)?;
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// Takes the status of the process if it has ended, and lets the kernel forget it. None while it runs.
///
/// # Errors
/// `ECHILD` when somebody else has taken the status (a wait for any child elsewhere in the program, or `SIGCHLD` ignored); see
/// [`end_of_reaped`].
pub fn reap(pidfd: impl AsFd) -> io::Result<Option<(End, Usage)>> {
    wait_id(pidfd, libc::WNOHANG)
}

/// As [`reap`], for a process that has ended, as its descriptor says. While somebody traces it, its status is the tracer's to take first, and
/// that is waited for.
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
        // The C library's waitid has no place for the usage; the system call has.
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
    // SAFETY: zeroed at first and filled in by the kernel; all-zero bytes are a value of both types.
    let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
    // SAFETY: waitid fills in these fields of the union, or leaves them zero when there was nothing to report.
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

/// Waits until the status of a child that has ended can be taken, or has been; false if `deadline`
/// passes before. That is at once, unless a debugger traces the child: then the status is the
/// debugger's first, see "Death under ptrace" in ptrace(2).
///
/// Only SIGCHLD tells of that moment. So with a deadline it is looked for every 10 ms.
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
        // SAFETY: zeroed at first, and filled in by the kernel or left so; the pid is in it in both
        // cases.
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

/// Whether the process is a child of this one whose status can still be taken.
fn is_child(pidfd: impl AsFd) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the structure is ours and as large as the kernel expects; WNOWAIT leaves the status where it is.
    unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_fd().as_raw_fd() as libc::id_t, info.as_mut_ptr(), options) == 0 }
}

/// Kills and reaps a child that can't be opened, as at the limit of open files. Nothing happens if `pid` is no child of this process, or has
/// been reaped.
pub fn kill_unopened_child(pid: i32) {
    let Some(child) = Pid::from_raw(pid) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    // Until it is reaped, its id is nobody else's.
    if rustix::process::waitid(WaitId::Pid(child), options).is_ok() {
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED));
    }
}

/// How a process that has ended did so, after something else has taken its status:
/// `PIDFD_GET_INFO`, Linux 6.15 and later. None when the kernel doesn't know, or not within
/// `patience`.
///
/// The kernel puts the status down when the process is reaped, which takes a moment: the thread
/// that reaps it, or the process itself where the kernel does, is in the middle of a system call,
/// and may not be running. So for a process that is being reaped for certain the patience may be
/// long.
pub fn end_of_reaped(pidfd: impl AsFd, patience: Duration) -> Option<End> {
    /// `struct pidfd_info`, as far as version 0 goes.
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
        // SAFETY: the request's number holds the size of the structure, and the kernel writes no further.
        let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        if result == -1 || info.mask & PIDFD_INFO_EXIT != 0 {
            return (result == 0).then(|| End::from_wait_status(info.exit_code));
        }
        // Once it has been reaped, the descriptor is hung up.
        let fd = pidfd.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::empty())];
        if poll_until(&mut fds, deadline).is_err() || fds[0].revents().is_empty() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(mut command: std::process::Command) -> (OwnedFd, std::process::Child) {
        let child = command.spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert_eq!(wait_any([&fd], None).unwrap(), [true]);
        (fd, child)
    }

    #[test]
    fn exit_code_and_signal_are_told_apart() {
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
    fn a_status_that_somebody_else_took_is_known_to_the_kernel_or_unknown() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exit 9"]);
        let (fd, mut child) = ended(command);
        child.wait().unwrap();
        assert_eq!(reap(&fd).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert!(matches!(end_of_reaped(&fd, Duration::ZERO), Some(End::Exited(9)) | None));
    }

    #[test]
    fn what_is_no_pid_is_no_process() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_not_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert_eq!(wait_any([&fd], Some(Instant::now())).unwrap(), [false]);
        assert_eq!(reap(&fd).unwrap(), None);
        send_signal(&fd, libc::SIGKILL).unwrap();
        assert_eq!(wait_any([&fd], None).unwrap(), [true]);
        child.wait().unwrap();
        assert!(send_signal(&fd, libc::SIGKILL).is_err());
    }
}
