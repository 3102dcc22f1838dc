//! [`Sendable`]: which types can be sent to another process, and what the compiler says about
//! others.
//!
//! The bounds are those of serde. They have a trait of their own so that a missing bound results in
//! a single compiler message, which says what to write.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can be sent to another process: any type that implements serde's `Serialize` and
/// `DeserializeOwned`. It is implemented for all of them; don't implement it by hand.
///
/// ```
/// use multiproc::{Process, Sendable};
///
/// /// Runs `function` in another process for each item.
/// fn for_each<T: Sendable + 'static>(items: Vec<T>, function: fn(T)) -> multiproc::Result<()> {
///     for item in items {
///         Process::new(function, (item,)).start()?.wait()?;
///     }
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// for_each(vec![1, 2], |number| println!("{number}"))
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to another process",
    label = "not a type with `serde::Serialize` and `serde::Deserialize`",
    note = "a struct or an enum: write `#[derive(serde::Serialize, serde::Deserialize)]` above it",
    note = "a reference or a `&str`: send the value itself, a `String`",
    note = "an open file or a socket: send `multiproc::Handle::new(file)`",
    note = "`Arc<Mutex<_>>`, an atomic, a channel: memory isn't shared between processes; send a clone of a `multiproc::sync::Mutex`, \
            `multiproc::Value`, `multiproc::Array` or `multiproc::Queue`"
)]
pub trait Sendable: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Sendable for T {}
