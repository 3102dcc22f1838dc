use std::sync::{Arc, Mutex};

use multiproc::Process;

fn count(number: Arc<Mutex<u32>>) {
    *number.lock().unwrap() += 1;
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let number = Arc::new(Mutex::new(0));
    Process::new(count, (number.clone(),)).start()?;
    Ok(())
}
