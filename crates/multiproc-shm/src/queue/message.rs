//! [`Message`]: what was taken from a queue, bytes and descriptors.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use multiproc_os::shared_memory::Mapping;

use crate::memory::scratch::Scratch;
use crate::message::fd_bundle::FdBundle;
use crate::queue::block::Block;
use crate::queue::error::Error;
use crate::queue::item::Taken;
use crate::queue::store::Store;

/// A message that was taken from a queue. It derefs to its bytes.
///
/// The bytes of a large message stay in the queue's own memory, at an address that is a multiple of
/// 4,096, until the message is dropped; the drop may wait some milliseconds for a process that is
/// stopped in the middle of giving back memory. The queue's other users don't see what is written
/// to them: [`bytes_mut`](Message::bytes_mut) maps them privately (`MAP_PRIVATE`, mmap(2)), and
/// only the pages that are written are copied.
///
/// ```
/// use multiproc_shm::queue::Queue;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// let queue = Queue::new()?;
/// queue.put(&[&[7; 100_000]], &[], Deadline::Never)?;
/// let mut message = queue.get(Deadline::Never)?;
/// assert_eq!(message.len(), 100_000);
/// message.bytes_mut()?[99_999] = 8;
/// assert_eq!(message[99_998..], [7, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Message {
    content: Content,
    // What most messages lack is in boxes, so that a message is cheap to move.
    fds: Option<Box<FdBundle>>,
    is_raw: bool,
}

enum Content {
    Small(Box<[u8]>),
    Large(Box<Large>),
}

struct Large {
    /// A private mapping of the block, and the block's offset in it. Pages of it that were not
    /// written are the block's, so it must be gone before the block.
    private: Option<(Mapping, usize)>,
    block: Block<Arc<Store>>,
}

impl Large {
    fn bytes(&self) -> &[u8] {
        match &self.private {
            // It was mapped when it was taken, and stays mapped.
            None => self.block.bytes().unwrap_or_default(),
            // SAFETY: the mapping is at least this long, and only its message writes to it.
            Some((mapping, at)) => unsafe {
                std::slice::from_raw_parts(mapping.start().as_ptr().add(*at), self.block.len() as usize)
            },
        }
    }

    fn bytes_mut(&mut self) -> io::Result<&mut [u8]> {
        let (mapping, at) = match &mut self.private {
            Some(private) => private,
            none => none.insert(self.block.copy_on_write()?),
        };
        // SAFETY: the mapping is at least this long, only this message has it, and it is borrowed
        // mutably. No process writes to the block while it is this process's.
        Ok(unsafe { std::slice::from_raw_parts_mut(mapping.start().as_ptr().add(*at), self.block.len() as usize) })
    }
}

impl Message {
    /// The message of an item that was taken, with its bytes in `scratch` if it is small.
    #[doc(hidden)]
    #[inline]
    pub fn of(taken: Taken, scratch: &Scratch, store: &Arc<Store>) -> Result<Message, Error> {
        match taken.is_small() {
            true => Ok(Message { content: Content::Small(scratch.bytes().into()), fds: None, is_raw: taken.raw }),
            false => Message::of_large(taken, scratch, store),
        }
    }

    /// The message of an item with a block, a lease or descriptors.
    #[inline(never)]
    fn of_large(taken: Taken, scratch: &Scratch, store: &Arc<Store>) -> Result<Message, Error> {
        let content = match taken.block(|| store.clone()) {
            Some(block) => {
                // Mapped now, so that later calls can't fail.
                block.bytes().map_err(Error::mapping)?;
                Content::Large(Box::new(Large { private: None, block }))
            }
            None => Content::Small(scratch.bytes().into()),
        };
        let fds = match taken.handles {
            0 => None,
            handles => {
                let bundle = FdBundle::received(taken.fds, handles);
                Some(Box::new(bundle.ok_or(Error::Corrupt("the descriptors of an item"))?))
            }
        };
        Ok(Message { content, fds, is_raw: taken.raw })
    }

    /// Whether the message was put as plain bytes, not as a value in the encoding of a front that
    /// puts values.
    pub fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Returns the bytes for writing. Only this message has what is written there. The first call
    /// for a large message maps it anew, so that its address changes.
    ///
    /// # Errors
    /// `ENOMEM`: the process has too many mappings.
    pub fn bytes_mut(&mut self) -> io::Result<&mut [u8]> {
        match &mut self.content {
            Content::Small(bytes) => Ok(bytes),
            Content::Large(large) => large.bytes_mut(),
        }
    }

    /// Takes the descriptors out of the message, in the order in which they were put. Each has a
    /// number above 2. A later call returns none.
    ///
    /// # Errors
    /// Only for more than 16 descriptors: `EMFILE`; `InvalidData` if a process has written garbage.
    /// The descriptors are closed then.
    pub fn take_fds(&mut self) -> io::Result<Vec<OwnedFd>> {
        self.fds.take().map_or_else(|| Ok(Vec::new()), |fds| fds.unpack())
    }

    /// Returns the number of descriptors.
    pub fn fd_count(&self) -> usize {
        self.fds.as_ref().map_or(0, |fds| fds.count() as usize)
    }

    /// Returns the bytes as a `Vec`. Those of a large message are copied.
    pub fn into_vec(self) -> Vec<u8> {
        match self.content {
            Content::Small(bytes) => bytes.into(),
            _ => self.to_vec(),
        }
    }
}

impl Deref for Message {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.content {
            Content::Small(bytes) => bytes,
            Content::Large(large) => large.bytes(),
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fd_count() {
            0 => write!(f, "Message({} bytes)", self.len()),
            fds => write!(f, "Message({} bytes, {fds} descriptors)", self.len()),
        }
    }
}

impl PartialEq<[u8]> for Message {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}
