// What all processes log arrives in the main process's own logger, and what they print arrives line
// by line.

use multiproc::Process;
use multiproc::log::LevelFilter;

/// Any logger of the `log` crate; env_logger, for example.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() != "multiproc" {
            println!("{:5} {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

fn worker(task: u32) {
    log::info!("working on task {task}");
    println!("the result of task {task} is {}", task * task);
    if task == 2 {
        log::error!("something is very wrong");
        std::process::abort(); // even so, what it has logged and printed arrives
    }
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    log::set_logger(&Logger).expect("a logger is already set");
    log::set_max_level(LevelFilter::Info);
    multiproc::log::relay_logs()?;
    multiproc::log::capture_output()?;
    for task in 1..=2 {
        let child = Process::new(worker, (task,)).start()?;
        log::info!("process ended: {}", child.wait()?);
    }
    Ok(())
}
