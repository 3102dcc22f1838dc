//! [`SharedBytes`]: bytes that nobody can change, which travel without being copied.
//!
//! A memory file that is sealed against writing (`F_SEAL_WRITE` in fcntl(2)), and a mapping of the part in question. What is sent is its descriptor.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::ops::{Bound, Deref, Range, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytemuck::AnyBitPattern;
use multiproc_os::memfd::{Growing, Sealed};
use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::MemoryError;
use crate::error::{Error, Result};

/// What it is called in errors, and in `/proc/*/fd`.
const NAME: &str = "shared bytes";

/// Bytes that nobody changes any more, and that any number of processes read at the same time: a gigabyte of them goes to a worker and back without being copied.
///
/// It derefs to `&[u8]`. A clone is another handle of the same bytes, and so is what arrives where one was sent to: as an argument or a result of a process, a field of
/// a [`Run`](crate::Run) value, or inside a message. A [`slice`](SharedBytes::slice) is one too, without a copy. It costs one descriptor, and what arrives one mapping.
///
/// The kernel sees to it that they can't be changed (a sealed memory file), so what is read is plain memory: no lock, nothing that could be torn.
///
/// ```
/// use multiproc::{Process, SharedBytes};
///
/// fn sum(bytes: SharedBytes) -> u64 {
///     bytes.iter().map(|byte| u64::from(*byte)).sum()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bytes = SharedBytes::from_reader(&mut std::fs::File::open("/proc/version")?)?;
/// let children = bytes.split(2).into_iter().map(|half| Process::new(sum, (half,)).start());
/// let mut total = 0;
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     total += child.join()?;
/// }
/// assert_eq!(total, sum(bytes));
/// # Ok(())
/// # }
/// ```
///
/// With the feature `bytes` it turns into a `bytes::Bytes`, with `arrow` into an Arrow `Buffer`; neither is a copy.
#[derive(Clone)]
pub struct SharedBytes {
    inner: Arc<Inner>,
    /// Which of the bytes that are mapped.
    range: Range<usize>,
}

struct Inner {
    file: OwnedFd,
    /// Where in the file what is mapped begins.
    offset: u64,
    bytes: Sealed,
}

impl SharedBytes {
    /// A copy of these.
    ///
    /// Numbers are bytes too: `bytemuck::cast_slice(&floats)`; see [`values`](SharedBytes::values) for the way back.
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor or no memory is left.
    pub fn copy_from_slice(bytes: &[u8]) -> Result<SharedBytes> {
        let mut writer = SharedBytes::writer()?;
        writer.file.write(bytes).map_err(not_made)?;
        writer.finish()
    }

