//! Processes: how they are started, what they are given, how they end, and how that is waited for.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/memory_group.rs"]
mod memory_group;
#[path = "../common/seccomp.rs"]
mod seccomp;

#[cfg(feature = "anyhow")]
mod anyhow_errors;
mod at_exit;
mod confinement;
mod ctrl_c;
mod errors;
mod exit_status;
mod faults;
mod fork;
mod future;
mod handles;
mod large;
mod names;
mod options;
mod reaped_elsewhere;
mod remote_fn;
mod scope;
mod standby;
mod start;
mod streams;
mod target;
mod terminate;
mod tokio_attributes;
mod wait;
mod wait_many;
