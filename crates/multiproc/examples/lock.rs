// A lock keeps what several processes print from coming in between.

use std::io::Write;

use multiproc::Process;
use multiproc::sync::Lock;

/// The lock is held as long as the guard is there.
fn worker_with(lock: Lock) -> multiproc::Result<()> {
    let _guard = lock.lock()?;
    print_slowly("Lock acquired for the whole function");
    Ok(())
}

/// It is given up when the guard is dropped.
fn worker_no_with(lock: Lock) -> multiproc::Result<()> {
    let guard = lock.lock()?;
    print_slowly("Lock acquired directly");
    drop(guard);
    Ok(())
}

/// Each letter by itself, so that others could come in between.
fn print_slowly(line: &str) {
    for letter in line.chars() {
        print!("{letter}");
        std::io::stdout().flush().expect("somebody reads it");
    }
    println!();
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let lock = Lock::new()?;
    let w = Process::new(worker_with, (lock.clone(),)).start()?;
    let nw = Process::new(worker_no_with, (lock,)).start()?;
    w.join()??;
    nw.join()??;
    Ok(())
}
