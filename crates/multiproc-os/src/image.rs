//! The executable file as it is loaded in memory: the addresses of its code, and its build id. See
//! dl_iterate_phdr(3) and elf(5).

use std::ffi::{CStr, c_char, c_int};
use std::ops::Range;

/// A loaded file: the program or a shared library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The address ranges of its executable segments.
    pub code: Vec<Range<usize>>,
    /// Identifies this build: the linker's build id, or a digest of the program headers where there
    /// is none.
    pub build_id: Vec<u8>,
}

impl Image {
    /// Returns the image that contains `address`; `None` if no loaded file does.
    pub fn containing(address: usize) -> Option<Image> {
        let mut search = Search { address, found: None };
        // SAFETY: `visit` has the right type, and is called with the given pointer before this
        // returns.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    /// Returns whether `address` is in one of the executable segments.
    pub fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }
}

/// Returns whether the program, the first of the loaded files, requests an interpreter, that is, a
/// dynamic loader.
pub(crate) fn asks_for_a_loader() -> bool {
    let mut asks = false;
    // SAFETY: `look` has the right type, and is called with the given pointer before this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut asks).cast()) };
    asks
}

/// Callback of dl_iterate_phdr(3), for the first loaded file only.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: libc::size_t, asks: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info`, with a table of `dlpi_phnum` headers, and
    // with the pointer that was passed.
    unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        *asks.cast::<bool>() = headers.iter().any(|header| header.p_type == libc::PT_INTERP);
    }
    1
}

/// The loader's list of loaded files, found as debuggers find it: through an entry in the dynamic
/// section of the program. See dlinfo(3) and the header `link.h`.
pub(crate) struct LoadedFiles(*const List);

// SAFETY: the list belongs to the loader and is never freed; the functions that read it state when
// they may be called.
unsafe impl Send for LoadedFiles {}
// SAFETY: as above.
unsafe impl Sync for LoadedFiles {}

#[repr(C)]
struct List {
    version: c_int,
    first: *const LoadedFile,
}

/// An element of the list. The first one is the program.
#[repr(C)]
pub(crate) struct LoadedFile {
    base: usize,
    name: *const c_char,
    dynamic: *const Entry,
    next: *const LoadedFile,
}

/// An entry of a dynamic section; see elf(5).
#[repr(C)]
struct Entry {
    tag: i64,
    value: usize,
}

/// The numbers of functions that a file has the loader call when it is loaded and unloaded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrays {
    /// Functions of the program that run before those of all other files.
    pub(crate) before_init: usize,
    pub(crate) init: usize,
    pub(crate) fini: usize,
}

/// Tags of entries. Tag 0 ends the section.
const DT_DEBUG: i64 = 21;
const DT_INIT_ARRAYSZ: i64 = 27;
const DT_FINI_ARRAYSZ: i64 = 28;
const DT_PREINIT_ARRAYSZ: i64 = 33;

impl LoadedFiles {
    /// Returns the list; `None` in a static program.
    pub(crate) fn current() -> Option<LoadedFiles> {
        let mut dynamic = std::ptr::null::<Entry>();
        // SAFETY: `find_dynamic` has the right type, and is called with the given pointer before
        // this returns.
        unsafe { libc::dl_iterate_phdr(Some(find_dynamic), (&raw mut dynamic).cast()) };
        // SAFETY: the pointer is the program's dynamic section, or null.
        let address = unsafe { entries(dynamic) }.find(|entry| entry.tag == DT_DEBUG)?.value;
        (address != 0).then_some(LoadedFiles(address as *const List))
    }

    /// Returns whether this list has all loaded files: whether dlmopen(3) has not been called,
    /// which makes further lists.
    ///
    /// # Safety
    /// No thread may load or unload a file during the call.
    pub(crate) unsafe fn are_all(&self) -> bool {
        // SAFETY: the list belongs to the loader and is never freed.
        unsafe { (*self.0).version == 1 }
    }

    /// Iterates over the list.
    ///
    /// # Safety
    /// No thread may load or unload a file during the iteration.
    pub(crate) unsafe fn iter(&self) -> impl Iterator<Item = &LoadedFile> {
        // SAFETY: each pointer is null or an element of the list, which doesn't change, by the
        // caller's contract.
        let first = unsafe { (*self.0).first.as_ref() };
        std::iter::successors(first, |file| {
            // SAFETY: as above.
            unsafe { file.next.as_ref() }
        })
    }
}

