//! Waiting for any of several things, of whatever kind: poll(2), once for all of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use multiproc_os::poll;

use super::connection::{Connection, Receiver};
use super::patience::Patience;
use crate::{Error, Handle, Result};

/// What [`wait`](wait()) can wait for: a [`Connection`], a [`Receiver`], a [`Queue`](crate::Queue), a [`Child`](crate::Child), any
/// descriptor.
///
/// Implement it for a type of your own by giving its descriptor. The other methods are for objects whose descriptor does not say all, such as
/// one that has read ahead, or one whose descriptor is only a bell that others ring.
///
/// ```
/// use std::io::Write;
/// use std::os::fd::{AsFd, BorrowedFd};
///
/// use multiproc::Waitable;
///
/// struct Reader {
///     pipe: std::io::PipeReader,
/// }
///
/// impl Waitable for Reader {
///     fn fd(&self) -> BorrowedFd<'_> {
///         self.pipe.as_fd()
///     }
/// }
///
/// let (pipe, mut writer) = std::io::pipe()?;
/// writer.write_all(b"x")?;
/// assert_eq!(multiproc::wait(&[&Reader { pipe }], None)?, [0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Waitable {
    /// What to sleep on: it is readable, or closed, when the object is ready, or may be.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Called before each sleep: whether the object is ready already, whatever its descriptor says. An object that must be told that somebody
    /// is going to sleep on its descriptor is told by this; when it says false, whatever makes the object ready from then on must make the
    /// descriptor readable.
    ///
    /// # Errors
    /// Those of the system; [`wait`](wait()) gives them on.
    fn ready(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Called when the descriptor has become readable: whether that means that the object is ready. If not, [`wait`](wait()) goes on, by way of
    /// [`ready`](Waitable::ready). So a descriptor that stays readable must be made unreadable here, or the wait is a busy one.
    ///
    /// # Errors
    /// Those of the system; [`wait`](wait()) gives them on.
    fn woken(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Called once after [`ready`](Waitable::ready), when nobody sleeps on the descriptor any more.
    fn finished(&self) {}
}

/// Waits until at least one of `objects` is ready, but no longer than `timeout` (`None`: however long it takes; zero: not at all). Gives the places
/// of all that are, in ascending order; none when the time was up before.
///
/// A connection or receiver is ready when there is a message, or the end; a queue when there is an item, or it is closed, a [`Consumer`](crate::Consumer) also when nobody is left who could put
/// anything; a child when it has ended; a descriptor when it is readable or closed. It is Python's `multiprocessing.connection.wait`.
///
/// A handle that could put something itself ([`Queue`](crate::Queue), [`JoinableQueue`](crate::JoinableQueue)) is never at that end here: wait for a `Consumer`, or for the children too.
///
/// Of objects of one kind make a list first: `let all: Vec<&dyn Waitable> = receivers.iter().map(|receiver| receiver as _).collect();`. With no
/// objects at all it waits for the timeout; without one it would be for ever, so it returns at once.
///
/// ```
/// use multiproc::{Process, Sender, wait};
///
/// fn speak(sender: Sender<String>) {
///     sender.send("hello".into()).unwrap();
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = multiproc::one_way()?;
/// let child = Process::new(speak, (sender,)).start()?;
/// loop {
///     let ready = wait(&[&receiver, &child], None)?;
///     if ready.contains(&0) {
///         match receiver.recv() {
///             Ok(text) => assert_eq!(text, "hello"),
///             Err(_) => break, // the end: a process's ends of pipes are closed a little before it has ended
///         }
///     }
/// }
/// child.wait()?;
/// assert_eq!(wait(&[&receiver, &child], None)?, [0, 1]);
/// # Ok(())
/// # }
/// ```
///
/// # What can be waited for, and how
///
/// | what | blocking | with a timeout | by descriptor: [`wait`](crate::wait()), `as_fd` and poll(2) | in `async` code |
/// | --- | --- | --- | --- | --- |
/// | a process | `wait`, `join` | `wait_timeout`, `join_timeout`, [`wait_any`](crate::wait_any), [`wait_all`](crate::wait_all) | [`Child`](crate::Child), [`ProcessHandle`](crate::ProcessHandle) | `.await`; `terminate_async`, `kill_async` |
/// | an item of a queue | `get` | `get_timeout` | [`Queue`](crate::Queue), [`Consumer`](crate::Consumer), [`JoinableQueue`](crate::JoinableQueue) | `get_async` |
/// | room in a queue | `put` | `put_timeout` | – | `put_async` |
/// | the end of all tasks | `join` of a `JoinableQueue` | `join_timeout` | – | – |
/// | a message, or the end | `recv`, `recv_bytes` | `recv_timeout`, `recv_bytes_timeout` | [`Receiver`](crate::Receiver), [`Connection`](crate::Connection) | `recv_async`, `recv_bytes_async` |
/// | room in a pipe | `send`, `send_bytes` | `send_timeout`, `send_bytes_timeout` | – | `send_async`, `send_bytes_async` |
/// | a client | `accept` | `accept_timeout` | [`Listener`](crate::Listener) | `accept_async` |
/// | a lock, a mutex | `lock` | `lock_timeout` | – | `lock_async` |
/// | a permit | `acquire` | `acquire_timeout` | – | `acquire_async` |
/// | an event | `wait` | `wait_timeout` | – | `wait_async` |
/// | a barrier, a condition, other locks | yes | yes | – | –; see [`sync`](crate::sync) |
///
/// What is in the last column needs the feature `async`, but for processes; a timeout there is the
/// runtime's, as in `tokio::time::timeout`.
///
/// # Errors
/// [`Error::Setup`] if the system refuses: `ENOMEM`; `ResourceBusy` if another process uses one end of a TCP connection among them.
pub fn wait(objects: &[&dyn Waitable], timeout: impl Into<Option<Duration>>) -> Result<Vec<usize>> {
    let patience = Patience::of(timeout.into());
    if objects.is_empty() && patience.deadline().is_none() {
        return Ok(Vec::new());
    }
    let _finished = Finished(objects);
    wait_until(objects, patience.deadline()).map_err(|source| Error::Setup { what: "wait for several objects", source })
}

/// Tells the objects.
struct Finished<'a>(&'a [&'a dyn Waitable]);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|object| object.finished());
    }
}

