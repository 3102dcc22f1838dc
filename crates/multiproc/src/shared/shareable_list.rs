//! [`ShareableList`]: small values of mixed kinds, which several processes read and change in
//! place.
//!
//! The values are the cells of a [`SlotTable`], which describes how they are read and written, and
//! what a process leaves behind that dies while it writes. This module defines what the bytes in a
//! cell mean. See `PROTOCOL.md`, "ShareableList".

use std::fmt;
use std::iter::FusedIterator;
use std::num::TryFromIntError;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use multiproc_shm::slot_table::{Content, OwnedContent, SlotError, SlotTable};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::create_error::CreateError;
use crate::handle;

/// A value in a [`ShareableList`].
///
/// Its kind follows from the Rust value that it was made of, and is kept: an integer is never read
/// as a float, nor a float as an integer.
///
/// ```
/// use multiproc::shared_memory::ShareableItem;
///
/// let item = ShareableItem::from("howdy");
/// assert_eq!((item.as_str(), item.as_int()), (Some("howdy"), None));
/// assert_eq!(ShareableItem::from(7_u8), ShareableItem::Int(7));
/// assert_ne!(ShareableItem::from(7), ShareableItem::from(7.0));
/// assert_eq!(ShareableItem::from(None::<f64>), ShareableItem::None);
/// // Not every usize is an i64.
/// assert_eq!(ShareableItem::try_from(vec![1, 2].len())?.to_string(), "2");
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShareableItem {
    /// No value.
    None,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// The kinds of values, which are stored beside the bytes in memory. A cell that is all zero is
/// `None`.
mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const BOOL: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const FLOAT: u8 = 3;
    pub(super) const STR: u8 = 4;
    pub(super) const BYTES: u8 = 5;
}

impl ShareableItem {
    /// Returns whether there is no value.
    pub fn is_none(&self) -> bool {
        matches!(self, ShareableItem::None)
    }

    /// Returns the truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            ShareableItem::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            ShareableItem::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the floating-point number, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            ShareableItem::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            ShareableItem::Str(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the bytes, if it is bytes. Text is not.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            ShareableItem::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The form in memory; `number` provides the space for the bytes of a number.
    fn content<'a>(&'a self, number: &'a mut [u8; 8]) -> Content<'a> {
        let (kind, bytes) = match self {
            ShareableItem::None => (kind::NONE, &[][..]),
            ShareableItem::Bool(value) => {
                number[0] = u8::from(*value);
                (kind::BOOL, &number[..1])
            }
            ShareableItem::Int(value) => {
                *number = value.to_ne_bytes();
                (kind::INT, &number[..])
            }
            ShareableItem::Float(value) => {
                *number = value.to_ne_bytes();
                (kind::FLOAT, &number[..])
            }
            ShareableItem::Str(value) => (kind::STR, value.as_bytes()),
            ShareableItem::Bytes(value) => (kind::BYTES, &value[..]),
        };
        Content { kind, bytes }
    }

    /// The value of a cell. Anything that this module wouldn't write is returned as bytes.
    fn of(found: OwnedContent) -> ShareableItem {
        let eight = <[u8; 8]>::try_from(found.bytes());
        match (found.kind, found.bytes(), eight) {
            (kind::NONE, [], _) => ShareableItem::None,
            (kind::BOOL, [value @ (0 | 1)], _) => ShareableItem::Bool(*value == 1),
            (kind::INT, _, Ok(bytes)) => ShareableItem::Int(i64::from_ne_bytes(bytes)),
            (kind::FLOAT, _, Ok(bytes)) => ShareableItem::Float(f64::from_ne_bytes(bytes)),
            (kind::STR, ..) => match String::from_utf8(found.into_bytes()) {
                Ok(text) => ShareableItem::Str(text),
                Err(error) => ShareableItem::Bytes(error.into_bytes()),
            },
            _ => ShareableItem::Bytes(found.into_bytes()),
        }
    }
}

