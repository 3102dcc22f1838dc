//! A program that calls `init` only if it is not itself a child, so that its children never reach
//! `init`.

use multiproc::{Process, StartMethod};
use multiproc_programs::say;

fn main() {
    if std::env::var_os("MULTIPROC_ENTRY").is_none() {
        multiproc::init();
    }
    let method =
        if std::env::args().nth(1).as_deref() == Some("spawn") { StartMethod::Spawn } else { StartMethod::ForkServer };
    match Process::new(|| say("the target runs"), ()).start_method(method).start() {
        Ok(_) => say("started"),
        Err(error) => say(&error.to_string()),
    }
}
