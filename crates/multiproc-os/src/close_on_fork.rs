//! Sockets that are closed in copies of this process: a copy made by fork(2), or by
//! [`clone`](crate::clone), closes them before it does anything else. So a resource that the kernel
//! keeps while any process has the socket open (an abstract name, see unix(7)) is released when
//! this process dies.
//!
//! Only async-signal-safe functions may be called in a copy. The descriptor numbers are therefore
//! kept in a lock-free list that only grows, which the copy walks to close them. A copy that other
//! code makes with clone(2), bypassing the C library, runs no such function, and keeps the sockets.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::at_fork::{self, Handlers};
use crate::robust::{Thread, copy_number};

/// The value of a free slot.
const FREE: i32 = -1;
/// The value of a slot that is taken, with its descriptor number not yet stored.
const TAKEN: i32 = -2;

/// Time that [`CloseOnFork::make`] waits for a moment at which no thread is forking this process.
/// It rarely has to wait at all.
const MOMENT: Duration = Duration::from_millis(100);

/// A slot of the list, for one socket.
struct Place {
    fd: AtomicI32,
    /// The inode of the socket. Other code may close the descriptor at any time, even between two
    /// steps here, and then the number may be that of another file.
    inode: AtomicU64,
}

/// A chunk of slots, and the next chunk.
struct Places {
    places: [Place; 64],
    next: AtomicPtr<Places>,
}

impl Places {
    const fn new() -> Places {
        Places {
            places: [const { Place { fd: AtomicI32::new(FREE), inode: AtomicU64::new(0) } }; 64],
            next: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&'static Places> {
        // SAFETY: it is null, or comes from `Box::into_raw` and is never freed.
        unsafe { self.next.load(Acquire).as_ref() }
    }
}

static FIRST: Places = Places::new();

/// The number of forks that have begun in this process, and the number of those that are complete.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static MADE: AtomicU32 = AtomicU32::new(0);

extern "C" fn begun() {
    BEGUN.fetch_add(1, SeqCst);
}

extern "C" fn made() {
    MADE.fetch_add(1, SeqCst);
}

/// Closes all sockets of the list. Must be called in a copy before anything else;
/// async-signal-safe.
pub(crate) extern "C" fn close_all() {
    // Forks that other threads had begun don't complete here, as those threads don't exist in the
    // copy.
    let begun = BEGUN.load(SeqCst);
    // Skipped if there is nothing to change: a store makes the kernel copy the page.
    if MADE.load(SeqCst) != begun {
        MADE.store(begun, SeqCst);
    }
    let mut chunk = Some(&FIRST);
    while let Some(Places { places, .. }) = chunk {
        for place in places.iter().filter(|place| place.fd.load(SeqCst) != FREE) {
            let fd = place.fd.swap(FREE, SeqCst);
            if fd >= 0 && inode(fd).is_ok_and(|inode| inode == place.inode.load(SeqCst)) {
                // SAFETY: it is the socket that was registered, and its owner doesn't use it in a
                // copy.
                unsafe { libc::close(fd) };
            }
        }
        chunk = chunk.and_then(Places::next);
    }
}

/// Registers the functions of this module with pthread_atfork(3), once.
fn arrange() -> io::Result<()> {
    static HANDLERS: Handlers = Handlers::new();
    HANDLERS.ensure(|| at_fork::register(begun, made).and_then(|()| at_fork::register_in_copy(close_all)))
}

/// Returns the inode of a socket. For other kinds of descriptors, the inode may not be unique.
fn inode(fd: i32) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure is a local variable, and all-zero bytes are a valid value of it.
    let stat = unsafe {
        crate::cvt(libc::fstat(fd, stat.as_mut_ptr()))?;
        stat.assume_init()
    };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => Ok(stat.st_ino),
        // Made from an error number, which allocates nothing: in a copy, allocation is not allowed.
        _ => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
    }
}

/// A socket that copies of this process don't have. See the [module](self).
///
/// In a copy this value is an empty shell: it must not be used, and dropping it does nothing.
#[derive(Debug)]
pub struct CloseOnFork {
    fd: ManuallyDrop<OwnedFd>,
    /// The slot's descriptor number.
    place: &'static AtomicI32,
    /// The number of the fork copy that owns the socket; see [`copy_number`].
    copy: u32,
}

