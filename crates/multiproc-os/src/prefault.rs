//! Touches memory ahead of time: `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` of madvise(2),
//! Linux 5.14 and later.
//!
//! In a copy of a process made by clone(2), file pages are unmapped and private pages are
//! write-protected, so each page costs a fault when it is first touched. A process that has time
//! can take these faults in advance.

use std::ffi::c_int;

use rustix::mm::Advice;

const PAGE: usize = 4096;

/// The largest code segment of a file that is mapped, in bytes. A process's start and end need
/// little of a larger one, and each mapped page must be unmapped again.
const MOST_CODE: usize = 256 << 10;

/// The most data of one file that is made private, in bytes.
const MOST_DATA: usize = 64 << 10;

/// Maps the code of the small libraries, such as the loader, and makes the first pages of each
/// file's data, the top of the stack and the top of the heap private. Failures are ignored: nothing
/// depends on it.
pub fn touch() {
    // SAFETY: `visit` has the right type, and takes no argument.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::null_mut()) };
    let local = 0_u8;
    // The pages below are used by the calls to come.
    let stack = (&raw const local as usize) & !(PAGE - 1);
    populate(stack - 3 * PAGE, 4 * PAGE, Advice::LinuxPopulateWrite);
    let mut heap = Vec::<u8>::with_capacity(4 * PAGE);
    heap.spare_capacity_mut().fill(std::mem::MaybeUninit::new(1));
    std::hint::black_box(heap);
}

/// Called by dl_iterate_phdr for each loaded file.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, _: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr passes a valid `info`, with a table of that length that stays in
    // place.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    // The loader has write-protected the part that it relocated (RELRO).
    let protected = headers
        .iter()
        .find(|header| header.p_type == libc::PT_GNU_RELRO)
        .map_or(0, |header| base.wrapping_add(header.p_vaddr as usize).wrapping_add(header.p_memsz as usize));
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        let start = base.wrapping_add(header.p_vaddr as usize);
        let end = start.wrapping_add(header.p_memsz as usize);
        if header.p_flags & libc::PF_X != 0 {
            if end - start <= MOST_CODE {
                populate(start, end - start, Advice::LinuxPopulateRead);
            }
        } else if header.p_flags & libc::PF_W != 0 {
            let start = if (start..end).contains(&protected) { protected } else { start };
            populate(start, (end - start).min(MOST_DATA), Advice::LinuxPopulateWrite);
        }
    }
    0
}

pub(crate) fn populate(start: usize, len: usize, advice: Advice) {
    let first = start & !(PAGE - 1);
    let len = (start + len).next_multiple_of(PAGE) - first;
    // SAFETY: populating changes no byte; where nothing is mapped, or the mapping isn't writable,
    // the call fails.
    let _ = unsafe { rustix::mm::madvise(first as *mut _, len, advice) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn content_is_unchanged() {
        let before = (vec![1_u8; 100_000], String::from("text"));
        super::touch();
        assert!(before.0.iter().all(|byte| *byte == 1) && before.1 == "text");
    }
}
