//! Starts per second, when the next process is started before the last one has ended.

use std::collections::VecDeque;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use multiproc::{Process, StartMethod};
use multiproc_benches::Outcome;
use multiproc_benches::figures::Series;
use multiproc_benches::random::Random;

use super::bare_server::{BareServer, Task};
use super::starts::empty;
use super::{EXIT_AT_ONCE, sys};

/// How many processes are in flight.
pub(crate) const IN_FLIGHT: [usize; 3] = [1, 2, 16];

#[derive(Clone, Copy)]
enum Contestant {
    /// Started by one thread.
    ForkServer,
    /// Started by as many threads as processes are in flight, each of which waits for its own
    /// process.
    ForkServerThreads,
    /// Requests are sent ahead, so that the server always has the next one at hand.
    BareServer,
    Command,
}

/// Measures every contestant at every depth for `slice` each, in random order. `series` has an
/// entry for each of [`IN_FLIGHT`].
pub(crate) fn run(
    server: &BareServer,
    slice: Duration,
    random: &mut Random,
    series: &mut [Series; IN_FLIGHT.len()],
) -> Outcome<()> {
    use Contestant::{BareServer, Command, ForkServer, ForkServerThreads};
    let mut turns: Vec<(usize, Contestant)> = (0..IN_FLIGHT.len())
        .flat_map(|depth| [ForkServer, ForkServerThreads, BareServer, Command].map(|contestant| (depth, contestant)))
        .collect();
    random.shuffle(&mut turns);
    for (depth, contestant) in turns {
        let in_flight = IN_FLIGHT[depth];
        let (name, rate) = match contestant {
            ForkServer => ("forkserver", window(in_flight, slice, start, finish)?),
            ForkServerThreads => ("forkserver-threads", threads(in_flight, slice)?),
            BareServer => (
                "bare-server",
                window(
                    in_flight,
                    slice,
                    || Ok(server.request(Task::Exit)?),
                    |()| Ok(sys::wait_success(server.answer()?)?),
                )?,
            ),
            Command => ("command", window(in_flight, slice, start_command, finish_command)?),
        };
        series[depth].add(name, rate);
    }
    Ok(())
}

/// Keeps `in_flight` processes started but not yet waited for, and finishes them in order. Returns
/// the number of processes per second.
fn window<P>(
    in_flight: usize,
    slice: Duration,
    mut start: impl FnMut() -> Outcome<P>,
    mut finish: impl FnMut(P) -> Outcome<()>,
) -> Outcome<f64> {
    let mut running = VecDeque::with_capacity(in_flight);
    let mut finished = 0_u32;
    let begin = Instant::now();
    while begin.elapsed() < slice {
        while running.len() < in_flight {
            running.push_back(start()?);
        }
        running.pop_front().map_or(Ok(()), &mut finish)?;
        finished += 1;
    }
    for process in running {
        finish(process)?;
        finished += 1;
    }
    Ok(f64::from(finished) / begin.elapsed().as_secs_f64())
}

/// Measures with as many threads as processes in flight.
fn threads(in_flight: usize, slice: Duration) -> Outcome<f64> {
    let begin = Instant::now();
    let work = || {
        let mut finished = 0_u32;
        while begin.elapsed() < slice {
            // `Outcome`'s error type isn't `Send`.
            start().and_then(finish).map_err(|error| error.to_string())?;
            finished += 1;
        }
        Ok::<_, String>(finished)
    };
    let finished = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread panicked")).sum::<Result<u32, String>>()
    })?;
    Ok(f64::from(finished) / begin.elapsed().as_secs_f64())
}

fn start() -> Outcome<multiproc::Child<()>> {
    Ok(Process::new(empty, ()).start_method(StartMethod::ForkServer).start()?)
}

fn finish(child: multiproc::Child<()>) -> Outcome<()> {
    if child.wait()?.success() { Ok(()) } else { Err(format!("{child}").into()) }
}

fn start_command() -> Outcome<Child> {
    Ok(Command::new("/proc/self/exe").arg(EXIT_AT_ONCE).spawn()?)
}

fn finish_command(mut child: Child) -> Outcome<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("a command ended: {status}").into()) }
}
