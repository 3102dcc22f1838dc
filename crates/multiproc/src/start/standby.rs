//! A child made ahead: it stands by until a start needs it, and then is at its target's first line in the time that a message takes.
//!
//! The keeper, a thread of the parent, makes the server make one when neither a start nor the end
//! of a child has come for [`QUIET`], so that a burst of starts pays nothing for it; and ends it,
//! and itself, when no start has come for [`IDLE`], so that nothing is left in a program that does
//! something else. `PROTOCOL.md` says what happens when one of them dies.
//!
//! To wake a thread on an idle processor takes some 25 µs, as long as all else that a start does here. So a start that takes the standby doesn't
//! wake the keeper; it is woken when a child has been reaped, or when the server had to make one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use multiproc_os::{directory, fd_passing, interrupt, pidfd, prefault, signal, threads};

use super::child_spec::{self, ChildSpec, Launch, Started};
use super::confinement::{Fit, Moment};
use super::context::{self, Known};
use super::entry::{self, StartAck};
use super::forkserver::{self, Request, ServerProcess};
use super::method::StartMethod;
use super::target::{Carried, Entry};
use super::{handshake, kind, panic_hook};
use crate::log::LogConfig;
use crate::process::children::SIGKILL;
use crate::process::current::Identity;
use crate::process::options::Options;
use crate::process::run::{Call, Private, Run};
use crate::remote_fn::Key;
use crate::transfer::packet;
use crate::{Error, Result};

/// How long no start and no end of a child must have come before a standby is made. A program that
/// starts and waits, one child after the other, starts the next one right after the end of the
/// last: a standby that is made in between costs more than it gains.
const QUIET: Duration = Duration::from_micros(500);

/// How long no start must have come before the standby is ended.
const IDLE: Duration = Duration::from_secs(1);

/// A process that waits for its order.
pub(crate) struct Standby {
    pub(crate) started: Started,
    /// Where it waits. Not its own socket, which is its lifeline: nothing may ever be sent to that.
    pub(crate) launch: OwnedFd,
    /// The server that made it. A standby of another one than today's may have rights that this process has given up.
    pub(crate) server: Weak<ServerProcess>,
    /// What it knows of the surroundings.
    pub(crate) known: Known,
}

/// What keeper and starts share.
struct State {
    /// The process that this is the state of. A copy of it, made by fork(2) elsewhere, has neither keeper nor standby.
    process: i32,
    keeper: Option<JoinHandle<()>>,
    standby: Option<Standby>,
    last_start: Option<Instant>,
    /// When a child was reaped last.
    last_end: Option<Instant>,
    /// Whether the keeper waits for the end of [`IDLE`], and doesn't see that its standby has been taken.
    settled: bool,
    /// How many wait for the end of the keeper.
    stop: u32,
    /// Whether there is to be a keeper.
    wanted: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    process: 0,
    keeper: None,
    standby: None,
    last_start: None,
    last_end: None,
    settled: false,
    stop: 0,
    wanted: true,
});

/// Told when the keeper has something to look at.
static NEWS: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let this = threads::getpid();
    if state.process != this {
        state.process = this;
        // The thread is not in this copy, so there is nothing to detach; the standby is not ours, and only our copies of its ends go.
        std::mem::forget(state.keeper.take());
        state.standby = None;
        (state.settled, state.stop) = (false, 0);
    }
    state
}

/// Whether this process has a child made ahead of the next start by [`StartMethod::ForkServer`](crate::StartMethod::ForkServer). On at first.
///
/// A start that finds such a standby takes a fraction of the time to its target's first line. It is
/// made by a thread of this process once no start and no end of a child has come for half a
/// millisecond, and both are gone once none has come for a second. A program that must not have a
/// thread it hasn't made itself (unshare(2) and setns(2) want some programs to have just one)
/// switches it off; [`StartMethod::Fork`](crate::StartMethod::Fork) doesn't mind. Processes that
/// are started later inherit the setting.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::set_standby(false);
/// # }
/// ```
pub fn set_standby(enabled: bool) {
    set_wanted(enabled);
    if !enabled {
        dismiss();
    }
}

/// In a child that has just come to life: what its parent has.
pub(crate) fn set_wanted(wanted: bool) {
    lock().wanted = wanted;
}

/// See [`set_standby`].
pub(crate) fn is_wanted() -> bool {
    lock().wanted
}

/// The standby, if there is one, and `server` has made it.
pub(crate) fn take(server: &Weak<ServerProcess>) -> Option<Standby> {
    let standby = lock().standby.take()?;
    if Weak::ptr_eq(&standby.server, server) {
        return Some(standby);
    }
    standby.end();
    None
}

