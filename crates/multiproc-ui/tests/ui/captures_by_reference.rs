use multiproc::Process;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let number = 5;
    Process::new(|| println!("{number}"), ()).start()?;
    Ok(())
}
