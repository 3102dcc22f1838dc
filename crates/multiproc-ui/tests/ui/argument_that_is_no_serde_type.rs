use multiproc::Process;
use std::sync::mpsc::Sender;

fn worker(sender: Sender<u32>) {
    sender.send(1).unwrap();
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let (sender, _receiver) = std::sync::mpsc::channel();
    Process::new(worker, (sender,)).start()?;
    Ok(())
}
