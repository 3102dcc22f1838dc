//! Sockets that copies of this process don't have: in a copy made by fork(2), or by [`clone`](crate::clone), they are closed before it does
//! anything else. So what the kernel keeps as long as anybody has the socket (an abstract name, see unix(7)) goes when this process dies.
//!
//! In a copy there may be no more than what is async-signal-safe: the numbers are in a list that grows and needs no lock, and the copy closes
//! them. A copy that is made by clone(2) in somebody else's code, round the C library, isn't told of, and has the sockets.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::at_fork;
use crate::robust::{Thread, copy_number};

/// A place that is nobody's.
const FREE: i32 = -1;
/// A place that is somebody's who hasn't written the number down yet.
const TAKEN: i32 = -2;

/// How long [`CloseOnFork::make`] waits for a moment in which nobody copies this process. Nearly always it is there.
const MOMENT: Duration = Duration::from_millis(100);

/// Where a descriptor is written down.
struct Place {
    fd: AtomicI32,
    /// That of the socket. Somebody may close the number between two steps of ours, or at any time, and then it may be another's.
    inode: AtomicU64,
}

/// Some places, and where there are more.
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
        // SAFETY: it is null, or has come from `Box::into_raw` and is never freed.
        unsafe { self.next.load(Acquire).as_ref() }
    }
}

static FIRST: Places = Places::new();

/// How many copies somebody has begun to make, and how many of them are made.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static MADE: AtomicU32 = AtomicU32::new(0);

extern "C" fn begun() {
    BEGUN.fetch_add(1, SeqCst);
}

extern "C" fn made() {
    MADE.fetch_add(1, SeqCst);
}

/// To be called in a copy, before anything else; may do no more than a signal handler.
pub(crate) extern "C" fn close_all() {
    // Other threads may have been about to make copies too. They are not here.
    let begun = BEGUN.load(SeqCst);
    // What is stored costs the copy a page of its own.
    if MADE.load(SeqCst) != begun {
        MADE.store(begun, SeqCst);
    }
    let mut chunk = Some(&FIRST);
    while let Some(Places { places, .. }) = chunk {
        for place in places.iter().filter(|place| place.fd.load(SeqCst) != FREE) {
            let fd = place.fd.swap(FREE, SeqCst);
            if fd >= 0 && inode(fd).is_ok_and(|inode| inode == place.inode.load(SeqCst)) {
                // SAFETY: it is the socket that was written down, whose owner doesn't use it in a copy.
                unsafe { libc::close(fd) };
            }
        }
        chunk = chunk.and_then(Places::next);
    }
}

/// Sees to it that all this is done.
fn arrange() -> io::Result<()> {
    static ARRANGED: OnceLock<Option<i32>> = OnceLock::new();
    let failed = ARRANGED.get_or_init(|| {
        let registered = at_fork::register(begun, made).and_then(|()| at_fork::register_in_copy(close_all));
        registered.err().map(|error| error.raw_os_error().unwrap_or(libc::ENOMEM))
    });
    failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

/// The inode of a socket; those of other kinds of descriptors don't tell them apart.
fn inode(fd: i32) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure is ours, and all-zero bytes are a value of it.
    let stat = unsafe {
        crate::cvt(libc::fstat(fd, stat.as_mut_ptr()))?;
        stat.assume_init()
    };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => Ok(stat.st_ino),
        // Without memory, in a copy.
        _ => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
    }
}

/// A socket that copies of this process don't have. See the module.
///
/// In a copy this is an empty shell: it must not be used, and dropping it does nothing.
#[derive(Debug)]
pub struct CloseOnFork {
    fd: ManuallyDrop<OwnedFd>,
    /// Where its number is written down.
    place: &'static AtomicI32,
    /// The copy of the process whose socket it is.
    copy: u32,
}

impl CloseOnFork {
    /// The one that `make` makes. A copy that is made at the same time could have it before it is written down here; then it is closed, and another made. So
    /// a copy may have it only if `make` has done with it what concerns others, or if this process makes one copy after the other, for 100 ms.
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
            // A copy that is begun from here on finds it written down.
            if BEGUN.load(SeqCst) == before || is_late {
                return Ok(made);
            }
        }
    }

    /// One that is there already. A copy that is being made at this moment may have it.
    ///
    /// # Errors
    /// `ENOTSOCK`; `ENOMEM`.
    pub fn new(fd: OwnedFd) -> io::Result<CloseOnFork> {
        arrange()?;
        // So that copies are numbered.
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

/// A free place, which is taken now.
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
                    // SAFETY: it has come from `Box::into_raw`, and is never freed.
                    Ok(_) => unsafe { &*new },
                    Err(other) => {
                        // SAFETY: it was made right here, and nobody else has seen it.
                        drop(unsafe { Box::from_raw(new) });
                        // SAFETY: as above, by another thread.
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
        // In this order: a copy that is made in between finds that the number is no longer the socket's. The other way round it would have the socket.
        // SAFETY: it isn't used afterwards.
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

    /// What `check` says in a copy of this process.
    fn in_a_copy(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: what is checked needs no lock.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(!check());
            // SAFETY: it ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: the status is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        status == 0
    }

    fn is_open(fd: i32) -> bool {
        // SAFETY: no memory is touched.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    fn socket() -> io::Result<OwnedFd> {
        crate::fd_passing::pair().map(|(ours, _)| ours)
    }

    #[test]
    fn a_copy_does_not_have_them_and_may_drop_them() {
        // More than one chunk of places.
        let mut sockets: Vec<_> = (0..200).map(|_| CloseOnFork::make(socket).unwrap()).collect();
        let plain = socket().unwrap();
        let numbers: Vec<i32> = sockets.iter().map(|socket| socket.as_fd().as_raw_fd()).collect();
        assert!(in_a_copy(|| {
            let all_closed = numbers.iter().all(|fd| !is_open(*fd));
            // Numbers that are another's now.
            // SAFETY: no memory is touched.
            let other = unsafe { libc::dup(plain.as_raw_fd()) };
            let is_first = other == *numbers.iter().min().unwrap();
            sockets.clear();
            all_closed && is_first && is_open(other) && is_open(plain.as_raw_fd())
        }));
        assert!(numbers.iter().all(|fd| is_open(*fd)));
    }

    #[test]
    fn in_the_original_they_are_closed_when_dropped_and_the_number_is_another_s() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        drop(CloseOnFork::new(ours).unwrap());
        assert!(crate::poll::wait_for_hangup(&theirs, None).unwrap());
        // Somebody has closed the socket without a word, or it is being dropped, and the number is another's: that stays open in the copy.
        let (place, other) = (take_place(), socket().unwrap());
        place.inode.store(inode(other.as_raw_fd()).unwrap() ^ 1, SeqCst);
        place.fd.store(other.as_raw_fd(), SeqCst);
        assert!(in_a_copy(|| is_open(other.as_raw_fd())));
        place.fd.store(FREE, SeqCst);
    }

    #[test]
    fn only_sockets() {
        let (reader, _) = crate::pipe::pair().unwrap();
        assert_eq!(CloseOnFork::new(reader).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
