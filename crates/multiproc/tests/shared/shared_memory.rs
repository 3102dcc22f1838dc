//! Bytes that processes share: under a lock, as atomics, by pointer; growable, frozen, and
//! read-only.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

use crate::common::{self, for_each_method, sleep_long};
use crate::locks::{any_lock, ends, holding_tests, start};
use crate::shared::kill;
use multiproc::shared_memory::{ArrayGuard, ArrayPart, HugePages, MemoryError, ReadOnlyMemory};
use multiproc::sync::{Event, LockError, Misuse};
use multiproc::{Array, CreateError, Handle, Process, Queue, SharedBytes, SharedMemory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

any_lock!(
    SharedMemory,
    "shared memory",
    ArrayGuard<u8>,
    SharedMemory::new(5000),
    lock,
    try_lock,
    lock_timeout,
    is_locked,
    [2, 2, 1]
);
holding_tests!(SharedMemory);

/// Returns another handle of it, as if it had come from another process.
fn sent<T: Serialize + DeserializeOwned + Send + 'static>(value: T) -> T {
    let queue = Queue::new().unwrap();
    queue.put(value).unwrap();
    queue.get().unwrap()
}

/// Its memory file, to which no process writes.
fn memory_file_of(memory: &SharedMemory) -> OwnedFd {
    // SAFETY: the file is not written to.
    unsafe { memory.memory_fd() }.try_clone_to_owned().unwrap()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn write(memory: SharedMemory, at: usize, text: String) {
    memory.lock().unwrap()[at..at + text.len()].copy_from_slice(text.as_bytes());
}

fn fill(part: ArrayPart<u8>, value: u8) {
    part.lock().unwrap().fill(value);
}

fn grow(memory: SharedMemory, len: usize) {
    memory.grow(len).unwrap();
    *memory.lock().unwrap().last_mut().unwrap() = 9;
}

fn count(memory: SharedMemory, times: u64) {
    let numbers = memory.as_atomics::<AtomicU64>().unwrap();
    for turn in 0..times {
        numbers[turn as usize % numbers.len()].fetch_add(1, SeqCst);
    }
}

fn write_by_pointer(memory: SharedMemory, place: usize) {
    // SAFETY: within the memory, and each process has its own offset.
    unsafe { memory.as_ptr().add(place).write_volatile(place as u8) };
}

fn sum(memory: ReadOnlyMemory) -> u64 {
    memory.prefault();
    memory.read().unwrap().iter().map(|byte| u64::from(*byte)).sum()
}

fn write_where_one_may_not(memory: ReadOnlyMemory) {
    // SAFETY: none: the write to read-only memory is what is tested.
    unsafe { memory.as_ptr().cast_mut().write_volatile(1) };
}

fn keep(memory: SharedMemory, has: Event) {
    has.set();
    let _memory = memory;
    sleep_long();
}

for_each_method! {
    fn smoke(method) {
        let memory = SharedMemory::new(10_001).unwrap();
        assert_eq!((memory.len(), memory.max_len()), (10_001, 10_001));
        ends(&start!(Process::new(write, (memory.clone(), 9_996, "hello".to_owned())), method));
        assert_eq!(&memory.read().unwrap()[9_994..], b"\0\0hello");
        let children: Vec<_> = memory
            .split(3)
            .unwrap()
            .into_iter()
            .map(|part| { let value = part.index() as u8 + 1; start!(Process::new(fill, (part, value)), method) })
            .collect();
        children.iter().for_each(|child| ends(child));
        let bytes = memory.to_vec().unwrap();
        assert_eq!([1, 2, 3].map(|value| bytes.iter().filter(|byte| **byte == value).count()), [3333, 3334, 3334]);
    }

    fn grow_while_shared(method) {
        let memory = SharedMemory::options().growable(1 << 40).create(100).unwrap();
        let guard = memory.lock().unwrap();
        drop(guard);
        let start = memory.as_ptr();
        ends(&start!(Process::new(grow, (memory.clone(), 1 << 20)), method));
        assert_eq!((memory.len(), memory.max_len(), memory.as_ptr()), (1 << 20, 1 << 40, start));
        let guard = memory.lock().unwrap();
        assert_eq!((guard.len(), guard[(1 << 20) - 1]), (1 << 20, 9));
        memory.grow(2 << 20).unwrap();
        assert_eq!(guard.len(), 1 << 20, "as it was when it was locked");
        drop(guard);
        memory.grow(5).unwrap();
        assert_eq!(memory.lock().unwrap().len(), 2 << 20);
        let allocated = std::fs::File::from(memory_file_of(&memory)).metadata().unwrap().blocks() * 512;
        assert_eq!(allocated, 2 << 20, "no more than is needed");
        let error = memory.grow((1 << 40) + 1).unwrap_err();
        assert!(matches!(error, MemoryError::Limit { .. }), "{error}");
        let error = memory.grow(1 << 39).unwrap_err();
        assert!(matches!(error, MemoryError::Io { .. }), "{error}");
        assert_eq!(memory.lock().unwrap().len(), 2 << 20);
    }

    fn atomics(method) {
        let memory = SharedMemory::new(5 * 8 + 7).unwrap();
        let children: Vec<_> = (0..3).map(|_| start!(Process::new(count, (memory.clone(), 5000)), method)).collect();
        children.iter().for_each(|child| ends(child));
        let numbers: Vec<_> = memory.as_atomics::<AtomicI64>().unwrap().iter().map(|number| number.load(SeqCst)).collect();
        assert_eq!(numbers, [3000; 5]);
    }

    fn raw_pointer(method) {
        let memory = SharedMemory::new(4).unwrap();
        let children: Vec<_> =
            (0..4).map(|place| start!(Process::new(write_by_pointer, (memory.clone(), place)), method)).collect();
        children.iter().for_each(|child| ends(child));
        // SAFETY: the processes that wrote have ended.
        unsafe {
            assert_eq!(memory.as_slice(), [0, 1, 2, 3]);
            memory.as_mut_slice()[0] = 7;
            assert_eq!(memory.as_slice()[0], 7);
        }
    }

    fn read_only(method) {
        let memory = SharedMemory::new(3000).unwrap();
        memory.lock().unwrap().fill(2);
        let view = memory.read_only().unwrap();
        for view in [view.clone(), sent(view.clone()), sent(sent(view.clone()))] {
            let child = Process::new(sum, (view,)).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap(), 6000);
        }
        let child = start!(Process::new(write_where_one_may_not, (view.clone(),)), method);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
        let guard = memory.lock().unwrap();
        assert!(view.try_read().is_err(), "this thread writes");
        drop(guard);
        let guard = view.read().unwrap();
        assert!(matches!(memory.lock(), Err(LockError::Misuse(Misuse::Reads("shared memory")))));
        assert_eq!((guard.len(), view.len(), view.is_empty()), (3000, 3000, false));
    }

    fn freeze(method) {
        let (memory, has) = (SharedMemory::new(5000).unwrap(), Event::new().unwrap());
        memory.lock().unwrap().fill(3);
        let view = memory.read_only().unwrap();
        let child = start!(Process::new(keep, (memory.clone(), has.clone())), method);
        has.wait().unwrap();
        let (memory, error) = memory.freeze().unwrap_err().into_parts();
        assert!(matches!(error, MemoryError::InUse), "{error}");
        let memory = memory.unwrap();
        memory.lock().unwrap()[0] = 4;
        kill(&child);
        // Another handle in this process.
        let other = memory.clone();
        let memory = memory.freeze().unwrap_err().into_parts().0.unwrap();
        drop(other);
        let other = sent(memory.clone());
        let memory = memory.freeze().unwrap_err().into_parts().0.unwrap();
        drop(other);
        let bytes = memory.freeze().unwrap();
        assert_eq!((bytes.len(), &bytes[..2]), (5000, &[4, 3][..]));
        assert_eq!(view.read().unwrap()[4999], 3, "a read-only view does not prevent freezing");
    }
}

