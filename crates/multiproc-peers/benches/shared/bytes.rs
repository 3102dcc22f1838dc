//! The bytes that are handed over, and what is done with them.

use std::io::Write;

use ipc_channel::ipc::IpcSharedMemory;
use multiproc::shared_memory::ReadOnlyMemory;
use multiproc::{Array, SharedBytes, SharedMemory};
use multiproc_benches::Outcome;
use serde::{Deserialize, Serialize};

use super::hand_over::Task;

const WORD: usize = size_of::<u64>();

/// The sum of the bytes as numbers of eight bytes. Not inlined, so that all contestants run the
/// same code.
#[inline(never)]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<WORD>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

/// The sum of the first number and the last one.
pub(crate) fn ends(bytes: &[u8]) -> u64 {
    sum(&bytes[..WORD]) + sum(&bytes[bytes.len() - WORD..])
}

/// Fills the bytes with the numbers from `first` on.
pub(crate) fn fill(bytes: &mut [u8], first: u64) {
    let (words, _) = bytes.as_chunks_mut::<WORD>();
    words.iter_mut().zip(first..).for_each(|(word, number)| *word = number.to_ne_bytes());
}

/// Writes `size` bytes: the numbers from 0 on.
pub(crate) fn write(size: usize, to: &mut impl Write) -> Outcome<()> {
    let mut piece = vec![0; size.min(1 << 20)];
    for from in (0..size).step_by(piece.len()) {
        fill(&mut piece, (from / WORD) as u64);
        to.write_all(&piece)?;
    }
    Ok(())
}

/// The [`sum`] of `size` bytes that hold the numbers from 0 on.
pub(crate) fn expected_sum(size: usize) -> u64 {
    let count = (size / WORD) as u64;
    count * (count - 1) / 2
}

/// The [`ends`] of `size` bytes that hold the numbers from 0 on.
pub(crate) fn expected_ends(size: usize) -> u64 {
    (size / WORD) as u64 - 1
}

/// A type of bytes that can be sent.
pub(crate) trait Bytes: Sized {
    /// Creates `size` bytes that hold the numbers from 0 on.
    fn make(size: usize) -> Outcome<Self>;

    /// Another handle of the same bytes, or a copy of them.
    fn again(&self) -> Outcome<Self>;

    /// Carries out the task on the bytes.
    fn carry_out(&self, task: Task) -> Outcome<u64>;
}

impl Bytes for SharedBytes {
    fn make(size: usize) -> Outcome<SharedBytes> {
        let mut writer = SharedBytes::writer()?;
        write(size, &mut writer)?;
        Ok(writer.finish()?)
    }

    fn again(&self) -> Outcome<SharedBytes> {
        Ok(self.clone())
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        Ok(task.look(self))
    }
}

fn under_lock(array: &Array<u8>, task: Task) -> Outcome<u64> {
    Ok(match task {
        Task::Fill => task.change(&mut array.lock().map_err(|error| error.to_string())?),
        _ => task.look(&array.read().map_err(|error| error.to_string())?),
    })
}

/// Bytes that are mapped completely before they are used.
#[derive(Serialize, Deserialize)]
pub(crate) struct Prefaulted<B>(B);

/// Maps all of the bytes ahead.
pub(crate) trait Prefault {
    fn prefault(&self);
}

impl Prefault for SharedBytes {
    fn prefault(&self) {
        SharedBytes::prefault(self);
    }
}

impl Prefault for SharedMemory {
    fn prefault(&self) {
        SharedMemory::prefault(self);
    }
}

impl<B: Bytes + Prefault> Bytes for Prefaulted<B> {
    fn make(size: usize) -> Outcome<Prefaulted<B>> {
        B::make(size).map(Prefaulted)
    }

    fn again(&self) -> Outcome<Prefaulted<B>> {
        self.0.again().map(Prefaulted)
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        self.0.prefault();
        self.0.carry_out(task)
    }
}

impl Bytes for SharedMemory {
    fn make(size: usize) -> Outcome<SharedMemory> {
        let memory = SharedMemory::new(size)?;
        memory.prefault();
        fill(&mut memory.lock().map_err(|error| error.to_string())?, 0);
        Ok(memory)
    }

    fn again(&self) -> Outcome<SharedMemory> {
        Ok(self.clone())
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        under_lock(&self.as_array()?, task)
    }
}

impl Bytes for ReadOnlyMemory {
    fn make(size: usize) -> Outcome<ReadOnlyMemory> {
        Ok(SharedMemory::make(size)?.read_only()?)
    }

    fn again(&self) -> Outcome<ReadOnlyMemory> {
        Ok(self.clone())
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        Ok(task.look(&self.read().map_err(|error| error.to_string())?))
    }
}

/// An array, which has its lock and its values in one file.
#[derive(Serialize, Deserialize)]
pub(crate) struct ViaArray(Array<u8>);

impl Bytes for ViaArray {
    fn make(size: usize) -> Outcome<ViaArray> {
        let array = Array::new(size)?;
        fill(&mut array.lock().map_err(|error| error.to_string())?, 0);
        Ok(ViaArray(array))
    }

    fn again(&self) -> Outcome<ViaArray> {
        Ok(ViaArray(self.0.clone()))
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        under_lock(&self.0, task)
    }
}

impl Bytes for Vec<u8> {
    fn make(size: usize) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; size];
        fill(&mut bytes, 0);
        Ok(bytes)
    }

    fn again(&self) -> Outcome<Vec<u8>> {
        Ok(self.clone())
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        Ok(task.look(self))
    }
}

impl Bytes for IpcSharedMemory {
    fn make(size: usize) -> Outcome<IpcSharedMemory> {
        Ok(IpcSharedMemory::from_bytes(&Vec::make(size)?))
    }

    fn again(&self) -> Outcome<IpcSharedMemory> {
        Ok(self.clone())
    }

    fn carry_out(&self, task: Task) -> Outcome<u64> {
        Ok(task.look(self))
    }
}
