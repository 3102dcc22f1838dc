// Several ways to the same result: the first one to finish counts, the others are ended.

use std::time::Duration;

use multiproc::{Process, Waitable, wait_any};

fn search(seconds: u64) -> String {
    std::thread::sleep(Duration::from_secs(seconds));
    format!("found after {seconds} s")
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let found = multiproc::scope(|s| -> Result<String, Box<dyn std::error::Error>> {
        let mut searches = Vec::new();
        for seconds in [1000, 1, 2000] {
            // Daemons: the scope doesn't wait for them, it ends them.
            searches.push(s.start(Process::new(search, (seconds,)).daemon(true))?);
        }
        let all: Vec<&dyn Waitable> = searches.iter().map(|search| search as _).collect();
        match wait_any(&all, Duration::from_secs(10))?.first() {
            Some(first) => Ok(searches.swap_remove(*first).join()?),
            None => Err("nothing found within 10 s".into()),
        }
    })?;
    println!("{found}");
    Ok(())
}
