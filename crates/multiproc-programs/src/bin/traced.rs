//! Processes that use `tracing`, with different receivers in their main process, by scenario.

use multiproc::log::LevelFilter;
use multiproc::{Process, StartMethod};
use multiproc_programs::say;
use tracing::{Level, debug, info, info_span, warn};

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[2] == "spawn" {
        multiproc::set_start_method(StartMethod::Spawn);
    }
    match arguments[1].as_str() {
        "subscriber" => tracing_subscriber::fmt().with_max_level(Level::INFO).without_time().with_writer(Stdout).init(),
        "subscriber-alone" => {
            let subscriber = tracing_subscriber::fmt().with_max_level(Level::INFO).without_time().with_writer(Stdout);
            tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        }
        "logger" => {
            log::set_logger(&Own).unwrap();
            log::set_max_level(LevelFilter::Info);
        }
        other => panic!("no scenario {other:?}"),
    }
    multiproc::log::relay_logs().unwrap();
    info!("its own");
    let child = Process::new(
        || {
            events();
            Process::new(|| warn!(target: "grandchild", "hello"), ()).start().unwrap().wait().unwrap();
        },
        (),
    );
    child.name("child").start().unwrap().wait().unwrap();
    say("waited");
}

fn events() {
    info!(target: "child", number = 7, text = "a b", "in no span");
    let outer = info_span!("outer", id = 1, late = tracing::field::Empty);
    outer.record("late", "yes");
    outer.in_scope(|| {
        let inner = info_span!("inner");
        let entered = inner.enter();
        info!(target: "child", "in two");
        info!(target: "child", parent: &outer, done = true);
        info!(target: "child", parent: None, "in none");
        drop(entered);
        // A thread has spans of its own.
        std::thread::scope(|scope| drop(scope.spawn(|| info!(target: "child", "in a thread"))));
        std::thread::scope(|scope| {
            drop(scope.spawn(|| inner.in_scope(|| info!(target: "child", "in a thread, with a span"))))
        });
        debug!(target: "child", "not wanted");
        log::info!(target: "child", key = 3; "by log");
    });
    info!(target: "child", "out again");
}

/// Writes to the main process's stdout.
struct Stdout;

impl tracing_subscriber::fmt::MakeWriter<'_> for Stdout {
    type Writer = std::io::Stdout;

    fn make_writer(&self) -> std::io::Stdout {
        std::io::stdout()
    }
}

/// A logger of the `log` crate.
struct Own;

impl log::Log for Own {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(&format!("{} {}: {}", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}
