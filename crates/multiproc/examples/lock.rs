// A lock keeps the output of several processes apart.

use std::io::Write;

use multiproc::Process;
use multiproc::sync::Lock;

/// The lock is held as long as the guard exists.
fn worker_with(lock: Lock) -> multiproc::Result<()> {
    let _guard = lock.lock()?;
    print_slowly("Lock acquired for the whole function");
    Ok(())
}

/// The lock is released when the guard is dropped.
fn worker_no_with(lock: Lock) -> multiproc::Result<()> {
    let guard = lock.lock()?;
    print_slowly("Lock acquired directly");
    drop(guard);
    Ok(())
}

/// Prints letter by letter, so that others could print in between.
fn print_slowly(line: &str) {
    for letter in line.chars() {
        print!("{letter}");
        std::io::stdout().flush().expect("stdout is closed");
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
