use multiproc::Queue;

struct Config {
    number: u32,
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::new()?;
    queue.put(Config { number: 1 })?;
    Ok(())
}
