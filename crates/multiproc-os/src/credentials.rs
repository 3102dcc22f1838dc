//! The rights of this process: ids, groups and capabilities. A helper process that was started
//! earlier may no longer have the same ones, and an exec may restore rights that were given up (a
//! set-user-id program).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use crate::{cvt, cvt_long};

/// The real, effective, saved and file-system user ids, and the four corresponding group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    users: [u32; 4],
    groups: [u32; 4],
}

impl Ids {
    /// The number of bytes that [`to_bytes`](Ids::to_bytes) returns.
    pub const BYTES: usize = 32;

    /// Returns the ids of this process.
    pub fn current() -> Ids {
        let mut ids = Ids { users: [0; 4], groups: [0; 4] };
        let [ruid, euid, suid, fsuid] = &mut ids.users;
        let [rgid, egid, sgid, fsgid] = &mut ids.groups;
        // SAFETY: the kernel writes one id to each of the addresses. The calls fail only for bad
        // addresses. A request for an invalid file-system id changes nothing, and returns the
        // current one.
        unsafe {
            libc::getresuid(ruid, euid, suid);
            libc::getresgid(rgid, egid, sgid);
            *fsuid = libc::setfsuid(u32::MAX) as u32;
            *fsgid = libc::setfsgid(u32::MAX) as u32;
        }
        ids
    }

    /// Changes the ids of this process to these, unless it has them already.
    ///
    /// # Errors
    /// `EPERM` when the process has other ids and may not change to these.
    pub fn assume(&self) -> io::Result<()> {
        if *self != Ids::current() {
            let ([rgid, egid, sgid, fsgid], [ruid, euid, suid, fsuid]) = (self.groups, self.users);
            // SAFETY: no memory is touched. Groups come first: after the change of the user, the
            // process may no longer be allowed to change them.
            unsafe {
                cvt(libc::setresgid(rgid, egid, sgid))?;
                // The call doesn't report failure. File-system ids follow the effective ids, so
                // they are set after those.
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

    /// Does what [`assume`](Ids::assume) does, in a program that was just executed, on behalf of
    /// the process that made `socket` (see `SO_PEERCRED` in unix(7)). That process can't gain
    /// rights by this.
    ///
    /// Any process may execute a set-user-id program, or a program with file capabilities, and talk
    /// to it. So if the peer's ids differ from those of this program, this process changes to the
    /// peer's ids, regardless of `self`, and capabilities that don't come from being root are given
    /// up.
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

    /// Encodes the ids, for another process.
    pub fn to_bytes(&self) -> [u8; Ids::BYTES] {
        let mut bytes = [0; Ids::BYTES];
        for (chunk, id) in bytes.chunks_exact_mut(4).zip(self.users.iter().chain(&self.groups)) {
            chunk.copy_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    /// Decodes what [`to_bytes`](Ids::to_bytes) returned.
    pub fn from_bytes(bytes: &[u8; Ids::BYTES]) -> Ids {
        let id = |at: usize| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"));
        Ids { users: [id(0), id(1), id(2), id(3)], groups: [id(4), id(5), id(6), id(7)] }
    }
}

/// Returns the user and the group of the process that made `socket`. The pid in `SO_PEERCRED` isn't
/// used: it is 0 for a process of another PID namespace.
fn peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the structure is a local variable, and its size is passed.
    cvt(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len) })?;
    Ok((peer.uid, peer.gid))
}

/// The effective, permitted and inheritable capabilities of a thread: capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities([u32; 6]);

impl Capabilities {
    /// The number of bytes that [`to_bytes`](Capabilities::to_bytes) returns.
    pub const BYTES: usize = 24;

    const NONE: Capabilities = Capabilities([0; 6]);

    /// Returns the capabilities of the calling thread. Empty if the kernel refuses to tell them.
    pub fn current() -> Capabilities {
        let mut header = CapabilityHeader::VERSION_3;
        let mut data = MaybeUninit::<[u32; 6]>::zeroed();
        // SAFETY: the data has as many words as the version requires.
        let result = cvt_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) });
        // SAFETY: the array was zeroed, and any bits are a valid value.
        if result.is_ok() { Capabilities(unsafe { data.assume_init() }) } else { Capabilities::NONE }
    }

    /// Removes the calling thread's capabilities that `self` doesn't have. An exec as root restores
    /// all capabilities of the bounding set, no matter how few the executing thread had.
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
        // SAFETY: the data has as many words as the version requires.
        cvt_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, self.0.as_ptr()) }).map(drop)
    }

    /// Encodes the capabilities, for another process.
    pub fn to_bytes(&self) -> [u8; Capabilities::BYTES] {
        let mut bytes = [0; Capabilities::BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Decodes what [`to_bytes`](Capabilities::to_bytes) returned.
    pub fn from_bytes(bytes: &[u8; Capabilities::BYTES]) -> Capabilities {
        let mut words = [0; 6];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
        }
        Capabilities(words)
    }

    /// Returns whether the capability with this number, which must be below 64, is in the permitted
    /// set.
    pub(crate) fn permits(&self, capability: u32) -> bool {
        self.0[if capability < 32 { 1 } else { 4 }] & 1 << (capability % 32) != 0
    }
}

/// The rights of the calling thread, as far as they can be queried without `/proc`. Of seccomp(2),
/// only the mode is known, not the filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    ids: Ids,
    supplementary: Vec<u32>,
    capabilities: Capabilities,
    /// One bit for each capability.
    bounding: u64,
    ambient: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_mode: i32,
}

impl Credentials {
    /// Returns the credentials of the calling thread.
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

/// Reads a capability set through a call that tells one capability at a time, and that fails for
/// numbers unknown to the kernel.
fn bits(is_set: impl Fn(libc::c_ulong) -> libc::c_int) -> u64 {
    (0..64)
        .map(|number| (number, is_set(number)))
        .take_while(|(_, set)| *set >= 0)
        .fold(0, |bits, (number, set)| bits | u64::from(set == 1) << number)
}

fn supplementary() -> Vec<u32> {
    let mut groups = vec![0; 64];
    loop {
        // SAFETY: the kernel writes at most as many ids as the array holds.
        match unsafe { libc::getgroups(groups.len() as libc::c_int, groups.as_mut_ptr()) } {
            // The array is too small.
            -1 if groups.len() < 1 << 17 => groups.resize(groups.len() * 8, 0),
            count => {
                groups.truncate(count.max(0) as usize);
                return groups;
            }
        }
    }
}

/// `struct __user_cap_header_struct`, for the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    /// In version 3, the data consists of two structures of three words each.
    const VERSION_3: CapabilityHeader = CapabilityHeader { version: 0x2008_0522, pid: 0 };
}

/// Returns whether this process may change to any user: whether `CAP_SETUID` is in its permitted
/// set.
pub(crate) fn may_set_user() -> bool {
    const CAP_SETUID: u32 = 7;
    Capabilities::current().permits(CAP_SETUID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let ids = Ids { users: [1, 2, 3, 4], groups: [5, 6, 7, u32::MAX] };
        assert_eq!(Ids::from_bytes(&ids.to_bytes()), ids);
        Ids::current().assume().unwrap();
    }

    #[test]
    fn capabilities_round_trip() {
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
    fn credentials_are_stable() {
        assert_eq!(Credentials::current(), Credentials::current());
    }
}
