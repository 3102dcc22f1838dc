//! Futures that wait for a [`RobustWord`]: a *waiter thread* sleeps on the word in their place and
//! wakes their tasks, and each future takes the word itself, in the thread that polls it. See
//! `../PROTOCOL.md`, "Futures that wait for a robust word".

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use multiproc_os::fork_local::ForkLocal;
use multiproc_os::futex::{self, Woken};
use multiproc_os::robust::Thread;
use multiproc_os::signal;

use crate::lock::fork_mutex::{ForkMutex, ForkMutexGuard};
use crate::lock::robust_word::{AcquireError, FIRST_RECHECK, LockMapping, PoisonableWord, RobustWord};
use crate::memory::segment::Layout;
use crate::wait::backoff::Backoff;
use crate::wait::deadline::Deadline;

/// How long a future that was woken has to take the word before another one is woken. On a busy
/// machine, a task may need a time slice or two to be polled.
const GRACE: Duration = Duration::from_millis(20);

/// The number of misses after which the waiter thread takes the word for a future as soon as it is
/// woken.
/// Waking a task first takes longer than a busy owner needs to take the word again.
const MAX_MISSES: u32 = 3;

/// The longest sleep of a waiter thread that can't be woken when its last future is gone.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How long a waiter thread without work lives, and the maximum number of such threads.
const IDLE_TIME: Duration = Duration::from_secs(1);
const MAX_IDLE: usize = 4;

/// How long [`dismiss`] waits for a thread that serves a future, or has just done so.
const DISMISSAL_TIME: Duration = Duration::from_millis(200);

/// A layout with one word that futures can wait for.
pub trait AsyncLayout: Layout {
    /// The word.
    fn poisonable(&self) -> &PoisonableWord;
}

/// The futures that wait for a word through one handle.
#[derive(Debug)]
pub struct Waiters {
    state: ForkMutex<State>,
    /// Changes when the waiter thread must look again. Written with the mutex held.
    signal: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    /// The futures that wait, in the order in which they began to.
    futures: VecDeque<Waiter>,
    /// The number of the next future that begins to wait.
    next: u64,
    /// Whether there is a waiter thread.
    is_served: bool,
    /// Whether the waiter thread sleeps on the word, or is about to.
    is_at_word: bool,
    /// How often a future or the waiter thread has found that the word had been given up and taken
    /// again. Reset when a future leaves.
    misses: u32,
    /// The word, if the waiter thread has taken it for a future.
    reserved: Option<Reserved>,
}

/// A word that the waiter thread has taken for a future.
#[derive(Debug)]
struct Reserved {
    /// The number of that future.
    number: u64,
    /// The id of the waiter thread.
    thread: u32,
    /// Whether the previous owner has died.
    inherited: bool,
    /// When the waiter thread gives the word up if the future hasn't taken it.
    until: Instant,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// `None`: the future was woken when the word was free, and hasn't tried to take it since.
    waker: Option<Waker>,
}

/// The next step of a future that couldn't take the word.
enum Next {
    /// Try again: the future was woken meanwhile.
    Try,
    /// Finish: the word was reserved for the future, which owns it now.
    Taken,
    /// Wait until its task is woken.
    Wait,
}

impl Default for Waiters {
    fn default() -> Waiters {
        Waiters { state: ForkMutex::new(State::default()), signal: AtomicU32::new(0) }
    }
}

