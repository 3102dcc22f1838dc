//! The end of a process by exit(3): a function that runs then, and a shorter way to the same end.
//!
//! exit(3) is what both ways out of a Rust program pass through: the end of `main` and
//! `std::process::exit`. It calls the handlers that have been registered, the last one first, and
//! at the very end the destructors of the program and of its shared libraries; see atexit(3). None
//! of that happens at `_exit`, `abort` or a signal.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::image::{Arrays, LoadedFile, LoadedFiles};
use crate::threads;

/// Registers a function to be called at `exit(3)`, in the thread that exits, after the handlers
/// that are registered later.
///
/// # Errors
/// `ENOMEM` when the C library has no room for another handler.
pub fn register(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: `handler` is a function of the program with C's calling convention; it lives as long as the program.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}

/// Ends this process as `std::process::exit` does. After [`prepare`], in this process or in the one
/// that it is a copy of, leaves out the last step where there is nothing to do in it.
///
/// What is left out are the destructors of the program and its shared libraries: to find out that
/// there are none, the loader writes to four of its pages and maps as many, each a fault in a
/// process that has just been copied. Everything else is done: the destructors of this thread's
/// variables, every registered handler, and what the streams of Rust and C have buffered.
pub fn exit(code: i32) -> ! {
    if is_short() {
        DUE.store(due(code), Relaxed);
    }
    std::process::exit(code)
}

/// Whether [`exit`] would leave out the last step now.
pub fn is_short() -> bool {
    PREPARED.get().is_some_and(|prepared| prepared.as_ref().is_some_and(Prepared::holds))
}

/// Finds out whether [`exit`] may leave out the last step, for this process and its copies. Nothing
/// of the program may have run but its constructors, lest it has registered a handler: the handler
/// that is registered here has to be the first, and so the last to be called.
pub fn prepare() {
    PREPARED.get_or_init(|| Prepared::new().filter(|_| register(cut_short).is_ok()));
}

static PREPARED: OnceLock<Option<Prepared>> = OnceLock::new();

/// The process that leaves out the last step, and its exit code. A copy that a handler makes of it
/// is another process.
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
    // SAFETY: a null pointer means all streams. There is one thread, so none of them is locked by
    // another. The second call ends the process, and touches no memory.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::_exit(code)
    }
}

/// What tells that a process still has nothing to do in the last step of exit(3).
struct Prepared {
    files: LoadedFiles,
    count: usize,
    /// The C library's own note of whether there is one thread.
    is_single_threaded: &'static AtomicU8,
}

impl Prepared {
    /// None if there may be something to do.
    fn new() -> Option<Prepared> {
        // SAFETY: the name is a C string.
        let note = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        // SAFETY: that symbol is a `char` of the C library's (sys/single_threaded.h), which stays.
        let is_single_threaded = unsafe { note.cast::<AtomicU8>().as_ref() }?;
        let mut prepared = Prepared { files: LoadedFiles::current()?, count: 0, is_single_threaded };
        // SAFETY: with one thread, nothing changes the list meanwhile.
        for file in unsafe { prepared.files.iter() } {
            if !does_nothing_at_exit(file, prepared.count == 0) {
                return None;
            }
            prepared.count += 1;
        }
        prepared.holds().then_some(prepared)
    }

    /// Whether there is one thread, and no file has been loaded since.
    fn holds(&self) -> bool {
        // SAFETY: with one thread, nothing changes the list meanwhile.
        let are_those = || unsafe { self.files.are_all() && self.files.iter().count() == self.count };
        self.is_single_threaded.load(Relaxed) != 0 && are_those()
    }
}

/// Whether a file, the program itself or a shared library, has no constructors and destructors but
/// those that compilers and Rust's runtime put into each, which have nothing to do with exit.
fn does_nothing_at_exit(file: &LoadedFile, is_program: bool) -> bool {
    let is_runtime =
        [&b"libc.so."[..], b"libgcc_s.so.", b"ld-linux"].iter().any(|start| file.name().starts_with(start));
    let (of_compiler, of_rust) = (1, usize::from(is_program));
    let Arrays { before_init, init, fini } = file.arrays();
    is_runtime || (before_init == 0 && init <= of_compiler + of_rust && fini <= of_compiler)
}
