//! Pipes: values and bytes between threads and processes, and what happens when one of them dies.

use std::collections::HashMap;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, Unwilling, for_each_method, sleep_long};
use multiproc::connection::{Connection, Receiver, RecvErrorKind, SendErrorKind, Sender, one_way};
use multiproc::{Handle, Process, Run, StartMethod, pipe};
use serde::{Deserialize, Serialize};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sets the soft limit of open files of this process, and returns the previous one.
fn set_limit(soft: u64) -> u64 {
    // SAFETY: the pointers are to local structures.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        before
    }
}

fn echo(connection: Connection<String, String>) {
    while let Ok(text) = connection.recv() {
        connection.send(text.to_uppercase()).unwrap();
    }
}

/// Creates a pipe, and a process that runs a function on one end of it. Returns the other end too.
macro_rules! with_worker {
    ($method:expr, $worker:expr) => {{
        let (ours, theirs) = pipe().unwrap();
        (ours, Ends(Process::new($worker, (theirs,)).start_method($method).start().unwrap()))
    }};
}

for_each_method! {
    fn smoke(method) {
        let (ours, child) = with_worker!(method, echo);
        for text in ["one", "two", ""] {
            ours.send(text.into()).unwrap();
            assert_eq!(ours.recv().unwrap(), text.to_uppercase());
        }
        // A fork copy of this process has a copy of this end, so the pipe would never hang up.
        if method != StartMethod::Fork {
            drop(ours);
            assert!(child.wait_timeout(LONG).unwrap().unwrap().success());
        }
    }

    fn arguments_fields_and_results(method) {
        #[derive(Serialize, Deserialize)]
        struct Adder {
            numbers: HashMap<String, Receiver<u32>>,
            sum: Option<Sender<u32>>,
        }

        impl Run for Adder {
            type Output = Receiver<String>;

            fn run(self) -> Receiver<String> {
                let sum = self.numbers.values().map(|receiver| receiver.recv().unwrap()).sum();
                self.sum.unwrap().send(sum).unwrap();
                let (sender, receiver) = one_way().unwrap();
                sender.send("left behind".to_string()).unwrap();
                receiver
            }
        }

        let (a, from_a) = one_way().unwrap();
        let (b, from_b) = one_way().unwrap();
        let (to_us, sum) = one_way().unwrap();
        let numbers = HashMap::from([("a".to_string(), from_a), ("b".to_string(), from_b)]);
        let child = Adder { numbers, sum: Some(to_us) }.process().start_method(method).start().unwrap();
        a.send(3).unwrap();
        b.send(4).unwrap();
        assert_eq!(sum.recv().unwrap(), 7);
        let result = child.join().unwrap();
        assert_eq!(result.recv().unwrap(), "left behind");
        assert!(result.recv().unwrap_err().is_disconnected());
    }

    fn pipe_through_pipe(method) {
        fn worker(connection: Connection<Receiver<u64>, (Sender<u64>, Handle<PipeReader>)>) {
            let (sender, mut text) = connection.recv().unwrap();
            let mut read = String::new();
            text.read_to_string(&mut read).unwrap();
            sender.send(read.len() as u64).unwrap();
            let (inner, receiver) = one_way().unwrap();
            connection.send(receiver).unwrap();
            inner.send(9).unwrap();
        }
        let (ours, child) = with_worker!(method, worker);
        let (sender, receiver) = one_way().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"twelve bytes").unwrap();
        drop(writer);
        ours.send((sender, reader.into())).unwrap();
        assert_eq!(receiver.recv().unwrap(), 12);
        let inner = ours.recv().unwrap();
        assert_eq!(inner.recv().unwrap(), 9);
        assert!(child.wait_timeout(LONG).unwrap().unwrap().success());
        assert!(inner.recv().unwrap_err().is_disconnected());
        assert!(receiver.recv().unwrap_err().is_disconnected());
    }

    fn large(method) {
        const LEN: usize = 40_000_000;
        fn worker(connection: Connection<Vec<u8>, Vec<u8>>) {
            let bytes = connection.recv().unwrap();
            connection.send(bytes.iter().rev().copied().collect()).unwrap();
            let bytes = connection.recv_bytes().unwrap();
            connection.send_bytes(&bytes).unwrap();
        }
        let (ours, _child) = with_worker!(method, worker);
        let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        ours.send(bytes.clone()).unwrap();
        assert!(ours.recv().unwrap().into_iter().rev().eq(bytes.iter().copied()));
        ours.send_bytes(&bytes).unwrap();
        assert!(ours.recv_bytes().unwrap() == bytes);
    }

    fn recv_after_disconnect(method) {
        fn worker(connection: Connection<(u32, Handle<PipeReader>), ()>) {
            for number in 0..100 {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(&[number as u8]).unwrap();
                connection.send((number, reader.into())).unwrap();
            }
            // SAFETY: the call accesses no memory.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        let (ours, child) = with_worker!(method, worker);
        assert_eq!(child.wait_timeout(LONG).unwrap().unwrap().exit_code(), Some(-9));
        for number in 0..100 {
            let (sent, mut reader) = ours.recv().unwrap();
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            assert_eq!((sent, byte[0]), (number, number as u8));
        }
        assert!(ours.recv().unwrap_err().is_disconnected());
    }

    fn disconnect_wakes_receiver(method) {
        fn worker(_connection: Connection<u8, u8>) {
            sleep_long();
        }
        let (ours, child) = with_worker!(method, worker);
        child.kill().unwrap();
        assert!(ours.recv().unwrap_err().is_disconnected());
        assert!(ours.poll(None).unwrap());
        // Each direction ends on its own, one shortly after the other.
        let error = loop {
            if let Err(error) = ours.send(1) {
                break error;
            }
        };
        assert!(error.is_disconnected(), "{error}");
    }

    fn disconnect_wakes_sender(method) {
        fn worker(connection: Connection<(), Vec<u8>>) {
            connection.send(()).unwrap();
            sleep_long();
        }
        let (ours, child) = with_worker!(method, worker);
        ours.recv().unwrap();
        while ours.try_send(vec![0; 1000]).is_ok() {}
        let (killed, kills) = one_way::<()>().unwrap();
        // `Fork` needs a process without threads, so another process does the killing.
        let pid = child.pid();
        let killer = Process::new(
            |kills: Receiver<()>, pid: i32| {
                kills.recv().unwrap();
                // SAFETY: the call accesses no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            },
            (kills, pid),
        );
        let killer = killer.start_method(method).start().unwrap();
        killed.send(()).unwrap();
        let error = loop {
            // It may still be alive, and have no more room.
            match ours.send(vec![7; 1000]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_disconnected(), "{error}");
        assert_eq!(error.into_inner(), vec![7; 1000]);
        killer.join().unwrap();
    }

    fn mpsc(method) {
        const EACH: u32 = 500;
        fn worker(sender: Sender<(u32, Vec<u8>)>, id: u32) {
            for number in 0..EACH {
                // Small ones, and some that go by memory file.
                let len = if number % 50 == 0 { 50_000 } else { number % 100 };
                sender.send((id, vec![id as u8; len as usize])).unwrap();
            }
        }
        let (sender, receiver) = one_way().unwrap();
        let mut children = Vec::new();
        for id in 0..3 {
            let process = Process::new(worker, (sender.clone(), id));
            children.push(Ends(process.start_method(method).start().unwrap()));
        }
        drop(sender);
        let mut counts = [0; 3];
        for received in receiver {
            let (id, bytes) = received.unwrap();
            let number = counts[id as usize];
            assert_eq!(bytes.len() as u32, if number % 50 == 0 { 50_000 } else { number % 100 });
            assert!(bytes.iter().all(|byte| u32::from(*byte) == id));
            counts[id as usize] += 1;
        }
        assert_eq!(counts, [EACH; 3]);
    }

    fn mpmc(method) {
        const MESSAGES: u64 = 3000;
        fn worker(receiver: Receiver<u64>, until: Receiver<()>) -> Vec<u64> {
            let mut numbers = Vec::new();
            loop {
                match receiver.try_recv() {
                    Ok(number) => numbers.push(number),
                    Err(error) if error.is_empty() => {
                        if multiproc::wait_any(&[&receiver, &until], LONG).unwrap() == [1] {
                            return numbers;
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let (sender, receiver) = one_way().unwrap();
        let (end, until) = one_way().unwrap();
        let mut children = Vec::new();
        for _ in 0..3 {
            let process = Process::new(worker, (receiver.clone(), until.clone()));
            children.push(process.start_method(method).start().unwrap());
        }
        for number in 0..MESSAGES {
            sender.send(number).unwrap();
        }
        end.send(()).unwrap();
        let mut all: Vec<u64> = children.into_iter().flat_map(|child| child.join().unwrap()).collect();
        all.extend(std::iter::from_fn(|| receiver.try_recv().ok()));
        all.sort_unstable();
        assert!(all.into_iter().eq(0..MESSAGES));
    }
}

#[multiproc::test]
fn disconnect_after_last_clone() {
    let (sender, receiver) = one_way::<u32>().unwrap();
    let other = sender.clone();
    sender.send(1).unwrap();
    drop(sender);
    other.send(2).unwrap();
    drop(other);
    let numbers: Vec<u32> = receiver.iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(numbers, [1, 2]);
    for _ in 0..2 {
        assert!(receiver.recv().unwrap_err().is_disconnected());
        assert!(receiver.try_recv().unwrap_err().is_disconnected());
        assert!(receiver.recv_timeout(LONG).unwrap_err().is_disconnected());
        assert!(receiver.recv_bytes().unwrap_err().is_disconnected());
    }
}

#[multiproc::test]
fn split() {
    let (a, b) = pipe::<u8, u16>().unwrap();
    let (sender, receiver) = a.split();
    drop(sender);
    assert!(b.recv().unwrap_err().is_disconnected());
    b.send(7).unwrap();
    assert_eq!(receiver.recv().unwrap(), 7);
    drop(receiver);
    // A process that another test has made at this moment may still have it.
    common::time_until(|| b.send(8).is_err());
    assert!(b.send(8).unwrap_err().is_disconnected());
    let (sender, receiver) = one_way::<u8>().unwrap();
    let both = Connection::join(sender, receiver);
    both.send(5).unwrap();
    assert_eq!(both.clone().recv().unwrap(), 5);
}

#[multiproc::test]
fn zero_sized() {
    let (sender, receiver) = one_way::<()>().unwrap();
    sender.send(()).unwrap();
    sender.send_bytes(b"").unwrap();
    receiver.recv().unwrap();
    assert_eq!(receiver.recv_bytes().unwrap(), b"");
    assert!(receiver.try_recv().unwrap_err().is_empty());
}

#[multiproc::test]
fn timeouts() {
    let (sender, receiver) = one_way::<u8>().unwrap();
    let short = Duration::from_millis(20);
    let start = Instant::now();
    assert!(matches!(receiver.recv_timeout(short).unwrap_err().kind(), RecvErrorKind::Timeout));
    assert!(!receiver.poll(short).unwrap());
    assert!(start.elapsed() >= 2 * short);
    assert!(matches!(receiver.try_recv().unwrap_err().kind(), RecvErrorKind::Empty));
    assert!(!receiver.poll(Duration::ZERO).unwrap());
    let full = loop {
        if let Err(error) = sender.try_send(1) {
            break error;
        }
    };
    assert!(matches!(full.kind(), SendErrorKind::Full));
    assert_eq!(full.into_inner(), 1);
    let start = Instant::now();
    let late = sender.send_timeout(2, short).unwrap_err();
    assert!(matches!(late.kind(), SendErrorKind::Timeout) && late.is_full());
    assert!(start.elapsed() >= short);
    assert!(receiver.poll(Duration::MAX).unwrap());
    assert!(receiver.recv_timeout(Duration::MAX).is_ok());
    while receiver.try_recv().is_ok() {}
    sender.send_timeout(3, Duration::MAX).unwrap();
}

#[multiproc::test]
fn recv_wakes_sender() {
    let (sender, receiver) = one_way::<u32>().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || (0..10_000).for_each(|number| sender.send(number).unwrap()));
        assert!(receiver.iter().map(Result::unwrap).eq(0..10_000));
    });
}

#[multiproc::test]
fn threads() {
    let (sender, receiver) = one_way::<u32>().unwrap();
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        for thread in 0..4 {
            let sender = &sender;
            scope.spawn(move || (0..1000).for_each(|number| sender.send(thread * 1000 + number).unwrap()));
        }
        let receivers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..1000).map(|_| receiver.recv().unwrap()).collect::<Vec<_>>())).collect();
        receivers.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert!(all.into_iter().eq(0..4000));
}

#[multiproc::test]
fn encode_error() {
    let (sender, receiver) = one_way::<Unwilling>().unwrap();
    let error = sender.send(Unwilling).unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::Encode(_)));
    assert!(error.to_string().contains("not today"), "{error}");
    let Unwilling = error.into_inner();
    assert!(receiver.try_recv().unwrap_err().is_empty());
}

