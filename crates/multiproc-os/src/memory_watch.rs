//! The last words of a process that may not have more memory: how "no memory" is told from other deaths.
//!
//! With `RLIMIT_DATA` the kernel refuses memory with `ENOMEM`; what comes of that is the allocator's affair and the program's. Rust's
//! standard library prints a line and aborts, and there is no (stable) hook in between; C code that doesn't look follows a null pointer.
//! Both end in a signal, and in the handler of that signal the thread's `errno` is still what the refused call has left there. So a
//! `SIGABRT` with `ENOMEM` in `errno`, or a `SIGSEGV` in the first pages with the same, is the limit's doing, and the handler sends a message
//! that was made beforehand. (Where the standard library has been told to print a backtrace, `errno` is of that; then the abort has
//! [`handle_alloc_error`](std::alloc::handle_alloc_error) among its callers.) All of this is safe in a handler, see signal-safety(7): the
//! unwinder, which the manual doesn't list, takes no memory and at most the loader's lock, and the process is at its end. Then the signal takes
//! its course.

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

/// The process that was armed. A copy of it has the handler too, but nothing to say on its socket.
static ARMED: AtomicI32 = AtomicI32::new(0);

/// What happened on `SIGSEGV` and `SIGBUS` before: the Rust runtime tells of stack overflows there. Set once, before the handler is.
static BEFORE: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 2];

const FAULTS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Accesses below this address are taken for those by a null pointer.
const FIRST_PAGES: usize = 64 * 1024;

/// From now on sends `message` on `socket` if this process dies because it got no memory. To be called once.
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
        // In a copy of a process that was armed too, the handler is there already, and so is what was before it.
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
    // SAFETY: all-zero bytes are a value of the structure; the handler has the type that SA_SIGINFO asks for, and is async-signal-safe.
    unsafe {
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        new.sa_sigaction = handler as Handler as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        cvt(libc::sigaction(signal, &raw const new, old.as_mut_ptr()))?;
        Ok(old.assume_init())
    }
}

/// Puts back what was there before; says why, if it is for want of memory; and has it again: a fault happens again by itself.
extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: errno is the thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let before = FAULTS.iter().position(|fault| *fault == signal).map(|index| BEFORE[index].load(Relaxed));
    // First of all, lest whatever happens here comes here again.
    // SAFETY: as in `set_handler`; what was there before is a disposition that the kernel gave us.
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
    // SAFETY: the kernel passes a siginfo that is valid during the call; for faults it holds an address.
    let address = unsafe { (*info).si_addr() as usize };
    let refused = match signal {
        libc::SIGABRT => errno == libc::ENOMEM || called_by(std::alloc::handle_alloc_error as fn(Layout) -> ! as usize),
        _ => errno == libc::ENOMEM && address < FIRST_PAGES,
    };
    if refused && ARMED.load(Relaxed) == threads::getpid() {
        let (message, len) = (MESSAGE.load(Relaxed), LENGTH.load(Relaxed));
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message was leaked, so it is there; if the descriptor is something else by now, the call fails.
        unsafe { libc::send(SOCKET.load(Relaxed), message.cast(), len, flags) };
    }
    // One that somebody has sent doesn't come again by itself. (That of abort(3) would; this is the same.)
    // SAFETY: async-signal-safe.
    unsafe {
        if signal == libc::SIGABRT {
            libc::raise(signal);
        }
        *libc::__errno_location() = errno;
    }
}

unsafe extern "C" {
    // The unwinder that the standard library is linked with; see the Itanium C++ ABI.
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(frame: *mut c_void) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}

/// Whether the function that begins at `function` is among those that have called this one.
fn called_by(function: usize) -> bool {
    struct Search {
        function: usize,
        found: bool,
    }
    extern "C" fn visit(frame: *mut c_void, search: *mut c_void) -> c_int {
        // SAFETY: the unwinder passes a frame that is valid during the call, and the pointer that it was given.
        unsafe {
            let search = &mut *search.cast::<Search>();
            // The address that will be returned to is that after the call, which for a call that never returns may be another function's.
            let enclosing = _Unwind_FindEnclosingFunction(_Unwind_GetIP(frame).wrapping_sub(1) as *mut c_void);
            search.found |= enclosing as usize == search.function;
            // Anything but 0 ends it.
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
    fn callers_are_found() {
        assert!(caller(caller as fn(usize) -> bool as usize));
        assert!(!caller(std::alloc::handle_alloc_error as fn(Layout) -> ! as usize));
    }
}
