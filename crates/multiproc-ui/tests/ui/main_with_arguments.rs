#[multiproc::main]
fn main(argc: i32) {}
