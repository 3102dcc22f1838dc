// One process prepares something for others, which wait until it notifies them.

use std::thread::sleep;
use std::time::Duration;

use multiproc::sync::{Condition, Event};
use multiproc::{Process, current_process};

/// Perform the first stage of the work, then notify stage_2 to continue.
fn stage_1(cond: Condition, done: Event) -> multiproc::Result<()> {
    let name = current_process().name().to_owned();
    println!("Starting {name}");
    let guard = cond.lock()?;
    println!("{name} done and ready for stage 2");
    done.set();
    guard.notify_all();
    Ok(())
}

/// Wait for the condition telling us stage_1 is done.
fn stage_2(cond: Condition, done: Event) -> multiproc::Result<()> {
    let name = current_process().name().to_owned();
    println!("Starting {name}");
    let mut guard = cond.lock()?;
    guard.wait_for(|| done.is_set())?;
    println!("{name} running");
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let cond = Condition::new()?;
    let done = Event::new()?;
    let s1 = Process::new(stage_1, (cond.clone(), done.clone())).name("s1");
    let s2_clients = (1..=2)
        .map(|i| Process::new(stage_2, (cond.clone(), done.clone())).name(format!("stage_2[{i}]")).start())
        .collect::<Result<Vec<_>, _>>()?;
    sleep(Duration::from_millis(300));
    let s1 = s1.start()?;

    s1.join()??;
    for client in s2_clients {
        client.join()??;
    }
    Ok(())
}