#[multiproc::test]
fn decode_error() {
    let (sender, receiver) = one_way::<String>().unwrap();
    let raw = |bytes: &[u8]| {
        // SAFETY: the buffer has the stated length.
        let sent = unsafe { libc::send(sender.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize);
    };
    for garbage in [&b"x"[..], &[0; 32], &[7; 5000], &[1; 40_000], b"mpkt", b"mpktmpktmpktmpktmpktmpktmpktmpktmpkt"] {
        raw(garbage);
        sender.send("good".into()).unwrap();
        let error = receiver.recv().unwrap_err();
        assert!(matches!(error.kind(), RecvErrorKind::Corrupt(_)), "{error}");
        assert_eq!(receiver.recv().unwrap(), "good");
    }
    // A value of another type.
    let (other, number) = one_way::<(u8, u64)>().unwrap();
    other.send((200, 1 << 60)).unwrap();
    let mut bytes = [0; 100];
    // SAFETY: the buffer has the stated length.
    let len = unsafe { libc::recv(number.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    raw(&bytes[..len as usize]);
    let error = receiver.recv().unwrap_err();
    assert_eq!(error.undecodable().expect("the value is kept").decode_as::<(u8, u64)>().unwrap(), (200, 1 << 60));
    assert!(matches!(error.kind(), RecvErrorKind::Decode(_)), "{error}");
    // Bytes in place of a value, a value in place of bytes.
    sender.send_bytes(b"bytes").unwrap();
    sender.send("value".into()).unwrap();
    sender.send("good".into()).unwrap();
    assert!(matches!(receiver.recv().unwrap_err().kind(), RecvErrorKind::Decode(_)));
    assert!(matches!(receiver.recv_bytes().unwrap_err().kind(), RecvErrorKind::Decode(_)));
    assert_eq!(receiver.recv().unwrap(), "good");
}

#[multiproc::test]
fn message_limit() {
    let (sender, mut receiver) = one_way::<Vec<u8>>().unwrap();
    for len in [11, 100_000] {
        sender.send_bytes(&vec![1; len]).unwrap();
        sender.send_bytes(b"good").unwrap();
        match receiver.recv_bytes_max(10).unwrap_err().kind() {
            RecvErrorKind::TooLong { len: was, limit: 10 } => assert_eq!(*was, len as u64),
            other => panic!("{other:?}"),
        }
        assert_eq!(receiver.recv_bytes_max(10).unwrap(), b"good");
    }
    receiver.set_max_message(50);
    assert_eq!(receiver.max_message(), 50);
    sender.send(vec![200; 100]).unwrap();
    sender.send(vec![3]).unwrap();
    assert!(matches!(receiver.recv().unwrap_err().kind(), RecvErrorKind::TooLong { limit: 50, .. }));
    assert_eq!(receiver.recv().unwrap(), [3]);
}

#[multiproc::test]
fn byte_sizes() {
    let (sender, receiver) = one_way::<()>().unwrap();
    let mut buffer = vec![9; 3];
    for len in [0, 1, 63, 479, 480, 481, 32 * 1024, 32 * 1024 + 1, 1_000_000] {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        sender.send_bytes(&bytes).unwrap();
        sender.try_send_bytes(&bytes).unwrap();
        sender.send_bytes_timeout(&bytes, LONG).unwrap();
        receiver.recv_bytes_into(&mut buffer).unwrap();
        assert!(buffer == bytes);
        assert!(receiver.recv_bytes_timeout(LONG).unwrap() == bytes);
        assert!(receiver.try_recv_bytes().unwrap() == bytes);
    }
}

#[multiproc::test]
fn connection() {
    let (a, b) = pipe::<u8, u8>().unwrap();
    let mut buffer = Vec::new();
    assert!(b.try_recv_bytes().unwrap_err().is_empty());
    let (start, short) = (Instant::now(), Duration::from_millis(20));
    assert!(matches!(b.recv_bytes_timeout(short).unwrap_err().kind(), RecvErrorKind::Timeout));
    assert!(start.elapsed() >= short);
    for text in [b"one", b"two"] {
        a.try_send_bytes(text).unwrap();
        a.send_bytes_timeout(text, LONG).unwrap();
        a.send_bytes(text).unwrap();
        assert_eq!(b.try_recv_bytes().unwrap(), text);
        assert_eq!(b.recv_bytes_timeout(LONG).unwrap(), text);
        b.recv_bytes_into(&mut buffer).unwrap();
        assert_eq!(buffer, text);
    }
    while a.try_send_bytes(b"x").is_ok() {}
    assert!(a.try_send_bytes(b"x").unwrap_err().is_full());
    assert!(matches!(a.send_bytes_timeout(b"x", short).unwrap_err().kind(), SendErrorKind::Timeout));
    let (value, kind) = a.try_send(7).unwrap_err().into_parts();
    assert!(value == 7 && matches!(kind, SendErrorKind::Full));
    for number in 0..3 {
        b.send(number).unwrap();
    }
    drop(b);
    let received: Vec<u8> = (&a).into_iter().map(Result::unwrap).collect();
    assert_eq!(received, [0, 1, 2]);
}

#[multiproc::test]
fn open_file_limit() {
    fn check() {
        for handles in [1, 5, 40] {
            let (sender, receiver) = one_way::<Vec<Handle<PipeReader>>>().unwrap();
            let readers = (0..handles).map(|_| Handle::new(std::io::pipe().unwrap().0)).collect();
            sender.send(readers).unwrap();
            let open = open_descriptors() as u64;
            for room in [0, handles / 2] {
                // It would fit if others were closed.
                let before = set_limit(open + 64);
                let mut filler = Vec::new();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    filler.push(file);
                }
                filler.truncate(filler.len().saturating_sub(room as usize));
                let error = receiver.recv().unwrap_err();
                assert!(receiver.poll(Duration::ZERO).unwrap());
                set_limit(before);
                let RecvErrorKind::Io(error) = error.kind() else { panic!("{error}") };
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            }
            assert_eq!(receiver.recv().unwrap().len() as u64, handles);
            assert!(receiver.try_recv().unwrap_err().is_empty());
        }
    }
    common::in_a_process_with_one_thread(check);
}

/// Regression: the message was never removed, and nothing behind it could be received.
#[multiproc::test]
fn too_many_handles() {
    fn check() {
        let (sender, receiver) = one_way::<Vec<Handle<PipeReader>>>().unwrap();
        let before = set_limit(4096);
        let reader = std::io::pipe().unwrap().0;
        sender.send((0..1000).map(|_| Handle::new(reader.try_clone().unwrap())).collect()).unwrap();
        sender.send(vec![Handle::new(reader)]).unwrap();
        set_limit(500);
        let error = receiver.recv().unwrap_err();
        assert!(matches!(error.kind(), RecvErrorKind::Lost), "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        assert_eq!(receiver.recv().unwrap().len(), 1);
        set_limit(before);
    }
    common::in_a_process_with_one_thread(check);
}

/// Regression: it was an error even for a send that waits.
#[multiproc::test]
fn too_many_handles_in_flight() {
    /// As an unprivileged user, since the limit doesn't apply to others.
    fn check() -> bool {
        let user = common::exclusive_user();
        // SAFETY: the call accesses no memory.
        if unsafe { libc::setgid(user) != 0 || libc::setuid(user) != 0 } {
            return false;
        }
        const LARGE: usize = 40_000;
        set_limit(60);
        let (sender, receiver) = one_way::<Vec<u8>>().unwrap();
        let (other, its_receiver) = one_way::<Vec<Handle<PipeReader>>>().unwrap();
        let full = loop {
            if let Err(error) = sender.try_send(vec![1; LARGE]) {
                break error;
            }
        };
        assert!(matches!(full.kind(), SendErrorKind::Full), "{full}");
        assert_eq!(full.into_inner(), vec![1; LARGE]);
        assert!(matches!(sender.try_send_bytes(&[1; LARGE]).unwrap_err().kind(), SendErrorKind::Full));
        let (start, short) = (Instant::now(), Duration::from_millis(20));
        let late = sender.send_timeout(vec![1; LARGE], short).unwrap_err();
        assert!(matches!(late.kind(), SendErrorKind::Timeout) && start.elapsed() >= short, "{late}");
        // The same for descriptors that go in a socket of their own.
        let readers = || (0..20).map(|_| Handle::new(std::io::pipe().unwrap().0)).collect::<Vec<_>>();
        let full = other.try_send(readers()).unwrap_err();
        assert!(matches!(full.kind(), SendErrorKind::Full), "{full}");
        drop(full);
        // A message without descriptors gets through.
        sender.send(vec![2]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|_| sender.send(vec![3; LARGE]).unwrap()));
            scope.spawn(|| other.send(readers()).unwrap());
            while receiver.recv_timeout(LONG).unwrap() != [2] {}
            for _ in 0..100 {
                assert_eq!(receiver.recv_timeout(LONG).unwrap(), vec![3; LARGE]);
            }
            assert_eq!(its_receiver.recv_timeout(LONG).unwrap().len(), 20);
        });
        // A sender that waits in vain gets an error.
        while sender.try_send(vec![1; LARGE]).is_ok() {}
        let (gone, receiver) = one_way::<Vec<u8>>().unwrap();
        drop(receiver);
        assert!(gone.send(vec![1; LARGE]).unwrap_err().is_disconnected());
        true
    }
    if !Process::new(check, ()).start().unwrap().join().unwrap() {
        eprintln!("skipped: this needs the right to become another user");
    }
}

