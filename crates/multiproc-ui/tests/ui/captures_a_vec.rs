use multiproc::Process;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let list = vec![1, 2, 3];
    Process::new(move |index: usize| list[index], (0,)).start()?;
    Ok(())
}
