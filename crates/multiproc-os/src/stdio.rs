//! The standard streams, descriptors 0 to 2: which of them are open, and replacing them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The descriptors 0 to 2 of this process; None for a closed one.
pub fn streams() -> [Option<BorrowedFd<'static>>; 3] {
    [0, 1, 2].map(|number: RawFd| {
        // SAFETY: the number is not -1, and the kernel checks it whenever it is used. The standard
        // library assumes that these three may be used by number at any time.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
    })
}

/// Calls `attempt`, which uses the result of [`streams`] in a system call, until it doesn't fail
/// with `EBADF`. The number of a closed stream goes to the next file that any thread opens, perhaps
/// only for a moment, so a stream may be open when it is checked and closed when it is used.
///
/// # Errors
/// Those of `attempt`; `EBADF` after 1000 attempts.
pub fn retry_if_closed<R>(mut attempt: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    const ATTEMPTS: usize = 1000;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            result => return result,
        }
    }
    attempt()
}

/// Makes `fds` the descriptors 0 to 2 of this process, with [`placeholder`] in place of a None.
///
/// # Errors
/// As [`placeholder`].
pub fn replace(fds: [Option<OwnedFd>; 3]) -> io::Result<()> {
    for (number, fd) in fds.into_iter().enumerate() {
        let fd = match fd {
            Some(fd) => fd,
            None => placeholder()?,
        };
        // SAFETY: both numbers are open or free, and dup2 touches no memory. The files that 0 to 2
        // referred to have no owner in Rust: the standard library uses only the numbers.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Writes `bytes` to the descriptor `number`, one of 0 to 2, bypassing the standard library's
/// buffer and lock. Blocks while there is no room, even if the descriptor is non-blocking.
///
/// # Errors
/// Those of write(2): `EPIPE`, `EBADF`, `ENOSPC`, `EIO`.
///
/// # Panics
/// If `number` is above 2.
pub fn write_all(number: usize, mut bytes: &[u8]) -> io::Result<()> {
    let Some(fd) = streams()[number] else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => drop(crate::poll::wait_writable(fd, None)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes a message to stderr as the standard library writes a panic message: without the lock of
/// [`std::io::Stderr`], which another thread may hold forever, and ignoring errors. In one piece,
/// so that the messages of two processes don't mix.
pub fn write_message(message: &str) {
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

/// Makes the given descriptors the ones with their index, 0 to 2, and leaves the others as they
/// are. The number of each of `fds` must be above 2.
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

/// Opens [`placeholder`] in place of each of 0 to 2 that is closed, as the Rust runtime does at the
/// start of `main`.
///
/// # Errors
/// As [`placeholder`].
pub fn ensure_open() -> io::Result<()> {
    for (number, _) in streams().iter().enumerate().filter(|(_, stream)| stream.is_none()) {
        let fd = placeholder()?;
        // SAFETY: as in `replace`; the number is free.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Closes the file that `fd` refers to, and makes its number refer to [`placeholder`], so that the
/// owner of the number still has a valid descriptor.
///
/// # Errors
/// As [`placeholder`].
pub fn replace_by_null(fd: &OwnedFd) -> io::Result<()> {
    let null = placeholder()?;
    // SAFETY: both are open, and `fd` still owns its number.
    crate::cvt(unsafe { libc::dup3(null.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// Opens `/dev/null` for reading and writing; close-on-exec, numbered above 2.
///
/// # Errors
/// `EMFILE`, `ENFILE`; an error that names the file when it can't be opened, for example in a root
/// directory without `/dev`.
pub fn dev_null() -> io::Result<OwnedFd> {
    open_null().map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => error,
        _ => io::Error::new(error.kind(), format!("/dev/null can't be opened: {error}")),
    })
}

/// The replacement for a descriptor that must not be used: `/dev/null`, or, where that can't be
/// opened, the reading end of a pipe with no writing end. A read reports the end of the file; a
/// write fails with `EBADF`, which the standard library treats as a closed stream.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn placeholder() -> io::Result<OwnedFd> {
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
