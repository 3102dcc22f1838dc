//! Which process is meant, even after its pid has been given to another: pid and time of its start, see proc_pid_stat(5).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::robust::{Thread, copy_number};
use crate::{pidfd, threads};

/// A process, in a number that fits into shared memory: the pid, and the lower bits of when it was started, in ticks of the clock since the system
/// was. 0 is nobody.
///
/// A process that sees other pids, of another PID namespace, is not to be told apart so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u64);

impl Identity {
    /// The calling process. Asks the system once, and once in each copy of the process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Identity> {
        static CURRENT: AtomicU64 = AtomicU64::new(0);
        /// The copy of the process that this is about.
        static COPY: AtomicU32 = AtomicU32::new(0);
        // So that copies are numbered.
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

    /// The process that has the id `pid` now; none if there is none.
    ///
    /// # Errors
    /// When `/proc` is not mounted; `EMFILE`, `ENFILE`.
    pub fn of(pid: i32) -> io::Result<Option<Identity>> {
        Ok(stat(pid)?.map(|stat| Identity::new(pid, stat.started)))
    }

    /// As [`of`](Identity::of), if it is a child of the process `parent`.
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

    /// From what [`to_bits`](Identity::to_bits) gave; whatever else it may be, it is then a process that doesn't live. None for 0.
    pub fn from_bits(bits: u64) -> Option<Identity> {
        (bits != 0).then_some(Identity(bits))
    }

    /// As a number other than 0.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Its pid.
    pub fn pid(self) -> i32 {
        self.0 as u32 as i32
    }

    /// A descriptor that becomes readable when the process ends; none if it has ended.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn watch(self) -> io::Result<Option<OwnedFd>> {
        if self.pid() <= 0 {
            return Ok(None);
        }
        let pidfd = match pidfd::open(self.pid()) {
            Ok(pidfd) => pidfd,
            // As the id of a thread that leads no group: no process of ours.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Looked at after it was opened: if it is the right one now, it was then.
        let is_meant = match started(self.pid())? {
            Some(started) => started == (self.0 >> 32) as u32,
            // It has ended, or is hidden from this one: proc(5), hidepid. Then it may be another, for which is waited as well.
            None => !pidfd::wait_any([&pidfd], Some(std::time::Instant::now()))?[0],
        };
        Ok(is_meant.then_some(pidfd))
    }

    /// Whether there is a process of this pid that hasn't ended, as far as can be told quickly: it may be another one that has got the pid.
    pub fn seems_alive(self) -> bool {
        match pidfd::open(self.pid()) {
            Ok(pidfd) => !pidfd::wait_any([&pidfd], Some(std::time::Instant::now())).is_ok_and(|[ended]| ended),
            Err(error) => !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)),
        }
    }

    /// Whether the process has ended, or is about to: the kernel closes what a process had open before it says that it has ended.
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

    /// Whether the process has ended. One that is a zombie has.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn has_ended(self) -> io::Result<bool> {
        match self.watch()? {
            None => Ok(true),
            Some(pidfd) => Ok(pidfd::wait_any([&pidfd], Some(std::time::Instant::now()))?[0]),
        }
    }
}

/// When the process was started; none if there is no such.
fn started(pid: i32) -> io::Result<Option<u32>> {
    Ok(stat(pid)?.map(|stat| stat.started))
}

/// What proc_pid_stat(5) tells of a process.
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
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The second field is the name, in parentheses, and may hold anything.
    let after = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let mut fields = after.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let mut number = |skip| -> Option<u64> { std::str::from_utf8(fields.nth(skip)?).ok()?.parse().ok() };
    // The fourth field, the ninth and the twenty-second.
    let numbers = number(1).zip(number(4)).zip(number(12));
    let ((parent, flags), ticks) = numbers
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/*/stat is not as proc_pid_stat(5) says"))?;
    Ok(Some(Stat { parent, flags, started: ticks as u32 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_until_it_ends() {
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
        pidfd::wait_any([&watch], None).unwrap();
        assert!(identity.has_ended().unwrap() && identity.is_ending().unwrap() && !identity.seems_alive(), "a zombie");
        child.wait().unwrap();
        assert!(identity.has_ended().unwrap() && identity.is_ending().unwrap() && !identity.seems_alive());
    }

    #[test]
    fn another_process_with_the_same_pid_is_another() {
        let this = Identity::current().unwrap();
        let other = Identity::from_bits(this.to_bits() ^ 1 << 32).unwrap();
        assert!(other.has_ended().unwrap() && other.is_ending().unwrap());
        assert!(Identity::from_bits(u64::MAX).unwrap().has_ended().unwrap());
        assert!(Identity::from_bits(0).is_none());
    }
}
