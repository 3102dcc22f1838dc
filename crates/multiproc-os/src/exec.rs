//! A fresh copy of this very program: posix_spawn(3) of `/proc/self/exe`.
//!
//! `/proc/self/exe` is the inode that runs, so the new process has the same code even when the file was replaced or deleted
//! since. posix_spawn doesn't copy the caller's memory, and is safe while other threads run.
//!
//! The new process has descriptors 0 to 2 and one more. The others are closed before its first
//! instruction, so that whatever else is open in it has been opened by its own code, which may run
//! before the library's, and stays open.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

/// The number, in the new process, of the descriptor that it is given beside 0 to 2.
const GIVEN: RawFd = 3;

const PROGRAM: &CStr = c"/proc/self/exe";

/// Starts this program again with the arguments that it was given, the environment that it has, the
/// current directory, descriptors 0 to 2 (close-on-exec or not), and `fd`, under the number that
/// the environment variable `variable` tells. Signals start at their default and unblocked; but
/// those by which a terminal ends its foreground group are blocked, until the new process calls
/// [`unblock`](crate::interrupt::unblock).
///
/// Returns the pid of the new process, a child of the caller.
///
/// # Errors
/// As fork(2) and execve(2): `EAGAIN`, `ENOMEM`, `EACCES`. An error that says what to do when
/// `/proc` is not mounted, when a sandbox refuses, when this program was loaded by the dynamic
/// loader and not executed itself, so that `/proc/self/exe` is the loader, and when the first
/// process of the PID namespace that children of this one belong to has ended.
pub fn this_program(variable: &str, fd: BorrowedFd<'_>) -> io::Result<i32> {
    if is_loaded_by_hand() {
        return Err(io::Error::other(
            "this program was started by way of the dynamic loader (ld.so PROGRAM), so /proc/self/exe is the loader, which would \
             execute the program's first argument. Execute the program itself, or use StartMethod::Fork",
        ));
    }
    let arguments = c_strings(std::env::args_os())?;
    let variables = std::env::vars_os().filter(|(name, _)| name != variable).map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let environment = c_strings(variables.chain([OsString::from(format!("{variable}={GIVEN}"))]))?;
    let argv = pointers(&arguments);
    let envp = pointers(&environment);

    let attributes = Attributes::defaults()?;
    crate::stdio::again_if_closed(|| {
        let actions = Actions::with(crate::stdio::streams(), fd)?;
        let mut pid = 0;
        // SAFETY: all pointers are to initialised objects that outlive the call; argv and envp end
        // with a null pointer.
        let result = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                PROGRAM.as_ptr(),
                actions.list.0.as_ptr(),
                attributes.0.as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        match result {
            0 => Ok(pid),
            errno => Err(explained(errno)),
        }
    })
}

/// What the new process does with its descriptors.
struct Actions {
    list: ActionList,
    /// Takes the place of the streams that are closed.
    _nothing: Option<OwnedFd>,
}

impl Actions {
    fn with(streams: [Option<BorrowedFd<'_>>; 3], given: BorrowedFd<'_>) -> io::Result<Actions> {
        let mut list = ActionList::new()?;
        // The Rust runtime of the new process would open /dev/null in place of one that is closed,
        // and abort without that.
        let nothing = if streams.iter().all(Option::is_some) { None } else { Some(crate::stdio::nothing()?) };
        for (number, stream) in streams.into_iter().enumerate() {
            if let Some(stream) = stream.or(nothing.as_ref().map(AsFd::as_fd)) {
                list.duplicate(stream, number as RawFd)?;
            }
        }
        list.duplicate(given, GIVEN)?;
        list.close_from(GIVEN + 1)?;
        Ok(Actions { list, _nothing: nothing })
    }
}

/// What an error of posix_spawn means here, where its own text would not tell.
fn explained(errno: i32) -> io::Error {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOENT | libc::ENOTDIR if !std::path::Path::new("/proc/self/exe").exists() => io::Error::new(
            error.kind(),
            "/proc is not mounted, and the program is executed as /proc/self/exe. Mount it (mount -t proc proc /proc), in a new root \
             directory too, or use StartMethod::Fork",
        ),
        _ => crate::fork::explained(error),
    }
}

/// Whether the loader was executed with this program as its argument: the kernel has loaded no
/// interpreter (`AT_BASE` of getauxval(3)), though the program asks for one.
fn is_loaded_by_hand() -> bool {
    // SAFETY: it takes a number and returns one.
    let base = unsafe { libc::getauxval(libc::AT_BASE) };
    base == 0 && crate::image::asks_for_a_loader()
}

fn c_strings(strings: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    strings.map(|string| CString::new(string.into_vec()).map_err(io::Error::from)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

/// `posix_spawn_file_actions_t`, initialised.
struct ActionList(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl ActionList {
    fn new() -> io::Result<ActionList> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init writes the whole object.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(ActionList(actions))
    }

    /// Has the new process have `fd` under this number. A dup2 onto itself clears close-on-exec
    /// (POSIX 2024).
    fn duplicate(&mut self, fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
        // SAFETY: the object is initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), fd.as_raw_fd(), number) })
    }

    /// Has the new process have no descriptor from `first` on: by the C library (glibc 2.34), which
    /// does without close_range(2) where that is missing or refused. Others are told which
    /// descriptors of this process would be inherited; one that another thread opens at this moment
    /// may be missing.
    fn close_from(&mut self, first: RawFd) -> io::Result<()> {
        type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, libc::c_int) -> libc::c_int;
        let name = c"posix_spawn_file_actions_addclosefrom_np";
        // SAFETY: the name ends with a zero.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        if !function.is_null() {
            // SAFETY: the C library's function of this name has this type.
            let close_from = unsafe { std::mem::transmute::<*mut libc::c_void, CloseFrom>(function) };
            // SAFETY: the object is initialised.
            return check(unsafe { close_from(self.0.as_mut_ptr(), first) });
        }
        for fd in inheritable(first)? {
            // SAFETY: the object is initialised. A number that is closed by then is passed over.
            check(unsafe { libc::posix_spawn_file_actions_addclose(self.0.as_mut_ptr(), fd) })?;
        }
        Ok(())
    }
}

/// The descriptors of this process from `first` on that an exec would not close.
fn inheritable(first: RawFd) -> io::Result<Vec<RawFd>> {
    let listed = std::fs::read_dir("/proc/self/fd")?;
    Ok(listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // SAFETY: the kernel looks whether there is a descriptor of that number; no memory is
        // touched.
        .filter(|fd| *fd >= first && unsafe { libc::fcntl(*fd, libc::F_GETFD) } == 0)
        .collect())
}

impl Drop for ActionList {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_close_on_exec_is_inheritable() {
        let (kept, closed) = crate::fd_passing::pair().unwrap();
        // SAFETY: it is open, and no memory is touched.
        unsafe { libc::fcntl(kept.as_raw_fd(), libc::F_SETFD, 0) };
        let fds = inheritable(3).unwrap();
        assert!(fds.contains(&kept.as_raw_fd()) && !fds.contains(&closed.as_raw_fd()));
        assert!(!inheritable(kept.as_raw_fd() + 1).unwrap().contains(&kept.as_raw_fd()));
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::CLOEXEC).unwrap();
    }

    #[test]
    fn a_program_that_was_executed_is_not_loaded_by_hand() {
        assert!(!is_loaded_by_hand());
    }
}
