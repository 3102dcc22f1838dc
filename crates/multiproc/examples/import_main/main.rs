// A target can live anywhere: in this file, in a module of its own, in another crate. Nothing marks
// it as a target, and nothing guards the main program: a child never gets past #[multiproc::main],
// so main runs once.

use multiproc::Process;

mod worker;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    for _ in 0..4 {
        Process::new(worker::worker, ()).start()?;
    }
    Process::new(multiproc_elsewhere::worker, ()).start()?;
    Ok(())
}
