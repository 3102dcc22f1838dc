//! The baseline for multiproc's fork server: the least that a server can do.
//!
//! It was forked early, has one thread, and reads requests of one byte from a SOCK_SEQPACKET
//! socket. For each it makes a copy of itself with clone3(2) and CLONE_PARENT, so that the copy is
//! a child of this process, and sends back the copy's pid. It has no names, arguments, environment
//! or results, and no error recovery.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiproc_benches::sys::{monotonic, packet_pair};

use super::sys;

/// A server that runs until it is dropped.
pub(crate) struct BareServer {
    socket: Option<File>,
    pid: i32,
    /// Where a child stores the time, in nanoseconds of [`monotonic`].
    time: &'static AtomicU64,
}

/// What a child does.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Task {
    Exit = b'e',
    /// Exits after storing the time.
    TellTime = b't',
    /// Lives until it is killed.
    Sleep = b's',
}

impl BareServer {
    /// Starts the server. Must be called while this process has one thread.
    pub(crate) fn start() -> io::Result<BareServer> {
        let [ours, theirs] = packet_pair()?.map(File::from);
        let time = sys::shared_word()?;
        // SAFETY: there is one thread, so no lock is held.
        match unsafe { sys::fork() }? {
            0 => {
                drop(ours);
                serve(theirs, time)
            }
            pid => Ok(BareServer { socket: Some(ours), pid, time }),
        }
    }

    /// Requests a child. Several requests may be sent ahead: each has its
    /// [`answer`](BareServer::answer), in order.
    pub(crate) fn request(&self, task: Task) -> io::Result<()> {
        self.socket().write_all(&[task as u8])
    }

    /// Returns the pid of the next requested child. The caller must wait for it.
    pub(crate) fn answer(&self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.socket().read_exact(&mut answer)?;
        match i32::from_ne_bytes(answer) {
            pid if pid > 0 => Ok(pid),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        }
    }

    /// When the last child with [`Task::TellTime`] reached its first line.
    pub(crate) fn time_told(&self) -> Duration {
        Duration::from_nanos(self.time.load(Relaxed))
    }

    fn socket(&self) -> &File {
        self.socket.as_ref().expect("the socket is open until the server is dropped")
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        // The end of its input ends the server.
        self.socket = None;
        let _ = sys::wait(self.pid);
    }
}

/// The server's main loop.
fn serve(mut socket: File, time: &AtomicU64) -> ! {
    let mut request = [0];
    while let Ok(1) = socket.read(&mut request) {
        // SAFETY: this process has one thread, and the copy doesn't return from `perform`.
        let answer = match unsafe { sys::clone_sibling() } {
            Ok(0) => perform(request[0], time),
            Ok(pid) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        if socket.write_all(&answer.to_ne_bytes()).is_err() {
            break;
        }
    }
    sys::exit_now()
}

/// Runs in a child.
fn perform(task: u8, time: &AtomicU64) -> ! {
    if task == Task::TellTime as u8 {
        time.store(monotonic().as_nanos() as u64, Relaxed);
    } else if task == Task::Sleep as u8 {
        sys::sleep()
    }
    sys::exit_now()
}
