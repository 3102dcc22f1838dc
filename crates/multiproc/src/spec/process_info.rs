//! [`ProcessInfo`]: what a parent passes to a child about the child itself, and what the log needs
//! of it.

use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

/// What a process knows of itself, set before its target runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessInfo {
    pub(crate) name: String,
    /// The numbers in `Process-1:2`: those of the parent, then this process's number among the
    /// parent's processes.
    pub(crate) numbers: Vec<u32>,
    /// See [`CurrentProcess::seed`](crate::process::CurrentProcess::seed).
    pub(crate) seed: u64,
    pub(crate) daemon: bool,
    /// Name and pid of the process that called `start`.
    pub(crate) parent: Option<(String, i32)>,
}

/// None until the first use: this is the main process then. The value is leaked, so that references
/// to it stay valid; a forked child sets another one.
static INFO: RwLock<Option<&'static ProcessInfo>> = RwLock::new(None);

impl ProcessInfo {
    /// Returns that of this process.
    pub(crate) fn current() -> &'static ProcessInfo {
        if let Some(info) = *INFO.read().unwrap_or_else(PoisonError::into_inner) {
            return info;
        }
        let main = || ProcessInfo {
            name: "MainProcess".into(),
            numbers: vec![],
            seed: multiproc_os::random::seed(),
            daemon: false,
            parent: None,
        };
        INFO.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| Box::leak(Box::new(main())))
    }

    /// Sets what this process knows of itself, a new child.
    pub(crate) fn set_current(info: ProcessInfo) {
        *INFO.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::leak(Box::new(info)));
    }
}
