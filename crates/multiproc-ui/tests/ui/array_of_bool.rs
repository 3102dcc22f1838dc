use multiproc::Array;

#[multiproc::main]
fn main() -> multiproc::Result<()> {
    Array::from_slice(&[true, false])?;
    Ok(())
}
