//! The contestants: start and wait of a process that does nothing.

use std::io;
use std::path::Path;
use std::process::Command;

use multiproc::{Process, StartMethod};
use multiproc_benches::Outcome;

use super::bare_server::{BareServer, Task};
use super::rounds::Contestant;
use super::{EXIT_AT_ONCE, sys};

/// The contestants of this program; Python's are in [`python`](super::python).
pub(crate) fn contestants(server: &BareServer) -> Outcome<Vec<Contestant<'_>>> {
    let this_program = std::env::current_exe()?;
    let mut contestants = vec![
        Contestant::timed("forkserver", || multiproc(StartMethod::ForkServer)),
        Contestant::timed("spawn", || multiproc(StartMethod::Spawn)),
        Contestant::timed("bare-server", || {
            server.request(Task::Exit)?;
            Ok(sys::wait_success(server.answer()?)?)
        }),
        Contestant::timed("posix_spawn", || Ok(sys::wait_success(sys::spawn_self(c"--exit-at-once")?)?)),
        Contestant::timed("command", move || run(Command::new(&this_program).arg(EXIT_AT_ONCE))),
        Contestant::timed("procspawn", || Ok(procspawn::spawn((), |()| ()).join()?)),
    ];
    if has_true() {
        contestants.push(Contestant::timed("command-true", || run(&mut Command::new(TRUE))));
    }
    Ok(contestants)
}

/// The contestants that copy this process. They are separate because multiproc, before it copies
/// this process, ends the child that stands by for its fork server's next start.
pub(crate) fn copies<'a>() -> Vec<Contestant<'a>> {
    vec![
        Contestant::timed("fork", fork).copies_parent(),
        Contestant::timed("multiproc-fork", || multiproc(StartMethod::Fork)).copies_parent(),
    ]
}

const TRUE: &str = "/bin/true";

/// Whether the system has `/bin/true`, the smallest program that most systems have.
pub(crate) fn has_true() -> bool {
    Path::new(TRUE).exists()
}

/// The target of a child of multiproc.
pub(crate) fn empty() {}

fn multiproc(method: StartMethod) -> Outcome<()> {
    let status = Process::new(empty, ()).start_method(method).start()?.wait()?;
    if status.success() { Ok(()) } else { Err(format!("a child of multiproc's ended: {status}").into()) }
}

fn fork() -> Outcome<()> {
    // SAFETY: the child takes no lock; it exits.
    match unsafe { sys::fork() }? {
        0 => sys::exit_now(),
        pid => Ok(sys::wait_success(pid)?),
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?} ended: {status}")).into()) }
}
