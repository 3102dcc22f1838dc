//! Copying bytes from ordinary into shared memory.

use std::hint::black_box;
use std::time::Duration;

use ipc_channel::ipc::IpcSharedMemory;
use multiproc::{Array, SharedBytes, SharedMemory};
use multiproc_benches::slices::Contestant;
use multiproc_benches::sys::{memory_file, monotonic};
use multiproc_benches::{Outcome, pace};

use super::bytes::Bytes;
use super::event::Event;

pub(crate) const COPY: &str = "SharedBytes::copy_from_slice";
pub(crate) const PWRITE: &str = "memfd, write";

pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    vec![
        C::ours(COPY, Event::is_of_making, |event, slice| {
            measure(event, slice, |from| Ok(SharedBytes::copy_from_slice(from)?))
        }),
        C::ours("SharedBytes::with_len", Event::is_of_making, |event, slice| {
            measure(event, slice, |from| Ok(SharedBytes::with_len(from.len(), |to| to.copy_from_slice(from))?))
        }),
        C::ours("Array::from_slice", Event::is_of_making, |event, slice| {
            measure(event, slice, |from| Ok(Array::from_slice(from)?))
        }),
        C::ours("SharedMemory::new, lock", Event::is_of_making, |event, slice| measure(event, slice, memory)),
        C::ours("SharedMemory::new, prefault, lock", Event::is_of_making, |event, slice| {
            measure(event, slice, prefaulted)
        }),
        C::peer(PWRITE, Event::is_of_making, |event, slice| {
            measure(event, slice, |from| {
                let mut file = memory_file(from.len())?;
                std::io::Write::write_all(&mut file, from)?;
                Ok(file)
            })
        }),
        C::peer("IpcSharedMemory::from_bytes", Event::is_of_making, |event, slice| {
            measure(event, slice, |from| Ok(IpcSharedMemory::from_bytes(from)))
        }),
        C::peer("Vec::from", Event::is_of_making, |event, slice| measure(event, slice, |from| Ok(Vec::from(from)))),
    ]
}

/// The median, in ms, of creating it and dropping it.
fn measure<T>(event: Event, slice: Duration, make: impl Fn(&[u8]) -> Outcome<T>) -> Outcome<f64> {
    let from = Vec::make(event.size())?;
    let mut median = 0.0;
    pace::fill(slice, 1, 2, |amount| {
        let begin = monotonic();
        median = pace::each(amount, |part| {
            for _ in 0..part {
                black_box(make(&from)?);
            }
            Ok(())
        })?;
        Ok(monotonic() - begin)
    })?;
    Ok(median / 1e6)
}

fn memory(from: &[u8]) -> Outcome<SharedMemory> {
    let memory = SharedMemory::new(from.len())?;
    memory.lock().map_err(|error| error.to_string())?.copy_from_slice(from);
    Ok(memory)
}

fn prefaulted(from: &[u8]) -> Outcome<SharedMemory> {
    let memory = SharedMemory::new(from.len())?;
    memory.prefault();
    memory.lock().map_err(|error| error.to_string())?.copy_from_slice(from);
    Ok(memory)
}
