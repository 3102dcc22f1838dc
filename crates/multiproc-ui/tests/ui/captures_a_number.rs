use multiproc::Process;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let number = 7;
    Process::new(move |other: u32| other + number, (1,)).start()?;
    Ok(())
}
