//! A program that lacks the entry for its children. With an argument it ends with the error:
//! `result`, `boxed`, `unwrap`.

use multiproc::{Process, StartMethod};
use multiproc_programs::say;

fn start(method: StartMethod) -> multiproc::Result<()> {
    Process::new(|| say("the target runs"), ()).start_method(method).start()?;
    Ok(())
}

fn main() -> multiproc::Result<()> {
    say("main runs");
    match std::env::args().nth(1).as_deref() {
        Some("result") => return start(StartMethod::ForkServer),
        Some("unwrap") => start(StartMethod::ForkServer).unwrap(),
        Some("boxed") => {
            let error: Box<dyn std::error::Error> = start(StartMethod::ForkServer).unwrap_err().into();
            // As the standard library prints an error returned by `main`.
            eprintln!("Error: {error:?}");
            std::process::exit(1);
        }
        _ => {}
    }
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        say(&start(method).unwrap_err().to_string());
    }
    Ok(())
}
