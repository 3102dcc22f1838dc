//! What this process may do: its ids, groups, capabilities and confinement. A helper process that was started earlier may no longer share
//! them, and an exec may give back what was given up (a set-user-id program).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use crate::{cvt, cvt_long};

/// Real, effective, saved and file-system user ids, and the same of group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    users: [u32; 4],
    groups: [u32; 4],
}

impl Ids {
    /// How many bytes [`to_bytes`](Ids::to_bytes) gives.
    pub const BYTES: usize = 32;

    /// Those of this process, now.
    pub fn current() -> Ids {
        let mut ids = Ids { users: [0; 4], groups: [0; 4] };
        let [ruid, euid, suid, fsuid] = &mut ids.users;
        let [rgid, egid, sgid, fsgid] = &mut ids.groups;
        // SAFETY: the kernel writes one id to each of the addresses. It fails for bad addresses
        // alone. To ask for an impossible file-system id changes nothing, and gives the present
        // one.
        unsafe {
            libc::getresuid(ruid, euid, suid);
            libc::getresgid(rgid, egid, sgid);
            *fsuid = libc::setfsuid(u32::MAX) as u32;
            *fsgid = libc::setfsgid(u32::MAX) as u32;
        }
        ids
    }

    /// Makes them those of this process, or sees that they are.
    ///
    /// # Errors
    /// `EPERM` when the process has other ids and may not take these.
    pub fn assume(&self) -> io::Result<()> {
        if *self != Ids::current() {
            let ([rgid, egid, sgid, fsgid], [ruid, euid, suid, fsuid]) = (self.groups, self.users);
            // SAFETY: no memory is touched. Groups come first: afterwards the right to change them may be gone.
            unsafe {
                cvt(libc::setresgid(rgid, egid, sgid))?;
                // The call says nothing of failure; the file-system ids follow the effective ones
                // until then.
                libc::setfsgid(fsgid);
                cvt(libc::setresuid(ruid, euid, suid))?;
                libc::setfsuid(fsuid);
            }
            if *self != Ids::current() {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
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
            Ids { users: [uid; 4], groups: [gid; 4] }.assume()?;
        }
        // SAFETY: it takes a number and returns one.
        let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
        if secure && !rustix::process::geteuid().is_root() {
            Capabilities::NONE.set()?;
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
        Ids { users: [id(0), id(1), id(2), id(3)], groups: [id(4), id(5), id(6), id(7)] }
    }
}

/// User and group of the process that made `socket`. Its pid, which `SO_PEERCRED` tells too, is 0
/// for a process of another PID namespace.
fn peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the structure is ours, and as large as said.
    cvt(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len) })?;
    Ok((peer.uid, peer.gid))
}

/// Effective, permitted and inheritable capabilities of a thread: capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities([u32; 6]);

impl Capabilities {
    /// How many bytes [`to_bytes`](Capabilities::to_bytes) gives.
    pub const BYTES: usize = 24;

    const NONE: Capabilities = Capabilities([0; 6]);

    /// Those of the calling thread. None where the kernel doesn't tell.
    pub fn current() -> Capabilities {
        let mut header = CapabilityHeader::VERSION_3;
        let mut data = MaybeUninit::<[u32; 6]>::zeroed();
        // SAFETY: the data has as many words as the version says.
        let result = cvt_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) });
        // SAFETY: zeroed at first, and any bits are a value.
        if result.is_ok() { Capabilities(unsafe { data.assume_init() }) } else { Capabilities::NONE }
    }

    /// Gives up what the calling thread has beyond these. An exec as root brings back all that the
    /// bounding set has, however little the thread had that executed.
    ///
    /// # Errors
    /// None is expected.
    pub fn reduce_to(&self) -> io::Result<()> {
        let current = Capabilities::current();
        let mut common = current;
        common.0.iter_mut().zip(self.0).for_each(|(word, allowed)| *word &= allowed);
        if common == current { Ok(()) } else { common.set() }
    }

    fn set(&self) -> io::Result<()> {
        let mut header = CapabilityHeader::VERSION_3;
        // SAFETY: the data has as many words as the version says.
        cvt_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, self.0.as_ptr()) }).map(drop)
    }

    /// As bytes, for another process.
    pub fn to_bytes(&self) -> [u8; Capabilities::BYTES] {
        let mut bytes = [0; Capabilities::BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The other way.
    pub fn from_bytes(bytes: &[u8; Capabilities::BYTES]) -> Capabilities {
        let mut words = [0; 6];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
        }
        Capabilities(words)
    }

    /// Whether this one is among the permitted, by its number: below 64.
    pub(crate) fn permits(&self, capability: u32) -> bool {
        self.0[if capability < 32 { 1 } else { 4 }] & 1 << (capability % 32) != 0
    }
}

/// What the calling thread may do, as far as it can be asked without `/proc`. Filters of seccomp(2)
/// count only as there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    ids: Ids,
    supplementary: Vec<u32>,
    capabilities: Capabilities,
    /// A bit for each.
    bounding: u64,
    ambient: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_mode: i32,
}

impl Credentials {
    /// Those of the calling thread, now.
    pub fn current() -> Credentials {
        // SAFETY: these two options take no pointers.
        let (no_new_privileges, seccomp_mode) =
            unsafe { (libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), libc::prctl(libc::PR_GET_SECCOMP)) };
        // SAFETY: as above.
        let bounding = bits(|number| unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) });
        // SAFETY: as above.
        let ambient = bits(|number| unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong, number, 0, 0)
        });
        Credentials {
            ids: Ids::current(),
            supplementary: supplementary(),
            capabilities: Capabilities::current(),
            bounding,
            ambient,
            no_new_privileges: no_new_privileges == 1,
            seccomp_mode,
        }
    }

    pub(crate) fn permits(&self, capability: u32) -> bool {
        self.capabilities.permits(capability)
    }
}

/// A set of capabilities, of which the kernel tells one at a time, and fails for numbers that it
/// doesn't know.
fn bits(is_set: impl Fn(libc::c_ulong) -> libc::c_int) -> u64 {
    (0..64)
        .map(|number| (number, is_set(number)))
        .take_while(|(_, set)| *set >= 0)
        .fold(0, |bits, (number, set)| bits | u64::from(set == 1) << number)
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

/// Whether this process may take any user: `CAP_SETUID` is among its permitted capabilities.
pub(crate) fn may_set_user() -> bool {
    const CAP_SETUID: u32 = 7;
    Capabilities::current().permits(CAP_SETUID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        let ids = Ids { users: [1, 2, 3, 4], groups: [5, 6, 7, u32::MAX] };
        assert_eq!(Ids::from_bytes(&ids.to_bytes()), ids);
        Ids::current().assume().unwrap();
    }

    #[test]
    fn capabilities_there_and_back() {
        let capabilities = Capabilities([1, 2, 3, 4, 5, u32::MAX]);
        assert_eq!(Capabilities::from_bytes(&capabilities.to_bytes()), capabilities);
        assert!(Capabilities([0, 2, 0, 0, 1, 0]).permits(1) && Capabilities([0, 2, 0, 0, 1, 0]).permits(32));
        assert!(
            !Capabilities([!0, !2, !0, !0, !1, !0]).permits(1) && !Capabilities([!0, !2, !0, !0, !1, !0]).permits(32)
        );
        let current = Capabilities::current();
        current.reduce_to().unwrap();
        assert_eq!(Capabilities::current(), current);
    }

    #[test]
    fn credentials_are_the_same_a_moment_later() {
        assert_eq!(Credentials::current(), Credentials::current());
    }
}
