// Two processes that are connected by an address and a key: one listens, the other connects.

use multiproc::Process;
use multiproc::connection::{Address, Connection, Key, Listener, connect};

fn client(address: Address, key: Key) -> multiproc::Result<()> {
    let connection: Connection<String, usize> = connect(address, key)?;
    for word in ["one", "two", "three"] {
        connection.send(word.into())?;
        println!("{word} has {} letters", connection.recv()?);
    }
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    // A path, or an address and port for TCP, would do as well; a separate program would have to be
    // told the key.
    let address = Address::unique();
    let key = Key::new("a secret that both know");

    let listener = Listener::bind(&address, key.clone())?;
    let p = Process::new(client, (address, key)).start()?;

    let connection: Connection<usize, String> = listener.accept()?;
    // Until the client has closed its end.
    while let Ok(word) = connection.recv() {
        connection.send(word.len())?;
    }

    p.join()??;
    Ok(())
}
