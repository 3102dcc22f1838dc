//! Whether the server's children have the rights of the thread that calls `start`, and no more; and
//! the go-ahead.
//!
//! A server has the rights of the thread that executed it, at that moment. Each start compares
//! those with the rights that the calling thread has now. That takes some 30 system calls, so it is
//! done while the child comes to life: the child waits for the parent's go-ahead before it does
//! anything of the user's, and gets none if the server is of no use. `PROTOCOL.md`, "Confinement",
//! says what is compared, how, and what is done where nothing can be read.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, ThreadId};

use multiproc_os::confinement::{self, Confinement};
use multiproc_os::settings::Settings;

use super::kind;
use crate::transfer::packet;

/// What the calling thread hands down to a process that it makes now. Looked at when it is first
/// asked for.
#[derive(Default)]
pub(crate) struct Moment(OnceCell<(Confinement, Settings)>);

impl Moment {
    fn get(&self) -> &(Confinement, Settings) {
        self.0.get_or_init(|| {
            let (confinement, umask) = Confinement::current();
            (confinement, Settings::current(umask))
        })
    }

    /// Whether it has been looked at.
    pub(crate) fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Looks, unless it has been looked at: before the process is made that it is about.
    pub(crate) fn look(&self) {
        self.get();
    }
}

/// What a server has been made with.
pub(crate) struct Made {
    confinement: Confinement,
    settings: Settings,
    /// Whether the thread that made it could look into it. If not, that says nothing later either.
    may_look: bool,
    /// The thread that made it.
    maker: ThreadId,
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
        let (mut confinement, settings) = moment.get().clone();
        confinement.complete(|| Confinement::current().0);
        let may_look = confinement::may_look_into(pid).unwrap_or(false);
        Made { confinement, settings, may_look, maker: thread::current().id() }
    }

    /// Whether it can't be seen if a thread has less than the server, unless it has something else
    /// too.
    pub(crate) fn is_blind(&self) -> bool {
        self.confinement.may_tighten_unseen(self.may_look) || self.has_filters_of_another_thread()
    }

    /// Whether it has filters that one of this process's threads has added, and not the calling
    /// one: that may have added others, as many.
    fn has_filters_of_another_thread(&self) -> bool {
        self.confinement.has_filters_of_its_own() && self.maker != thread::current().id()
    }

    /// Whether the server `pid`, of which this is told, is of use to the calling thread, whose
    /// moment this is.
    pub(crate) fn fit(&self, moment: &Moment, pid: i32) -> Fit {
        let (now, _) = moment.get();
        if self.confinement != *now {
            return Fit::Other;
        }
        match self.may_look {
            // A server that is gone is none of those that can be looked into.
            true if !confinement::may_look_into(pid).unwrap_or(false) => Fit::Other,
            may_look if now.may_tighten_unseen(may_look) => Fit::Unknown,
            _ if self.has_filters_of_another_thread() => Fit::Unknown,
            _ => Fit::Same,
        }
    }

    /// Sends a child of the server the go-ahead, on the socket that it waits on, with the settings
    /// if they differ from the server's. Returns whether they do; then the child tells when it has
    /// taken them on.
    pub(crate) fn go_ahead(&self, moment: &Moment, socket: impl AsFd) -> io::Result<bool> {
        let (_, settings) = moment.get();
        let differs = self.settings != *settings;
        let told = if differs { settings.to_bytes() } else { vec![] };
        packet::send(socket, kind::GO_AHEAD, &[&told], &[])?;
        Ok(differs)
    }
}

/// What the parent said to a child of the server.
pub(crate) enum Word {
    /// It is to go ahead as it is.
    Go,
    /// It is to go ahead, has taken on what it lacked, and is to say so.
    GoAndTell,
    /// It may not have what it would need.
    Unfit,
    /// It is of no use, or the parent is gone.
    Leave,
}

/// In a child of the server: waits for the go-ahead, and takes on what it lacks.
pub(crate) fn await_word(socket: OwnedFd) -> Word {
    match packet::receive(&socket, true) {
        Ok(packet) if packet.kind == kind::GO_AHEAD && packet.front().is_empty() => Word::Go,
        Ok(packet) if packet.kind == kind::GO_AHEAD => match Settings::from_bytes(packet.front()) {
            // The umask is set without a look: to look is to set it.
            Some(settings) if settings.take_on(&Settings::current(None)).is_ok() => Word::GoAndTell,
            _ => Word::Unfit,
        },
        _ => Word::Leave,
    }
}
