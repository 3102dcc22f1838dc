//! The start method `Fork`: what is inherited, what is not, and when it is refused.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{self, Ends, Scratch, Unwilling, in_a_process_with_one_thread, sleep_long};
use multiproc::process::StartError;
use multiproc::sync::{Lock, Mutex, RwLock};
use multiproc::{Array, Process, StartMethod};

#[multiproc::test]
fn refused_with_threads() {
    // The harness has at least two: its main thread, and this test's.
    let error = Process::fork(|| ()).name("p").start().unwrap_err();
    let StartError::MultiThreaded { process, threads, tasks } = &error else { panic!("{error}") };
    assert_eq!(process, "p");
    assert!(*threads >= 2);
    // SAFETY: the call only returns a number.
    assert_eq!(tasks[0].0, unsafe { libc::gettid() });
    assert!(error.to_string().starts_with("cannot start p: fork refused, this process has"), "{error}");
}

/// Starts a process by each method when it is dropped, and records the outcomes.
struct StartsOnDrop(std::rc::Rc<std::cell::RefCell<Vec<String>>>);

impl Drop for StartsOnDrop {
    fn drop(&mut self) {
        multiproc::process::set_standby(false);
        for method in [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork] {
            let said = match Process::new(|| 7, ()).name("p").start_method(method).start() {
                Ok(child) => child.join().unwrap().to_string(),
                Err(error) => error.to_string(),
            };
            self.0.borrow_mut().push(said);
        }
    }
}

#[multiproc::test]
fn refused_during_panic() {
    in_a_process_with_one_thread(|| {
        let said = std::rc::Rc::default();
        let starts = StartsOnDrop(std::rc::Rc::clone(&said));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _starts = starts;
            panic!("as it should")
        }));
        assert!(caught.is_err());
        {
            let said = said.borrow();
            assert_eq!(said[..2], ["7", "7"]);
            assert!(said[2].starts_with("cannot start p: fork refused, this thread is panicking"), "{}", said[2]);
        }
        // The panic is over.
        drop(StartsOnDrop(std::rc::Rc::clone(&said)));
        assert_eq!(said.borrow()[3..], ["7", "7", "7"]);
    });
}

#[multiproc::test]
fn refused_in_panic_hook() {
    in_a_process_with_one_thread(|| {
        static SAID: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
        std::panic::set_hook(Box::new(|_| {
            let error = Process::new(|| 7, ()).start_method(StartMethod::Fork).start().unwrap_err();
            *SAID.lock().unwrap() = error.to_string();
        }));
        let caught = std::panic::catch_unwind(|| panic!("as it should"));
        let _ = std::panic::take_hook();
        assert!(caught.is_err());
        assert!(SAID.lock().unwrap().contains("panicking"));
    });
}

#[multiproc::test]
fn refused_until_threads_end() {
    in_a_process_with_one_thread(|| {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv());
        let error = Process::new(|| 1, ()).start_method(StartMethod::Fork).start().unwrap_err();
        assert!(matches!(error, StartError::MultiThreaded { threads: 2, .. }), "{error}");
        drop(sender);
        let _ = thread.join().unwrap();
        assert_eq!(Process::new(|| 1, ()).start_method(StartMethod::Fork).start().unwrap().join().unwrap(), 1);
    });
}

#[multiproc::test]
fn captures() {
    in_a_process_with_one_thread(|| {
        let borrowed = vec![1_u64; 1000];
        let owned = Box::new([2_u64; 10]);
        let function: &dyn Fn(u64) -> u64 = &|n| n * borrowed[0];
        let child = Process::fork(move || borrowed_sum(&owned[..]) + function(22)).start().unwrap();
        assert_eq!(child.join().unwrap(), 42);
        assert_eq!(borrowed.len(), 1000);
    });
    fn borrowed_sum(numbers: &[u64]) -> u64 {
        numbers.iter().sum()
    }
}

