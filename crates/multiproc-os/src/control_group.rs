//! The control group that this process is in, as far as it concerns memory: cgroups(7), and the kernel's pages on both versions of the controller.

use std::fs;
use std::path::{Path, PathBuf};

/// The directories of this process's group, and of those that it is in; its own first. Several, since within a container the path may be that of the outside, and its own
/// group is what is mounted.
pub(crate) fn directories() -> Vec<PathBuf> {
    in_table(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
}

fn in_table(table: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let mounts: &[&str] = match controllers {
            "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
            controllers if controllers.split(',').any(|controller| controller == "memory") => {
                &["/sys/fs/cgroup/memory"]
            }
            _ => &[],
        };
        for mount in mounts {
            let all = Path::new(path).ancestors().map(|path| path.strip_prefix("/").unwrap_or(path));
            found.extend(all.map(|path| Path::new(mount).join(path)));
        }
    }
    found
}

/// How much memory the groups leave this process, in bytes: what is not used up to the lowest limit, and what the kernel can take back of what is. None without limits.
pub(crate) fn free_memory() -> Option<u64> {
    directories().iter().filter_map(|directory| left(|file| fs::read_to_string(directory.join(file)).ok())).min()
}

/// What these files of one group say.
fn left(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |file| read(file)?.trim().parse::<u64>().ok();
    // "max" is none; in the first version it is a number that is larger than any memory.
    let (limit, used, prefix) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, ""),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_"),
    };
    let stat = read("memory.stat").unwrap_or_default();
    let cached = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(prefix)?.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    Some(limit.saturating_sub(used).saturating_add(cached("active_file")).saturating_add(cached("inactive_file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Option<u64> {
        left(|file| texts.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn what_is_left_is_reckoned_in_both_versions() {
        let stat = ("memory.stat", "anon 5\nfile 70\nactive_file 3\ninactive_file 4\ntotal_active_file 30\n");
        assert_eq!(files(&[("memory.max", "100\n"), ("memory.current", "60\n"), stat]), Some(47));
        assert_eq!(files(&[("memory.limit_in_bytes", "100\n"), ("memory.usage_in_bytes", "60\n"), stat]), Some(70));
        assert_eq!(files(&[("memory.max", "100\n"), ("memory.current", "160\n")]), Some(0));
        assert_eq!(files(&[("memory.max", "max\n"), ("memory.current", "60\n"), stat]), None);
        assert_eq!(files(&[]), None);
    }

    #[test]
    fn own_group_comes_first() {
        let table = "12:cpu:/x\n5:hugetlb,memory:/a/b\n0::/c\nnonsense\n";
        let expected = [
            "/sys/fs/cgroup/memory/a/b",
            "/sys/fs/cgroup/memory/a",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/c",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified/c",
            "/sys/fs/cgroup/unified",
        ];
        assert_eq!(in_table(table), expected.map(PathBuf::from));
        println!("{:?}, {:?} left", directories(), free_memory());
    }
}