/// Writes the value alone; no value is written as `None`, and unprintable bytes with the escapes of
/// Rust.
impl fmt::Display for ShareableItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareableItem::None => f.pad("None"),
            ShareableItem::Bool(value) => fmt::Display::fmt(value, f),
            ShareableItem::Int(value) => fmt::Display::fmt(value, f),
            ShareableItem::Float(value) => fmt::Display::fmt(value, f),
            ShareableItem::Str(value) => fmt::Display::fmt(value, f),
            ShareableItem::Bytes(value) => f.pad(&value.escape_ascii().to_string()),
        }
    }
}

macro_rules! from {
    ($variant:ident: $($type:ty),*) => {
        $(impl From<$type> for ShareableItem {
            fn from(value: $type) -> ShareableItem {
                ShareableItem::$variant(value.into())
            }
        })*
    };
}

from!(Bool: bool);
from!(Int: i8, i16, i32, i64, u8, u16, u32);
from!(Float: f32, f64);
from!(Str: &str, String);
from!(Bytes: &[u8], Vec<u8>);

impl<const N: usize> From<[u8; N]> for ShareableItem {
    fn from(value: [u8; N]) -> ShareableItem {
        ShareableItem::Bytes(value.into())
    }
}

/// Allows `b"bytes"` as an item.
impl<const N: usize> From<&[u8; N]> for ShareableItem {
    fn from(value: &[u8; N]) -> ShareableItem {
        ShareableItem::Bytes(value.into())
    }
}

impl From<()> for ShareableItem {
    fn from((): ()) -> ShareableItem {
        ShareableItem::None
    }
}

impl<T: Into<ShareableItem>> From<Option<T>> for ShareableItem {
    fn from(value: Option<T>) -> ShareableItem {
        value.map_or(ShareableItem::None, Into::into)
    }
}

impl From<&ShareableItem> for ShareableItem {
    fn from(value: &ShareableItem) -> ShareableItem {
        value.clone()
    }
}

/// Fails if the number is out of the range of `i64`.
impl TryFrom<u64> for ShareableItem {
    type Error = TryFromIntError;

    fn try_from(value: u64) -> std::result::Result<ShareableItem, TryFromIntError> {
        value.try_into().map(ShareableItem::Int)
    }
}

/// Fails if the number is out of the range of `i64`.
impl TryFrom<usize> for ShareableItem {
    type Error = TryFromIntError;

    fn try_from(value: usize) -> std::result::Result<ShareableItem, TryFromIntError> {
        value.try_into().map(ShareableItem::Int)
    }
}

/// Why an item of a [`ShareableList`] can't be read or changed.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareableListError {
    /// The index is out of bounds.
    #[error("there is no item {index} in a list of {len} items")]
    IndexOutOfRange {
        /// The index of the item.
        index: usize,
        /// The number of items.
        len: usize,
    },
    /// The text or the bytes are longer than the room of this item.
    #[error("{len} bytes don't fit into item {index}, which has room for {room}")]
    TooLong {
        /// The index of the item.
        index: usize,
        /// How many bytes the value has.
        len: usize,
        /// How many bytes the item has room for.
        room: usize,
    },
    /// Another program has written garbage to the list's memory.
    #[error("the memory of item {index} is corrupt")]
    Corrupt {
        /// The index of the item.
        index: usize,
    },
}

