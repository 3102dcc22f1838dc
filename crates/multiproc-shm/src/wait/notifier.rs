//! A process's side of a [`WakePipe`]. Counts the process's handles that could make the change that
//! waiters wait for (*openers*), and its threads and futures that wait.
//!
//! As long as an opener isn't waiting itself, the process holds the pipe open for writing, since it
//! may still make the change. When all openers wait, it closes the write end, so that a hang-up
//! tells waiters that no process is left. See `../PROTOCOL.md`, "The wake pipe".
//!
//! A fork copy starts with no waiters and no openers: it counts only the handles that are used in
//! it, as the others may never be.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use multiproc_os::errno::ESRCH;
use multiproc_os::wake_pipe::{self, WakePipe, WakeReason};
use multiproc_os::{at_fork, pidfd, poll, threads};

use crate::lock::fork_mutex::{ForkMutex, ForkMutexGuard};
use crate::memory::once_box::OnceBox;
use crate::wait::backoff::SpinHistory;
use crate::wait::deadline::sooner;

/// How often a waiter without a subscription checks the state.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How many subscriptions use one open file: the kernel refuses (`EINVAL`) to have more than 500
/// epoll sets, themselves members of sets, watch the same file.
const MAX_SUBSCRIPTIONS: usize = 256;

/// How tokens leave the pipe. See `../PROTOCOL.md`, "The wake pipe".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// A waiter that finds nothing to take removes them, so that the pipe's descriptor can also be
    /// polled by code that knows nothing of this protocol. For objects with waiters that all wait
    /// for the same thing.
    Consumed,
    /// They stay, and each waiter wakes for those written after it has subscribed. For objects
    /// where the condition of one waiter may hold when that of another doesn't.
    Broadcast,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Notifier {
    tokens: Tokens,
    /// The number of the wake pipe's descriptor, which never changes.
    number: RawFd,
    state: ForkMutex<State>,
    /// A read end for code that polls the descriptor by means of its own.
    polled: OnceBox<OwnedFd>,
    /// How long earlier waits took, which decides how long the next ones spin.
    pub(crate) spin_history: SpinHistory,
}

#[derive(Debug)]
struct State {
    wake_pipe: WakePipe,
    read_only: bool,
    /// A descriptor of the read end alone, for waiters to poll: so a sleeping waiter doesn't hold
    /// the write end.
    reader: Option<Arc<OwnedFd>>,
    /// The descriptor that the latest subscriptions use.
    heard_by: Weak<OwnedFd>,
    /// Whether others may have the object: threads with a handle of their own, or other processes.
    shared: bool,
    /// How often this process had forked when the notifier was made.
    forks: u32,
    /// How many handles keep the pipe open for writing even while all openers wait.
    pins: usize,
    /// Handles of this process through which the change could be made.
    openers: usize,
    /// How many of those can't be used now, as a thread or future waits through them.
    waiting: usize,
    /// Threads and futures that wait, and how many of them are futures.
    waiters: usize,
    futures: usize,
    /// Whether there is a token that could not be written.
    owed: bool,
}

