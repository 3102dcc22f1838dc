//! Sets the command line that `ps` and `top` show for this process: `PR_SET_MM_MAP` of prctl(2).
//!
//! The kernel reads a command line from a range of the process's own memory. This module moves that
//! range to a text of its own, so the arguments themselves are unchanged. It needs no privilege,
//! only a kernel with checkpoint support (`CONFIG_CHECKPOINT_RESTORE`, which distributions enable).
//! The call sets all such ranges at once, so the others are read first and passed back unchanged.

use std::io;
use std::ops::Range;

use crate::cvt;

/// `struct prctl_mm_map`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// The ranges of this process's memory that the kernel keeps a record of. They are the same in its
/// fork copies.
#[derive(Debug, Clone, Copy)]
pub struct Ranges(MemoryMap);

impl Ranges {
    /// Reads the ranges from `/proc/self/stat`.
    ///
    /// # Errors
    /// When the file can't be read, or doesn't have the format of proc(5).
    pub fn current() -> io::Result<Ranges> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The second field, the program's name, may contain anything; numbers follow its closing
        // bracket, from the third field on.
        let numbers: Vec<u64> = match stat.rsplit_once(')') {
            Some((_, rest)) => rest.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect(),
            None => vec![],
        };
        let field = |number: usize| {
            let value = numbers.get(number - 3).copied();
            value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat is too short"))
        };
        Ok(Ranges(MemoryMap {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            brk: 0,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            auxv: 0,
            auxv_size: 0,
            exe_fd: u32::MAX,
        }))
    }
}

impl Ranges {
    /// The range of the environment strings with which the program was executed.
    pub fn environment(&self) -> Range<usize> {
        self.0.env_start as usize..self.0.env_end as usize
    }
}

/// Sets the command line that other processes see for this one to `arguments`, and, if
/// `environment` is given, what `/proc/PID/environ` shows to the strings in that range. `ranges`
/// must be those of this process. The program's own arguments and environment are unchanged.
///
/// # Errors
/// `EINVAL` on a kernel without checkpoint support.
pub fn set(ranges: &Ranges, arguments: &[Vec<u8>], environment: Option<Range<usize>>) -> io::Result<()> {
    const PR_SET_MM: libc::c_int = 35;
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    let mut text = Vec::new();
    for argument in arguments {
        text.extend(argument.iter().filter(|byte| **byte != 0));
        text.push(0);
    }
    // The kernel reads it for as long as the process lives.
    let text: &'static [u8] = text.leak();
    let range = text.as_ptr_range();
    let mut map = MemoryMap { arg_start: range.start as u64, arg_end: range.end as u64, ..ranges.0 };
    if let Some(environment) = environment {
        (map.env_start, map.env_end) = (environment.start as u64, environment.end as u64);
    }
    // SAFETY: the call asks where the heap ends, and doesn't move it.
    map.brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    // SAFETY: the structure has the size passed. All ranges but these two are unchanged, and these
    // two only determine what other processes are shown.
    cvt(unsafe { libc::prctl(PR_SET_MM, PR_SET_MM_MAP, &raw const map, size_of::<MemoryMap>(), 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, since there is one title.
    #[test]
    fn set_title_and_environment() {
        let before: Vec<_> = std::env::args_os().collect();
        set(&Ranges::current().unwrap(), &[b"a title".to_vec(), b"and\0 more".to_vec()], None).unwrap();
        assert_eq!(std::fs::read("/proc/self/cmdline").unwrap(), b"a title\0and more\0");
        assert_eq!(std::env::args_os().collect::<Vec<_>>(), before);
        // The heap still grows where it was.
        let vectors: Vec<Vec<u8>> = (0..1000).map(|i| vec![i as u8; 1000]).collect();
        assert!(vectors.iter().all(|vector| vector.len() == 1000));
        // Not a static of the program's file, which the kernel doesn't show here.
        let block: &'static [u8] = b"A=1\0B=2\0".to_vec().leak();
        let start = block.as_ptr() as usize;
        set(&Ranges::current().unwrap(), &[b"a title".to_vec()], Some(start..start + block.len())).unwrap();
        assert_eq!(std::fs::read("/proc/self/environ").unwrap(), block);
        assert!(std::env::var_os("PATH").is_some(), "the program's own is as it was");
    }
}
