// The simplest way to start a process: give it a target function, and start it.

use multiproc::Process;

fn worker() {
    println!("Worker");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    for _ in 0..5 {
        Process::new(worker, ()).start()?;
    }
    Ok(()) // the end of main waits for the five
}
