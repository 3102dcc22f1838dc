//! The names under which programs that are no relatives find shared memory: [`publish`], [`find`], [`withdraw`].
//!
//! A name is an abstract Unix socket at which its owner listens, see unix(7): it is there as long as the owner has the socket, so the kernel takes it
//! away when the owner dies, by whatever means, and there is never anything left of it. What it stands for is descriptors, which the owner hands to
//! those who connect and ask. A thread of the owner's does that, [`keeper`]; the messages are in [`wire`], the rules in `PROTOCOL.md`, "Names".

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

/// How many bytes a name may have. The kernel takes 107, of which some are needed to say what it is and whose.
pub(crate) const LIMIT: usize = 107 - "multiproc/memory/".len() - "4294967295/".len();

/// How long one who publishes waits for an answer of who has the name, or for the end of what is left of it.
const MOMENT: Duration = Duration::from_secs(1);

/// What is handed out under a name.
pub(crate) trait Offer: Send + Sync + 'static {
    /// The descriptors for one who wishes this, a small number that the two have agreed on.
    ///
    /// It is called on a thread that serves all names of this process, so it must not wait; not for a lock either that somebody holds who drops a
    /// [`Published`].
    ///
    /// # Errors
    /// They are told to who has asked, by their number: `EACCES` and `EPERM`, or `PermissionDenied`, as [`NameRefusal::Denied`], others as
    /// [`NameError::Owner`].
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>>;
}

/// Has others find `offer` by `name`, until what this returns is dropped or somebody [withdraws](withdraw) the name.
///
/// The offer is held weakly, so it may hold what this returns. When it is gone, nobody finds it.
///
/// # Errors
/// `Taken`; `Empty`, `TooLong`, `Invalid`; `Io`: `EMFILE`, `EAGAIN` at the limit of threads, `ENOSPC` at that of
/// `/proc/sys/fs/epoll/max_user_watches`.
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

/// What somebody has been handed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fds: Vec<OwnedFd>,
    /// The pid of who has handed it out, if it can be seen from here.
    pub(crate) owner: Option<i32>,
}

/// What is handed out under `name` to one who wishes this. Waits for the owner, until `deadline`.
///
/// # Errors
/// `NotFound`, also when the owner dies or withdraws the name meanwhile; `Refused`; `TimedOut` when the owner is stopped; `Owner` when it can't;
/// `OtherVersion` and `Garbage` when it is another program; `Empty`, `TooLong`, `Invalid`; `Io`: `EMFILE`, in which case nothing has been received.
pub(crate) fn find(name: &str, wish: u8, deadline: Instant) -> Result<Found, NameError> {
    ask(name, Request::Find(wish), deadline)
}

/// Takes `name` away from its owner, so that nobody finds it any more and it can be published again, when this returns. Those who have found it keep what
/// they have got. The owner may be this process, or another one of the same user.
///
/// # Errors
/// As [`find`].
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

/// Who has a name already.
enum Incumbent {
    /// This process, if it can be told.
    Stays(Option<i32>),
    /// It has gone meanwhile.
    Gone,
}

impl Incumbent {
    /// Sees whether anybody answers. A copy of an owner that has just died, or has dropped the name, may have been made a moment ago, and not yet
    /// have come to closing the socket; then the connection ends when it does.
    fn ask(place: &[u8], patience: Instant) -> Incumbent {
        let socket = match socket::connect_for_packets(place, Some(patience)) {
            Ok(socket) => socket,
            // It has gone, or is about to listen.
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
        match poll::wait_for_input(&socket, Some(patience)) {
            // Whatever it says; behind an error, perhaps, if it has not heard us.
            Ok(true) if answers() || answers() => stays,
            Ok(true) if Instant::now() < patience => Incumbent::Gone,
            // It is stopped, perhaps, or not ours to understand.
            Ok(_) | Err(_) => stays,
        }
    }
}

/// A process id, which is 0 for one of another namespace.
fn seen(pid: i32) -> Option<i32> {
    (pid != 0).then_some(pid)
}

/// Asks the owner of a name for something.
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
            // There were too many at once, or we were too slow. Now we are the last whom that befalls.
            (Answer::Again, _) => {}
            (Answer::NotServed, _) => return Err(owner.refuses(NameRefusal::NotServed)),
            (Answer::Failed(errno), _) => {
                let source = match errno {
                    ETOOMANYREFS => io::Error::new(io::ErrorKind::QuotaExceeded, fd_passing::TOO_MANY_ON_THEIR_WAY),
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

/// The owner of a name, as one sees it who has connected.
struct Owner<'a> {
    name: &'a str,
    pid: Option<i32>,
    socket: OwnedFd,
}

impl<'a> Owner<'a> {
    fn reach(name: &'a str, place: &[u8], deadline: Instant) -> Result<Owner<'a>, NameError> {
        let socket = socket::connect_for_packets(place, Some(deadline)).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => NameError::NotFound { name: name.into() },
            // There are thousands before us.
            io::ErrorKind::TimedOut => NameError::TimedOut { name: name.into(), owner: None },
            _ => NameError::Io { name: name.into(), source: error },
        })?;
        let (pid, user) =
            socket::peer_process(&socket).map_err(|source| NameError::Io { name: name.into(), source })?;
        let owner = Owner { name, pid: seen(pid), socket };
        // Anybody may listen there. Who believed a stranger would take memory for what it is not.
        match is_trusted(user) {
            true => Ok(owner),
            false => Err(owner.refuses(NameRefusal::OtherUser(user))),
        }
    }

    fn ask(&self, request: Request, deadline: Instant) -> Result<(Answer, Vec<OwnedFd>), NameError> {
        match fd_passing::try_send(&self.socket, &request.to_bytes()) {
            Ok(()) => {}
            // It has closed, but perhaps not without a word.
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(self.io(error)),
        }
        // Who has made a copy of itself, round the C library, dies without an end to be seen here.
        let life = match self.pid.map(pidfd::open) {
            Some(Err(error)) if error.raw_os_error() == Some(ESRCH) => {
                return self.take()?.ok_or_else(|| self.is_gone());
            }
            Some(Ok(life)) => Some(life),
            // An old kernel, or no descriptors.
            Some(Err(_)) | None => None,
        };
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(self.socket.as_fd()).chain(life.as_ref().map(AsFd::as_fd)).collect();
        loop {
            let ready = poll::wait_readable(&fds, Some(deadline)).map_err(|error| self.io(error))?;
            match ready.first() {
                None => return Err(NameError::TimedOut { name: self.name.into(), owner: self.pid }),
                Some(0) => {
                    if let Some(answer) = self.take()? {
                        return Ok(answer);
                    }
                }
                Some(_) => return self.take()?.ok_or_else(|| self.is_gone()),
            }
        }
    }

    /// The answer, if it is there.
    fn take(&self) -> Result<Option<(Answer, Vec<OwnedFd>)>, NameError> {
        // One byte more, to see whether there is more.
        let mut bytes = [0; Answer::BYTES + 1];
        let mut take = || fd_passing::try_take(&self.socket, &mut bytes, &mut [], Take::Away);
        let taken = match take() {
            // Once, if our words have not been read. An answer comes behind it.
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
            Unfit::Garbage => NameError::Garbage { name, owner },
        }
    }
}

/// Whether one is served, or believed, who is this user: the same as this process, or root.
fn is_trusted(user: u32) -> bool {
    user == socket::own_user() || user == 0
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests;