/// A process has been started, by the server or in a standby. Sees to it that the next one will be made ahead.
pub(crate) fn started(by_server: bool) {
    let mut state = lock();
    state.last_start = Some(Instant::now());
    if state.wanted && state.keeper.is_none() && state.stop == 0 {
        // The keeper must not be in the middle of something when somebody copies this process.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| drop(multiproc_os::at_fork::register(before_fork, after_fork)));
        let thread = std::thread::Builder::new().name("multiproc-keeper".into()).stack_size(128 << 10);
        // If there can be no thread, starts are just not quicker than that.
        state.keeper = signal::with_signals_blocked(|| thread.spawn(keep)).ok();
    } else if by_server {
        wake_keeper(state);
    }
}

/// A child of this process has been reaped: time to think of the next one.
pub(crate) fn child_has_ended() {
    let mut state = lock();
    state.last_end = Some(Instant::now());
    wake_keeper(state);
}

/// Wakes the keeper, if it doesn't know yet that there is no standby any more. Unlocks first: the
/// keeper locks as soon as it is awake.
fn wake_keeper(mut state: MutexGuard<'static, State>) {
    let wake = state.settled && state.standby.is_none();
    if wake {
        // Once is enough.
        state.settled = false;
    }
    drop(state);
    if wake {
        NEWS.notify_all();
    }
}

/// Ends the standby and the keeper, and waits for that: this process has one thread less.
pub(crate) fn dismiss() {
    let mut state = lock();
    if state.keeper.is_none() && state.standby.is_none() {
        return;
    }
    state.stop += 1;
    let keeper = state.keeper.take();
    drop(state);
    NEWS.notify_all();
    if let Some(keeper) = keeper {
        let _ = keeper.join();
    }
    let mut state = lock();
    state.stop -= 1;
    let standby = state.standby.take();
    drop(state);
    if let Some(standby) = standby {
        standby.end();
    }
}

thread_local! {
    /// What this thread, which is about to fork, holds.
    static HELD: std::cell::RefCell<Option<Held>> = const { std::cell::RefCell::new(None) };
}