#[multiproc::test]
fn exclusive_access_modes() {
    let memory = SharedMemory::new(64).unwrap();
    let other = sent(memory.clone());
    drop(memory.read().unwrap());
    let error = other.as_atomics::<AtomicU32>().unwrap_err();
    assert!(matches!(error, MemoryError::Locked), "{error}");
    assert!(error.to_string().contains("under its lock"));

    let memory = SharedMemory::new(64).unwrap();
    let other = sent(memory.clone());
    memory.as_atomics::<AtomicU32>().unwrap()[15].store(1, SeqCst);
    assert_eq!(other.as_atomics::<AtomicU32>().unwrap()[15].load(SeqCst), 1);
    let error = other.as_atomics::<AtomicU8>().unwrap_err();
    assert!(matches!(error, MemoryError::Atomics { size: 4, asked: 1 }), "{error}");
    let parts = other.split(2).unwrap();
    for result in [other.lock(), other.as_array::<u8>().unwrap().lock(), parts[0].lock()] {
        let Err(LockError::Misuse(misuse)) = result else { panic!("the call was allowed") };
        assert_eq!(misuse, Misuse::Atomics("shared memory"));
    }
    assert!(other.read().is_err() && other.read_only().unwrap().read().is_err());
}

#[multiproc::test]
fn freeze_in_flight() {
    let (memory, queue) = (SharedMemory::new(10).unwrap(), multiproc::Queue::new().unwrap());
    queue.put(memory.clone()).unwrap();
    let view = memory.read_only().unwrap();
    memory.freeze().unwrap();
    let error = queue.get().unwrap_err().to_string();
    assert!(error.contains("this shared memory has been frozen"), "{error}");
    assert_eq!(sent(view).len(), 10);
}

