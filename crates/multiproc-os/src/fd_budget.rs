//! Whether this process has room for the descriptors that lie in sockets it has: `RLIMIT_NOFILE`, see getrlimit(2).
//!
//! How many those are is said by somebody else, who may say anything. So before room is looked for, it is seen whether there can be so many
//! in the sockets at all, and whether this process could ever have so many open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::fd_passing::{self, MAX_FDS};
use crate::limits::{self, Resource};

/// An error if `count` descriptors will never come out of `sockets` in this process, whatever it closes.
///
/// # Errors
/// `InvalidData` when there can't be so many in them, `QuotaExceeded` when they are more than this process may have open.
pub fn is_possible(sockets: &[OwnedFd], count: u32) -> io::Result<()> {
    let count = count as usize;
    // Each message there has a byte at least, or it would be the end.
    let most = |socket: &OwnedFd| match fd_passing::is_packet_socket(socket.as_fd()) {
        true => crate::pipe::available(socket).unwrap_or(0).saturating_mul(MAX_FDS),
        false => 0,
    };
    if sockets.iter().map(most).fold(0, usize::saturating_add) < count {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("there are no {count} handles in it")));
    }
    let (limit, _) = limits::get(Resource::OpenFiles)?;
    // Beside them are those numbered 0 to 2, the sockets, and what the sockets came by.
    if (count + sockets.len() + 4) as u64 > limit {
        let what = format!("{count} handles are more than this process may have open files ({limit}, RLIMIT_NOFILE)");
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
    }
    Ok(())
}

/// Sees whether there is room now for `count` descriptors that lie in `sockets`; an error only if that may be another time.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn look(sockets: &[OwnedFd], count: u32) -> io::Result<()> {
    let Some(socket) = sockets.first().filter(|_| is_possible(sockets, count).is_ok()) else { return Ok(()) };
    let rooms: io::Result<Vec<OwnedFd>> = (0..count).map(|_| socket.try_clone()).collect();
    rooms.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_true_is_told_from_what_is_too_much() {
        let (a, b) = fd_passing::pair().unwrap();
        let kind = |count| is_possible(std::slice::from_ref(&b), count).map_err(|error| error.kind());
        assert_eq!(kind(1), Err(io::ErrorKind::InvalidData));
        fd_passing::send(&a, &[b"."], &[a.as_fd()]).unwrap();
        assert_eq!((kind(1), kind(MAX_FDS as u32)), (Ok(()), Ok(())));
        assert_eq!(kind(MAX_FDS as u32 + 1), Err(io::ErrorKind::InvalidData));
        // Enough bytes for all that this process may have.
        let (limit, _) = limits::get(Resource::OpenFiles).unwrap();
        fd_passing::send(&a, &[&vec![0; limit as usize / MAX_FDS + 1]], &[]).unwrap();
        assert_eq!(kind(limit as u32), Err(io::ErrorKind::QuotaExceeded));
        assert_eq!(kind(u32::MAX), Err(io::ErrorKind::InvalidData));
        for count in [0, 10, limit as u32, u32::MAX] {
            look(std::slice::from_ref(&b), count).unwrap();
            look(&[], count).unwrap();
        }
        let (reader, writer) = crate::pipe::pair().unwrap();
        rustix::io::write(&writer, &[0; 1000]).unwrap();
        assert_eq!(is_possible(&[reader], 17).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
