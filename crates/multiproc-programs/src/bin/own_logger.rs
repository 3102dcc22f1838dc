//! A program with a logger of its own.

use multiproc::Process;
use multiproc::log::LevelFilter;
use multiproc_programs::say;

struct Own;

impl log::Log for Own {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(&format!("own: {} {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[multiproc::main]
fn main() {
    log::set_logger(&Own).unwrap();
    log::set_max_level(LevelFilter::Info);
    log::info!(target: "program", "hello");
    multiproc::log_to_stderr(LevelFilter::Info);
    Process::new(|| log::info!("in the child"), ()).start().unwrap().wait().unwrap();
}
