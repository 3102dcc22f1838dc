//! [`LogConfig`]: where a child's log records go.

use serde::{Deserialize, Serialize};

/// The log config of a child, sent to it by its parent. A descriptor of the relay's uplink, if
/// there is one, is sent beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogConfig {
    /// The level of [`log_to_stderr`](crate::log_to_stderr), if the child logs that way.
    pub(crate) to_stderr: Option<u8>,
    /// The level of the records that the child sends to a relay, if there is one.
    pub(crate) relay: Option<u8>,
}

#[cfg(any(test, fuzzing))]
impl LogConfig {
    /// A sample with all fields set, for fuzzers.
    pub(crate) fn sample() -> LogConfig {
        LogConfig { to_stderr: Some(3), relay: Some(4) }
    }
}
