//! SIGINT, which Ctrl-C sends to every process of the terminal's foreground group at once. Children
//! ignore it and leave it to their parent, which ends them.
//!
//! A child has a handler that does nothing (`SIG_IGN` would be inherited by programs that it
//! executes). Its parent can still interrupt it, by a SIGINT that carries a special value:
//! [`send`].
//!
//! The parent has a handler that ends its children and then dies of the signal. Everything is done
//! in the handler itself, with calls that signal-safety(7) allows, because there may be no thread
//! to leave it to, and the interrupted thread may be blocked anywhere. The children are those that
//! are [`Registered`].
//!
//! Meanwhile, the rest of the process must not see its children die and report that. So once the
//! handler has begun, no thread gets past [`hold`], and none closes a pidfd that the handler may be
//! about to use.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering::SeqCst};

use crate::pidfd_list::{self, Place};
use crate::poll::poll_raw;
use crate::{cvt_long, threads};

/// The registration of a child process, which the parent's handler ends while this value exists.
///
/// Drop it, or [withdraw](Registered::withdraw) it, before you close the pidfd: afterwards another
/// file may have its number.
#[derive(Debug)]
pub struct Registered {
    place: &'static Place,
    fd: RawFd,
}

impl Registered {
    /// Registers the process behind `pidfd`, a child of this one.
    pub fn new(pidfd: impl AsFd) -> Registered {
        let fd = pidfd.as_fd().as_raw_fd();
        Registered { place: pidfd_list::put(fd), fd }
    }

    /// Removes the registration, since the process has ended. May be called repeatedly.
    ///
    /// If the handler is running, this call never returns, and the descriptor stays open. The
    /// handler announces that it has begun before it reads the number, and this function removes
    /// the number before it checks for the announcement. So either the handler doesn't find the
    /// number, or this call blocks.
    pub fn withdraw(&self) {
        self.place.clear(self.fd);
        hold();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Forgets all registrations, in a copy made by fork(2): the registered processes are not its
/// children.
pub fn forget_registered() {
    pidfd_list::forget();
}

/// The pid of the process that the handler is ending; 0 if the handler has not run. In a copy made
/// by fork(2) the pid differs, so the copy is not affected.
static ENDING: AtomicI32 = AtomicI32::new(0);

/// Returns at once, unless the handler is ending this process. In that case it never returns.
pub fn hold() {
    let ending = ENDING.load(SeqCst);
    if ending != 0 && ending == threads::getpid() {
        loop {
            // SAFETY: touches no memory.
            unsafe { libc::pause() };
        }
    }
}

/// The pid of the process that has called [`end_children`] for the registered children.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Time in milliseconds that the children have to end. Null until the handler is installed.
static GRACE: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

/// The number of SIGINTs received.
static INTERRUPTS: AtomicI32 = AtomicI32::new(0);

/// Makes SIGINT end the registered processes, and then this one. The handler sends SIGTERM to all
/// of them, and SIGKILL to those that still exist after `grace` milliseconds; at a second SIGINT,
/// it sends SIGKILL to all of them immediately. Finally this process dies of SIGINT.
///
/// Returns false, and changes nothing, if other code has installed a handler or has set the signal
/// to be ignored.
pub fn end_children(grace: &'static AtomicU64) -> bool {
    GRACE.store(std::ptr::from_ref(grace).cast_mut(), SeqCst);
    let before = PARENT.swap(threads::getpid(), SeqCst);
    // In a copy of a process that has called this function, the handler is already installed.
    let installed =
        is_installed(on_interrupt_in_parent) || install_over_default(on_interrupt_in_parent, libc::SA_NODEFER);
    if !installed {
        PARENT.store(before, SeqCst);
    }
    installed
}

/// Makes this process, a child, leave SIGINT to its parent, except for a SIGINT sent by [`send`].
///
/// State that the parent's handler left behind, if it was running when this process was forked, is
/// reset.
pub fn leave_to_parent() {
    // `PARENT` comes first: with it reset, the parent's handler, if this process has inherited it,
    // knows that it isn't in the parent.
    PARENT.store(0, SeqCst);
    ENDING.store(0, SeqCst);
    INTERRUPTS.store(0, SeqCst);
    install(on_interrupt_in_child, libc::SA_RESTART);
}

/// Installs the handler of [`leave_to_parent`] again after [`take_back`], unless other code has
/// installed one since.
pub fn leave_to_parent_again() {
    install_over_default(on_interrupt_in_child, libc::SA_RESTART);
}

/// Restores the default action of SIGINT, if the current action was installed by this module.
pub fn take_back() {
    if is_installed(on_interrupt_in_parent) || is_installed(on_interrupt_in_child) {
        set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
    }
}

/// Restores the default action of SIGINT, no matter what the current action is.
pub fn reset() {
    set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
}

/// The signals that a terminal sends to its whole foreground group: at Ctrl-C, Ctrl-\, a hang-up,
/// and Ctrl-Z.
const FROM_TERMINAL: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP];

/// Returns the set of signals that a new process has blocked at first: those of the terminal.
///
/// A fork server keeps them blocked, so signals that are meant for its parent never affect it. A
/// child unblocks them once it has set up its signal actions: before that, an [interrupt](send)
/// must neither be lost nor be mistaken for one from the terminal.
pub(crate) fn from_terminal() -> MaybeUninit<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is filled in before it is changed.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in FROM_TERMINAL {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
    }
    set
}

