//! [`CreateError`]: a shared object, a queue or a pipe could not be created.

use std::io;

/// An object that processes share, such as a lock, a queue, a pipe or shared memory, or a service
/// of this process, such as the log relay, could not be created.
///
/// ```
/// use multiproc::{Array, CreateError};
///
/// # #[multiproc::main]
/// # fn main() {
/// let error: CreateError = Array::<u64>::new(1 << 58).unwrap_err();
/// assert_eq!(error.what, "array");
/// # }
/// ```
#[derive(thiserror::Error)]
#[error("cannot create {}: {source}", with_article(what))]
#[non_exhaustive]
pub struct CreateError {
    /// The kind of object.
    pub what: &'static str,
    /// The system's error: `EMFILE` at the limit of open files, `ENOSPC` or `ENOMEM` without
    /// memory, `EAGAIN` at the limit of threads.
    pub source: io::Error,
}

impl CreateError {
    /// Returns a function that converts the system's error, for `map_err`.
    pub(crate) fn of(what: &'static str) -> impl Fn(io::Error) -> CreateError {
        move |source| CreateError { what, source }
    }
}

/// The kind of object with its indefinite article, if it takes one.
fn with_article(what: &str) -> String {
    match what {
        "shared memory" | "shared bytes" => what.into(),
        _ if what.starts_with(['a', 'e', 'i', 'o']) => format!("an {what}"),
        _ => format!("a {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_had_the_article_that_belongs_to_it() {
        for (what, text) in [
            ("array", "cannot create an array: out of memory"),
            ("semaphore", "cannot create a semaphore: out of memory"),
            ("shared memory", "cannot create shared memory: out of memory"),
        ] {
            assert_eq!(CreateError::of(what)(io::ErrorKind::OutOfMemory.into()).to_string(), text);
        }
    }
}
