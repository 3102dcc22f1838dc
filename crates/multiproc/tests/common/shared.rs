//! What tests of shared objects need: to see that a process sleeps, and numbers that all processes
//! see.

#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::common::LONG;

/// Waits until the first thread of this process sleeps in poll(2), as after a long wait.
pub(crate) fn wait_asleep(pid: i32) {
    wait_asleep_in(pid, &[libc::SYS_ppoll, if cfg!(target_arch = "x86_64") { 7 } else { libc::SYS_ppoll }]);
}

/// Waits until it sleeps in futex(2), as in a wait for a lock.
pub(crate) fn wait_asleep_in_futex(pid: i32) {
    wait_asleep_in(pid, &[libc::SYS_futex]);
}

fn wait_asleep_in(pid: i32, numbers: &[libc::c_long]) {
    let start = Instant::now();
    loop {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        if numbers.iter().any(|number| call.starts_with(&format!("{number} "))) {
            return;
        }
        assert!(start.elapsed() < LONG, "process {pid} doesn't sleep in any of {numbers:?}: {call}");
        std::thread::yield_now();
    }
}

/// Kills the child, and waits until it has ended.
pub(crate) fn kill<T>(child: &multiproc::Child<T>) {
    child.kill().unwrap();
    assert_eq!(child.wait_timeout(LONG).unwrap().unwrap().signal(), Some(libc::SIGKILL));
}

/// Numbers in memory that all processes with this object share. All are 0 at first.
#[derive(Debug)]
pub(crate) struct Numbers {
    file: SharedFile,
    mapping: Mapping,
}

impl Numbers {
    pub(crate) fn new() -> Numbers {
        let file = SharedFile::create("numbers", PAGE as u64).unwrap();
        file.allocate(0, PAGE as u64).unwrap();
        Numbers::of(file)
    }

    fn of(file: SharedFile) -> Numbers {
        Numbers { mapping: Mapping::new(&file, 0, PAGE).unwrap(), file }
    }

    pub(crate) fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < PAGE / 8);
        // SAFETY: within the mapping, aligned, and only used as atomics.
        unsafe { &*self.mapping.start().as_ptr().cast::<AtomicU64>().add(index) }
    }
}

impl Clone for Numbers {
    fn clone(&self) -> Numbers {
        let file = std::os::fd::AsFd::as_fd(&self.file).try_clone_to_owned().unwrap();
        Numbers::of(SharedFile::from_fd(file).unwrap())
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        multiproc::handle::serialize(&self.file, serializer)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        let fd: OwnedFd = multiproc::handle::deserialize(deserializer)?;
        Ok(Numbers::of(SharedFile::from_fd(fd).unwrap()))
    }
}
