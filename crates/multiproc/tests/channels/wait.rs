//! Waiting for things of different kinds at once.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use multiproc::connection::{Connection, Receiver, one_way};
use multiproc::{Handle, Process, Waitable, pipe, wait_any};

for_each_method! {
    fn smoke(method) {
        fn worker(connection: Connection<u8, u8>) {
            connection.send(connection.recv().unwrap()).unwrap();
            let _ = connection.recv();
        }
        let (ours, theirs) = pipe().unwrap();
        let child = Ends(Process::new(worker, (theirs,)).start_method(method).start().unwrap());
        let (mut writer, reader) = {
            let (reader, writer) = io::pipe().unwrap();
            (writer, reader)
        };
        let fd = OwnedFd::from(reader);
        assert!(wait_any(&[&ours, &*child, &fd], Duration::ZERO).unwrap().is_empty());
        ours.send(1).unwrap();
        assert_eq!(wait_any(&[&ours, &*child, &fd], LONG).unwrap(), [0]);
        assert_eq!(wait_any(&[&*child, &fd, &ours, &ours], LONG).unwrap(), [2, 3]);
        ours.recv().unwrap();
        writer.write_all(b"x").unwrap();
        assert_eq!(wait_any(&[&ours, &*child, &fd], LONG).unwrap(), [2]);
        ours.send(2).unwrap();
        // The child ends, and its end of the connection with it.
        assert_eq!(wait_any(&[&*child], LONG).unwrap(), [0]);
        assert_eq!(wait_any(&[ours.receiver()], LONG).unwrap(), [0]);
        assert_eq!(wait_any(&[&*child, ours.receiver()], LONG).unwrap(), [0, 1]);
        assert_eq!(wait_any(&[&child.handle(), &ours, &fd, &fd.as_fd()], LONG).unwrap(), [0, 1, 2, 3]);
        child.wait().unwrap();
        assert_eq!(wait_any(&[&*child], None).unwrap(), [0]);
    }
}

#[multiproc::test]
fn disconnect_and_messages_are_ready() {
    let (sender, receiver) = one_way::<u8>().unwrap();
    let receiver = Handle::new(receiver);
    for number in 0..3 {
        sender.send(number).unwrap();
    }
    drop(sender);
    for number in 0..3 {
        assert_eq!(wait_any(&[&receiver], None).unwrap(), [0]);
        assert_eq!(receiver.recv().unwrap(), number);
    }
    assert_eq!(wait_any(&[&receiver], None).unwrap(), [0]);
    assert!(receiver.recv().unwrap_err().is_disconnected());
}

#[multiproc::test]
fn timeout_with_signals() {
    let (_sender, receiver) = one_way::<u8>().unwrap();
    let child = Ends(Process::new(sleep_long, ()).start().unwrap());
    for timeout in [Duration::ZERO, Duration::from_millis(30)] {
        let start = Instant::now();
        assert!(wait_any(&[&receiver, &*child], timeout).unwrap().is_empty());
        assert!(start.elapsed() >= timeout);
        let start = Instant::now();
        assert!(wait_any(&[], timeout).unwrap().is_empty());
        assert!(start.elapsed() >= timeout);
    }
    assert!(wait_any(&[], None).unwrap().is_empty());

    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing.
    let before = unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    // SAFETY: the call accesses no memory.
    let this = unsafe { libc::pthread_self() };
    let (done, is_done) = one_way::<()>().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !is_done.poll(Duration::from_millis(1)).unwrap() {
                // SAFETY: the thread waits for this one.
                unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
            }
        });
        let start = Instant::now();
        assert!(wait_any(&[&receiver], Duration::from_millis(50)).unwrap().is_empty());
        assert!(start.elapsed() >= Duration::from_millis(50));
        done.send(()).unwrap();
    });
}

#[multiproc::test]
fn thousands() {
    fn check() {
        let receivers: Vec<(multiproc::connection::Sender<u32>, Receiver<u32>)> =
            (0..300).map(|_| one_way().unwrap()).collect();
        // The same ones many times: more than this process may have open.
        let all: Vec<&dyn Waitable> = (0..5000).map(|index| &receivers[index % 300].1 as &dyn Waitable).collect();
        assert!(wait_any(&all, Duration::ZERO).unwrap().is_empty());
        receivers[7].0.send(1).unwrap();
        let expected: Vec<usize> = (0..5000).filter(|index| index % 300 == 7).collect();
        assert_eq!(wait_any(&all, None).unwrap(), expected);
    }
    common::in_a_process_with_one_thread(check);
}

/// A [`Waitable`] with a descriptor that only wakes: it stays readable afterwards, and says nothing
/// about whether the value is there.
struct Bell {
    reader: io::PipeReader,
    writer: io::PipeWriter,
    there: Cell<bool>,
    /// How often a waiter was about to sleep.
    armed: Cell<u32>,
    finished: Cell<u32>,
}

impl Bell {
    fn new() -> Bell {
        let (reader, writer) = io::pipe().unwrap();
        Bell { reader, writer, there: Cell::new(false), armed: Cell::new(0), finished: Cell::new(0) }
    }

    fn ring(&self) {
        (&self.writer).write_all(b"x").unwrap();
    }
}

impl Waitable for Bell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    fn ready(&self) -> io::Result<bool> {
        self.armed.set(self.armed.get() + 1);
        // The second time, the value that the wake-up was for is there.
        self.there.set(self.there.get() || self.armed.get() == 2);
        Ok(self.there.get())
    }

    fn woken(&self) -> io::Result<bool> {
        io::Read::read(&mut &self.reader, &mut [0; 1])?;
        Ok(false)
    }

    fn finished(&self) {
        self.finished.set(self.finished.get() + 1);
    }
}

#[multiproc::test]
fn custom_waitable() {
    let (sender, receiver) = one_way::<u8>().unwrap();
    let bell = Bell::new();
    bell.there.set(true);
    assert_eq!(wait_any(&[&receiver, &bell], None).unwrap(), [1]);
    sender.send(1).unwrap();
    assert_eq!(wait_any(&[&bell, &receiver], None).unwrap(), [0, 1]);
    receiver.recv().unwrap();

    let bell = Bell::new();
    bell.ring();
    assert_eq!(wait_any(&[&receiver, &&bell], LONG).unwrap(), [1]);
    assert_eq!((bell.armed.get(), bell.finished.get()), (2, 1));
    let bell = Bell::new();
    assert!(wait_any(&[&bell], Duration::from_millis(5)).unwrap().is_empty());
    assert_eq!((bell.armed.get(), bell.finished.get()), (1, 1));
}
