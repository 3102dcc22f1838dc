//! What both sides of a start know: plain data that a parent sends to its child, and the child to
//! its parent.

pub(crate) mod child_spec;
pub(crate) mod key;
pub(crate) mod kind;
pub(crate) mod log_config;
pub(crate) mod method;
pub(crate) mod options;
pub(crate) mod process_info;
pub(crate) mod report;
pub(crate) mod status;
pub(crate) mod stdio;
#[allow(unsafe_code)]
pub(crate) mod target;