/// A list of small values of mixed kinds, with a fixed length, which several processes read and
/// change in place: Python's `multiprocessing.shared_memory.ShareableList`.
///
/// The items are numbers, truth values, texts, bytes, or `None`: [`ShareableItem`]. Any item may be
/// replaced by one of another kind. The room that an item has for text or bytes is fixed when the
/// list is created: see [`new`](ShareableList::new) and [`with_room`](ShareableList::with_room).
///
/// It can be sent to other processes as a [`Lock`](crate::sync::Lock) can: as an argument, a
/// result, through a queue, or nested in any of these; it takes one descriptor. A clone is another
/// handle of the same list. The list ends with its last handle, in whichever process: there is
/// nothing to unlink.
///
/// *An item is never torn*: a reader gets a complete value that some process has written. A process
/// that is killed while it writes leaves the old value or the new one, and blocks no other; so
/// there is no poison. Writers take turns, each for as long as it takes to copy its value. Readers
/// don't wait for them, unless writes come without a pause.
///
/// ```
/// use multiproc::shared_memory::{ShareableItem, ShareableList};
/// use multiproc::{Process, shareable_list};
///
/// fn work(list: ShareableList) -> multiproc::Result<()> {
///     list.set(0, "hello")?;
///     list.set(2, -273.25)?;
///     list.set(4, ())?;
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = shareable_list!["howdy", b"HoWdY", 100, true, 42]?;
/// Process::new(work, (list.clone(),)).start()?.join()??;
///
/// assert_eq!(list.get(0)?, Some("hello".into()));
/// assert_eq!(list.get(4)?, Some(ShareableItem::None));
/// assert_eq!(list.get(5)?, None);
/// assert_eq!(list.to_vec(), ["hello".into(), b"HoWdY".into(), (-273.25).into(), true.into(), ().into()]);
/// let error = list.set(0, "longer than eight bytes").unwrap_err();
/// assert_eq!(error.to_string(), "23 bytes don't fit into item 0, which has room for 8");
/// # Ok(())
/// # }
/// ```
///
/// [`shareable_list!`](crate::shareable_list) makes a list of items of several types,
/// [`new`](ShareableList::new) one of any number of items of one type, or of [`ShareableItem`]s.
#[derive(Clone)]
pub struct ShareableList {
    inner: Arc<SlotTable>,
}

impl ShareableList {
    /// Creates a list of these items.
    ///
    /// Each item has room for as many bytes as its first value has, rounded up to a multiple of
    /// eight, and for at least eight. So a number can replace any value, and nothing longer than
    /// the room will ever fit. All memory is allocated at creation: twice the room of each item,
    /// and 32 bytes.
    ///
    /// ```
    /// use multiproc::shared_memory::ShareableList;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let list = ShareableList::new(["", "twelve bytes"])?;
    /// assert_eq!((list.room(0), list.room(1), list.room(2)), (Some(8), Some(16), None));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left, or the list would
    /// take more than 128 MiB.
    pub fn new(items: impl IntoIterator<Item = impl Into<ShareableItem>>) -> Result<ShareableList, CreateError> {
        ShareableList::with_room(items, 8)
    }

