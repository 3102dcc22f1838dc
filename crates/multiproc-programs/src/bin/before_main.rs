//! Shows that no code of multiproc runs before `main`: with a broken entry in the environment,
//! `main` still gets to print.

use multiproc_programs::say;

fn main() {
    say("main runs");
    multiproc::init();
    say("init returned");
}
