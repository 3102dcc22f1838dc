use multiproc::Process;

struct Failed;

fn worker() -> Result<u32, Failed> {
    Err(Failed)
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Process::new(worker, ()).start()?;
    Ok(())
}
