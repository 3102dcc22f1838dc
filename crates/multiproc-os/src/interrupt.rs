//! SIGINT, which Ctrl-C sends to every process of the terminal's foreground group at once: left alone by children, and answered by the one
//! that they leave it to.
//!
//! A child has a handler that does nothing (not `SIG_IGN`, which the programs that it executes would inherit). Its parent can interrupt it
//! all the same, by a signal that says so in its value: [`send`].
//!
//! The parent has a handler that ends its children and then dies of the signal. Everything is done in the handler itself, by calls that
//! signal-safety(7) allows, because there may be no thread to leave it to, and the interrupted one may be stuck in anything. The children are
//! those that are [`Registered`].
//!
//! The rest of the process must not see its children die, and say so, while this goes on: so once it has begun, no thread gets past
//! [`hold`], and none closes a pidfd that the handler may be about to use.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering::SeqCst};

use crate::pidfd_list::{self, Place};
use crate::{cvt_long, threads};

/// A process that the parent's handler ends, as long as this is there.
///
/// Drop it, or [withdraw](Registered::withdraw) it, before the descriptor is closed: another one may have its number then.
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

    /// Takes it back; its process has ended. Any number of times.
    ///
    /// When the handler is at work this never returns, and the descriptor stays open. The handler says that it has begun before it reads the
    /// number, this takes the number away before it asks: so either the handler does not find it, or this waits.
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

/// Forgets all that is registered: this process is a copy of the one whose children those are.
pub fn forget_registered() {
    pidfd_list::forget();
}

/// The process that is being ended by the handler; 0 if none is. A copy of that, made by fork(2), is not.
static ENDING: AtomicI32 = AtomicI32::new(0);

/// Returns unless the handler is ending this process. Then it is the last thing that this thread does.
pub fn hold() {
    let ending = ENDING.load(SeqCst);
    if ending != 0 && ending == threads::getpid() {
        loop {
            // SAFETY: touches no memory.
            unsafe { libc::pause() };
        }
    }
}

/// The process whose children are registered, and which has asked for them to be ended.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// How long the children are given, in milliseconds. Null until the handler is installed.
static GRACE: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

/// How often SIGINT has come.
static INTERRUPTS: AtomicI32 = AtomicI32::new(0);

/// From now on SIGINT ends the registered processes, then this one: SIGTERM to all of them, and SIGKILL to those that are left after `grace`
/// milliseconds; at the second SIGINT, SIGKILL to all at once. In the end this process dies of SIGINT.
///
/// False, and nothing is changed, if somebody else has installed a handler or has the signal ignored.
pub fn end_children(grace: &'static AtomicU64) -> bool {
    GRACE.store(std::ptr::from_ref(grace).cast_mut(), SeqCst);
    let before = PARENT.swap(threads::getpid(), SeqCst);
    // In a copy of a process that has done this, the handler is there already.
    let installed =
        is_installed(on_interrupt_in_parent) || install_over_default(on_interrupt_in_parent, libc::SA_NODEFER);
    if !installed {
        PARENT.store(before, SeqCst);
    }
    installed
}

/// From now on this process, a child, leaves SIGINT to its parent, unless that means this process: see [`send`].
///
/// Whatever its parent's handler was doing when it made a copy of itself is of no concern here.
pub fn leave_to_parent() {
    // In this order: the parent's handler, if this process has inherited it, knows by the first that it is not in the parent.
    PARENT.store(0, SeqCst);
    ENDING.store(0, SeqCst);
    INTERRUPTS.store(0, SeqCst);
    install(on_interrupt_in_child, libc::SA_RESTART);
}

/// Installs the handler of [`leave_to_parent`] again after it was [taken back](take_back), unless somebody else has another one now.
pub fn leave_to_parent_again() {
    install_over_default(on_interrupt_in_child, libc::SA_RESTART);
}

/// SIGINT does what it does by default, if what it does now was installed here.
pub fn take_back() {
    if is_installed(on_interrupt_in_parent) || is_installed(on_interrupt_in_child) {
        set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
    }
}

/// Sets SIGINT back to its default, whoever has done what about it.
pub fn reset() {
    set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
}

