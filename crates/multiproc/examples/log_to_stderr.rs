// The library can log its actions to stderr, with the name of the process.

use multiproc::Process;
use multiproc::log::LevelFilter;

fn worker() {
    println!("Doing some work");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    multiproc::log_to_stderr(LevelFilter::Debug);
    let p = Process::new(worker, ()).start()?;
    p.wait()?;
    Ok(())
}