#[multiproc::test]
fn values() {
    let memory = SharedMemory::new(24).unwrap();
    let numbers = memory.as_array::<u64>().unwrap();
    numbers.lock().unwrap()[2] = 0x0102;
    assert_eq!(memory.lock().unwrap()[16..18], [2, 1]);
    let guard = numbers.lock().unwrap();
    assert!(memory.lock().is_err(), "it is the same lock");
    drop(guard);
    let error = memory.as_array::<[u64; 2]>().unwrap_err();
    assert!(matches!(error, MemoryError::Length { len: 24, size: 16 }), "{error}");
    let numbers = sent(numbers);
    assert_eq!(numbers.get(2).unwrap(), Some(0x0102));
    // Parts of the same memory may be of any type.
    let (pairs, bytes) = (memory.as_array::<[u32; 2]>().unwrap().split(3).unwrap(), memory.split(2).unwrap());
    assert!(matches!(pairs[0].lock(), Err(LockError::Misuse(Misuse::Divided(_)))));
    bytes[1].lock().unwrap().fill(1);
    assert_eq!(format!("{memory:?}"), "SharedMemory { len: 24, max_len: 24, locked: false, poisoned: false }");
}

#[multiproc::test]
fn empty() {
    let memory = SharedMemory::new(0).unwrap();
    assert!(memory.is_empty() && memory.lock().unwrap().is_empty() && sent(memory.clone()).is_empty());
    assert!(memory.freeze().unwrap().is_empty());
    let memory = SharedMemory::options().growable(1).create(0).unwrap();
    memory.grow(1).unwrap();
    assert_eq!(memory.to_vec().unwrap(), [0]);
    assert!(SharedMemory::new(0).unwrap().as_atomics::<AtomicU64>().unwrap().is_empty());
}

#[multiproc::test]
fn huge_pages() {
    let memory = SharedMemory::options().huge_pages(HugePages::Transparent).create(5 << 20).unwrap();
    memory.prefault();
    memory.lock().unwrap().fill(1);
    // Whether there are any is up to the kernel.
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let huge = smaps.lines().filter(|line| line.starts_with("ShmemPmdMapped:") && !line.ends_with(" 0 kB"));
    println!("transparent: {:?}", huge.collect::<Vec<_>>());
    assert_eq!(sent(memory).to_vec().unwrap(), vec![1; 5 << 20]);
    // There may or may not be reserved pages.
    let reserved = SharedMemory::options().huge_pages(HugePages::Reserved).growable(8 << 20).create(3 << 20);
    match reserved {
        Ok(memory) => {
            memory.lock().unwrap().fill(1);
            memory.grow(7 << 20).unwrap_or_else(|error| println!("{error}"));
            println!("reserved: {memory:?}");
            assert_eq!(sent(memory.clone()).read().unwrap()[..3 << 20], vec![1; 3 << 20]);
            let view = sent(memory.read_only().unwrap());
            assert_eq!(view.read().unwrap()[..3 << 20], vec![1; 3 << 20]);
            let len = memory.len();
            let bytes = memory.freeze().unwrap();
            let slice = sent(bytes.slice((2 << 20) + 5..3 << 20));
            drop((bytes, view));
            assert_eq!(slice, &vec![1; (1 << 20) - 5]);
            assert!(len >= 3 << 20);
            // There is never this much.
            let error = SharedMemory::options().huge_pages(HugePages::Reserved).create(1 << 45).unwrap_err();
            assert!(matches!(error, MemoryError::Create(CreateError { what: "shared memory", .. })), "{error}");
        }
        Err(error) => {
            assert!(matches!(error, MemoryError::Create(CreateError { what: "shared memory", .. })), "{error}")
        }
    }
}

