// A value of a user-defined type goes to another process through a queue.

use multiproc::{Process, Queue, current_process};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct MyFancyStruct {
    name: String,
}

impl MyFancyStruct {
    fn do_something(&self) {
        println!("Doing something fancy in {} for {}!", current_process().name(), self.name);
    }
}

fn worker(queue: Queue<MyFancyStruct>) -> Result<(), multiproc::queue::GetError> {
    let object = queue.get()?;
    object.do_something();
    Ok(())
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let queue = Queue::new()?;

    let p = Process::new(worker, (queue.clone(),)).start()?;

    // When `put` returns, the whole object is in the queue: nothing remains here to be sent.
    queue.put(MyFancyStruct { name: "Fancy Dan".into() })?;
    queue.close();

    p.join()??;
    Ok(())
}