impl LoadedFile {
    /// Returns the name of the file, without its path. Empty for the program.
    pub(crate) fn name(&self) -> &[u8] {
        // SAFETY: a C string that belongs to the loader; null is handled.
        let path = if self.name.is_null() { c"" } else { unsafe { CStr::from_ptr(self.name) } };
        path.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    pub(crate) fn arrays(&self) -> Arrays {
        let mut arrays = Arrays::default();
        // SAFETY: the loader stored the address of the dynamic section there, or null.
        for entry in unsafe { entries(self.dynamic) } {
            let count = entry.value / size_of::<usize>();
            match entry.tag {
                DT_PREINIT_ARRAYSZ => arrays.before_init = count,
                DT_INIT_ARRAYSZ => arrays.init = count,
                DT_FINI_ARRAYSZ => arrays.fini = count,
                _ => {}
            }
        }
        arrays
    }
}

/// Iterates over the entries of a dynamic section.
///
/// # Safety
/// `dynamic` is null, or the address of a dynamic section that stays loaded.
unsafe fn entries(dynamic: *const Entry) -> impl Iterator<Item = &'static Entry> {
    let mut next = dynamic;
    std::iter::from_fn(move || {
        // SAFETY: by the caller's contract; the iteration stops at the entry that ends the section.
        let entry = unsafe { next.as_ref() }.filter(|entry| entry.tag != 0)?;
        next = next.wrapping_add(1);
        Some(entry)
    })
}

/// Callback of dl_iterate_phdr(3), for the first loaded file only.
unsafe extern "C" fn find_dynamic(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    dynamic: *mut libc::c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info`, with a table of `dlpi_phnum` headers, and
    // with the pointer that was passed.
    unsafe {
        let base = (*info).dlpi_addr as usize;
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        if let Some(header) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) {
            *dynamic.cast::<*const Entry>() = base.wrapping_add(header.p_vaddr as usize) as *const Entry;
        }
    }
    1
}

struct Search {
    address: usize,
    found: Option<Image>,
}

/// Callback of dl_iterate_phdr(3), for each loaded file until it returns a value other than 0.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, search: *mut libc::c_void) -> c_int {
    // SAFETY: dl_iterate_phdr calls with a valid `info` and with the pointer that `containing`
    // passed.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    // SAFETY: the loader's table has `dlpi_phnum` program headers, and stays valid during the call.
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
        // A note outside the loaded segments can't be read.
        headers
            .iter()
            .filter(loaded)
            .any(|load| note.p_vaddr >= load.p_vaddr && note.p_vaddr + note.p_memsz <= load.p_vaddr + load.p_filesz)
    });
    let build_id = notes
        .filter_map(|note| {
            // SAFETY: the range lies in a loaded segment, as just checked; notes are never written
            // to.
            let bytes = unsafe { std::slice::from_raw_parts(range(note).start as *const u8, note.p_memsz as usize) };
            build_id(bytes)
        })
        .next();
    search.found = Some(Image { code, build_id: build_id.unwrap_or_else(|| digest(headers)) });
    1
}

/// Returns the build id in a segment of notes; see elf(5). `None` if there is none, or the bytes
/// are not notes.
pub fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let padded = |len: u32| (len as usize).checked_next_multiple_of(4);
    loop {
        let word = |at: usize| Some(u32::from_ne_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_len, desc_len, kind) = (word(0)?, word(4)?, word(8)?);
        let name_end = 12_usize.checked_add(padded(name_len)?)?;
        let desc_end = name_end.checked_add(padded(desc_len)?)?;
        // An empty build id identifies nothing.
        if kind == NT_GNU_BUILD_ID && notes.get(12..12 + 4)? == b"GNU\0" && name_len == 4 && desc_len > 0 {
            return Some(notes.get(name_end..name_end + desc_len as usize)?.to_vec());
        }
        notes = notes.get(desc_end..)?;
    }
}

/// FNV-1a over the addresses and sizes of the segments, which rarely are the same in two builds of
/// any size. This is only a second check; the first is that the child runs the same inode.
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
    fn functions_are_code() {
        static DATA: u8 = 0;
        let function = functions_are_code as fn() as usize;
        let image = Image::containing(function).unwrap();
        assert!(image.is_code(function));
        assert!(!image.is_code(&raw const DATA as usize));
        assert_eq!(Image::containing(&raw const DATA as usize), Some(image.clone()));
        assert!(!image.build_id.is_empty());
    }

    #[test]
    fn loaded_files() {
        let files = LoadedFiles::current().expect("a dynamically linked program");
        // SAFETY: no test of this crate loads a file.
        let files: Vec<&LoadedFile> = unsafe { files.iter() }.collect();
        assert_eq!(files[0].name(), b"", "the program");
        // A constructor of the compiler, and one of the standard library.
        assert!(files[0].arrays().init >= 2);
        assert_eq!(files[0].arrays().before_init, 0);
        let is_loaded = |name: &str| files.iter().any(|file| file.name() == name.as_bytes());
        assert!(is_loaded("libc.so.6") || cfg!(not(target_env = "gnu")));
        assert!(!is_loaded("libnone.so"));
    }

    #[test]
    fn other_images() {
        let ours = Image::containing(other_images as fn() as usize).unwrap();
        assert!(!ours.is_code(libc::getpid as *const () as usize));
        let stack = 0;
        assert_eq!(Image::containing(&raw const stack as usize), None);
    }

    #[test]
    fn corrupt_notes() {
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
        assert_eq!(build_id(&note[..16]), None, "an empty build id is none");
    }
}