impl Waiters {
    fn state(&self) -> ForkMutexGuard<'_, State> {
        self.state.lock(|state, _| {
            // The futures belong to the original process, and so do the objects behind their
            // wakers: neither must be dropped here.
            let next = state.next;
            std::mem::forget(std::mem::replace(state, State { next, ..State::default() }));
        })
    }

    /// Makes the waiter thread look again, if it doesn't sleep on the word, or has nothing left to
    /// do there.
    fn signal(&self, state: &State) {
        if state.is_served && (state.futures.is_empty() || !state.is_at_word) {
            self.signal.fetch_add(1, SeqCst);
            futex::wake(&self.signal, 1);
        }
    }

    /// Registers a future that has found the word taken, or updates its waker.
    ///
    /// # Errors
    /// `EAGAIN`, at the limit of threads.
    fn wait(
        &self,
        number: &mut Option<u64>,
        waker: &Waker,
        adopt: impl FnOnce(&Reserved) -> bool,
        serve: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Next> {
        // User code (the waker) is cloned and dropped outside the mutex.
        let waker = waker.clone();
        let mut state = self.state();
        // A word that can't be adopted is given up when the future leaves.
        if let Some(reserved) = state.reserved.take_if(|reserved| Some(reserved.number) == *number) {
            if adopt(&reserved) {
                return Ok(Next::Taken);
            }
            state.reserved = Some(reserved);
        }
        if let Some(waiter) = state.futures.iter_mut().find(|waiter| Some(waiter.number) == *number) {
            let before = waiter.waker.replace(waker);
            let next = if before.is_some() { Next::Wait } else { Next::Try };
            if let Next::Try = next {
                state.misses = state.misses.saturating_add(1);
                self.signal(&state);
            }
            drop(state);
            drop(before);
            return Ok(next);
        }
        let new = state.next;
        state.next += 1;
        state.futures.push_back(Waiter { number: new, waker: Some(waker) });
        if !state.is_served {
            if let Err(error) = serve() {
                let waiter = state.futures.pop_back();
                drop(state);
                drop(waiter);
                return Err(error);
            }
            state.is_served = true;
        } else {
            self.signal(&state);
        }
        *number = Some(new);
        Ok(Next::Wait)
    }

    /// Removes a future. If it was woken and hasn't taken the word, the waiter thread wakes another
    /// one.
    fn leave(&self, number: u64) {
        let mut state = self.state();
        let position = state.futures.iter().position(|waiter| waiter.number == number);
        let waiter = position.and_then(|position| state.futures.remove(position));
        if waiter.is_some() {
            state.misses = 0;
            self.signal(&state);
        }
        drop(state);
        drop(waiter);
    }
}

/// One future's wait for a word.
pub struct Wait<'a, L: AsyncLayout> {
    mapping: &'a Arc<LockMapping<L>>,
    /// The future's number among the [`Waiters`].
    number: Option<u64>,
}

/// Why a future couldn't take a word.
#[derive(Debug)]
pub enum AsyncAcquireError {
    /// The reasons that a thread gets too.
    Acquire(AcquireError),
    /// No waiter thread could be started.
    NoThread,
}

impl<'a, L: AsyncLayout> Wait<'a, L> {
    /// Makes a wait for the word of `mapping`, which begins when it is polled.
    pub fn new(mapping: &'a Arc<LockMapping<L>>) -> Wait<'a, L> {
        Wait { mapping, number: None }
    }

    /// Takes the word for the calling thread, or arranges that the task is woken when another try
    /// makes sense. Also waits if the calling thread owns the word by another future.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AsyncAcquireError>> {
        let poisonable = self.mapping.poisonable();
        let try_once = || match poisonable.take(self.mapping, 0, Deadline::Now, || true) {
            Err(AcquireError::AlreadyHeld) if self.mapping.is_taken_in_future() => Err(AcquireError::Timeout),
            taken => taken,
        };
        let mut was_told = false;
        loop {
            let mut result = try_once();
            // As a woken thread does: another thread may have the word for a moment only.
            let mut backoff = Backoff::new();
            while was_told && matches!(result, Err(AcquireError::Timeout)) && backoff.wait() {
                result = try_once();
            }
            match result {
                Err(AcquireError::Timeout) => {}
                result => return Poll::Ready(self.done(result.map_err(AsyncAcquireError::Acquire))),
            }
            let adopt = |reserved: &Reserved| poisonable.adopt(self.mapping, reserved.thread, reserved.inherited);
            let serve = || start_waiter(self.mapping.clone());
            match self.mapping.waiters().wait(&mut self.number, context.waker(), adopt, serve) {
                Ok(Next::Taken) => return Poll::Ready(self.done(Ok(()))),
                Ok(Next::Try) => was_told = true,
                Ok(Next::Wait) => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(AsyncAcquireError::NoThread)),
            }
        }
    }

    fn done(&mut self, result: Result<(), AsyncAcquireError>) -> Result<(), AsyncAcquireError> {
        if result.is_ok() {
            self.mapping.mark_taken_in_future();
        }
        self.leave();
        result
    }

    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.mapping.waiters().leave(number);
        }
    }
}

impl<L: AsyncLayout> Drop for Wait<'_, L> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A mapping that a waiter thread serves, of any layout.
trait Served: Send + Sync {
    fn word(&self) -> &RobustWord;
    fn waiters(&self) -> &Waiters;
}

impl<L: AsyncLayout> Served for LockMapping<L> {
    fn word(&self) -> &RobustWord {
        self.poisonable().word()
    }

    fn waiters(&self) -> &Waiters {
        LockMapping::waiters(self)
    }
}

