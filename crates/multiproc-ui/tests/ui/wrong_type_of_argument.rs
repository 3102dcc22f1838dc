use multiproc::Process;

fn greet(name: String) {
    println!("{name}");
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Process::new(greet, ("world",)).start()?;
    Ok(())
}
