//! Lets descriptors travel with a value, past a serializer that knows nothing of them: each thread
//! has an fd table that is open while a value is encoded or decoded. The bytes contain only an
//! index into it.
//!
//! Encoding inserts a duplicate of the descriptor of each handle that it meets, so the handle
//! itself may be dropped meanwhile. Decoding takes each descriptor out once. When a table is
//! closed, the descriptors left in it are closed too. If no table is open, the serializer is not
//! this library's, and a handle is an error.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};

use multiproc_os::errno::{EMFILE, ENFILE};

thread_local! {
    static TABLE: Cell<FdTable> = const { Cell::new(FdTable { mode: Mode::None, used: false }) };
    /// Empty unless the table is used. Never dropped by itself, so that a destructor of another
    /// thread-local value may still start a process.
    static CONTENT: RefCell<ManuallyDrop<Content>> = const { RefCell::new(ManuallyDrop::new(Content::none())) };
}

/// The state of a table without its content, which is nearly always empty.
#[derive(Clone, Copy)]
struct FdTable {
    mode: Mode,
    used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No value is being encoded or decoded.
    None,
    /// A value is being encoded.
    Encoding,
    /// A value is being decoded.
    Decoding { again: bool },
    /// A value is being serialised to examine it.
    DryRun,
}

struct Content {
    fds: Vec<Option<OwnedFd>>,
    /// Why a descriptor could not be duplicated.
    failure: Option<io::Error>,
}

impl Content {
    const fn none() -> Content {
        Content { fds: Vec::new(), failure: None }
    }
}

/// Why a handle can't be inserted or taken out.
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

/// Calls `encode`, and returns the descriptors that it has inserted; or an error, if the process
/// had no descriptors left to duplicate one.
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

/// Calls `decode`, which may take out `fds`. With `again` it may take out the same one repeatedly,
/// as deserializers do that try one type after another; this works as long as the process has
/// descriptors left for duplicates.
#[inline]
pub(crate) fn decoding<R>(fds: Vec<OwnedFd>, again: bool, decode: impl FnOnce() -> R) -> R {
    let fds = if fds.is_empty() { Vec::new() } else { fds.into_iter().map(Some).collect() };
    let _open = Open::new(Mode::Decoding { again }, Content { fds, failure: None });
    decode()
}

/// Calls `dry_run`, which serialises a value to see what it contains, and sends it nowhere.
pub(crate) fn dry_run<R>(dry_run: impl FnOnce() -> R) -> R {
    let _open = Open::new(Mode::DryRun, Content::none());
    dry_run()
}

/// Inserts a duplicate of `fd`, and returns its index.
pub(crate) fn insert(fd: BorrowedFd<'_>) -> Result<u32, FdTableError> {
    insert_with(|| fd.try_clone_to_owned())
}

/// Inserts the descriptor that `make` returns, and returns its index. `make` is called only if the
/// descriptor is needed.
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
            // Any other error is the handle's own fault.
            if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                content.failure.get_or_insert(error);
            }
            Err(FdTableError::Duplicate(text))
        }
    })
}

/// Takes out the descriptor with the index `place`.
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

/// An open table. When this is dropped, which may be by a panic in the user's code, the previous
/// table is open again.
struct Open {
    before: FdTable,
    /// The content of the previous table.
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

    /// Closes the table, and returns its content.
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
    fn outside_a_message() {
        let fd = pipe();
        assert!(matches!(insert(fd.as_fd()), Err(FdTableError::Elsewhere)));
        assert!(matches!(take(0), Err(FdTableError::Elsewhere)));
        let _ = encoding(|| assert!(matches!(take(0), Err(FdTableError::Elsewhere))));
        decoding(vec![pipe()], false, || assert!(matches!(insert(fd.as_fd()), Err(FdTableError::Elsewhere))));
    }

    #[test]
    fn nested() {
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
