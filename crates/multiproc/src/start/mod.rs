//! Starting a child: the start methods, and a child's first steps. `PROTOCOL.md` beside this file
//! describes the messages between the processes, and what happens when one of them dies.

pub(crate) mod confinement;
#[allow(unsafe_code)]
pub(crate) mod context;
#[allow(unsafe_code)]
pub(crate) mod entry;
pub(crate) mod error;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod forkserver;
pub(crate) mod guard;
pub(crate) mod handshake;
pub(crate) mod host;
pub(crate) mod panic_hook;
#[allow(unsafe_code)]
pub(crate) mod run_child;
pub(crate) mod spawn;
pub(crate) mod standby;