/// Unblocks the terminal's signals: see [`program`](crate::exec::program()) and
/// [`reset_to_defaults`](crate::signal::reset_to_defaults).
pub fn unblock() {
    // SAFETY: the set is filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, from_terminal().as_ptr(), null_mut()) };
}

/// Waits until `socket` is readable or closed, and discards the terminal's signals that arrive
/// before that. They are blocked, and would otherwise stay pending and hit the child that this
/// process is to become. A signal that arrives at the same moment as the message is kept, since it
/// may already be meant for that child.
pub fn discard_until_readable(socket: impl AsFd) {
    // SAFETY: the set is filled in.
    let signals = unsafe { libc::signalfd(-1, from_terminal().as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    let pollfd = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // poll(2) ignores a negative number.
    let mut polled = [pollfd(socket.as_fd().as_raw_fd()), pollfd(signals)];
    loop {
        match poll_raw(&mut polled, -1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        if polled[0].revents != 0 {
            break;
        }
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: the structure is a local variable, and its size is passed.
        unsafe { libc::read(signals, info.as_mut_ptr().cast(), size_of::<libc::signalfd_siginfo>()) };
    }
    // SAFETY: the descriptor was opened above; -1 is no descriptor.
    unsafe { libc::close(signals) };
}

/// Sends SIGINT to the process in a way that interrupts it even if it leaves SIGINT to its parent.
///
/// # Errors
/// As [`send_signal`](crate::pidfd::send_signal).
pub fn send(pidfd: impl AsFd) -> io::Result<()> {
    /// `siginfo_t` of a signal with a value, see sigaction(2): the same on all 64-bit
    /// architectures.
    #[repr(C)]
    struct Info {
        signal: i32,
        errno: i32,
        code: i32,
        _padding: i32,
        pid: i32,
        uid: u32,
        value: usize,
        _rest: [u64; 12],
    }
    const { assert!(size_of::<Info>() == size_of::<libc::siginfo_t>()) };
    let info = Info {
        signal: libc::SIGINT,
        errno: 0,
        code: libc::SI_QUEUE,
        _padding: 0,
        pid: threads::getpid(),
        // SAFETY: it touches no memory.
        uid: unsafe { libc::getuid() },
        value: FOR_YOU,
        _rest: [0; 12],
    };
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads a siginfo_t, and this structure has its size.
    cvt_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGINT, &raw const info, 0) }).map(drop)
}

/// The value of a SIGINT that is meant for its receiver, and not for the terminal's whole group:
/// `multip` in ASCII.
const FOR_YOU: usize = 0x6d75_6c74_6970;

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Async-signal-safe.
extern "C" fn on_interrupt_in_child(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t; with this si_code it has a value.
    let for_this_process =
        unsafe { (*info).si_code == libc::SI_QUEUE && (*info).si_value().sival_ptr.addr() == FOR_YOU };
    if for_this_process && is_installed(on_interrupt_in_child) {
        die();
    }
}

/// Async-signal-safe. It may be interrupted by itself, in this thread or in another; each further
/// run does less.
extern "C" fn on_interrupt_in_parent(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // A handler that was installed later may call the handler that it replaced, as those of the
    // crate signal-hook do. SIGINT is then that handler's responsibility.
    if !is_installed(on_interrupt_in_parent) {
        return;
    }
    let this = threads::getpid();
    // If this is false, this process is a copy of the parent made by fork(2), and the children are
    // not its own.
    if PARENT.load(SeqCst) == this {
        // Stored before any descriptor number is read; see `withdraw`.
        ENDING.store(this, SeqCst);
        let interrupts = INTERRUPTS.fetch_add(1, SeqCst);
        if interrupts == 0 {
            terminate_children();
        }
        if interrupts <= 1 {
            kill_children();
        }
    }
    die();
}

