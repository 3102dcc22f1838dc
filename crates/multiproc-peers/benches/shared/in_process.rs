//! Nothing is handed over: the process that has the bytes does the work itself. The lower limit of
//! what it can take.

use multiproc_benches::Outcome;
use multiproc_benches::sys::{keep_to_processor, map_shared, memory_file};
use serde::{Deserialize, Serialize};

use super::bytes::{Bytes, write};
use super::hand_over::{Lender, Task, Way, Worker};

/// Bytes in a memory file, which has the same kind of pages as shared memory.
pub(crate) struct OfFile;

/// Bytes of the allocator.
pub(crate) struct OfVec;

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Mapped {
    #[serde(skip)]
    bytes: Option<&'static mut [u8]>,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Owned(#[serde(skip)] Vec<u8>);

/// A worker with nothing to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Idle;

impl Way for OfFile {
    type Lender = Mapped;
    type Worker = Idle;

    fn pair() -> Outcome<(Mapped, Idle)> {
        Ok((Mapped::default(), Idle))
    }
}

impl Way for OfVec {
    type Lender = Owned;
    type Worker = Idle;

    fn pair() -> Outcome<(Owned, Idle)> {
        Ok((Owned::default(), Idle))
    }
}

impl Lender for Mapped {
    fn open(&mut self, size: usize) -> Outcome<()> {
        keep_to_processor(1)?;
        let mut file = memory_file(size)?;
        write(size, &mut file)?;
        let start = map_shared(Some(&file), size)?;
        // SAFETY: `size` bytes are mapped and never unmapped, and nothing else has the file.
        self.bytes = Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) });
        Ok(())
    }

    fn ask(&mut self, task: Task) -> Outcome<u64> {
        Ok(task.change(self.bytes.as_mut().ok_or("there are no bytes")?))
    }
}

impl Lender for Owned {
    fn open(&mut self, size: usize) -> Outcome<()> {
        keep_to_processor(1)?;
        self.0 = Vec::make(size)?;
        Ok(())
    }

    fn ask(&mut self, task: Task) -> Outcome<u64> {
        Ok(task.change(&mut self.0))
    }
}

impl Worker for Idle {
    fn serve(&mut self, _: Task) -> Outcome<()> {
        Ok(())
    }
}
