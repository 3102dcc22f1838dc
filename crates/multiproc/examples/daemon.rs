// A daemon doesn't keep the program from ending: it is terminated then, so its "Exiting" is never
// printed.

use std::thread::sleep;
use std::time::Duration;

use multiproc::{Process, current_process};

fn daemon() {
    let this = current_process();
    println!("Starting: {} {}", this.name(), this.pid());
    sleep(Duration::from_secs(2));
    println!("Exiting : {} {}", this.name(), this.pid());
}

fn non_daemon() {
    let this = current_process();
    println!("Starting: {} {}", this.name(), this.pid());
    println!("Exiting : {} {}", this.name(), this.pid());
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let d = Process::new(daemon, ()).name("daemon").daemon(true);
    let n = Process::new(non_daemon, ()).name("non-daemon");

    d.start()?;
    sleep(Duration::from_millis(500));
    n.start()?;
    Ok(())
}