impl Notifier {
    /// Creates a wake pipe, with one opener.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new(tokens: Tokens) -> io::Result<Notifier> {
        WakePipe::new().map(|wake_pipe| Notifier::of(wake_pipe, tokens, false))
    }

    /// Uses a wake pipe that was received from another process, with one opener.
    ///
    /// # Errors
    /// `InvalidData` when the descriptor is not a wake pipe.
    pub fn from_fd(fd: OwnedFd, tokens: Tokens) -> io::Result<Notifier> {
        WakePipe::from_fd(fd).map(|wake_pipe| Notifier::of(wake_pipe, tokens, true))
    }

    /// As [`from_fd`](Notifier::from_fd), but also accepts a descriptor that is open for reading
    /// only.
    ///
    /// # Errors
    /// `InvalidData` when the descriptor is not a wake pipe.
    pub fn from_any_fd(fd: OwnedFd, tokens: Tokens) -> io::Result<Notifier> {
        let (wake_pipe, read_only) = WakePipe::from_any_fd(fd)?;
        let notifier = Notifier::of(wake_pipe, tokens, true);
        notifier.state().read_only = read_only;
        Ok(notifier)
    }

    /// Returns whether the pipe came as a descriptor for reading only, with which a process can't
    /// count as one that could make the change.
    pub fn is_read_only(&self) -> bool {
        self.state().read_only
    }

    fn of(wake_pipe: WakePipe, tokens: Tokens, shared: bool) -> Notifier {
        let forks = at_fork::count();
        let state = State {
            read_only: false,
            reader: None,
            heard_by: Weak::new(),
            shared,
            forks,
            pins: 0,
            openers: 1,
            waiting: 0,
            waiters: 0,
            futures: 0,
            owed: false,
            wake_pipe,
        };
        Notifier {
            tokens,
            number: state.wake_pipe.as_fd().as_raw_fd(),
            state: ForkMutex::new(state),
            polled: OnceBox::new(),
            spin_history: SpinHistory::default(),
        }
    }

    fn state(&self) -> ForkMutexGuard<'_, State> {
        self.state.lock(State::renew)
    }

    /// Keeps the pipe open for writing, even while all openers of this process wait, until
    /// [`unpin`](Notifier::unpin) is called as often. Fork copies keep it open too.
    pub fn pin(&self) {
        let mut state = self.state();
        state.pins += 1;
        state.update_write_end();
    }

    /// See [`pin`](Notifier::pin).
    pub fn unpin(&self) {
        let mut state = self.state();
        state.pins = state.pins.saturating_sub(1);
        state.update_write_end();
    }

    /// Counts one more opener.
    pub fn add_opener(&self) {
        let mut state = self.state();
        state.shared = true;
        state.openers += 1;
        state.update_write_end();
    }

    /// Counts one opener less. Returns how many are left.
    pub fn remove_opener(&self) -> usize {
        let mut state = self.state();
        state.openers = state.openers.saturating_sub(1);
        state.update_write_end();
        state.openers
    }

    /// Writes a token. Returns whether it could; if not, it is written when there are descriptors
    /// again.
    pub fn notify(&self) -> bool {
        let mut state = self.state();
        // A process that notifies doesn't wait.
        if state.read_only {
            state.open_both_ways();
        }
        // Fails only if that wasn't possible, at the limit of open files.
        state.owed = state.wake_pipe.notify().is_err();
        !state.owed
    }

    /// Removes the tokens, if this object does that ([`Tokens::Consumed`]). Must be called with
    /// `armed` set, and with the spin lock held under which other processes notify: see
    /// `../PROTOCOL.md`.
    pub fn clear(&self) {
        if self.tokens == Tokens::Consumed {
            self.state().wake_pipe.clear();
        }
    }

    /// Subscribes to the events of the wake pipe from now on. Must be called before the caller
    /// checks, under the spin lock, whether it must wait.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`. The caller can wait with [`Subscription::Periodic`] then.
    pub fn listen(&self) -> io::Result<Subscription> {
        match self.tokens {
            Tokens::Consumed => Ok(Subscription::Polled),
            Tokens::Broadcast => {
                let reader = self.state().reader()?;
                Ok(Subscription::Epoll(Arc::new(wake_pipe::Subscription::new(&reader)?), reader))
            }
        }
    }

    /// Counts the caller as waiting, until the result is dropped.
    pub fn waiting<'a>(&'a self, subscription: &'a Subscription, through: ViaHandle<'a>) -> Waiting<'a> {
        let mut state = self.state();
        // At the limit of open files, the waiter polls the pipe's own descriptor.
        let reader = state.reader_for(subscription).ok();
        state.enter(through, false);
        Waiting { notifier: self, reader, subscription, through, is_future: false }
    }

    /// As [`waiting`](Notifier::waiting), for a future.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    #[cfg(feature = "async")]
    pub fn waiting_future<'a>(
        &'a self,
        subscription: &'a Subscription,
        through: ViaHandle<'a>,
    ) -> io::Result<Waiting<'a>> {
        let mut state = self.state();
        let reader = Some(state.reader_for(subscription)?);
        state.enter(through, true);
        Ok(Waiting { notifier: self, reader, subscription, through, is_future: true })
    }

    /// Returns whether this process has threads that don't wait here, apart from the calling one.
    pub fn has_others(&self) -> bool {
        let waiters = self.state().waiters;
        threads::count().is_ok_and(|threads| threads > waiters + 1)
    }

    /// Descriptors of this process's other threads (pidfds), which become readable when a thread
    /// ends. Only those threads can create new ones. `None` when there are too many, and before
    /// Linux 6.9, which has no such descriptors.
    pub fn other_threads() -> Option<Vec<OwnedFd>> {
        const MOST: usize = 128;
        let this = threads::gettid();
        let ids = threads::ids().ok()?;
        if ids.len() > MOST {
            return None;
        }
        let mut fds = Vec::with_capacity(ids.len());
        for id in ids.into_iter().filter(|id| *id != this) {
            match pidfd::open_thread(id) {
                Ok(fd) => fds.push(fd),
                // The thread has ended.
                Err(error) if error.raw_os_error() == Some(ESRCH) => {}
                Err(_) => return None,
            }
        }
        Some(fds)
    }

    /// Sleeps as [`Waiting::sleep`] does, but without counting the caller as waiting: the write end
    /// stays open, so the pipe doesn't hang up.
    ///
    /// # Errors
    /// As poll(2).
    pub fn sleep_open(
        &self,
        subscription: &Subscription,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WakeReason> {
        if self.state().read_only {
            // The write end could not be opened, at the limit of open files, so a hang-up says
            // nothing.
            return check_periodically(deadline, |until| {
                let ended = poll::wait_any_in(others, Some(until))?;
                Ok(if ended.is_empty() { WakeReason::Timeout } else { WakeReason::Other })
            });
        }
        subscription.wait_at(self.as_fd(), others, deadline)
    }

    /// Returns a descriptor to poll for tokens. It is the same for the life of the notifier, so
    /// that it can be a member of an epoll set, and it never holds the write end, not in fork
    /// copies either. At the limit of open files it is the pipe's own descriptor.
    pub fn fd_to_poll(&self) -> BorrowedFd<'_> {
        if self.polled.get().is_none()
            && let Ok(reader) = self.state().wake_pipe.reader()
        {
            // Another thread may have done it first.
            self.polled.set(reader);
        }
        self.polled.get().map_or_else(|| self.as_fd(), |reader| reader.as_fd())
    }

    /// Returns whether no process is left that could make the change. Never true while one of this
    /// process's openers isn't waiting.
    pub fn is_hung_up(&self) -> bool {
        WakePipe::is_hung_up(self.fd_to_poll()).unwrap_or(false)
    }

    /// Makes the [descriptor to poll](Notifier::fd_to_poll) readable now, as the condition holds
    /// already.
    pub fn show(&self) {
        let readable = poll::wait_any_in(&[self.fd_to_poll()], Some(Instant::now()));
        if readable.is_ok_and(|readable| readable.is_empty()) {
            self.notify();
            // To write the token, a process without an opener may have opened the write end.
            self.state().update_write_end();
        }
    }

    /// Returns whether no opener is left in any process, waiting or not: for a pipe at which none
    /// waits. A descriptor in a message in flight counts as an opener.
    pub fn is_deserted(&self) -> bool {
        let mut state = self.state();
        state.update_write_end();
        state.read_only && WakePipe::is_hung_up(state.wake_pipe.as_fd()).unwrap_or(false)
    }

    /// Returns a descriptor of the read end to send to another process. That process can't make the
    /// change, and doesn't count.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn to_send_reader(&self) -> io::Result<OwnedFd> {
        let mut state = self.state();
        state.shared = true;
        state.wake_pipe.reader()
    }

    /// Returns a descriptor of both ends to send to another process, which then counts as one that
    /// could make the change.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn to_send(&self) -> io::Result<OwnedFd> {
        let mut state = self.state();
        state.shared = true;
        state.update_write_end();
        match state.read_only {
            true => state.wake_pipe.open_read_write(),
            false => state.wake_pipe.as_fd().try_clone_to_owned(),
        }
    }
}