#[multiproc::test]
fn drops() {
    fn check() {
        let before = open_descriptors();
        for _ in 0..50 {
            let (a, b) = pipe::<(Handle<PipeReader>, Sender<u8>), Vec<u8>>().unwrap();
            let (sender, receiver) = one_way().unwrap();
            a.send((std::io::pipe().unwrap().0.into(), sender)).unwrap();
            b.send(vec![1; 100_000]).unwrap();
            drop(b.recv().unwrap());
            assert!(receiver.recv().unwrap_err().is_disconnected());
            // A message that is never received.
            a.send((std::io::pipe().unwrap().0.into(), one_way().unwrap().0)).unwrap();
            assert_eq!(a.recv().unwrap().len(), 100_000);
        }
        assert_eq!(open_descriptors(), before);
    }
    common::in_a_process_with_one_thread(check);
}

#[multiproc::test]
fn end_outside_a_message() {
    let (sender, receiver) = one_way::<u8>().unwrap();
    assert!(serde_json::to_string(&sender).is_err());
    assert!(serde_json::to_string(&receiver).is_err());
    assert!(serde_json::from_str::<Receiver<u8>>("[]").is_err());
}

#[multiproc::test]
fn debug() {
    let (a, _b) = pipe::<Unwilling, ()>().unwrap();
    let fd = a.as_fd().as_raw_fd();
    assert!(format!("{a:?}").contains(&fd.to_string()));
    let (sender, receiver) = a.split();
    assert!(format!("{receiver:?}").starts_with(&format!("Receiver(fd {fd}, from")));
    let error = sender.send(Unwilling).unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    fn is_send_and_sync<T: Send + Sync + Clone>(_: &T) {}
    is_send_and_sync(&sender);
    // Regardless of the type.
    is_send_and_sync(&one_way::<std::rc::Rc<()>>().unwrap());
}

