use multiproc::{Process, wait_all};

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let number = Process::new(|| 1, ()).start()?;
    let text = Process::new(|| String::from("x"), ()).start()?;
    wait_all([&number, &text], None)?;
    Ok(())
}
