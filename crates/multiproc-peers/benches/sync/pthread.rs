//! The C library's mutex, shared between processes.

use multiproc_benches::Outcome;
use multiproc_benches::pthread::{Guard, Mutex};

use super::lock::Lock;

impl<const ROBUST: bool> Lock for Mutex<ROBUST> {
    type Guard<'a> = Guard<'a>;

    fn pair() -> Outcome<[Self; 2]> {
        Ok([Mutex::new()?; 2])
    }

    #[inline]
    fn lock(&self) -> Outcome<Guard<'_>> {
        Ok(Mutex::lock(self)?)
    }
}
