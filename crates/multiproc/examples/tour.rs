// Every section of the basics page, and then how processes communicate, one after the other: each
// is an example of its own, run in a process of its own.
//
//     cargo run --release --example tour           all of them
//     cargo run --release --example tour names     one of them

use std::error::Error;
use std::io::Write;
use std::process::{Command, ExitCode};

/// A section: its title, the example that shows it, and that example's `main`.
type Section = (&'static str, &'static str, fn() -> multiproc::Result<()>);

macro_rules! sections {
    ($($title:literal: $example:ident in $file:literal,)*) => {
        $(mod $example {
            include!($file);

            pub(super) fn run() -> multiproc::Result<()> {
                main()
            }
        })*

        const SECTIONS: &[Section] = &[$(($title, stringify!($example), $example::run)),*];
    };
}

sections! {
    "multiprocessing Basics": simple in "simple.rs",
    "Passing Arguments": simpleargs in "simpleargs.rs",
    "Importable Target Functions": import_main in "import_main/main.rs",
    "Determining the Current Process": names in "names.rs",
    "Daemon Processes": daemon in "daemon.rs",
    "Waiting for Processes": daemon_join in "daemon_join.rs",
    "Waiting for Processes, with a Timeout": daemon_join_timeout in "daemon_join_timeout.rs",
    "Terminating Processes": terminate in "terminate.rs",
    "Process Exit Status": exitcode in "exitcode.rs",
    "Logging": log_to_stderr in "log_to_stderr.rs",
    "Logging, with the Logger": get_logger in "get_logger.rs",
    "Subclassing Process": subclass in "subclass.rs",
    "Passing Messages to Processes": queue in "queue.rs",
    "Passing Messages to Processes, and Back": producer_consumer in "producer_consumer.rs",
    "Signaling between Processes": event in "event.rs",
    "Controlling Access to Resources": lock in "lock.rs",
    "Synchronizing Operations": condition in "condition.rs",
    "Controlling Concurrent Access to Resources": semaphore in "semaphore.rs",
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    multiproc::init();

    match std::env::args().nth(1) {
        None => tour(),
        Some(name) => match SECTIONS.iter().find(|(_, example, _)| *example == name) {
            Some((_, _, run)) => Ok(run().map(|()| ExitCode::SUCCESS)?),
            None => Err(format!("there is no section {name}").into()),
        },
    }
}

fn tour() -> Result<ExitCode, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut failed = Vec::new();
    for (number, (title, example, _)) in SECTIONS.iter().enumerate() {
        println!("{}{title}\n{}\n\n$ {example}\n", if number > 0 { "\n" } else { "" }, "=".repeat(title.len()));
        std::io::stdout().flush()?;
        if !Command::new(&this).arg(example).status()?.success() {
            failed.push(*example);
        }
    }
    if failed.is_empty() {
        println!("\nAll {} sections ran.", SECTIONS.len());
        Ok(ExitCode::SUCCESS)
    } else {
        println!("\nFailed: {}", failed.join(", "));
        Ok(ExitCode::FAILURE)
    }
}
