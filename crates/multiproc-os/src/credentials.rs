//! Who this process is to the kernel: the user and group ids that a helper process started earlier may no longer share.

/// Real and effective user and group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    ids: [u32; 4],
}

impl Credentials {
    /// Those of the calling process, now.
    pub fn current() -> Credentials {
        use rustix::process::{getegid, geteuid, getgid, getuid};
        Credentials { ids: [getuid().as_raw(), geteuid().as_raw(), getgid().as_raw(), getegid().as_raw()] }
    }
}
