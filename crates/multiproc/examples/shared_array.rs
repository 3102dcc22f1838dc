// Workers fill an image in one array in shared memory, each the rows that it gets next, and the
// main process writes it as a PNG.
//
//     cargo run --release --example shared_array [FILE.png [WIDTH HEIGHT]]

use std::env::args;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use multiproc::shared_memory::{ArrayPart, RawValue};
use multiproc::{Array, Process, Queue, cpu_count};
use serde::{Deserialize, Serialize};

/// Red, green, blue.
type Pixel = [u8; 3];

/// How many times a point is moved before it counts as a point of the set.
const MOST: u32 = 1000;

#[derive(Clone, Copy, Serialize, Deserialize)]
struct View {
    width: usize,
    height: usize,
}

impl View {
    /// The colour of the Mandelbrot set at this pixel of the image, and the steps that it took.
    fn pixel(self, place: usize) -> (Pixel, u64) {
        let scale = 2.5 / self.height as f64;
        let x = ((place % self.width) as f64 - 0.7 * self.width as f64) * scale;
        let y = ((place / self.width) as f64 - 0.5 * self.height as f64) * scale;
        let (mut re, mut im, mut steps) = (0.0, 0.0, 0);
        while re * re + im * im <= 256.0 && steps < MOST {
            (re, im) = (re * re - im * im + x, 2.0 * re * im + y);
            steps += 1;
        }
        if steps == MOST {
            return ([0; 3], steps.into());
        }
        // Smooth transitions between the colours: how far the point got beyond the border counts
        // too.
        let smooth = f64::from(steps) + 1.0 - (0.5 * (re * re + im * im).ln()).ln() / 2_f64.ln();
        let wave = |phase: f64| (127.5 + 127.5 * (0.3 * smooth.sqrt() * 2.5 + phase).cos()) as u8;
        ([wave(3.3), wave(3.9), wave(4.7)], steps.into())
    }
}

/// Fills rows until there are none left.
fn worker(view: View, rows: Queue<ArrayPart<Pixel>>, steps: RawValue<AtomicU64>) -> multiproc::Result<u32> {
    let mut done = 0;
    while let Ok(part) = rows.try_get() {
        // Only this process has these pixels; other processes fill others at the same time.
        let mut pixels = part.lock()?;
        for (place, pixel) in part.range().zip(pixels.iter_mut()) {
            let (colour, taken) = view.pixel(place);
            *pixel = colour;
            steps.fetch_add(taken, Relaxed);
        }
        done += 1;
    }
    Ok(done)
}

#[multiproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = args().nth(1).map_or_else(|| std::env::temp_dir().join("mandelbrot.png"), PathBuf::from);
    let size = |index: usize, default: usize| args().nth(index).map_or(Ok(default), |text| text.parse());
    let view = View { width: size(2, 1200)?, height: size(3, 800)? };

    let begun = Instant::now();
    let image = Array::<Pixel>::new(view.width * view.height)?;
    let (queue, steps) = (Queue::new()?, RawValue::<AtomicU64>::new(0)?);
    // Some rows at a time, since those in the middle take longer.
    for rows in image.chunks(view.width * view.height.div_ceil(64))? {
        queue.put(rows)?;
    }
    let mut workers = Vec::new();
    for _ in 0..cpu_count() {
        workers.push(Process::new(worker, (view, queue.clone(), steps.clone())).start()?);
    }
    for worker in workers {
        println!("{} filled {} parts", worker.name().to_owned(), worker.join()??);
    }
    println!("{} million steps in {:?}", steps.load(Relaxed) / 1_000_000, begun.elapsed());

    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&path)?), view.width as u32, view.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(image.to_vec()?.as_flattened())?;
    println!("written to {}", path.display());
    Ok(())
}
