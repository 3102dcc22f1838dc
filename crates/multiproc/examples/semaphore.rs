// At most a few processes are active at a time: the others wait for a permit.

use std::thread::sleep;
use std::time::Duration;

use multiproc::sync::Semaphore;
use multiproc::{Process, current_process};

/// How many may be active at a time.
const ROOM: usize = 3;

/// Do some work with one of the permits, and print how many are active meanwhile.
fn worker(pool: Semaphore) -> multiproc::Result<()> {
    let permit = pool.acquire()?;
    println!("{} activated, now running at most {ROOM}: {}", current_process().name(), ROOM - pool.available());
    sleep(Duration::from_millis(100));
    drop(permit); // as it would be if this process died
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let pool = Semaphore::new(ROOM)?;
    let jobs = (0..10)
        .map(|number| Process::new(worker, (pool.clone(),)).name(number.to_string()).start())
        .collect::<Result<Vec<_>, _>>()?;
    for job in jobs {
        job.join()??;
    }
    println!("Now running: {}", ROOM - pool.available());
    Ok(())
}
