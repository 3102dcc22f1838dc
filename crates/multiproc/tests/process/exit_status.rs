//! How a process ended, and why there is no value.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::common::{Unwilling, for_each_method};
use multiproc::Process;
use multiproc::process::JoinErrorKind;
use serde::{Deserialize, Serialize};

/// Can be read in the process that made it, and in no other.
#[derive(Debug)]
struct Homesick(u32);

impl Serialize for Homesick {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Homesick {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Homesick, D::Error> {
        match u32::deserialize(deserializer)? {
            home if home == std::process::id() => Ok(Homesick(home)),
            _ => Err(serde::de::Error::custom("too far from home")),
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum Typed {
    #[error("line {line} is wrong")]
    Line { line: u32 },
}

for_each_method! {
    fn codes(method) {
        for (code, seen) in [(0, 0), (1, 1), (3, 3), (255, 255), (256, 0), (-1, 255), (1000, 232)] {
            let child = Process::new(|code| if code < 5000 { std::process::exit(code) }, (code,));
            let child = child.start_method(method).start().unwrap();
            assert_eq!(child.wait().unwrap().exit_code(), Some(seen));
            let error = child.join().unwrap_err();
            assert!(matches!(error.kind(), JoinErrorKind::Exited(code) if *code == seen), "{error}");
        }
    }

    fn codes_without_exit_handlers(method) {
        // SAFETY: the call ends the process.
        let child = Process::new(|| unsafe { if true { libc::_exit(9) } }, ()).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(9));
        assert!(matches!(child.join().unwrap_err().into_kind(), JoinErrorKind::Exited(9)));
    }

    fn panic(method) {
        fn dividing(by: u32) -> u32 {
            10 / by
        }
        let child = Process::new(dividing, (0,)).name("divider").start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(1));
        assert_eq!(child.to_string(), "<Process(divider, stopped[1])>");
        let error = child.join().unwrap_err();
        assert!(error.is_panic());
        assert_eq!(error.process(), "divider");
        let JoinErrorKind::Panicked(panic) = error.kind() else { panic!("{error}") };
        assert_eq!(panic.message, "attempt to divide by zero");
        assert!(panic.location.as_ref().unwrap().contains("exit_status.rs:"), "{panic}");
        assert!(error.to_string().starts_with("divider panicked: attempt to divide by zero"), "{error}");
    }

    fn panic_payloads(method) {
        let message = |target: fn()| {
            let child = Process::new(target, ()).start_method(method).start().unwrap();
            match child.join().unwrap_err().into_kind() {
                JoinErrorKind::Panicked(panic) => panic.message,
                other => panic!("{other}"),
            }
        };
        assert_eq!(message(|| panic!("text")), "text");
        assert_eq!(message(|| panic!("{} {}", 1, 2)), "1 2");
        assert_eq!(message(|| std::panic::panic_any(7)), "Box<dyn Any>");
        assert_eq!(message(|| { std::panic::set_hook(Box::new(|_| ())); panic!("own hook") }), "own hook");
    }

    fn panic_in_other_thread(method) {
        let child = Process::new(|| std::thread::spawn(|| panic!("on the side")).join().is_err(), ());
        assert!(child.start_method(method).start().unwrap().join().unwrap());
    }

    fn error_is_value_and_code_1(method) {
        let typed = Process::new(|line| if line > 0 { Err(Typed::Line { line }) } else { Ok(()) }, (7,));
        let typed = typed.start_method(method).start().unwrap();
        assert_eq!(typed.wait().unwrap().exit_code(), Some(1));
        assert_eq!(typed.join().unwrap(), Err(Typed::Line { line: 7 }));

        fn number(text: String) -> Result<u16, Box<dyn Error>> {
            Ok(text.parse()?)
        }
        let boxed = Process::new(number, ("x".into(),)).start_method(method).start().unwrap();
        assert_eq!(boxed.wait().unwrap().exit_code(), Some(1));
        assert_eq!(boxed.join().unwrap().unwrap_err().to_string(), "invalid digit found in string");
        let fine = Process::new(number, ("80".into(),)).start_method(method).start().unwrap();
        assert_eq!(fine.wait().unwrap().exit_code(), Some(0));
        assert_eq!(fine.join().unwrap().unwrap(), 80);

        let io = Process::new(|path: String| std::fs::read(path), ("/no/such/file".into(),)).start_method(method).start().unwrap();
        assert!(io.join().unwrap().unwrap_err().to_string().contains("No such file"));
    }

    fn signals(method) {
        for (signal, target) in [
            (libc::SIGABRT, (|| std::process::abort()) as fn()),
            // SAFETY: the signal's default action is intended.
            (libc::SIGSEGV, || unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL); libc::raise(libc::SIGSEGV); }),
            // SAFETY: as above.
            (libc::SIGKILL, || unsafe { libc::raise(libc::SIGKILL); }),
            // SAFETY: as above; a real-time signal has no name.
            (40, || unsafe { libc::raise(40); }),
        ] {
            let child = Process::new(target, ()).name("p").start_method(method).start().unwrap();
            assert_eq!(child.wait().unwrap().exit_code(), Some(-signal));
            let error = child.join().unwrap_err();
            assert_eq!(error.signal(), Some(signal), "{error}");
            assert!(error.to_string().starts_with("p was killed by "), "{error}");
        }
    }

