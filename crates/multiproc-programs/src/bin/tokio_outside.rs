//! An async `main`, with the runtime's attribute as the outer one.

use multiproc_programs::say;

#[tokio::main]
#[multiproc::main]
async fn main() -> multiproc::Result<()> {
    let child = multiproc::Process::new(|a: u32| a + 1, (1,)).start()?;
    let value = tokio::task::spawn_blocking(move || child.join().unwrap()).await.unwrap();
    say(&value.to_string());
    Ok(())
}
