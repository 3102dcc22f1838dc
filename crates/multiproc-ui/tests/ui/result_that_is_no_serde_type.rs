use multiproc::Process;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Process::new(std::thread::current, ()).start()?;
    Ok(())
}
