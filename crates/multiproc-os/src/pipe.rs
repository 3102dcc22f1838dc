//! Reading pipes to their end, or to the end of the process that writes to them, whichever comes first.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

/// Reads `pipes` until each has come to its end, or the process has ended and what it has written has been read: other processes
/// that hold them open keep nobody waiting. What was read comes back in any case.
///
/// # Errors
/// As poll(2), read(2) and fcntl(2); none is expected.
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
            rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
            !polled[0].revents().is_empty()
        };
        for (pipe, read) in pipes.iter_mut().zip(&mut *read) {
            if let Some(fd) = pipe
                && drain(fd, read)?
            {
                *pipe = None;
            }
        }
        // It had ended before they were emptied, so that was all of it.
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what is there. True at the end.
fn drain(pipe: &OwnedFd, read: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut buffer)) {
            Ok(0) => return Ok(true),
            Ok(len) => read.extend_from_slice(&buffer[..len]),
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_was_written_is_read_and_a_grandchild_delays_nobody() {
        // The sleeper holds the pipe open for longer than anybody waits.
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
