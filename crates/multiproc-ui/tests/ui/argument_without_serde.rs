use multiproc::Process;

struct Config {
    number: u32,
}

fn worker(config: Config) -> u32 {
    config.number
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let child = Process::new(worker, (Config { number: 1 },)).name("worker").start()?;
    println!("{}", child.join()?);
    Ok(())
}