fn wait_until(objects: &[&dyn Waitable], deadline: Option<Instant>) -> io::Result<Vec<usize>> {
    let fds: Vec<BorrowedFd<'_>> = objects.iter().map(|object| object.fd()).collect();
    loop {
        let mut ready = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            if object.ready()? {
                ready.push(index);
            }
        }
        // Others may be ready as well.
        let until = if ready.is_empty() { deadline } else { Some(Instant::now()) };
        let already = ready.len();
        let woken = poll::wait_readable(&fds, until)?;
        // Also when a descriptor is readable over and over without its object being ready, as with one who sends a long message slowly.
        let time_is_up = woken.is_empty() || until.is_some_and(|until| until <= Instant::now());
        for index in woken {
            if ready[..already].binary_search(&index).is_err() && objects[index].woken()? {
                ready.push(index);
            }
        }
        if !ready.is_empty() || time_is_up {
            ready.sort_unstable();
            return Ok(ready);
        }
    }
}

impl<W: Waitable + ?Sized> Waitable for &W {
    fn fd(&self) -> BorrowedFd<'_> {
        (**self).fd()
    }

    fn ready(&self) -> io::Result<bool> {
        (**self).ready()
    }

    fn woken(&self) -> io::Result<bool> {
        (**self).woken()
    }

    fn finished(&self) {
        (**self).finished();
    }
}

impl<T> Waitable for Receiver<T> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn ready(&self) -> io::Result<bool> {
        self.is_ready()
    }

    /// A part of a message, over TCP, is not enough; it is taken out of the descriptor then.
    fn woken(&self) -> io::Result<bool> {
        self.poll_with(Patience::None)
    }
}

impl<S, R> Waitable for Connection<S, R> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn ready(&self) -> io::Result<bool> {
        self.receiver().ready()
    }

    fn woken(&self) -> io::Result<bool> {
        self.receiver().woken()
    }
}

/// Types that are ready when their descriptor is.
macro_rules! by_descriptor {
    ($($type:ty),* $(,)?) => {
        $(impl Waitable for $type {
            fn fd(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }
        })*
    };
}

by_descriptor!(
    BorrowedFd<'_>,
    OwnedFd,
    std::io::PipeReader,
    std::io::Stdin,
    std::net::TcpListener,
    std::net::TcpStream,
    std::net::UdpSocket,
    std::os::unix::net::UnixDatagram,
    std::os::unix::net::UnixListener,
    std::os::unix::net::UnixStream,
    std::process::ChildStderr,
    std::process::ChildStdout,
);

impl<W: Waitable> Waitable for Handle<W> {
    fn fd(&self) -> BorrowedFd<'_> {
        (**self).fd()
    }

    fn ready(&self) -> io::Result<bool> {
        (**self).ready()
    }

    fn woken(&self) -> io::Result<bool> {
        (**self).woken()
    }

    fn finished(&self) {
        (**self).finished();
    }
}
