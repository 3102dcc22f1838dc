//! Messages over TCP: a direction is a connection of its own, so that the kernel knows when the last sender or receiver has gone. In it goes
//! one frame after the other, as [CONNECTION.md](CONNECTION.md) tells.
//!
//! A stream has no borders, so what is begun must be finished: the threads of a process take turns, and what one of them has left unfinished
//! at its deadline the next one carries on. Two processes would mix their bytes. So an end belongs to one process at a time, the first that
//! uses it (`multiproc_os::record_lock`), and can be handed over between two messages. While it is in the middle of one the socket has a mark;
//! who finds that when the other has gone can't go on, and ends the direction.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use multiproc_os::{record_lock, socket, threads};

use super::error::{RecvErrorKind, SendErrorKind};
use super::patience::Patience;
use crate::transfer::payload::{Bytes, Payload};
use crate::transfer::shared::Body;

const MAGIC: [u8; 4] = *b"mpst";
const VERSION: u8 = 1;
const HEADER: usize = 16;

/// What stands behind each message. Its last byte is read together with taking the message: as long as a message waits to be taken, something
/// is left in the socket, and whoever waits for that sees it.
const TRAILER: [u8; 8] = *b"mpst-end";

/// How much memory is taken ahead of what has come: a length is only a claim.
const AHEAD: usize = 1 << 20;

/// How much is read or written before the caller looks at the clock. It is more than waits in a
/// socket, by default.
const AT_ONCE: usize = 8 << 20;

/// How much is read at once of what nobody wants.
const SKIPPED: usize = 64 << 10;

/// Makes `fd` this process's.
fn claim(fd: impl AsFd) -> io::Result<()> {
    record_lock::claim(fd)?.map_err(|pid| {
        let what = format!("process {pid} uses this end of the connection; over TCP, one process can at a time");
        io::Error::new(io::ErrorKind::ResourceBusy, what)
    })
}

/// Whether `error` says that the other end, or the way there, is gone.
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

/// Whether this process is in the middle of a message. Then the rest of it is here and nowhere else, and the socket has a mark.
#[derive(Debug, Default)]
struct Middle {
    /// The process, as a copy of it made by fork(2) is not meant.
    process: Option<i32>,
}

