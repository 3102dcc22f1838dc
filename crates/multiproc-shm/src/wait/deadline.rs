//! [`Deadline`]: how long a call may wait.

use std::time::{Duration, Instant};

use crate::lock::spin_lock::Limit;

/// The time until which a call may wait.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use multiproc_shm::wait::deadline::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(60));
/// assert!(!deadline.has_passed());
/// assert!(deadline.remaining().unwrap() <= Duration::from_secs(60));
///
/// assert_eq!(Deadline::after(Duration::ZERO), Deadline::Now);
/// assert_eq!(Deadline::after(Duration::MAX), Deadline::Never);
/// assert_eq!(Deadline::from(None::<Instant>), Deadline::Never);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The call doesn't wait.
    Now,
    /// The call waits until this instant at the latest.
    At(Instant),
    /// The call waits for as long as it takes.
    Never,
}

impl Deadline {
    /// Returns the deadline `timeout` from now: [`Now`](Deadline::Now) for a timeout of zero, and
    /// [`Never`](Deadline::Never) for one that ends beyond the range of the clock.
    pub fn after(timeout: Duration) -> Deadline {
        if timeout.is_zero() { Deadline::Now } else { Deadline::from_now(timeout) }
    }

    /// As [`after`](Deadline::after), but a timeout of zero is a deadline that has just passed, not
    /// [`Now`](Deadline::Now): for calls that report a timeout by another error than a call
    /// that doesn't wait does. `None` is [`Never`](Deadline::Never).
    pub fn from_now(timeout: impl Into<Option<Duration>>) -> Deadline {
        timeout.into().and_then(|timeout| Instant::now().checked_add(timeout)).into()
    }

    /// Returns whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        match self {
            Deadline::Now => true,
            Deadline::At(deadline) => deadline <= Instant::now(),
            Deadline::Never => false,
        }
    }

    /// Returns the time that is left, zero if the deadline has passed; `None` for
    /// [`Never`](Deadline::Never).
    pub fn remaining(self) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            Deadline::Never => None,
        }
    }

    /// Returns the instant of the deadline, the present one for [`Now`](Deadline::Now); `None` for
    /// [`Never`](Deadline::Never).
    #[inline]
    pub fn instant(self) -> Option<Instant> {
        match self {
            Deadline::Now => Some(Instant::now()),
            Deadline::At(deadline) => Some(deadline),
            Deadline::Never => None,
        }
    }

    /// Returns how long a call with this deadline waits for spin locks.
    #[inline]
    pub fn limit(self) -> Limit {
        match self {
            Deadline::Now => Limit::GracePeriod,
            Deadline::At(deadline) => Limit::Until(deadline),
            Deadline::Never => Limit::Endless,
        }
    }
}

impl From<Instant> for Deadline {
    fn from(deadline: Instant) -> Deadline {
        Deadline::At(deadline)
    }
}

/// `None` is [`Deadline::Never`].
impl From<Option<Instant>> for Deadline {
    #[inline]
    fn from(deadline: Option<Instant>) -> Deadline {
        deadline.map_or(Deadline::Never, Deadline::At)
    }
}

/// As [`Deadline::after`].
impl From<Duration> for Deadline {
    fn from(timeout: Duration) -> Deadline {
        Deadline::after(timeout)
    }
}

/// As [`Deadline::after`]; `None` is [`Deadline::Never`].
impl From<Option<Duration>> for Deadline {
    fn from(timeout: Option<Duration>) -> Deadline {
        timeout.map_or(Deadline::Never, Deadline::after)
    }
}

/// Returns the earlier of `time` from now and `deadline`.
pub(crate) fn sooner(time: Duration, deadline: Option<Instant>) -> Instant {
    let end = Instant::now() + time;
    deadline.map_or(end, |deadline| deadline.min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_is_never() {
        assert_eq!(Deadline::after(Duration::MAX), Deadline::Never);
        assert_eq!(Deadline::Never.remaining(), None);
        assert_eq!(Deadline::Never.instant(), None);
        assert!(!Deadline::Never.has_passed());
    }

    #[test]
    fn past_and_future() {
        let now = Instant::now();
        assert!(Deadline::Now.has_passed() && Deadline::At(now).has_passed());
        assert_eq!(Deadline::At(now).remaining(), Some(Duration::ZERO));
        let later = Deadline::from(now + Duration::from_secs(3600));
        assert!(!later.has_passed());
        assert!(later.remaining() > Some(Duration::from_secs(3000)));
    }
}
