//! What this process may do: its ids, groups, capabilities and confinement. A helper process that was started earlier may no longer share
//! them, and an exec may give back what was given up (a set-user-id program).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use crate::{cvt, cvt_long};

/// Real, effective and saved user ids, and the same of group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    users: [u32; 3],
    groups: [u32; 3],
}

impl Ids {
    /// How many bytes [`to_bytes`](Ids::to_bytes) gives.
    pub const BYTES: usize = 24;

    /// Those of this process, now.
    pub fn current() -> Ids {
        let mut ids = Ids { users: [0; 3], groups: [0; 3] };
        let [ruid, euid, suid] = &mut ids.users;
        let [rgid, egid, sgid] = &mut ids.groups;
        // SAFETY: the kernel writes one id to each of the addresses. It fails for bad addresses alone.
        unsafe {
            libc::getresuid(ruid, euid, suid);
            libc::getresgid(rgid, egid, sgid);
        }
        ids
    }

    /// Makes them those of this process, or sees that they are.
    ///
    /// # Errors
    /// `EPERM` when the process has other ids and may not take these.
    pub fn assume(&self) -> io::Result<()> {
        if *self != Ids::current() {
            let ([rgid, egid, sgid], [ruid, euid, suid]) = (self.groups, self.users);
            // SAFETY: no memory is touched. Groups come first: afterwards the right to change them may be gone.
            unsafe {
                cvt(libc::setresgid(rgid, egid, sgid))?;
                cvt(libc::setresuid(ruid, euid, suid))?;
            }
        }
        Ok(())
    }

    /// As [`assume`](Ids::assume), in a program that was just executed, on the word of the process that made `socket` (see `SO_PEERCRED` in
    /// unix(7)); that process can't get more than it had.
    ///
    /// Anybody may execute a set-user-id program, or one with capabilities of its own, and talk to it. So a peer with other ids than the
    /// program has is given its own ids, whatever it asks for, and capabilities that don't come with being root are given up.
    ///
    /// # Errors
    /// As [`assume`](Ids::assume).
    pub fn assume_for(&self, socket: impl AsFd) -> io::Result<()> {
        let (uid, gid) = peer(socket)?;
        let here = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if (uid, gid) == here {
            self.assume()?;
        } else {
            Ids { users: [uid; 3], groups: [gid; 3] }.assume()?;
        }
        // SAFETY: it takes a number and returns one.
        let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
        if secure && !rustix::process::geteuid().is_root() {
            give_up_capabilities()?;
        }
        Ok(())
    }

    /// As bytes, for another process.
    pub fn to_bytes(&self) -> [u8; Ids::BYTES] {
        let mut bytes = [0; Ids::BYTES];
        for (chunk, id) in bytes.chunks_exact_mut(4).zip(self.users.iter().chain(&self.groups)) {
            chunk.copy_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    /// The other way.
    pub fn from_bytes(bytes: &[u8; Ids::BYTES]) -> Ids {
        let id = |at: usize| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"));
        Ids { users: [id(0), id(1), id(2)], groups: [id(3), id(4), id(5)] }
    }
}

/// User and group of the process that made `socket`. Its pid, which `SO_PEERCRED` tells too, is 0 for a process of another PID namespace.
fn peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the structure is ours, and as large as said.
    cvt(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len) })?;
    Ok((peer.uid, peer.gid))
}

/// What a process may do, as far as it can be told quickly. Filters of seccomp(2) count only as there or not, and namespaces not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    ids: Ids,
    supplementary: Vec<u32>,
    capabilities: [u32; 6],
    no_new_privileges: i32,
    seccomp_mode: i32,
    root: Option<(u64, u64)>,
}

impl Credentials {
    /// Those of this process, now.
    pub fn current() -> Credentials {
        // SAFETY: these two options take no pointers.
        let (no_new_privileges, seccomp_mode) =
            unsafe { (libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), libc::prctl(libc::PR_GET_SECCOMP)) };
        Credentials {
            ids: Ids::current(),
            supplementary: supplementary(),
            capabilities: capabilities(),
            no_new_privileges,
            seccomp_mode,
            root: rustix::fs::stat(c"/").ok().map(|stat| (stat.st_dev, stat.st_ino)),
        }
    }
}

fn supplementary() -> Vec<u32> {
    let mut groups = vec![0; 64];
    loop {
        // SAFETY: the kernel writes at most as many ids as there is room for.
        match unsafe { libc::getgroups(groups.len() as libc::c_int, groups.as_mut_ptr()) } {
            // There is no room for all.
            -1 if groups.len() < 1 << 17 => groups.resize(groups.len() * 8, 0),
            count => {
                groups.truncate(count.max(0) as usize);
                return groups;
            }
        }
    }
}

/// `struct __user_cap_header_struct`, for this process.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    /// Version 3 has two structures of three words for data.
    const VERSION_3: CapabilityHeader = CapabilityHeader { version: 0x2008_0522, pid: 0 };
}

/// Gives up all capabilities, for ever.
fn give_up_capabilities() -> io::Result<()> {
    let mut header = CapabilityHeader::VERSION_3;
    let data = [0_u32; 6];
    // SAFETY: the data has as many words as the version says.
    cvt_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Whether this process may take any user: `CAP_SETUID` is among its permitted capabilities.
pub(crate) fn may_set_user() -> bool {
    const CAP_SETUID: u32 = 7;
    const PERMITTED: usize = 1;
    capabilities()[PERMITTED] & 1 << CAP_SETUID != 0
}

/// Effective, permitted and inheritable capabilities; see capget(2). All zero where they can't be told.
fn capabilities() -> [u32; 6] {
    let mut header = CapabilityHeader::VERSION_3;
    let mut data = MaybeUninit::<[u32; 6]>::zeroed();
    // SAFETY: the data has as many words as the version says.
    let result = cvt_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) });
    // SAFETY: zeroed at first, and any bits are a value.
    if result.is_ok() { unsafe { data.assume_init() } } else { [0; 6] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        let ids = Ids { users: [1, 2, 3], groups: [4, 5, u32::MAX] };
        assert_eq!(Ids::from_bytes(&ids.to_bytes()), ids);
        Ids::current().assume().unwrap();
    }

    #[test]
    fn credentials_are_the_same_a_moment_later() {
        assert_eq!(Credentials::current(), Credentials::current());
    }
}
