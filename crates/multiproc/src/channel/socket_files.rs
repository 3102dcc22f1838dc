//! The files of the listeners of this process, so that none is left behind when it ends by `exit`.
//!
//! A file is removed by the process that has made it. A copy of that process, made by fork(2), knows of it and does nothing.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiproc_os::socket_file::SocketFile;
use multiproc_os::threads;

static FILES: Mutex<Vec<SocketFile>> = Mutex::new(Vec::new());

/// The process whose files these are. Copies of it inherit what it has arranged for its exit.
static OWNER: AtomicI32 = AtomicI32::new(0);

fn lock() -> MutexGuard<'static, Vec<SocketFile>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, which is removed when this is dropped or its process exits.
#[derive(Debug)]
pub(super) struct Kept {
    file: SocketFile,
    owner: i32,
}

impl Kept {
    /// # Errors
    /// `ENOMEM`, in which case the file is removed.
    pub(super) fn new(file: SocketFile) -> io::Result<Kept> {
        let this = threads::getpid();
        match OWNER.swap(this, Relaxed) {
            0 => multiproc_os::at_exit::register(on_exit).inspect_err(|_| {
                OWNER.store(0, Relaxed);
                file.remove();
            })?,
            before if before != this => lock().clear(),
            _ => {}
        }
        lock().push(file.clone());
        Ok(Kept { file, owner: this })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.owner == threads::getpid() {
            self.file.remove();
            lock().retain(|file| *file != self.file);
        }
    }
}

extern "C" fn on_exit() {
    if OWNER.load(Relaxed) == threads::getpid() {
        lock().drain(..).for_each(|file| file.remove());
    }
}
