//! The time from the call of `start` to the target's first line, for a start that doesn't come
//! right after another one. (The rates show the cost of consecutive starts.)

use std::time::Duration;

use multiproc::{Process, StartMethod};
use multiproc_benches::Outcome;
use multiproc_benches::sys::monotonic;

use super::bare_server::{BareServer, Task};
use super::rounds::Contestant;
use super::sys;

/// The pause before each start.
const REST: Duration = Duration::from_millis(2);

/// The target: its first line returns the time at which it was reached.
fn first_line() -> Duration {
    monotonic()
}

pub(crate) fn contestants(server: &BareServer) -> Vec<Contestant<'_>> {
    vec![
        Contestant::new("forkserver", || multiproc(StartMethod::ForkServer)),
        Contestant::new("spawn", || multiproc(StartMethod::Spawn)),
        Contestant::new("bare-server", || {
            std::thread::sleep(REST);
            let begin = monotonic();
            server.request(Task::TellTime)?;
            sys::wait_success(server.answer()?)?;
            Ok(server.time_told() - begin)
        }),
    ]
}

fn multiproc(method: StartMethod) -> Outcome<Duration> {
    std::thread::sleep(REST);
    let begin = monotonic();
    let reached = Process::new(first_line, ()).start_method(method).start()?.join()?;
    Ok(reached - begin)
}
