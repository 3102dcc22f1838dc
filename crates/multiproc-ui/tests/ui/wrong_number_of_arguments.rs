use multiproc::Process;

fn add(a: u32, b: u32) -> u32 {
    a + b
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Process::new(add, (1,)).start()?;
    Ok(())
}
