//! A child that has things to do at its exit. The arguments are a case and a start method.

use std::ffi::{CString, c_int, c_void};

use multiproc::Process;
use multiproc_os::at_exit;
use multiproc_programs::{say, start_method};

#[multiproc::main]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let (case, method) = (arguments.next().expect("a case"), arguments.next().expect("a start method"));
    let library = arguments.next().unwrap_or_default();
    let child = Process::new(leave, (case, library)).start_method(start_method(&method)).start().unwrap();
    say(&format!("{:?}", child.wait().unwrap().exit_code()));
}

fn leave(case: String, library: String) {
    match case.as_str() {
        "nothing" => {}
        "handlers" => register_all(),
        "exit" => {
            register_all();
            std::process::exit(7);
        }
        "thread" => hold_the_stream_of_c(),
        "thread that has ended" => std::thread::spawn(|| ()).join().unwrap(),
        "library" => drop(load(&library)),
        "library that is unloaded" => {
            // SAFETY: nothing of the library is in use.
            unsafe { libc::dlclose(load(&library)) };
            say("unloaded");
        }
        other => panic!("no case {other:?}"),
    }
    say(if at_exit::is_short() { "short" } else { "whole" });
}

/// Registers everything that exit(3) does before it runs the destructors of libraries.
fn register_all() {
    struct SaysAtItsEnd;

    impl Drop for SaysAtItsEnd {
        fn drop(&mut self) {
            say("thread-local");
        }
    }

    thread_local! {
        static LOCAL: SaysAtItsEnd = const { SaysAtItsEnd };
    }

    extern "C" fn handler() {
        say("handler");
    }

    LOCAL.with(|_| ());
    at_exit::register(handler).unwrap();
    multiproc::process::at_exit(0, || say("finalizer"));
    print!("buffered by Rust, ");
    // SAFETY: this is a C string without format specifiers.
    unsafe { libc::printf(c"buffered by C".as_ptr()) };
}

/// Starts a thread that holds the lock of C's stdout for as long as the process lives.
fn hold_the_stream_of_c() {
    unsafe extern "C" {
        static stdout: *mut c_void;
        fn flockfile(stream: *mut c_void);
    }

    let (held, is_held) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: stdout is a stream of the C library.
        unsafe { flockfile(stdout) };
        held.send(()).unwrap();
        multiproc_programs::sleep_long();
    });
    is_held.recv().unwrap();
}

fn load(library: &str) -> *mut c_void {
    let path = CString::new(library).unwrap();
    // SAFETY: the library is the test's own.
    let loaded = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW as c_int) };
    assert!(!loaded.is_null(), "cannot load {library}");
    loaded
}
