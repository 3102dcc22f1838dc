//! How descriptors travel with a value whose serializer knows nothing of them: in a bag, one for each thread, that lies open while a value
//! is encoded or decoded. In the bytes stands only the place in the bag.
//!
//! Encoding duplicates the descriptor of each handle that it comes by, so it does not matter how long the handle lives. Decoding takes each
//! one out once. What is left in a bag when it is closed is closed with it. Where no bag is open, the serializer is somebody else's, and a
//! handle is an error.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};

use multiproc_os::errno::{EMFILE, ENFILE};

thread_local! {
    static TABLE: Cell<FdTable> = const { Cell::new(FdTable { mode: Mode::None, used: false }) };
    /// Empty unless the bag is used. Never dropped by itself, so that a destructor of another thread-local value may still start a process.
    static CONTENT: RefCell<ManuallyDrop<Content>> = const { RefCell::new(ManuallyDrop::new(Content::none())) };
}

/// A bag, apart from what is in it: nearly always nothing.
#[derive(Clone, Copy)]
struct FdTable {
    mode: Mode,
    used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No value is on its way.
    None,
    /// A value is being encoded.
    Encoding,
    /// A value is being decoded.
    Decoding { again: bool },
    /// A value is being looked at.
    DryRun,
}

struct Content {
    fds: Vec<Option<OwnedFd>>,
    /// Why one could not be put in.
    failure: Option<io::Error>,
}

impl Content {
    const fn none() -> Content {
        Content { fds: Vec::new(), failure: None }
    }
}

/// Why a handle can't be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FdTableError {
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
#[inline]
pub(crate) fn encoding<R>(encode: impl FnOnce() -> R) -> (R, io::Result<Vec<OwnedFd>>) {
    let open = Open::new(Mode::Encoding, Content::none());
    let result = encode();
    match open.close() {
        None => (result, Ok(Vec::new())),
        Some(Content { failure: Some(failure), .. }) => (result, Err(failure)),
        Some(content) => (result, Ok(content.fds.into_iter().flatten().collect())),
    }
}

/// Calls `decode`, which may take out `fds`. With `again` it may come back for one that it has taken, as deserializers do that try one thing
/// after another; as far as there are descriptors left for that.
#[inline]
pub(crate) fn decoding<R>(fds: Vec<OwnedFd>, again: bool, decode: impl FnOnce() -> R) -> R {
    let fds = if fds.is_empty() { Vec::new() } else { fds.into_iter().map(Some).collect() };
    let _open = Open::new(Mode::Decoding { again }, Content { fds, failure: None });
    decode()
}

/// Calls `dry_run`, which serialises a value to see what is in it, and sends it nowhere.
pub(crate) fn dry_run<R>(dry_run: impl FnOnce() -> R) -> R {
    let _open = Open::new(Mode::DryRun, Content::none());
    dry_run()
}

/// Puts in a duplicate of `fd`, and gives its place.
pub(crate) fn insert(fd: BorrowedFd<'_>) -> Result<u32, FdTableError> {
    insert_with(|| fd.try_clone_to_owned())
}

/// Puts in what `make` gives, which is called only if it is needed, and gives its place.
pub(crate) fn insert_with(make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<u32, FdTableError> {
    match TABLE.get().mode {
        Mode::Encoding => {}
        Mode::DryRun => return Ok(0),
        Mode::None | Mode::Decoding { .. } => return Err(FdTableError::Elsewhere),
    }
    let made = make();
    TABLE.set(FdTable { mode: Mode::Encoding, used: true });
    CONTENT.with_borrow_mut(|content| match made {
        Ok(made) => {
            content.fds.push(Some(made));
            Ok(content.fds.len() as u32 - 1)
        }
        Err(error) => {
            let text = error.to_string();
            // Anything else is the handle's own fault.
            if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                content.failure.get_or_insert(error);
            }
            Err(FdTableError::Duplicate(text))
        }
    })
}

/// Takes out what is at `place`.
pub(crate) fn take(place: u32) -> Result<OwnedFd, FdTableError> {
    let Mode::Decoding { again } = TABLE.get().mode else { return Err(FdTableError::Elsewhere) };
    CONTENT.with_borrow_mut(|content| {
        let slot = content.fds.get_mut(place as usize).ok_or(FdTableError::Missing(place))?;
        let fd = slot.take().ok_or(FdTableError::Taken(place))?;
        if again && let Ok(duplicate) = fd.try_clone() {
            *slot = Some(duplicate);
        }
        Ok(fd)
    })
}

/// An open bag; the one that was open before is so again when this is dropped, be it by a panic in an implementation of the user's.
struct Open {
    before: FdTable,
    /// What was in that.
    content: Option<Content>,
    is_open: bool,
}

impl Open {
    #[inline]
    fn new(mode: Mode, content: Content) -> Open {
        let used = !content.fds.is_empty();
        let before = TABLE.replace(FdTable { mode, used });
        let content = if used || before.used { Some(replace(content)) } else { None };
        Open { before, content: content.filter(|_| before.used), is_open: true }
    }

    /// With what is in it.
    #[inline]
    fn close(mut self) -> Option<Content> {
        self.end()
    }

    #[inline]
    fn end(&mut self) -> Option<Content> {
        if !std::mem::take(&mut self.is_open) {
            return None;
        }
        let used = TABLE.replace(self.before).used;
        if used || self.content.is_some() {
            return Some(replace(self.content.take().unwrap_or(Content::none()))).filter(|_| used);
        }
        None
    }
}

#[cold]
fn replace(content: Content) -> Content {
    ManuallyDrop::into_inner(CONTENT.replace(ManuallyDrop::new(content)))
}

impl Drop for Open {
    #[inline]
    fn drop(&mut self) {
        drop(self.end());
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
        decoding(vec![pipe(), pipe()], false, || {
            assert!(take(1).is_ok());
            assert!(matches!(take(1), Err(FdTableError::Taken(1))));
            assert!(matches!(take(2), Err(FdTableError::Missing(2))));
            assert!(matches!(take(u32::MAX), Err(FdTableError::Missing(_))));
        });
        decoding(vec![pipe()], true, || assert!(take(0).is_ok() && take(0).is_ok()));
    }

    #[test]
    fn outside_it_is_an_error() {
        let fd = pipe();
        assert!(matches!(insert(fd.as_fd()), Err(FdTableError::Elsewhere)));
        assert!(matches!(take(0), Err(FdTableError::Elsewhere)));
        let _ = encoding(|| assert!(matches!(take(0), Err(FdTableError::Elsewhere))));
        decoding(vec![pipe()], false, || assert!(matches!(insert(fd.as_fd()), Err(FdTableError::Elsewhere))));
    }

    #[test]
    fn one_inside_another_is_another() {
        let fd = pipe();
        let (_, outer) = encoding(|| {
            insert(fd.as_fd()).unwrap();
            let (_, inner) = encoding(|| assert_eq!(insert(fd.as_fd()).unwrap(), 0));
            assert_eq!(inner.unwrap().len(), 1);
            let panicked = std::panic::catch_unwind(|| encoding(|| panic!("in the user's code")));
            assert!(panicked.is_err());
            assert_eq!(dry_run(|| insert(fd.as_fd())).unwrap(), 0);
            assert_eq!(insert(fd.as_fd()).unwrap(), 1);
        });
        assert_eq!(outer.unwrap().len(), 2);
    }
}