    /// All that `reader` gives, to its end.
    ///
    /// # Errors
    /// [`Error::Make`]: what the reader says; no descriptor or no memory is left.
    pub fn from_reader(reader: &mut impl Read) -> Result<SharedBytes> {
        let mut writer = SharedBytes::writer()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return writer.finish(),
                Ok(len) => writer.file.write(&buffer[..len]).map_err(not_made)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(not_made(error)),
            }
        }
    }

    /// `len` bytes, which `fill` writes where they are to be. They are zero before.
    ///
    /// ```
    /// use multiproc::SharedBytes;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let bytes = SharedBytes::with_len(1 << 20, |bytes| bytes[..3].copy_from_slice(b"abc"))?;
    /// assert_eq!(bytes[..4], *b"abc\0");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor or no memory is left.
    pub fn with_len(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<SharedBytes> {
        if len == 0 {
            fill(&mut []);
            return SharedBytes::copy_from_slice(&[]);
        }
        let file = SharedFile::create(&format!("multiproc-{NAME}"), len as u64).map_err(not_made)?;
        file.allocate(0, len as u64).map_err(not_made)?;
        let mapping = Mapping::new(&file, 0, len.next_multiple_of(PAGE)).map_err(not_made)?;
        // SAFETY: so many bytes are mapped, and nobody else has the file yet.
        fill(unsafe { std::slice::from_raw_parts_mut(mapping.start().as_ptr(), len) });
        drop(mapping);
        file.freeze().map_err(not_made)?;
        SharedBytes::open(file.into(), 0, len as u64).map_err(not_made)
    }

    /// Where they can be written to, from front to back.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// use multiproc::SharedBytes;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut writer = SharedBytes::writer()?;
    /// for number in 0..10 {
    ///     writeln!(writer, "{number}")?;
    /// }
    /// assert_eq!(writer.finish()?.len(), 20);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor is left.
    pub fn writer() -> Result<SharedBytesWriter> {
        Ok(SharedBytesWriter {
            file: Growing::create(&format!("multiproc-{NAME}")).map_err(not_made)?,
            buffer: Vec::new(),
        })
    }

    /// Those that lie in this file.
    pub(super) fn open(file: OwnedFd, offset: u64, len: u64) -> io::Result<SharedBytes> {
        let bytes = Sealed::map_part(&file, offset, len)?;
        let range = 0..bytes.len();
        Ok(SharedBytes { inner: Arc::new(Inner { file, offset, bytes }), range })
    }

    /// Some of them, without a copy.
    ///
    /// # Panics
    /// If the range ends before it begins, or behind the end.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> SharedBytes {
        let begin = match range.start_bound() {
            Bound::Included(begin) => *begin,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        assert!(begin <= end && end <= self.len(), "{begin}..{end} is not within 0..{}", self.len());
        SharedBytes { inner: self.inner.clone(), range: self.range.start + begin..self.range.start + end }
    }

    /// As so many slices, which differ in length by one byte at most: for so many workers. Where numbers or rows are to stay whole, see [`chunks`](SharedBytes::chunks).
    pub fn split(&self, parts: usize) -> Vec<SharedBytes> {
        let edge = |part: usize| (self.len() as u128 * part as u128 / parts.max(1) as u128) as usize;
        (0..parts).map(|part| self.slice(edge(part)..edge(part + 1))).collect()
    }

    /// As slices of `len` bytes, the last of which may be shorter.
    ///
    /// ```
    /// use multiproc::SharedBytes;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let numbers: Vec<f64> = (0..1000).map(f64::from).collect();
    /// let bytes = SharedBytes::copy_from_slice(bytemuck::cast_slice(&numbers))?;
    /// // For three workers: whole numbers.
    /// let parts = bytes.chunks(numbers.len().div_ceil(3) * size_of::<f64>());
    /// assert_eq!(parts[1].values::<f64>()?, &numbers[334..668]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn chunks(&self, len: usize) -> Vec<SharedBytes> {
        assert!(len > 0, "chunks of no bytes");
        (0..self.len()).step_by(len).map(|begin| self.slice(begin..self.len().min(begin.saturating_add(len)))).collect()
    }

    /// As values of a type for which any bytes will do: numbers, say.
    ///
    /// ```
    /// use multiproc::SharedBytes;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bytes = SharedBytes::copy_from_slice(bytemuck::cast_slice(&[1.5_f64, 2.5]))?;
    /// assert_eq!(bytes.values::<f64>()?, [1.5, 2.5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Length`] if that is no whole number of values; `InvalidInput` if this is a slice that begins where no such value can.
    pub fn values<T: AnyBitPattern>(&self) -> Result<&[T], MemoryError> {
        bytemuck::try_cast_slice(self).map_err(|error| match error {
            bytemuck::PodCastError::TargetAlignmentGreaterAndInputNotAligned => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "they aren't aligned for them");
                MemoryError::Io { what: "look at bytes as other values", source }
            }
            _ => MemoryError::Length { len: self.len(), size: size_of::<T>() },
        })
    }

    /// Maps all of its pages now, and not when they are touched, sixteen at a time: who reads them then is not interrupted. All in all that takes no less, and much more
    /// if only some of them are going to be read.
    pub fn prefault(&self) {
        self.inner.bytes.populate(self.range.clone());
    }
}

fn not_made(source: io::Error) -> Error {
    Error::Make { what: NAME, source }
}

impl Deref for SharedBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.inner.bytes[self.range.clone()]
    }
}

