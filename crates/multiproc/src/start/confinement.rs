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
use multiproc_shm::message::packet;

use crate::spec::kind;

/// The rights and settings that the calling thread passes on to a process that it makes now. Read
/// at the first use.
#[derive(Default)]
pub(crate) struct CallerRights(OnceCell<(Confinement, Settings)>);

impl CallerRights {
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

    /// Reads them unless they are known. Called before the process is made.
    pub(crate) fn read(&self) {
        self.get();
    }
}

/// The rights and settings that a server was made with.
pub(crate) struct ServerRights {
    confinement: Confinement,
    settings: Settings,
    /// Whether the thread that made the server could inspect it. If not, a later failure proves
    /// nothing.
    can_inspect: bool,
    /// The thread that made the server.
    created_by: ThreadId,
}

/// Whether the calling thread can use a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RightsMatch {
    /// The server has the same rights.
    Same,
    /// The server has other rights.
    Different,
    /// The server has the same rights as far as they can be read, but the thread may have given up
    /// others.
    Unknown,
}

impl ServerRights {
    /// For the server `pid`, which the calling thread has just executed, and which has answered.
    pub(crate) fn new(rights: &CallerRights, pid: i32) -> ServerRights {
        let (mut confinement, settings) = rights.get().clone();
        confinement.complete(|| Confinement::current().0);
        let can_inspect = confinement::may_look_into(pid).unwrap_or(false);
        ServerRights { confinement, settings, can_inspect, created_by: thread::current().id() }
    }

    /// Whether a thread could have fewer rights than the server without a visible difference.
    pub(crate) fn may_differ_unseen(&self) -> bool {
        self.confinement.may_tighten_unseen(self.can_inspect) || self.has_filters_of_another_thread()
    }

    /// Whether the server has seccomp filters that a thread of this process other than the calling
    /// one has added: the calling thread may have added as many different ones.
    fn has_filters_of_another_thread(&self) -> bool {
        self.confinement.has_filters_of_its_own() && self.created_by != thread::current().id()
    }

    /// Whether the calling thread, which has these rights, can use the server `pid`, to which
    /// `self` belongs.
    pub(crate) fn compare(&self, rights: &CallerRights, pid: i32) -> RightsMatch {
        let (now, _) = rights.get();
        if self.confinement != *now {
            return RightsMatch::Different;
        }
        match self.can_inspect {
            // The check also fails for a server that has ended.
            true if !confinement::may_look_into(pid).unwrap_or(false) => RightsMatch::Different,
            can_inspect if now.may_tighten_unseen(can_inspect) => RightsMatch::Unknown,
            _ if self.has_filters_of_another_thread() => RightsMatch::Unknown,
            _ => RightsMatch::Same,
        }
    }

    /// Sends `GO_AHEAD` to a child of the server, on the socket on which it waits, with the
    /// settings if they differ from the server's. Returns whether they differ; the child then
    /// acknowledges that it has applied them.
    pub(crate) fn go_ahead(&self, rights: &CallerRights, socket: impl AsFd) -> io::Result<bool> {
        let (_, settings) = rights.get();
        let differs = self.settings != *settings;
        let told = if differs { settings.to_bytes() } else { vec![] };
        packet::send(socket, kind::GO_AHEAD, &[&told], &[])?;
        Ok(differs)
    }
}

/// The parent's decision about a child of the server.
pub(crate) enum GoAhead {
    /// Run the target; nothing changes.
    Proceed,
    /// Run the target; the settings have been applied, and the child must acknowledge that.
    ProceedAndAck,
    /// The child isn't allowed to apply a setting.
    NotPermitted,
    /// Exit: the parent dropped the child, or is gone.
    Exit,
}

/// In a child of the server: waits for `GO_AHEAD`, and applies the settings in it.
pub(crate) fn wait_for_go_ahead(socket: OwnedFd) -> GoAhead {
    match packet::receive(&socket, true) {
        Ok(packet) if packet.kind == kind::GO_AHEAD && packet.front().is_empty() => GoAhead::Proceed,
        Ok(packet) if packet.kind == kind::GO_AHEAD => match Settings::from_bytes(packet.front()) {
            // The umask is set without being read first: it can only be read by setting it.
            Some(settings) if settings.apply(&Settings::current(None)).is_ok() => GoAhead::ProceedAndAck,
            _ => GoAhead::NotPermitted,
        },
        _ => GoAhead::Exit,
    }
}
