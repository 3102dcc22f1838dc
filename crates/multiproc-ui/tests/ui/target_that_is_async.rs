use multiproc::Process;

async fn worker(number: u32) -> u32 {
    number
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Process::new(worker, (1,)).start()?;
    Ok(())
}
