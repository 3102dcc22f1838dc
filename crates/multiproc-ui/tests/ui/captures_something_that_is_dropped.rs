use multiproc::Process;

struct Token;

impl Drop for Token {
    fn drop(&mut self) {}
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let token = Token;
    Process::new(move || { let _ = &token; }, ()).start()?;
    Ok(())
}
