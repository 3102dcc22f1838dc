// To let a daemon finish, wait for it.

use std::thread::sleep;
use std::time::Duration;

use multiproc::{Process, current_process};

fn daemon() {
    sleep(Duration::from_millis(600));
    println!("Starting: {}", current_process().name());
    println!("Exiting : {}", current_process().name());
}

fn non_daemon() {
    println!("Starting: {}", current_process().name());
    println!("Exiting : {}", current_process().name());
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let d = Process::new(daemon, ()).name("daemon").daemon(true);
    let n = Process::new(non_daemon, ()).name("non-daemon");

    let d = d.start()?;
    let n = n.start()?;

    d.wait()?;
    n.wait()?;
    Ok(())
}
