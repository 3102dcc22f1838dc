//! The kernel's primitives for waiting: a word in shared memory with futex(2), and an eventfd(2),
//! which is a signal or a semaphore.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use multiproc::Handle;
use multiproc_benches::Outcome;
use multiproc_benches::sys::{event_fd, futex_wait, futex_wake, map_shared};
use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::signal::Signal;

#[derive(Clone, Copy)]
pub(crate) struct Futex(&'static AtomicU32);

impl Signal for Futex {
    fn pair() -> Outcome<[Futex; 2]> {
        let start = map_shared(None, size_of::<AtomicU32>())?;
        // SAFETY: the page is zeroed, aligned and never unmapped, and it is accessed only through
        // atomics.
        Ok([Futex(unsafe { start.cast::<AtomicU32>().as_ref() }); 2])
    }

    fn set(&self) -> Outcome<()> {
        self.0.store(1, Release);
        futex_wake(self.0, 1);
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        while self.0.load(Acquire) == 0 {
            futex_wait(self.0, 0);
        }
        Ok(())
    }

    fn clear(&self) -> Outcome<()> {
        self.0.store(0, Release);
        Ok(())
    }
}

/// Waiting also clears it.
#[derive(Serialize, Deserialize)]
pub(crate) struct EventFd(Handle<File>);

impl Signal for EventFd {
    fn pair() -> Outcome<[EventFd; 2]> {
        let file = event_fd(0, 0)?;
        Ok([EventFd(file.try_clone()?.into()), EventFd(file.into())])
    }

    fn set(&self) -> Outcome<()> {
        Ok((&*self.0).write_all(&1_u64.to_ne_bytes())?)
    }

    fn wait(&self) -> Outcome<()> {
        Ok((&*self.0).read_exact(&mut [0; 8])?)
    }

    fn clear(&self) -> Outcome<()> {
        Ok(())
    }
}

/// A semaphore with one permit.
#[derive(Serialize, Deserialize)]
pub(crate) struct Permit(Handle<File>);

impl Lock for Permit {
    type Guard<'a> = PermitGuard<'a>;

    fn pair() -> Outcome<[Permit; 2]> {
        let file = event_fd(1, libc::EFD_SEMAPHORE)?;
        Ok([Permit(file.try_clone()?.into()), Permit(file.into())])
    }

    fn lock(&self) -> Outcome<PermitGuard<'_>> {
        (&*self.0).read_exact(&mut [0; 8])?;
        Ok(PermitGuard(&self.0))
    }
}

pub(crate) struct PermitGuard<'a>(&'a File);

impl Drop for PermitGuard<'_> {
    fn drop(&mut self) {
        // If this fails, the other participant waits until the slice's alarm ends it.
        let _ = (&*self.0).write_all(&1_u64.to_ne_bytes());
    }
}
