// A process at the other end of a pipe, which answers requests.

use multiproc::connection::Connection;
use multiproc::{Process, pipe};

fn worker(connection: Connection<String, u32>) -> multiproc::Result<()> {
    // Until the parent has closed its end.
    while let Ok(number) = connection.recv() {
        connection.send(format!("{number} squared is {}", number * number))?;
    }
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let (ours, theirs) = pipe::<u32, String>()?;
    let p = Process::new(worker, (theirs,)).start()?;

    for number in 1..4 {
        ours.send(number)?;
        println!("{}", ours.recv()?);
    }
    drop(ours);

    p.join()??;
    Ok(())
}
