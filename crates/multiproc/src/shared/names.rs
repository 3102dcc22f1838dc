//! The names under which unrelated programs find shared memory: [`publish`], [`find`],
//! [`withdraw`].
//!
//! A name is an abstract Unix socket (unix(7)) at which its owner listens. It exists as long as the
//! owner has the socket open, so the kernel removes it when the owner dies, by whatever means, and
//! nothing is left behind. The owner hands descriptors to the clients that connect and ask. A
//! thread of the owner does that, [`keeper`]; [`wire`] has the messages, and `PROTOCOL.md`,
//! "Names", the rules.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Weak;
use std::time::{Duration, Instant};

use multiproc_os::close_on_fork::CloseOnFork;
use multiproc_os::errno::{EMFILE, ESRCH, ETOOMANYREFS};
use multiproc_os::fd_passing::{self, Take};
use multiproc_os::{pidfd, poll, socket};

pub(crate) mod error;
mod keeper;
pub(crate) mod wire;

pub use error::{NameError, NameRefusal};
pub(crate) use keeper::Published;
use wire::{Answer, Request, Unfit};

/// The maximum length of a name, in bytes. The kernel allows 107 for the name of the socket, of
/// which the prefix and the user id take some.
pub(crate) const LIMIT: usize = 107 - "multiproc/memory/".len() - "4294967295/".len();

/// How long a publisher waits for the present owner of the name to answer, or for a dead owner's
/// socket to be closed.
const MOMENT: Duration = Duration::from_secs(1);

/// What the owner of a name hands out.
pub(crate) trait Offer: Send + Sync + 'static {
    /// Returns the descriptors for a request. `wish` says what is requested: a small number that
    /// owner and client have agreed on.
    ///
    /// This is called on a thread that serves all names of this process, so it must not block; not
    /// even for a lock that is held by a thread that drops a [`Published`].
    ///
    /// # Errors
    /// The client gets their number: `EACCES` and `EPERM`, or `PermissionDenied`, as
    /// [`NameRefusal::Denied`], others as [`NameError::Owner`].
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>>;
}

/// Publishes `offer` under `name`, until the value returned is dropped or a process
/// [withdraws](withdraw) the name.
///
/// The offer is held weakly, so it may own the value returned. Once it is gone, the name isn't
/// found any more.
///
/// # Errors
/// `Taken`; `Empty`, `TooLong`, `Invalid`; `Io`: `EMFILE`, `EAGAIN` at the limit of threads,
/// `ENOSPC` at that of `/proc/sys/fs/epoll/max_user_watches`.
pub(crate) fn publish(name: &str, offer: Weak<dyn Offer>) -> Result<Published, NameError> {
    let place = place(name)?;
    let fail = |source| NameError::Io { name: name.into(), source };
    let socket = CloseOnFork::make(socket::packet_socket).map_err(fail)?;
    let patience = Instant::now() + MOMENT;
    loop {
        match socket::listen_for_packets(&socket, &place) {
            Ok(()) => return keeper::keep(socket, offer).map_err(fail),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if let Incumbent::Stays(owner) = Incumbent::ask(&place, patience) {
                    return Err(NameError::Taken { name: name.into(), owner });
                }
            }
            Err(error) => return Err(fail(error)),
        }
    }
}

/// What a client has received from the owner of a name.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fds: Vec<OwnedFd>,
    /// The pid of the owner, if it is visible in this PID namespace.
    pub(crate) owner: Option<i32>,
}

/// Asks the owner of `name` for its descriptors. `wish` says which. Waits for the owner until
/// `deadline`.
///
/// # Errors
/// `NotFound`, also when the owner dies or withdraws the name meanwhile; `Refused`; `Timeout` when
/// the owner is stopped; `Owner` when the owner fails; `OtherVersion` and `OtherProtocol` when it
/// is another program; `Empty`, `TooLong`, `Invalid`; `Io`: `EMFILE`, in which case nothing has
/// been received.
pub(crate) fn find(name: &str, wish: u8, deadline: Instant) -> Result<Found, NameError> {
    ask(name, Request::Find(wish), deadline)
}

/// Removes `name` from its owner: when this returns, the name isn't found any more and can be
/// published again. Processes that have found it keep what they have received. The owner may be
/// this process, or another one of the same user.
///
/// # Errors
/// As for [`find`].
pub(crate) fn withdraw(name: &str, deadline: Instant) -> Result<(), NameError> {
    ask(name, Request::Withdraw, deadline).map(drop)
}

