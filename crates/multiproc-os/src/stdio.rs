//! Descriptors 0 to 2: which of them are open, and putting others in their place.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Descriptors 0 to 2 of this process; none for one that is closed.
pub fn streams() -> [Option<BorrowedFd<'static>>; 3] {
    [0, 1, 2].map(|number: RawFd| {
        // SAFETY: the number is not -1, and the kernel checks it whenever it is used. The standard library takes it for granted that these
        // three may be used by number at any time.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
    })
}

/// Calls `attempt`, which uses what [`streams`] returns in a system call, again for as long as the
/// call fails with `EBADF`: the number of a stream that is closed goes to whatever any thread
/// opens next, perhaps for a moment only, so that it may be open when it is looked at and closed
/// when it is used.
///
/// # Errors
/// Those of `attempt`; `EBADF` after 1000 attempts.
pub fn again_if_closed<R>(mut attempt: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    const ATTEMPTS: usize = 1000;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            result => return result,
        }
    }
    attempt()
}

/// Makes `fds` the descriptors 0 to 2 of this process; [`nothing`] where there is none.
///
/// # Errors
/// As [`nothing`].
pub fn replace(fds: [Option<OwnedFd>; 3]) -> io::Result<()> {
    for (number, fd) in fds.into_iter().enumerate() {
        let fd = match fd {
            Some(fd) => fd,
            None => nothing()?,
        };
        // SAFETY: both numbers are open or free, and dup2 touches no memory. What 0 to 2 were open on belongs to nobody: the
        // standard library uses the numbers alone.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Writes `bytes` to the descriptor `number`, one of 0 to 2, past the standard library's buffer and lock. Waits if it must, even if the
/// descriptor was set not to.
///
/// # Errors
/// As write(2): `EPIPE`, `EBADF`, `ENOSPC`, `EIO`.
///
/// # Panics
/// For a number that is none of these.
pub fn write_all(number: usize, mut bytes: &[u8]) -> io::Result<()> {
    let Some(fd) = streams()[number] else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => drop(crate::poll::wait_for_room(fd, None)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes a message to stderr as the standard library writes that of a panic: past the lock of
/// [`std::io::Stderr`], which another thread may hold for ever, and without a word if it can't be
/// written. In one piece, so that the messages of two processes don't mix.
pub fn tell(message: &str) {
    let Some(fd) = streams()[2] else { return };
    let mut bytes = message.as_bytes();
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) if written > 0 => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Makes those of `fds` that are there, none of them numbered 0 to 2 itself, the descriptors of their numbers, and leaves the others as they
/// are.
///
/// # Errors
/// None is expected.
pub fn replace_some(fds: [Option<OwnedFd>; 3]) -> io::Result<()> {
    for (number, fd) in fds.into_iter().enumerate().filter_map(|(number, fd)| Some((number, fd?))) {
        // SAFETY: as in `replace`.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Opens [`nothing`] in place of each of 0 to 2 that is closed, as the Rust runtime does at the
/// start of `main`.
///
/// # Errors
/// As [`nothing`].
pub fn ensure_open() -> io::Result<()> {
    for (number, _) in streams().iter().enumerate().filter(|(_, stream)| stream.is_none()) {
        let fd = nothing()?;
        // SAFETY: as in `replace`; the number is free.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Closes what `fd` is open on, in such a way that the number stays its owner's: [`nothing`] takes
/// the place.
///
/// # Errors
/// As [`nothing`].
pub fn replace_by_null(fd: &OwnedFd) -> io::Result<()> {
    let null = nothing()?;
    // SAFETY: both are open, and the number goes on belonging to `fd`.
    crate::cvt(unsafe { libc::dup3(null.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// `/dev/null`, for reading and writing; close-on-exec, its number above 2.
///
/// # Errors
/// `EMFILE`, `ENFILE`; an error that names the file when it can't be opened, as in a root directory
/// without `/dev`.
pub fn dev_null() -> io::Result<OwnedFd> {
    open_null().map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => error,
        _ => io::Error::new(error.kind(), format!("/dev/null can't be opened: {error}")),
    })
}

/// What takes the place of a descriptor that is not to be used: `/dev/null`, or, where that can't
/// be opened, the reading end of a pipe that has no other end. Reading from it is the end; the
/// standard library takes the `EBADF` of writing to it for a stream that is closed.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn nothing() -> io::Result<OwnedFd> {
    match open_null() {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            let (reader, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            crate::fd_passing::above_stdio(reader)
        }
        opened => opened,
    }
}

fn open_null() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    crate::fd_passing::above_stdio(file.into())
}
