// Several processes share the work. If one dies, whatever it was doing, no work is lost.

use std::fmt;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use multiproc::{JoinableQueue, Queue, Run, current_process};
use serde::{Deserialize, Serialize};

/// A piece of work.
#[derive(Serialize, Deserialize)]
struct Multiply {
    a: u32,
    b: u32,
}

impl Multiply {
    fn run(&self) -> String {
        sleep(Duration::from_millis(100)); // pretend to take some time to do our work
        format!("{self} = {}", self.a * self.b)
    }
}

impl fmt::Display for Multiply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} * {}", self.a, self.b)
    }
}

/// A process that does the work.
#[derive(Serialize, Deserialize)]
struct Consumer {
    tasks: JoinableQueue<Option<Multiply>>,
    results: Queue<String>,
}

impl Run for Consumer {
    type Output = multiproc::Result<()>;

    fn run(self) -> multiproc::Result<()> {
        let name = current_process().name().to_owned();
        loop {
            // If this process ends before the task is done, another process gets the task.
            let task = self.tasks.get()?;
            match &*task {
                Some(multiply) => {
                    println!("{name}: {multiply}");
                    self.results.put(multiply.run())?;
                    task.task_done();
                }
                // A poison pill: there is nothing more to do.
                None => {
                    println!("{name}: Exiting");
                    task.task_done();
                    return Ok(());
                }
            }
        }
    }
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let tasks = JoinableQueue::new()?;
    let results = Queue::new()?;

    let num_consumers = available_parallelism().map_or(2, |processors| processors.get() * 2);
    println!("Creating {num_consumers} consumers");
    let consumers = (0..num_consumers)
        .map(|_| Consumer { tasks: tasks.clone(), results: results.clone() }.start())
        .collect::<Result<Vec<_>, _>>()?;

    let num_jobs = 10;
    for i in 0..num_jobs {
        tasks.put(Some(Multiply { a: i, b: i }))?;
    }
    // A poison pill for each consumer.
    for _ in 0..num_consumers {
        tasks.put(None)?;
    }

    // Wait until all tasks are done.
    tasks.join()?;

    for _ in 0..num_jobs {
        println!("Result: {}", results.get()?);
    }
    for consumer in consumers {
        consumer.join()??;
    }
    Ok(())
}
