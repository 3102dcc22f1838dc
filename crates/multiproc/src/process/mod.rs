//! Processes: what a process runs, how it is started, waited for and ended, and how it ended.

pub(crate) mod active_children;
pub(crate) mod arguments;
pub(crate) mod builder;
pub(crate) mod child;
pub(crate) mod error;
pub(crate) mod future;
pub(crate) mod init;
pub mod outcome;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod test;
pub(crate) mod wait;

pub use crate::start::host::{Host, HostInstalled};
