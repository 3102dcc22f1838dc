// What the library does can be logged on stderr, with the name of the process that does it.

use multiproc::{LevelFilter, Process};

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
