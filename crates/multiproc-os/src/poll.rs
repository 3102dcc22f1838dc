//! A single wait for a few descriptors, until a deadline: poll(2), and select(2) where poll refuses
//! the number of descriptors.
//!
//! A set that is waited for again and again is an [`Epoll`](crate::epoll::Epoll).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::event::{FdSetElement, FdSetIter, Timespec};
pub(crate) use rustix::event::{PollFd, PollFlags};
use rustix::event::{fd_set_insert, fd_set_num_elements, poll, select};

/// Waits until `fd` is readable or closed; returns false if `deadline` passes first.
///
/// # Errors
/// Those of poll(2), except interruptions by signals.
pub fn wait_readable(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    wait_for(fd, PollFlags::IN, deadline)
}

/// Waits until `fd` is writable or closed; returns false if `deadline` passes first.
///
/// # Errors
/// Those of poll(2), except interruptions by signals.
pub fn wait_writable(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    wait_for(fd, PollFlags::OUT, deadline)
}

/// Waits until the other end of the socket or pipe `fd` is closed; returns false if `deadline`
/// passes first.
///
/// # Errors
/// Those of poll(2), except interruptions by signals.
pub fn wait_hung_up(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    // poll(2) always reports a hang-up.
    wait_for(fd, PollFlags::empty(), deadline)
}

/// Waits until one of `fds` is readable or closed, or `deadline` has passed. Returns which of them
/// are, in the order of `fds`. Doesn't allocate.
///
/// # Errors
/// Those of poll(2), except interruptions by signals.
pub fn wait_any<const N: usize>(fds: [&dyn AsFd; N], deadline: Option<Instant>) -> io::Result<[bool; N]> {
    let borrowed = fds.map(|fd| fd.as_fd());
    let mut polled = borrowed.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll_until(&mut polled, deadline)?;
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// Waits until one of `fds` is readable or closed, or `deadline` has passed. Returns the indices
/// into `fds` of those that are; `fds` may have any length.
///
/// # Errors
/// Those of poll(2) and select(2), except interruptions by signals.
pub fn wait_any_in<F: AsFd>(fds: &[F], deadline: Option<Instant>) -> io::Result<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll_until(&mut polled, deadline) {
        // More entries than this process may have open: the limit has been lowered since, or `fds`
        // holds duplicates.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return select_until(fds, deadline),
        result => result?,
    }
    Ok(polled.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index).collect())
}

fn wait_for(fd: impl AsFd, what: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, what)];
    poll_until(&mut fds, deadline)?;
    Ok(!fds[0].revents().is_empty())
}

/// Calls poll(2) with a deadline: the wait that all functions of this crate go through, except
/// those that must be async-signal-safe.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    until(deadline, |timeout| poll(fds, timeout))
}

/// Calls poll(2) once, for at most `milliseconds`; -1 is no limit. Negative descriptors are
/// ignored. Async-signal-safe, and does not [check](crate::lifeline::check) the lifeline: for
/// signal handlers, and for the lifeline itself.
pub(crate) fn poll_raw(fds: &mut [libc::pollfd], milliseconds: i32) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of the slice.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
    crate::cvt(ready).map(|ready| ready as usize)
}

/// Implements [`wait_any_in`] with select(2), which doesn't check how many descriptors the
/// process may have open. The limit of 1,024 that its man page warns of is one of the C library's
/// type; the kernel accepts a set of any size.
fn select_until<F: AsFd>(fds: &[F], deadline: Option<Instant>) -> io::Result<Vec<usize>> {
    let numbers: Vec<i32> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let bound = numbers.iter().max().map_or(0, |highest| highest + 1);
    let mut all = vec![FdSetElement::default(); fd_set_num_elements(numbers.len(), bound)];
    numbers.iter().for_each(|number| fd_set_insert(&mut all, *number));
    let mut ready = all.clone();
    until(deadline, |timeout| {
        ready.copy_from_slice(&all);
        // SAFETY: the set has room for `bound` bits, and each bit set is a descriptor that `fds`
        // keeps open.
        unsafe { select(bound, Some(&mut ready), None, None, timeout) }.map(|count| count as usize)
    })?;
    // The iterator returns ascending numbers.
    let ready: Vec<i32> = FdSetIter::new(&ready).collect();
    let is_ready = |number: &i32| ready.binary_search(number).is_ok();
    Ok(numbers.iter().enumerate().filter(|(_, number)| is_ready(number)).map(|(index, _)| index).collect())
}

thread_local! {
    /// Whether a signal handler ends the waits of this thread.
    static INTERRUPTIBLE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `action`, in which a signal handler that runs in this thread ends each wait of this module
/// with the error `Interrupted`. Otherwise waits go on after the handler.
///
/// A handler that runs after the last check and before the system call doesn't end the wait.
pub fn interruptible<R>(action: impl FnOnce() -> R) -> R {
    /// Restores the previous value, after a panic too.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            INTERRUPTIBLE.set(self.0);
        }
    }
    let _before = Before(INTERRUPTIBLE.replace(true));
    action()
}

/// Calls `action`, [interruptible] if `is_interruptible` is true.
#[inline]
pub fn interruptible_if<R>(is_interruptible: bool, action: impl FnOnce() -> R) -> R {
    if is_interruptible { interruptible(action) } else { action() }
}

/// Whether the calling thread is in [`interruptible`].
pub fn is_interruptible() -> bool {
    INTERRUPTIBLE.get()
}

/// Calls `wait`, which returns the number of ready descriptors, until there is one or `deadline`
/// has passed. Computes the timeout anew for each call, so signals can't prolong the wait.
fn until(
    deadline: Option<Instant>,
    mut wait: impl FnMut(Option<&Timespec>) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    crate::lifeline::check();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // At most an hour at a time: a `Duration` may be larger than the kernel accepts.
        let step = left.map(|left| left.min(Duration::from_secs(3600)));
        let timeout = step.map(|step| Timespec { tv_sec: step.as_secs() as i64, tv_nsec: step.subsec_nanos().into() });
        match wait(timeout.as_ref()) {
            Ok(0) if left != step => {}
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) if !is_interruptible() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hangup() {
        let (a, b) = crate::fd_passing::pair().unwrap();
        crate::fd_passing::send(&b, &[b"x"], &[]).unwrap();
        assert!(!wait_hung_up(&a, Some(Instant::now())).unwrap());
        crate::fd_passing::hang_up(&b).unwrap();
        assert!(wait_hung_up(&a, None).unwrap());
    }

    #[test]
    fn select_matches_poll() {
        let mut running = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let alive = crate::pidfd::open(running.id() as i32).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = crate::pidfd::open(child.id() as i32).unwrap();
        assert!(wait_readable(&dead, None).unwrap());
        // A number beyond the C library's `fd_set`.
        let far = rustix::io::fcntl_dupfd_cloexec(&dead, 3000).unwrap();
        let now = Some(Instant::now());
        for (fds, expected) in [
            (vec![], vec![]),
            (vec![&alive], vec![]),
            (vec![&alive, &dead, &alive, &dead], vec![1, 3]),
            (vec![&far, &alive], vec![0]),
        ] {
            assert_eq!(select_until(&fds, now).unwrap(), expected);
            assert_eq!(wait_any_in(&fds, now).unwrap(), expected);
        }
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(select_until(&[&alive], Some(soon)).unwrap(), [0; 0]);
        assert!(Instant::now() >= soon);
        running.kill().unwrap();
        assert_eq!(select_until(&[&alive], None).unwrap(), [0]);
        running.wait().unwrap();
        child.wait().unwrap();
    }
}
