//! Runs a program so that every process that it leaves behind becomes a child of this one.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A run that takes longer hangs. Less than the 30 seconds after which a start gives up by itself,
/// since that would be a hang too.
const LONGEST: libc::c_uint = 15;

static HANGS: AtomicBool = AtomicBool::new(false);

/// A change of state of a child or tracee.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) pid: i32,
    /// As returned by waitpid(2).
    pub(crate) status: libc::c_int,
}

/// Makes orphans children of this process, and makes sure that it doesn't wait for their events
/// forever.
pub(crate) fn adopt_orphans() {
    extern "C" fn on_alarm(_: libc::c_int) {
        HANGS.store(true, Relaxed);
    }
    // SAFETY: the handler stores a flag; it is installed without SA_RESTART, so that the wait ends.
    // The structure is filled in before it is used.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Starts the time limit of a run.
pub(crate) fn begin() {
    // SAFETY: no memory is touched.
    unsafe { libc::alarm(LONGEST) };
}

/// Waits for the next event of a child, orphan or tracee. Returns None when there are none left:
/// then the run is over.
pub(crate) fn next_event() -> Option<Event> {
    let mut status = 0;
    // SAFETY: the status is written to a local variable.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) } {
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => {
                // SAFETY: no memory is touched.
                unsafe { libc::alarm(0) };
                None
            }
            error if error.kind() == io::ErrorKind::Interrupted && HANGS.load(Relaxed) => {
                panic!("processes are left after {LONGEST} s: {:?}", children())
            }
            error => panic!("{error}"),
        },
        pid => Some(Event { pid, status }),
    }
}

/// Waits until this tracee has stopped. Returns false if it has ended instead.
pub(crate) fn stops(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: the status is written to a local variable.
    let result = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert_eq!(result, pid, "{}", io::Error::last_os_error());
    libc::WIFSTOPPED(status)
}

/// The children of this process: ids, names and states.
pub(crate) fn children() -> Vec<String> {
    let me = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
    list.split_whitespace()
        .map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// The open descriptors of this process: numbers and targets.
pub(crate) fn descriptors() -> Vec<String> {
    let mut list: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            // Leave out the directory that is being listed.
            (!target.starts_with("/proc")).then(|| format!("{} {}", entry.file_name().display(), target.display()))
        })
        .collect();
    list.sort();
    list
}

/// An empty directory for the temporary files of the killed programs. It must still be empty at the
/// end.
pub(crate) fn temporary_directory() -> &'static str {
    static DIRECTORY: OnceLock<String> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("multiproc-chaos-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

/// Removes that directory; fails if it isn't empty, or if `/dev/shm` holds files of multiproc.
pub(crate) fn no_files_are_left() {
    let shared: Vec<_> = std::fs::read_dir("/dev/shm")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().contains("multiproc"))
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
    // This fails if the directory isn't empty.
    std::fs::remove_dir(temporary_directory()).unwrap();
}
