//! The executable file as it lies in memory: where its code is, and which build it is. See dl_iterate_phdr(3) and elf(5).

use std::ffi::c_int;
use std::ops::Range;

/// One loaded file: the program or a shared library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The ranges of its executable segments.
    pub code: Vec<Range<usize>>,
    /// What tells this build from any other: the linker's build id, or a digest of the program headers where there is none.
    pub build_id: Vec<u8>,
}

impl Image {
    /// The image that `address` lies in; none if it is in no loaded file.
    pub fn containing(address: usize) -> Option<Image> {
        let mut search = Search { address, found: None };
        // SAFETY: `visit` has the right type and is called, before this returns, with the pointer given.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    /// Whether `address` is in one of the executable segments.
    pub fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }
}

/// Whether the program, the first of the loaded files, asks for an interpreter, that is, a dynamic
/// loader.
pub(crate) fn asks_for_a_loader() -> bool {
    let mut asks = false;
    // SAFETY: `look` has the right type and is called, before this returns, with the pointer given.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut asks).cast()) };
    asks
}

/// Called for the first loaded file.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: libc::size_t, asks: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info`, whose table has that many headers, and the
    // pointer that was passed.
    unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        *asks.cast::<bool>() = headers.iter().any(|header| header.p_type == libc::PT_INTERP);
    }
    1
}

struct Search {
    address: usize,
    found: Option<Image>,
}

/// Called for each loaded file, until it returns other than 0.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, search: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info` and the pointer that `containing` passed.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    // SAFETY: the loader's table of that many program headers, which stays where it is during the call.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let range = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        start..start.wrapping_add(header.p_memsz as usize)
    };
    let loaded = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD;
    if !headers.iter().filter(loaded).any(|header| range(header).contains(&search.address)) {
        return 0;
    }
    let code = headers.iter().filter(loaded).filter(|header| header.p_flags & libc::PF_X != 0).map(range).collect();
    let notes = headers.iter().filter(|header| header.p_type == libc::PT_NOTE).filter(|note| {
        // A note that isn't loaded can't be read here.
        headers
            .iter()
            .filter(loaded)
            .any(|load| note.p_vaddr >= load.p_vaddr && note.p_vaddr + note.p_memsz <= load.p_vaddr + load.p_filesz)
    });
    let build_id = notes
        .filter_map(|note| {
            // SAFETY: the range lies in a loaded segment, as just checked; notes are never written to.
            let bytes = unsafe { std::slice::from_raw_parts(range(note).start as *const u8, note.p_memsz as usize) };
            build_id(bytes)
        })
        .next();
    search.found = Some(Image { code, build_id: build_id.unwrap_or_else(|| digest(headers)) });
    1
}

/// The build id in a segment of notes; see elf(5). None if there is none, or the notes are something else.
pub fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let padded = |len: u32| (len as usize).checked_next_multiple_of(4);
    loop {
        let word = |at: usize| Some(u32::from_ne_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_len, desc_len, kind) = (word(0)?, word(4)?, word(8)?);
        let name_end = 12_usize.checked_add(padded(name_len)?)?;
        let desc_end = name_end.checked_add(padded(desc_len)?)?;
        // An empty one tells nothing.
        if kind == NT_GNU_BUILD_ID && notes.get(12..12 + 4)? == b"GNU\0" && name_len == 4 && desc_len > 0 {
            return Some(notes.get(name_end..name_end + desc_len as usize)?.to_vec());
        }
        notes = notes.get(desc_end..)?;
    }
}

/// FNV-1a over the addresses and sizes of the segments: two builds of any size rarely share them. It is the second line of
/// defence; the first is that the child runs the same inode.
fn digest(headers: &[libc::Elf64_Phdr]) -> Vec<u8> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for header in headers {
        for word in [u64::from(header.p_type), header.p_vaddr, header.p_filesz, header.p_memsz] {
            for byte in word.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    hash.to_le_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_code_and_a_static_is_not() {
        static DATA: u8 = 0;
        let function = a_function_is_code_and_a_static_is_not as fn() as usize;
        let image = Image::containing(function).unwrap();
        assert!(image.is_code(function));
        assert!(!image.is_code(&raw const DATA as usize));
        assert_eq!(Image::containing(&raw const DATA as usize), Some(image.clone()));
        assert!(!image.build_id.is_empty());
    }

    #[test]
    fn other_images_and_none() {
        let ours = Image::containing(other_images_and_none as fn() as usize).unwrap();
        assert!(!ours.is_code(libc::getpid as *const () as usize));
        let stack = 0;
        assert_eq!(Image::containing(&raw const stack as usize), None);
    }

    #[test]
    fn notes_of_every_kind_of_garbage() {
        let mut note = Vec::new();
        for word in [4_u32, 3, 3] {
            note.extend(word.to_ne_bytes());
        }
        note.extend(b"GNU\0abc\0");
        assert_eq!(build_id(&note), Some(b"abc".to_vec()));
        for cut in 0..note.len() - 1 {
            assert_eq!(build_id(&note[..cut]), None, "cut at {cut}");
        }
        assert_eq!(build_id(&[0xFF; 64]), None);
        note[4] = 0;
        assert_eq!(build_id(&note[..16]), None, "an empty one is none");
    }
}