/// The body of a waiter thread: sleeps in place of futures, and wakes their tasks, until no future
/// is left.
fn serve(served: &dyn Served) {
    let (thread, word, waiters) = (Thread::current(), served.word(), served.waiters());
    let mut look = FIRST_RECHECK;
    // Whether another waiter has been woken, since no future takes the word.
    let mut has_passed_on = false;
    // Set when this thread has taken the word for a future: whether the previous owner has died.
    let mut taken: Option<bool> = None;
    word.announce(thread);
    loop {
        let mut state = waiters.state();
        state.is_at_word = false;
        if let Some(inherited) = taken.take() {
            let Some(told) = state.futures.iter_mut().find(|waiter| waiter.waker.is_some()) else {
                drop(state);
                word.give_up_announced(thread, inherited);
                continue;
            };
            let (number, waker) = (told.number, told.waker.take());
            state.reserved = Some(Reserved { number, thread: thread.id(), inherited, until: Instant::now() + GRACE });
            drop(state);
            tell(waker);
            // The waker may have announced another word.
            word.announce(thread);
            continue;
        }
        let signal = waiters.signal.load(SeqCst);
        if let Some(reserved) = &state.reserved {
            let (until, inherited) = (reserved.until, reserved.inherited);
            let is_waited_for = state.futures.iter().any(|waiter| waiter.number == reserved.number);
            if is_waited_for && Instant::now() < until {
                drop(state);
                futex::wait(&waiters.signal, signal, Some(until));
            } else {
                state.reserved = None;
                drop(state);
                word.give_up_announced(thread, inherited);
            }
            continue;
        }
        if state.futures.is_empty() {
            state.is_served = false;
            break;
        }
        let takes_itself = state.misses >= MAX_MISSES;
        if word.owner().is_some() {
            has_passed_on = false;
            state.is_at_word = true;
            drop(state);
            let sleep = |value, until| sleep(word.futex(), value, (&waiters.signal, signal), until);
            look = word.sleep_while_owned(look, sleep);
            if takes_itself {
                taken = take_soon(word, thread);
            } else if word.owner().is_some() {
                let mut state = waiters.state();
                state.misses = state.misses.saturating_add(1);
            }
            if is_without_waitv() {
                look = look.min(MAX_SLEEP);
            }
            continue;
        }
        look = FIRST_RECHECK;
        // A future that was told hasn't taken the word.
        let is_late = state.futures.iter().any(|waiter| waiter.waker.is_none());
        if is_late && !std::mem::replace(&mut has_passed_on, true) {
            word.wake_next();
        }
        let Some(told) = state.futures.iter_mut().find(|waiter| waiter.waker.is_some()) else {
            drop(state);
            futex::wait(&waiters.signal, signal, None);
            continue;
        };
        if takes_itself {
            drop(state);
            taken = take_soon(word, thread);
            continue;
        }
        let waker = told.waker.take();
        drop(state);
        tell(waker);
        // The waker may have announced another word.
        word.announce(thread);
        futex::wait(&waiters.signal, signal, Some(Instant::now() + GRACE));
    }
    word.wake_next();
    // Before the memory may be unmapped.
    thread.done();
}

/// Takes the word as a woken thread does: if it is free now, or within some microseconds.
fn take_soon(word: &RobustWord, thread: Thread) -> Option<bool> {
    let mut backoff = Backoff::new();
    loop {
        if let Some(inherited) = word.take_announced(thread) {
            return Some(inherited);
        }
        if !backoff.wait() {
            return None;
        }
    }
}

fn tell(waker: Option<Waker>) {
    // A panic of an executor must not keep others from being told.
    let _ = catch_unwind(AssertUnwindSafe(|| waker.map(Waker::wake)));
}

/// Whether futex_waitv(2) is missing or refused.
static WITHOUT_WAITV: AtomicBool = AtomicBool::new(false);

fn is_without_waitv() -> bool {
    WITHOUT_WAITV.load(Relaxed)
}

/// Sleeps while both words have these values; without futex_waitv(2), while the first one has.
fn sleep(word: &AtomicU32, value: u32, signal: (&AtomicU32, u32), until: Instant) -> Woken {
    if !is_without_waitv() {
        match futex::wait_any(&[(word, value), signal], Some(until)) {
            Ok(woken) => return woken,
            Err(_) => WITHOUT_WAITV.store(true, Relaxed),
        }
    }
    futex::wait(word, value, Some(until))
}

/// The waiter threads of the process.
static THREADS: ForkLocal<Threads> = ForkLocal::new();

