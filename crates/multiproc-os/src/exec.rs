//! A fresh copy of this very program: posix_spawn(3) of `/proc/self/exe`.
//!
//! `/proc/self/exe` is the inode that runs, so the new process has the same code even when the file was replaced or deleted
//! since. posix_spawn doesn't copy the caller's memory, and is safe while other threads run.

use std::ffi::{CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

/// Starts this program again with the arguments that it was given, the environment that it has plus `variable`, the current
/// directory, descriptors 0 to 2, and `fd`, which keeps its number. Signals start at their default and unblocked; but those by which a terminal ends
/// its foreground group are blocked, until the new process calls [`unblock`](crate::interrupt::unblock).
///
/// Returns the pid of the new process, a child of the caller.
///
/// # Errors
/// As fork(2) and execve(2): `EAGAIN`, `ENOMEM`, `EACCES`; `ENOENT` when `/proc` is not mounted.
pub fn this_program(variable: (&str, &str), fd: BorrowedFd<'_>) -> io::Result<i32> {
    let arguments = c_strings(std::env::args_os())?;
    let variables = std::env::vars_os().filter(|(name, _)| name != variable.0).map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let environment = c_strings(variables.chain([OsString::from(format!("{}={}", variable.0, variable.1))]))?;
    let argv = pointers(&arguments);
    let envp = pointers(&environment);

    let mut actions = Actions::new()?;
    actions.keep(fd)?;
    let attributes = Attributes::defaults()?;
    let mut pid = 0;
    // SAFETY: all pointers are to initialised objects that outlive the call; argv and envp end with a null pointer.
    let result = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            c"/proc/self/exe".as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    match result {
        0 => Ok(pid),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn c_strings(strings: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    strings.map(|string| CString::new(string.into_vec()).map_err(io::Error::from)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

/// `posix_spawn_file_actions_t`, initialised.
struct Actions(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init writes the whole object.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(Actions(actions))
    }

    /// Has `fd` stay open across the exec: a dup2 onto itself clears close-on-exec in the new process alone (POSIX 2024).
    fn keep(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the object is initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), fd.as_raw_fd(), fd.as_raw_fd()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: the object is initialised and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

/// `posix_spawnattr_t`, initialised.
struct Attributes(MaybeUninit<libc::posix_spawnattr_t>);

impl Attributes {
    /// Every signal at its default, and none blocked but the terminal's.
    fn defaults() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init writes the whole object.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut attributes = Attributes(attributes);
        let raw = attributes.0.as_mut_ptr();
        let blocked = crate::interrupt::from_terminal();
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `raw` is initialised, and the sets are filled in before they are read.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(raw, blocked.as_ptr()))?;
            check(libc::posix_spawnattr_setsigdefault(raw, all.as_ptr()))?;
            let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
            check(libc::posix_spawnattr_setflags(raw, flags as libc::c_short))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the object is initialised and not used again.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

/// The posix_spawn family returns the error number itself.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
