//! Finalizers of processes: those that register others, panic or exit.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::common::{LONG, for_each_method};
use multiproc::connection::{Sender, one_way};
use multiproc::process::at_exit;
use multiproc::{Process, StartMethod};

/// Runs the target in a process, and returns what it has sent until its end, and its exit code.
fn messages_of(method: StartMethod, target: fn(Sender<String>)) -> (Vec<String>, Option<i32>) {
    let (to, from) = one_way::<String>().unwrap();
    let child = Process::new(target, (to,)).start_method(method).start().unwrap();
    let status = child.wait_timeout(LONG).unwrap().expect("timed out");
    let mut messages = Vec::new();
    while let Ok(line) = from.try_recv() {
        messages.push(line);
    }
    (messages, status.exit_code())
}

/// Registers a finalizer that sends `line`.
fn tell(to: &Sender<String>, priority: i32, line: &str) {
    let (to, line) = (to.clone(), line.to_owned());
    at_exit(priority, move || to.send(line).unwrap());
}

for_each_method! {
    fn reregisters_itself(method) {
        fn again(to: Sender<String>) {
            to.send("again".into()).unwrap();
            at_exit(0, move || again(to));
        }
        let (messages, code) = messages_of(method, again);
        // The target counts as the first call.
        assert!((3..20).contains(&messages.len()), "{}", messages.len());
        assert_eq!(code, Some(0));
    }

    fn registers_two(method) {
        fn twice(to: Sender<String>) {
            let _ = to.try_send("twice".into());
            for priority in [-1, 1] {
                let to = to.clone();
                at_exit(priority, move || twice(to));
            }
        }
        assert_eq!(messages_of(method, twice).1, Some(0));
    }

    fn endless_registration(method) not_fork {
        fn register(_: Sender<String>) {
            static REGISTERED: AtomicUsize = AtomicUsize::new(0);
            std::thread::spawn(|| {
                loop {
                    at_exit(0, || ());
                    REGISTERED.fetch_add(1, SeqCst);
                    std::thread::yield_now();
                }
            });
            while REGISTERED.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(messages_of(method, register).1, Some(0));
    }

    fn order(method) {
        let (messages, code) = messages_of(method, |to| {
            tell(&to, 0, "there, 0");
            tell(&to, -5, "there, -5");
            let registrar = to.clone();
            at_exit(7, move || {
                registrar.send("there, 7".into()).unwrap();
                tell(&registrar, 0, "registered, 0");
                tell(&registrar, 9, "registered, 9");
                tell(&registrar, -9, "registered, -9");
                at_exit(3, || unreachable!("it is cancelled")).cancel();
                let deeper = registrar.clone();
                at_exit(5, move || tell(&deeper, 5, "registered by one that was registered"));
            });
        });
        let expected = [
            "there, 7",
            "there, 0",
            "registered, 9",
            "registered, 0",
            // These run after the children have ended.
            "registered by one that was registered",
            "there, -5",
            "registered, -9",
        ];
        assert_eq!(messages, expected);
        assert_eq!(code, Some(0));
    }

    fn panic(method) {
        struct Explosive;
        impl Drop for Explosive {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!("the panic's payload panics, too");
                }
            }
        }
        let (messages, code) = messages_of(method, |to| {
            tell(&to, 0, "0");
            at_exit(1, || panic!("a finalizer panics"));
            at_exit(2, || std::panic::panic_any(Explosive));
            tell(&to, 3, "3");
            tell(&to, -3, "-3");
        });
        assert_eq!((messages, code), (["3", "0", "-3"].map(String::from).to_vec(), Some(0)));
    }

    fn exit(method) {
        let (messages, code) = messages_of(method, |to| {
            tell(&to, 0, "0");
            at_exit(1, || std::process::exit(9));
            tell(&to, 3, "3");
            tell(&to, -3, "-3");
        });
        assert_eq!(code, Some(9));
        assert_eq!(messages[0], "3");
        // A fork copy leaves without its creator's exit handlers, and `exit` runs none of the C
        // library's there.
        assert!(messages == ["3", "0", "-3"] || method == StartMethod::Fork, "{messages:?}");
    }
}
