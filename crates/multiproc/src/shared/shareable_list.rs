//! [`ShareableList`]: small values of mixed kinds, which several processes read and change in place.
//!
//! The values are the cells of a [`SlotTable`], which says how they are read and written, and what is left of one who dies in the middle of that. Here is what the
//! bytes in a cell mean. `PROTOCOL.md`, "ShareableList".

use std::fmt;
use std::iter::FusedIterator;
use std::num::TryFromIntError;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::handle;
use crate::shm::slot_table::{Content, Found, Refusal, SlotTable};

/// A value in a [`ShareableList`].
///
/// What it is made of says what it is, and it stays that: an integer is never taken for a float, nor the other way round.
///
/// ```
/// use multiproc::ShareableItem;
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
    /// Nothing.
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

/// What stands beside the bytes in memory. All zero is nothing.
mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const BOOL: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const FLOAT: u8 = 3;
    pub(super) const STR: u8 = 4;
    pub(super) const BYTES: u8 = 5;
}

impl ShareableItem {
    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        matches!(self, ShareableItem::None)
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            ShareableItem::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            ShareableItem::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The floating-point number, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            ShareableItem::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is that.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            ShareableItem::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The bytes, if it is that. Those of a text are not.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            ShareableItem::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// As it lies in memory; a number's bytes are in `number`.
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

