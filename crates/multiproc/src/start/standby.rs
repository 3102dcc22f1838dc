//! The standby: a child made before it is needed, which waits for a launch message and then reaches
//! its target's first line in the time that a message takes.
//!
//! The keeper, a thread of the parent, makes the server create a standby when no start and no end
//! of a child has happened for [`QUIET`], so that a burst of starts doesn't pay for it. The keeper
//! ends the standby and itself when no start has happened for [`IDLE`], so that an idle program has
//! neither. `PROTOCOL.md` says what happens when one of the processes dies.
//!
//! Waking a thread on an idle processor takes some 25 µs, as long as the rest of a start in this
//! process. So a start that takes the standby doesn't wake the keeper; it is woken when a child has
//! been reaped, or when the server had to make a child.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use multiproc_os::signal::{self, SIGKILL};
use multiproc_os::{directory, fd_passing, interrupt, pidfd, poll, prefault, threads};
use multiproc_shm::message::packet;

use super::confinement::{CallerRights, RightsMatch};
use super::context::{self, SentContext};
use super::entry::WarmUp;
use super::error::StartError;
use super::forkserver::{self, Request, ServerProcess};
use super::run_child::{self, StartAck};
use super::{handshake, panic_hook};
use crate::runtime::children;
use crate::spec::child_spec::{self, ChildSpec, Launch, Started};
use crate::spec::key::SigningKey;
use crate::spec::kind;
use crate::spec::log_config::LogConfig;
use crate::spec::method::StartMethod;
use crate::spec::options::Options;
use crate::spec::process_info::ProcessInfo;

/// How long no start and no end of a child must have happened before a standby is made. A program
/// that starts children one after the other and waits for each starts the next one right after the
/// end of the last: a standby that is made in between costs more than it gains.
const QUIET: Duration = Duration::from_micros(500);

/// How long no start must have happened before the standby is ended.
const IDLE: Duration = Duration::from_secs(1);

/// A process that waits for its launch message.
pub(crate) struct Standby {
    pub(crate) started: Started,
    /// The socket on which it receives the launch message. Not its own socket, which is its
    /// lifeline: nothing may ever be sent on that.
    pub(crate) launch: OwnedFd,
    /// The server that made it. A standby of an earlier server may have rights that this process
    /// has given up.
    pub(crate) server: Weak<ServerProcess>,
    /// What it knows of the parent's context.
    pub(crate) sent: SentContext,
}

/// The state that the keeper and starts share.
struct State {
    /// The process that this state belongs to. A copy of it, made by fork(2) elsewhere, has neither
    /// keeper nor standby.
    process: i32,
    keeper: Option<JoinHandle<()>>,
    standby: Option<Standby>,
    last_start: Option<Instant>,
    /// When a child was last reaped.
    last_end: Option<Instant>,
    /// Whether the keeper sleeps until [`IDLE`] has passed, and doesn't notice that its standby has
    /// been taken.
    settled: bool,
    /// The number of threads that wait for the keeper to end.
    stop: u32,
    /// Whether standbys are enabled.
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

/// Notified when the keeper must look at the state.
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let this = threads::getpid();
    if state.process != this {
        state.process = this;
        // The keeper's thread doesn't exist in this copy, so there is nothing to detach. The
        // standby is the original's: only the copies of its descriptors are closed.
        std::mem::forget(state.keeper.take());
        state.standby = None;
        (state.settled, state.stop) = (false, 0);
    }
    state
}

/// Sets whether this process keeps a standby ready: a child process made ahead of the next start by
/// [`StartMethod::ForkServer`](crate::StartMethod::ForkServer). Enabled by default.
///
/// A start that finds a standby reaches its target's first line in a fraction of the time. A thread
/// of this process makes the standby once no start and no end of a child has happened for half a
/// millisecond; both are gone once no start has happened for a second. A program must disable this
/// if it can't have a thread that it hasn't made itself (unshare(2) and setns(2) require a single
/// thread for some purposes); [`StartMethod::Fork`](crate::StartMethod::Fork) works with it.
/// Processes that are started later inherit the setting.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::process::set_standby(false);
/// # }
/// ```
pub fn set_standby(enabled: bool) {
    set_wanted(enabled);
    if !enabled {
        dismiss();
    }
}

