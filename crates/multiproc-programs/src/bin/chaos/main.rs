//! Kills a program that starts processes, or one of its processes, at every possible moment, and
//! checks what is left.
//!
//! - `chaos step METHOD VICTIM cold|warm|ignoring` walks over a start: the victim is killed at its
//!   first system call, then in another run at its second, and so on until a run ends without a
//!   kill (`step.rs`).
//! - `chaos storm METHOD STARTS SEED` kills whole programs at random moments, while their threads
//!   start processes (`storm.rs`).
//! - `chaos subject ...` and `chaos starter ...` are the programs that they run.
//!
//! All processes that a killed program leaves behind become children of this one
//! (`PR_SET_CHILD_SUBREAPER` of prctl(2)), so none is missed: a run is over when the kernel reports
//! that there is no child left (`family.rs`).

mod family;
mod step;
mod storm;
mod subject;

use multiproc_programs::start_method;

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        ["step", method, victim, state] => step::walk(method, victim, state),
        ["storm", method, starts, seed] => storm::rounds(method, starts.parse().unwrap(), seed.parse().unwrap()),
        ["subject", method, state] => subject::run(start_method(method), state),
        ["starter", method] => storm::start_for_ever(start_method(method)),
        _ => panic!("no such scenario: {arguments:?}"),
    }
}
