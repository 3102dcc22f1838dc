//! Pipes: a non-blocking reader (pipe2(2), `FIONREAD`), and reading pipes until their end or until
//! their writing process has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::poll::{PollFd, PollFlags, poll_until};

/// Makes a pipe and returns its reader and writer, close-on-exec and numbered above 2. Reads never
/// block; writes block while the pipe is full.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (reader, writer) = (crate::fd_passing::above_stdio(reader)?, crate::fd_passing::above_stdio(writer)?);
    // Set for the reader only: the ends have separate open file descriptions.
    rustix::fs::fcntl_setfl(&reader, rustix::fs::fcntl_getfl(&reader)? | rustix::fs::OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

/// The number of bytes in the pipe.
///
/// # Errors
/// None is expected.
pub fn available(reader: impl AsFd) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(reader)?).unwrap_or(usize::MAX))
}

/// Waits until the pipe has room, then writes as much of `bytes` as fits.
///
/// # Errors
/// `BrokenPipe` when no process has the reading end open any more.
pub fn write(writer: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::write(&writer, bytes))?)
}

/// Reads the available bytes, up to the length of `buffer`. Returns 0 at the end: no process has
/// the writing end open any more.
///
/// # Errors
/// `WouldBlock` when the pipe is empty.
pub fn read(reader: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut *buffer))?)
}

/// Reads each of `pipes` until its end, or until the process has ended and all that it wrote has
/// been read: other processes that hold the pipes open don't delay the return. The bytes read are
/// returned in any case.
///
/// # Errors
/// Those of poll(2), read(2) and fcntl(2); none is expected.
pub fn read_until_ended<const N: usize>(
    mut pipes: [Option<OwnedFd>; N],
    pidfd: impl AsFd,
) -> (io::Result<()>, [Vec<u8>; N]) {
    let mut read = [const { Vec::new() }; N];
    let result = fill(&mut pipes, pidfd.as_fd(), &mut read);
    (result, read)
}

fn fill<const N: usize>(
    pipes: &mut [Option<OwnedFd>; N],
    pidfd: std::os::fd::BorrowedFd<'_>,
    read: &mut [Vec<u8>; N],
) -> io::Result<()> {
    for pipe in pipes.iter().flatten() {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    while pipes.iter().any(Option::is_some) {
        let ended = {
            let mut polled: Vec<PollFd<'_>> = std::iter::once(PollFd::from_borrowed_fd(pidfd, PollFlags::IN))
                .chain(pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)))
                .collect();
            match poll_until(&mut polled, None) {
                // The calling thread waits interruptibly, but a part of the output would be
                // useless.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            !polled[0].revents().is_empty()
        };
        for (pipe, read) in pipes.iter_mut().zip(&mut *read) {
            if let Some(fd) = pipe
                && drain(fd, read)?
            {
                *pipe = None;
            }
        }
        // The process had ended before the pipes were drained, so these were its last bytes.
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the bytes available now, but not those written meanwhile. Returns true at the end.
fn drain(pipe: &OwnedFd, read: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    // An empty pipe may be at its end, which only a read reveals.
    let mut left = available(pipe)?.max(1);
    while left > 0 {
        let part = left.min(buffer.len());
        match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut buffer[..part])) {
            Ok(0) => return Ok(true),
            Ok(len) => {
                read.extend_from_slice(&buffer[..len]);
                left -= len;
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn read_available() {
        let (reader, writer) = pair().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(available(&reader).unwrap(), 0);
        assert_eq!(read(&reader, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        rustix::io::write(&writer, b"hello").unwrap();
        assert_eq!(available(&reader).unwrap(), 5);
        assert_eq!(read(&reader, &mut buffer).unwrap(), 5);
        drop(writer);
        // A process that another test has made at this moment has the write end until it ends.
        assert!(crate::poll::wait_readable(&reader, None).unwrap());
        assert_eq!(read(&reader, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn grandchild_with_write_end() {
        // The sleeper holds the pipe open for longer than the test may wait.
        let mut child = Command::new("sh")
            .args(["-c", "head -c 200000 /dev/zero; sleep 1000 & echo $!"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = crate::pidfd::open(child.id() as i32).unwrap();
        let (result, [read]) = read_until_ended([child.stdout.take().map(OwnedFd::from)], &pidfd);
        result.unwrap();
        let text = String::from_utf8(read[200_000..].to_vec()).unwrap();
        crate::pidfd::send_signal(crate::pidfd::open(text.trim().parse().unwrap()).unwrap(), libc::SIGKILL).unwrap();
        child.wait().unwrap();
    }
}