/// In a new child: sets what its parent has set.
pub(crate) fn set_wanted(wanted: bool) {
    lock().wanted = wanted;
}

/// See [`set_standby`].
pub(crate) fn is_wanted() -> bool {
    lock().wanted
}

/// Takes the standby, if there is one and `server` has made it.
pub(crate) fn take(server: &Weak<ServerProcess>) -> Option<Standby> {
    let standby = lock().standby.take()?;
    if Weak::ptr_eq(&standby.server, server) {
        return Some(standby);
    }
    standby.end();
    None
}

/// Called when a process has been started, by the server or in a standby: arranges for the next
/// standby.
pub(crate) fn started(by_server: bool) {
    let mut state = lock();
    state.last_start = Some(Instant::now());
    if state.wanted && state.keeper.is_none() && state.stop == 0 {
        // The keeper must not hold a lock when this process is forked, and is notified of each end.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let _ = multiproc_os::at_fork::register(before_fork, after_fork);
            children::on_reaped(child_has_ended);
        });
        let thread = std::thread::Builder::new().name("multiproc-keeper".into()).stack_size(128 << 10);
        // If no thread can be created, starts are only slower.
        state.keeper = signal::with_signals_blocked(|| thread.spawn(keep)).ok();
    } else if by_server {
        wake_keeper(state);
    }
}

/// Called when a child of this process has been reaped: the keeper may make a standby now.
fn child_has_ended() {
    let mut state = lock();
    state.last_end = Some(Instant::now());
    wake_keeper(state);
}

/// Wakes the keeper, if it hasn't noticed that there is no standby any more. Unlocks first, since
/// the keeper takes the lock as soon as it is awake.
fn wake_keeper(mut state: MutexGuard<'static, State>) {
    let wake = state.settled && state.standby.is_none();
    if wake {
        // Further calls needn't wake it again.
        state.settled = false;
    }
    drop(state);
    if wake {
        CHANGED.notify_all();
    }
}

/// Ends the standby and the keeper, and waits until they have ended: this process has one thread
/// less.
pub(crate) fn dismiss() {
    let mut state = lock();
    if state.keeper.is_none() && state.standby.is_none() {
        return;
    }
    state.stop += 1;
    let keeper = state.keeper.take();
    drop(state);
    CHANGED.notify_all();
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
    /// The locks that this thread, which is about to fork, holds.
    static HELD: std::cell::RefCell<Option<Held>> = const { std::cell::RefCell::new(None) };
}

/// The fields in the order in which they are released.
struct Held(#[allow(dead_code)] Option<MutexGuard<'static, State>>, #[allow(dead_code)] forkserver::Pause);

extern "C" fn before_fork() {
    // In the order in which a start takes the locks.
    let Some(pause) = forkserver::pause() else { return };
    let Some(state) = lock_briefly(&STATE) else { return };
    let _ = HELD.try_with(|slot| *slot.borrow_mut() = Some(Held(Some(state), pause)));
}

/// Locks, but gives up after a while: fork(2) may be called by a signal handler that has
/// interrupted the lock's owner.
pub(super) fn lock_briefly<T>(mutex: &'static Mutex<T>) -> Option<MutexGuard<'static, T>> {
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

/// Runs the keeper.
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
                    // The system is at a limit, or the server is gone: the next start will report
                    // it.
                    None => break,
                }
                continue;
            }
        };
        state.settled = state.standby.is_some();
        state = CHANGED.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        state.settled = false;
    }
    let standby = state.standby.take();
    if state.stop == 0 {
        // It ends on its own, so no thread joins it.
        drop(state.keeper.take());
    }
    drop(state);
    if let Some(standby) = standby {
        standby.end();
    }
}

