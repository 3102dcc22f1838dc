//! An async `main`, with `#[multiproc::main]` as the outer attribute.

use multiproc_programs::say;

#[multiproc::main]
#[tokio::main]
async fn main() -> multiproc::Result<()> {
    let child = multiproc::Process::new(|a: u32| a + 1, (1,)).start()?;
    let value = tokio::task::spawn_blocking(move || child.join().unwrap()).await.unwrap();
    say(&value.to_string());
    Ok(())
}
