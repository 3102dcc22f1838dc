// The logger is available at any time, to change its level. Processes that are started later
// inherit it.

use multiproc::Process;
use multiproc::log::LevelFilter;

fn worker() {
    println!("Doing some work");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    multiproc::log_to_stderr(LevelFilter::Off);
    let logger = multiproc::log::get_logger();
    logger.set_level(LevelFilter::Info);
    let p = Process::new(worker, ()).start()?;
    p.wait()?;
    Ok(())
}
