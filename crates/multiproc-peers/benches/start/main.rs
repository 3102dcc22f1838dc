//! What a process costs: starting an empty function and waiting for it, by multiproc and by its
//! peers, side by side.
//!
//! Contestants take turns, an iteration each. What can't take turns (a parent of another size, an
//! interpreter) is measured in blocks that are repeated.

mod bare_server;
mod figures;
mod first_line;
mod idle;
mod python;
mod rate;
mod report;
mod rounds;
mod starts;
mod sys;

use std::hint::black_box;
use std::time::Duration;

use bare_server::BareServer;
use figures::Figures;
use multiproc_benches::Outcome;
use multiproc_benches::host::Host;
use multiproc_benches::python::Python;
use multiproc_benches::random::Random;

/// How much memory the parent has touched: next to nothing, and enough to make copying its page
/// tables slow.
const RESIDENT: [usize; 2] = [10 << 20, 1 << 30];

/// The argument that makes this program exit at the start of `main`.
const EXIT_AT_ONCE: &str = "--exit-at-once";

#[multiproc::main]
fn main() -> Outcome<()> {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == EXIT_AT_ONCE) {
        return Ok(());
    }
    procspawn::init();
    let Some(plan) = Plan::from_arguments() else { return Ok(()) };
    // The server is copied for each of its children, so it is started before this process has
    // grown.
    let server = BareServer::start()?;

    let mut figures = Figures { host: Host::look(), quick: plan.quick, ..Figures::default() };
    let python =
        Python::find(include_str!("python_peer.py")).inspect_err(|error| figures.skipped.add("python3", error)).ok();
    if !starts::has_true() {
        figures.skipped.add("command-true", &"there is no /bin/true");
    }
    figures.host.python = python.as_ref().map(|python| python.version().to_owned());

    let mut random = Random::new();
    for block in 1..=plan.blocks {
        eprintln!("block {block} of {}", plan.blocks);
        let mut sizes = [0, 1];
        random.shuffle(&mut sizes);
        for size in sizes {
            measure_starts(&plan, size, &server, &mut random, &mut figures)?;
            if let Some(python) = &python {
                measure_python(&plan, size, python, &mut random, &mut figures);
            }
        }
        let mut contestants = first_line::contestants(&server);
        rounds::run(&mut contestants, plan.rounds, 1, &mut random, &mut figures.first_line)?;
        rate::run(&server, plan.slice, &mut random, &mut figures.rate)?;
        if let Err(error) = idle::run(&server, &mut figures.pss) {
            // Some kernels are built without this file.
            figures.skipped.add("PSS", &error);
        }
    }
    report::print(&figures);
    report::keep(&figures)
}

/// Measures one block of rounds with `RESIDENT[size]` bytes touched.
fn measure_starts(
    plan: &Plan,
    size: usize,
    server: &BareServer,
    random: &mut Random,
    figures: &mut Figures,
) -> Outcome<()> {
    let resident = vec![1_u8; RESIDENT[size]];
    black_box(&resident);
    let copy_every = if size == 0 { 1 } else { plan.copy_every };
    rounds::run(&mut starts::contestants(server)?, plan.rounds, 1, random, &mut figures.start[size])?;
    rounds::run(&mut starts::copies(), plan.rounds, copy_every, random, &mut figures.start[size])?;
    black_box(&resident);
    Ok(())
}

/// Measures one block of Python, one method after the other, each in an interpreter of its own.
fn measure_python(plan: &Plan, size: usize, python: &Python, random: &mut Random, figures: &mut Figures) {
    let mut methods = python::METHODS;
    random.shuffle(&mut methods);
    for method in methods {
        let iterations = if method.is_fast { plan.python } else { plan.python_spawn };
        match python::measure(python, method, RESIDENT[size], iterations) {
            Ok(times) => times.into_iter().for_each(|time| figures.start[size].add(method.contestant, time)),
            Err(error) => figures.skipped.add(method.contestant, &error),
        }
    }
}

/// The number of iterations of each measurement.
struct Plan {
    quick: bool,
    blocks: u32,
    /// Rounds in a block, for each size of the parent.
    rounds: u32,
    /// A large parent is copied only in every `copy_every`th round: that takes a hundred times as
    /// long as the rest, and leaves pages that the parent must fault in anew, so the medians of the
    /// other contestants must come from rounds without it.
    copy_every: u32,
    /// Iterations in a block for Python, for each size of the parent: `fork` and `forkserver`, and
    /// the slow `spawn`.
    python: u32,
    python_spawn: u32,
    /// How long a rate is measured in a block.
    slice: Duration,
}

impl Plan {
    /// Returns None unless `cargo bench` runs this program: `cargo test --all-targets` runs it too,
    /// but expects no measurement.
    fn from_arguments() -> Option<Plan> {
        let full = Plan {
            quick: false,
            blocks: 7,
            rounds: 100,
            copy_every: 20,
            python: 12,
            python_spawn: 4,
            slice: Duration::from_millis(300),
        };
        let quick = Plan {
            quick: true,
            blocks: 1,
            rounds: 10,
            copy_every: 5,
            python: 3,
            python_spawn: 1,
            slice: Duration::from_millis(50),
        };
        multiproc_benches::is_asked().then(|| if multiproc_benches::is_quick() { quick } else { full })
    }
}
