//! How descriptors travel with a value whose serializer knows nothing of them: in a bag, one for each thread, that lies open while a value
//! is encoded or decoded. In the bytes stands only the place in the bag.
//!
//! Encoding duplicates the descriptor of each handle that it comes by, so it does not matter how long the handle lives. Decoding takes each
//! one out once. What is left in a bag when it is closed is closed with it. Where no bag is open, the serializer is somebody else's, and a
//! handle is an error.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};

use multiproc_os::errno::{EMFILE, ENFILE};

thread_local! {
    /// Never dropped by itself, so that a destructor of another thread-local value may still start a process.
    static BAG: RefCell<ManuallyDrop<Bag>> = const { RefCell::new(ManuallyDrop::new(Bag::None)) };
}

enum Bag {
    /// No value is on its way.
    None,
    /// A value is being encoded.
    Filling { fds: Vec<OwnedFd>, failure: Option<io::Error> },
    /// A value is being decoded.
    Emptying { fds: Vec<Option<OwnedFd>>, again: bool },
    /// A value is being looked at.
    Shut,
}

/// Why a handle can't be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BagError {
    #[error(
        "a handle can only travel to another process of this program, as an argument or a result or inside one; this serializer is \
         not multiproc's"
    )]
    Elsewhere,
    #[error("a handle can't be duplicated: {0}")]
    Duplicate(String),
    #[error("there is no handle number {0}")]
    Missing(u32),
    #[error("handle number {0} has been taken already")]
    Taken(u32),
}

/// Calls `encode`, and gives the descriptors that it has put in; an error if there were none left to duplicate one.
pub(crate) fn fill<R>(encode: impl FnOnce() -> R) -> (R, io::Result<Vec<OwnedFd>>) {
    let mut open = Open::new(Bag::Filling { fds: Vec::new(), failure: None });
    let result = encode();
    match open.close() {
        Bag::Filling { failure: Some(failure), .. } => (result, Err(failure)),
        Bag::Filling { fds, .. } => (result, Ok(fds)),
        _ => unreachable!("whoever opens another bag closes it"),
    }
}

/// Calls `decode`, which may take out `fds`. With `again` it may come back for one that it has taken, as deserializers do that try one thing
/// after another; as far as there are descriptors left for that.
pub(crate) fn empty<R>(fds: Vec<OwnedFd>, again: bool, decode: impl FnOnce() -> R) -> R {
    let _open = Open::new(Bag::Emptying { fds: fds.into_iter().map(Some).collect(), again });
    decode()
}

/// Calls `look`, which serialises a value to see what is in it, and sends it nowhere.
pub(crate) fn look<R>(look: impl FnOnce() -> R) -> R {
    let _open = Open::new(Bag::Shut);
    look()
}

/// Puts in a duplicate of `fd`, and gives its place.
pub(crate) fn put(fd: BorrowedFd<'_>) -> Result<u32, BagError> {
    put_made(|| fd.try_clone_to_owned())
}

/// Puts in what `make` gives, which is called only if it is needed, and gives its place.
pub(crate) fn put_made(make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<u32, BagError> {
    BAG.with_borrow_mut(|bag| match &mut **bag {
        Bag::Filling { fds, failure } => match make() {
            Ok(made) => {
                fds.push(made);
                Ok(fds.len() as u32 - 1)
            }
            Err(error) => {
                let text = error.to_string();
                // Anything else is the handle's own fault.
                if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                    failure.get_or_insert(error);
                }
                Err(BagError::Duplicate(text))
            }
        },
        Bag::Shut => Ok(0),
        Bag::None | Bag::Emptying { .. } => Err(BagError::Elsewhere),
    })
}

/// Takes out what is at `place`.
pub(crate) fn take(place: u32) -> Result<OwnedFd, BagError> {
    BAG.with_borrow_mut(|bag| match &mut **bag {
        Bag::Emptying { fds, again } => {
            let slot = fds.get_mut(place as usize).ok_or(BagError::Missing(place))?;
            let fd = slot.take().ok_or(BagError::Taken(place))?;
            if *again && let Ok(duplicate) = fd.try_clone() {
                *slot = Some(duplicate);
            }
            Ok(fd)
        }
        Bag::None | Bag::Filling { .. } | Bag::Shut => Err(BagError::Elsewhere),
    })
}

/// An open bag; the one that was open before is so again when this is dropped, be it by a panic in an implementation of the user's.
struct Open {
    before: Option<Bag>,
}

impl Open {
    fn new(bag: Bag) -> Open {
        Open { before: Some(replace(bag)) }
    }

    fn close(&mut self) -> Bag {
        replace(self.before.take().expect("it is closed once"))
    }
}

fn replace(bag: Bag) -> Bag {
    ManuallyDrop::into_inner(BAG.replace(ManuallyDrop::new(bag)))
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.before.is_some() {
            drop(self.close());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pipe() -> OwnedFd {
        io::pipe().unwrap().0.into()
    }

    #[test]
    fn each_is_taken_once() {
        empty(vec![pipe(), pipe()], false, || {
            assert!(take(1).is_ok());
            assert!(matches!(take(1), Err(BagError::Taken(1))));
            assert!(matches!(take(2), Err(BagError::Missing(2))));
            assert!(matches!(take(u32::MAX), Err(BagError::Missing(_))));
        });
        empty(vec![pipe()], true, || assert!(take(0).is_ok() && take(0).is_ok()));
    }

    #[test]
    fn outside_it_is_an_error() {
        let fd = pipe();
        assert!(matches!(put(fd.as_fd()), Err(BagError::Elsewhere)));
        assert!(matches!(take(0), Err(BagError::Elsewhere)));
        let _ = fill(|| assert!(matches!(take(0), Err(BagError::Elsewhere))));
        empty(vec![pipe()], false, || assert!(matches!(put(fd.as_fd()), Err(BagError::Elsewhere))));
    }

    #[test]
    fn one_inside_another_is_another() {
        let fd = pipe();
        let (_, outer) = fill(|| {
            put(fd.as_fd()).unwrap();
            let (_, inner) = fill(|| assert_eq!(put(fd.as_fd()).unwrap(), 0));
            assert_eq!(inner.unwrap().len(), 1);
            let panicked = std::panic::catch_unwind(|| fill(|| panic!("in the user's code")));
            assert!(panicked.is_err());
            assert_eq!(look(|| put(fd.as_fd())).unwrap(), 0);
            assert_eq!(put(fd.as_fd()).unwrap(), 1);
        });
        assert_eq!(outer.unwrap().len(), 2);
    }
}
