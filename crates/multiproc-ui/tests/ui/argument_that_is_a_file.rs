use std::fs::File;

use multiproc::Process;

fn length(file: File) -> u64 {
    file.metadata().unwrap().len()
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = File::open("/etc/passwd")?;
    println!("{}", Process::new(length, (file,)).start()?.join()?);
    Ok(())
}
