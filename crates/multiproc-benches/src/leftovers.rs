//! Files that benchmarks leave in system directories.
//!
//! All of them have a name that begins with the number of their run. They are removed at the end of
//! the run, or by a later run if the run was killed.

use std::path::{Path, PathBuf};

/// The directories where such files lie.
const PLACES: [&str; 2] = ["/tmp", "/dev/shm"];

const BEGINNING: &str = "multiproc-bench-";

/// The prefix of a run's file names. A run's number is the pid of its process.
pub fn prefix(run: u32) -> String {
    format!("{BEGINNING}{run}-")
}

/// Removes the files of this run and of runs that are over.
pub fn sweep() {
    for path in PLACES.iter().flat_map(|place| leftovers(Path::new(place))) {
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

fn leftovers(place: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    entries.filter(|entry| run_of(&entry.file_name().to_string_lossy()).is_some_and(is_over)).map(|entry| entry.path())
}

/// The run that a file name belongs to.
fn run_of(name: &str) -> Option<u32> {
    name.strip_prefix(BEGINNING)?.split_once('-')?.0.parse().ok()
}

/// Returns whether the files of a run are no longer needed. That includes this run's: this is never
/// called in the middle of a run.
fn is_over(run: u32) -> bool {
    run == std::process::id() || !Path::new(&format!("/proc/{run}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_contain_the_run() {
        assert_eq!(run_of(&format!("{}iceoryx2", prefix(123))), Some(123));
        assert_eq!(run_of("multiproc-bench-x-y"), None);
        assert_eq!(run_of("something-else-123-y"), None);
    }

    #[test]
    fn run_ends_with_its_process() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let run = child.id();
        assert!(!is_over(run), "not waited for yet");
        child.wait().unwrap();
        assert!(is_over(run));
        assert!(!is_over(std::os::unix::process::parent_id()));
    }
}
