//! How often the kernel has killed for want of memory: `oom_kill` in the memory controller's files, see cgroups(7) and the kernel's
//! cgroup-v2 page, or that of the whole machine in `/proc/vmstat`.

use std::fs;
use std::path::PathBuf;

/// The number of kills for want of memory so far, in this process's control group if that tells, else on the machine. None where neither
/// does.
pub fn kills() -> Option<u64> {
    let file = control_group_file().and_then(|path| fs::read_to_string(path).ok());
    let text = file.or_else(|| fs::read_to_string("/proc/vmstat").ok())?;
    field(&text)
}

fn field(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The file in which the memory controller of this process's group counts.
fn control_group_file() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.trim_start_matches('/'));
        let candidates: &[(&str, &str)] = match controllers {
            "" => &[("/sys/fs/cgroup", "memory.events"), ("/sys/fs/cgroup/unified", "memory.events")],
            controllers if controllers.split(',').any(|controller| controller == "memory") => {
                &[("/sys/fs/cgroup/memory", "memory.oom_control")]
            }
            _ => &[],
        };
        for (mount, file) in candidates {
            // Within a container the path may be that of the outside, and its own group is what is mounted.
            for candidate in [PathBuf::from(mount).join(path).join(file), PathBuf::from(mount).join(file)] {
                if fs::read_to_string(&candidate).is_ok_and(|text| field(&text).is_some()) {
                    return Some(candidate);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found() {
        assert_eq!(field("low 0\nhigh 0\nmax 3\noom 2\noom_kill 17\noom_group_kill 4\n"), Some(17));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(field("oom 2\n"), None);
        assert!(kills().is_some(), "a kernel since 4.13 counts for the whole machine at least");
    }
}
