//! What can go wrong with a name.

use std::io;

use super::{LIMIT, wire};

/// Why shared memory can't be created, opened or unlinked by its name.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Somebody has the name.
    #[error("the name {name:?} is taken, by {}", of(*owner))]
    Taken {
        /// The name.
        name: String,
        /// The pid of who has it, if it can be seen from here.
        owner: Option<i32>,
    },
    /// Nobody has it, or who had it is gone.
    #[error("there is no shared memory of the name {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A name has one byte at least.
    #[error("the name \"\" is empty")]
    Empty,
    /// A name has 79 bytes at most.
    #[error("the name {name:?} has {len} bytes, and may have {LIMIT}")]
    TooLong {
        /// The name.
        name: String,
        /// How many bytes it has.
        len: usize,
    },
    /// There can be no zero byte in a name.
    #[error("the name {name:?} has a zero byte in it")]
    Invalid {
        /// The name.
        name: String,
    },
    /// The owner is of another user, or doesn't want us to have it.
    #[error("the shared memory {name:?} can't be had from {}: {why}", of(*owner))]
    Refused {
        /// The name.
        name: String,
        /// The owner's pid, if it can be seen from here.
        owner: Option<i32>,
        /// Why not.
        why: NameRefusal,
    },
    /// The owner would, but can't.
    #[error("the owner of the shared memory {name:?}, {}, can't hand it over: {source}", of(*owner))]
    Owner {
        /// The name.
        name: String,
        /// The owner's pid, if it can be seen from here.
        owner: Option<i32>,
        /// What the system has said to it: `EMFILE`, say.
        source: io::Error,
    },
    /// The owner has not answered: it is stopped, or has a great deal to do.
    #[error("the owner of the shared memory {name:?}, {}, has not answered in time", of(*owner))]
    TimedOut {
        /// The name.
        name: String,
        /// The owner's pid, if it can be seen from here.
        owner: Option<i32>,
    },
    /// The owner is of another release of multiproc.
    #[error(
        "the owner of the shared memory {name:?}, {}, speaks version {theirs} of the protocol; this program speaks \
         version {ours}", of(*owner), ours = wire::VERSION
    )]
    OtherVersion {
        /// The name.
        name: String,
        /// The owner's pid, if it can be seen from here.
        owner: Option<i32>,
        /// The version that it speaks.
        theirs: u8,
    },
    /// Whoever has the name is no process that shares memory.
    #[error("the name {name:?} belongs to {}, which says what no owner of shared memory says", of(*owner))]
    Garbage {
        /// The name.
        name: String,
        /// The pid of who has it, if it can be seen from here.
        owner: Option<i32>,
    },
    /// The system refused something: `EMFILE`, say.
    #[error("the shared memory {name:?}: {source}")]
    Io {
        /// The name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

impl NameError {
    /// Whether somebody has the name.
    pub fn is_taken(&self) -> bool {
        matches!(self, NameError::Taken { .. })
    }

    /// Whether nobody has it.
    pub fn is_not_found(&self) -> bool {
        matches!(self, NameError::NotFound { .. })
    }
}

/// Why one doesn't get what it wants from the owner of a name.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NameRefusal {
    /// This process wants nothing from strangers: the owner is of this user.
    #[error("it belongs to user {0}, who is neither this process's nor root")]
    OtherUser(u32),
    /// The owner gives nothing to strangers: its user is another by now.
    #[error("it serves its own user and root alone")]
    NotServed,
    /// The owner has said so.
    #[error("{0}")]
    Denied(io::Error),
}

fn of(owner: Option<i32>) -> String {
    match owner {
        Some(pid) => format!("process {pid}"),
        None => "a process that can't be seen from here".into(),
    }
}
