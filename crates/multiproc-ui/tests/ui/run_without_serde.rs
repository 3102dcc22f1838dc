use multiproc::Run;

struct Worker;

impl Run for Worker {
    type Output = ();

    fn run(self) {}
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Worker.start()?;
    Ok(())
}
