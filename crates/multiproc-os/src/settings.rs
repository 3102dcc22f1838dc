//! The settings that a thread passes on to the processes it makes, apart from its privileges:
//! umask(2), process group, sched(7), ioprio_get(2), timer slack, personality(2),
//! `/proc/PID/oom_score_adj`, setrlimit(2).

use std::io;

use crate::{cvt, cvt_long};

/// The number of resource limits: up to `RLIMIT_RTTIME`.
const LIMITS: usize = 16;

/// The size of the processor set, in words; it is as large as the C library's.
const PROCESSORS: usize = 16;

/// The settings other than limits and processors, in the order in which they are applied: the later
/// ones need privileges that none of the earlier ones takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Umask,
    ProcessGroup,
    /// Policy and priority together; see [`Scheduling`].
    Scheduling,
    IoPriority,
    TimerSlack,
    Personality,
    OomScore,
}

const SETTINGS: [Setting; 7] = [
    Setting::Umask,
    Setting::ProcessGroup,
    Setting::Scheduling,
    Setting::IoPriority,
    Setting::TimerSlack,
    Setting::Personality,
    Setting::OomScore,
];

/// Marks a setting that could not be read, and is left unchanged.
const UNKNOWN: i64 = i64::MIN;

/// The settings of a thread, as a process made by it would inherit them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    values: [i64; SETTINGS.len()],
    /// None if it could not be read.
    processors: Option<[u64; PROCESSORS]>,
    limits: [Option<[u64; 2]>; LIMITS],
}

impl Settings {
    /// Reads the settings of the calling thread. The caller passes the umask, since reading it
    /// would require changing it.
    pub fn current(umask: Option<u32>) -> Settings {
        let mut values = SETTINGS.map(|setting| setting.current().unwrap_or(UNKNOWN));
        values[Setting::Umask as usize] = umask.map_or(UNKNOWN, i64::from);
        let mut limits = [None; LIMITS];
        // Limits that the kernel no longer enforces.
        const IDLE: [u32; 2] = [libc::RLIMIT_RSS, libc::RLIMIT_LOCKS];
        for (resource, limit) in (0..).zip(&mut limits).filter(|(resource, _)| !IDLE.contains(resource)) {
            *limit = current_limit(resource).ok();
        }
        Settings { values, processors: processors().ok(), limits }
    }

    /// Encodes the settings for another process.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        self.values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        bytes.push(self.processors.is_some().into());
        self.processors.iter().flatten().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        for limit in &self.limits {
            bytes.push(limit.is_some().into());
            limit.iter().flatten().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        }
        bytes
    }

    /// Decodes what [`to_bytes`](Settings::to_bytes) returned. None if `bytes` is anything else.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Settings> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (first, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*first)
        }
        fn word(bytes: &mut &[u8]) -> Option<u64> {
            take(bytes).map(u64::from_le_bytes)
        }
        fn is_there(bytes: &mut &[u8]) -> Option<bool> {
            let [byte] = take(bytes)?;
            (byte < 2).then_some(byte == 1)
        }
        let rest = &mut bytes;
        let mut settings = Settings { values: [0; SETTINGS.len()], processors: None, limits: [None; LIMITS] };
        for value in &mut settings.values {
            *value = word(rest)? as i64;
        }
        if is_there(rest)? {
            let mut words = [0; PROCESSORS];
            for place in &mut words {
                *place = word(rest)?;
            }
            settings.processors = Some(words);
        }
        for limit in &mut settings.limits {
            if is_there(rest)? {
                *limit = Some([word(rest)?, word(rest)?]);
            }
        }
        rest.is_empty().then_some(settings)
    }

    /// Applies to the calling process the settings that differ from `known`, which it has already.
    ///
    /// # Errors
    /// `EPERM` or `EACCES` when the process lacks the privilege for a setting that favours it;
    /// `EINVAL`.
    pub fn apply(&self, known: &Settings) -> io::Result<()> {
        for setting in SETTINGS {
            let (value, known) = (self.values[setting as usize], known.values[setting as usize]);
            // Unless it was set, a thread's I/O priority follows its niceness, which may just have
            // been applied.
            let follows = || setting == Setting::IoPriority && setting.current().is_ok_and(|current| current == value);
            if value != known && value != UNKNOWN && !follows() {
                setting.apply(value)?;
            }
        }
        if let Some(processors) = self.processors.filter(|_| self.processors != known.processors) {
            take_on_processors(&processors)?;
        }
        for (resource, (limit, known)) in self.limits.iter().zip(&known.limits).enumerate() {
            if let Some(limit) = limit
                && Some(limit) != known.as_ref()
            {
                take_on_limit(resource, *limit)?;
            }
        }
        Ok(())
    }
}