#[multiproc::test]
fn nothing_is_serialized() {
    in_a_process_with_one_thread(|| {
        let child = Process::new(|unwilling: Unwilling| format!("{unwilling:?}"), (Unwilling,));
        assert_eq!(child.start_method(StartMethod::Fork).start().unwrap().join().unwrap(), "Unwilling");
        // The result is sent.
        let child = Process::fork(|| Unwilling).start().unwrap();
        assert!(matches!(child.join().unwrap_err().kind(), multiproc::process::JoinErrorKind::Encode(_)));
    });
}

#[multiproc::test]
fn capturing_closure_is_not_serializable() {
    let number = 7;
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let error = Process::fork(move || number).start_method(method).start().unwrap_err();
        assert!(matches!(error, StartError::Encode { .. }), "{error}");
        assert!(error.to_string().contains("StartMethod::Fork"), "{error}");
    }
}

/// Parent and child would both have exclusive references to the same memory.
#[multiproc::test]
fn captured_guard_reference() {
    fn lent(error: Result<multiproc::Child<()>, StartError>) -> usize {
        let error = error.unwrap_err();
        let StartError::Borrowed { process, guards } = &error else { panic!("{error}") };
        assert_eq!(process, "p");
        let text = format!(
            "cannot start p: fork refused, {guards} of this thread's guards {} given out references to shared memory. Drop the guards first; \
             the closure can capture the Mutex, RwLock or Array itself and lock it",
            if *guards == 1 { "has" } else { "have" }
        );
        assert_eq!(error.to_string(), text);
        *guards
    }
    in_a_process_with_one_thread(|| {
        let (mutex, lock) = (Mutex::new(1).unwrap(), RwLock::new(1).unwrap());
        let array = Array::from_slice(&[1; 8]).unwrap();
        let parts = array.split(2).unwrap();
        let mut guard = mutex.lock().unwrap();
        let number = &mut *guard;
        assert_eq!(lent(Process::fork(|| *number = 2).name("p").start()), 1);
        drop(guard);
        let guard = lock.read().unwrap();
        let number = &*guard;
        assert_eq!(lent(Process::fork(|| assert_eq!(*number, 1)).name("p").start()), 1);
        drop(guard);
        let mut guard = lock.write().unwrap();
        let number = &mut *guard;
        assert_eq!(lent(Process::fork(|| *number = 2).name("p").start()), 1);
        drop(guard);
        let (mut left, mut right) = (parts[0].lock().unwrap(), parts[1].lock().unwrap());
        let slices = (&mut left[..], &mut right[..]);
        assert_eq!(lent(Process::fork(|| slices.0.swap_with_slice(slices.1)).name("p").start()), 2);
        drop((left, right));
        let guard = array.read().unwrap();
        let slice = &guard[..];
        assert_eq!(lent(Process::fork(|| assert_eq!(slice, [1; 8])).name("p").start()), 1);
        drop(guard);
        // A forgotten guard may have given out a reference for good.
        let guard = &mut Box::leak(Box::new(array.lock().unwrap()))[..];
        assert_eq!(lent(Process::fork(|| guard[0] = 2).name("p").start()), 1);
        assert_eq!(lent(Process::fork(|| guard[0] = 2).name("p").start()), 1);
    });
}

#[multiproc::test]
fn captured_lock() {
    in_a_process_with_one_thread(|| {
        let (mutex, lock, array) = (Mutex::new(1).unwrap(), Lock::new().unwrap(), Array::from_slice(&[1; 8]).unwrap());
        // The references that were given out have ended.
        *mutex.lock().unwrap() += 1;
        array.lock().unwrap()[0] += 1;
        assert_eq!((mutex.get().unwrap(), array.read().unwrap()[0]), (2, 2));
        // None of these guards has given out a reference.
        let guards = (mutex.lock().unwrap(), lock.lock().unwrap(), array.lock().unwrap());
        let child = Process::fork(|| {
            let taken = (mutex.try_lock().unwrap().is_some(), lock.try_lock().unwrap().is_some());
            (taken, array.try_lock().unwrap().is_some())
        });
        assert_eq!(child.start().unwrap().join().unwrap(), ((false, false), false));
        let child = Process::fork(|| *mutex.lock().unwrap() += array.lock().unwrap()[0]).start().unwrap();
        drop(guards);
        child.join().unwrap();
        assert_eq!(mutex.get().unwrap(), 4);
        // A target that captures nothing has no reference, whatever guards have given out.
        let guard = mutex.lock().unwrap();
        assert_eq!(*guard, 4);
        let is_free = |mutex: Mutex<i32>| mutex.try_lock().unwrap().is_some();
        let child = Process::new(is_free, (mutex.clone(),)).start_method(StartMethod::Fork);
        assert!(!child.start().unwrap().join().unwrap());
        assert!(Process::fork(|| true).start().unwrap().join().unwrap());
    });
}

