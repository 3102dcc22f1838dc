//! The namespaces of this process: pid_namespaces(7), user_namespaces(7). Thread ids in shared
//! memory have a meaning within a single PID namespace only.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::fork_local::ForkLocal;

/// Returns a number that identifies the PID namespace of this process on this system; `None`
/// without `/proc`. Queries the system once, and once in each copy of the process, which may be in
/// another namespace (unshare(2)).
pub fn of_pids() -> Option<u32> {
    static FOUND: ForkLocal<OnceLock<Option<u32>>> = ForkLocal::new();
    *FOUND.get().get_or_init(|| {
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the path ends with a NUL, the structure is a local variable, and all-zero bytes
        // are a valid value of it.
        let stat = unsafe {
            crate::cvt(libc::stat(c"/proc/self/ns/pid".as_ptr(), stat.as_mut_ptr())).ok()?;
            stat.assume_init()
        };
        // The kernel's numbers have 32 bits, and are never 0.
        u32::try_from(stat.st_ino).ok().filter(|number| *number != 0)
    })
}

/// Returns whether this process creates its children in a PID namespace other than its own, after
/// unshare(2) or setns(2) with `CLONE_NEWPID`. False without `/proc`.
pub fn children_are_elsewhere() -> bool {
    match (inode(c"/proc/self/ns/pid"), inode(c"/proc/self/ns/pid_for_children")) {
        (Some(own), Some(children)) => own != children,
        // The file can't be opened while that namespace has no process, see pid_namespaces(7).
        (Some(_), None) => std::fs::symlink_metadata("/proc/self/ns/pid_for_children").is_ok(),
        (None, _) => false,
    }
}

/// Returns whether this process creates its children in another PID namespace. If fork(2) has
/// failed with `ENOMEM`, the first process of that namespace has ended, and it accepts no more
/// processes.
pub(crate) fn first_child_has_ended() -> bool {
    children_are_elsewhere()
}

/// Returns whether this process is in the initial user namespace. True without `/proc`.
pub fn of_users_is_initial() -> bool {
    // PROC_USER_INIT_INO in the kernel's include/linux/proc_ns.h. Other tools rely on it too.
    const INITIAL: u64 = 0xEFFF_FFFD;
    inode(c"/proc/self/ns/user").is_none_or(|inode| inode == INITIAL)
}

fn inode(path: &std::ffi::CStr) -> Option<u64> {
    Some(rustix::fs::stat(path).ok()?.st_ino)
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_proc() {
        let shown = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(shown.to_str().unwrap(), format!("pid:[{}]", super::of_pids().unwrap()));
    }
}