    /// What was found in memory. Whatever isn't a value as this writes them is bytes.
    fn of(found: Found) -> ShareableItem {
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

/// The value alone; nothing is `None`, and of bytes those that can't be printed are written as in a Rust program.
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

/// So that `b"bytes"` is one.
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

/// As far as it is an `i64`.
impl TryFrom<u64> for ShareableItem {
    type Error = TryFromIntError;

    fn try_from(value: u64) -> std::result::Result<ShareableItem, TryFromIntError> {
        value.try_into().map(ShareableItem::Int)
    }
}

/// As far as it is an `i64`.
impl TryFrom<usize> for ShareableItem {
    type Error = TryFromIntError;

    fn try_from(value: usize) -> std::result::Result<ShareableItem, TryFromIntError> {
        value.try_into().map(ShareableItem::Int)
    }
}

/// Why an item of a [`ShareableList`] is not changed.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareableListError {
    /// The list isn't so long.
    #[error("there is no item {index} in a list of {len}")]
    IndexOutOfRange {
        /// Which item was meant.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// The text or the bytes are longer than what there is room for in this place.
    #[error("{len} bytes don't fit into item {index}, which has room for {room}")]
    TooLong {
        /// Which item was meant.
        index: usize,
        /// How many bytes it would have.
        len: usize,
        /// For how many there is room.
        room: usize,
    },
    /// Somebody has written garbage into the list's memory.
    #[error("the memory of item {index} is corrupt")]
    Corrupt {
        /// Which item was meant.
        index: usize,
    },
}

/// A list of fixed length of small values, of kinds that may differ, which several processes read and change in place: Python's
/// `multiprocessing.shared_memory.ShareableList`.
///
/// The items are numbers, truth values, texts, bytes, or nothing: [`ShareableItem`]. Any item may be replaced by one of another kind. How much room for text or
/// bytes it has is settled when the list is made: see [`new`](ShareableList::new) and [`with_room`](ShareableList::with_room).
///
/// It travels as a [`Lock`](crate::sync::Lock) does: as an argument, a result, through a queue, or inside any of these; it is one descriptor. A clone is another
/// handle of the same list. It is gone when the last handle is, in whichever process: nobody has to unlink it.
///
/// *An item is never torn*: who reads one gets a value that somebody has written, as a whole. Whoever is killed while writing leaves the old value or the new
/// one, and keeps nobody waiting; so there is no poison. Those who write do so one at a time, each for as long as it takes to copy its value. Those who read
/// don't wait for them, unless there is no end of writing.
///
/// ```
/// use multiproc::{Process, ShareableItem, ShareableList, shareable_list};
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
/// assert_eq!(list.get(0), Some("hello".into()));
/// assert_eq!(list.get(4), Some(ShareableItem::None));
/// assert_eq!(list.get(5), None);
/// assert_eq!(list.to_vec(), ["hello".into(), b"HoWdY".into(), (-273.25).into(), true.into(), ().into()]);
/// let error = list.set(0, "longer than eight bytes").unwrap_err();
/// assert_eq!(error.to_string(), "23 bytes don't fit into item 0, which has room for 8");
/// # Ok(())
/// # }
/// ```
///
/// [`shareable_list!`](crate::shareable_list) makes one of items of several types, [`new`](ShareableList::new) of any number of one type, or of [`ShareableItem`]s.
#[derive(Clone)]
pub struct ShareableList {
    inner: Arc<SlotTable>,
}

/// A new [`ShareableList`](crate::ShareableList) of these items: whatever turns into a [`ShareableItem`](crate::ShareableItem).
///
/// ```
/// use multiproc::shareable_list;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let list = shareable_list!["text", 1, 2.5, false, ()]?;
/// assert_eq!((list.len(), list.position(2.5)), (5, Some(2)));
/// assert!(shareable_list![]?.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`ShareableList::new`](crate::ShareableList::new).
#[macro_export]
macro_rules! shareable_list {
    ($($item:expr),* $(,)?) => {{
        let items: ::std::vec::Vec<$crate::ShareableItem> = ::std::vec![$($crate::ShareableItem::from($item)),*];
        $crate::ShareableList::new(items)
    }};
}

impl ShareableList {
    /// A new one, of these items.
    ///
    /// Each has room for as many bytes as it has now, rounded up to a multiple of eight, and for eight at least; so a number can take the place of anything, and
    /// nothing longer will ever fit. All of its memory is there from the beginning: twice the room of each item, and 32 bytes.
    ///
    /// ```
    /// use multiproc::ShareableList;
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
    /// [`Error::Make`]: no descriptor or no memory is left, or that would be more than 128 MiB.
    pub fn new(items: impl IntoIterator<Item = impl Into<ShareableItem>>) -> Result<ShareableList> {
        ShareableList::with_room(items, 8)
    }

    /// As [`new`](ShareableList::new), with room for at least so many bytes in each item, rounded up to a multiple of eight; whatever it is at first.
    ///
    /// ```
    /// use multiproc::ShareableList;
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
    /// As [`new`](ShareableList::new).
    pub fn with_room(items: impl IntoIterator<Item = impl Into<ShareableItem>>, bytes: usize) -> Result<ShareableList> {
        let items: Vec<ShareableItem> = items.into_iter().map(Into::into).collect();
        let mut numbers = vec![[0; 8]; items.len()];
        let contents = items.iter().zip(&mut numbers).map(|(item, number)| (item.content(number), bytes.max(8)));
        let contents: Vec<_> = contents.collect();
        let slot_table = SlotTable::create(contents.iter().copied());
        let slot_table = slot_table.map_err(|source| Error::Make { what: "shareable list", source })?;
        Ok(ShareableList { inner: Arc::new(slot_table) })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how many bytes there is room in that item; `None` if there is no such item.
    pub fn room(&self, index: usize) -> Option<usize> {
        self.inner.room(index)
    }

    /// The item; `None` if there is no such item.
    ///
    /// If another program has written garbage into the list's memory, this is one of [`Bytes`](ShareableItem::Bytes), of what is there.
    pub fn get(&self, index: usize) -> Option<ShareableItem> {
        match self.inner.read(index) {
            Ok(found) => Some(ShareableItem::of(found)),
            Err(Refusal::NoCell) => None,
            Err(_) => Some(ShareableItem::Bytes(Vec::new())),
        }
    }

    /// Puts a value in the item's place.
    ///
    /// # Errors
    /// There is no such item, or not enough room in it. Nothing has changed then.
    pub fn set(&self, index: usize, value: impl Into<ShareableItem>) -> Result<(), ShareableListError> {
        let (value, mut number) = (value.into(), [0; 8]);
        let content = value.content(&mut number);
        self.inner.write(index, content).map_err(|refusal| self.error(index, content, refusal))
    }

    /// Puts a value in the item's place, and gives the one that was there: which nobody else is given.
    ///
    /// ```
    /// use multiproc::ShareableList;
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
    /// As [`set`](ShareableList::set).
    pub fn replace(&self, index: usize, value: impl Into<ShareableItem>) -> Result<ShareableItem, ShareableListError> {
        let (value, mut number) = (value.into(), [0; 8]);
        let content = value.content(&mut number);
        let found = self.inner.replace(index, content).map_err(|refusal| self.error(index, content, refusal))?;
        Ok(ShareableItem::of(found))
    }

    /// Puts a value in the item's place if that is `current`. Inside `Ok` is an error, with what is there, if it is something else.
    ///
    /// What is compared is the kind and the bytes, as an atomic number of the standard library does it: so a NaN is the same as itself, and `0.0` isn't `-0.0`.
    ///
    /// ```
    /// use multiproc::{ShareableItem, ShareableList};
    ///
    /// fn add_one(list: &ShareableList, index: usize) -> multiproc::Result<()> {
    ///     let mut found = list.get(index).unwrap_or(ShareableItem::None);
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
    /// As [`set`](ShareableList::set), whatever is there.
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
        let changed = changed.map_err(|refusal| self.error(index, content, refusal))?;
        Ok(changed.map(drop).map_err(ShareableItem::of))
    }

    /// All items as they were at one moment: somewhere between the call and its return, each had this value.
    pub fn to_vec(&self) -> Vec<ShareableItem> {
        self.inner.snapshot().into_iter().map(ShareableItem::of).collect()
    }

    /// The items one after the other, each as it is when it is come to. Others may change some meanwhile; [`to_vec`](ShareableList::to_vec) gives all of one moment.
    pub fn iter(&self) -> ShareableItems<'_> {
        ShareableItems { list: self, left: 0..self.len() }
    }

    /// How many items equal this one, at one moment. NaN equals none.
    pub fn count(&self, item: impl Into<ShareableItem>) -> usize {
        let item = item.into();
        self.to_vec().iter().filter(|other| **other == item).count()
    }

    /// Where the first item is that equals this one, at one moment: Python's `index`. NaN equals none.
    ///
    /// ```
    /// use multiproc::ShareableList;
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

    fn error(&self, index: usize, content: Content<'_>, refusal: Refusal) -> ShareableListError {
        match refusal {
            Refusal::NoCell => ShareableListError::IndexOutOfRange { index, len: self.len() },
            Refusal::NoRoom(room) => ShareableListError::TooLong { index, len: content.bytes.len(), room },
            Refusal::Corrupt => ShareableListError::Corrupt { index },
        }
    }
}

/// The items, as they were at one moment.
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
    type Item = ShareableItem;
    type IntoIter = ShareableItems<'a>;

