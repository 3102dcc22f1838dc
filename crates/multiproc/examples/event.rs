// Processes wait until another one sets an event.

use std::thread::sleep;
use std::time::Duration;

use multiproc::Process;
use multiproc::sync::Event;

/// Wait for the event to be set before doing anything.
fn wait_for_event(e: Event) -> multiproc::Result<()> {
    println!("wait_for_event: starting");
    e.wait()?;
    println!("wait_for_event: e.is_set()-> {}", e.is_set());
    Ok(())
}

/// Wait for it for a while.
fn wait_for_event_timeout(e: Event, t: Duration) -> multiproc::Result<()> {
    println!("wait_for_event_timeout: starting");
    e.wait_timeout(t)?;
    println!("wait_for_event_timeout: e.is_set()-> {}", e.is_set());
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let e = Event::new()?;
    let w1 = Process::new(wait_for_event, (e.clone(),)).name("block").start()?;
    let w2 = Process::new(wait_for_event_timeout, (e.clone(), Duration::from_millis(300))).name("nonblock").start()?;

    println!("main: waiting before calling Event.set()");
    sleep(Duration::from_millis(900));
    e.set();
    println!("main: event is set");

    w1.join()??;
    w2.join()??;
    Ok(())
}