/// What a terminal sends to its whole foreground group to end it: at Ctrl-C, at Ctrl-\, and when it goes away.
const FROM_TERMINAL: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP];

/// A set of signals as the kernel has it, and shows it in `/proc`: bit 0 is signal 1.
pub(crate) const FROM_TERMINAL_MASK: u64 = 1 << (FROM_TERMINAL[0] - 1)
    | 1 << (FROM_TERMINAL[1] - 1)
    | 1 << (FROM_TERMINAL[2] - 1)
    | 1 << (FROM_TERMINAL[3] - 1);

/// The signals that a copy has blocked at first: those of the terminal.
///
/// A server stays so, and is never hit by what means its parent. A child lets them in once it has seen to what they do: before that, an
/// [`interrupt`](send) must neither be lost nor be taken for the terminal's.
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

/// Lets in what the terminal sends: see [`this_program`](crate::exec::this_program) and
/// [`reset_to_defaults`](crate::signal::reset_to_defaults).
pub fn unblock() {
    // SAFETY: the set is filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, from_terminal().as_ptr(), null_mut()) };
}

/// Waits until `socket` is readable or closed, and throws away what the terminal sends until then: it is blocked, and would wait to hit whoever
/// this process is to become. What comes at the same moment as the message is left: it may mean that one already.
pub fn discard_until_readable(socket: impl AsFd) {
    // SAFETY: the set is filled in.
    let signals = unsafe { libc::signalfd(-1, from_terminal().as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    let pollfd = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // A negative number is passed over.
    let mut polled = [pollfd(socket.as_fd().as_raw_fd()), pollfd(signals)];
    loop {
        // SAFETY: the structures are ours.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } < 0 {
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                _ => break,
            }
        }
        if polled[0].revents != 0 {
            break;
        }
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: the structure is ours, and as large as said.
        unsafe { libc::read(signals, info.as_mut_ptr().cast(), size_of::<libc::signalfd_siginfo>()) };
    }
    // SAFETY: it is ours, or no descriptor.
    unsafe { libc::close(signals) };
}

/// Sends SIGINT to the process in such a way that it is interrupted even if it leaves that signal to its parent.
///
/// # Errors
/// As [`send_signal`](crate::pidfd::send_signal).
pub fn send(pidfd: impl AsFd) -> io::Result<()> {
    /// `siginfo_t` of a signal with a value, see sigaction(2): the same on every 64-bit architecture.
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
        // SAFETY: touches no memory.
        uid: unsafe { libc::getuid() },
        value: FOR_YOU,
        _rest: [0; 12],
    };
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads a siginfo_t, which this is as large as.
    cvt_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGINT, &raw const info, 0) }).map(drop)
}

/// The value of a SIGINT that means the process that gets it, and not the terminal's whole group: `multip` in ASCII.
const FOR_YOU: usize = 0x6d75_6c74_6970;

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Async-signal-safe.
extern "C" fn on_interrupt_in_child(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t; one of this code has a value.
    let for_this_process =
        unsafe { (*info).si_code == libc::SI_QUEUE && (*info).si_value().sival_ptr.addr() == FOR_YOU };
    if for_this_process && is_installed(on_interrupt_in_child) {
        die();
    }
}