#[multiproc::test]
fn memory_is_copied() {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    in_a_process_with_one_thread(|| {
        NUMBER.store(1, Ordering::Relaxed);
        let child = Process::fork(|| NUMBER.fetch_add(1, Ordering::Relaxed)).start().unwrap();
        assert_eq!(child.join().unwrap(), 1);
        assert_eq!(NUMBER.load(Ordering::Relaxed), 1);
    });
}

#[multiproc::test]
fn inherited_fds() {
    fn open_descriptors() -> Vec<String> {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        entries.filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned())).collect()
    }
    in_a_process_with_one_thread(|| {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        // Descriptors that the child must close: those of a server, and of children by all methods.
        let others: Vec<_> = [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork]
            .map(|method| Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap()))
            .into();
        let child = Process::fork(|| {
            file.write_all(b"from the child").unwrap();
            open_descriptors()
        });
        let list = child.start().unwrap().join().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "from the child");
        assert!(list.contains(&path), "{list:?}");
        // The child's own, and that of the harness process, which this process was made by.
        assert_eq!(list.iter().filter(|target| target.starts_with("socket:")).count(), 2, "{list:?}");
        drop(others);
    });
}

#[multiproc::test]
fn siblings_end_with_parent() {
    // If the second child held a copy of the first one's socket, the first would outlive the
    // parent.
    let scratch = Scratch::new();
    let pids = common::fifo(&scratch, "pids");
    let parent = Process::new(
        |pids: String| {
            let first = Process::fork(sleep_long).start().unwrap();
            let second = Process::fork(sleep_long).outlive_parent(true).start().unwrap();
            std::fs::write(pids, format!("{} {}", first.pid(), second.pid())).unwrap();
            sleep_long();
        },
        (pids.clone(),),
    );
    let parent = Ends(parent.start().unwrap());
    let pids = std::fs::read_to_string(pids).unwrap();
    let pids: Vec<i32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    parent.kill().unwrap();
    common::wait_gone(pids[0]);
    assert!(common::exists(pids[1]));
    let free = multiproc_os::pidfd::open(pids[1]).unwrap();
    multiproc_os::pidfd::send_signal(&free, libc::SIGKILL).unwrap();
}

#[multiproc::test]
fn sibling_handles() {
    in_a_process_with_one_thread(|| {
        let sibling = Ends(Process::fork(sleep_long).start().unwrap());
        let child =
            Process::fork(|| (sibling.is_alive(), sibling.name().to_owned(), multiproc::active_children().len()));
        assert_eq!(child.start().unwrap().join().unwrap(), (true, sibling.name().to_owned(), 0));
        assert!(sibling.is_alive());
    });
}

#[multiproc::test]
fn buffered_output_is_written_once() {
    in_a_process_with_one_thread(|| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let program = Process::fork(|| {
            print!("once ");
            let child = Process::fork(|| print!("twice ")).start().unwrap();
            child.join().unwrap();
            print!("thrice");
        });
        program.stdout(writer).start().unwrap().join().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "once twice thrice");
    });
}

#[multiproc::test]
fn at_exit() {
    in_a_process_with_one_thread(|| {
        let scratch = Scratch::new();
        let path = scratch.path("log");
        let log = |path: &str, line: &str| {
            File::options().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
        };
        let own = path.clone();
        let finalizer = multiproc::process::at_exit(0, move || log(&own, "parent"));
        let own = path.clone();
        let child = Process::fork(move || {
            multiproc::process::at_exit(0, move || log(&own, "child"));
        });
        child.start().unwrap().join().unwrap();
        assert!(finalizer.cancel());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "child");
    });
}