/// Sends SIGTERM to all children, then waits until they have ended or the grace period is over.
fn terminate_children() {
    // SAFETY: null, or a reference to a static.
    let grace = unsafe { GRACE.load(SeqCst).as_ref() }.map_or(0, |grace| grace.load(SeqCst));
    // One more, since the current millisecond has partly passed.
    let deadline = now().saturating_add(1).saturating_add(i64::try_from(grace).unwrap_or(i64::MAX));
    loop {
        let mut news = false;
        for (place, fd) in pidfd_list::walk() {
            if place.mark(fd) {
                send_raw(fd, libc::SIGTERM);
                news = true;
            }
        }
        // Children that other threads were starting when this began may be registered later, at any
        // time.
        if !news {
            return;
        }
        for (place, fd) in pidfd_list::walk().filter(|(place, fd)| place.is_marked(*fd)) {
            bury(place, fd, deadline);
        }
    }
}

/// Sends SIGKILL to all children, then waits until they have ended.
fn kill_children() {
    /// Milliseconds. A process that doesn't die of SIGKILL within this time is stuck in the kernel.
    const LONGEST: i64 = 2_000;
    for (_, fd) in pidfd_list::walk() {
        send_raw(fd, libc::SIGKILL);
    }
    let deadline = now().saturating_add(LONGEST);
    for (place, fd) in pidfd_list::walk() {
        // Again, since this child may have been registered after the first loop.
        send_raw(fd, libc::SIGKILL);
        bury(place, fd, deadline);
    }
}

/// Waits until the process has ended or the deadline has passed. If it has ended, reaps it and
/// removes it from the list. Calls for many processes, one after the other, take no longer than
/// one: they have the same deadline.
///
/// The process must be reaped here, since in a container the first process may not reap orphans.
fn bury(place: &Place, fd: RawFd, deadline: i64) {
    if wait_readable(fd, deadline) {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
        // SAFETY: the kernel writes to the structure given. The system call is made directly,
        // because the C library's waitid(2) may be a cancellation point.
        unsafe {
            libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, info.as_mut_ptr(), options, null_mut::<libc::rusage>())
        };
        place.clear(fd);
    }
}

/// Returns the milliseconds of a clock that can't be set.
fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is a local variable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

fn wait_readable(fd: RawFd, deadline: i64) -> bool {
    let mut polled = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    loop {
        let left = deadline.saturating_sub(now()).max(0);
        let step = left.min(3_600_000);
        match poll_raw(&mut polled, step as i32) {
            Ok(0) if left > step => {}
            Ok(ready) => return ready > 0,
            // Another signal has interrupted the call.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The limit of open files is 0, and poll(2) fails.
            Err(_) => return false,
        }
    }
}

fn send_raw(fd: RawFd, signal: i32) {
    // SAFETY: a null info is allowed; no memory is touched. A process that has ended gets no
    // signal.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, null::<libc::siginfo_t>(), 0) };
}

/// Ends this process by SIGINT with its default action, so that a process that waits for it (a
/// shell, say) sees that signal as the cause.
fn die() -> ! {
    set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
    // SAFETY: the set is filled in before it is used; the rest touches no memory. The signal is
    // delivered before tgkill returns.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), libc::SIGINT);
        // Reached in the first process of a PID namespace, which its own signals don't kill.
        libc::_exit(128 + libc::SIGINT)
    }
}

fn install(handler: Handler, flags: i32) {
    set_disposition(libc::SIGINT, handler as libc::sighandler_t, libc::SA_SIGINFO | flags);
}

/// Installs `handler` if SIGINT has its default action. Returns whether it did.
fn install_over_default(handler: Handler, flags: i32) -> bool {
    if disposition() != libc::SIG_DFL {
        return false;
    }
    let flags = libc::SA_SIGINFO | flags;
    let before = exchange(libc::SIGINT, Some(&action(handler as libc::sighandler_t, flags)));
    if before.sa_sigaction != libc::SIG_DFL {
        // Another thread has installed a handler at the same moment.
        exchange(libc::SIGINT, Some(&before));
        return false;
    }
    true
}

fn is_installed(handler: Handler) -> bool {
    disposition() == handler as libc::sighandler_t
}

fn disposition() -> libc::sighandler_t {
    exchange(libc::SIGINT, None).sa_sigaction
}

fn set_disposition(signal: i32, disposition: libc::sighandler_t, flags: i32) {
    exchange(signal, Some(&action(disposition, flags)));
}

fn action(disposition: libc::sighandler_t, flags: i32) -> libc::sigaction {
    // SAFETY: all-zero bytes are a valid value of the structure, with an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = disposition;
    action.sa_flags = flags;
    action
}

/// Calls sigaction(2), and returns the previous action.
fn exchange(signal: i32, new: Option<&libc::sigaction>) -> libc::sigaction {
    let mut old = action(libc::SIG_DFL, 0);
    // SAFETY: both structures are valid for the call. The handlers that are installed here are
    // async-signal-safe.
    unsafe { libc::sigaction(signal, new.map_or(null(), std::ptr::from_ref), &raw mut old) };
    old
}
