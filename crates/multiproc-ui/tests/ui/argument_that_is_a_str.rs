use multiproc::Process;

fn length(text: &str) -> usize {
    text.len()
}

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    let text = String::from("abc");
    Process::new(length, (text.as_str(),)).start()?;
    Ok(())
}