#[multiproc::test]
fn creation_errors() {
    for len in [usize::MAX, 1 << 62, 1 << 46] {
        let error = SharedMemory::new(len).unwrap_err();
        assert!(matches!(error, CreateError { what: "shared memory", .. }), "{error}");
        let error = SharedMemory::options().huge_pages(HugePages::Transparent).create(len).unwrap_err();
        assert!(matches!(error, MemoryError::Create(CreateError { what: "shared memory", .. })), "{error}");
    }
    common::in_a_process_with_one_thread(|| {
        let set = |resource, value| {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: the pointer is to a local structure.
            assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
        };
        let files = open_files();
        let memory = SharedMemory::options().growable(1 << 30).create(100).unwrap();
        // Limits the length of files, including memory files.
        set(libc::RLIMIT_FSIZE, 1 << 20);
        let error = SharedMemory::new(2 << 20).unwrap_err();
        assert!(error.to_string().contains("File too large"), "{error}");
        set(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
        // Limits the address space.
        let used: u64 =
            std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
        set(libc::RLIMIT_AS, used * 4096 + (64 << 20));
        let error = SharedMemory::new(100 << 20).unwrap_err();
        assert!(error.to_string().contains("Cannot allocate memory"), "{error}");
        let queue = Queue::new().unwrap();
        let error = queue.put(memory.clone()).unwrap_err();
        assert!(error.to_string().contains("Cannot allocate memory"), "{error}");
        set(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        drop((queue, error));
        memory.grow(1 << 20).unwrap();
        drop(memory);
        assert_eq!(open_files(), files);
        // Limits the number of descriptors.
        let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
        // SAFETY: the pointer is to a local structure.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        // It needs two.
        for _ in 0..2 {
            let error = SharedMemory::new(1).unwrap_err();
            assert!(error.to_string().contains("Too many open files"), "{error}");
            files.pop();
        }
    });
}

/// A descriptor in place of another.
#[derive(Serialize)]
struct Forged {
    control: Handle<OwnedFd>,
    memory: Option<Handle<OwnedFd>>,
}

impl<'de> Deserialize<'de> for Forged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Forged, D::Error> {
        SharedMemory::deserialize(deserializer).map(|_| unreachable!())
    }
}

/// A part of bytes, which is received as a part of numbers.
#[derive(Serialize)]
struct Bytes(ArrayPart<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let part = ArrayPart::<u64>::deserialize(deserializer)?;
        let values = part.lock().unwrap();
        assert_eq!((part.len(), part.range().len(), part.is_empty()), (values.len(), values.len(), values.is_empty()));
        let expected: Vec<u64> = part.range().map(|place| place as u64).collect();
        assert_eq!(*values, *expected);
        Err(serde::de::Error::custom(format!("{:?} of u64", part.range())))
    }
}

#[multiproc::test]
fn atomics_of_a_part() {
    let memory = SharedMemory::new(64).unwrap();
    for (place, number) in memory.as_array::<u64>().unwrap().lock().unwrap().iter_mut().enumerate() {
        *number = place as u64;
    }
    for (len, expected) in [(20, ["0..2", "3..5", "5..7", "8..8"]), (3, ["0..0", "0..0", "1..1", "1..1"])] {
        for (part, expected) in memory.chunks(len).unwrap().into_iter().zip(expected) {
            // A queue decodes the item once when it is put, to check that it can be read.
            let queue = Queue::new().unwrap();
            let error = queue.put(Bytes(part)).unwrap_err().to_string();
            assert!(error.contains(&format!("{expected} of u64")), "{error}, not {expected}");
        }
    }
}

/// A memory file of this length, with these seals.
fn memory_file(len: u64, seals: i32) -> OwnedFd {
    // SAFETY: the name is NUL-terminated, and the descriptor is new.
    unsafe {
        let file = File::from_raw_fd(libc::memfd_create(c"x".as_ptr(), libc::MFD_ALLOW_SEALING));
        file.set_len(len).unwrap();
        assert_eq!(libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_ADD_SEALS, seals), 0);
        file.into()
    }
}

#[multiproc::test]
fn garbage() {
    common::in_a_process_with_one_thread(forge);
}

