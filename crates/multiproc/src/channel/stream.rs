//! Messages over TCP. A direction is a TCP connection of its own, so that the kernel knows when the
//! last sender or receiver is gone. It carries one frame after the other;
//! [CONNECTION.md](CONNECTION.md) has the format.
//!
//! A stream has no message boundaries, so a message that was begun must be finished. The threads of
//! a process take turns, and what one of them has left unfinished at its deadline is continued by
//! the next. Two processes would mix their bytes, so an end belongs to one process at a time, the
//! first that uses it (`multiproc_os::record_lock`), and can be handed over between two messages.
//! While an end is in the middle of a message, its socket is marked
//! (`multiproc_os::socket::set_mark`). A process that finds the mark of another process that is
//! gone can't continue, and shuts the direction down.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use multiproc_os::{record_lock, socket, threads};
use multiproc_shm::message::payload::{Bytes, Payload};
use multiproc_shm::message::shared::Body;
use multiproc_shm::wait::deadline::Deadline;

use super::error::{RecvErrorKind, SendErrorKind};
use super::socket_deadline::SocketDeadline;

const MAGIC: [u8; 4] = *b"mpst";
const VERSION: u8 = 1;
const HEADER: usize = 16;

/// Follows each message. Its last byte is read only when the message is taken: as long as a message
/// waits to be taken, a byte is left in the socket, so that all waiters see it as readable.
const TRAILER: [u8; 8] = *b"mpst-end";

/// How many bytes of memory are allocated ahead of what has been received: the length in the header
/// is only a claim.
const ALLOCATE_AHEAD: usize = 1 << 20;

/// How many bytes are read or written before the caller looks at the clock. This is more than fits
/// into a socket by default.
const IO_SLICE: usize = 8 << 20;

/// How many bytes of a discarded message are read at once.
const SKIP_BUFFER: usize = 64 << 10;

/// Makes this process the owner of `fd`.
fn claim(fd: impl AsFd) -> io::Result<()> {
    record_lock::try_lock(fd)?.map_err(|pid| {
        let what = format!("process {pid} uses this end of the connection; over TCP, only one process can");
        io::Error::new(io::ErrorKind::ResourceBusy, what)
    })
}

/// Whether `error` says that the other end, or the route to it, is gone.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionReset
            | ConnectionAborted
            | TimedOut
            | NotConnected
            | HostUnreachable
            | NetworkUnreachable
    )
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process is in the middle of a message. If so, the rest of the message is only in
/// its memory, and the socket is marked.
#[derive(Debug, Default)]
struct MessageMark {
    /// The process that is in the middle, which tells it from fork copies of it.
    process: Option<i32>,
}

impl MessageMark {
    /// Marks the beginning of a message, unless it has begun already. Returns false if another
    /// process has left the stream in the middle of a message.
    fn enter(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        if self.process.is_none() {
            if socket::is_marked(socket)? {
                return Ok(false);
            }
            // Mark before the first byte: a process that is killed can't do it afterwards.
            socket::set_mark(socket, true)?;
            self.process = Some(threads::getpid());
        }
        Ok(true)
    }

    fn leave(&mut self, socket: &OwnedFd) -> io::Result<()> {
        if self.process.is_some() {
            socket::set_mark(socket, false)?;
            self.process = None;
        }
        Ok(())
    }

    /// Whether it is the process of which this one is a fork copy that is in the middle.
    fn is_inherited(&self) -> bool {
        self.process.is_some_and(|process| process != threads::getpid())
    }
}

/// The messages in progress on this process's sockets, by the sockets' cookies (`SO_COOKIE`). An
/// end that is sent back to a process that has it already is another descriptor of the same socket:
/// the two take turns, as clones do.
struct States<S>(Mutex<StateMap<S>>);

struct StateMap<S> {
    states: BTreeMap<u64, Weak<Mutex<S>>>,
    /// The number of states at which unused ones are removed.
    sweep_at: usize,
}

