//! The program that is stepped through a start. It prints the outcome, and checks that nothing of
//! the start is left in it.

use multiproc::process::{JoinErrorKind, StartError};
use multiproc::{Child, Process, StartMethod};
use multiproc_programs::say;

use super::family;

/// Raised where the start under test begins, where it ends, and where the end of the program
/// begins. The tracer sees the signal and doesn't deliver it.
pub(crate) const MARK: libc::c_int = libc::SIGUSR1;

fn mark() {
    // SAFETY: the tracer suppresses the signal; without a tracer, it ends this process.
    unsafe { libc::raise(MARK) };
}

fn start(method: StartMethod, number: u32) -> Result<Child<u32>, StartError> {
    Process::new(|number: u32| number + 1, (number,)).start_method(method).start()
}

/// Starts a process, which may fail, and another one, which may not. It does so `cold`; or `warm`,
/// after an earlier start, so that a server is running already; or `ignoring`, which is warm with
/// SIGCHLD ignored, so that the kernel reaps the children.
pub(crate) fn run(method: StartMethod, state: &str) {
    // With standby, which processes exist would depend on timing.
    multiproc::process::set_standby(false);
    if state == "ignoring" {
        // SAFETY: no handler is installed or replaced.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    }
    // Descriptors that are opened once and kept: the pages of the server's ids, for example, and
    // the server's own two descriptors.
    let mut kept = family::descriptors().len();
    if method == StartMethod::ForkServer {
        kept += 2;
    }
    if state != "cold" {
        assert_eq!(start(method, 1).unwrap().join().unwrap(), 2);
    }
    mark();
    let outcome = match start(method, 2).map(Child::join) {
        Ok(Ok(value)) => {
            assert_eq!(value, 3);
            "value"
        }
        Ok(Err(error)) if error.signal() == Some(libc::SIGKILL) => "killed",
        // The child was reaped before its pidfd could be opened, so its exit status is lost.
        Ok(Err(error)) if matches!(error.kind(), JoinErrorKind::Unknown) && state == "ignoring" => "killed",
        Err(StartError::Handshake { .. }) => "handshake",
        Err(StartError::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) && state == "ignoring" => {
            "handshake"
        }
        other => panic!("{other:?}"),
    };
    mark();
    // Regardless of what happened to that start, the next one succeeds.
    assert_eq!(start(method, 3).unwrap().join().unwrap(), 4);
    let (descriptors, children) = (family::descriptors(), family::children());
    assert_eq!(descriptors.len(), kept, "{descriptors:?}");
    assert_eq!(children.len(), usize::from(method == StartMethod::ForkServer), "{children:?}");
    assert!(children.iter().all(|child| !child.ends_with('Z') && child.contains("multiproc-serve")), "{children:?}");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped: Vec<_> = maps.lines().filter(|line| line.contains("memfd:")).collect();
    assert_eq!(mapped.len(), children.len(), "{mapped:?}");
    say(outcome);
    mark();
}
