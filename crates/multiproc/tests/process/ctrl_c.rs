//! SIGINT in children: the terminal's is ignored, and `interrupt` has the default effect. What
//! Ctrl-C does to a whole program is tested in `multiproc-programs`.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use crate::common::{Ends, Scratch, fifo, for_each_method, sleep_long};
use multiproc::{Process, StartMethod};

/// Async-signal-safe.
extern "C" fn leave(signal: i32) {
    // SAFETY: the call accesses no memory.
    unsafe { libc::_exit(100 + signal) };
}

extern "C" fn go_on(_: i32) {}

fn on(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handlers above are async-signal-safe.
    unsafe { libc::signal(signal, handler as libc::sighandler_t) };
}

/// Announces on `ready` that its handlers are installed, and sleeps.
fn with_handlers(handlers: Vec<(i32, bool)>, ready: String) {
    for (signal, goes_on) in handlers {
        on(signal, if goes_on { go_on } else { leave });
    }
    std::fs::write(ready, "now").unwrap();
    sleep_long();
}

/// A child with handlers for these signals: some ignore the signal (true), the others exit with
/// code 100 plus the number of the signal. They are installed when this returns.
fn child_with_handlers(method: StartMethod, handlers: &[(i32, bool)]) -> Ends<()> {
    let scratch = Scratch::new();
    let ready = fifo(&scratch, "ready");
    let child = Process::new(with_handlers, (handlers.to_vec(), ready.clone())).start_method(method).start().unwrap();
    assert_eq!(std::fs::read_to_string(ready).unwrap(), "now");
    Ends(child)
}

for_each_method! {
    fn terminal_sigint_is_ignored(method) {
        let child = child_with_handlers(method, &[(libc::SIGUSR1, false)]);
        // SAFETY: the child has not been reaped, so the id is still its own.
        unsafe { libc::kill(child.pid(), libc::SIGINT) };
        // Of two pending signals, the one with the lower number is delivered first.
        child.signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(100 + libc::SIGUSR1));
    }

    fn interrupt(method) {
        // Some of them are interrupted before their first instruction.
        for _ in 0..30 {
            let child = Ends(Process::new(sleep_long, ()).name("p").start_method(method).start().unwrap());
            child.interrupt().unwrap();
            child.wait().unwrap();
            assert_eq!(child.to_string(), "<Process(p, stopped[SIGINT])>");
        }
        let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
        child.signal(libc::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    }

    fn blocked_interrupt(method) {
        let scratch = Scratch::new();
        let ready = fifo(&scratch, "ready");
        let child = Process::new(
            |ready: String| {
                // SAFETY: a set is filled in before it is used.
                unsafe {
                    let mut set: libc::sigset_t = std::mem::zeroed();
                    libc::sigemptyset(&raw mut set);
                    libc::sigaddset(&raw mut set, libc::SIGINT);
                    libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                    std::fs::write(ready, "now").unwrap();
                    libc::sigsuspend({ libc::sigemptyset(&raw mut set); &raw const set });
                }
            },
            (ready.clone(),),
        );
        let child = Ends(child.start_method(method).start().unwrap());
        assert_eq!(std::fs::read_to_string(ready).unwrap(), "now");
        child.interrupt().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    }

    fn own_handler(method) {
        let child = child_with_handlers(method, &[(libc::SIGINT, false)]);
        child.interrupt().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(100 + libc::SIGINT));

        let child = child_with_handlers(method, &[(libc::SIGINT, true), (libc::SIGUSR1, false)]);
        child.interrupt().unwrap();
        assert!(child.is_alive());
        child.signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(100 + libc::SIGUSR1));
    }

    fn executed_program_has_default(method) {
        let suicide = || {
            let mut command = Command::new("sh");
            command.args(["-c", "kill -INT $$; exit 5"]);
            command
        };
        // The target runs a program as a child, or replaces itself by it.
        let child = Process::new(move || suicide().status().unwrap().signal(), ()).start_method(method);
        assert_eq!(child.start().unwrap().join().unwrap(), Some(libc::SIGINT));
        let child = Process::new(move || drop(suicide().exec()), ()).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    }

    fn grandchildren(method) {
        let child = Process::new(
            |method| {
                let leaf = child_with_handlers(method, &[(libc::SIGUSR1, false)]);
                // SAFETY: the child has not been reaped, so the id is still its own.
                unsafe { libc::kill(leaf.pid(), libc::SIGINT) };
                leaf.signal(libc::SIGUSR1).unwrap();
                let code = leaf.wait().unwrap().exit_code();
                let leaf = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
                leaf.interrupt().unwrap();
                (code, leaf.wait().unwrap().exit_code())
            },
            (method,),
        );
        let codes = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(codes, (Some(100 + libc::SIGUSR1), Some(-libc::SIGINT)));
    }
}