impl State {
    /// Makes it the state of a fork copy. If another thread `was` changing it when the copy was
    /// made, the readers may be half replaced: they are forgotten.
    fn renew(&mut self, was: bool) {
        (self.openers, self.shared) = (0, true);
        (self.waiting, self.waiters, self.futures) = (0, 0, 0);
        let (reader, heard_by) = (self.reader.take(), std::mem::take(&mut self.heard_by));
        if was {
            std::mem::forget((reader, heard_by));
            // The pipe is reopened before the field is set.
            self.read_only = self.wake_pipe.is_read_only().unwrap_or(self.read_only);
        }
    }

    /// A descriptor of the read end, shared by at most [`MAX_SUBSCRIPTIONS`] subscriptions.
    fn reader(&mut self) -> io::Result<Arc<OwnedFd>> {
        let before = self.heard_by.upgrade().or_else(|| self.reader.clone());
        match before.filter(|reader| Arc::strong_count(reader) < MAX_SUBSCRIPTIONS) {
            Some(reader) => Ok(reader),
            None => {
                let reader = Arc::new(self.wake_pipe.reader()?);
                self.heard_by = Arc::downgrade(&reader);
                Ok(reader)
            }
        }
    }

    /// A descriptor of the read end for one more waiter. Waiters share it, at most
    /// [`MAX_SUBSCRIPTIONS`] of them the same one: each may be in an epoll set of its own.
    fn reader_for(&mut self, subscription: &Subscription) -> io::Result<Arc<OwnedFd>> {
        let reader = match subscription {
            Subscription::Epoll(_, reader) => reader.clone(),
            Subscription::Polled | Subscription::Periodic => self.reader()?,
        };
        self.reader.get_or_insert_with(|| reader.clone());
        Ok(reader)
    }