impl AsRef<[u8]> for SharedBytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for SharedBytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

/// The sealed memory file that they lie in, with others if this is a slice.
impl AsFd for SharedBytes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}

/// How many they are; not which, as they may be many.
impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &SharedBytes) -> bool {
        **self == **other
    }
}

impl Eq for SharedBytes {}

impl<B: AsRef<[u8]> + ?Sized> PartialEq<&B> for SharedBytes {
    fn eq(&self, other: &&B) -> bool {
        **self == *other.as_ref()
    }
}

/// With bytes by value, and the other way round.
macro_rules! compare {
    ($($type:ty $(, $len:ident)?;)*) => {
        $(
            impl$(<const $len: usize>)? PartialEq<$type> for SharedBytes {
                fn eq(&self, other: &$type) -> bool {
                    **self == other[..]
                }
            }

            impl$(<const $len: usize>)? PartialEq<SharedBytes> for $type {
                fn eq(&self, other: &SharedBytes) -> bool {
                    self[..] == **other
                }
            }
        )*
    };
}

compare! {
    [u8];
    Vec<u8>;
    [u8; N], N;
}

impl PartialEq<SharedBytes> for &[u8] {
    fn eq(&self, other: &SharedBytes) -> bool {
        **self == **other
    }
}

impl PartialOrd for SharedBytes {
    fn partial_cmp(&self, other: &SharedBytes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SharedBytes {
    fn cmp(&self, other: &SharedBytes) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for SharedBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[derive(Serialize)]
#[serde(rename = "SharedBytes")]
struct Outgoing<'a> {
    #[serde(with = "crate::handle")]
    file: BorrowedFd<'a>,
    offset: u64,
    len: u64,
}

#[derive(Deserialize)]
#[serde(rename = "SharedBytes")]
struct Incoming {
    #[serde(with = "crate::handle")]
    file: OwnedFd,
    offset: u64,
    len: u64,
}

impl Serialize for SharedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let offset = self.inner.offset + self.range.start as u64;
        Outgoing { file: self.inner.file.as_fd(), offset, len: self.len() as u64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedBytes, D::Error> {
        let Incoming { file, offset, len } = Incoming::deserialize(deserializer)?;
        SharedBytes::open(file, offset, len).map_err(|error| {
            serde::de::Error::custom(match error.kind() {
                io::ErrorKind::InvalidData => format!("these are no {NAME}: {error}"),
                _ => error.to_string(),
            })
        })
    }
}

#[cfg(feature = "bytes")]
impl From<SharedBytes> for bytes::Bytes {
    fn from(bytes: SharedBytes) -> bytes::Bytes {
        bytes::Bytes::from_owner(bytes)
    }
}

#[cfg(feature = "arrow")]
impl From<SharedBytes> for arrow_buffer::Buffer {
    fn from(bytes: SharedBytes) -> arrow_buffer::Buffer {
        arrow_buffer::Buffer::from(bytes::Bytes::from(bytes))
    }
}

/// What is written to it becomes [`SharedBytes`].
pub struct SharedBytesWriter {
    file: Growing,
    /// A few bytes that wait to be more.
    buffer: Vec<u8>,
}

impl SharedBytesWriter {
    /// As many bytes as are gathered before they are written.
    const GATHERED: usize = 16 << 10;

    /// All that was written.
    ///
    /// # Errors
    /// [`Error::Make`]: no memory is left.
    pub fn finish(mut self) -> Result<SharedBytes> {
        self.flush().map_err(not_made)?;
        let (file, len) = self.file.seal().map_err(not_made)?;
        SharedBytes::open(file, 0, len).map_err(not_made)
    }
}

/// Without the bytes that it has gathered.
impl fmt::Debug for SharedBytesWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytesWriter").finish_non_exhaustive()
    }
}

impl Write for SharedBytesWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > SharedBytesWriter::GATHERED {
            self.flush()?;
        }
        match bytes.len() {
            0..SharedBytesWriter::GATHERED => self.buffer.extend_from_slice(bytes),
            _ => self.file.write(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