/// The abstract name of the socket. Each user has names of its own.
fn place(name: &str) -> Result<Vec<u8>, NameError> {
    match name.len() {
        0 => return Err(NameError::Empty),
        len if len > LIMIT => return Err(NameError::TooLong { name: name.into(), len }),
        _ if name.contains('\0') => return Err(NameError::Invalid { name: name.into() }),
        _ => {}
    }
    Ok(format!("multiproc/memory/{}/{name}", socket::own_user()).into_bytes())
}

/// The state of a name that is taken.
enum Incumbent {
    /// A process owns it: this one, if its pid is known.
    Stays(Option<i32>),
    /// It has ended meanwhile.
    Gone,
}

impl Incumbent {
    /// Checks whether the owner of the name answers. After an owner has died or dropped the name, a
    /// fork copy of it that was made a moment ago may still have the socket open; the connection
    /// ends when the copy closes it.
    fn ask(place: &[u8], patience: Instant) -> Incumbent {
        let socket = match socket::connect_for_packets(place, Some(patience)) {
            Ok(socket) => socket,
            // The owner is gone, or is about to listen.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < patience => {
                std::thread::yield_now();
                return Incumbent::Gone;
            }
            Err(_) => return Incumbent::Stays(None),
        };
        let (owner, user) = match socket::peer_process(&socket) {
            Ok((pid, user)) => (seen(pid), user),
            Err(_) => return Incumbent::Stays(None),
        };
        let stays = Incumbent::Stays(owner);
        if !is_trusted(user) {
            return stays;
        }
        let _ = fd_passing::try_send(&socket, &Request::Greet.to_bytes());
        let answers = || matches!(socket::try_read(&socket, &mut [0; 1]), Ok(1..));
        match poll::wait_readable(&socket, Some(patience)) {
            // Any answer counts. The first read may give an error, if the owner has closed without
            // reading the request.
            Ok(true) if answers() || answers() => stays,
            Ok(true) if Instant::now() < patience => Incumbent::Gone,
            // The owner may be stopped, or belong to a program that this one doesn't understand.
            Ok(_) | Err(_) => stays,
        }
    }
}

/// A process id; the kernel gives 0 for a process that isn't visible in this PID namespace.
fn seen(pid: i32) -> Option<i32> {
    (pid != 0).then_some(pid)
}

/// Sends a request to the owner of a name, and returns its answer.
fn ask(name: &str, request: Request, deadline: Instant) -> Result<Found, NameError> {
    let place = place(name)?;
    loop {
        let owner = Owner::reach(name, &place, deadline)?;
        match owner.ask(request, deadline)? {
            (Answer::Here { .. }, fds) if matches!(request, Request::Find(_)) => {
                return Ok(Found { fds, owner: owner.pid });
            }
            (Answer::Withdrawn, fds) if matches!(request, Request::Withdraw) => {
                return Ok(Found { fds, owner: owner.pid });
            }
            // The owner had too many clients, or this one was too slow. It retries as the newest,
            // which is dismissed last.
            (Answer::Again, _) => {}
            (Answer::NotServed, _) => return Err(owner.refuses(NameRefusal::NotServed)),
            (Answer::Failed(errno), _) => {
                let source = match errno {
                    ETOOMANYREFS => io::Error::new(io::ErrorKind::QuotaExceeded, fd_passing::TOO_MANY_IN_FLIGHT),
                    _ => io::Error::from_raw_os_error(errno),
                };
                return Err(match source.kind() {
                    io::ErrorKind::PermissionDenied => owner.refuses(NameRefusal::Denied(source)),
                    _ => NameError::Owner { name: name.into(), owner: owner.pid, source },
                });
            }
            (Answer::OtherVersion(theirs), _) => return Err(owner.is_unfit(Unfit::Version(theirs))),
            (Answer::Here { .. } | Answer::Withdrawn, _) => return Err(owner.is_unfit(Unfit::Garbage)),
        }
    }
}

/// The owner of a name, as seen by a connected client.
struct Owner<'a> {
    name: &'a str,
    pid: Option<i32>,
    socket: OwnedFd,
}

