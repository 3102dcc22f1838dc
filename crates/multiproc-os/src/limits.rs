//! Resource limits and scheduling of a process: setrlimit(2), setpriority(2), sched_setaffinity(2),
//! setpgid(2).

use std::io;

use crate::cvt;

/// A resource that setrlimit(2) limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Resource {
    /// The size of virtual memory, in bytes.
    AddressSpace = libc::RLIMIT_AS,
    /// The size of private writable memory, in bytes.
    Data = libc::RLIMIT_DATA,
    /// The size of the first thread's stack, in bytes.
    Stack = libc::RLIMIT_STACK,
    /// The size of a core file, in bytes.
    CoreFile = libc::RLIMIT_CORE,
    /// The size of files that are written, in bytes.
    FileSize = libc::RLIMIT_FSIZE,
    /// Processor time, in seconds.
    CpuTime = libc::RLIMIT_CPU,
    /// The number of open descriptors.
    OpenFiles = libc::RLIMIT_NOFILE,
    /// The number of the user's processes and threads.
    Processes = libc::RLIMIT_NPROC,
    /// Memory locked into RAM, in bytes.
    LockedMemory = libc::RLIMIT_MEMLOCK,
}

/// Limits a resource of this process. The soft limit is enforced; the hard limit is the maximum to
/// which the soft limit can be raised later. `u64::MAX` means no limit.
///
/// # Errors
/// `EPERM` above the current hard limit; `EINVAL` for a soft limit above the hard limit.
pub fn set(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure is a local variable and is only read.
    cvt(unsafe { libc::setrlimit(resource as libc::__rlimit_resource_t, &raw const limit) }).map(drop)
}

/// Returns the soft and the hard limit of this process.
///
/// # Errors
/// None is expected.
pub fn get(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is a local variable.
    cvt(unsafe { libc::getrlimit(resource as libc::__rlimit_resource_t, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets the nice value of this process: from -20, the highest priority, to 19.
///
/// # Errors
/// `EACCES` or `EPERM` for a lower value than the current one, without the permission for that.
pub fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: it takes numbers.
    cvt(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) }).map(drop)
}

/// Restricts this process to these processors.
///
/// # Errors
/// `EINVAL` when none of them exists or is allowed for this process; also for a number above 1023.
pub fn set_affinity(processors: &[usize]) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for processor in processors {
        if *processor >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        set.set(*processor);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Moves this process into the process group `group`, or into a new group of its own for 0.
///
/// # Errors
/// `EPERM` when there is no such group in the session.
pub fn set_process_group(group: i32) -> io::Result<()> {
    // SAFETY: it takes numbers.
    cvt(unsafe { libc::setpgid(0, group) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let (_, hard) = get(Resource::CoreFile).unwrap();
        set(Resource::CoreFile, 0, hard).unwrap();
        assert_eq!(get(Resource::CoreFile).unwrap(), (0, hard));
        assert_eq!(set(Resource::CoreFile, 1, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn nonexistent_cpus() {
        for processors in [&[][..], &[1023], &[1024], &[usize::MAX]] {
            assert_eq!(set_affinity(processors).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{processors:?}");
        }
    }
}