#[derive(Default)]
struct Threads {
    state: Mutex<ThreadsState>,
    /// Notified of a job, and when idle threads must end.
    job: Condvar,
    /// Notified when a thread ends.
    left: Condvar,
}

#[derive(Default)]
struct ThreadsState {
    idle: usize,
    jobs: VecDeque<Arc<dyn Served>>,
    /// Whether idle threads must end, until there is work again.
    are_dismissed: bool,
    /// The threads that have not decided to end.
    running: HashMap<ThreadId, JoinHandle<()>>,
    /// Those that have, since the last start of a thread.
    ending: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Must be called by a waiter thread that is about to end.
    fn end_this_thread(&self, state: &mut ThreadsState) {
        state.ending.extend(state.running.remove(&std::thread::current().id()));
        self.left.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, ThreadsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a waiter thread serve it: an idle one, or a new one.
///
/// # Errors
/// `EAGAIN`, at the limit of threads.
fn start_waiter(served: Arc<dyn Served>) -> io::Result<()> {
    let threads = THREADS.get();
    let mut state = threads.state();
    if std::mem::take(&mut state.are_dismissed) {
        threads.left.notify_all();
    }
    if state.idle > 0 {
        state.idle -= 1;
        state.jobs.push_back(served);
        threads.job.notify_one();
        return Ok(());
    }
    state.ending.clear();
    // With the state locked, so that the thread is registered before it can end.
    let thread = signal::with_signals_blocked(|| {
        std::thread::Builder::new().name("multiproc-lock".into()).spawn(move || {
            serve(&*served);
            drop(served);
            while let Some(served) = next_job() {
                serve(&*served);
            }
        })
    })?;
    state.running.insert(thread.thread().id(), thread);
    Ok(())
}

/// Waits for work. Returns `None` when the thread must end.
fn next_job() -> Option<Arc<dyn Served>> {
    let threads = THREADS.get();
    let mut state = threads.state();
    if state.idle >= MAX_IDLE {
        threads.end_this_thread(&mut state);
        return None;
    }
    state.idle += 1;
    let end = Instant::now() + IDLE_TIME;
    loop {
        // The caller that has queued it has already counted this thread, or another, as not idle.
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || state.are_dismissed {
            state.idle = state.idle.saturating_sub(1);
            threads.end_this_thread(&mut state);
            return None;
        }
        state = threads.job.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Ends the waiter threads that no future needs, and waits until they have ended. The others delay
/// this by [`DISMISSAL_TIME`], since one may just have served its last future.
pub fn dismiss() {
    let threads = THREADS.get();
    let mut state = threads.state();
    state.are_dismissed = true;
    threads.job.notify_all();
    let end = Instant::now() + DISMISSAL_TIME;
    // A start at the same moment may call them back.
    while !state.running.is_empty() && state.are_dismissed {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        state = threads.left.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    let ending = std::mem::take(&mut state.ending);
    drop(state);
    for thread in ending {
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc;

    use futures::executor::block_on;

    use super::*;
    use crate::memory::segment::{Segment, layout};

    layout! {
        struct One: "one word", 0x7fff_0002 {
            poisonable: PoisonableWord,
        }
    }

    impl AsyncLayout for One {
        fn poisonable(&self) -> &PoisonableWord {
            &self.poisonable
        }
    }

    type Word = Arc<LockMapping<One>>;

    fn take(mapping: &Word, deadline: Deadline) -> Result<(), AcquireError> {
        mapping.poisonable.take(mapping, 0, deadline, || true)
    }

    async fn take_async(mapping: &Word) {
        let mut wait = Wait::new(mapping);
        poll_fn(|context| wait.poll(context)).await.unwrap();
    }

    /// Starts a thread that takes the word, and gives it up when it is told to.
    fn holder(mapping: &Word) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        holder_that(mapping, false)
    }

    /// The same, but if `dies`, the thread ends without giving the word up.
    fn holder_that(mapping: &Word, dies: bool) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        let ((taken, is_taken), (go, wait)) = (mpsc::channel(), mpsc::channel());
        let mapping = mapping.clone();
        let thread = std::thread::spawn(move || {
            take(&mapping, Deadline::Never).unwrap();
            taken.send(()).unwrap();
            wait.recv().unwrap();
            assert!(dies || mapping.poisonable.give_up(&mapping, 0));
        });
        is_taken.recv().unwrap();
        (go, thread)
    }

    fn wait_for(is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(300), "it does not come");
            std::thread::yield_now();
        }
    }

    fn a_wait_a_dropped_one_and_another() {
        let mapping: Word = Arc::new(LockMapping::new(Segment::create().unwrap()));
        let (go, thread) = holder(&mapping);
        let mut dropped = Wait::new(&mapping);
        let mut context = Context::from_waker(Waker::noop());
        assert!(dropped.poll(&mut context).is_pending());
        wait_for(|| mapping.waiters().state().is_at_word);
        drop(dropped);
        assert!(mapping.waiters().state().futures.is_empty());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                block_on(take_async(&mapping));
                assert!(mapping.is_taken_in_future() && mapping.poisonable.give_up(&mapping, 0));
            });
            wait_for(|| !mapping.waiters().state().futures.is_empty());
            go.send(()).unwrap();
            waiter.join().unwrap();
        });
        thread.join().unwrap();
        // No future waits, and the waiter thread has dropped its reference to the handle.
        wait_for(|| !mapping.waiters().state().is_served && Arc::strong_count(&mapping) == 1);
        take(&mapping, Deadline::Now).unwrap();
        assert!(!mapping.is_taken_in_future() && mapping.poisonable.give_up(&mapping, 0));
    }

    #[test]
    fn with_and_without_futex_waitv() {
        for without in [false, true] {
            WITHOUT_WAITV.store(without, Relaxed);
            (0..20).for_each(|_| a_wait_a_dropped_one_and_another());
        }
        WITHOUT_WAITV.store(false, Relaxed);
    }

    /// Waits until the waiter thread has taken the word for the future.
    fn wait_for_reservation(mapping: &Word) {
        wait_for(|| mapping.waiters().state().reserved.is_some());
    }

    #[test]
    fn unresponsive_waiter_is_treated_as_a_future() {
        for round in 0..60 {
            let mapping: Word = Arc::new(LockMapping::new(Segment::create().unwrap()));
            let dies = round % 2 == 0;
            let (go, thread) = holder_that(&mapping, dies);
            let mut context = Context::from_waker(Waker::noop());
            let mut wait = Wait::new(&mapping);
            assert!(wait.poll(&mut context).is_pending());
            mapping.waiters().state().misses = MAX_MISSES;
            // The waiter thread decides when it looks next.
            mapping.waiters().signal.fetch_add(1, SeqCst);
            futex::wake(&mapping.waiters().signal, 1);
            go.send(()).unwrap();
            thread.join().unwrap();
            wait_for_reservation(&mapping);
            match round % 3 {
                0 => {
                    // The waiter thread may have given the word up again, if this thread was
                    // delayed.
                    while wait.poll(&mut context).is_pending() {}
                    assert!(mapping.is_taken_in_future());
                    assert_eq!(mapping.poisonable.poison().is_some(), dies);
                    assert!(mapping.poisonable.give_up(&mapping, 0));
                }
                1 => drop(wait),
                _ => {
                    // The future isn't polled, so others get the word.
                    take(&mapping, Deadline::Never).unwrap();
                    assert_eq!(mapping.poisonable.poison().is_some(), dies);
                    assert!(mapping.poisonable.give_up(&mapping, 0));
                    drop(wait);
                }
            }
            take(&mapping, Deadline::Never).unwrap();
            assert_eq!(mapping.poisonable.poison().is_some(), dies, "the death is not forgotten");
            assert!(mapping.poisonable.give_up(&mapping, 0));
            wait_for(|| !mapping.waiters().state().is_served);
        }
        assert_eq!(Thread::current().count(), 0);
    }

    #[test]
    fn unpolled_tasks() {
        let mapping: Word = Arc::new(LockMapping::new(Segment::create().unwrap()));
        let (go, thread) = holder(&mapping);
        let mut context = Context::from_waker(Waker::noop());
        let mut stuck = [Wait::new(&mapping), Wait::new(&mapping), Wait::new(&mapping)];
        for wait in &mut stuck {
            assert!(wait.poll(&mut context).is_pending());
        }
        wait_for(|| mapping.waiters().state().is_at_word);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                take(&mapping, Deadline::Never).unwrap();
                assert!(mapping.poisonable.give_up(&mapping, 0));
            });
            let task = scope.spawn(|| {
                block_on(take_async(&mapping));
                assert!(mapping.poisonable.give_up(&mapping, 0));
            });
            go.send(()).unwrap();
            task.join().unwrap();
            other.join().unwrap();
        });
        thread.join().unwrap();
        let state = mapping.waiters().state();
        assert_eq!((state.futures.len(), state.is_served), (3, true));
        drop(state);
        drop(stuck);
        wait_for(|| !mapping.waiters().state().is_served);
    }
}
