//! [`Value`]: one value for several processes.

use crate::sync::Mutex;

/// A value in shared memory, with its lock: Python's `multiprocessing.Value`.
///
/// It is a [`Mutex`], under the name that those who know Python look for: `*value.lock()? += 1` is Python's `with value.get_lock(): value.value += 1`, and there is no way to
/// touch it without. [`get`](Mutex::get) and [`set`](Mutex::set) copy it as a whole; whoever dies holding it leaves it to the next one, who is told. For a number that is
/// counted without a lock, see [`RawValue`](crate::RawValue); for many values, [`Array`](crate::Array).
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
