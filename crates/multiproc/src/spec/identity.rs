//! [`Identity`]: what a parent passes to a child about the child itself, and what the log needs of
//! it.

use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

/// The identity of a process, set before its target runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
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
static IDENTITY: RwLock<Option<&'static Identity>> = RwLock::new(None);

impl Identity {
    /// Returns the identity of this process.
    pub(crate) fn current() -> &'static Identity {
        if let Some(identity) = *IDENTITY.read().unwrap_or_else(PoisonError::into_inner) {
            return identity;
        }
        let main = || Identity {
            name: "MainProcess".into(),
            numbers: vec![],
            seed: multiproc_os::random::seed(),
            daemon: false,
            parent: None,
        };
        IDENTITY.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| Box::leak(Box::new(main())))
    }

    /// Sets the identity of this process, a new child.
    pub(crate) fn set_current(identity: Identity) {
        *IDENTITY.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::leak(Box::new(identity)));
    }
}
