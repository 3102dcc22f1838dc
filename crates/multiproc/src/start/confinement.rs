//! Whether the server's children would have the rights of the thread that calls `start`, and no more.
//!
//! A server has the rights of the thread that executed it, at that moment. Each start compares those with the rights that the calling thread
//! has now; if they differ, the server is replaced by one that this thread executes. `PROTOCOL.md`, "Confinement", says what is compared, how,
//! and what is done where nothing can be read.

use multiproc_os::confinement::{self, Confinement};
use multiproc_os::settings::Settings;

/// What the calling thread hands down to a process that it makes now.
pub(crate) struct Moment {
    confinement: Confinement,
    pub(crate) settings: Settings,
}

impl Moment {
    /// Of the calling thread.
    pub(crate) fn now() -> Moment {
        let (confinement, umask) = Confinement::current();
        Moment { confinement, settings: Settings::current(umask) }
    }
}

/// What a server has been made with.
pub(crate) struct Made {
    confinement: Confinement,
    /// Whether the thread that made it could look into it. If not, that says nothing later either.
    may_look: bool,
}

/// Whether a server is of use to the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It has the same rights.
    Same,
    /// It has others.
    Other,
    /// It has the same as far as they can be read, but the thread may have given up others.
    Unknown,
}

impl Made {
    /// Of the server `pid`, which the calling thread has just executed, and which has answered.
    pub(crate) fn new(moment: &Moment, pid: i32) -> Made {
        let mut confinement = moment.confinement.clone();
        confinement.complete(|| Confinement::current().0);
        Made { confinement, may_look: confinement::may_look_into(pid).unwrap_or(false) }
    }

    /// Whether the server `pid`, of which this is told, is of use to the calling thread, whose moment this is.
    pub(crate) fn fit(&self, moment: &Moment, pid: i32) -> Fit {
        if self.confinement != moment.confinement {
            return Fit::Other;
        }
        match self.may_look {
            // A server that is gone is none of those that can be looked into.
            true if !confinement::may_look_into(pid).unwrap_or(false) => Fit::Other,
            may_look if moment.confinement.may_tighten_unseen(may_look) => Fit::Unknown,
            _ => Fit::Same,
        }
    }
}
