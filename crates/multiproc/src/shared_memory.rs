//! Values and bytes in memory that several processes share: [`Array`] and [`Value`] with a lock,
//! [`RawArray`] and [`RawValue`] as atomics, [`SharedMemory`], [`SharedBytes`], [`ShareableList`].
//! Python's `multiprocessing.shared_memory` and `multiprocessing.sharedctypes`.

pub use crate::shared::array::Array;
pub use crate::shared::error::{FreezeError, MemoryError};
pub use crate::shared::guard::{ArrayGuard, ArrayReadGuard};
pub use crate::shared::memory::{HugePages, SharedMemory, SharedMemoryOptions};
pub use crate::shared::names::{NameError, NameRefusal};
pub use crate::shared::part::ArrayPart;
pub use crate::shared::raw::{Atomic, RawArray, RawValue};
pub use crate::shared::read_only::ReadOnlyMemory;
pub use crate::shared::shareable_list::{ShareableItem, ShareableItems, ShareableList, ShareableListError};
pub use crate::shared::shared_bytes::{SharedBytes, SharedBytesWriter};
pub use crate::shared::value::Value;
/// The values themselves are never serialised. A generic type that contains them and derives
/// serde's traits needs this bound:
///
/// ```
/// use multiproc::shared_memory::Plain;
/// use multiproc::{Array, Process, Value};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(bound = "")]
/// struct Job<T: Plain> {
///     samples: Array<T>,
///     largest: Value<T>,
/// }
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// fn count<T: Plain>(job: Job<T>) -> usize {
///     job.samples.len()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let job = Job { samples: Array::<Point>::new(100)?, largest: Value::new(Point { x: 0.0, y: 0.0 })? };
/// assert_eq!(Process::new(count, (job,)).start()?.join()?, 100);
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use multiproc_shm::memory::cell::Plain;

/// Creates a [`ShareableList`](crate::shared_memory::ShareableList) of these items: any values that
/// convert to a [`ShareableItem`](crate::shared_memory::ShareableItem).
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
/// As for [`ShareableList::new`](crate::shared_memory::ShareableList::new).
#[macro_export]
macro_rules! shareable_list {
    ($($item:expr),* $(,)?) => {{
        let items: ::std::vec::Vec<$crate::shared_memory::ShareableItem> = ::std::vec![$($crate::shared_memory::ShareableItem::from($item)),*];
        $crate::shared_memory::ShareableList::new(items)
    }};
}
