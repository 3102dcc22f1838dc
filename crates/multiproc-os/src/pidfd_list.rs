//! Pidfds that a signal handler can find, whatever it has interrupted: a list of atomics that only grows.
//!
//! There is no lock in it, nothing moves and nothing is freed, so a handler may walk over it while any thread, the one that it has interrupted
//! included, is in the middle of a change. A place of the list is a number: of a descriptor, or [`FREE`].
//!
//! A number is only as good as the descriptor behind it. Who closes one takes it off the list first, and looks whether a walk has begun:
//! `interrupt` has the other half of that agreement.

use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::SeqCst};

/// What stands in a place that nobody uses.
const FREE: i32 = -1;

/// Set beside the number once [`Place::mark`] was called.
const MARKED: i32 = 1 << 30;

/// A place of the list.
#[derive(Debug)]
pub(crate) struct Place(AtomicI32);

impl Place {
    /// The descriptor that stands here.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        match self.0.load(SeqCst) {
            FREE => None,
            number => Some(number & !MARKED),
        }
    }

    /// Remembers that something has been done to `fd`, which stands here. False if that is known already, or it is not here any more.
    pub(crate) fn mark(&self, fd: RawFd) -> bool {
        self.0.compare_exchange(fd, fd | MARKED, SeqCst, SeqCst).is_ok()
    }

    /// Whether that was done.
    pub(crate) fn is_marked(&self, fd: RawFd) -> bool {
        self.0.load(SeqCst) == fd | MARKED
    }

    /// Takes `fd` off the list, if it stands here. Another one may, but not of the same number, as long as `fd` is open.
    pub(crate) fn clear(&self, fd: RawFd) {
        for number in [fd, fd | MARKED] {
            let _ = self.0.compare_exchange(number, FREE, SeqCst, SeqCst);
        }
    }
}

/// Places that came into being together: 256 bytes of them.
struct Block {
    places: [Place; 64],
    /// Those that came next.
    next: AtomicPtr<Block>,
}

impl Block {
    const fn new() -> Block {
        Block { places: [const { Place(AtomicI32::new(FREE)) }; 64], next: AtomicPtr::new(null_mut()) }
    }

    fn next(&self) -> Option<&'static Block> {
        // SAFETY: null, or a block that was leaked for this.
        unsafe { self.next.load(SeqCst).as_ref() }
    }

    /// The one after this; makes it if there is none.
    fn next_or_new(&self) -> &'static Block {
        if let Some(next) = self.next() {
            return next;
        }
        let new = Box::into_raw(Box::new(Block::new()));
        match self.next.compare_exchange(null_mut(), new, SeqCst, SeqCst) {
            // SAFETY: it is valid, and from now on never freed.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: nobody else has seen the new one; the other is there for good.
                unsafe {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }
}

/// The process has one list. A copy made by fork(2) has a copy of it, which it should [`forget`].
static FIRST: Block = Block::new();

/// Puts a descriptor on the list.
///
/// Looks at the places one after the other. With a thousand children alive that takes less than a microsecond, and each of them took hundreds.
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

/// All places in use, each with its descriptor. What is put there meanwhile may be among them or not.
pub(crate) fn walk() -> impl Iterator<Item = (&'static Place, RawFd)> {
    std::iter::successors(Some(&FIRST), |block| block.next())
        .flat_map(|block| &block.places)
        .filter_map(|place| Some((place, place.fd()?)))
}

/// Takes everything off the list.
pub(crate) fn forget() {
    for (place, fd) in walk() {
        place.clear(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The list is one for the process, and so is this test. The numbers are those of no descriptor.
    #[test]
    fn what_is_put_is_found_until_it_is_cleared() {
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

        // Marks are taken once, and go with the number.
        let marked = walk().filter(|(place, fd)| even.contains(fd) && place.mark(*fd)).count();
        assert_eq!(marked, even.len());
        assert!(walk().filter(|(_, fd)| even.contains(fd)).all(|(place, fd)| place.is_marked(fd)));
        assert!(!walk().any(|(place, fd)| even.contains(&fd) && place.mark(fd)));
        assert_eq!(listed(), even);

        // A place has a new user: the one before can't take that off.
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
