//! Any number of descriptors in a message that may hold only a few: if there are too many, they are
//! sent into one end of a socket pair, in as many messages as needed, and the other end goes in the
//! message in their place.
//!
//! The kernel keeps descriptors that are in a socket which is itself in flight, and closes them all
//! with the last message that holds the socket (unix(7)). So a bundle needs no cleaning up: either
//! it is received, or its descriptors are closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::errno::EMFILE;
use multiproc_os::fd_budget;
use multiproc_os::fd_passing::{self, MAX_FDS, Take};

/// At most this many descriptors go directly in a message. Few enough that every receiver has room
/// for them, whatever its limit of open files.
pub const LOOSE: usize = 16;

/// Descriptors, ready to be sent, or as they were received.
#[derive(Debug, Default)]
pub struct FdBundle {
    /// The descriptors themselves, if there are at most [`LOOSE`]; otherwise sockets into which
    /// they are packed.
    parts: Vec<OwnedFd>,
    /// The total number of descriptors.
    count: u32,
}

impl FdBundle {
    /// Packs `fds` into a bundle.
    ///
    /// # Errors
    /// Those of the system: `EMFILE`, and the limit of descriptors in flight.
    pub fn pack(fds: Vec<OwnedFd>) -> io::Result<FdBundle> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{} handles are too many", fds.len()));
        let count = u32::try_from(fds.len()).map_err(invalid)?;
        if fds.len() <= LOOSE {
            return Ok(FdBundle { parts: fds, count });
        }
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        FdBundle::pack_borrowed(&fds)
    }

    /// As [`pack`](FdBundle::pack), but doesn't close `fds`: at most [`LOOSE`] are duplicated, more
    /// are sent into sockets.
    ///
    /// # Errors
    /// As [`pack`](FdBundle::pack).
    pub fn pack_borrowed(fds: &[BorrowedFd<'_>]) -> io::Result<FdBundle> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{} handles are too many", fds.len()));
        let count = u32::try_from(fds.len()).map_err(invalid)?;
        let mut parts = Vec::new();
        if fds.len() <= LOOSE {
            for fd in fds {
                parts.push(fd.try_clone_to_owned()?);
            }
            return Ok(FdBundle { parts, count });
        }
        let mut rest = fds;
        while !rest.is_empty() {
            let (into, part) = fd_passing::pair()?;
            let before = rest.len();
            while let Some(batch) = rest.chunks(MAX_FDS).next() {
                match fd_passing::try_send_with_fds(&into, &[b"."], batch) {
                    Ok(()) => rest = &rest[batch.len()..],
                    // The socket is full, after some tens of thousands of descriptors.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && rest.len() < before => break,
                    Err(error) => return Err(error),
                }
            }
            parts.push(part);
        }
        Ok(FdBundle { parts, count })
    }

    /// A bundle as it was received; none if `count` and `parts` can't belong together.
    pub fn received(parts: Vec<OwnedFd>, count: u32) -> Option<FdBundle> {
        let loose = count as usize <= LOOSE;
        let fits = if loose { parts.len() == count as usize } else { !parts.is_empty() };
        fits.then_some(FdBundle { parts, count })
    }

    /// The descriptors that go in the message.
    pub fn parts(&self) -> &[OwnedFd] {
        &self.parts
    }

    /// The total number of descriptors.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Unpacks the descriptors, each with a number above 2. Doesn't block, and takes at most as
    /// many as announced, even if another process has the other end of a part and goes on writing
    /// to it.
    ///
    /// # Errors
    /// Those of the system, in particular `EMFILE`; `QuotaExceeded` for more descriptors than this
    /// process may have open; `InvalidData` if the bundle is incomplete or malformed. The
    /// descriptors are closed then.
    pub fn unpack(self) -> io::Result<Vec<OwnedFd>> {
        let count = self.count as usize;
        if count <= LOOSE {
            return Ok(self.parts);
        }
        fd_budget::check_limit(&self.parts, self.count)?;
        let mut fds = Vec::new();
        for part in self.parts {
            loop {
                let taken = match fd_passing::try_take(&part, &mut [0], &mut [], Take::Away) {
                    Ok(taken) if taken.len == 0 => break,
                    Ok(taken) => taken,
                    // The sender has not closed its end.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                if taken.fds_cut {
                    return Err(io::Error::from_raw_os_error(EMFILE));
                }
                if taken.fds.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "one of its messages has no handles"));
                }
                fds.extend(taken.fds);
                if fds.len() > count {
                    let what = format!("more than {count} handles arrived");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
        }
        if fds.len() != count {
            let what = format!("{} handles arrived, not {count}", fds.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(fds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Pipes that can be told apart, as each contains its number.
    fn numbered(count: usize) -> Vec<OwnedFd> {
        let one = |number: usize| {
            let (read, mut write) = io::pipe().unwrap();
            io::Write::write_all(&mut write, &number.to_le_bytes()).unwrap();
            OwnedFd::from(read)
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn order() {
        for count in [0, 1, LOOSE, LOOSE + 1, MAX_FDS, MAX_FDS + 1, 3 * MAX_FDS] {
            let bundle = FdBundle::pack(numbered(count)).unwrap();
            assert!(bundle.parts().len() <= LOOSE);
            let parts = bundle.parts().iter().map(|part| part.try_clone().unwrap()).collect();
            let received = FdBundle::received(parts, bundle.count()).unwrap();
            drop(bundle);
            let fds = received.unpack().unwrap();
            assert_eq!(fds.len(), count);
            for (number, fd) in fds.into_iter().enumerate() {
                let mut bytes = Vec::new();
                io::PipeReader::from(fd).read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, number.to_le_bytes());
            }
        }
    }

    #[test]
    fn mismatched_count() {
        assert!(FdBundle::received(numbered(1), 2).is_none());
        assert!(FdBundle::received(numbered(2), 1).is_none());
        assert!(FdBundle::received(vec![], 1000).is_none());
        let no_socket = FdBundle::received(numbered(1), 1000).unwrap();
        assert!(no_socket.unpack().is_err());
        let bundle = FdBundle::pack(numbered(100)).unwrap();
        let short = FdBundle { parts: bundle.parts, count: 101 };
        assert_eq!(short.unpack().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Regression: `unpack` went on reading for as long as anything came.
    #[test]
    fn endless_writer() {
        for with_descriptors in [false, true] {
            let (into, part) = fd_passing::pair().unwrap();
            let one = [into.as_fd()];
            let fds: &[BorrowedFd<'_>] = if with_descriptors { &one } else { &[] };
            for _ in 0..100 {
                fd_passing::send(&into, &[b"."], fds).unwrap();
            }
            let bundle = FdBundle::received(vec![part.try_clone().unwrap()], 20).unwrap();
            assert_eq!(bundle.unpack().unwrap_err().kind(), io::ErrorKind::InvalidData);
            fd_passing::peek(&part, &mut [], false).expect("the rest is still there");
        }
    }
}