    fn result_encode_error(method) {
        let child = Process::new(|| Unwilling, ()).name("p").start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(1));
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::Encode(reason) if reason.contains("not today")), "{error}");
    }

    fn result_decode_error(method) {
        let child = Process::new(|| Homesick(std::process::id()), ()).start_method(method).start().unwrap();
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::Decode(reason) if reason.to_string().contains("Homesick") && reason.to_string().contains("far from home")), "{error}");
        let kept = error.undecodable().expect("the value is not lost").decode_as::<u32>().unwrap();
        assert_ne!(kept, std::process::id());
    }

    fn argument_decode_error(method) not_fork {
        let child = Process::new(|_: Homesick| (), (Homesick(std::process::id()),)).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(1));
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::Arguments(reason) if reason.contains("Homesick") && reason.contains("far from home")), "{error}");
    }

    fn panic_in_serde(method) not_fork {
        struct Explosive;
        impl Serialize for Explosive {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("boom")
            }
        }
        impl<'de> Deserialize<'de> for Explosive {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Explosive, D::Error> {
                Ok(Explosive)
            }
        }
        struct Landmine(u32);
        impl Serialize for Landmine {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u32(self.0)
            }
        }
        impl<'de> Deserialize<'de> for Landmine {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Landmine, D::Error> {
                let home = u32::deserialize(deserializer)?;
                assert_eq!(home, std::process::id(), "far from home");
                Ok(Landmine(home))
            }
        }
        let result = Process::new(|| Explosive, ()).start_method(method).start().unwrap();
        assert_eq!(result.wait().unwrap().exit_code(), Some(1));
        assert!(result.join().err().unwrap().is_panic());
        let argument = Process::new(|_: Landmine| (), (Landmine(std::process::id()),)).start_method(method).start().unwrap();
        assert_eq!(argument.wait().unwrap().exit_code(), Some(1));
        assert!(argument.join().unwrap_err().is_panic());
    }

    fn value_survives_failing_exit(method) {
        let exits = Process::new(|| { multiproc::process::at_exit(0, || std::process::exit(9)); 5 }, ());
        let exits = exits.start_method(method).start().unwrap();
        assert_eq!(exits.wait().unwrap().exit_code(), Some(9));
        assert_eq!(exits.join().unwrap(), 5);
        let aborts = Process::new(|| { multiproc::process::at_exit(0, || std::process::abort()); 5 }, ());
        let aborts = aborts.start_method(method).start().unwrap();
        assert_eq!(aborts.wait().unwrap().signal(), Some(libc::SIGABRT));
        assert_eq!(aborts.join().unwrap(), 5);
    }

    fn forked_copy_does_not_report(method) {
        let child = Process::new(
            || {
                // SAFETY: this process has one thread.
                match unsafe { libc::fork() } {
                    0 => 8,
                    copy => {
                        // SAFETY: no status is requested.
                        unsafe { libc::waitpid(copy, std::ptr::null_mut(), 0) };
                        7
                    }
                }
            },
            (),
        );
        assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), 7);
    }

    fn never_returns(method) {
        fn serve(code: i32) -> ! {
            std::process::exit(code)
        }
        let served = Process::new(serve, (4,)).start_method(method).start().unwrap();
        assert!(matches!(served.join().unwrap_err().into_kind(), JoinErrorKind::Exited(4)));
        let endless = Process::new(|| loop { std::thread::park() }, ()).start_method(method).start().unwrap();
        endless.terminate().unwrap();
        assert_eq!(endless.wait().unwrap().exit_code(), Some(-15));
        let panics = Process::new(|| panic!("at once"), ()).start_method(method).start().unwrap();
        assert!(panics.join().unwrap_err().is_panic());
    }

    fn large_value_with_few_fds(method) {
        let outer = Process::new(
            |method| {
                let child = Process::new(|| vec![1_u8; 200_000], ()).start_method(method).start().unwrap();
                let set = |soft: u64| {
                    let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
                    // SAFETY: the pointer is to a local structure.
                    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
                };
                set(4);
                let status = child.wait().unwrap().exit_code();
                set(4096);
                (status, child.join().unwrap().len())
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), (Some(0), 200_000));
    }

    fn resource_usage(method) {
        let child = Process::new(
            || {
                let memory = vec![1_u8; 64 << 20];
                let start = Instant::now();
                let mut sum = 0_u64;
                while start.elapsed() < Duration::from_millis(30) {
                    sum += memory.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>();
                }
                sum > 0
            },
            (),
        );
        let child = child.start_method(method).start().unwrap();
        let status = child.wait().unwrap();
        assert!(status.max_rss().unwrap() > 64 << 20);
        assert!(status.cpu_time().unwrap() > Duration::ZERO);
        assert_eq!(status.cpu_time().unwrap(), status.user_time().unwrap() + status.system_time().unwrap());
    }

    fn stack_overflow(method) {
        fn deeper(n: u64) -> u64 {
            let mut page = [n; 512];
            std::hint::black_box(&mut page);
            if n == u64::MAX { 0 } else { deeper(n + 1) + page[7] }
        }
        let child = Process::new(deeper, (0,)).start_method(method).start().unwrap();
        let error = child.join().unwrap_err();
        assert!(matches!(error.signal(), Some(libc::SIGSEGV | libc::SIGABRT)), "{error}");
    }
}
