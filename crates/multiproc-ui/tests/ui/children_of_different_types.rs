use multiproc::{Process, wait_any};

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let number = Process::new(|| 1, ()).start()?;
    let text = Process::new(|| String::from("x"), ()).start()?;
    wait_any([&number, &text], None)?;
    Ok(())
}