fn forge() {
    let memory = SharedMemory::new(3 * 4096).unwrap();
    let real = || memory_file_of(&memory);
    let pipe = || OwnedFd::from(std::io::pipe().unwrap().0);
    let reject = |control: OwnedFd, other: Option<OwnedFd>, text: &str| {
        let forged = Forged { control: control.into(), memory: other.map(Handle::from) };
        let error = Process::new(|_: Forged| (), (forged,)).start().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    reject(pipe(), None, "invalid shared memory: not a memory file");
    reject(real(), None, "invalid shared memory");
    reject(memory_file(1 << 20, libc::F_SEAL_SHRINK), Some(real()), "it is an object of another kind");
    // All descriptors are genuine, except the memory itself.
    let control = control_of(&memory);
    for (other, text) in [
        (pipe(), "not a memory file"),
        (memory_file(1 << 20, 0), "could shrink"),
        (memory_file(4096, libc::F_SEAL_SHRINK), "it is too short"),
        (memory_file(0, libc::F_SEAL_SHRINK), "it is too short"),
        (memory_file(1 << 20, libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE), "has been frozen"),
    ] {
        reject(control.try_clone().unwrap(), Some(other), text);
    }
    let error = serde_json::to_string(&memory).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

/// The descriptor of this memory's control, in a process that has no other.
fn control_of(memory: &SharedMemory) -> OwnedFd {
    let its = File::from(memory_file_of(memory)).metadata().unwrap().ino();
    let mut found = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = std::fs::read_link(&path).ok()?;
        let is_control =
            name.to_str()?.starts_with("/memfd:multiproc-shared memory") && path.metadata().ok()?.ino() != its;
        is_control.then(|| File::options().read(true).write(true).open(path).unwrap())
    });
    found.next().unwrap().into()
}

#[multiproc::test]
fn drops() {
    common::in_a_process_with_one_thread(|| {
        let files = open_files();
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:multiproc-").count();
        let mapped = maps();
        for _ in 0..3 {
            let memory = SharedMemory::options().growable(1 << 30).create(1 << 20).unwrap();
            let other = sent(memory.clone());
            let view = other.read_only().unwrap();
            let parts = memory.split(5).unwrap();
            drop(parts[3].lock().unwrap());
            drop((memory, other, view, parts));
            let bytes = SharedMemory::new(1 << 20).unwrap().freeze().unwrap();
            drop((sent(bytes.slice(5..)), bytes));
        }
        assert_eq!((open_files(), maps()), (files, mapped));
    });
}

#[multiproc::test]
fn freeze_poisoned() {
    let memory = SharedMemory::new(4096).unwrap();
    let other = memory.clone();
    let dies = move || {
        let mut guard = other.lock().unwrap();
        guard[0] = 1;
        std::mem::forget(guard);
    };
    std::thread::spawn(dies).join().unwrap();
    // The kernel may not have finished with the thread yet.
    assert!(memory.lock_timeout(common::LONG).is_err_and(|error| error.is_poisoned()));
    let (memory, error) = memory.freeze().unwrap_err().into_parts();
    assert!(matches!(error, MemoryError::Poisoned(_)), "{error}");
    let memory = memory.unwrap();
    memory.clear_poison();
    assert_eq!(memory.freeze().unwrap()[0], 1);
}

/// At the limit of mappings (`/proc/sys/vm/max_map_count`) nothing can be created or opened, and a
/// failed attempt leaves nothing behind.
#[multiproc::test]
fn mapping_limit() {
    common::in_a_process_with_one_thread(|| {
        let most: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        if most > 1 << 20 {
            eprintln!("skipped: there can be {most} mappings");
            return;
        }
        let (memory, bytes) = (SharedMemory::new(5000).unwrap(), SharedBytes::copy_from_slice(b"abc").unwrap());
        let files = open_files();
        // Neighbours alternate between readable and inaccessible, so that the kernel can't merge
        // them.
        let mut pages = Vec::with_capacity(most);
        loop {
            let protection = if pages.len() % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new mappings, which are not used.
            let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            if page == libc::MAP_FAILED {
                break;
            }
            pages.push(page);
        }
        for error in [
            SharedMemory::new(1).unwrap_err().to_string(),
            Array::<u64>::new(1).unwrap_err().to_string(),
            SharedBytes::copy_from_slice(b"x").unwrap_err().to_string(),
            memory.read_only().unwrap_err().to_string(),
        ] {
            assert!(error.contains("Cannot allocate memory"), "{error}");
        }
        assert_eq!(open_files(), files);
        // The existing memory can be used.
        memory.lock().unwrap()[0] = 1;
        for page in pages {
            // SAFETY: it was mapped above, and is not used.
            assert_eq!(unsafe { libc::munmap(page, 4096) }, 0);
        }
        assert_eq!((sent(memory).read().unwrap()[0], sent(bytes)), (1, SharedBytes::copy_from_slice(b"abc").unwrap()));
    });
}
