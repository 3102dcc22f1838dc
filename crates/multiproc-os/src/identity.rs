//! Identifies a process even after its pid was given to another one: by its pid and start time, see
//! proc_pid_stat(5).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::robust::{Thread, copy_number};
use crate::{pidfd, poll, threads};

/// A process, as a number that fits into shared memory: its pid, and the lower 32 bits of its start
/// time in clock ticks since boot. 0 means no process.
///
/// Processes that see different pids, because they are in different PID namespaces, can't exchange
/// identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u64);

impl Identity {
    /// Returns the identity of the calling process. Reads `/proc` once, and once in each copy of
    /// the process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Identity> {
        static CURRENT: AtomicU64 = AtomicU64::new(0);
        /// The number of the fork copy that `CURRENT` belongs to.
        static COPY: AtomicU32 = AtomicU32::new(0);
        // Makes sure that copies are numbered.
        Thread::current();
        let copy = copy_number();
        if COPY.load(Acquire) == copy {
            return Ok(Identity(CURRENT.load(Relaxed)));
        }
        let pid = threads::getpid();
        let identity = Identity::new(pid, started(pid)?.ok_or(io::ErrorKind::NotFound)?);
        CURRENT.store(identity.0, Relaxed);
        COPY.store(copy, Release);
        Ok(identity)
    }

    /// Returns the process that has the id `pid` now; `None` if there is none.
    ///
    /// # Errors
    /// When `/proc` is not mounted; `EMFILE`, `ENFILE`.
    pub fn of(pid: i32) -> io::Result<Option<Identity>> {
        Ok(stat(pid)?.map(|stat| Identity::new(pid, stat.started)))
    }

    /// Returns what [`of`](Identity::of) returns if the process is a child of `parent`, and
    /// otherwise `None`.
    ///
    /// # Errors
    /// As [`of`](Identity::of).
    pub fn of_child(pid: i32, parent: i32) -> io::Result<Option<Identity>> {
        let stat = stat(pid)?.filter(|stat| i32::try_from(stat.parent) == Ok(parent));
        Ok(stat.map(|stat| Identity::new(pid, stat.started)))
    }

    fn new(pid: i32, started: u32) -> Identity {
        Identity(u64::from(started) << 32 | u64::from(pid as u32))
    }

    /// Converts the result of [`to_bits`](Identity::to_bits) back. `None` for 0. Any other number
    /// that isn't such a result counts as a process that has ended.
    pub fn from_bits(bits: u64) -> Option<Identity> {
        (bits != 0).then_some(Identity(bits))
    }

    /// Returns the identity as a number other than 0.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns the pid.
    pub fn pid(self) -> i32 {
        self.0 as u32 as i32
    }

    /// Returns a descriptor that becomes readable when the process ends; `None` if it has ended.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn watch(self) -> io::Result<Option<OwnedFd>> {
        if self.pid() <= 0 {
            return Ok(None);
        }
        let pidfd = match pidfd::open(self.pid()) {
            Ok(pidfd) => pidfd,
            // The id now belongs to a thread that doesn't lead a thread group (`EINVAL`), or to no
            // process.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Checked after the open: if the process with this pid is the right one now, it was the
        // right one then.
        let is_meant = match started(self.pid())? {
            Some(started) => started == (self.0 >> 32) as u32,
            // The process has ended, or `/proc` hides it from this process: proc(5), hidepid. If it
            // is hidden, it may be a different one, which is then waited for as well.
            None => !poll::wait_readable(&pidfd, Some(std::time::Instant::now()))?,
        };
        Ok(is_meant.then_some(pidfd))
    }

    /// Returns whether a process with this pid exists and hasn't ended. This is a quick check: it
    /// may be another process that was given the same pid.
    pub fn seems_alive(self) -> bool {
        match pidfd::open(self.pid()) {
            Ok(pidfd) => !poll::wait_readable(&pidfd, Some(std::time::Instant::now())).is_ok_and(|ended| ended),
            Err(error) => !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)),
        }
    }

    /// Returns whether the process has ended or is ending. The kernel closes a process's
    /// descriptors before it reports the process as ended.
    ///
    /// # Errors
    /// When `/proc` is not mounted; `EMFILE`, `ENFILE`.
    pub fn is_ending(self) -> io::Result<bool> {
        // PF_EXITING of linux/sched.h.
        const EXITING: u64 = 4;
        Ok(match stat(self.pid())? {
            Some(stat) => stat.started != (self.0 >> 32) as u32 || stat.flags & EXITING != 0,
            None => self.has_ended()?,
        })
    }

    /// Returns whether the process has ended. A zombie has ended.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn has_ended(self) -> io::Result<bool> {
        match self.watch()? {
            None => Ok(true),
            Some(pidfd) => poll::wait_readable(&pidfd, Some(std::time::Instant::now())),
        }
    }
}

/// Returns the start time of the process; `None` if there is no such process.
fn started(pid: i32) -> io::Result<Option<u32>> {
    Ok(stat(pid)?.map(|stat| stat.started))
}

/// The fields of proc_pid_stat(5) that are used here.
struct Stat {
    parent: u64,
    flags: u64,
    started: u32,
}

fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::path::Path::new("/proc/self/stat").exists() => {
            return Ok(None);
        }
        // `EPERM`: proc(5), hidepid=1.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The second field is the name, in parentheses, which may contain any characters.
    let after = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let mut fields = after.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let mut number = |skip| -> Option<u64> { std::str::from_utf8(fields.nth(skip)?).ok()?.parse().ok() };
    // Fields 4, 9 and 22.
    let numbers = number(1).zip(number(4)).zip(number(12));
    let ((parent, flags), ticks) = numbers
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/*/stat is not as in proc_pid_stat(5)"))?;
    Ok(Some(Stat { parent, flags, started: ticks as u32 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_until_exit() {
        let this = Identity::current().unwrap();
        assert_eq!(this.pid(), std::process::id() as i32);
        assert_eq!(Identity::from_bits(this.to_bits()), Some(this));
        assert!(!this.has_ended().unwrap() && this.seems_alive());

        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let identity = Identity::new(pid, started(pid).unwrap().unwrap());
        let watch = identity.watch().unwrap().unwrap();
        assert!(!identity.is_ending().unwrap());
        child.kill().unwrap();
        poll::wait_readable(&watch, None).unwrap();
        assert!(identity.has_ended().unwrap() && identity.is_ending().unwrap() && !identity.seems_alive(), "a zombie");
        child.wait().unwrap();
        assert!(identity.has_ended().unwrap() && identity.is_ending().unwrap() && !identity.seems_alive());
    }

    #[test]
    fn pid_reuse() {
        let this = Identity::current().unwrap();
        let other = Identity::from_bits(this.to_bits() ^ 1 << 32).unwrap();
        assert!(other.has_ended().unwrap() && other.is_ending().unwrap());
        assert!(Identity::from_bits(u64::MAX).unwrap().has_ended().unwrap());
        assert!(Identity::from_bits(0).is_none());
    }
}