    fn enter(&mut self, through: ViaHandle<'_>, is_future: bool) {
        self.waiters += 1;
        self.futures += usize::from(is_future);
        self.waiting += usize::from(match through {
            ViaHandle::Own => true,
            ViaHandle::Handle(waiters) => waiters.fetch_add(1, Relaxed) == 0,
            ViaHandle::Other => false,
        });
        self.update_write_end();
    }

    fn leave(&mut self, through: ViaHandle<'_>, is_future: bool) {
        self.waiters = self.waiters.saturating_sub(1);
        self.futures = self.futures.saturating_sub(is_future.into());
        self.waiting = self.waiting.saturating_sub(usize::from(match through {
            ViaHandle::Own => true,
            ViaHandle::Handle(waiters) => waiters.fetch_sub(1, Relaxed) == 1,
            ViaHandle::Other => false,
        }));
        if self.waiters == 0 {
            self.reader = None;
        }
        self.update_write_end();
    }

    /// Opens or closes the write end as the counts demand. At the limit of open files it stays as
    /// it is, so that other processes may wait for longer than necessary, until there are
    /// descriptors again.
    fn update_write_end(&mut self) {
        let all_wait = self.pins == 0 && self.waiting >= self.openers && self.is_shared();
        if all_wait && !self.read_only {
            self.read_only = self.wake_pipe.read_only().is_ok();
        } else if !all_wait && self.read_only {
            self.open_both_ways();
        }
    }

    /// Whether another user of the object may exist. If it was never shared, another thread may
    /// still use the same handle, or another task of a thread with futures; that is ruled out when
    /// there is one thread and no future, or when the handle is gone.
    fn is_shared(&mut self) -> bool {
        self.shared |= self.forks != at_fork::count();
        self.shared || self.openers == 0 || self.futures == 0 && threads::count().is_ok_and(|threads| threads == 1)
    }

    fn open_both_ways(&mut self) {
        self.read_only = self.wake_pipe.read_write().is_err();
        self.owed = self.owed && (self.read_only || self.wake_pipe.notify().is_err());
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let state = self.state();
        let fd = state.wake_pipe.as_fd();
        debug_assert_eq!(fd.as_raw_fd(), self.number);
        borrowed(fd.as_raw_fd())
    }
}

/// The wake pipe's descriptor, for as long as the notifier is borrowed.
#[allow(unsafe_code)]
fn borrowed<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the only caller borrows the notifier for `'a`, which keeps the descriptor open under
    // this number: the open file behind the number is replaced, but the number is never closed.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The handle through which a caller waits, which can't make the change meanwhile.
