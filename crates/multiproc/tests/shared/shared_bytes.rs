//! Bytes that go from process to process without being copied, and that no process changes.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::common::{Ends, for_each_method};
use multiproc::shared_memory::MemoryError;
use multiproc::{CreateError, Handle, Process, Queue, SharedBytes};
use serde::{Deserialize, Serialize};

fn sum(bytes: SharedBytes) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// Takes the bytes and returns them, with the inode of their file, and how much of it this process
/// has mapped.
fn reflect(bytes: SharedBytes) -> (u64, usize, SharedBytes) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter(|line| line.ends_with("memfd:multiproc-shared bytes (deleted)"));
    let len = |line: &str| {
        let (begin, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(end, 16).unwrap() - usize::from_str_radix(begin, 16).unwrap()
    };
    (inode(&bytes), mapped.map(len).sum(), bytes)
}

fn inode(bytes: &SharedBytes) -> u64 {
    File::from(bytes.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
}

fn make(len: usize) -> SharedBytes {
    SharedBytes::with_len(len, |bytes| bytes.fill(3)).unwrap()
}

/// Tries to write to the bytes in every possible way.
fn write_to(bytes: SharedBytes) {
    let file = File::from(bytes.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    file.set_len(1).unwrap_err();
    let again = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    again.write_at(b"x", 0).unwrap_err();
    // SAFETY: a new mapping, if there is one.
    let mapping =
        unsafe { libc::mmap(std::ptr::null_mut(), 1, libc::PROT_WRITE, libc::MAP_SHARED, again.as_raw_fd(), 0) };
    assert_eq!(mapping, libc::MAP_FAILED);
    // SAFETY: none: the write to read-only memory is what is tested.
    unsafe { bytes.as_ptr().cast_mut().write_volatile(1) };
}

for_each_method! {
    fn zero_copy(method) {
        const LEN: usize = 64 << 20;
        let bytes = make(LEN);
        let child = Process::new(reflect, (bytes.clone(),)).start_method(method).start().unwrap();
        let (there, mapped, back) = child.join().unwrap();
        assert_eq!((there, inode(&back)), (inode(&bytes), inode(&bytes)));
        assert_eq!((mapped, back.len(), sum(back)), (LEN, LEN, 3 * LEN as u64));
        let child = Process::new(make, (5000,)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), &[3; 5000]);
    }

    fn slice_maps_its_pages(method) {
        let bytes = SharedBytes::with_len(1 << 20, |bytes| bytes[500_000..].fill(1)).unwrap();
        let slice = bytes.slice(499_999..500_003);
        assert_eq!(slice, &[0, 1, 1, 1]);
        drop(bytes);
        let child = Process::new(reflect, (slice.slice(1..),)).start_method(method).start().unwrap();
        let (_, mapped, back) = child.join().unwrap();
        assert_eq!(back, &[1; 3]);
        // A fork copy of the process has everything that the original had.
        assert_eq!(mapped, if method == multiproc::StartMethod::Fork { 1 << 20 } else { 4096 });
    }

    fn many(method) {
        let bytes = SharedBytes::from_reader(&mut &[2; 100_001][..]).unwrap();
        let parts = bytes.split(4);
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 100_001);
        let children: Vec<_> =
            parts.into_iter().map(|part| Process::new(sum, (part,)).start_method(method).start().unwrap()).collect();
        assert_eq!(children.into_iter().map(|child| child.join().unwrap()).sum::<u64>(), 200_002);
    }

    fn read_only(method) {
        let child = Ends(Process::new(write_to, (make(100),)).start_method(method).start().unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
        let bytes = multiproc::SharedMemory::new(100).unwrap().freeze().unwrap();
        let child = Ends(Process::new(write_to, (bytes,)).start_method(method).start().unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
    }
}

#[multiproc::test]
fn constructors() {
    let text = b"the quick brown fox".repeat(5000);
    let mut writer = SharedBytes::writer().unwrap();
    for (index, piece) in text.chunks(1000).enumerate() {
        // Large and small ones.
        let (left, right) = piece.split_at(index * 7 % 1000);
        writer.write_all(left).unwrap();
        writer.write_all(right).unwrap();
    }
    writer.write_all(&text).unwrap();
    assert_eq!(writer.finish().unwrap(), &[&text[..], &text].concat());
    assert_eq!(SharedBytes::copy_from_slice(&text).unwrap(), &text);
    assert_eq!(SharedBytes::from_reader(&mut &text[..]).unwrap(), &text);
    for empty in
        [SharedBytes::copy_from_slice(b""), SharedBytes::with_len(0, |_| ()), SharedBytes::from_reader(&mut &b""[..])]
    {
        let empty = empty.unwrap();
        assert!(empty.is_empty() && empty.values::<u64>().unwrap().is_empty() && empty.slice(..).is_empty());
        let queue = Queue::new().unwrap();
        queue.put(empty).unwrap();
        assert!(queue.get().unwrap().is_empty());
    }
    // A panic leaves nothing behind.
    std::panic::catch_unwind(|| SharedBytes::with_len(10, |_| panic!("panic on purpose"))).unwrap_err();
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("failure on purpose"))
        }
    }
    let error = SharedBytes::from_reader(&mut Fails).unwrap_err();
    assert!(error.to_string().contains("failure on purpose"), "{error}");
    for len in [usize::MAX, 1 << 62, 1 << 46] {
        let error = SharedBytes::with_len(len, |_| ()).unwrap_err();
        assert!(matches!(error, CreateError { what: "shared bytes", .. }), "{error}");
    }
}

