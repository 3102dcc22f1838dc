//! A timer behind a descriptor that becomes readable when it expires: timerfd_create(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A one-shot timer; its descriptor stays readable once it has expired.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// Starts a timer that expires after `time`; its descriptor is close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn after(time: Duration) -> io::Result<Timer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = crate::fd_passing::above_stdio(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        // A time of zero would disarm the timer.
        let time = time.max(Duration::from_nanos(1));
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() },
        };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(Timer { fd })
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn expires_after_timeout() {
        let begun = Instant::now();
        let timer = Timer::after(Duration::from_millis(20)).unwrap();
        assert!(crate::poll::wait_readable(&timer, None).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert!(crate::poll::wait_readable(Timer::after(Duration::ZERO).unwrap(), None).unwrap());
        assert!(!crate::poll::wait_readable(Timer::after(Duration::MAX).unwrap(), Some(Instant::now())).unwrap());
    }
}
