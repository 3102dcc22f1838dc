//! [`MemoryGroup`]: a control group in which memory is short.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A control group with a memory limit, removed at the end of the test. `None` where this process
/// may not make one.
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    pub(crate) fn new(limit: u64) -> Option<MemoryGroup> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("multiproc-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        // Version 1, then 2.
        let candidates = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        candidates.into_iter().find_map(|(mount, file)| {
            let group = MemoryGroup(Path::new(mount).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            // Where nothing is mounted, this is a directory like any other.
            group.0.join("cgroup.procs").exists().then_some(())?;
            std::fs::write(group.0.join(file), limit.to_string()).ok()?;
            // Where memory can be swapped out, it isn't short.
            let _ = std::fs::write(group.0.join("memory.swap.max"), "0");
            let _ = std::fs::write(group.0.join("memory.memsw.limit_in_bytes"), limit.to_string());
            Some(group)
        })
    }

    /// The file into which a process writes `0` to join the group.
    pub(crate) fn procs(&self) -> String {
        self.0.join("cgroup.procs").to_str().unwrap().to_owned()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Possible once the last process that was in it has been reaped.
        let _ = std::fs::remove_dir(&self.0);
    }
}
