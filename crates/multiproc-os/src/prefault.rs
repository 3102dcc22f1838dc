//! Touching memory ahead of time: `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` of madvise(2), Linux 5.14 and later.
//!
//! A copy that clone(2) makes has the pages of its files unmapped and its own pages write-protected, and pays a fault for each that it
//! touches. One that has time can pay beforehand.

use std::ffi::c_int;

use rustix::mm::Advice;

const PAGE: usize = 4096;

/// Files with more code than this have most of it elsewhere than where a process begins and ends. What is mapped has to be unmapped.
const MOST_CODE: usize = 256 << 10;

/// The most of one file's data that is made private.
const MOST_DATA: usize = 64 << 10;

/// Maps the code of the small libraries, such as the loader, and makes the small data of all, the top of the stack and of the heap this
/// process's own. What can't be had is left: nothing depends on it.
pub fn touch() {
    // SAFETY: `visit` has the right type, and takes no argument.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::null_mut()) };
    let local = 0_u8;
    // The pages below are those of the calls to come.
    let stack = (&raw const local as usize) & !(PAGE - 1);
    populate(stack - 3 * PAGE, 4 * PAGE, Advice::LinuxPopulateWrite);
    let mut heap = Vec::<u8>::with_capacity(4 * PAGE);
    heap.spare_capacity_mut().fill(std::mem::MaybeUninit::new(1));
    std::hint::black_box(heap);
}

/// Called for each loaded file.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, _: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info`, whose table is that long and stays where it is.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    // What the loader has relocated and then protected can't be written.
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
    // SAFETY: populating changes no byte; where nothing is mapped, or nothing that can be written, the call fails.
    let _ = unsafe { rustix::mm::madvise(first as *mut _, len, advice) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_changes() {
        let before = (vec![1_u8; 100_000], String::from("text"));
        super::touch();
        assert!(before.0.iter().all(|byte| *byte == 1) && before.1 == "text");
    }
}
