//! The socket files of this process's listeners, which are removed when it ends by `exit`.
//!
//! A file is removed only by the process that has made it. A fork copy of that process inherits the
//! list and the exit handler, and does nothing.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiproc_os::socket_file::SocketFile;
use multiproc_os::threads;

static FILES: Mutex<Vec<SocketFile>> = Mutex::new(Vec::new());

/// The process that has made these files. Its fork copies inherit this and the exit handler.
static OWNER: AtomicI32 = AtomicI32::new(0);

fn lock() -> MutexGuard<'static, Vec<SocketFile>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket file that is removed when this is dropped or its process exits.
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
