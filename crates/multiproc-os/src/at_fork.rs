//! pthread_atfork(3): functions that run when a thread forks, before and after, for state that
//! another thread may be changing at that moment.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Handlers that are registered when they are first needed.
///
/// A `std::sync::Once` would not do: a copy of the process that is made while another thread is in
/// it would wait forever for that thread, which the copy doesn't have. So threads that come at the
/// same time each register the handlers, and so does such a copy: the handlers must bear to be
/// called several times for one fork.
pub(crate) struct Handlers(AtomicBool);

impl Handlers {
    pub(crate) const fn new() -> Handlers {
        Handlers(AtomicBool::new(false))
    }

    /// Calls `register`, unless a call has succeeded in this process or one that it is a copy of.
    ///
    /// # Errors
    /// Those of `register`, `ENOMEM`. The next call tries again.
    pub(crate) fn ensure(&self, register: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.0.load(Acquire) {
            register()?;
            self.0.store(true, Release);
        }
        Ok(())
    }
}

/// Registers `prepare` to be called before every fork(2) of this process that goes through the C
/// library, and `done` to be called afterwards, both in this process and in the copy. The forking
/// thread calls them.
///
/// # Errors
/// `ENOMEM`.
pub fn register(prepare: extern "C" fn(), done: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the functions live as long as the program.
    match unsafe { libc::pthread_atfork(Some(as_unsafe(prepare)), Some(as_unsafe(done)), Some(as_unsafe(done))) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Registers `done` to be called after fork(2) by the forking thread, in the copy only.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn register_in_copy(done: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the function lives as long as the program.
    match unsafe { libc::pthread_atfork(None, None, Some(as_unsafe(done))) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Returns a number that differs before and after each copy that this process or an ancestor makes
/// through the C library's fork(2), from the first call of this function on.
pub fn count() -> u32 {
    static HANDLERS: Handlers = Handlers::new();
    // The registration fails only if memory is short. Then copies are not counted yet.
    let _ = HANDLERS.ensure(|| register(nothing, one_more));
    COUNT.load(Relaxed)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

extern "C" fn nothing() {}

extern "C" fn one_more() {
    COUNT.fetch_add(1, Relaxed);
}

fn as_unsafe(function: extern "C" fn()) -> unsafe extern "C" fn() {
    function
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn fork_while_another_thread_registers() {
        let handlers = Handlers::new();
        let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
        std::thread::scope(|scope| {
            let handlers = &handlers;
            scope.spawn(move || {
                handlers.ensure(|| {
                    begun.send(()).unwrap();
                    may_go_on.recv().map_err(io::Error::other)
                })
            });
            has_begun.recv().unwrap();
            let registered_once = crate::copy::exit_code_of(|| {
                let mut calls = 0;
                for _ in 0..2 {
                    let _ = handlers.ensure(|| {
                        calls += 1;
                        Ok(())
                    });
                }
                calls
            });
            assert_eq!(registered_once, 1);
            go_on.send(()).unwrap();
        });
        handlers.ensure(|| panic!("they are registered")).unwrap();
    }

    #[test]
    fn failure_is_tried_again() {
        let handlers = Handlers::new();
        let failed = handlers.ensure(|| Err(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        let mut calls = 0;
        handlers
            .ensure(|| {
                calls += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(calls, 1);
    }
}