/// Async-signal-safe. While it is at work it may be interrupted by itself, in this thread or another: each time it does less.
extern "C" fn on_interrupt_in_parent(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // A handler that was installed later may call the one that it found, as those of the crate signal-hook do. SIGINT is its affair now.
    if !is_installed(on_interrupt_in_parent) {
        return;
    }
    let this = threads::getpid();
    // Otherwise this is a copy of the parent, made by fork(2), and the children are not its own.
    if PARENT.load(SeqCst) == this {
        // Before any number is read; see `withdraw`.
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

/// SIGTERM to all, then waits until they have ended or their time is up.
fn terminate_children() {
    // SAFETY: null, or a static.
    let grace = unsafe { GRACE.load(SeqCst).as_ref() }.map_or(0, |grace| grace.load(SeqCst));
    // What is left of this millisecond comes on top of that.
    let deadline = now().saturating_add(1).saturating_add(i64::try_from(grace).unwrap_or(i64::MAX));
    loop {
        let mut news = false;
        for (place, fd) in pidfd_list::walk() {
            if place.mark(fd) {
                send_raw(fd, libc::SIGTERM);
                news = true;
            }
        }
        // Those that other threads were about to start when this began come later, at any time.
        if !news {
            return;
        }
        for (place, fd) in pidfd_list::walk().filter(|(place, fd)| place.is_marked(*fd)) {
            bury(place, fd, deadline);
        }
    }
}

/// SIGKILL to all, then waits until they have ended.
fn kill_children() {
    /// In milliseconds. A process that doesn't die of SIGKILL in this time hangs in the kernel.
    const LONGEST: i64 = 2_000;
    for (_, fd) in pidfd_list::walk() {
        send_raw(fd, libc::SIGKILL);
    }
    let deadline = now().saturating_add(LONGEST);
    for (place, fd) in pidfd_list::walk() {
        // Once more: it may be new.
        send_raw(fd, libc::SIGKILL);
        bury(place, fd, deadline);
    }
}

/// Waits until the process has ended, or the deadline has passed; takes it off the list if it has. For many, one after the other: it takes no
/// longer, as all have the same deadline.
///
/// Reaps it: nobody else would, where the first process of a container doesn't.
fn bury(place: &Place, fd: RawFd, deadline: i64) {
    if wait_readable(fd, deadline) {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
        // SAFETY: the kernel writes to the structure given. By waitid(2) itself: the C library's may be a cancellation point.
        unsafe {
            libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, info.as_mut_ptr(), options, null_mut::<libc::rusage>())
        };
        place.clear(fd);
    }
}

/// Milliseconds on a clock that nobody sets.
fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

fn wait_readable(fd: RawFd, deadline: i64) -> bool {
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        let left = deadline.saturating_sub(now()).max(0);
        let step = left.min(3_600_000);
        // SAFETY: the structure is ours.
        match unsafe { libc::poll(&raw mut polled, 1, step as i32) } {
            0 if left > step => {}
            0 => return false,
            1 => return true,
            // Another signal than this one; or, at a limit of no open files at all, poll can't be used.
            _ => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                _ => return false,
            },
        }
    }
}

fn send_raw(fd: RawFd, signal: i32) {
    // SAFETY: the info is null, as allowed; no memory is touched. A process that has ended gets no signal.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, null::<libc::siginfo_t>(), 0) };
}

/// Ends this process by SIGINT, as by default, so that whoever waits for it (a shell, say) knows of that.
fn die() -> ! {
    set_disposition(libc::SIGINT, libc::SIG_DFL, 0);
    // SAFETY: a set is filled in before it is used; the rest touches no memory. The signal is there when tgkill returns.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), libc::SIGINT);
        // The first process of a pid namespace is not killed by its own signals.
        libc::_exit(128 + libc::SIGINT)
    }
}

fn install(handler: Handler, flags: i32) {
    set_disposition(libc::SIGINT, handler as libc::sighandler_t, libc::SA_SIGINFO | flags);
}

/// Installs `handler` if nobody has done anything about SIGINT; says whether it has.
fn install_over_default(handler: Handler, flags: i32) -> bool {
    if disposition() != libc::SIG_DFL {
        return false;
    }
    let flags = libc::SA_SIGINFO | flags;
    let before = exchange(libc::SIGINT, Some(&action(handler as libc::sighandler_t, flags)));
    if before.sa_sigaction != libc::SIG_DFL {
        // Another thread has done so at this very moment.
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
    // SAFETY: all-zero bytes are a value of the structure, with an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = disposition;
    action.sa_flags = flags;
    action
}

/// sigaction(2): what was in place before.
fn exchange(signal: i32, new: Option<&libc::sigaction>) -> libc::sigaction {
    let mut old = action(libc::SIG_DFL, 0);
    // SAFETY: both structures are ours. What is installed here is async-signal-safe, or no code at all.
    unsafe { libc::sigaction(signal, new.map_or(null(), std::ptr::from_ref), &raw mut old) };
    old
}