    /// Creates a list as [`new`](ShareableList::new) does, with room for at least `bytes` bytes in
    /// each item, regardless of its first value; rounded up to a multiple of eight.
    ///
    /// ```
    /// use multiproc::shared_memory::ShareableList;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let names = ShareableList::with_room([(); 10], 100)?;
    /// assert_eq!(names.room(3), Some(104));
    /// names.set(3, "Grace Brewster Murray Hopper")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`new`](ShareableList::new).
    pub fn with_room(
        items: impl IntoIterator<Item = impl Into<ShareableItem>>,
        bytes: usize,
    ) -> Result<ShareableList, CreateError> {
        let items: Vec<ShareableItem> = items.into_iter().map(Into::into).collect();
        let mut numbers = vec![[0; 8]; items.len()];
        let contents = items.iter().zip(&mut numbers).map(|(item, number)| (item.content(number), bytes.max(8)));
        let contents: Vec<_> = contents.collect();
        let slot_table = SlotTable::create(contents.iter().copied());
        let slot_table = slot_table.map_err(CreateError::of("shareable list"))?;
        Ok(ShareableList { inner: Arc::new(slot_table) })
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Returns whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes the item has room for; `None` if the index is out of bounds.
    pub fn room(&self, index: usize) -> Option<usize> {
        self.inner.room(index)
    }

    /// Returns the item; `None` if the index is out of bounds.
    ///
    /// An item of a kind that this version doesn't know, or with bytes that are not of its kind, is
    /// returned as [`Bytes`](ShareableItem::Bytes).
    ///
    /// # Errors
    /// [`ShareableListError::Corrupt`] if another program has overwritten the place of the item in
    /// the list's memory.
    pub fn get(&self, index: usize) -> Result<Option<ShareableItem>, ShareableListError> {
        match self.inner.read(index) {
            Ok(found) => Ok(Some(ShareableItem::of(found))),
            Err(SlotError::NoSlot) => Ok(None),
            Err(_) => Err(ShareableListError::Corrupt { index }),
        }
    }

    /// Replaces the item.
    ///
    /// # Errors
    /// The index is out of bounds, or the item doesn't have enough room. Nothing has changed then.
    pub fn set(&self, index: usize, value: impl Into<ShareableItem>) -> Result<(), ShareableListError> {
        let (value, mut number) = (value.into(), [0; 8]);
        let content = value.content(&mut number);
        self.inner.write(index, content).map_err(|error| self.error(index, content, error))
    }

    /// Replaces the item, and returns the previous one. No other call returns the same one.
    ///
    /// ```
    /// use multiproc::shared_memory::ShareableList;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let list = ShareableList::new(["todo"])?;
    /// assert_eq!(list.replace(0, ())?.as_str(), Some("todo"));
    /// assert!(list.replace(0, ())?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`set`](ShareableList::set).
    pub fn replace(&self, index: usize, value: impl Into<ShareableItem>) -> Result<ShareableItem, ShareableListError> {
        let (value, mut number) = (value.into(), [0; 8]);
        let content = value.content(&mut number);
        let found = self.inner.replace(index, content).map_err(|error| self.error(index, content, error))?;
        Ok(ShareableItem::of(found))
    }

    /// Replaces the item if it is `current`. Otherwise returns the actual item, as an error inside
    /// the `Ok`.
    ///
    /// The comparison is by kind and bytes, as for the atomic types of the standard library: a NaN
    /// is equal to itself, and `0.0` isn't equal to `-0.0`.
    ///
    /// ```
    /// use multiproc::shared_memory::{ShareableItem, ShareableList};
    ///
    /// fn add_one(list: &ShareableList, index: usize) -> multiproc::Result<()> {
    ///     let mut found = list.get(index)?.unwrap_or(ShareableItem::None);
    ///     loop {
    ///         let sum = found.as_int().expect("a number") + 1;
    ///         match list.compare_exchange(index, &found, sum)? {
    ///             Ok(()) => return Ok(()),
    ///             Err(other) => found = other,
    ///         }
    ///     }
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let list = ShareableList::new([6])?;
    /// add_one(&list, 0)?;
    /// assert_eq!(list.compare_exchange(0, 6, "six")?, Err(7.into()));
    /// assert_eq!(list.compare_exchange(0, 7, "seven")?, Ok(()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`set`](ShareableList::set), regardless of the current item.
    pub fn compare_exchange(
        &self,
        index: usize,
        current: impl Into<ShareableItem>,
        new: impl Into<ShareableItem>,
    ) -> Result<Result<(), ShareableItem>, ShareableListError> {
        let ((current, new), mut numbers) = ((current.into(), new.into()), [[0; 8]; 2]);
        let [first, second] = &mut numbers;
        let content = new.content(second);
        let changed = self.inner.compare_exchange(index, current.content(first), content);
        let changed = changed.map_err(|error| self.error(index, content, error))?;
        Ok(changed.map(drop).map_err(ShareableItem::of))
    }

    /// Returns all items as they were at one moment between the call and its return.
    pub fn to_vec(&self) -> Vec<ShareableItem> {
        self.inner.snapshot().into_iter().map(ShareableItem::of).collect()
    }

    /// Iterates over the items; each is read when the iterator reaches it, as by
    /// [`get`](ShareableList::get). Other processes may change some meanwhile;
    /// [`to_vec`](ShareableList::to_vec) returns all as of one moment.
    pub fn iter(&self) -> ShareableItems<'_> {
        ShareableItems { list: self, left: 0..self.len() }
    }

    /// Returns how many items equal this one, at one moment. A NaN equals no item.
    pub fn count(&self, item: impl Into<ShareableItem>) -> usize {
        let item = item.into();
        self.to_vec().iter().filter(|other| **other == item).count()
    }

    /// Returns the index of the first item that equals this one, at one moment: Python's `index`. A
    /// NaN equals no item.
    ///
    /// ```
    /// use multiproc::shared_memory::ShareableList;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let list = ShareableList::new([3, 1, 4, 1, 5])?;
    /// assert_eq!((list.position(1), list.count(1)), (Some(1), 2));
    /// assert_eq!((list.position(1.0), list.count("1")), (None, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn position(&self, item: impl Into<ShareableItem>) -> Option<usize> {
        let item = item.into();
        self.to_vec().iter().position(|other| *other == item)
    }

    fn error(&self, index: usize, content: Content<'_>, error: SlotError) -> ShareableListError {
        match error {
            SlotError::NoSlot => ShareableListError::IndexOutOfRange { index, len: self.len() },
            SlotError::TooLong(room) => ShareableListError::TooLong { index, len: content.bytes.len(), room },
            SlotError::Corrupt => ShareableListError::Corrupt { index },
        }
    }
}

