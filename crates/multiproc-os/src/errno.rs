//! The error numbers that callers of this crate distinguish and for which the standard library has
//! no `ErrorKind` of its own. See errno(3).

pub use libc::{EACCES, ECHILD, EINVAL, EIO, EMFILE, EMSGSIZE, ENFILE, ENOMEM, EPERM, ESRCH, ETOOMANYREFS};