impl Middle {
    /// Begins with a message, or goes on. False if another process has left the stream in the middle of one.
    fn enter(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        if self.process.is_none() {
            if socket::is_marked(socket)? {
                return Ok(false);
            }
            // Before the first byte: whoever is killed has no time to do it afterwards.
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

    /// Whether it was another process, of which this is a copy.
    fn is_anothers(&self) -> bool {
        self.process.is_some_and(|process| process != threads::getpid())
    }
}

/// What this process has on its way through sockets, by their cookies. An end that comes back to a process that has it is a second one of the
/// same socket: they take turns as clones do.
struct States<S>(Mutex<Known<S>>);

struct Known<S> {
    states: BTreeMap<u64, Weak<Mutex<S>>>,
    /// With so many, those that are no more in use are thrown out.
    most: usize,
}

static OUTBOXES: States<Outbox> = States::new();
static INBOXES: States<Inbox> = States::new();

impl<S: Default> States<S> {
    const fn new() -> States<S> {
        States(Mutex::new(Known { states: BTreeMap::new(), most: 16 }))
    }

    fn of(&self, socket: &OwnedFd) -> Arc<Mutex<S>> {
        let Ok(cookie) = socket::cookie(socket) else { return Arc::default() };
        let mut known = lock(&self.0);
        if let Some(state) = known.states.get(&cookie).and_then(Weak::upgrade) {
            return state;
        }
        if known.states.len() >= known.most {
            known.states.retain(|_, state| state.strong_count() > 0);
            known.most = 2 * known.states.len() + 16;
        }
        let state = Arc::default();
        known.states.insert(cookie, Arc::downgrade(&state));
        state
    }
}

/// The end that sends.
#[derive(Debug)]
pub(crate) struct Tx {
    socket: OwnedFd,
    outbox: Arc<Mutex<Outbox>>,
}

/// What is on its way through an end that sends.
#[derive(Debug, Default)]
struct Outbox {
    middle: Middle,
    /// The rest of a message of which a part has gone.
    rest: Option<Rest>,
    /// How many messages have been left unfinished so far. The last of them is the one in `rest`.
    left: u64,
    /// Nothing goes any more.
    broken: bool,
}

#[derive(Debug)]
struct Rest {
    frame: Frame<Body<'static>>,
    /// How many bytes of it have gone.
    gone: usize,
}

/// Header, body and trailer.
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

    /// Writes what comes after the first `gone` bytes, as far as there is room, and up to
    /// [`AT_ONCE`] of it: the other end may receive as fast as this writes. Says how many have gone
    /// then.
    fn write(&self, socket: &OwnedFd, mut gone: usize) -> io::Result<usize> {
        let end = self.len().min(gone.saturating_add(AT_ONCE));
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
    /// In a copy of a process: what the other has begun is not ours to finish.
    fn disown_anothers(&mut self) {
        if self.middle.is_anothers() {
            (self.middle, self.rest) = (Middle::default(), None);
        }
    }

    /// Carries on with what was left unfinished; false if there is no room for all of it yet.
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

    /// Whether it could go on in another process.
    pub(crate) fn is_between_messages(&self) -> bool {
        let mut outbox = lock(&self.outbox);
        outbox.disown_anothers();
        outbox.middle.process.is_none()
    }

    /// Sends a payload. It has no handles.
    pub(crate) fn send(&self, kind: u8, payload: Payload, patience: Patience) -> Result<(), SendErrorKind> {
        self.sending(kind, payload)?.go_on(patience)
    }

    /// A payload that is to be sent, in several attempts if need be. It has no handles.
    pub(crate) fn sending(&self, kind: u8, payload: Payload) -> Result<Sending<'_>, SendErrorKind> {
        let body = match payload.bytes {
            Bytes::Inline(bytes) => Body::Own(bytes),
            Bytes::Mapped(bytes) => Body::Mapped(bytes),
            Bytes::File { file, len } => {
                Body::Mapped(multiproc_os::memfd::Sealed::map(file, len).map_err(SendErrorKind::Io)?)
            }
        };
        Ok(Sending { tx: self, frame: Some(Frame::new(kind, body)), ours: None })
    }

    /// Sends bytes.
    pub(crate) fn send_bytes(&self, kind: u8, bytes: &[u8], patience: Patience) -> Result<(), SendErrorKind> {
        let frame = Frame::new(kind, bytes);
        self.send_with(&mut None, patience, |socket| {
            let gone = frame.write(socket, 0)?;
            Ok(if gone == 0 {
                Begun::No
            } else if gone == frame.len() {
                Begun::Whole
            } else {
                let frame = Frame { header: frame.header, body: Body::Own(bytes.to_vec()) };
                Begun::Part(Rest { frame, gone })
            })
        })
    }

    /// Sends what `begin` begins to send once it is its turn. `ours` says which of those that were
    /// left unfinished it is, if it has begun.
    fn send_with(
        &self,
        ours: &mut Option<u64>,
        patience: Patience,
        mut begin: impl FnMut(&OwnedFd) -> io::Result<Begun>,
    ) -> Result<(), SendErrorKind> {
        loop {
            {
                let mut outbox = lock(&self.outbox);
                outbox.disown_anothers();
                if ours.is_some_and(|ours| ours < outbox.left || outbox.rest.is_none() && !outbox.broken) {
                    return Ok(());
                }
                if outbox.broken {
                    return Err(SendErrorKind::Disconnected);
                }
                claim(&self.socket).map_err(SendErrorKind::Io)?;
                if !outbox.middle.enter(&self.socket).map_err(SendErrorKind::Io)? {
                    // What is sent now would count as a part of the message that another has begun.
                    socket::shut_down(&self.socket);
                    outbox.broken = true;
                    return Err(SendErrorKind::Disconnected);
                }
                let stepped = self.step(&mut outbox, ours.is_none(), &mut begin);
                if outbox.rest.is_none() && matches!(stepped, Ok(Begun::Whole | Begun::No)) {
                    outbox.middle.leave(&self.socket).map_err(SendErrorKind::Io)?;
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
            if !patience.wait_for_room(&self.socket).map_err(SendErrorKind::Io)? {
                let outbox = lock(&self.outbox);
                return match *ours {
                    None => Err(patience.too_late_to_send()),
                    Some(ours) if ours < outbox.left => Ok(()),
                    Some(_) if outbox.broken => Err(SendErrorKind::Disconnected),
                    Some(_) if outbox.rest.is_some() => Err(SendErrorKind::Unfinished),
                    Some(_) => Ok(()),
                };
            }
        }
    }

    /// Carries on with what is unfinished, and begins another message if there is one to begin. [`Begun::Whole`] says that the caller's is
    /// finished.
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
        // The kernel takes what is sent to a peer that has closed, if it has not heard of it by being told off. Nobody ever sends this way, so
        // if there is an end to be read the other is closed.
        if socket::has_input(&self.socket)?.is_none() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        begin(&self.socket)
    }
}

/// A message on its way.
pub(crate) struct Sending<'a> {
    tx: &'a Tx,
    /// None once it has begun and was left unfinished: then the rest is in the outbox.
    frame: Option<Frame<Body<'static>>>,
    ours: Option<u64>,
}

impl Sending<'_> {
    /// Sends it, or what is left of it. After `Full`, `Timeout` and `Unfinished` this can be called
    /// again.
    pub(crate) fn go_on(&mut self, patience: Patience) -> Result<(), SendErrorKind> {
        let frame = &mut self.frame;
        self.tx.send_with(&mut self.ours, patience, |socket| {
            let whole = frame.as_ref().expect("it is begun once");
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

/// How far a message has gone.
enum Begun {
    No,
    Part(Rest),
    Whole,
}

/// The end that receives.
#[derive(Debug)]
pub(crate) struct Rx {
    socket: OwnedFd,
    inbox: Arc<Mutex<Inbox>>,
}

/// What has come through an end that receives, and has not been taken.
#[derive(Debug)]
struct Inbox {
    middle: Middle,
    coming: Coming,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { middle: Middle::default(), coming: Coming::NOTHING }
    }
}

impl Inbox {
    /// In a copy of a process: what the other has begun is not ours to finish.
    fn disown_anothers(&mut self) {
        if self.middle.is_anothers() {
            *self = Inbox::default();
        }
    }
}

/// What has come so far of a message.
#[derive(Debug)]
enum Coming {
    /// So many bytes of the header.
    Header([u8; HEADER], usize),
    /// Of the body, and then of the trailer.
    Body { kind: u8, len: usize, bytes: Vec<u8> },
    /// So many bytes are left of a message that nobody wants.
    Skip(u64),
    /// Nobody knows where the next message begins.
    OutOfStep,
}

impl Coming {
    const NOTHING: Coming = Coming::Header([0; HEADER], 0);
}

/// What [`Rx::gather`] has come to.
enum Gathered {
    /// The message is here; all but its last byte, if it was not to be taken.
    Whole(u8, Vec<u8>),
    /// More has to come, or is there and a turn is over.
    Part,
}

impl Rx {
    pub(crate) fn new(socket: OwnedFd) -> Rx {
        Rx { inbox: INBOXES.of(&socket), socket }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether it could go on in another process.
    pub(crate) fn is_between_messages(&self) -> bool {
        let mut inbox = lock(&self.inbox);
        inbox.disown_anothers();
        inbox.middle.process.is_none()
    }

    /// Receives the next message, of no more than `limit` bytes: its kind and its bytes.
    pub(crate) fn recv(&self, limit: u64, patience: Patience) -> Result<(u8, Vec<u8>), RecvErrorKind> {
        loop {
            if let Gathered::Whole(kind, bytes) = self.step(limit, true).map_err(RecvErrorKind::Io)?? {
                return Ok((kind, bytes));
            }
            if patience.is_over() || !patience.wait_for_input(&self.socket).map_err(RecvErrorKind::Io)? {
                return Err(patience.too_late_to_receive());
            }
        }
    }

    /// Whether there is a message, an error or the end, before the time is up.
    pub(crate) fn poll(&self, limit: u64, patience: Patience) -> io::Result<bool> {
        loop {
            match self.step(limit, false)? {
                Ok(Gathered::Part) => {}
                // It is said again to whoever receives.
                Ok(Gathered::Whole(..)) | Err(_) => return Ok(true),
            }
            if patience.is_over() || !patience.wait_for_input(&self.socket)? {
                return Ok(false);
            }
        }
    }

    /// Gathers if this process may.
    fn step(&self, limit: u64, take: bool) -> io::Result<Result<Gathered, RecvErrorKind>> {
        let mut inbox = lock(&self.inbox);
        inbox.disown_anothers();
        claim(&self.socket)?;
        // Whoever is killed while nothing comes takes nothing with it, so has left no mark.
        if matches!(inbox.coming, Coming::Header(_, 0))
            && matches!(socket::has_input(&self.socket), Ok(Some(false)))
            && !socket::is_marked(&self.socket)?
        {
            return Ok(Ok(Gathered::Part));
        }
        if !matches!(inbox.coming, Coming::OutOfStep) && !inbox.middle.enter(&self.socket)? {
            // Another has taken the beginning of a message with it. The sender is to know.
            socket::shut_down(&self.socket);
            inbox.coming = Coming::OutOfStep;
        }
        let gathered = self.gather(&mut inbox.coming, limit, take);
        if matches!(inbox.coming, Coming::Header(_, 0)) {
            inbox.middle.leave(&self.socket)?;
        }
        Ok(gathered)
    }

    /// Reads what there is of the next message, up to [`AT_ONCE`] and a little more, and takes it if that is all of it and it is to be taken.
    fn gather(&self, coming: &mut Coming, limit: u64, take: bool) -> Result<Gathered, RecvErrorKind> {
        let mut turn = 0;
        loop {
            match &mut *coming {
                Coming::Header(header, HEADER) => {
                    let (kind, len) = match read_header(header) {
                        Ok(known) => known,
                        Err(what) => {
                            if take {
                                *coming = Coming::OutOfStep;
                            }
                            return Err(RecvErrorKind::Garbage(what));
                        }
                    };
                    if len > limit.min(u64::MAX - TRAILER.len() as u64) {
                        if take {
                            *coming = Coming::Skip(len.saturating_add(TRAILER.len() as u64));
                        }
                        return Err(RecvErrorKind::TooLong { len, limit });
                    }
                    let len = len as usize;
                    *coming = Coming::Body { kind, len, bytes: Vec::with_capacity((len + TRAILER.len()).min(AHEAD)) };
                }
                Coming::Body { kind, len, bytes } if bytes.len() == *len + TRAILER.len() => {
                    let (kind, len, mut bytes) = (*kind, *len, std::mem::take(bytes));
                    if bytes[len..] != TRAILER {
                        *coming = Coming::OutOfStep;
                        return Err(RecvErrorKind::Garbage("a message that ends differently".into()));
                    }
                    *coming = Coming::NOTHING;
                    bytes.truncate(len);
                    // When it was begun there may have been another limit.
                    return match len as u64 {
                        len if len > limit => Err(RecvErrorKind::TooLong { len, limit }),
                        _ => Ok(Gathered::Whole(kind, bytes)),
                    };
                }
                Coming::Body { kind, len, bytes } if !take && bytes.len() + 1 == *len + TRAILER.len() => {
                    return match socket::has_input(&self.socket) {
                        Ok(Some(false)) => Ok(Gathered::Part),
                        Ok(_) | Err(_) => Ok(Gathered::Whole(*kind, Vec::new())),
                    };
                }
                Coming::Skip(0) => *coming = Coming::NOTHING,
                Coming::OutOfStep => return Err(RecvErrorKind::Disconnected),
                Coming::Header(..) | Coming::Body { .. } | Coming::Skip(_) => {}
            }
            if turn >= AT_ONCE {
                return Ok(Gathered::Part);
            }
            match self.read(coming, take) {
                // Also in the middle of a message: whoever was sending it has died.
                Ok(0) => return Err(RecvErrorKind::Disconnected),
                Ok(read) => turn += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Gathered::Part),
                Err(error) if is_gone(&error) => return Err(RecvErrorKind::Disconnected),
                Err(error) => return Err(RecvErrorKind::Io(error)),
            }
        }
    }

    /// Reads some of what is missing, of which there is something.
    fn read(&self, coming: &mut Coming, take: bool) -> io::Result<usize> {
        match coming {
            Coming::Header(header, got) => {
                let read = socket::try_read(&self.socket, &mut header[*got..])?;
                *got += read;
                Ok(read)
            }
            Coming::Body { len, bytes, .. } => {
                let missing = *len + TRAILER.len() - usize::from(!take) - bytes.len();
                socket::try_append(&self.socket, bytes, missing.min(AHEAD))
            }
            Coming::Skip(left) => {
                let most = usize::try_from(*left).map_or(SKIPPED, |left| left.min(SKIPPED));
                let read = socket::try_append(&self.socket, &mut Vec::new(), most)?;
                *left -= read as u64;
                Ok(read)
            }
            Coming::OutOfStep => Ok(0),
        }
    }
}

/// Kind and length.
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

/// For fuzzers: how long a message may be that they read.
#[cfg(any(test, fuzzing))]
pub(crate) const LIMIT: usize = 1000;

/// For fuzzers: messages as they go through a stream.
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

/// For fuzzers: what comes of these bytes, and whether the end came between two messages.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_all(bytes: &[u8]) -> (Vec<Read>, bool) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    io::Write::write_all(&mut &theirs, bytes).expect("there is room for so few");
    drop(theirs);
    let rx = Rx::new(ours.into());
    let mut messages = Vec::new();
    loop {
        assert!(rx.poll(LIMIT as u64, Patience::None).expect("nothing is wrong with the socket"), "the end is there");
        match rx.recv(LIMIT as u64, Patience::None) {
            Ok((kind, bytes)) => {
                assert!(bytes.len() <= LIMIT);
                messages.push(Ok((kind, bytes)));
            }
            Err(RecvErrorKind::TooLong { len, limit }) => {
                assert!(len > limit && limit == LIMIT as u64);
                messages.push(Err(len));
            }
            Err(RecvErrorKind::Garbage(_)) => {
                let next = rx.recv(LIMIT as u64, Patience::None);
                assert!(matches!(next, Err(RecvErrorKind::Disconnected)), "nobody knows where to go on: {next:?}");
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
        fn what_is_sent_is_received(messages in messages()) {
            let (tx, rx) = pair();
            for (index, (kind, bytes)) in messages.iter().enumerate() {
                if index % 2 == 0 {
                    tx.send_bytes(*kind, bytes, Patience::None).unwrap();
                } else {
                    let payload = Payload { bytes: Bytes::Inline(bytes.clone()), ..Payload::default() };
                    tx.send(*kind, payload, Patience::None).unwrap();
                }
            }
            drop(tx);
            for message in messages {
                prop_assert!(rx.poll(u64::MAX, Patience::None).unwrap());
                prop_assert_eq!(rx.recv(u64::MAX, Patience::None).unwrap(), message);
            }
            prop_assert!(matches!(rx.recv(u64::MAX, Patience::None), Err(RecvErrorKind::Disconnected)));
        }

        #[test]
        fn in_whatever_pieces_they_come_messages_are_the_same(
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
                while rx.poll(limit, Patience::None).unwrap() {
                    received.push(rx.recv(limit, Patience::None));
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
        fn what_is_cut_off_is_the_end(messages in messages(), cut in any::<prop::sample::Index>()) {
            let parts: Vec<(u8, &[u8])> = messages.iter().map(|(kind, bytes)| (*kind, &bytes[..])).collect();
            let whole = frames(&parts);
            let (socket, theirs) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut &theirs, &whole[..cut.index(whole.len() + 1)]).unwrap();
            drop(theirs);
            let rx = Rx::new(socket.into());
            for message in messages {
                match rx.recv(u64::MAX, Patience::None) {
                    Ok(received) => prop_assert_eq!(received, message),
                    Err(RecvErrorKind::Disconnected) => return Ok(()),
                    Err(other) => panic!("{other}"),
                }
            }
            prop_assert!(matches!(rx.recv(u64::MAX, Patience::None), Err(RecvErrorKind::Disconnected)));
        }
    }

    #[test]
    fn what_was_left_unfinished_goes_ahead_of_the_next() {
        let (tx, rx) = pair();
        let large = vec![7; 3_000_000];
        let error = tx.send_bytes(b'b', &large, Patience::None).unwrap_err();
        assert!(matches!(error, SendErrorKind::Unfinished), "{error}");
        assert!(!tx.is_between_messages());
        std::thread::scope(|scope| {
            scope.spawn(|| tx.send_bytes(b'b', b"next", Patience::Endless).unwrap());
            assert!(rx.recv(u64::MAX, Patience::Endless).unwrap().1 == large);
            assert_eq!(rx.recv(u64::MAX, Patience::Endless).unwrap().1, b"next");
        });
        assert!(tx.is_between_messages() && rx.is_between_messages());
    }

    #[test]
    fn who_receives_without_end_holds_up_nobody_past_the_deadline() {
        let (socket, theirs) = UnixStream::pair().unwrap();
        // It takes the bytes as fast as they come.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while io::Read::read(&mut &theirs, &mut buffer).is_ok_and(|read| read > 0) {}
        });
        let tx = Tx::new(socket.into());
        // More than goes in so little time.
        let large = vec![7; 128 << 20];
        let soon = Patience::of(Some(std::time::Duration::from_millis(5)));
        let error = tx.send_bytes(b'b', &large, soon).unwrap_err();
        assert!(matches!(error, SendErrorKind::Unfinished), "{error}");
        let gone = lock(&tx.outbox).rest.as_ref().expect("it is unfinished").gone;
        assert!(gone < large.len() / 2, "{gone} bytes in 5 ms");
        // The rest goes with the next, in no less time.
        let error = tx.send_bytes(b'b', b"next", Patience::None).unwrap_err();
        assert!(matches!(error, SendErrorKind::Full), "{error}");
    }

    /// A socket that a thread always has more bytes for, behind `first`.
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
    fn who_streams_without_end_holds_up_nobody_past_the_deadline() {
        let mut header = Frame::new(b'b', &b""[..]).header;
        header[8..].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        // One that is too long, and one that is not. The bytes come faster than they are read here.
        let rx = Rx::new(endless(header.to_vec()).into());
        assert!(rx.poll(1000, Patience::Endless).unwrap());
        assert!(matches!(rx.recv(1000, Patience::None), Err(RecvErrorKind::TooLong { .. })));
        let soon = || Patience::of(Some(std::time::Duration::from_millis(20)));
        assert!(matches!(rx.recv(1000, soon()), Err(RecvErrorKind::Timeout)));
        assert!(matches!(rx.recv(1000, Patience::None), Err(RecvErrorKind::Empty)));
        let rx = Rx::new(endless(header.to_vec()).into());
        assert!(!rx.poll(u64::MAX, soon()).unwrap());
        assert!(matches!(rx.recv(u64::MAX, Patience::None), Err(RecvErrorKind::Empty)));
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let mut header = Frame::new(b'b', &b""[..]).header;
        header[8..].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        io::Write::write_all(&mut &theirs, &header).unwrap();
        let rx = Rx::new(socket.into());
        assert!(matches!(rx.recv(u64::MAX, Patience::None), Err(RecvErrorKind::Empty)));
        assert!(matches!(rx.recv(1000, Patience::None), Err(RecvErrorKind::Empty)), "it is on its way");
        let Coming::Body { bytes, .. } = &lock(&rx.inbox).coming else { panic!("the header is there") };
        assert!(bytes.capacity() <= 4 * AHEAD);
    }
}