static OUTBOXES: States<Outbox> = States::new();
static INBOXES: States<Inbox> = States::new();

impl<S: Default> States<S> {
    const fn new() -> States<S> {
        States(Mutex::new(StateMap { states: BTreeMap::new(), sweep_at: 16 }))
    }

    fn of(&self, socket: &OwnedFd) -> Arc<Mutex<S>> {
        let Ok(cookie) = socket::cookie(socket) else { return Arc::default() };
        let mut map = lock(&self.0);
        if let Some(state) = map.states.get(&cookie).and_then(Weak::upgrade) {
            return state;
        }
        if map.states.len() >= map.sweep_at {
            map.states.retain(|_, state| state.strong_count() > 0);
            map.sweep_at = 2 * map.states.len() + 16;
        }
        let state = Arc::default();
        map.states.insert(cookie, Arc::downgrade(&state));
        state
    }
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Tx {
    socket: OwnedFd,
    outbox: Arc<Mutex<Outbox>>,
}

/// The message in progress at a sending end.
#[derive(Debug, Default)]
struct Outbox {
    mark: MessageMark,
    /// The rest of a message of which a part has been sent.
    rest: Option<Rest>,
    /// How many messages have been left unfinished so far. The last of them is that in `rest`.
    left: u64,
    /// Nothing can be sent any more.
    broken: bool,
}

#[derive(Debug)]
struct Rest {
    frame: Frame<Body<'static>>,
    /// How many bytes of it have been sent.
    gone: usize,
}

/// The frame of a message: header, body and trailer.
#[derive(Debug)]
struct Frame<B> {
    header: [u8; HEADER],
    body: B,
}

impl<B: std::ops::Deref<Target = [u8]>> Frame<B> {
    fn new(kind: u8, body: B) -> Frame<B> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        (header[4], header[5]) = (VERSION, kind);
        header[8..].copy_from_slice(&(body.len() as u64).to_le_bytes());
        Frame { header, body }
    }

    fn len(&self) -> usize {
        HEADER + self.body.len() + TRAILER.len()
    }