    fn into_iter(self) -> ShareableItems<'a> {
        self.iter()
    }
}

/// The items of a [`ShareableList`], one after the other: see [`iter`](ShareableList::iter).
#[derive(Debug, Clone)]
pub struct ShareableItems<'a> {
    list: &'a ShareableList,
    left: Range<usize>,
}

impl Iterator for ShareableItems<'_> {
    type Item = ShareableItem;

    fn next(&mut self) -> Option<ShareableItem> {
        self.left.next().and_then(|index| self.list.get(index))
    }

    fn nth(&mut self, skipped: usize) -> Option<ShareableItem> {
        self.left.nth(skipped).and_then(|index| self.list.get(index))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for ShareableItems<'_> {
    fn next_back(&mut self) -> Option<ShareableItem> {
        self.left.next_back().and_then(|index| self.list.get(index))
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
    fn garbage_is_bytes() {
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
            let item = list.get(0).unwrap();
            assert_eq!(item, ShareableItem::from(bytes), "{kind}");
            assert_eq!((list.to_vec(), list.position(&item)), (vec![item.clone()], Some(0)));
            assert_eq!(list.replace(0, ()).unwrap(), item);
            assert_eq!(list.get(0), Some(ShareableItem::None));
        }
    }

    #[test]
    fn items_come_out_as_they_went_in() {
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
            assert_eq!(list(content.kind, content.bytes).get(0), Some(item));
        }
    }
}
