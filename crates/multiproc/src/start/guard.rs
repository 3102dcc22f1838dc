//! Ends the children of a killed parent that have lost their lifelines: those that have changed
//! their user, where the parent is not root of the whole system but may set any user id, as in a
//! rootless container. (`multiproc_os::lifeline` says when that is so.)
//!
//! The server does this. It has its parent's rights, ends no sooner than the parent, and is told of
//! every child before the child runs any of the user's code: it knows the children that it makes,
//! and the parent announces the others. See "Lifelines" in `PROTOCOL.md`.

use multiproc_os::identity::Identity;
use multiproc_os::pidfd;
use multiproc_os::signal::SIGKILL;

/// The least length of the list at which processes that have ended are removed.
const FEW: usize = 64;

/// In the server: the children that must end with the parent.
#[derive(Debug)]
pub(crate) struct OrphanGuard {
    /// The pid of the parent when the server was started.
    parent: i32,
    /// The parent and its children; none while there are no children to guard.
    family: Option<(Identity, Vec<Identity>)>,
    /// The length of the list at which ended processes are removed next.
    full: usize,
}

impl OrphanGuard {
    /// An empty list of children of the process `parent`.
    pub(crate) fn of(parent: i32) -> OrphanGuard {
        OrphanGuard { parent, family: None, full: FEW }
    }

    /// Adds the process `pid`, if it is a child of the parent. Without `/proc` this can't be
    /// verified, and nothing is added.
    pub(crate) fn add(&mut self, pid: i32) {
        let Ok(Some(child)) = Identity::of_child(pid, self.parent) else { return };
        if self.family.is_none() {
            let Ok(Some(parent)) = Identity::of(self.parent) else { return };
            self.family = Some((parent, Vec::new()));
        }
        if let Some((_, orphans)) = &mut self.family {
            if orphans.len() >= self.full {
                orphans.retain(|ward| !ward.has_ended().unwrap_or(false));
                self.full = FEW.max(2 * orphans.len());
            }
            orphans.push(child);
        }
    }

    /// Called when the control socket has been closed: kills all children if the parent has ended.
    /// If the parent lives, it has only closed the socket, and the children live on.
    pub(crate) fn end(self) {
        let Some((parent, orphans)) = self.family else { return };
        if parent.is_ending().unwrap_or(false) {
            for pidfd in orphans.iter().filter_map(|ward| ward.watch().ok().flatten()) {
                let _ = pidfd::send_signal(pidfd, SIGKILL);
            }
        }
    }
}

/// Encodes the message that announces a child.
pub(crate) fn front(pid: i32) -> [u8; 4] {
    pid.to_le_bytes()
}

/// Decodes the pid in such a message.
pub(crate) fn pid(front: &[u8]) -> Option<i32> {
    Some(i32::from_le_bytes(front.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_live_parent() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut orphans = OrphanGuard::of(std::process::id() as i32);
        orphans.add(child.id() as i32);
        // The test harness is not a child of itself.
        orphans.add(std::process::id() as i32);
        assert_eq!(orphans.family.as_ref().unwrap().1.len(), 1);
        orphans.end();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn ended_and_foreign_processes() {
        let mut orphans = OrphanGuard::of(std::process::id() as i32);
        for _ in 0..3 * FEW {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            orphans.add(child.id() as i32);
            child.wait().unwrap();
        }
        assert!(orphans.family.as_ref().is_none_or(|(_, orphans)| orphans.len() <= FEW));
        orphans.add(1);
        orphans.add(-1);
        orphans.end();
    }

    #[test]
    fn round_trip() {
        assert_eq!(pid(&front(7)), Some(7));
        assert_eq!(pid(b""), None);
        assert_eq!(pid(b"12345"), None);
    }
}