/// Shows the items as they were at one moment.
impl fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShareableList").field(&self.to_vec()).finish()
    }
}

impl Serialize for ShareableList {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        handle::serialize(&*self.inner, serializer)
    }
}

impl<'de> Deserialize<'de> for ShareableList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<ShareableList, D::Error> {
        let memory: OwnedFd = handle::deserialize(deserializer)?;
        let slot_table = SlotTable::open(memory).map_err(serde::de::Error::custom)?;
        Ok(ShareableList { inner: Arc::new(slot_table) })
    }
}

impl<'a> IntoIterator for &'a ShareableList {
    type Item = Result<ShareableItem, ShareableListError>;
    type IntoIter = ShareableItems<'a>;

    fn into_iter(self) -> ShareableItems<'a> {
        self.iter()
    }
}

/// An iterator over the items of a [`ShareableList`]: see [`iter`](ShareableList::iter).
#[derive(Debug, Clone)]
pub struct ShareableItems<'a> {
    list: &'a ShareableList,
    left: Range<usize>,
}

impl Iterator for ShareableItems<'_> {
    type Item = Result<ShareableItem, ShareableListError>;

    fn next(&mut self) -> Option<Result<ShareableItem, ShareableListError>> {
        self.left.next().and_then(|index| self.list.get(index).transpose())
    }

    fn nth(&mut self, skipped: usize) -> Option<Result<ShareableItem, ShareableListError>> {
        self.left.nth(skipped).and_then(|index| self.list.get(index).transpose())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for ShareableItems<'_> {
    fn next_back(&mut self) -> Option<Result<ShareableItem, ShareableListError>> {
        self.left.next_back().and_then(|index| self.list.get(index).transpose())
    }
}

impl ExactSizeIterator for ShareableItems<'_> {}

impl FusedIterator for ShareableItems<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of one item that has this kind and these bytes.
    fn list(kind: u8, bytes: &[u8]) -> ShareableList {
        let slot_table = SlotTable::create([(Content { kind, bytes }, 0)].into_iter()).unwrap();
        ShareableList { inner: Arc::new(slot_table) }
    }

    #[test]
    fn garbage() {
        for (kind, bytes) in [
            (kind::NONE, &b"x"[..]),
            (kind::BOOL, &[2]),
            (kind::BOOL, b""),
            (kind::BOOL, &[1, 0]),
            (kind::INT, b"1234567"),
            (kind::INT, b"123456789"),
            (kind::FLOAT, b""),
            (kind::STR, b"\xff"),
            (kind::STR, b"longer than eight\xc3"),
            (6, b"text"),
            (255, b"12345678"),
        ] {
            let list = list(kind, bytes);
            let item = list.get(0).unwrap().unwrap();
            assert_eq!(item, ShareableItem::from(bytes), "{kind}");
            assert_eq!((list.to_vec(), list.position(&item)), (vec![item.clone()], Some(0)));
            assert_eq!(list.replace(0, ()).unwrap(), item);
            assert_eq!(list.get(0).unwrap(), Some(ShareableItem::None));
        }
    }

    #[test]
    fn round_trip() {
        for item in [
            ShareableItem::None,
            false.into(),
            true.into(),
            i64::MIN.into(),
            (-1).into(),
            i64::MAX.into(),
            f64::MIN_POSITIVE.into(),
            f64::NEG_INFINITY.into(),
            "".into(),
            "8 bytes.".into(),
            "größer als 8".into(),
            b"".into(),
            b"\xff\x00".into(),
            vec![0; 100].into(),
        ] {
            let mut number = [0; 8];
            let content = item.content(&mut number);
            assert_eq!(list(content.kind, content.bytes).get(0).unwrap(), Some(item));
        }
    }
}
