use multiproc::Process;

fn double(n: u32) -> u32 {
    2 * n
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pointer: fn(u32) -> u32 = double;
    let child = Process::new(double, (1,)).start()?;
    let closure = Process::new(|n: u32| n, (1,)).start()?;
    let pointer = Process::new(pointer, (1,)).start()?;
    assert_eq!((child.join()?, closure.join()?, pointer.join()?), (2, 1, 2));
    Ok(())
}
