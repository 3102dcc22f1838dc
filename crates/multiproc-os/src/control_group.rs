//! The memory limits of this process's control group; see cgroups(7) and the kernel's documentation
//! of both versions of the memory controller.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directories of this process's control group and of its ancestors, the process's own
/// group first. There are several candidates: inside a container, `/proc/self/cgroup` may show the
/// path as the host sees it, while the process's own group is what is mounted.
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

/// Returns the bytes of memory that the groups still allow this process, on a system with `swap`
/// bytes of free swap: the unused part of the lowest limit, plus what the kernel can reclaim of the
/// used part, plus what it may swap out. `None` without limits.
pub(crate) fn free_memory(swap: u64) -> Option<u64> {
    let left = |directory: &PathBuf| left(|file| fs::read_to_string(directory.join(file)).ok(), swap);
    directories().iter().filter_map(left).min()
}

/// Computes the same for one group, from the contents of its files.
fn left(read: impl Fn(&str) -> Option<String>, swap: u64) -> Option<u64> {
    let number = |file| read(file)?.trim().parse::<u64>().ok();
    let between = |limit, used| Some(number(limit)?.saturating_sub(number(used)?));
    let stat = read("memory.stat").unwrap_or_default();
    let cached = |names: &[&str]| {
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        let numbers = lines.filter(|(name, _)| names.contains(name)).filter_map(|(_, text)| text.parse::<u64>().ok());
        numbers.fold(0, u64::saturating_add)
    };
    // "max" means no limit; version 1 writes a number that is larger than any memory instead. In
    // version 1, the limit on swap covers memory and swap together.
    match between("memory.max", "memory.current") {
        Some(left) => {
            let cached = cached(&["active_file", "inactive_file", "slab_reclaimable"]);
            let swap = between("memory.swap.max", "memory.swap.current").unwrap_or(swap).min(swap);
            Some(left.saturating_add(cached).saturating_add(swap))
        }
        None => {
            let left = between("memory.limit_in_bytes", "memory.usage_in_bytes")?.saturating_add(swap);
            let both = between("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes").unwrap_or(left);
            Some(left.min(both).saturating_add(cached(&["total_active_file", "total_inactive_file"])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)], swap: u64) -> Option<u64> {
        left(|file| texts.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned()), swap)
    }

    #[test]
    fn available_memory_in_v1_and_v2() {
        let stat = ("memory.stat", "anon 5\nfile 70\nactive_file 3\ninactive_file 4\ntotal_active_file 30\n");
        assert_eq!(files(&[("memory.max", "100\n"), ("memory.current", "60\n"), stat], 0), Some(47));
        let first = [("memory.limit_in_bytes", "100\n"), ("memory.usage_in_bytes", "60\n"), stat];
        assert_eq!(files(&first, 0), Some(70));
        assert_eq!(files(&[("memory.max", "100\n"), ("memory.current", "160\n")], 0), Some(0));
        assert_eq!(files(&[("memory.max", "max\n"), ("memory.current", "60\n"), stat], 9), None);
        assert_eq!(files(&[], 9), None);
    }

    #[test]
    fn swap_and_slab_count_as_available() {
        let second = [("memory.max", "100\n"), ("memory.current", "60\n"), ("memory.stat", "slab_reclaimable 5\n")];
        let swap = |max| [("memory.swap.max", max), ("memory.swap.current", "10\n")];
        assert_eq!(files(&second, 1000), Some(1045));
        assert_eq!(files(&[&second[..], &swap("max\n")].concat(), 1000), Some(1045));
        assert_eq!(files(&[&second[..], &swap("30\n")].concat(), 1000), Some(65));
        assert_eq!(files(&[&second[..], &swap("30\n")].concat(), 1), Some(46));
        assert_eq!(files(&[&second[..], &swap("0\n")].concat(), 1000), Some(45));
        let first = [("memory.limit_in_bytes", "100\n"), ("memory.usage_in_bytes", "60\n")];
        let both = [("memory.memsw.limit_in_bytes", "200\n"), ("memory.memsw.usage_in_bytes", "90\n")];
        assert_eq!(files(&first, 1000), Some(1040));
        assert_eq!(files(&[&first[..], &both].concat(), 1000), Some(110));
        assert_eq!(files(&[&first[..], &both].concat(), 0), Some(40));
    }

    #[test]
    fn own_group_first() {
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
        println!("{:?}, {:?} left", directories(), free_memory(0));
    }
}
