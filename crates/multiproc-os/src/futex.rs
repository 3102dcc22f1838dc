//! Sleeping on a word of shared memory until another thread or process changes it and wakes the
//! sleepers: futex(2), between processes.

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use rustix::thread::futex::{self, Flags, Timespec};

use crate::lifeline;

/// Why [`wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The word had another value, [`wake`] was called, or the wake-up was spurious: check the
    /// condition again.
    Perhaps,
    /// The deadline has passed.
    Timeout,
    /// A signal handler ran in this thread, from [`wait`] only: check the condition again.
    Interrupted,
}

/// Sleeps while `word` is `expected`, until a wake-up or `deadline`.
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Instant>) -> Woken {
    let timeout = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
        None => None,
        Some(None) => return Woken::Timeout,
        Some(Some(left)) => Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        }),
    };
    lifeline::check();
    match futex::wait(word, Flags::empty(), expected, timeout.as_ref()) {
        Err(rustix::io::Errno::TIMEDOUT) => Woken::Timeout,
        Err(rustix::io::Errno::INTR) => Woken::Interrupted,
        _ => Woken::Perhaps,
    }
}

/// Wakes at most `count` of the threads that sleep on `word`, in this process and in others.
/// Returns the number of threads that were woken.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    // It fails only for an invalid address.
    futex::wake(word, Flags::empty(), count.min(i32::MAX as u32)).unwrap_or(0)
}

/// Sleeps while each of `words` has its expected value, until a wake-up on one of them or
/// `deadline`: futex_waitv, Linux 5.16 and later.
///
/// # Errors
/// `ENOSYS` on older kernels; `InvalidInput` for more than 128 words, or none.
pub fn wait_any(words: &[(&AtomicU32, u32)], deadline: Option<Instant>) -> io::Result<Woken> {
    const MOST: usize = 128;
    // The layout of `struct futex_waitv` of linux/futex.h.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    const SIZE_U32: u32 = 2;
    if words.is_empty() || words.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    lifeline::check();
    let mut waiters = [Waiter { value: 0, address: 0, flags: SIZE_U32, reserved: 0 }; MOST];
    for (waiter, (word, expected)) in waiters.iter_mut().zip(words) {
        (waiter.value, waiter.address) = (u64::from(*expected), word.as_ptr() as u64);
    }
    // The system call takes an absolute time of CLOCK_MONOTONIC, which `Instant` doesn't expose.
    let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    if let Some(deadline) = deadline {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(Woken::Timeout) };
        // SAFETY: the kernel writes to a local variable.
        crate::cvt(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until) })?;
        let nanos = until.tv_nsec + i64::from(left.subsec_nanos());
        until.tv_sec = until
            .tv_sec
            .saturating_add(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
            .saturating_add(nanos / 1_000_000_000);
        until.tv_nsec = nanos % 1_000_000_000;
    }
    let timeout = if deadline.is_some() { &raw const until } else { std::ptr::null() };
    // SAFETY: the array has at least `words.len()` waiters, the words are borrowed, and the time
    // outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_futex_waitv, waiters.as_ptr(), words.len(), 0, timeout, libc::CLOCK_MONOTONIC)
    };
    match crate::cvt_long(result) {
        Ok(_) => Ok(Woken::Perhaps),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(Woken::Perhaps),
            Some(libc::ETIMEDOUT) => Ok(Woken::Timeout),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    #[test]
    fn wait_with_other_value() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Woken::Perhaps);
        assert_eq!(wait(&AtomicU32::new(0), 0, Some(Instant::now())), Woken::Timeout);
        assert_eq!(wait(&AtomicU32::new(0), 0, Some(Instant::now() + Duration::from_millis(1))), Woken::Timeout);
    }

    #[test]
    fn wait_and_wake() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while word.load(SeqCst) == 0 {
                        wait(&word, 0, None);
                    }
                });
            }
            word.store(1, SeqCst);
            wake(&word, u32::MAX);
        });
    }

    #[test]
    fn wait_any_of_several() {
        let words = [const { AtomicU32::new(0) }; 3];
        let expected: Vec<_> = words.iter().map(|word| (word, 0)).collect();
        match wait_any(&expected, Some(Instant::now() + Duration::from_millis(1))) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return,
            woken => assert_eq!(woken.unwrap(), Woken::Timeout),
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while words[2].load(SeqCst) == 0 {
                    wait_any(&expected, None).unwrap();
                }
            });
            words[2].store(1, SeqCst);
            wake(&words[2], 1);
        });
        assert_eq!(wait_any(&[], None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