impl Setting {
    fn current(self) -> io::Result<i64> {
        // SAFETY: none of these takes a pointer.
        unsafe {
            match self {
                Setting::Umask => Err(io::ErrorKind::Unsupported.into()),
                Setting::ProcessGroup => cvt(libc::getpgid(0)).map(i64::from),
                Setting::Scheduling => Scheduling::current().map(|scheduling| scheduling.of_a_child().to_bits()),
                Setting::IoPriority => cvt_long(libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0)),
                Setting::TimerSlack => cvt_long(libc::syscall(libc::SYS_prctl, libc::PR_GET_TIMERSLACK, 0, 0, 0, 0)),
                Setting::Personality => cvt(libc::personality(0xFFFF_FFFF)).map(i64::from),
                Setting::OomScore => oom_score(),
            }
        }
    }

    fn apply(self, value: i64) -> io::Result<()> {
        // SAFETY: none of these takes a pointer.
        unsafe {
            match self {
                Setting::Umask => {
                    libc::umask(value as libc::mode_t);
                    Ok(())
                }
                Setting::ProcessGroup => cvt(libc::setpgid(0, value as libc::pid_t)).map(drop),
                Setting::Scheduling => Scheduling::from_bits(value).apply(),
                Setting::IoPriority => {
                    cvt_long(libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value)).map(drop)
                }
                // 0 would mean the default. A thread with a real-time policy reads 0, since it has
                // no timer slack.
                Setting::TimerSlack if value == 0 => Ok(()),
                Setting::TimerSlack => {
                    cvt_long(libc::syscall(libc::SYS_prctl, libc::PR_SET_TIMERSLACK, value, 0, 0, 0)).map(drop)
                }
                Setting::Personality => cvt(libc::personality(value as libc::c_ulong)).map(drop),
                Setting::OomScore => std::fs::write("/proc/self/oom_score_adj", value.to_string()),
            }
        }
    }
}

/// The target is one thread: 0 is the calling thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// The scheduling of a thread, without the times of `SCHED_DEADLINE`: a thread with that policy
/// can't make a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheduling {
    policy: u8,
    reset_on_fork: bool,
    niceness: i8,
    priority: u8,
}

impl Scheduling {
    const RESET_ON_FORK: u64 = 1;

    fn current() -> io::Result<Scheduling> {
        let mut attributes = Attributes::default();
        let size = size_of::<Attributes>();
        // SAFETY: the structure has the size passed, and 0 is the calling thread.
        cvt_long(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
        Ok(Scheduling {
            policy: attributes.policy as u8,
            reset_on_fork: attributes.flags & Scheduling::RESET_ON_FORK != 0,
            niceness: attributes.niceness as i8,
            priority: attributes.priority as u8,
        })
    }

    /// Returns what the kernel gives to a child of a thread with this scheduling: sched(7), "Reset
    /// scheduling policy for child processes".
    fn of_a_child(self) -> Scheduling {
        const REAL_TIME: [u8; 3] = [libc::SCHED_FIFO as u8, libc::SCHED_RR as u8, libc::SCHED_DEADLINE as u8];
        match self.reset_on_fork {
            true if REAL_TIME.contains(&self.policy) => {
                Scheduling { policy: libc::SCHED_OTHER as u8, reset_on_fork: false, niceness: 0, priority: 0 }
            }
            true => Scheduling { reset_on_fork: false, niceness: self.niceness.max(0), ..self },
            false => self,
        }
    }

    fn apply(self) -> io::Result<()> {
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: self.policy.into(),
            niceness: self.niceness.into(),
            priority: self.priority.into(),
            ..Attributes::default()
        };
        // SAFETY: the structure is ours, and has the size that it states.
        cvt_long(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
    }

    fn to_bits(self) -> i64 {
        i64::from(u32::from_le_bytes([self.policy, self.reset_on_fork.into(), self.niceness as u8, self.priority]))
    }

    fn from_bits(bits: i64) -> Scheduling {
        let [policy, reset_on_fork, niceness, priority] = (bits as u32).to_le_bytes();
        Scheduling { policy, reset_on_fork: reset_on_fork != 0, niceness: niceness as i8, priority }
    }
}

/// The first version of `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    niceness: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn oom_score() -> io::Result<i64> {
    let mut buffer = [0; 16];
    let file = rustix::fs::open(
        c"/proc/self/oom_score_adj",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let count = rustix::io::read(&file, &mut buffer)?;
    let text = std::str::from_utf8(&buffer[..count]).unwrap_or_default();
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn processors() -> io::Result<[u64; PROCESSORS]> {
    let mut words = [0_u64; PROCESSORS];
    // SAFETY: the kernel writes at most the size of the set.
    cvt_long(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&words), words.as_mut_ptr()) })?;
    Ok(words)
}

