//! Whether the server's children have the rights of the thread that calls `start`, and no more; and
//! the message `GO_AHEAD`.
//!
//! A server has the rights that the thread that executed it had at that moment. Each start compares
//! them with the calling thread's present rights. That takes some 30 system calls, so it is done
//! while the child is being made: the child waits for `GO_AHEAD` before it runs any of the user's
//! code, and doesn't get it if the server has other rights. "Confinement" in `PROTOCOL.md` says
//! what is compared, how, and what is done where something can't be read.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, ThreadId};

use multiproc_os::confinement::{self, Confinement};
use multiproc_os::settings::Settings;

use crate::spec::kind;
use crate::transfer::packet;

/// The rights and settings that the calling thread passes on to a process that it makes now. Read
/// at the first use.
#[derive(Default)]
pub(crate) struct Moment(OnceCell<(Confinement, Settings)>);

impl Moment {
    fn get(&self) -> &(Confinement, Settings) {
        self.0.get_or_init(|| {
            let (confinement, umask) = Confinement::current();
            (confinement, Settings::current(umask))
        })
    }

    /// Whether they have been read.
    pub(crate) fn is_known(&self) -> bool {
        self.0.get().is_some()
    }

    /// Reads them, unless that has been done. Called before the process is made.
    pub(crate) fn look(&self) {
        self.get();
    }
}

/// The rights and settings that a server was made with.
pub(crate) struct Made {
    confinement: Confinement,
    settings: Settings,
    /// Whether the thread that made the server could inspect it. If it could not, a later failure
    /// says nothing.
    may_look: bool,
    /// The thread that made the server.
    maker: ThreadId,
}

/// Whether the calling thread can use a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The server has the same rights.
    Same,
    /// The server has other rights.
    Other,
    /// The server has the same rights as far as they can be read, but the thread may have given up
    /// others.
    Unknown,
}

impl Made {
    /// For the server `pid`, which the calling thread has just executed, and which has answered.
    pub(crate) fn new(moment: &Moment, pid: i32) -> Made {
        let (mut confinement, settings) = moment.get().clone();
        confinement.complete(|| Confinement::current().0);
        let may_look = confinement::may_look_into(pid).unwrap_or(false);
        Made { confinement, settings, may_look, maker: thread::current().id() }
    }

    /// Whether a thread could have fewer rights than the server without a visible difference.
    pub(crate) fn is_blind(&self) -> bool {
        self.confinement.may_tighten_unseen(self.may_look) || self.has_filters_of_another_thread()
    }

    /// Whether the server has seccomp filters that a thread of this process other than the calling
    /// one has added: the calling thread may have added as many different ones.
    fn has_filters_of_another_thread(&self) -> bool {
        self.confinement.has_filters_of_its_own() && self.maker != thread::current().id()
    }

    /// Whether the calling thread, with its rights in `moment`, can use the server `pid`, to which
    /// `self` belongs.
    pub(crate) fn fit(&self, moment: &Moment, pid: i32) -> Fit {
        let (now, _) = moment.get();
        if self.confinement != *now {
            return Fit::Other;
        }
        match self.may_look {
            // The check also fails for a server that has ended.
            true if !confinement::may_look_into(pid).unwrap_or(false) => Fit::Other,
            may_look if now.may_tighten_unseen(may_look) => Fit::Unknown,
            _ if self.has_filters_of_another_thread() => Fit::Unknown,
            _ => Fit::Same,
        }
    }

    /// Sends `GO_AHEAD` to a child of the server, on the socket on which it waits, with the
    /// settings if they differ from the server's. Returns whether they differ; the child then
    /// acknowledges that it has applied them.
    pub(crate) fn go_ahead(&self, moment: &Moment, socket: impl AsFd) -> io::Result<bool> {
        let (_, settings) = moment.get();
        let differs = self.settings != *settings;
        let told = if differs { settings.to_bytes() } else { vec![] };
        packet::send(socket, kind::GO_AHEAD, &[&told], &[])?;
        Ok(differs)
    }
}

/// The parent's decision about a child of the server.
pub(crate) enum Word {
    /// Go ahead without changes.
    Go,
    /// Go ahead; the settings have been applied, and the child must acknowledge that.
    GoAndTell,
    /// The child isn't allowed to apply a setting.
    Unfit,
    /// Leave: the child isn't wanted, or the parent is gone.
    Leave,
}

/// In a child of the server: waits for `GO_AHEAD`, and applies the settings in it.
pub(crate) fn await_word(socket: OwnedFd) -> Word {
    match packet::receive(&socket, true) {
        Ok(packet) if packet.kind == kind::GO_AHEAD && packet.front().is_empty() => Word::Go,
        Ok(packet) if packet.kind == kind::GO_AHEAD => match Settings::from_bytes(packet.front()) {
            // The umask is set without being read first: it can only be read by setting it.
            Some(settings) if settings.apply(&Settings::current(None)).is_ok() => Word::GoAndTell,
            _ => Word::Unfit,
        },
        _ => Word::Leave,
    }
}
