// Waiting can have a timeout. A process that is still running then is alive.

use std::thread::sleep;
use std::time::Duration;

use multiproc::{Process, current_process};

fn daemon() {
    sleep(Duration::from_secs(1000));
}

fn non_daemon() {
    println!("Starting: {}", current_process().name());
    println!("Exiting : {}", current_process().name());
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let d = Process::new(daemon, ()).name("daemon").daemon(true).start()?;
    let n = Process::new(non_daemon, ()).name("non-daemon").start()?;
    n.wait()?;

    d.wait_timeout(Duration::from_millis(500))?;
    println!("d.is_alive() {}", d.is_alive());
    Ok(())
}