impl Standby {
    /// Makes the standby the process that `launch` describes. None if it died while it waited, or
    /// can't be used by the calling thread now; then it has been ended.
    pub(crate) fn begin(
        mut self,
        launch: &Launch<'_>,
        here: Option<directory::Id>,
        rights: &CallerRights,
    ) -> Result<Option<Started>, StartError> {
        let name = launch.name();
        let fail = |what: &'static str| StartError::io(name, what);
        if !launch.spec.outlives_parent {
            forkserver::guard_if_it_does(self.started.pid);
        }
        let front = child_spec::join(launch.spec);
        let mut ack = StartAck::No;
        let sent = context::send(&self.sent, here, Some(launch.streams), |context, outgoing| {
            // The child acknowledges what can fail in it.
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
        // Done while the child sets itself up.
        let told = match self.server.upgrade().map(|server| (server.compare(rights), server)) {
            Some((RightsMatch::Same, server)) => server.server_rights().go_ahead(rights, &self.launch),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let Ok(told) = told else {
            self.end_in_place();
            return Ok(None);
        };
        if told || ack == StartAck::Yes {
            let answer = handshake::answer_of_child(name, &self.started.socket).inspect_err(|_| self.end_in_place())?;
            if answer.not_permitted {
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

/// Kills a process that waits on the other end of `socket`, and reaps it. It has not run any of the
/// user's code.
pub(crate) fn end(process: &Started, socket: &OwnedFd) {
    if let Some(pidfd) = &process.pidfd {
        // If it has more rights than this process has now, it can't be killed, but leaves by
        // itself.
        let _ = fd_passing::hang_up(socket);
        let _ = pidfd::send_signal(pidfd, SIGKILL);
        let _ = poll::wait_readable(pidfd, Instant::now().checked_add(handshake::ANSWER_TIMEOUT));
        let _ = pidfd::reap(pidfd);
    }
}

/// The child's side: waits for the launch message, then runs the child. Leaves if the socket is
/// closed instead.
pub(crate) fn stand_by(orders: OwnedFd, socket: OwnedFd, warm_up: WarmUp) -> ! {
    threads::set_name("multiproc-ready");
    run_warm_up(warm_up);
    prefault::touch();
    interrupt::discard_until_readable(&orders);
    let mut packet = match packet::receive(&orders, true) {
        Ok(packet) if packet.kind == kind::START => packet,
        Ok(packet) => {
            run_child::refuse(socket, &format!("the standby process got an unexpected message of kind {}", packet.kind))
        }
        Err(_) => std::process::exit(0),
    };
    let (fds, payload) = (std::mem::take(&mut packet.fds), std::mem::take(&mut packet.payload));
    let (request, launch) = match child_spec::split::<Request>(packet.front()) {
        Ok(split) => split,
        Err(error) => run_child::refuse(socket, &format!("the request can't be decoded: {error}")),
    };
    forkserver::become_child(request, fds.into_iter(), socket, orders, launch, payload)
}

/// Goes through the steps of a start once without effect, so that the pages of code and data that
/// they need are present. A failure is ignored.
fn run_warm_up(warm_up: WarmUp) {
    let info = ProcessInfo { name: "multiproc-ready".into(), numbers: vec![1], seed: 0, daemon: false, parent: None };
    run_child::show_name(&info.name, None);
    let Ok((ours, theirs)) = fd_passing::pair() else { return };
    let Some((entry, payload)) = warm_up() else { return };
    let spec = ChildSpec {
        info,
        entry: Some(entry),
        options: Options::default(),
        outlives_parent: false,
        log: LogConfig::default(),
        start_method: StartMethod::ForkServer,
        grace_period: IDLE,
        handles_ctrl_c: true,
        standby: true,
        key: SigningKey::none(),
    };
    let front = child_spec::join(&spec);
    if packet::send_with(&ours, kind::START, &[&front], &[], &payload).is_err() {
        return;
    }
    let Ok(packet) = packet::receive(&theirs, false) else { return };
    panic_hook::install(&spec.info.name, &theirs);
    if let Ok((ChildSpec { entry: Some(entry), .. }, _)) = child_spec::split::<ChildSpec>(packet.front())
        && let Ok(entry) = entry.function()
    {
        entry(packet.payload).send(&theirs);
    }
}
