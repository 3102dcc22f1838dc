// In place of a subclass of Process: a type that implements Run. Its fields are sent to the
// process, which is named after it.

use multiproc::{Run, current_process};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Worker;

impl Run for Worker {
    type Output = ();

    fn run(self) {
        println!("In {}", current_process().name());
    }
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(Worker.start()?);
    }
    for job in jobs {
        job.wait()?;
    }
    Ok(())
}