impl CloseOnFork {
    /// Creates a socket by calling `make`, and registers it. If a fork begins before the socket is
    /// registered, its copy may have the socket, so the socket is closed and `make` is called
    /// again.
    ///
    /// A copy can keep a socket that was discarded, which matters only if `make` has already made
    /// it visible to other processes, by a name for example. It can keep the socket that is
    /// returned only if this process forks over and over, so that no attempt succeeds within 100
    /// ms.
    ///
    /// # Errors
    /// Those of `make`; `ENOTSOCK`; `ENOMEM`.
    pub fn make(mut make: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<CloseOnFork> {
        arrange()?;
        let patience = Instant::now() + MOMENT;
        loop {
            let is_late = Instant::now() >= patience;
            let before = BEGUN.load(SeqCst);
            if MADE.load(SeqCst) != before && !is_late {
                std::thread::yield_now();
                continue;
            }
            let made = CloseOnFork::new(make()?)?;
            // A fork that begins from now on finds the socket in the list.
            if BEGUN.load(SeqCst) == before || is_late {
                return Ok(made);
            }
        }
    }

    /// Registers an existing socket. A copy that is being made at this moment may keep it.
    ///
    /// # Errors
    /// `ENOTSOCK`; `ENOMEM`.
    pub fn new(fd: OwnedFd) -> io::Result<CloseOnFork> {
        arrange()?;
        // Makes sure that copies are numbered.
        Thread::current();
        let place = take_place();
        match inode(fd.as_raw_fd()) {
            Ok(inode) => place.inode.store(inode, SeqCst),
            Err(error) => {
                place.fd.store(FREE, Release);
                return Err(error);
            }
        }
        place.fd.store(fd.as_raw_fd(), SeqCst);
        Ok(CloseOnFork { fd: ManuallyDrop::new(fd), place: &place.fd, copy: copy_number() })
    }
}

/// Takes a free slot, and adds a chunk if there is none.
fn take_place() -> &'static Place {
    let mut chunk = &FIRST;
    loop {
        let mut places = chunk.places.iter();
        if let Some(place) = places.find(|place| place.fd.compare_exchange(FREE, TAKEN, Acquire, Relaxed).is_ok()) {
            return place;
        }
        chunk = match chunk.next() {
            Some(next) => next,
            None => {
                let new = Box::into_raw(Box::new(Places::new()));
                match chunk.next.compare_exchange(std::ptr::null_mut(), new, Release, Acquire) {
                    // SAFETY: it comes from `Box::into_raw`, and is never freed.
                    Ok(_) => unsafe { &*new },
                    Err(other) => {
                        // SAFETY: it was allocated above, and no other thread has seen it.
                        drop(unsafe { Box::from_raw(new) });
                        // SAFETY: another thread added it, also from `Box::into_raw`; it is never
                        // freed.
                        unsafe { &*other }
                    }
                }
            }
        };
    }
}

impl Drop for CloseOnFork {
    fn drop(&mut self) {
        if self.copy != copy_number() {
            return;
        }
        // The socket is closed before its slot is freed. A copy made in between finds that the
        // number is no longer the socket's; in the other order, it would keep the socket.
        // SAFETY: the socket is not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
        self.place.store(FREE, SeqCst);
    }
}

impl AsFd for CloseOnFork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of `check` in a copy of this process.
    fn in_a_copy(check: impl FnOnce() -> bool) -> bool {
        crate::copy::exit_code_of(|| i32::from(!check())) == 0
    }

    fn is_open(fd: i32) -> bool {
        // SAFETY: no memory is touched.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    fn socket() -> io::Result<OwnedFd> {
        crate::fd_passing::pair().map(|(ours, _)| ours)
    }

    #[test]
    fn closed_in_forked_child() {
        // Enough to need more than one chunk of slots.
        let mut sockets: Vec<_> = (0..200).map(|_| CloseOnFork::make(socket).unwrap()).collect();
        let plain = socket().unwrap();
        let numbers: Vec<i32> = sockets.iter().map(|socket| socket.as_fd().as_raw_fd()).collect();
        // Below it, other tests open and close files.
        let lowest = *numbers.iter().min().unwrap();
        assert!(in_a_copy(|| {
            let all_closed = numbers.iter().all(|fd| !is_open(*fd));
            // The lowest of these numbers now belongs to another file.
            // SAFETY: no memory is touched.
            let other = unsafe { libc::fcntl(plain.as_raw_fd(), libc::F_DUPFD, lowest) };
            let is_first = other == lowest;
            sockets.clear();
            all_closed && is_first && is_open(other) && is_open(plain.as_raw_fd())
        }));
        assert!(numbers.iter().all(|fd| is_open(*fd)));
    }

    #[test]
    fn drop_closes() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        drop(CloseOnFork::new(ours).unwrap());
        assert!(crate::poll::wait_hung_up(&theirs, None).unwrap());
        // As if other code had closed the socket, or it were being dropped, and the number were
        // another file's. That file stays open in the copy.
        let (place, other) = (take_place(), socket().unwrap());
        place.inode.store(inode(other.as_raw_fd()).unwrap() ^ 1, SeqCst);
        place.fd.store(other.as_raw_fd(), SeqCst);
        assert!(in_a_copy(|| is_open(other.as_raw_fd())));
        place.fd.store(FREE, SeqCst);
    }

    #[test]
    fn non_socket_is_refused() {
        let (reader, _) = crate::pipe::pair().unwrap();
        assert_eq!(CloseOnFork::new(reader).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