    /// Writes what comes after the first `gone` bytes, as far as there is room, and at most
    /// [`IO_SLICE`] bytes of it, because the other end may receive as fast as this writes. Returns
    /// how many bytes of the frame have been sent in all.
    fn write(&self, socket: &OwnedFd, mut gone: usize) -> io::Result<usize> {
        let end = self.len().min(gone.saturating_add(IO_SLICE));
        while gone < end {
            let (mut skip, mut left) = (gone, end - gone);
            let parts = [&self.header[..], &self.body, &TRAILER].map(|part| {
                let from = skip.min(part.len());
                skip -= from;
                let part = &part[from..];
                let part = &part[..part.len().min(left)];
                left -= part.len();
                part
            });
            match socket::try_write(socket, parts) {
                Ok(written) => gone += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

impl Outbox {
    /// In a fork copy: forgets the message that the original process has begun and will finish.
    fn forget_inherited(&mut self) {
        if self.mark.is_inherited() {
            (self.mark, self.rest) = (MessageMark::default(), None);
        }
    }

    /// Sends the rest of an unfinished message. Returns false if there is no room for all of it
    /// yet.
    fn finish(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        if let Some(rest) = &mut self.rest {
            rest.gone = rest.frame.write(socket, rest.gone)?;
            if rest.gone < rest.frame.len() {
                return Ok(false);
            }
            self.rest = None;
        }
        Ok(true)
    }
}

impl Tx {
    pub(crate) fn new(socket: OwnedFd) -> Tx {
        Tx { outbox: OUTBOXES.of(&socket), socket }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether another process could use this end from here.
    pub(crate) fn is_between_messages(&self) -> bool {
        let mut outbox = lock(&self.outbox);
        outbox.forget_inherited();
        outbox.mark.process.is_none()
    }

    /// Sends a payload, which has no handles.
    pub(crate) fn send(&self, kind: u8, payload: Payload, deadline: Deadline) -> Result<(), SendErrorKind> {
        self.sending(kind, payload)?.go_on(deadline)
    }

    /// Prepares to send a payload, which has no handles, in several attempts if need be.
    pub(crate) fn sending(&self, kind: u8, payload: Payload) -> Result<Sending<'_>, SendErrorKind> {
        let body = match payload.bytes {
            Bytes::Inline(bytes) => Body::Owned(bytes),
            Bytes::Mapped(bytes) => Body::Mapped(bytes),
            Bytes::File { file, len } => {
                Body::Mapped(multiproc_os::memfd::Sealed::map(file, len).map_err(SendErrorKind::Io)?)
            }
        };
        Ok(Sending { tx: self, frame: Some(Frame::new(kind, body)), ours: None })
    }

    /// Sends `bytes` as one message.
    pub(crate) fn send_bytes(&self, kind: u8, bytes: &[u8], deadline: Deadline) -> Result<(), SendErrorKind> {
        let frame = Frame::new(kind, bytes);
        self.send_with(&mut None, deadline, |socket| {
            let gone = frame.write(socket, 0)?;
            Ok(if gone == 0 {
                Begun::No
            } else if gone == frame.len() {
                Begun::Whole
            } else {
                let frame = Frame { header: frame.header, body: Body::Owned(bytes.to_vec()) };
                Begun::Part(Rest { frame, gone })
            })
        })
    }

    /// Sends what `begin` begins to send, after any unfinished message. `ours` is the number of the
    /// caller's message among those left unfinished, if it has begun.
    fn send_with(
        &self,
        ours: &mut Option<u64>,
        deadline: Deadline,
        mut begin: impl FnMut(&OwnedFd) -> io::Result<Begun>,
    ) -> Result<(), SendErrorKind> {
        loop {
            {
                let mut outbox = lock(&self.outbox);
                outbox.forget_inherited();
                if ours.is_some_and(|ours| ours < outbox.left || outbox.rest.is_none() && !outbox.broken) {
                    return Ok(());
                }
                if outbox.broken {
                    return Err(SendErrorKind::Disconnected);
                }
                claim(&self.socket).map_err(SendErrorKind::Io)?;
                if !outbox.mark.enter(&self.socket).map_err(SendErrorKind::Io)? {
                    // What is sent now would become a part of the message that another process has
                    // begun.
                    socket::shut_down(&self.socket);
                    outbox.broken = true;
                    return Err(SendErrorKind::Disconnected);
                }
                let stepped = self.step(&mut outbox, ours.is_none(), &mut begin);
                if outbox.rest.is_none() && matches!(stepped, Ok(Begun::Whole | Begun::No)) {
                    outbox.mark.leave(&self.socket).map_err(SendErrorKind::Io)?;
                }
                match stepped {
                    Ok(Begun::Whole) => return Ok(()),
                    Ok(Begun::Part(rest)) => {
                        outbox.rest = Some(rest);
                        outbox.left += 1;
                        *ours = Some(outbox.left);
                    }
                    Ok(Begun::No) => {}
                    Err(error) => {
                        outbox.broken = true;
                        outbox.rest = None;
                        return Err(if is_gone(&error) {
                            SendErrorKind::Disconnected
                        } else {
                            SendErrorKind::Io(error)
                        });
                    }
                }
            }
            if !deadline.wait_writable(&self.socket).map_err(SendErrorKind::Io)? {
                let outbox = lock(&self.outbox);
                return match *ours {
                    None => Err(deadline.too_late_to_send()),
                    Some(ours) if ours < outbox.left => Ok(()),
                    Some(_) if outbox.broken => Err(SendErrorKind::Disconnected),
                    Some(_) if outbox.rest.is_some() => Err(SendErrorKind::Unfinished),
                    Some(_) => Ok(()),
                };
            }
        }
    }

    /// Sends the rest of an unfinished message, and then begins another if `to_begin`. Returns
    /// [`Begun::Whole`] if the caller's message has been sent completely.
    fn step(
        &self,
        outbox: &mut Outbox,
        to_begin: bool,
        begin: &mut impl FnMut(&OwnedFd) -> io::Result<Begun>,
    ) -> io::Result<Begun> {
        if !outbox.finish(&self.socket)? {
            return Ok(Begun::No);
        }
        if !to_begin {
            return Ok(Begun::Whole);
        }
        // After the peer has closed its socket, the kernel still accepts data until the peer's host
        // has answered with a reset. The peer never sends anything in this direction, so if the end
        // of its stream can be read, it has closed.
        if socket::has_input(&self.socket)?.is_none() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        begin(&self.socket)
    }
}

/// A message that is being sent.
pub(crate) struct Sending<'a> {
    tx: &'a Tx,
    /// None once the message was begun and left unfinished: then the rest is in the outbox.
    frame: Option<Frame<Body<'static>>>,
    ours: Option<u64>,
}

impl Sending<'_> {
    /// Sends the message, or the rest of it. After `Full`, `Timeout` and `Unfinished` this can be
    /// called again.
    pub(crate) fn go_on(&mut self, deadline: Deadline) -> Result<(), SendErrorKind> {
        let frame = &mut self.frame;
        self.tx.send_with(&mut self.ours, deadline, |socket| {
            let whole = frame.as_ref().expect("a message is begun only once");
            let gone = whole.write(socket, 0)?;
            Ok(if gone == 0 {
                Begun::No
            } else if gone == whole.len() {
                Begun::Whole
            } else {
                frame.take().map_or(Begun::No, |frame| Begun::Part(Rest { frame, gone }))
            })
        })
    }
}

/// How much of a message has been sent.
enum Begun {
    No,
    Part(Rest),
    Whole,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Rx {
    socket: OwnedFd,
    inbox: Arc<Mutex<Inbox>>,
}

/// The message in progress at a receiving end.
#[derive(Debug)]
struct Inbox {
    mark: MessageMark,
    receiving: Receiving,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { mark: MessageMark::default(), receiving: Receiving::START }
    }
}

impl Inbox {
    /// In a fork copy: forgets the message that the original process has begun and will finish.
    fn forget_inherited(&mut self) {
        if self.mark.is_inherited() {
            *self = Inbox::default();
        }
    }
}

/// How much of a message has been received.
#[derive(Debug)]
enum Receiving {
    /// This many bytes of the header.
    Header([u8; HEADER], usize),
    /// A part of the body and the trailer, in `bytes`.
    Body { kind: u8, len: usize, bytes: Vec<u8> },
    /// This many bytes are left of a message that is discarded.
    Skip(u64),
    /// It is unknown where the next message begins.
    OutOfSync,
}

impl Receiving {
    const START: Receiving = Receiving::Header([0; HEADER], 0);
}

/// The result of [`Rx::gather`].
enum Progress {
    /// The message is complete, or complete but for its last byte if it was not to be taken.
    Whole(u8, Vec<u8>),
    /// More has to be received, or is there but [`IO_SLICE`] bytes have been read.
    Part,
}

impl Rx {
    pub(crate) fn new(socket: OwnedFd) -> Rx {
        Rx { inbox: INBOXES.of(&socket), socket }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether another process could use this end from here.
    pub(crate) fn is_between_messages(&self) -> bool {
        let mut inbox = lock(&self.inbox);
        inbox.forget_inherited();
        inbox.mark.process.is_none()
    }

    /// Receives the next message, of at most `limit` bytes: its kind and its bytes.
    pub(crate) fn recv(&self, limit: u64, deadline: Deadline) -> Result<(u8, Vec<u8>), RecvErrorKind> {
        loop {
            if let Progress::Whole(kind, bytes) = self.step(limit, true).map_err(RecvErrorKind::Io)?? {
                return Ok((kind, bytes));
            }
            if deadline.has_passed() || !deadline.wait_readable(&self.socket).map_err(RecvErrorKind::Io)? {
                return Err(deadline.too_late_to_receive());
            }
        }
    }

    /// Waits until there is a message, an error or the end of the stream. Returns false when the
    /// time is up before that.
    pub(crate) fn poll(&self, limit: u64, deadline: Deadline) -> io::Result<bool> {
        loop {
            match self.step(limit, false)? {
                Ok(Progress::Part) => {}
                // The next receive returns the error again.
                Ok(Progress::Whole(..)) | Err(_) => return Ok(true),
            }
            if deadline.has_passed() || !deadline.wait_readable(&self.socket)? {
                return Ok(false);
            }
        }
    }

    /// Gathers a message if this process owns the end.
    fn step(&self, limit: u64, take: bool) -> io::Result<Result<Progress, RecvErrorKind>> {
        let mut inbox = lock(&self.inbox);
        inbox.forget_inherited();
        claim(&self.socket)?;
        // A process that is killed while nothing is received loses nothing, so it doesn't set the
        // mark.
        if matches!(inbox.receiving, Receiving::Header(_, 0))
            && matches!(socket::has_input(&self.socket), Ok(Some(false)))
            && !socket::is_marked(&self.socket)?
        {
            return Ok(Ok(Progress::Part));
        }
        if !matches!(inbox.receiving, Receiving::OutOfSync) && !inbox.mark.enter(&self.socket)? {
            // Another process has taken the beginning of a message with it. Shutting down tells the
            // sender.
            socket::shut_down(&self.socket);
            inbox.receiving = Receiving::OutOfSync;
        }
        let gathered = self.gather(&mut inbox.receiving, limit, take);
        if matches!(inbox.receiving, Receiving::Header(_, 0)) {
            inbox.mark.leave(&self.socket)?;
        }
        Ok(gathered)
    }

    /// Reads what has been received of the next message, at most about [`IO_SLICE`] bytes, and
    /// takes the message if it is complete and `take` is set.
    fn gather(&self, receiving: &mut Receiving, limit: u64, take: bool) -> Result<Progress, RecvErrorKind> {
        let mut turn = 0;
        loop {
            match &mut *receiving {
                Receiving::Header(header, HEADER) => {
                    let (kind, len) = match read_header(header) {
                        Ok(header) => header,
                        Err(what) => {
                            if take {
                                *receiving = Receiving::OutOfSync;
                            }
                            return Err(RecvErrorKind::Corrupt(what));
                        }
                    };
                    if len > limit.min(u64::MAX - TRAILER.len() as u64) {
                        if take {
                            *receiving = Receiving::Skip(len.saturating_add(TRAILER.len() as u64));
                        }
                        return Err(RecvErrorKind::TooLong { len, limit });
                    }
                    let len = len as usize;
                    *receiving = Receiving::Body {
                        kind,
                        len,
                        bytes: Vec::with_capacity((len + TRAILER.len()).min(ALLOCATE_AHEAD)),
                    };
                }
                Receiving::Body { kind, len, bytes } if bytes.len() == *len + TRAILER.len() => {
                    let (kind, len, mut bytes) = (*kind, *len, std::mem::take(bytes));
                    if bytes[len..] != TRAILER {
                        *receiving = Receiving::OutOfSync;
                        return Err(RecvErrorKind::Corrupt("the message does not end with the end marker".into()));
                    }
                    *receiving = Receiving::START;
                    bytes.truncate(len);
                    // The limit may have been another when the message was begun.
                    return match len as u64 {
                        len if len > limit => Err(RecvErrorKind::TooLong { len, limit }),
                        _ => Ok(Progress::Whole(kind, bytes)),
                    };
                }
                Receiving::Body { kind, len, bytes } if !take && bytes.len() + 1 == *len + TRAILER.len() => {
                    return match socket::has_input(&self.socket) {
                        Ok(Some(false)) => Ok(Progress::Part),
                        Ok(_) | Err(_) => Ok(Progress::Whole(*kind, Vec::new())),
                    };
                }
                Receiving::Skip(0) => *receiving = Receiving::START,
                Receiving::OutOfSync => return Err(RecvErrorKind::Disconnected),
                Receiving::Header(..) | Receiving::Body { .. } | Receiving::Skip(_) => {}
            }
            if turn >= IO_SLICE {
                return Ok(Progress::Part);
            }
            match self.read(receiving, take) {
                // Also in the middle of a message: its sender has died.
                Ok(0) => return Err(RecvErrorKind::Disconnected),
                Ok(read) => turn += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Part),
                Err(error) if is_gone(&error) => return Err(RecvErrorKind::Disconnected),
                Err(error) => return Err(RecvErrorKind::Io(error)),
            }
        }
    }

    /// Reads some of what is missing of the message.
    fn read(&self, receiving: &mut Receiving, take: bool) -> io::Result<usize> {
        match receiving {
            Receiving::Header(header, got) => {
                let read = socket::try_read(&self.socket, &mut header[*got..])?;
                *got += read;
                Ok(read)
            }
            Receiving::Body { len, bytes, .. } => {
                let missing = *len + TRAILER.len() - usize::from(!take) - bytes.len();
                socket::try_append(&self.socket, bytes, missing.min(ALLOCATE_AHEAD))
            }
            Receiving::Skip(left) => {
                let most = usize::try_from(*left).map_or(SKIP_BUFFER, |left| left.min(SKIP_BUFFER));
                let read = socket::try_append(&self.socket, &mut Vec::new(), most)?;
                *left -= read as u64;
                Ok(read)
            }
            Receiving::OutOfSync => Ok(0),
        }
    }
}

/// Returns the kind and the length of a message.
fn read_header(header: &[u8; HEADER]) -> Result<(u8, u64), String> {
    if header[..4] != MAGIC {
        return Err("not a message of multiproc: it starts differently".into());
    }
    if header[4] != VERSION {
        return Err(format!("a message of version {}; this program speaks version {VERSION}", header[4]));
    }
    if header[6..8] != [0; 2] {
        return Err("not a message of multiproc: unknown flags".into());
    }
    Ok((header[5], u64::from_le_bytes(header[8..].try_into().expect("eight bytes"))))
}

/// For fuzzers: the limit on the length of the messages that they read.
#[cfg(any(test, fuzzing))]
pub(crate) const LIMIT: usize = 1000;

/// For fuzzers: messages as they are sent through a stream.
#[cfg(any(test, fuzzing))]
pub(crate) fn frames(messages: &[(u8, &[u8])]) -> Vec<u8> {
    let frame = |(kind, bytes): &(u8, &[u8])| {
        let Frame { header, body } = Frame::new(*kind, *bytes);
        [&header[..], body, &TRAILER].concat()
    };
    messages.iter().flat_map(frame).collect()
}

/// For fuzzers: a message, or the length of one that is too long.
#[cfg(any(test, fuzzing))]
pub(crate) type Read = Result<(u8, Vec<u8>), u64>;

/// A generous bound for the end of a stream. A test in another thread may have copied this process,
/// and the copy has the closed end open until it executes a program.
#[cfg(any(test, fuzzing))]
fn generous() -> Deadline {
    Deadline::after(std::time::Duration::from_secs(60))
}

/// For fuzzers: the messages in these bytes, and whether the stream ended between two messages.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_all(bytes: &[u8]) -> (Vec<Read>, bool) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    io::Write::write_all(&mut &theirs, bytes).expect("there is room for a few bytes");
    drop(theirs);
    let rx = Rx::new(ours.into());
    let mut messages = Vec::new();
    loop {
        assert!(rx.poll(LIMIT as u64, generous()).expect("nothing is wrong with the socket"), "no message or end");
        match rx.recv(LIMIT as u64, generous()) {
            Ok((kind, bytes)) => {
                assert!(bytes.len() <= LIMIT);
                messages.push(Ok((kind, bytes)));
            }
            Err(RecvErrorKind::TooLong { len, limit }) => {
                assert!(len > limit && limit == LIMIT as u64);
                messages.push(Err(len));
            }
            Err(RecvErrorKind::Corrupt(_)) => {
                let next = rx.recv(LIMIT as u64, generous());
                assert!(matches!(next, Err(RecvErrorKind::Disconnected)), "the stream is at its end: {next:?}");
                return (messages, false);
            }
            Err(RecvErrorKind::Disconnected) => return (messages, rx.is_between_messages()),
            Err(other) => panic!("{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Tx, Rx) {
        let (a, b) = UnixStream::pair().unwrap();
        (Tx::new(a.into()), Rx::new(b.into()))
    }

    fn messages() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        vec((any::<u8>(), vec(any::<u8>(), 0..2000)), 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn smoke(messages in messages()) {
            let (tx, rx) = pair();
            for (index, (kind, bytes)) in messages.iter().enumerate() {
                if index % 2 == 0 {
                    tx.send_bytes(*kind, bytes, Deadline::Now).unwrap();
                } else {
                    let payload = Payload { bytes: Bytes::Inline(bytes.clone()), ..Payload::default() };
                    tx.send(*kind, payload, Deadline::Now).unwrap();
                }
            }
            drop(tx);
            for message in messages {
                prop_assert!(rx.poll(u64::MAX, Deadline::Now).unwrap());
                prop_assert_eq!(rx.recv(u64::MAX, Deadline::Now).unwrap(), message);
            }
            prop_assert!(matches!(rx.recv(u64::MAX, generous()), Err(RecvErrorKind::Disconnected)));
        }

        #[test]
        fn any_fragmentation(
            messages in messages(),
            limit in 0..2000_u64,
            cuts in vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let (socket, theirs) = UnixStream::pair().unwrap();
            let rx = Rx::new(socket.into());
            let parts: Vec<(u8, &[u8])> = messages.iter().map(|(kind, bytes)| (*kind, &bytes[..])).collect();
            let whole = frames(&parts);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let mut received = Vec::new();
            for piece in cuts.windows(2) {
                io::Write::write_all(&mut &theirs, &whole[piece[0]..piece[1]]).unwrap();
                while rx.poll(limit, Deadline::Now).unwrap() {
                    received.push(rx.recv(limit, Deadline::Now));
                }
            }
            prop_assert_eq!(received.len(), messages.len());
            for (received, (kind, bytes)) in received.into_iter().zip(messages) {
                match received {
                    Ok(message) => prop_assert_eq!(message, (kind, bytes)),
                    Err(RecvErrorKind::TooLong { len, .. }) => {
                        prop_assert_eq!(len, bytes.len() as u64);
                        prop_assert!(len > limit);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }

        #[test]
        fn truncated_message_is_disconnect(messages in messages(), cut in any::<prop::sample::Index>()) {
            let parts: Vec<(u8, &[u8])> = messages.iter().map(|(kind, bytes)| (*kind, &bytes[..])).collect();
            let whole = frames(&parts);
            let (socket, theirs) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut &theirs, &whole[..cut.index(whole.len() + 1)]).unwrap();
            drop(theirs);
            let rx = Rx::new(socket.into());
            for message in messages {
                match rx.recv(u64::MAX, generous()) {
                    Ok(received) => prop_assert_eq!(received, message),
                    Err(RecvErrorKind::Disconnected) => return Ok(()),
                    Err(other) => panic!("{other}"),
                }
            }
            prop_assert!(matches!(rx.recv(u64::MAX, generous()), Err(RecvErrorKind::Disconnected)));
        }
    }

    #[test]
    fn unfinished_message_is_sent_first() {
        let (tx, rx) = pair();
        let large = vec![7; 3_000_000];
        let error = tx.send_bytes(b'b', &large, Deadline::Now).unwrap_err();
        assert!(matches!(error, SendErrorKind::Unfinished), "{error}");
        assert!(!tx.is_between_messages());
        std::thread::scope(|scope| {
            scope.spawn(|| tx.send_bytes(b'b', b"next", Deadline::Never).unwrap());
            assert!(rx.recv(u64::MAX, Deadline::Never).unwrap().1 == large);
            assert_eq!(rx.recv(u64::MAX, Deadline::Never).unwrap().1, b"next");
        });
        assert!(tx.is_between_messages() && rx.is_between_messages());
    }

    #[test]
    fn slow_reader_is_bounded_by_deadline() {
        let (socket, theirs) = UnixStream::pair().unwrap();
        // It receives the bytes as fast as they are sent.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while io::Read::read(&mut &theirs, &mut buffer).is_ok_and(|read| read > 0) {}
        });
        let tx = Tx::new(socket.into());
        // More than can be sent in this time.
        let large = vec![7; 128 << 20];
        let deadline = Deadline::from_now(std::time::Duration::from_millis(5));
        let error = tx.send_bytes(b'b', &large, deadline).unwrap_err();
        assert!(matches!(error, SendErrorKind::Unfinished), "{error}");
        let gone = lock(&tx.outbox).rest.as_ref().expect("a part is left").gone;
        assert!(gone < large.len() / 2, "{gone} bytes in 5 ms");
        // The rest must be sent before the next message, which takes longer than this.
        let error = tx.send_bytes(b'b', b"next", Deadline::Now).unwrap_err();
        assert!(matches!(error, SendErrorKind::Full), "{error}");
    }

    /// A socket for which a thread always sends more bytes, after `first`.
    fn endless(first: Vec<u8>) -> UnixStream {
        let (socket, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut written = io::Write::write_all(&mut &theirs, &first);
            let more = vec![0; 1 << 20];
            while written.is_ok() {
                written = io::Write::write_all(&mut &theirs, &more);
            }
        });
        socket
    }

    #[test]
    fn endless_writer_is_bounded_by_deadline() {
        let mut header = Frame::new(b'b', &b""[..]).header;
        header[8..].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        // A message that is too long, and one that is not. The bytes are sent faster than they are
        // read here.
        let rx = Rx::new(endless(header.to_vec()).into());
        assert!(rx.poll(1000, Deadline::Never).unwrap());
        assert!(matches!(rx.recv(1000, Deadline::Now), Err(RecvErrorKind::TooLong { .. })));
        let deadline = || Deadline::from_now(std::time::Duration::from_millis(20));
        assert!(matches!(rx.recv(1000, deadline()), Err(RecvErrorKind::Timeout)));
        assert!(matches!(rx.recv(1000, Deadline::Now), Err(RecvErrorKind::Empty)));
        let rx = Rx::new(endless(header.to_vec()).into());
        assert!(!rx.poll(u64::MAX, deadline()).unwrap());
        assert!(matches!(rx.recv(u64::MAX, Deadline::Now), Err(RecvErrorKind::Empty)));
    }

    #[test]
    fn claimed_length_is_not_allocated() {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let mut header = Frame::new(b'b', &b""[..]).header;
        header[8..].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        io::Write::write_all(&mut &theirs, &header).unwrap();
        let rx = Rx::new(socket.into());
        assert!(matches!(rx.recv(u64::MAX, Deadline::Now), Err(RecvErrorKind::Empty)));
        assert!(matches!(rx.recv(1000, Deadline::Now), Err(RecvErrorKind::Empty)), "the message is incomplete");
        let Receiving::Body { bytes, .. } = &lock(&rx.inbox).receiving else { panic!("the header is there") };
        assert!(bytes.capacity() <= 4 * ALLOCATE_AHEAD);
    }
}
