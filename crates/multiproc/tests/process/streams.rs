//! What must not affect a child's end and its value: whether its stdout and stderr can be written,
//! and which of its threads holds their locks.

use std::fs::File;
use std::io::{Read, Write};

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use multiproc::Process;
use multiproc::log::LevelFilter;
use multiproc::process::{JoinErrorKind, Stdio};

fn fails() -> std::io::Result<u8> {
    Err(std::io::Error::other("the error"))
}

fn fails_with_stderr_closed() -> std::io::Result<u8> {
    // SAFETY: no memory is accessed, and the standard library treats a closed stderr like one that
    // no process reads.
    unsafe { libc::close(2) };
    fails()
}

fn panics() {
    panic!("the panic")
}

fn logs() -> u8 {
    multiproc::log_to_stderr(LevelFilter::Trace);
    log::info!("a record");
    7
}

/// Ways to make a process with a stderr that can't be written.
fn with_unwritable_stderr<R: multiproc::Run>(process: Process<R>, how: usize) -> Process<R> {
    match how {
        0 => process.stderr(File::options().write(true).open("/dev/full").unwrap()),
        1 => process.stderr(File::open("/dev/null").unwrap()),
        _ => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            process.stderr(writer)
        }
    }
}

/// Makes another thread of this process hold a lock for good.
fn hold<T>(lock: impl FnOnce() -> T + Send + 'static) {
    let (taken, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _lock = lock();
        taken.send(()).unwrap();
        sleep_long();
    });
    wait.recv().unwrap();
}

for_each_method! {
    fn unwritable_stderr(method) {
        for how in 0..3 {
            let child = with_unwritable_stderr(Process::new(fails, ()), how).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap().unwrap_err().to_string(), "the error", "{how}");
            let child = with_unwritable_stderr(Process::new(panics, ()), how).start_method(method).start().unwrap();
            let error = child.join().unwrap_err();
            let JoinErrorKind::Panicked(panic) = error.kind() else { panic!("{error}") };
            assert_eq!(panic.message, "the panic", "{how}");
            let child = with_unwritable_stderr(Process::new(logs, ()), how).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap(), 7, "{how}");
            let unwilling = Process::new(|| common::Unwilling, ());
            let child = with_unwritable_stderr(unwilling, how).start_method(method).start().unwrap();
            let error = child.join().unwrap_err();
            assert!(matches!(error.kind(), JoinErrorKind::Encode(_)), "{how}: {error}");
        }
        let child = Process::new(fails_with_stderr_closed, ()).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap().unwrap_err().to_string(), "the error");
    }

    fn exit_with_locked_stdout(method) {
        let target = || {
            print!("buffered");
            hold(|| std::io::stdout().lock());
            7
        };
        let child = Ends(Process::new(target, ()).stdout(Stdio::null()).start_method(method).start().unwrap());
        assert_eq!(child.wait_timeout(LONG).unwrap().expect("timed out").exit_code(), Some(0));
    }

    fn exit_with_locked_stderr(method) {
        let targets: [fn(); 2] = [
            || {
                hold(|| std::io::stderr().lock());
                panic!("the panic")
            },
            || {
                multiproc::log_to_stderr(LevelFilter::Trace);
                hold(|| std::io::stderr().lock());
                log::info!("a record");
            },
        ];
        for (target, code) in targets.into_iter().zip([1, 0]) {
            let child = Process::new(target, ()).stderr(Stdio::null()).start_method(method).start().unwrap();
            let child = Ends(child);
            assert_eq!(child.wait_timeout(LONG).unwrap().expect("timed out").exit_code(), Some(code));
        }
        let target = || -> std::io::Result<()> {
            hold(|| std::io::stderr().lock());
            Err(std::io::Error::other("the error"))
        };
        let child = Ends(Process::new(target, ()).stderr(Stdio::null()).start_method(method).start().unwrap());
        assert_eq!(child.wait_timeout(LONG).unwrap().expect("timed out").exit_code(), Some(1));
    }

    fn exit_with_own_locks(method) {
        let target = || {
            // As in a target that ends the process inside a loop over its input.
            std::mem::forget((std::io::stdout().lock(), std::io::stderr().lock(), std::io::stdin().lock()));
            print!("the last line");
            if true {
                panic!("the panic")
            }
        };
        let child = Process::new(target, ()).stdout(Stdio::piped()).stderr(Stdio::piped()).start_method(method);
        let (value, stdout, stderr) = child.start().unwrap().join_with_output();
        assert!(value.unwrap_err().is_panic());
        assert_eq!(String::from_utf8_lossy(&stdout), "the last line");
        assert!(String::from_utf8_lossy(&stderr).contains("the panic"));
    }

    fn slow_reader(method) {
        let target = || {
            // A thread that holds nothing.
            std::thread::spawn(sleep_long);
            // One unfinished line that is longer than a pipe holds.
            let mut stdout = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout());
            stdout.write_all(&[b'x'; 200_000]).unwrap();
            stdout.flush().unwrap();
            print!("the end");
        };
        let mut child = Process::new(target, ()).stdout(Stdio::piped()).start_method(method).start().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // Longer than the wait for a lock.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        assert!(text.len() == 200_007 && text.ends_with("xthe end"), "{}", text.len());
        child.join().unwrap();
    }
}

#[multiproc::test]
fn fork_with_locked_stdout() {
    common::in_a_process_with_one_thread(|| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let _held = (std::io::stdout().lock(), std::io::stderr().lock());
        let child = Process::fork(|| {
            println!("from the copy");
            eprintln!("and its errors");
        });
        let child = child.stdout(writer.try_clone().unwrap()).stderr(writer).start().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from the copy\nand its errors\n");
        child.join().unwrap();
    });
}