#[multiproc::test]
fn slices_and_comparisons() {
    let bytes = SharedBytes::copy_from_slice(b"0123456789").unwrap();
    assert_eq!(bytes.slice(2..5), b"234");
    assert_eq!(bytes.slice(..).slice(7..).slice(..=1), b"78");
    assert_eq!(bytes.slice(10..), b"");
    assert_eq!(bytes.slice(..3), vec![b'0', b'1', b'2']);
    assert_eq!(vec![b'8', b'9'], bytes.slice(8..));
    assert!(bytes.slice(..1) == [b'0'] && [b'0'] == bytes.slice(..1) && b"0"[..] == bytes.slice(..1));
    assert_eq!(&b"12"[..], bytes.slice(1..3));
    assert!(bytes.slice(1..3) != b"12"[..1]);
    #[allow(clippy::reversed_empty_ranges)]
    for range in [5..11, 11..11, 6..5] {
        let slice = std::panic::AssertUnwindSafe(|| bytes.slice(range));
        std::panic::catch_unwind(slice).unwrap_err();
    }
    std::panic::catch_unwind(|| bytes.slice(..=usize::MAX)).unwrap_err();
    assert!(bytes.slice(..2) < bytes.slice(2..) && bytes == bytes.clone());
    assert_eq!(HashSet::from([bytes.slice(3..4), SharedBytes::copy_from_slice(b"3").unwrap()]).len(), 1);
    let set = HashSet::from([bytes.slice(..3)]);
    assert!(set.contains(&b"012"[..]));
    assert_eq!(format!("{bytes:?}"), "SharedBytes { len: 10, .. }");
    assert_eq!(bytes.split(3).iter().map(|part| part.len()).collect::<Vec<_>>(), [3, 3, 4]);
    assert!(bytes.split(0).is_empty());
    assert_eq!(bytes.slice(1..).chunks(4), [&b"1234"[..], b"5678", b"9"]);
    assert_eq!((bytes.chunks(10).len(), bytes.chunks(usize::MAX).len(), bytes.slice(..0).chunks(1).len()), (1, 1, 0));
    std::panic::catch_unwind(|| bytes.chunks(0)).unwrap_err();
    bytes.slice(3..5).prefault();
}

#[multiproc::test]
fn numbers() {
    let numbers: Vec<f64> = (0..1000).map(f64::from).collect();
    let bytes = SharedBytes::copy_from_slice(bytemuck::cast_slice(&numbers)).unwrap();
    assert_eq!(bytes.values::<f64>().unwrap(), numbers);
    assert_eq!(bytes.slice(8..24).values::<f64>().unwrap(), [1.0, 2.0]);
    assert!(matches!(bytes.slice(..9).values::<f64>().unwrap_err(), MemoryError::Length { len: 9, size: 8 }));
    assert!(matches!(bytes.slice(1..9).values::<f64>().unwrap_err(), MemoryError::Io { .. }));
    // Divided evenly, the parts don't hold whole values.
    assert!(bytes.split(3).iter().any(|part| part.values::<f64>().is_err()));
    assert_eq!(bytes.chunks(334 * 8).iter().flat_map(|part| part.values().unwrap()).sum::<f64>(), 499_500.0);
    // The alignment in the file is kept wherever the bytes are mapped.
    let queue = Queue::new().unwrap();
    queue.put(bytes.slice(16..)).unwrap();
    assert_eq!(queue.get().unwrap().values::<f64>().unwrap()[0], 2.0);
}

/// Forged bytes, as they are sent.
#[derive(Serialize)]
struct Forged {
    file: Handle<OwnedFd>,
    offset: u64,
    len: u64,
}

impl<'de> Deserialize<'de> for Forged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Forged, D::Error> {
        SharedBytes::deserialize(deserializer).map(|_| unreachable!())
    }
}

#[multiproc::test]
fn garbage() {
    let bytes = make(10_000);
    let real = || bytes.as_fd().try_clone_to_owned().unwrap();
    // SAFETY: the name is NUL-terminated, and the descriptor is new.
    let unsealed = unsafe { File::from_raw_fd(libc::memfd_create(c"x".as_ptr(), libc::MFD_ALLOW_SEALING)) };
    unsealed.set_len(10_000).unwrap();
    for (file, offset, len, text) in [
        (std::io::pipe().unwrap().0.into(), 0, 1, "not a memory file"),
        (File::open("/proc/self/maps").unwrap().into(), 0, 1, "not a memory file"),
        (unsealed.into(), 0, 1, "not sealed"),
        (real(), 0, 10_001, "shorter than announced"),
        (real(), 9_999, 2, "shorter than announced"),
        (real(), u64::MAX, 1, "out of range"),
        (real(), 1, u64::MAX, "out of range"),
        (real(), 0, 1 << 63, "out of range"),
    ] {
        let forged = Forged { file: file.into(), offset, len };
        let error = Process::new(|_: Forged| (), (forged,)).start().unwrap_err().to_string();
        assert!(error.contains("not valid shared bytes: ") && error.contains(text), "{error}");
    }
    let error = serde_json::to_string(&bytes).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

#[cfg(feature = "arrow")]
#[multiproc::test]
fn conversions() {
    let shared = SharedBytes::copy_from_slice(bytemuck::cast_slice(&[1_i64, 2, 3])).unwrap();
    let start = shared.as_ptr();
    let bytes = bytes::Bytes::from(shared.slice(8..));
    assert_eq!((bytes.as_ptr() as usize, bytes.len()), (start as usize + 8, 16));
    let buffer = arrow_buffer::Buffer::from(shared);
    assert_eq!((buffer.as_ptr(), buffer.typed_data::<i64>()), (start, &[1, 2, 3][..]));
}