#[multiproc::test]
fn parent_exit_handlers_are_not_called() {
    extern "C" fn handler() {
        // SAFETY: the call ends the process.
        unsafe { libc::_exit(66) }
    }
    let child = Process::new(
        || {
            // SAFETY: the handler lives as long as the program.
            unsafe { libc::atexit(handler) };
            Process::fork(|| 5).start().unwrap().wait().unwrap().exit_code()
        },
        (),
    );
    let child = child.start().unwrap();
    assert_eq!(child.wait().unwrap().exit_code(), Some(66));
    assert_eq!(child.join().unwrap(), Some(0));
}

#[multiproc::test]
fn nested() {
    in_a_process_with_one_thread(|| {
        fn depth(left: u32) -> u32 {
            if left == 0 { 0 } else { 1 + Process::fork(|| depth(left - 1)).start().unwrap().join().unwrap() }
        }
        assert_eq!(depth(5), 5);
        // A forked process may use the other methods, and starts a server of its own.
        let child = Process::fork(|| {
            [StartMethod::ForkServer, StartMethod::Spawn]
                .map(|method| Process::new(std::process::id, ()).start_method(method).start().unwrap().join().unwrap())
        });
        let [a, b] = child.start().unwrap().join().unwrap();
        assert_ne!(a, b);
    });
}

#[multiproc::test]
fn signal_handlers_are_not_inherited() {
    extern "C" fn handler(_: i32) {}
    in_a_process_with_one_thread(|| {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGTERM, handler as extern "C" fn(i32) as usize) };
        let child = Process::fork(sleep_long).start().unwrap();
        child.terminate().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(-libc::SIGTERM));
    });
}

#[multiproc::test]
fn sibling_does_not_hold_input() {
    in_a_process_with_one_thread(|| {
        let read = || std::io::stdin().read_to_string(&mut String::new()).unwrap();
        let mut reader = Process::fork(read).stdin(multiproc::process::Stdio::piped()).start().unwrap();
        let sibling = Ends(Process::fork(sleep_long).start().unwrap());
        reader.stdin.as_mut().unwrap().write_all(b"four").unwrap();
        assert_eq!(reader.join().unwrap(), 4);
        drop(sibling);
    });
}

#[multiproc::test]
fn nested_memory_limits() {
    let limited = Process::new(
        || {
            let crash = || {
                // SAFETY: none: the write through a null pointer is intended to crash.
                unsafe { std::hint::black_box(std::ptr::null_mut::<u8>()).write_volatile(1) }
            };
            let child = Ends(Process::fork(crash).memory_limit(512 << 20).start().unwrap());
            child.wait_timeout(common::LONG).unwrap().map(|status| status.signal())
        },
        (),
    );
    assert_eq!(limited.memory_limit(1 << 30).start().unwrap().join().unwrap(), Some(Some(libc::SIGSEGV)));
}

#[multiproc::test]
fn exit_with_locked_c_stream() {
    in_a_process_with_one_thread(|| {
        let (input, _open) = std::io::pipe().unwrap();
        let child = Process::fork(|| {
            std::thread::spawn(|| {
                let mut byte = 0_u8;
                unsafe extern "C" {
                    static stdin: *mut libc::FILE;
                }
                // SAFETY: the stream is C's own, and the byte is a local variable.
                unsafe { libc::fread((&raw mut byte).cast(), 1, 1, stdin) };
            });
            // The thread has the lock once it is reading, which its current system call shows.
            while !std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
                std::fs::read_to_string(task.unwrap().path().join("syscall"))
                    .is_ok_and(|call| call.starts_with(&format!("{} 0x0 ", libc::SYS_read)))
            }) {
                std::thread::yield_now();
            }
        });
        let child = Ends(child.stdin(input).start().unwrap());
        assert_eq!(child.wait_timeout(common::LONG).unwrap().expect("timed out").exit_code(), Some(0));
    });
}
