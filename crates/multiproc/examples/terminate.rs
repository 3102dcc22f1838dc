// A process that hangs can be ended from outside, and its status shows that afterwards.

use std::thread::sleep;
use std::time::Duration;

use multiproc::Process;

fn slow_worker() {
    sleep(Duration::from_secs(1000));
    println!("Finished worker");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let p = Process::new(slow_worker, ());
    println!("BEFORE: {p} {}", p.is_alive());

    let p = p.start()?;
    println!("DURING: {p} {}", p.is_alive());

    p.terminate()?;
    println!("TERMINATED: {p} {}", p.is_alive());

    p.wait()?;
    println!("JOINED: {p} {}", p.is_alive());
    Ok(())
}