/// In the order in which they are let go of.
struct Held(#[allow(dead_code)] Option<MutexGuard<'static, State>>, #[allow(dead_code)] forkserver::Pause);

extern "C" fn before_fork() {
    // In the order in which a start locks them.
    let Some(pause) = forkserver::pause() else { return };
    let Some(state) = within_a_moment(&STATE) else { return };
    let _ = HELD.try_with(|slot| *slot.borrow_mut() = Some(Held(Some(state), pause)));
}

/// Locks, but not at any price: who forks may be a signal handler that has interrupted who holds it.
pub(super) fn within_a_moment<T>(mutex: &'static Mutex<T>) -> Option<MutexGuard<'static, T>> {
    let begun = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > QUIET * 200 => return None,
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}

extern "C" fn after_fork() {
    let _ = HELD.try_with(|slot| slot.borrow_mut().take());
}

/// The keeper's life.
fn keep() {
    let mut state = lock();
    while state.stop == 0 {
        let idle = state.last_start.map_or(IDLE, |last| last.elapsed());
        let quiet = state.last_end.map_or(idle, |last| idle.min(last.elapsed()));
        let left = match &state.standby {
            _ if idle >= IDLE => break,
            Some(_) => IDLE - idle,
            None if quiet < QUIET => QUIET - quiet,
            None => {
                drop(state);
                let made = forkserver::make_standby();
                state = lock();
                match made {
                    Some(standby) => state.standby = Some(standby),
                    // The system is at some limit, or the server is gone: the next start will see.
                    None => break,
                }
                continue;
            }
        };
        state.settled = state.standby.is_some();
        state = NEWS.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        state.settled = false;
    }
    let standby = state.standby.take();
    if state.stop == 0 {
        // It ends of its own accord, so nobody joins it.
        drop(state.keeper.take());
    }
    drop(state);
    if let Some(standby) = standby {
        standby.end();
    }
}

impl Standby {
    /// Has it become what `launch` says. None, and it is gone, if it died while it stood by, or is
    /// of no use at this moment.
    pub(crate) fn begin(
        mut self,
        launch: &Launch<'_>,
        here: Option<directory::Id>,
        moment: &Moment,
    ) -> Result<Option<Started>> {
        let name = launch.name();
        let fail = |what: &'static str| move |source| Error::Start { process: name.into(), what: what.into(), source };
        if !launch.spec.outlives_parent {
            forkserver::guard_if_it_does(self.started.pid);
        }
        let front = child_spec::join(launch.spec);
        let mut ack = StartAck::No;
        let sent = context::send(&self.known, here, Some(launch.streams), |context, outgoing| {
            // What can fail in the child is waited for.
            ack = match launch.spec.options.is_empty() && !context.moves() {
                true => StartAck::No,
                false => StartAck::Yes,
            };
            let head = child_spec::join(&Request::to_standby(ack, context));
            let fds: Vec<_> = outgoing.fds().chain(launch.fds.iter().copied()).collect();
            packet::send_with(&self.launch, kind::START, &[&head, &front], &fds, launch.payload)
        });
        match sent {
            Ok(_) => {}
            Err(error) if handshake::is_gone(&error) => {
                self.end_in_place();
                return Ok(None);
            }
            Err(error) => {
                self.end_in_place();
                return Err(fail("the request could not be sent")(error));
            }
        }
        // While it gets ready.
        let told = match self.server.upgrade().map(|server| (server.fit(moment), server)) {
            Some((Fit::Same, server)) => server.made().go_ahead(moment, &self.launch),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let Ok(told) = told else {
            self.end_in_place();
            return Ok(None);
        };
        if told || ack == StartAck::Yes {
            let answer = handshake::answer_of_child(name, &self.started.socket).inspect_err(|_| self.end_in_place())?;
            if answer.unfit {
                self.end_in_place();
                return Ok(None);
            }
            self.started.early = answer.early;
        }
        Ok(Some(self.started))
    }

    fn end(self) {
        self.end_in_place();
    }

    fn end_in_place(&self) {
        end(&self.started, &self.launch);
    }
}

/// Kills a process that waits on the other end of `socket`, and reaps it. There is nothing in it
/// that would be missed.
pub(crate) fn end(process: &Started, socket: &OwnedFd) {
    if let Some(pidfd) = &process.pidfd {
        // If it has more rights than this process has now, it can't be killed, but leaves by
        // itself.
        let _ = fd_passing::hang_up(socket);
        let _ = pidfd::send_signal(pidfd, SIGKILL);
        let _ = pidfd::wait_any([pidfd], Instant::now().checked_add(handshake::PATIENCE));
        let _ = pidfd::reap(pidfd);
    }
}

/// The child's side: waits for its order, then lives by it. Leaves if there will be none.
pub(crate) fn stand_by(orders: OwnedFd, socket: OwnedFd) -> ! {
    threads::set_name("multiproc-ready");
    rehearse();
    prefault::touch();
    interrupt::discard_until_readable(&orders);
    let mut packet = match packet::receive(&orders, true) {
        Ok(packet) if packet.kind == kind::START => packet,
        Ok(packet) => entry::refuse(socket, &format!("a process that stood by got a message of kind {}", packet.kind)),
        Err(_) => std::process::exit(0),
    };
    let (fds, payload) = (std::mem::take(&mut packet.fds), std::mem::take(&mut packet.payload));
    let (request, launch) = match child_spec::split::<Request>(packet.front()) {
        Ok(split) => split,
        Err(error) => entry::refuse(socket, &format!("the request is garbage: {error}")),
    };
    forkserver::become_child(request, fds.into_iter(), socket, orders, launch, payload)
}

/// Does once, for nobody, what a start does: so that the pages of code and data that it takes are there. Nothing comes of it if it fails.
fn rehearse() {
    let identity = Identity { name: "multiproc-ready".into(), numbers: vec![1], seed: 0, daemon: false, parent: None };
    entry::show_name(&identity.name, None);
    let Ok((ours, theirs)) = fd_passing::pair() else { return };
    let nothing: fn() = || {};
    let (Ok(entry), Ok(payload)) = (
        Entry::of(entry::enter::<Call<fn(), ()>, _>),
        Call::new(nothing, (), Carried::<fn()>::CAPTURES_NOTHING).pack(Private(())),
    ) else {
        return;
    };
    let spec = ChildSpec {
        identity,
        entry: Some(entry),
        options: Options::default(),
        outlives_parent: false,
        log: LogConfig::default(),
        start_method: StartMethod::ForkServer,
        grace_period: IDLE,
        handles_ctrl_c: true,
        standby: true,
        key: Key::none(),
    };
    let front = child_spec::join(&spec);
    if packet::send_with(&ours, kind::START, &[&front], &[], &payload).is_err() {
        return;
    }
    let Ok(packet) = packet::receive(&theirs, false) else { return };
    panic_hook::install(&spec.identity.name, &theirs);
    if let Ok((ChildSpec { entry: Some(entry), .. }, _)) = child_spec::split::<ChildSpec>(packet.front())
        && let Ok(entry) = entry.function()
    {
        entry(packet.payload).send(&theirs);
    }
}
