//! The end of a process by exit(3): functions to be called then, and a faster exit for copies made
//! by fork(2).
//!
//! Both regular ends of a Rust program, a return from `main` and `std::process::exit`, go through
//! exit(3). It calls the registered handlers in reverse order of registration, and last of all the
//! destructors of the program and of its shared libraries; see atexit(3). None of that happens on
//! `_exit`, `abort` or a fatal signal.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::image::{Arrays, LoadedFile, LoadedFiles};
use crate::threads;

/// Registers a function to be called by `exit(3)` on the exiting thread. Handlers registered later
/// are called earlier.
///
/// # Errors
/// `ENOMEM` when the C library has no memory for another handler.
pub fn register(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: `handler` is a function of the program with C's calling convention; it lives as long
    // as the program.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

/// Ends this process as `std::process::exit` does, but without the last step of exit(3) if that
/// step would do nothing. [`prepare`] must have been called, in this process or in the process that
/// it was forked from; otherwise the step is never skipped.
///
/// The step that is skipped runs the destructors of the program and of its shared libraries. To
/// find out that there are none, the loader writes to four of its pages and maps four others, and
/// each of these accesses is a page fault in a process that was just forked. Everything else is
/// done: the destructors of this thread's thread-local variables, all registered handlers, and the
/// flush of Rust's and C's buffered streams.
pub fn exit(code: i32) -> ! {
    if is_short() {
        DUE.store(due(code), Relaxed);
    }
    std::process::exit(code)
}

/// Returns whether [`exit`] would skip the last step if it were called now.
pub fn is_short() -> bool {
    PREPARED.get().is_some_and(|prepared| prepared.as_ref().is_some_and(Prepared::holds))
}

/// Determines whether [`exit`] may skip the last step, in this process and in copies made by
/// fork(2).
///
/// Must be called before any code of the program has run other than its constructors. The handler
/// that this function registers must be the first one, so that it is called last; code that ran
/// earlier might have registered one.
pub fn prepare() {
    PREPARED.get_or_init(|| Prepared::new().filter(|_| register(cut_short).is_ok()));
}

static PREPARED: OnceLock<Option<Prepared>> = OnceLock::new();

/// The process that skips the last step, in the upper half, and its exit code. With the pid, a
/// process that another exit handler forks can tell that the value isn't its own.
static DUE: AtomicU64 = AtomicU64::new(0);

fn due(code: i32) -> u64 {
    u64::from(threads::getpid().cast_unsigned()) << 32 | u64::from(code.cast_unsigned())
}

extern "C" fn cut_short() {
    let due_now = DUE.load(Relaxed);
    let code = due_now as i32;
    if due_now == 0 || due_now != due(code) {
        return;
    }
    // Another handler may have started a thread or loaded a library.
    let Some(prepared) = PREPARED.get().and_then(Option::as_ref).filter(|prepared| prepared.holds()) else { return };
    // SAFETY: no other thread uses a stream, since there is none. The second call ends the process,
    // and touches no memory.
    unsafe {
        (prepared.close_streams)();
        libc::_exit(code)
    }
}

/// The state of the process when it was found to have nothing to do in the last step of exit(3).
struct Prepared {
    files: LoadedFiles,
    count: usize,
    /// The C library's flag that the process has a single thread.
    is_single_threaded: &'static AtomicU8,
    /// fcloseall(3): what exit(3) itself does with C's streams. It writes out what they have
    /// buffered, and moves the offset of an input file back to what has been read from the stream.
    close_streams: unsafe extern "C" fn() -> c_int,
}

impl Prepared {
    /// Returns `None` if the last step may have something to do.
    fn new() -> Option<Prepared> {
        // Preloaded libraries may have registered a handler at the first call of a function. A
        // profiler's start (gcc -pg) does so before the constructors.
        let is_instrumented = ["LD_PRELOAD", "LD_AUDIT"].iter().any(|name| std::env::var_os(name).is_some());
        if is_instrumented || !symbol(c"__gmon_start__").is_null() {
            return None;
        }
        // SAFETY: the symbol is a `char` of the C library (sys/single_threaded.h), valid as long as
        // the program.
        let is_single_threaded = unsafe { symbol(c"__libc_single_threaded").cast::<AtomicU8>().as_ref() }?;
        let close_streams = symbol(c"fcloseall");
        if close_streams.is_null() {
            return None;
        }
        // SAFETY: the symbol is a function of the C library with that signature (stdio.h).
        let close_streams =
            unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(close_streams) };
        let mut prepared = Prepared { files: LoadedFiles::current()?, count: 0, is_single_threaded, close_streams };
        // SAFETY: no other thread can change the list, since there is none.
        for file in unsafe { prepared.files.iter() } {
            if !does_nothing_at_exit(file, prepared.count == 0) {
                return None;
            }
            prepared.count += 1;
        }
        prepared.holds().then_some(prepared)
    }

    /// Returns whether the process has a single thread, and has loaded no file since
    /// [`Prepared::new`].
    fn holds(&self) -> bool {
        // SAFETY: no other thread can change the list, since there is none.
        let are_those = || unsafe { self.files.are_all() && self.files.iter().count() == self.count };
        self.is_single_threaded.load(Relaxed) != 0 && are_those()
    }
}

/// The address of a symbol of the program or its libraries; null if there is none.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Returns whether a loaded file, the program itself or a shared library, has no constructors and
/// destructors except those that compilers and Rust's runtime add to each file. Those do nothing at
/// exit.
fn does_nothing_at_exit(file: &LoadedFile, is_program: bool) -> bool {
    let is_runtime =
        [&b"libc.so."[..], b"libgcc_s.so.", b"ld-linux"].iter().any(|start| file.name().starts_with(start));
    let (of_compiler, of_rust) = (1, usize::from(is_program));
    let Arrays { before_init, init, fini } = file.arrays();
    is_runtime || (before_init == 0 && init <= of_compiler + of_rust && fini <= of_compiler)
}
