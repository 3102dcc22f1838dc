use multiproc::Process;

static GREETING: u64 = 7;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let greeting: &'static u64 = &GREETING;
    Process::new(move || println!("{greeting}"), ()).start()?;
    Ok(())
}
