//! Whole programs, observed from outside.

mod ctrl_c;
mod host;
mod lifeline;
mod logs;
mod main_process;
mod scratch;
#[cfg(feature = "tracing")]
mod traced;
