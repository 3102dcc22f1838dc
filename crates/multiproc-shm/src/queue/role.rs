//! Roles of handles, as types: what an [`End`](crate::queue::End) can do.

/// What a handle can do: [`Both`], [`PutOnly`] or [`GetOnly`].
pub trait Role: sealed::Sealed + 'static {
    /// Whether a handle can put items.
    const PUTS: bool;
    /// Whether a handle can take items.
    const GETS: bool;
    /// The name of such a handle: `Queue`, `Producer` or `Consumer`.
    const NAME: &'static str;
}

/// The roles that put items: [`Both`] and [`PutOnly`].
pub trait CanPut: Role {}

/// The roles that take items: [`Both`] and [`GetOnly`].
pub trait CanGet: Role {}

/// The role of a handle that puts and takes items.
#[derive(Debug)]
pub enum Both {}

/// The role of a handle that only puts items.
#[derive(Debug)]
pub enum PutOnly {}

/// The role of a handle that only takes items.
#[derive(Debug)]
pub enum GetOnly {}

impl Role for Both {
    const PUTS: bool = true;
    const GETS: bool = true;
    const NAME: &'static str = "Queue";
}

impl Role for PutOnly {
    const PUTS: bool = true;
    const GETS: bool = false;
    const NAME: &'static str = "Producer";
}

impl Role for GetOnly {
    const PUTS: bool = false;
    const GETS: bool = true;
    const NAME: &'static str = "Consumer";
}

impl CanPut for Both {}
impl CanPut for PutOnly {}
impl CanGet for Both {}
impl CanGet for GetOnly {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Both {}
    impl Sealed for super::PutOnly {}
    impl Sealed for super::GetOnly {}
}
