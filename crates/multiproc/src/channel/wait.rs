//! [`wait_any`]: waits for any of several objects of different kinds, by one poll(2) for all of
//! them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use multiproc_os::poll;
use multiproc_shm::wait::deadline::Deadline;

use super::connection::{Connection, Receiver};
use crate::handle::Handle;
use crate::sync::WaitError;

/// An object that [`wait_any`] can wait for: a [`Child`](crate::Child), a [`Connection`], a
/// [`Receiver`], a [`Queue`](crate::Queue), a [`Listener`](crate::connection::Listener), any
/// descriptor.
///
/// To implement it for a type of your own, return its descriptor. The other methods are for objects
/// that may be ready while their descriptor is not readable, or the other way round: one that has
/// read ahead, or one with a descriptor that only serves for waking up waiters.
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
/// assert_eq!(multiproc::wait_any(&[&Reader { pipe }], None)?, [0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Waitable {
    /// Returns the descriptor to sleep on. It is readable, or closed, when the object is or may be
    /// ready.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Called before each sleep. Returns whether the object is ready already, whatever its
    /// descriptor says. If the object must know that a thread is about to sleep on its descriptor,
    /// this call tells it. When it returns false, whatever makes the object ready from then on must
    /// make the descriptor readable.
    ///
    /// # Errors
    /// Errors of the system; [`wait_any`] returns them.
    fn ready(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Called when the descriptor has become readable. Returns whether the object is ready. If not,
    /// [`wait_any`] continues with [`ready`](Waitable::ready). So if the descriptor is readable
    /// and the object isn't ready, this must make the descriptor unreadable; otherwise the wait is
    /// a busy loop.
    ///
    /// # Errors
    /// Errors of the system; [`wait_any`] returns them.
    fn woken(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Called once at the end of a wait, when this thread no longer sleeps on the descriptor.
    fn finished(&self) {}
}

/// Waits until at least one of `objects` is ready, but for at most `timeout` (`None`: for as long
/// as it takes; zero: not at all). Returns the indices of all objects that are ready, in ascending
/// order, or an empty list when the timeout has expired. Python's
/// `multiprocessing.connection.wait`.
///
/// An object that is ready stays ready until it is used, so a loop that waits for the next child to
/// end must take a child that has ended off its list. Each call asks the kernel about all objects,
/// which takes some 0.1 ms for a thousand.
///
/// A connection or a receiver is ready when there is a message, or when no sender is left; a queue
/// when there is an item or it is closed, a [`Consumer`](crate::queue::Consumer) also when no
/// process is left that could put an item; a listener when a client may be there; a child when it
/// has ended, and it has been reaped then; a descriptor when it is readable or closed.
///
/// A handle that could put an item itself ([`Queue`](crate::Queue),
/// [`JoinableQueue`](crate::JoinableQueue)) doesn't become ready here because all other producers
/// are gone: wait for a `Consumer`, or for the children as well.
///
/// Without any objects, this waits for the timeout; without a timeout that would be forever, so
/// then it returns at once.
///
/// ```
/// use multiproc::connection::Sender;
/// use multiproc::{Process, wait_any};
///
/// fn speak(sender: Sender<String>) {
///     sender.send("hello".into()).unwrap();
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = multiproc::connection::one_way()?;
/// let child = Process::new(speak, (sender,)).start()?;
/// loop {
///     let ready = wait_any(&[&receiver, &child], None)?;
///     if ready.contains(&0) {
///         match receiver.recv() {
///             Ok(text) => assert_eq!(text, "hello"),
///             Err(_) => break, // the end: a process's ends of pipes are closed a little before it has ended
///         }
///     }
/// }
/// child.wait()?;
/// assert_eq!(wait_any(&[&receiver, &child], None)?, [0, 1]);
/// # Ok(())
/// # }
/// ```
///
/// For objects of one type, such as the elements of a `Vec`, make a list of references first:
///
/// ```
/// use std::time::Duration;
/// use multiproc::{Process, Waitable, wait_any};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut children = Vec::new();
/// for millis in [30, 10, 20] {
///     children.push(Process::new(|millis| std::thread::sleep(Duration::from_millis(millis)), (millis,)).start()?);
/// }
/// while !children.is_empty() {
///     let all: Vec<&dyn Waitable> = children.iter().map(|child| child as _).collect();
///     // From the last, so that the indices of the others stay right.
///     for index in wait_any(&all, None)?.into_iter().rev() {
///         let child = children.remove(index);
///         println!("{} has ended: {}", child.name(), child.wait()?);
///         child.join()?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # What can be waited for, and how
///
/// | what | blocking | with a timeout | by descriptor: `wait_any`, `as_fd` and poll(2) | in `async` code |
/// | --- | --- | --- | --- | --- |
/// | a process | `wait`, `join` | `wait_timeout`, `join_timeout`, [`wait_all`](crate::wait_all) | [`Child`](crate::Child), [`ProcessHandle`](crate::process::ProcessHandle) | `.await`; `terminate_async`, `kill_async` |
/// | an item of a queue | `get` | `get_timeout` | [`Queue`](crate::Queue), [`Consumer`](crate::queue::Consumer), [`JoinableQueue`](crate::JoinableQueue) | `get_async` |
/// | room in a queue | `put` | `put_timeout` | – | `put_async` |
/// | the end of all tasks | `join` of a `JoinableQueue` | `join_timeout` | – | – |
/// | a message, or the end | `recv`, `recv_bytes` | `recv_timeout`, `recv_bytes_timeout` | [`Receiver`](crate::connection::Receiver), [`Connection`](crate::connection::Connection) | `recv_async`, `recv_bytes_async` |
/// | room in a pipe | `send`, `send_bytes` | `send_timeout`, `send_bytes_timeout` | – | `send_async`, `send_bytes_async` |
/// | a client | `accept` | `accept_timeout` | [`Listener`](crate::connection::Listener) | `accept_async` |
/// | a lock, a mutex | `lock` | `lock_timeout` | – | `lock_async` |
/// | a permit | `acquire` | `acquire_timeout` | – | `acquire_async` |
/// | an event | `wait` | `wait_timeout` | – | `wait_async` |
/// | a barrier, a condition, other locks | yes | yes | – | –; see [`sync`](crate::sync) |
///
/// The last column needs the feature `async`, except for processes. For a timeout there, use that
/// of the runtime, such as `tokio::time::timeout`.
///
/// # Errors
/// [`WaitError::Io`] if the system refuses: `ENOMEM`; `ResourceBusy` if one of the objects is an
/// end of a TCP connection that another process uses.
#[doc(alias = "wait")]
pub fn wait_any(objects: &[&dyn Waitable], timeout: impl Into<Option<Duration>>) -> Result<Vec<usize>, WaitError> {
    let deadline = Deadline::from_now(timeout);
    if objects.is_empty() && deadline.instant().is_none() {
        return Ok(Vec::new());
    }
    let _finished = Finished(objects);
    wait_until(objects, deadline.instant()).map_err(|source| WaitError::Io { what: "wait for several objects", source })
}

/// Calls [`Waitable::finished`] of all objects when it is dropped.
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
        // If one is ready, only look at the others, without sleeping.
        let until = if ready.is_empty() { deadline } else { Some(Instant::now()) };
        let already = ready.len();
        let woken = poll::wait_any_in(&fds, until)?;
        // Check the time even if descriptors are readable: a peer that sends a long message slowly
        // makes its descriptor readable again and again while the receiver isn't ready.
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

    /// A part of a message, over TCP, doesn't make the receiver ready. It is read, so that the
    /// descriptor isn't readable any more.
    fn woken(&self) -> io::Result<bool> {
        self.poll_with(Deadline::Now)
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

/// Implements [`Waitable`] for types that are ready when their descriptor is readable.
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
