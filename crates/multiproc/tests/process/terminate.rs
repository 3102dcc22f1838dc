//! Ending a process from outside.

use std::time::Duration;

use crate::common::{Ends, Scratch, fifo, for_each_method, sleep_long};
use multiproc::Process;

/// Announces on `ready` that SIGTERM is ignored from now on, and sleeps.
fn ignores_sigterm(ready: String) {
    // SAFETY: no handler is installed or replaced.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    std::fs::write(ready, "now").unwrap();
    sleep_long();
}

for_each_method! {
    fn signals(method) {
        type End = fn(&multiproc::Child<()>) -> Result<(), multiproc::process::ChildError>;
        let ends: [(End, &str, i32); 4] = [
            (multiproc::Child::terminate, "stopped[SIGTERM]", -15),
            (multiproc::Child::kill, "stopped[SIGKILL]", -9),
            (multiproc::Child::interrupt, "stopped[SIGINT]", -2),
            (|child| child.signal(libc::SIGUSR2), "stopped[SIGUSR2]", -12),
        ];
        for (end, state, code) in ends {
            let child = Ends(Process::new(sleep_long, ()).name("p").start_method(method).start().unwrap());
            end(&child).unwrap();
            child.wait().unwrap();
            assert_eq!((child.to_string(), child.is_alive()), (format!("<Process(p, {state})>"), false));
            assert_eq!(child.exit_code(), Some(code));
            assert_eq!(child.wait().unwrap().signal(), Some(-code));
        }
    }

    fn real_time_signals(method) {
        let shown = [
            (libc::SIGRTMIN(), "SIGRTMIN".to_owned()),
            (libc::SIGRTMIN() + 6, "SIGRTMIN+6".to_owned()),
            (libc::SIGRTMAX(), format!("SIGRTMIN+{}", libc::SIGRTMAX() - libc::SIGRTMIN())),
        ];
        for (signal, name) in shown {
            let child = Process::new(sleep_long, ()).name("p").start_method(method).start().unwrap();
            child.signal(signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!((status.to_string(), status.exit_code()), (format!("stopped[{name}]"), Some(-signal)));
            assert_eq!(child.join().unwrap_err().to_string(), format!("p was killed by {name}"));
        }
    }

    fn ignored_sigterm(method) {
        let scratch = Scratch::new();
        let ready = fifo(&scratch, "ready");
        let child = Ends(Process::new(ignores_sigterm, (ready.clone(),)).start_method(method).start().unwrap());
        assert_eq!(std::fs::read_to_string(ready).unwrap(), "now");
        child.terminate().unwrap();
        assert!(child.is_alive());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(-9));
    }

    fn kill_stopped(method) {
        let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
        child.signal(libc::SIGSTOP).unwrap();
        assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None, "stopped is not ended");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!child.is_alive());
    }

    fn ended_gets_no_signal(method) {
        let child = Process::new(|| (), ()).start_method(method).start().unwrap();
        child.wait().unwrap();
        child.terminate().unwrap();
        child.kill().unwrap();
        child.signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.exit_code(), Some(0));
    }

    fn invalid_signal(method) {
        let child = Ends(Process::new(sleep_long, ()).name("p").start_method(method).start().unwrap());
        let error = child.signal(1000).unwrap_err().to_string();
        assert!(error.contains("signal p"), "{error}");
        assert!(child.is_alive());
    }

    fn default_and_unblocked_signals(method) {
        // What this process blocks and ignores, its children do not.
        let start_with_all_blocked = move || {
            // SAFETY: a set is filled in before it is used; only this thread's mask changes, and
            // the thread does nothing else.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            }
            Process::new(|| std::fs::read_to_string("/proc/self/status").unwrap(), ()).start_method(method).start().unwrap()
        };
        let child = match method {
            multiproc::StartMethod::Fork => start_with_all_blocked(),
            _ => std::thread::spawn(start_with_all_blocked).join().unwrap(),
        };
        let status = child.join().unwrap();
        let field = |name: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            u64::from_str_radix(mask, 16).unwrap()
        };
        assert_eq!(field("SigBlk:"), 0, "{status}");
        // The Rust runtime ignores SIGPIPE in every program; 32 and 33 are the C library's own.
        let internal = 0b11 << 31;
        assert_eq!(field("SigIgn:") & !internal, 1 << (libc::SIGPIPE - 1), "{status}");
    }
}
