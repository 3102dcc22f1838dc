//! [`pipe`] and [`one_way`]: channels with two ends that exchange messages.
//!
//! Each direction is a pair of sockets of its own (unix(7)), so a pipe in both directions takes
//! four. With one pair for both directions, a receiver could not see that the last sender is gone
//! as long as the same end still receives: the end of a socket is the end of both directions, and
//! shutdown(2) would act on all processes that share it. With a pair per direction, each direction
//! ends when the last of its senders is dropped or dies, in whatever process, and sending fails
//! when the last of its receivers is gone.

use multiproc_os::fd_passing;

use super::address::Peer;
use super::connection::{Connection, Receiver, Sender};
use crate::create_error::CreateError;

/// Creates a pipe in both directions: what one end sends, the other receives. Python's `Pipe()`.
///
/// Give one end to another process: as an argument or a result, as a part of one, or in a message.
/// `T` is what the first end sends and the second receives, and `U` is what comes back.
///
/// ```
/// use multiproc::connection::{Connection, RecvError};
/// use multiproc::Process;
///
/// fn squares(connection: Connection<u64, u64>) {
///     while let Ok(number) = connection.recv() {
///         connection.send(number * number).unwrap();
///     }
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (ours, theirs) = multiproc::pipe()?;
/// let child = Process::new(squares, (theirs,)).start()?;
/// ours.send(12)?;
/// assert_eq!(ours.recv()?, 144);
/// drop(ours); // so the child's recv comes to the end
/// child.join()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CreateError`](crate::CreateError) when no descriptors are left (`EMFILE`): a pipe takes four,
/// two for each end.
#[allow(clippy::type_complexity)]
pub fn pipe<T, U>() -> Result<(Connection<T, U>, Connection<U, T>), CreateError> {
    let ((here, there), (back, to)) = (one_way()?, one_way()?);
    Ok((Connection::join(here, to), Connection::join(back, there)))
}

/// Creates a pipe in one direction. Python's `Pipe(duplex=False)`, which returns the ends in the
/// other order.
///
/// ```
/// use multiproc::connection::Sender;
/// use multiproc::Process;
///
/// fn count(sender: Sender<u32>) {
///     for number in 0..3 {
///         sender.send(number).unwrap();
///     }
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = multiproc::connection::one_way()?;
/// Process::new(count, (sender,)).start()?;
/// let numbers: Result<Vec<u32>, _> = receiver.into_iter().collect(); // to the end: the child has the only sender
/// assert_eq!(numbers?, [0, 1, 2]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CreateError`](crate::CreateError) when no descriptors are left (`EMFILE`): it takes two.
pub fn one_way<T>() -> Result<(Sender<T>, Receiver<T>), CreateError> {
    let (sender, receiver) = fd_passing::pair().map_err(CreateError::of("pipe"))?;
    Ok((Sender::local(sender, Peer::Pipe), Receiver::local(receiver, Peer::Pipe, u64::MAX)))
}
