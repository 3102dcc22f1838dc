//! In which PID namespace this process is: pid_namespaces(7). Ids of threads that lie in shared memory mean something within one only.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::fork_local::ForkLocal;

/// A number that tells PID namespaces of this system apart; None without `/proc`. Asks the system once, and once in each copy of the process, which may be in another
/// one (unshare(2)).
pub fn of_pids() -> Option<u32> {
    static FOUND: ForkLocal<OnceLock<Option<u32>>> = ForkLocal::new();
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

/// Whether processes that this one makes are in another PID namespace than it is, after unshare(2)
/// or setns(2) with `CLONE_NEWPID`. False without `/proc`.
pub fn children_are_elsewhere() -> bool {
    match (inode(c"/proc/self/ns/pid"), inode(c"/proc/self/ns/pid_for_children")) {
        (Some(own), Some(children)) => own != children,
        // The file can't be opened as long as that namespace has no process, see pid_namespaces(7).
        (Some(_), None) => std::fs::symlink_metadata("/proc/self/ns/pid_for_children").is_ok(),
        (None, _) => false,
    }
}

/// Whether processes that this one makes are in another PID namespace, which takes no more of them:
/// its first process has ended.
pub(crate) fn first_child_has_ended() -> bool {
    children_are_elsewhere()
}

/// Whether this process is in the user namespace that the system began with. True without `/proc`.
pub fn of_users_is_initial() -> bool {
    // PROC_USER_INIT_INO of the kernel's include/linux/proc_ns.h, which every tool relies on.
    const INITIAL: u64 = 0xEFFF_FFFD;
    inode(c"/proc/self/ns/user").is_none_or(|inode| inode == INITIAL)
}

fn inode(path: &std::ffi::CStr) -> Option<u64> {
    Some(rustix::fs::stat(path).ok()?.st_ino)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_number_that_proc_shows() {
        let shown = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(shown.to_str().unwrap(), format!("pid:[{}]", super::of_pids().unwrap()));
    }
}