impl<'a> Owner<'a> {
    fn reach(name: &'a str, place: &[u8], deadline: Instant) -> Result<Owner<'a>, NameError> {
        let socket = socket::connect_for_packets(place, Some(deadline)).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => NameError::NotFound { name: name.into() },
            // The backlog is full: thousands of clients are waiting.
            io::ErrorKind::TimedOut => NameError::Timeout { name: name.into(), owner: None },
            _ => NameError::Io { name: name.into(), source: error },
        })?;
        let (pid, user) =
            socket::peer_process(&socket).map_err(|source| NameError::Io { name: name.into(), source })?;
        let owner = Owner { name, pid: seen(pid), socket };
        // Any process may listen there. A client that trusted a foreign user could be given
        // anything as shared memory.
        match is_trusted(user) {
            true => Ok(owner),
            false => Err(owner.refuses(NameRefusal::OtherUser(user))),
        }
    }

    fn ask(&self, request: Request, deadline: Instant) -> Result<(Answer, Vec<OwnedFd>), NameError> {
        match fd_passing::try_send(&self.socket, &request.to_bytes()) {
            Ok(()) => {}
            // The owner has closed the connection, but may have sent an answer before.
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(self.io(error)),
        }
        // If the owner was copied by a fork(2) that bypassed the C library, the copy keeps the
        // socket open when the owner dies, and the connection doesn't end. So the owner's pidfd is
        // polled too.
        let life = match self.pid.map(pidfd::open) {
            Some(Err(error)) if error.raw_os_error() == Some(ESRCH) => {
                return self.take()?.ok_or_else(|| self.is_gone());
            }
            Some(Ok(life)) => Some(life),
            // The kernel is old, or no descriptor is left.
            Some(Err(_)) | None => None,
        };
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(self.socket.as_fd()).chain(life.as_ref().map(AsFd::as_fd)).collect();
        loop {
            let ready = poll::wait_any_in(&fds, Some(deadline)).map_err(|error| self.io(error))?;
            match ready.first() {
                None => return Err(NameError::Timeout { name: self.name.into(), owner: self.pid }),
                Some(0) => {
                    if let Some(answer) = self.take()? {
                        return Ok(answer);
                    }
                }
                Some(_) => return self.take()?.ok_or_else(|| self.is_gone()),
            }
        }
    }

    /// Returns the answer, if it has arrived.
    fn take(&self) -> Result<Option<(Answer, Vec<OwnedFd>)>, NameError> {
        // One byte more than an answer has, to detect a longer message.
        let mut bytes = [0; Answer::BYTES + 1];
        let mut take = || fd_passing::try_take(&self.socket, &mut bytes, &mut [], Take::Away);
        let taken = match take() {
            // This error is reported once, if the owner has closed without reading the request. An
            // answer may follow it.
            Err(error) if is_end(&error) => take(),
            taken => taken,
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if is_end(&error) => return Err(self.is_gone()),
            Err(error) => return Err(self.io(error)),
        };
        if taken.len == 0 {
            return Err(self.is_gone());
        }
        let answer = Answer::from_bytes(&bytes[..taken.len]).map_err(|unfit| self.is_unfit(unfit))?;
        let promised = if let Answer::Here { count } = answer { usize::from(count) } else { 0 };
        if taken.fds_cut && taken.fds.len() < promised {
            return Err(self.io(io::Error::from_raw_os_error(EMFILE)));
        }
        if taken.fds.len() != promised {
            return Err(self.is_unfit(Unfit::Garbage));
        }
        Ok(Some((answer, taken.fds)))
    }

    fn io(&self, source: io::Error) -> NameError {
        NameError::Io { name: self.name.into(), source }
    }

    fn is_gone(&self) -> NameError {
        NameError::NotFound { name: self.name.into() }
    }

    fn refuses(&self, why: NameRefusal) -> NameError {
        NameError::Refused { name: self.name.into(), owner: self.pid, why }
    }

    fn is_unfit(&self, unfit: Unfit) -> NameError {
        let (name, owner) = (self.name.into(), self.pid);
        match unfit {
            Unfit::Version(theirs) => NameError::OtherVersion { name, owner, theirs },
            Unfit::Garbage => NameError::OtherProtocol { name, owner },
        }
    }
}

/// Whether processes of this user are served, or trusted as owners: the user of this process, and
/// root.
fn is_trusted(user: u32) -> bool {
    user == socket::own_user() || user == 0
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests;