#[derive(Debug, Clone, Copy)]
pub enum ViaHandle<'a> {
    /// A handle of the caller's own.
    Own,
    /// A handle, with the number of callers that wait through it. While there are any, the handle
    /// can't be used otherwise.
    Handle(&'a AtomicUsize),
    /// A handle that couldn't make the change anyway.
    Other,
}

/// How a waiter learns of tokens.
#[derive(Debug)]
pub enum Subscription {
    /// By polling the pipe.
    Polled,
    /// By an epoll set of its own, with this descriptor of the read end in it.
    Epoll(Arc<wake_pipe::Subscription>, Arc<OwnedFd>),
    /// Not at all, as the epoll set could not be created: the waiter looks every few milliseconds.
    Periodic,
}

impl Subscription {
    /// What has happened since the last call, or whether one of `others` is readable. Only for
    /// [`Epoll`](Subscription::Epoll).
    #[cfg(feature = "async")]
    pub fn poll_now(&self, others: &[BorrowedFd<'_>]) -> io::Result<WakeReason> {
        if !poll::wait_any_in(others, Some(Instant::now()))?.is_empty() {
            return Ok(WakeReason::Other);
        }
        match self {
            Subscription::Epoll(subscription, _) if subscription.has_new_token()? => Ok(WakeReason::Token),
            _ => Ok(WakeReason::Timeout),
        }
    }

    fn wait_at(
        &self,
        wake_pipe: BorrowedFd<'_>,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WakeReason> {
        match self {
            Subscription::Polled => WakePipe::wait_at(wake_pipe, wake_pipe::Tokens::InPipe, others, deadline),
            Subscription::Epoll(subscription, _) => {
                WakePipe::wait_at(wake_pipe, wake_pipe::Tokens::Unreported(subscription), others, deadline)
            }
            Subscription::Periodic => check_periodically(deadline, |until| {
                WakePipe::wait_at(wake_pipe, wake_pipe::Tokens::Ignored, others, Some(until))
            }),
        }
    }
}

/// Sleeps without a subscription: reports a token every [`CHECK_INTERVAL`], so that the caller
/// looks.
fn check_periodically(
    deadline: Option<Instant>,
    sleep: impl FnOnce(Instant) -> io::Result<WakeReason>,
) -> io::Result<WakeReason> {
    let end = sooner(CHECK_INTERVAL, deadline);
    match sleep(end)? {
        WakeReason::Timeout if deadline.is_none_or(|deadline| end < deadline) => Ok(WakeReason::Token),
        reason => Ok(reason),
    }
}

/// A caller that counts as waiting.
#[derive(Debug)]
pub struct Waiting<'a> {
    notifier: &'a Notifier,
    subscription: &'a Subscription,
    reader: Option<Arc<OwnedFd>>,
    through: ViaHandle<'a>,
    is_future: bool,
}