/// Random numbers that are the same in each run.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[multiproc::test]
fn killed_sender() {
    fn worker(sender: Sender<(u64, Vec<u8>)>) {
        let mut seed = u64::from(std::process::id()) | 1;
        loop {
            let len = next(&mut seed) % 60_000;
            sender.send((len, vec![len as u8; len as usize])).unwrap();
        }
    }
    let mut seed = 0x5eed;
    let start = Instant::now();
    let (sender, receiver) = one_way().unwrap();
    while start.elapsed() < Duration::from_secs(1) {
        let child = Ends(Process::new(worker, (sender.clone(),)).start().unwrap());
        for _ in 0..1 + next(&mut seed) % 100 {
            let (len, bytes) = receiver.recv().unwrap();
            assert!(bytes.len() as u64 == len && bytes.iter().all(|byte| *byte == len as u8));
        }
        child.kill().unwrap();
    }
    drop(sender);
    for received in receiver {
        let (len, bytes) = received.unwrap();
        assert!(bytes.len() as u64 == len && bytes.iter().all(|byte| *byte == len as u8));
    }
}

#[multiproc::test]
fn killed_receiver() {
    fn worker(receiver: Receiver<u64>, reports: Sender<u64>) {
        for number in receiver {
            reports.send(number.unwrap()).unwrap();
        }
    }
    let mut seed = 0xfeed;
    let start = Instant::now();
    let (sender, receiver) = one_way().unwrap();
    let (to_us, reports) = one_way().unwrap();
    let (mut sent, mut kills) = (0, 0);
    let mut seen = Vec::new();
    while start.elapsed() < Duration::from_secs(1) {
        let start = || Ends(Process::new(worker, (receiver.clone(), to_us.clone())).start().unwrap());
        let (victim, _other) = (start(), start());
        kills += 2;
        let fatal = next(&mut seed) % 100;
        for round in 0..100 {
            sender.send(sent).unwrap();
            sent += 1;
            if round == fatal {
                victim.kill().unwrap();
            }
            seen.extend(std::iter::from_fn(|| reports.try_recv().ok()));
        }
    }
    drop((sender, to_us));
    seen.extend(receiver.iter().map(Result::unwrap));
    seen.extend(reports.iter().map(Result::unwrap));
    seen.sort_unstable();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "nothing is received twice");
    assert!(sent - all as u64 <= kills, "{} of {sent} messages lost by {kills} kills", sent - all as u64);
}
