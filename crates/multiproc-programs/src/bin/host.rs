//! A program that is a host of the library, as a language runtime is: it is executed as another
//! file, with arguments and a variable of its own, has hooks around copies, and leaves in its own
//! way. `host METHOD FILE`; `FILE` is what it executes for its processes.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use multiproc::Process;
use multiproc::process::Host;
use multiproc_programs::{say, start_method};

static BEFORE: AtomicU32 = AtomicU32::new(0);
static IN_PARENT: AtomicU32 = AtomicU32::new(0);
static IN_CHILD: AtomicU32 = AtomicU32::new(0);

fn count(number: &AtomicU32) {
    number.fetch_add(1, SeqCst);
}

/// The variable as it was when this process was executed.
fn role() -> String {
    static ROLE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ROLE.get_or_init(|| std::env::var("ROLE").unwrap_or("main".into())).clone()
}

/// The file of this process, its arguments but the first, its role, and how often the hooks were
/// called that its copies can see.
fn seen() -> (String, Vec<String>, String, [u32; 3]) {
    // SAFETY: the kernel's string, which is never changed.
    let file = unsafe { CStr::from_ptr(libc::getauxval(libc::AT_EXECFN) as *const libc::c_char) };
    let counts = [&BEFORE, &IN_PARENT, &IN_CHILD].map(|count| count.load(SeqCst));
    (file.to_str().unwrap().into(), std::env::args().skip(1).collect(), role(), counts)
}

fn leave(code: i32) -> ! {
    say(&format!("left with {code}"));
    // SAFETY: it ends the process.
    unsafe { libc::_exit(code) }
}

fn main() {
    role();
    let arguments: Vec<String> = std::env::args().collect();
    let (method, file) = (start_method(&arguments[1]), &arguments[2]);
    let host = Host::new()
        .program(file)
        .arguments(["a host", &arguments[1], file, "executed"])
        .variable("ROLE", "executed")
        .before_copy(|| count(&BEFORE))
        .after_copy_in_parent(|| count(&IN_PARENT))
        .after_copy_in_child(|| count(&IN_CHILD))
        .leave(leave);
    host.clone().install().unwrap();
    host.install().unwrap_err();
    multiproc::init();
    // One at a time, and none made ahead, so that the counts are certain.
    multiproc::process::set_standby(false);
    for _ in 0..2 {
        let child = Process::new(seen, ()).start_method(method).start().unwrap();
        let (file, arguments, role, counts) = child.join().unwrap();
        say(&format!("{file} {} {role} {counts:?}", arguments.join(" ")));
    }
    say(&format!("{:?}", seen().3));
}
