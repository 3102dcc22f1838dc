//! A static that is not shared with copies made by fork(2): each copy starts with a fresh value.
//!
//! When the copy is made, another thread of the original may be changing the value, with a lock
//! held that is never released in the copy. So the copy doesn't touch the original's value, and
//! doesn't even free its memory.

use std::fmt;
use std::sync::atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release};

use crate::robust::{Thread, copy_number};

/// A static with one value per fork copy; see the [module](self).
pub struct ForkLocal<T: 'static> {
    current: AtomicPtr<Of<T>>,
}

/// Returns the number of this copy.
#[inline]
fn this_copy() -> u32 {
    // Miri has neither fork(2) nor the robust lists by which threads of a copy are told apart.
    if cfg!(miri) {
        return 1;
    }
    // Makes sure that copies are numbered.
    Thread::current();
    copy_number()
}

/// The value of one fork copy.
struct Of<T> {
    copy: u32,
    value: T,
}

impl<T> ForkLocal<T> {
    /// Creates an empty one. The value is created at the first [`get`](ForkLocal::get).
    pub const fn new() -> ForkLocal<T> {
        ForkLocal { current: AtomicPtr::new(std::ptr::null_mut()) }
    }
}

impl<T: Default + Send + Sync> ForkLocal<T> {
    /// Returns the value of this process.
    pub fn get(&self) -> &'static T {
        let copy = this_copy();
        let mut found = self.current.load(Acquire);
        loop {
            // SAFETY: it is null, or has come from `Box::into_raw` below and is never freed.
            if let Some(of) = unsafe { found.as_ref() }
                && of.copy == copy
            {
                return &of.value;
            }
            let new = Box::into_raw(Box::new(Of { copy, value: T::default() }));
            match self.current.compare_exchange(found, new, Release, Acquire) {
                // SAFETY: as above.
                Ok(_) => return unsafe { &(*new).value },
                Err(other) => {
                    // SAFETY: it was allocated above, and no other thread has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    found = other;
                }
            }
        }
    }
}

impl<T> Default for ForkLocal<T> {
    fn default() -> ForkLocal<T> {
        ForkLocal::new()
    }
}

impl<T> fmt::Debug for ForkLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForkLocal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    /// Counts from eight threads.
    fn count_to_eight(count: &'static ForkLocal<AtomicU32>) {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| count.get().fetch_add(1, Relaxed));
            }
        });
        assert_eq!(count.get().load(Relaxed), 8, "all threads get the same value");
    }

    #[test]
    fn threads_share_the_value() {
        static COUNT: ForkLocal<AtomicU32> = ForkLocal::new();
        count_to_eight(&COUNT);
    }

    /// Collects the statics that are locks of the standard library.
    fn statics_with_locks(folder: &std::path::Path, found: &mut Vec<String>) {
        const LOCKS: [&str; 7] = ["Mutex", "RwLock", "Condvar", "Once", "OnceLock", "LazyLock", "ReentrantLock"];
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                // The models run in one process.
                if !path.ends_with("loom") {
                    statics_with_locks(&path, found);
                }
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            // `static NAME: Mutex<…> = …`, and with a path before the type.
            let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
            let types = code.filter_map(|line| line.split_once("static ")?.1.split_once(": "));
            for (name, of) in types {
                let of = of.split(['<', ' ', '=']).next().unwrap_or(of);
                if LOCKS.contains(&of.rsplit("::").next().unwrap_or(of)) {
                    found.push(format!("{}: {name}", path.file_name().unwrap().display()));
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads the sources")]
    fn no_static_lock_can_be_held_in_a_copy() {
        let (crates, mut found) = (std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), Vec::new());
        for name in ["multiproc-os", "multiproc-shm"] {
            statics_with_locks(&crates.join(name).join("src"), &mut found);
        }
        found.sort();
        // Both are used before a child's program begins, and by processes with a single thread.
        assert_eq!(
            found,
            ["at_exit.rs: PREPARED", "environment.rs: IN_PLACE"],
            "use a ForkLocal, or at_fork::Handlers"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "fork")]
    fn forked_child_starts_empty() {
        static COUNT: ForkLocal<AtomicU32> = ForkLocal::new();
        count_to_eight(&COUNT);
        let code = crate::copy::exit_code_of(|| {
            let (first, second) = (COUNT.get().fetch_add(1, Relaxed), COUNT.get().load(Relaxed));
            i32::from((first, second) != (0, 1))
        });
        assert_eq!((code, COUNT.get().load(Relaxed)), (0, 8));
    }
}
