// The worker function of the example `import_main`.

pub(crate) fn worker() {
    println!("Worker");
}
