//! A lock-free list of pidfds that a signal handler can walk whatever it has interrupted: atomics
//! in blocks that are only ever added.
//!
//! There is no lock, no entry moves and no memory is freed, so a handler may walk the list while
//! any thread, including the interrupted one, is in the middle of a change. An entry ([`Place`])
//! holds the number of a descriptor, or [`FREE`].
//!
//! A number is only valid while its descriptor is open. Before a caller closes a descriptor, it
//! takes it off the list and then checks whether a walk has begun; the module `interrupt`
//! implements the other half of this protocol.

use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::SeqCst};

/// The value of an unused entry.
const FREE: i32 = -1;

/// The bit set beside the number after [`Place::mark`].
const MARKED: i32 = 1 << 30;

/// An entry of the list.
#[derive(Debug)]
pub(crate) struct Place(AtomicI32);

impl Place {
    /// The descriptor in this entry.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        match self.0.load(SeqCst) {
            FREE => None,
            number => Some(number & !MARKED),
        }
    }

    /// Records that `fd`, which is in this entry, has been handled. Returns false if it was marked
    /// already, or is no longer in this entry.
    pub(crate) fn mark(&self, fd: RawFd) -> bool {
        self.0.compare_exchange(fd, fd | MARKED, SeqCst, SeqCst).is_ok()
    }

    /// Whether `fd` is in this entry and marked.
    pub(crate) fn is_marked(&self, fd: RawFd) -> bool {
        self.0.load(SeqCst) == fd | MARKED
    }

    /// Takes `fd` off the list if it is in this entry. The entry may hold another descriptor by
    /// now, but none with the same number as long as `fd` is open.
    pub(crate) fn clear(&self, fd: RawFd) {
        for number in [fd, fd | MARKED] {
            let _ = self.0.compare_exchange(number, FREE, SeqCst, SeqCst);
        }
    }
}

/// Entries that were allocated together: 256 bytes.
struct Block {
    places: [Place; 64],
    /// The block that was allocated next.
    next: AtomicPtr<Block>,
}

impl Block {
    const fn new() -> Block {
        Block { places: [const { Place(AtomicI32::new(FREE)) }; 64], next: AtomicPtr::new(null_mut()) }
    }

    fn next(&self) -> Option<&'static Block> {
        // SAFETY: null, or a block that was leaked for this list.
        unsafe { self.next.load(SeqCst).as_ref() }
    }

    /// Returns the next block; allocates it if there is none.
    fn next_or_new(&self) -> &'static Block {
        if let Some(next) = self.next() {
            return next;
        }
        let new = Box::into_raw(Box::new(Block::new()));
        match self.next.compare_exchange(null_mut(), new, SeqCst, SeqCst) {
            // SAFETY: the pointer is valid, and from now on never freed.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: no other thread has seen the new block; the other one is never freed.
                unsafe {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }
}

/// The first block of the process's only list. A fork copy has a copy of the list, which it must
/// [`forget`].
static FIRST: Block = Block::new();

/// Puts a descriptor on the list.
///
/// Searches the entries linearly: with a thousand living children that takes less than a
/// microsecond, while making each of them took hundreds.
pub(crate) fn put(fd: RawFd) -> &'static Place {
    let mut block = &FIRST;
    loop {
        let free =
            |place: &&Place| place.0.load(SeqCst) == FREE && place.0.compare_exchange(FREE, fd, SeqCst, SeqCst).is_ok();
        match block.places.iter().find(free) {
            Some(place) => return place,
            None => block = block.next_or_new(),
        }
    }
}

/// Iterates over the used entries, with their descriptors. Entries added meanwhile may be missed.
pub(crate) fn walk() -> impl Iterator<Item = (&'static Place, RawFd)> {
    std::iter::successors(Some(&FIRST), |block| block.next())
        .flat_map(|block| &block.places)
        .filter_map(|place| Some((place, place.fd()?)))
}

/// Takes all descriptors off the list.
pub(crate) fn forget() {
    for (place, fd) in walk() {
        place.clear(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The process has only one list, so this is its only test. The numbers are not those of open
    /// descriptors.
    #[test]
    fn smoke() {
        const THREADS: i32 = 4;
        const EACH: i32 = 500;
        let number = |thread: i32, index: i32| 1_000_000 + thread * EACH + index;
        let listed = || walk().map(|(_, fd)| fd).filter(|fd| *fd >= 1_000_000).collect::<HashSet<_>>();

        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let places: Vec<_> = (0..EACH).map(|index| put(number(thread, index))).collect();
                    for (index, place) in (0..).zip(&places) {
                        assert_eq!(place.fd(), Some(number(thread, index)), "no other thread has taken its place");
                    }
                    for (index, place) in (0..).zip(&places).filter(|(index, _)| index % 2 == 1) {
                        place.clear(number(thread, index));
                    }
                });
            }
        });
        let even: HashSet<i32> =
            (0..THREADS).flat_map(|thread| (0..EACH).step_by(2).map(move |index| number(thread, index))).collect();
        assert_eq!(listed(), even);

        // A mark can be set once, and goes when the number is cleared.
        let marked = walk().filter(|(place, fd)| even.contains(fd) && place.mark(*fd)).count();
        assert_eq!(marked, even.len());
        assert!(walk().filter(|(_, fd)| even.contains(fd)).all(|(place, fd)| place.is_marked(fd)));
        assert!(!walk().any(|(place, fd)| even.contains(&fd) && place.mark(fd)));
        assert_eq!(listed(), even);

        // An entry that was reused: its previous user can't clear the new descriptor.
        let (place, fd) = walk().find(|(_, fd)| even.contains(fd)).unwrap();
        place.clear(fd);
        let reused = put(2_000_000);
        assert!(std::ptr::eq(place, reused), "the first free place");
        place.clear(fd);
        assert_eq!(reused.fd(), Some(2_000_000));
        assert!(!reused.is_marked(2_000_000));
        assert!(reused.mark(2_000_000));

        forget();
        assert!(listed().is_empty());
    }
}
