//! What can go wrong with a name.

use std::io;

use super::{LIMIT, wire};

/// Why a name can't be published, found or withdrawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    /// Somebody has the name.
    #[error("the name {name:?} is taken, by {}", of(*owner))]
    Taken { name: String, owner: Option<i32> },
    /// Nobody has it, or who had it is gone.
    #[error("there is no shared memory of the name {name:?}")]
    NotFound { name: String },
    #[error("the name \"\" is empty")]
    Empty,
    #[error("the name {name:?} has {len} bytes, and may have {LIMIT}")]
    TooLong { name: String, len: usize },
    #[error("the name {name:?} has a zero byte in it")]
    Invalid { name: String },
    /// The owner is of another user, or doesn't want us to have it.
    #[error("the shared memory {name:?} can't be had from {}: {why}", of(*owner))]
    Refused { name: String, owner: Option<i32>, why: Refusal },
    /// The owner would, but can't.
    #[error("the owner of the shared memory {name:?}, {}, can't hand it over: {source}", of(*owner))]
    Owner { name: String, owner: Option<i32>, source: io::Error },
    /// The owner has not answered: it is stopped, or has a great deal to do.
    #[error("the owner of the shared memory {name:?}, {}, has not answered in time", of(*owner))]
    TimedOut { name: String, owner: Option<i32> },
    /// The owner is of another release of multiproc.
    #[error(
        "the owner of the shared memory {name:?}, {}, speaks version {theirs} of the protocol; this program speaks \
         version {ours}", of(*owner), ours = wire::VERSION
    )]
    OtherVersion { name: String, owner: Option<i32>, theirs: u8 },
    /// Whoever has the name is no process that shares memory.
    #[error("the name {name:?} belongs to {}, which says what no owner of shared memory says", of(*owner))]
    Garbage { name: String, owner: Option<i32> },
    /// The system refused: `EMFILE`, say.
    #[error("the shared memory {name:?}: {source}")]
    Io { name: String, source: io::Error },
}

/// Why one doesn't get what it wants from an owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// This process wants nothing from strangers.
    #[error("it belongs to user {0}, who is neither this process's nor root")]
    OtherUser(u32),
    /// The owner gives nothing to strangers: its user is another by now.
    #[error("it serves its own user and root alone")]
    NotServed,
    /// The offer has said so.
    #[error("{0}")]
    Denied(io::Error),
}

fn of(owner: Option<i32>) -> String {
    match owner {
        Some(pid) => format!("process {pid}"),
        None => "a process that can't be seen from here".into(),
    }
}
