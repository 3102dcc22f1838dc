//! [`Value`]: one value that several processes share.

use crate::sync::Mutex;

/// A value in shared memory, with its lock: Python's `multiprocessing.Value`.
///
/// This is a [`Mutex`], under the name that Python uses: `*value.lock()? += 1` is Python's `with
/// value.get_lock(): value.value += 1`, and the value can't be accessed without the lock.
/// [`get`](Mutex::get) and [`set`](Mutex::set) copy the whole value. If a holder dies, the next one
/// acquires the lock with [`LockError::Poisoned`](crate::sync::LockError::Poisoned). For a number
/// that is counted without a lock, see [`RawValue`](crate::shared_memory::RawValue); for many
/// values, [`Array`](crate::Array).
///
/// ```
/// use multiproc::{Process, Value};
///
/// fn count(total: Value<u64>) -> multiproc::Result<()> {
///     for _ in 0..1000 {
///         *total.lock()? += 1;
///     }
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let total = Value::new(0)?;
/// let children = (0..2).map(|_| Process::new(count, (total.clone(),)).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     child.join()??;
/// }
/// assert_eq!(total.get()?, 2000);
/// # Ok(())
/// # }
/// ```
pub type Value<T> = Mutex<T>;
