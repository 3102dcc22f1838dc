//! How long it takes from the call of `start` to the first line of the target, for a start that doesn't come right after another one. (For
//! those that do, the rates tell.)

use std::time::Duration;

use multiproc::{Process, StartMethod};
use multiproc_benches::Outcome;
use multiproc_benches::sys::monotonic;

use super::bare_server::{BareServer, Task};
use super::rounds::Contestant;
use super::sys;

/// How long nothing happens before each.
const REST: Duration = Duration::from_millis(2);

/// The target: its first line says when it was reached.
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
