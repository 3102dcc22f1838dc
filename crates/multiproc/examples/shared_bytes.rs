// A big file, summed by several workers: by sharing the bytes with them, and by copying the bytes
// to them.
//
//     cargo run --release --example shared_bytes [MIB | FILE]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use multiproc::{Process, SharedBytes, cpu_count};

/// A worker's task: the sum of all bytes of its part.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn sum_shared(bytes: SharedBytes) -> u64 {
    sum(&bytes)
}

fn sum_copied(bytes: Vec<u8>) -> u64 {
    sum(&bytes)
}

/// A file that is removed on drop.
struct Temporary(PathBuf);

impl Temporary {
    fn new(mib: usize) -> std::io::Result<Temporary> {
        let file = Temporary(std::env::temp_dir().join(format!("multiproc-example-{}", std::process::id())));
        let mut writer = BufWriter::new(File::create(&file.0)?);
        let pattern: Vec<u8> = (0..1 << 20).map(|byte: u32| (byte % 251) as u8).collect();
        for _ in 0..mib {
            writer.write_all(&pattern)?;
        }
        writer.flush()?;
        Ok(file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "256".into());
    let (_temporary, path) = match argument.parse() {
        Ok(mib) => {
            let temporary = Temporary::new(mib)?;
            let path = temporary.0.clone();
            (Some(temporary), path)
        }
        Err(_) => (None, PathBuf::from(argument)),
    };

    // Copied into shared memory once; from there nothing is copied: each worker maps its own part.
    let bytes = SharedBytes::from_reader(&mut File::open(&path)?)?;
    println!("{} bytes, {} workers", bytes.len(), cpu_count());
    // The first start of a process does the preparations for all later ones.
    Process::new(sum_copied, (Vec::new(),)).start()?.join()?;

    let begun = Instant::now();
    let mut workers = Vec::new();
    for part in bytes.split(cpu_count()) {
        workers.push(Process::new(sum_shared, (part,)).start()?);
    }
    let mut shared = 0;
    for worker in workers {
        shared += worker.join()?;
    }
    let time = begun.elapsed();
    println!("shared: {shared} in {time:?}");

    // As an ordinary argument: copied out of this process, and into the worker.
    let begun = Instant::now();
    let mut workers = Vec::new();
    for part in bytes.split(cpu_count()) {
        workers.push(Process::new(sum_copied, (part.to_vec(),)).start()?);
    }
    let mut copied = 0;
    for worker in workers {
        copied += worker.join()?;
    }
    println!("copied: {copied} in {:?}, {:.1} times as long", begun.elapsed(), begun.elapsed().div_duration_f64(time));

    assert_eq!(shared, copied);
    Ok(())
}
