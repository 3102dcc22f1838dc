// The exit code shows how a process ended: 0, the code that it exited with (1 after a panic), or
// minus the signal that killed it.

use std::thread::sleep;
use std::time::Duration;

use multiproc::Process;

type Target = fn() -> i32;

fn exit_error() -> i32 {
    std::process::exit(1)
}

fn exit_ok() -> i32 {
    0
}

fn return_value() -> i32 {
    1
}

fn raises() -> i32 {
    panic!("There was an error!")
}

fn terminated() -> i32 {
    sleep(Duration::from_secs(1000));
    0
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let targets: [(&str, Target); 5] = [
        ("exit_error", exit_error),
        ("exit_ok", exit_ok),
        ("return_value", return_value),
        ("raises", raises),
        ("terminated", terminated),
    ];

    let mut jobs = Vec::new();
    for (name, target) in targets {
        println!("Starting process for {name}");
        jobs.push(Process::new(target, ()).name(name).start()?);
    }

    jobs[4].terminate()?;

    for job in jobs {
        let status = job.wait()?;
        println!("{}.exitcode = {}", job.name(), status.exit_code().unwrap());
    }
    Ok(())
}
