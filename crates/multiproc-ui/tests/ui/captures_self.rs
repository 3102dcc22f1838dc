use multiproc::Process;

struct Worker {
    number: u32,
}

impl Worker {
    fn run(&self, other: u32) -> u32 {
        self.number * other
    }
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let worker = Worker { number: 3 };
    Process::new(|other| worker.run(other), (1,)).start()?;
    Ok(())
}
