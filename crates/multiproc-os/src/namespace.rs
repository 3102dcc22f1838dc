//! In which PID namespace this process is: pid_namespaces(7). Ids of threads that lie in shared memory mean something within one only.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::per_copy::PerCopy;

/// A number that tells PID namespaces of this system apart; None without `/proc`. Asks the system once, and once in each copy of the process, which may be in another
/// one (unshare(2)).
pub fn of_pids() -> Option<u32> {
    static FOUND: PerCopy<OnceLock<Option<u32>>> = PerCopy::new();
    *FOUND.get().get_or_init(|| {
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the path ends with a zero, the structure is ours, and all-zero bytes are a value of it.
        let stat = unsafe {
            crate::cvt(libc::stat(c"/proc/self/ns/pid".as_ptr(), stat.as_mut_ptr())).ok()?;
            stat.assume_init()
        };
        // The kernel counts them with 32 bits, and has no 0 among them.
        u32::try_from(stat.st_ino).ok().filter(|number| *number != 0)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_number_that_proc_shows() {
        let shown = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(shown.to_str().unwrap(), format!("pid:[{}]", super::of_pids().unwrap()));
    }
}
