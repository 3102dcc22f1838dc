use multiproc::Process;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let list = vec![1, 2, 3];
    Process::new(move || println!("{list:?}"), ()).start()?;
    Ok(())
}
