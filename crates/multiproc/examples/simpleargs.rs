// Arguments tell each process what to work on. Any type that implements serde's traits will do.

use multiproc::Process;

fn worker(num: u32) {
    println!("Worker: {num}");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    for num in 0..5 {
        Process::new(worker, (num,)).start()?;
    }
    Ok(())
}
