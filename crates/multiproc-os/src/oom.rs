//! Counts the kernel's out-of-memory kills: the field `oom_kill` in the files of the memory
//! controller, see cgroups(7) and the kernel's cgroup-v2 page, or for the whole machine in
//! `/proc/vmstat`.

use std::fs;
use std::path::PathBuf;

use crate::control_group;

/// The number of out-of-memory kills so far in this process's control group, or on the whole
/// machine if the group's files don't say. None if neither is available.
pub fn kills() -> Option<u64> {
    let of_group = |directory: PathBuf| {
        // The files of cgroup v2 and v1.
        let texts = ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(directory.join(file)));
        texts.iter().flatten().find_map(|text| field(text))
    };
    let group = control_group::directories().into_iter().find_map(of_group);
    group.or_else(|| field(&fs::read_to_string("/proc/vmstat").ok()?))
}

fn field(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_count() {
        assert_eq!(field("low 0\nhigh 0\nmax 3\noom 2\noom_kill 17\noom_group_kill 4\n"), Some(17));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(field("oom 2\n"), None);
        assert!(kills().is_some(), "a kernel since 4.13 counts for the whole machine at least");
    }
}
