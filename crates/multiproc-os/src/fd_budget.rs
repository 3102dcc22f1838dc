//! Checks whether this process has room for the descriptors that are waiting in its sockets:
//! `RLIMIT_NOFILE`, see getrlimit(2).
//!
//! The number of descriptors comes from a peer, which may claim any number. So before room is
//! looked for, [`check_limit`] checks whether the sockets can hold that number at all, and whether
//! this process could ever have that number open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::fd_passing::{self, MAX_FDS};
use crate::limits::{self, Resource};

/// Returns an error if this process can never receive `count` descriptors from `sockets`, even if
/// it closes others.
///
/// # Errors
/// `InvalidData` when the sockets can't hold that number; `QuotaExceeded` when it is more than this
/// process may have open.
pub fn check_limit(sockets: &[OwnedFd], count: u32) -> io::Result<()> {
    let count = count as usize;
    // A message has at least one byte, since an empty one would mean the end.
    let most = |socket: &OwnedFd| match fd_passing::is_packet_socket(socket.as_fd()) {
        true => crate::pipe::available(socket).unwrap_or(0).saturating_mul(MAX_FDS),
        false => 0,
    };
    if sockets.iter().map(most).fold(0, usize::saturating_add) < count {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("its sockets hold fewer than {count} handles")));
    }
    let (limit, _) = limits::get(Resource::OpenFiles)?;
    // Also open are those numbered 0 to 2, the sockets, and the socket that the sockets came
    // through.
    if (count + sockets.len() + 4) as u64 > limit {
        let what = format!("{count} handles exceed this process's limit of open files ({limit}, RLIMIT_NOFILE)");
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
    }
    Ok(())
}

/// Checks whether there is room at this moment for the `count` descriptors waiting in `sockets`.
/// Returns an error only if there may be room later; if not, the caller learns of it from
/// [`check_limit`].
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn check_now(sockets: &[OwnedFd], count: u32) -> io::Result<()> {
    let Some(socket) = sockets.first().filter(|_| check_limit(sockets, count).is_ok()) else { return Ok(()) };
    let rooms: io::Result<Vec<OwnedFd>> = (0..count).map(|_| socket.try_clone()).collect();
    rooms.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_and_excessive_counts() {
        let (a, b) = fd_passing::pair().unwrap();
        let kind = |count| check_limit(std::slice::from_ref(&b), count).map_err(|error| error.kind());
        assert_eq!(kind(1), Err(io::ErrorKind::InvalidData));
        fd_passing::send(&a, &[b"."], &[a.as_fd()]).unwrap();
        assert_eq!((kind(1), kind(MAX_FDS as u32)), (Ok(()), Ok(())));
        assert_eq!(kind(MAX_FDS as u32 + 1), Err(io::ErrorKind::InvalidData));
        // Enough bytes for as many descriptors as this process may have open.
        let (limit, _) = limits::get(Resource::OpenFiles).unwrap();
        fd_passing::send(&a, &[&vec![0; limit as usize / MAX_FDS + 1]], &[]).unwrap();
        assert_eq!(kind(limit as u32), Err(io::ErrorKind::QuotaExceeded));
        assert_eq!(kind(u32::MAX), Err(io::ErrorKind::InvalidData));
        for count in [0, 10, limit as u32, u32::MAX] {
            check_now(std::slice::from_ref(&b), count).unwrap();
            check_now(&[], count).unwrap();
        }
        let (reader, writer) = crate::pipe::pair().unwrap();
        rustix::io::write(&writer, &[0; 1000]).unwrap();
        assert_eq!(check_limit(&[reader], 17).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