impl Waiting<'_> {
    /// Returns a descriptor that becomes readable with a token or a hang-up, for a waiter that
    /// polls the pipe ([`Polled`](Subscription::Polled)).
    #[cfg(feature = "async")]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake_pipe()
    }

    fn wake_pipe(&self) -> BorrowedFd<'_> {
        self.reader.as_ref().map_or_else(|| self.notifier.as_fd(), |reader| reader.as_fd())
    }

    /// Sleeps until there is a token, no process is left that could make the change, one of
    /// `others` is readable, or `deadline` has passed.
    ///
    /// # Errors
    /// As poll(2).
    pub fn sleep(&self, others: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<WakeReason> {
        // Not under the mutex: the descriptor stays open as long as the notifier exists.
        let reason = self.subscription.wait_at(self.wake_pipe(), others, deadline)?;
        match reason {
            // Another thread of this process has returned from waiting meanwhile.
            WakeReason::HungUp if !self.notifier.state().read_only => Ok(WakeReason::Token),
            reason => Ok(reason),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.notifier.state().leave(self.through, self.is_future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Option<Instant> {
        Some(Instant::now())
    }

    #[test]
    fn all_waiting_is_detected() {
        let here = Notifier::new(Tokens::Consumed).unwrap();
        let there = Notifier::from_fd(here.to_send().unwrap(), Tokens::Consumed).unwrap();
        let waiting = here.waiting(&Subscription::Polled, ViaHandle::Own);
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        let also_waiting = there.waiting(&Subscription::Polled, ViaHandle::Own);
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::HungUp);
        assert_eq!(also_waiting.sleep(&[], now()).unwrap(), WakeReason::HungUp);
        // One in flight counts, whichever process has sent it.
        let sent = here.to_send().unwrap();
        assert_eq!(also_waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        drop(sent);
        assert_eq!(also_waiting.sleep(&[], now()).unwrap(), WakeReason::HungUp);
        drop(waiting);
        assert_eq!(also_waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        here.notify();
        assert_eq!(also_waiting.sleep(&[], None).unwrap(), WakeReason::Token);
        there.clear();
        drop(here);
        assert_eq!(also_waiting.sleep(&[], None).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn listener_misses_nothing() {
        let here = Notifier::new(Tokens::Broadcast).unwrap();
        let there = Notifier::from_fd(here.to_send().unwrap(), Tokens::Broadcast).unwrap();
        let early = here.listen().unwrap();
        there.notify();
        let late = there.listen().unwrap();
        there.clear();
        assert_eq!(there.sleep_open(&late, &[], now()).unwrap(), WakeReason::Timeout);
        let waiting = here.waiting(&early, ViaHandle::Own);
        assert_eq!(waiting.sleep(&[], None).unwrap(), WakeReason::Token);
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        drop(there);
        assert_eq!(waiting.sleep(&[], None).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn poll_without_a_subscription() {
        let here = Notifier::new(Tokens::Broadcast).unwrap();
        let there = Notifier::from_fd(here.to_send().unwrap(), Tokens::Broadcast).unwrap();
        here.notify();
        let waiting = here.waiting(&Subscription::Periodic, ViaHandle::Own);
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        assert_eq!(waiting.sleep(&[], None).unwrap(), WakeReason::Token);
        drop(there);
        assert_eq!(waiting.sleep(&[], None).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn unshared_is_not_disconnected() {
        let notifier = Notifier::new(Tokens::Consumed).unwrap();
        std::thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            let waiting = notifier.waiting(&Subscription::Polled, ViaHandle::Own);
            assert!(notifier.has_others());
            assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
            drop(notifier.to_send().unwrap());
            assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::HungUp);
            drop(done);
        });
    }

    #[test]
    fn other_handle_of_the_process() {
        let notifier = Notifier::new(Tokens::Consumed).unwrap();
        notifier.add_opener();
        let waiting = notifier.waiting(&Subscription::Polled, ViaHandle::Own);
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        std::thread::scope(|scope| {
            let one = scope.spawn(|| {
                loop {
                    match waiting.sleep(&[], None).unwrap() {
                        WakeReason::Token => notifier.clear(),
                        reason => break reason,
                    }
                }
            });
            let other = notifier.waiting(&Subscription::Polled, ViaHandle::Own);
            assert_eq!(one.join().unwrap(), WakeReason::HungUp);
            drop(other);
        });
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        notifier.remove_opener();
        assert_eq!(waiting.sleep(&[], now()).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn waiters_of_one_handle_count_once() {
        let notifier = Notifier::new(Tokens::Consumed).unwrap();
        notifier.add_opener();
        let (one, other) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let first = notifier.waiting(&Subscription::Polled, ViaHandle::Handle(&one));
        let second = notifier.waiting(&Subscription::Polled, ViaHandle::Handle(&one));
        let third = notifier.waiting(&Subscription::Polled, ViaHandle::Other);
        assert_eq!(first.sleep(&[], now()).unwrap(), WakeReason::Timeout, "the other handle may yet be used");
        let fourth = notifier.waiting(&Subscription::Polled, ViaHandle::Handle(&other));
        assert_eq!(first.sleep(&[], now()).unwrap(), WakeReason::HungUp);
        drop(second);
        assert_eq!(third.sleep(&[], now()).unwrap(), WakeReason::HungUp);
        drop(first);
        assert_eq!(third.sleep(&[], now()).unwrap(), WakeReason::Timeout);
        drop(fourth);
        assert_eq!((one.into_inner(), other.into_inner()), (0, 0));
        notifier.remove_opener();
        notifier.remove_opener();
        assert_eq!(third.sleep(&[], now()).unwrap(), WakeReason::HungUp);
    }
}
