//! A last message from a process that dies because it was refused memory, which tells this kind of
//! death from others.
//!
//! Under `RLIMIT_DATA` the kernel refuses memory with `ENOMEM`; the consequences depend on the
//! allocator and the program. Rust's standard library prints a line and aborts, with no (stable)
//! hook in between; C code that doesn't check for failure dereferences a null pointer. Both end in
//! a signal, and in the handler of that signal the thread's `errno` still has the value that the
//! refused call left. So `SIGABRT` with `ENOMEM` in `errno`, or `SIGSEGV` in the first pages with
//! `ENOMEM` in `errno`, is attributed to the limit, and the handler sends a message that was
//! prepared in advance.
//!
//! If the standard library prints a backtrace, that changes `errno`. The abort is then recognised
//! by [`handle_alloc_error`](std::alloc::handle_alloc_error) among its callers.
//!
//! All of this is safe in a handler, see signal-safety(7). The unwinder isn't listed there, but it
//! allocates nothing and takes at most the loader's lock, and the process is about to end. After
//! the handler, the signal has its usual effect.

use std::alloc::Layout;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::Relaxed};

use crate::{cvt, threads};

static SOCKET: AtomicI32 = AtomicI32::new(-1);
static MESSAGE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The pid of the process that called [`arm`]. A copy made by fork(2) has the handler too, but must
/// not send on the socket.
static ARMED: AtomicI32 = AtomicI32::new(0);

/// The previous actions of `SIGSEGV` and `SIGBUS`: the Rust runtime reports stack overflows there.
/// Set once, before the handler is installed.
static BEFORE: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 2];

const FAULTS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Accesses below this address count as accesses through a null pointer.
const FIRST_PAGES: usize = 64 * 1024;

/// Makes this process send `message` on `socket` if it dies because it was refused memory. Must be
/// called once.
///
/// # Errors
/// As sigaction(2); none is expected.
pub fn arm(socket: RawFd, message: Vec<u8>) -> io::Result<()> {
    let message = Box::leak(message.into_boxed_slice());
    LENGTH.store(message.len(), Relaxed);
    MESSAGE.store(message.as_mut_ptr(), Relaxed);
    SOCKET.store(socket, Relaxed);
    ARMED.store(threads::getpid(), Relaxed);
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        let old = set_handler(signal)?;
        // If this process was forked from one that called `arm` too, the handler is already
        // installed, and `BEFORE` already set.
        if old.sa_sigaction != handler as Handler as usize {
            before.store(Box::leak(Box::new(old)), Relaxed);
        }
    }
    set_handler(libc::SIGABRT)?;
    Ok(())
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

fn set_handler(signal: c_int) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero bytes are a valid value of the structure; the handler has the type that
    // SA_SIGINFO requires, and is async-signal-safe.
    unsafe {
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        new.sa_sigaction = handler as Handler as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        cvt(libc::sigaction(signal, &raw const new, old.as_mut_ptr()))?;
        Ok(old.assume_init())
    }
}

/// Restores the previous action, sends the message if memory was refused, and returns. A fault then
/// occurs again by itself, and meets the previous action.
extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: errno belongs to the thread.
    let errno = unsafe { *libc::__errno_location() };
    let before = FAULTS.iter().position(|fault| *fault == signal).map(|index| BEFORE[index].load(Relaxed));
    // First of all, so that a signal that occurs in this handler doesn't call it again.
    // SAFETY: as in `set_handler`; the previous action is one that the kernel returned.
    unsafe {
        match before {
            Some(before) if !before.is_null() => {
                libc::sigaction(signal, before, std::ptr::null_mut());
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
    // SAFETY: the kernel passes a siginfo that is valid during the call; for faults it holds an
    // address.
    let address = unsafe { (*info).si_addr() as usize };
    let refused = match signal {
        libc::SIGABRT => errno == libc::ENOMEM || called_by(std::alloc::handle_alloc_error as fn(Layout) -> ! as usize),
        _ => errno == libc::ENOMEM && address < FIRST_PAGES,
    };
    if refused && ARMED.load(Relaxed) == threads::getpid() {
        let (message, len) = (MESSAGE.load(Relaxed), LENGTH.load(Relaxed));
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message was leaked, so it is valid. If the descriptor belongs to another file
        // by now, the call fails.
        unsafe { libc::send(SOCKET.load(Relaxed), message.cast(), len, flags) };
    }
    // A signal that was sent doesn't occur again by itself. (That of abort(3) would, with the same
    // effect.)
    // SAFETY: async-signal-safe.
    unsafe {
        if signal == libc::SIGABRT {
            libc::raise(signal);
        }
        *libc::__errno_location() = errno;
    }
}

unsafe extern "C" {
    // The unwinder that the standard library links; see the Itanium C++ ABI.
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(frame: *mut c_void) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}

/// Returns whether the function that begins at `function` is among the callers of this one.
fn called_by(function: usize) -> bool {
    struct Search {
        function: usize,
        found: bool,
    }
    extern "C" fn visit(frame: *mut c_void, search: *mut c_void) -> c_int {
        // SAFETY: the unwinder passes a frame that is valid during the call, and the pointer that
        // it was given.
        unsafe {
            let search = &mut *search.cast::<Search>();
            // The return address follows the call instruction. If the called function never
            // returns, that address may already belong to the next function.
            let enclosing = _Unwind_FindEnclosingFunction(_Unwind_GetIP(frame).wrapping_sub(1) as *mut c_void);
            search.found |= enclosing as usize == search.function;
            // A value other than 0 stops the unwinder.
            c_int::from(search.found)
        }
    }
    let mut search = Search { function, found: false };
    // SAFETY: `visit` has the right type, and is called before this returns.
    unsafe { _Unwind_Backtrace(visit, (&raw mut search).cast()) };
    search.found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn caller(argument: usize) -> bool {
        std::hint::black_box(called_by(std::hint::black_box(argument)))
    }

    #[test]
    fn callers() {
        assert!(caller(caller as fn(usize) -> bool as usize));
        assert!(!caller(std::alloc::handle_alloc_error as fn(Layout) -> ! as usize));
    }
}
