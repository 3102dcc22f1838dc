//! [`init`], at which an executed copy of the program becomes a child or a server.

use super::run;
use crate::start::entry;

/// Marks the point of `main` where a copy of the program that this library has executed becomes a
/// child process, or the fork server. Call it as the first statement of `main`, or let
/// `#[multiproc::main]` do so.
///
/// In a process that was not started by this library, it does next to nothing and returns. In an
/// executed copy it never returns: a child runs its target and exits. So any code before it in
/// `main` runs again in each copy: in the fork server, and in each child of
/// [`Spawn`](crate::StartMethod::Spawn).
///
/// `#[multiproc::main]` does the same, and children end a little sooner with it (some 30 µs): since
/// no code runs before it, no exit handler can have been registered that a child would have to
/// call.
///
/// ```
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///
///     multiproc::Process::new(|| println!("in a child"), ()).start()?;
///     Ok(())
/// }
/// ```
pub fn init() {
    begin_program(false);
}

/// Does what [`init`] does. With `is_first`, no code of the program but constructors can have run
/// before, and a child of the fork server ends sooner.
pub(crate) fn begin_program(is_first: bool) {
    entry::begin_program(is_first, run::warm_up_call);
}
