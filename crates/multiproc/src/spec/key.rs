//! The key that signs [`RemoteFn`](crate::RemoteFn) values, which a child gets from its parent.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// The key with which functions are signed in this process and its relatives.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SigningKey(pub(crate) [u64; 2]);

static KEY: OnceLock<SigningKey> = OnceLock::new();

impl SigningKey {
    /// Returns the key of this process. The first process of a program makes one, before its first
    /// child.
    pub(crate) fn ours() -> SigningKey {
        *KEY.get_or_init(|| {
            let mut bytes = [0; 16];
            // If the kernel refuses random numbers, use seeds that garbage still can't be expected
            // to match.
            match multiproc_os::random::fill(&mut bytes) {
                Ok(()) => {
                    SigningKey([0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))))
                }
                Err(_) => SigningKey([multiproc_os::random::seed(), multiproc_os::random::seed()]),
            }
        })
    }

    /// In a child: adopts the key of the parent. A fork copy has it already.
    pub(crate) fn inherit(self) {
        let _ = KEY.set(self);
    }

    /// A key that doesn't sign anything: for dry runs, and for fuzzers.
    pub(crate) fn none() -> SigningKey {
        SigningKey([0; 2])
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}
