// Each process has a name, given or generated, and can ask for it.

use std::thread::sleep;
use std::time::Duration;

use multiproc::{Process, current_process};

fn worker() {
    let name = current_process().name();
    println!("{name} Starting");
    sleep(Duration::from_millis(200));
    println!("{name} Exiting");
}

fn my_service() {
    let name = current_process().name();
    println!("{name} Starting");
    sleep(Duration::from_millis(300));
    println!("{name} Exiting");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let service = Process::new(my_service, ()).name("my_service");
    let worker_1 = Process::new(worker, ()).name("worker 1");
    let worker_2 = Process::new(worker, ()); // the third one created: Process-3

    worker_1.start()?;
    worker_2.start()?;
    service.start()?;
    Ok(())
}
