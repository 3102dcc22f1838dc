//! Processes: what a process runs, how it is started, waited for and ended, and how it ended.

pub(crate) mod at_exit;
pub(crate) mod builder;
pub(crate) mod child;
pub(crate) mod children;
pub(crate) mod ctrl_c;
pub(crate) mod current;
pub(crate) mod future;
pub(crate) mod options;
pub(crate) mod out_of_memory;
pub mod outcome;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod status;
pub(crate) mod stdio;
pub(crate) mod test;
pub(crate) mod wait;
