//! [`SharedBytes`]: immutable bytes that travel between processes without being copied.
//!
//! A memory file that is sealed against writing (`F_SEAL_WRITE` in fcntl(2)), and a mapping of the
//! range in question. A message carries its descriptor.

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
use crate::create_error::CreateError;

/// The name in errors, and in `/proc/*/fd`.
const NAME: &str = "shared bytes";

/// Bytes that don't change any more, and that any number of processes read at the same time: a
/// gigabyte of them goes to a worker and back without being copied.
///
/// It derefs to `&[u8]`. A clone is another handle of the same bytes, and so is what arrives in
/// another process when the bytes are sent there: as an argument or a result of a process, a field
/// of a [`Run`](crate::Run) value, or inside a message. A [`slice`](SharedBytes::slice) is another
/// handle too, without a copy. It takes one descriptor, and in the receiving process a mapping.
///
/// The kernel guarantees that the bytes don't change (a sealed memory file), so reading them needs
/// no lock and is never torn.
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
/// With the feature `bytes` it converts to a `bytes::Bytes`, with `arrow` to an Arrow `Buffer`;
/// neither is a copy.
#[derive(Clone)]
pub struct SharedBytes {
    inner: Arc<Inner>,
    /// The range of the mapped bytes that this handle stands for.
    range: Range<usize>,
}

struct Inner {
    file: OwnedFd,
    /// Where in the file the mapping begins.
    offset: u64,
    bytes: Sealed,
}

impl SharedBytes {
    /// Copies these bytes to shared memory.
    ///
    /// Numbers are bytes too: `bytemuck::cast_slice(&floats)`; see [`values`](SharedBytes::values)
    /// for the way back.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn copy_from_slice(bytes: &[u8]) -> Result<SharedBytes, CreateError> {
        let mut writer = SharedBytes::writer()?;
        writer.file.write(bytes).map_err(CreateError::of(NAME))?;
        writer.finish()
    }

    /// Reads `reader` to its end.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): the reader's error; no descriptor or no memory is left.
    pub fn from_reader(reader: &mut impl Read) -> Result<SharedBytes, CreateError> {
        let mut writer = SharedBytes::writer()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return writer.finish(),
                Ok(len) => writer.file.write(&buffer[..len]).map_err(CreateError::of(NAME))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CreateError { what: NAME, source: error }),
            }
        }
    }

    /// Creates `len` bytes, which `fill` writes in place. They are zero before.
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
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn with_len(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<SharedBytes, CreateError> {
        if len == 0 {
            fill(&mut []);
            return SharedBytes::copy_from_slice(&[]);
        }
        let file = SharedFile::create(&format!("multiproc-{NAME}"), len as u64).map_err(CreateError::of(NAME))?;
        file.allocate(0, len as u64).map_err(CreateError::of(NAME))?;
        let mapping = Mapping::new(&file, 0, len.next_multiple_of(PAGE)).map_err(CreateError::of(NAME))?;
        // SAFETY: this number of bytes is mapped, and no other code has the file yet.
        fill(unsafe { std::slice::from_raw_parts_mut(mapping.start().as_ptr(), len) });
        drop(mapping);
        file.freeze().map_err(CreateError::of(NAME))?;
        SharedBytes::open(file.into(), 0, len as u64).map_err(CreateError::of(NAME))
    }

    /// Creates a writer for bytes that are written from front to back.
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
    /// [`CreateError`](crate::CreateError): no descriptor is left.
    pub fn writer() -> Result<SharedBytesWriter, CreateError> {
        Ok(SharedBytesWriter {
            file: Growing::create(&format!("multiproc-{NAME}")).map_err(CreateError::of(NAME))?,
            buffer: Vec::new(),
        })
    }

    /// Opens the bytes at this position of the file.
    pub(super) fn open(file: OwnedFd, offset: u64, len: u64) -> io::Result<SharedBytes> {
        let bytes = Sealed::map_part(&file, offset, len)?;
        let range = 0..bytes.len();
        Ok(SharedBytes { inner: Arc::new(Inner { file, offset, bytes }), range })
    }

    /// Returns a range of the bytes, without a copy.
    ///
    /// # Panics
    /// If the range ends before it begins, or is out of bounds.
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

    /// Divides the bytes into this number of slices, which differ in length by at most one byte:
    /// one for each worker. To keep numbers or rows whole, use [`chunks`](SharedBytes::chunks).
    pub fn split(&self, parts: usize) -> Vec<SharedBytes> {
        let edge = |part: usize| (self.len() as u128 * part as u128 / parts.max(1) as u128) as usize;
        (0..parts).map(|part| self.slice(edge(part)..edge(part + 1))).collect()
    }

    /// Divides the bytes into slices of `len` bytes, the last of which may be shorter.
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
        assert!(len > 0, "the length of chunks must not be 0");
        (0..self.len()).step_by(len).map(|begin| self.slice(begin..self.len().min(begin.saturating_add(len)))).collect()
    }

    /// Returns the bytes as values of a type for which any bytes are valid: numbers, for example.
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
    /// [`MemoryError::Length`] if the length is not a whole number of values; `InvalidInput` if
    /// this is a slice that begins at an address that is not aligned for them.
    pub fn values<T: AnyBitPattern>(&self) -> Result<&[T], MemoryError> {
        bytemuck::try_cast_slice(self).map_err(|error| match error {
            bytemuck::PodCastError::TargetAlignmentGreaterAndInputNotAligned => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "the first byte is not aligned for a value");
                MemoryError::Io { what: "view bytes as values", source }
            }
            _ => MemoryError::Length { len: self.len(), size: size_of::<T>() },
        })
    }

    /// Maps all pages now, instead of sixteen at a time as they are accessed, so that reading isn't
    /// interrupted by page faults. In total that takes no less time, and much more if only some of
    /// the pages are going to be read.
    pub fn prefault(&self) {
        self.inner.bytes.populate(self.range.clone());
    }
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

/// The sealed memory file that contains the bytes, and others if this is a slice.
impl AsFd for SharedBytes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}

/// Shows the number of bytes; not the bytes, which may be many.
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

/// Implements comparison with bytes by value, in both directions.
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
                io::ErrorKind::InvalidData => format!("not valid {NAME}: {error}"),
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

/// A writer that collects the bytes of a [`SharedBytes`].
pub struct SharedBytesWriter {
    file: Growing,
    /// Bytes that are not yet written to the file.
    buffer: Vec<u8>,
}

impl SharedBytesWriter {
    /// How many bytes are collected in the buffer before they are written to the file.
    const GATHERED: usize = 16 << 10;

    /// Returns all bytes that were written.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no memory is left.
    pub fn finish(mut self) -> Result<SharedBytes, CreateError> {
        self.flush().map_err(CreateError::of(NAME))?;
        let (file, len) = self.file.seal().map_err(CreateError::of(NAME))?;
        SharedBytes::open(file, 0, len).map_err(CreateError::of(NAME))
    }
}

/// Leaves out the buffered bytes.
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