fn take_on_processors(words: &[u64; PROCESSORS]) -> io::Result<()> {
    // SAFETY: the kernel reads at most the size of the set.
    cvt_long(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(words), words.as_ptr()) }).map(drop)
}

fn current_limit(resource: u32) -> io::Result<[u64; 2]> {
    let mut limit = [0_u64; 2];
    // Unlike the C library's getrlimit, this is not prlimit(2), which works on other processes too
    // and takes longer.
    // SAFETY: on 64-bit systems the structure is two words.
    cvt_long(unsafe { libc::syscall(libc::SYS_getrlimit, resource, limit.as_mut_ptr()) })?;
    Ok(limit)
}

fn take_on_limit(resource: usize, [soft, hard]: [u64; 2]) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure is ours and is only read.
    cvt(unsafe { libc::setrlimit(resource as libc::__rlimit_resource_t, &raw const limit) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let settings = Settings::current(Some(0o22));
        assert!(settings.values.iter().all(|value| *value != UNKNOWN), "{settings:?}");
        assert!(settings.processors.is_some() && settings.limits.iter().flatten().count() == LIMITS - 2);
        let bytes = settings.to_bytes();
        assert_eq!(Settings::from_bytes(&bytes), Some(settings.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(Settings::from_bytes(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Settings::from_bytes(&[bytes, vec![0]].concat()), None);
        let none = Settings { values: [UNKNOWN; SETTINGS.len()], processors: None, limits: [None; LIMITS] };
        assert_eq!(Settings::from_bytes(&none.to_bytes()), Some(none.clone()));
        none.apply(&settings).unwrap();
        settings.apply(&settings).unwrap();
    }

    #[test]
    fn apply_to_thread() {
        let before = Settings::current(None);
        std::thread::spawn(move || {
            let mut other = before.clone();
            other.values[Setting::TimerSlack as usize] = 12_345_678;
            let batch = Scheduling { policy: libc::SCHED_BATCH as u8, reset_on_fork: false, niceness: 7, priority: 0 };
            other.values[Setting::Scheduling as usize] = batch.to_bits();
            other.values[Setting::IoPriority as usize] = 2 << 13 | 6;
            other.apply(&before).unwrap();
            assert_eq!(Settings::current(None), other);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn reset_on_fork() {
        let fifo = Scheduling { policy: libc::SCHED_FIFO as u8, reset_on_fork: true, niceness: 0, priority: 9 };
        let other = Scheduling { policy: libc::SCHED_OTHER as u8, reset_on_fork: false, niceness: 0, priority: 0 };
        assert_eq!(fifo.of_a_child(), other);
        let favoured = Scheduling { reset_on_fork: true, niceness: -5, ..other };
        assert_eq!(favoured.of_a_child(), other);
        assert_eq!(Scheduling { niceness: -5, ..other }.of_a_child().niceness, -5);
        assert_eq!(Scheduling::from_bits(fifo.to_bits()), fifo);
        assert_eq!(Scheduling::from_bits(favoured.to_bits()), favoured);
    }
}
