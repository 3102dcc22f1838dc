//! The C library's mutex, shared between processes; robust or not. See
//! pthread_mutexattr_setrobust(3).

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::sys::map_shared;

/// A mutex in memory that this process shares with its fork copies. It is never freed.
#[derive(Clone, Copy)]
pub struct Mutex<const ROBUST: bool>(NonNull<libc::pthread_mutex_t>);

impl<const ROBUST: bool> Mutex<ROBUST> {
    /// A new mutex, unlocked.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Mutex<ROBUST>> {
        let mutex = map_shared(None, size_of::<libc::pthread_mutex_t>())?.cast();
        let mut attributes = MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are initialized before they are changed and used. The mutex lies
        // in memory of its own, and is used only after this.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes))?;
            check(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))?;
            let robust = if ROBUST { libc::PTHREAD_MUTEX_ROBUST } else { libc::PTHREAD_MUTEX_STALLED };
            check(libc::pthread_mutexattr_setrobust(attributes, robust))?;
            check(libc::pthread_mutex_init(mutex.as_ptr(), attributes))?;
            check(libc::pthread_mutexattr_destroy(attributes))?;
        }
        Ok(Mutex(mutex))
    }

    /// Locks the mutex, waiting for it if necessary.
    ///
    /// # Errors
    /// Those of pthread_mutex_lock(3): an owner has died, for example.
    #[inline]
    pub fn lock(&self) -> io::Result<Guard<'_>> {
        // SAFETY: `new` has initialized it, and it is never freed.
        check(unsafe { libc::pthread_mutex_lock(self.0.as_ptr()) })?;
        Ok(Guard(self.0, PhantomData))
    }
}

/// Unlocks the mutex when it is dropped.
pub struct Guard<'a>(NonNull<libc::pthread_mutex_t>, PhantomData<&'a ()>);

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(self.0.as_ptr()) };
    }
}

/// Converts the result of a pthread function, which is the error number itself.
#[inline]
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
