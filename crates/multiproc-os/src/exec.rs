//! A new process that runs this program from its start: posix_spawn(3) of `/proc/self/exe`, or of
//! another program that the caller names.
//!
//! `/proc/self/exe` is the inode that is running, so the new process has the same code even if the
//! file was replaced or deleted since. posix_spawn doesn't copy the caller's memory, and is safe
//! while other threads run.
//!
//! The new process has descriptors 0 to 2 and one more. All others are closed before its first
//! instruction. So any other open descriptor in it was opened by its own code, which may run before
//! the library's code, and is left open.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The number, in the new process, of the descriptor that is passed in addition to 0 to 2.
const GIVEN: RawFd = 3;

const PROGRAM: &CStr = c"/proc/self/exe";

/// What is executed. The default is this program, with its own arguments and environment.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The file; none for `/proc/self/exe`.
    pub path: Option<PathBuf>,
    /// All arguments, the program's name first; none for this process's own.
    pub arguments: Option<Vec<OsString>>,
    /// Variables that are set in addition to this process's environment.
    pub variables: Vec<(OsString, OsString)>,
}

/// Starts this program again. The new process has the same arguments, environment, current
/// directory and descriptors 0 to 2 (whether close-on-exec or not), and also `fd`, under the number
/// that the environment variable `variable` holds; `program` says what differs. Signals have their
/// default actions and are unblocked, except those that a terminal sends to end its foreground
/// process group: they are blocked until the new process calls
/// [`unblock`](crate::interrupt::unblock).
///
/// Returns the pid of the new process, a child of the caller.
///
/// # Errors
/// As fork(2) and execve(2): `EAGAIN`, `ENOMEM`, `EACCES`. The error text explains what to do when
/// `/proc` is not mounted; when a sandbox refuses the calls; when this program was started by
/// executing the dynamic loader, so that `/proc/self/exe` is the loader; and when this process
/// creates children in another PID namespace, and the first process of that namespace has ended.
pub fn program(program: &Program, variable: &str, fd: BorrowedFd<'_>) -> io::Result<i32> {
    let path = program.path.as_ref().map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?;
    if path.is_none() && is_loaded_by_hand() {
        return Err(io::Error::other(
            "this program was started through the dynamic loader (ld.so PROGRAM), so /proc/self/exe is the loader, \
             which would execute the program's first argument. Execute the program directly, or use StartMethod::Fork",
        ));
    }
    let arguments = match &program.arguments {
        Some(arguments) => c_strings(arguments.iter().cloned())?,
        None => c_strings(std::env::args_os())?,
    };
    let is_replaced = |name: &OsString| name == variable || program.variables.iter().any(|(other, _)| other == name);
    let kept = std::env::vars_os().filter(|(name, _)| !is_replaced(name));
    let variables = kept.chain(program.variables.iter().cloned()).map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let environment = c_strings(variables.chain([OsString::from(format!("{variable}={GIVEN}"))]))?;
    let argv = pointers(&arguments);
    let envp = pointers(&environment);

    let attributes = Attributes::defaults()?;
    crate::stdio::retry_if_closed(|| {
        let actions = Actions::with(crate::stdio::streams(), fd)?;
        let mut pid = 0;
        // SAFETY: all pointers are to initialised objects that outlive the call; argv and envp end
        // with a null pointer.
        let result = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                path.as_deref().unwrap_or(PROGRAM).as_ptr(),
                actions.list.0.as_ptr(),
                attributes.0.as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        match result {
            0 => Ok(pid),
            errno if path.is_some() => Err(crate::fork::explained(io::Error::from_raw_os_error(errno))),
            errno => Err(explained(errno)),
        }
    })
}

/// The operations on descriptors in the new process.
struct Actions {
    list: ActionList,
    /// Replaces those of descriptors 0 to 2 that are closed. Must stay open until the spawn.
    _nothing: Option<OwnedFd>,
}

impl Actions {
    fn with(streams: [Option<BorrowedFd<'_>>; 3], given: BorrowedFd<'_>) -> io::Result<Actions> {
        let mut list = ActionList::new()?;
        // For a closed one, the Rust runtime of the new process would open /dev/null itself, and
        // would abort where that doesn't exist.
        let nothing = if streams.iter().all(Option::is_some) { None } else { Some(crate::stdio::placeholder()?) };
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

/// Replaces the text of an error of posix_spawn where it wouldn't tell the user the cause.
fn explained(errno: i32) -> io::Error {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOENT | libc::ENOTDIR if !std::path::Path::new("/proc/self/exe").exists() => io::Error::new(
            error.kind(),
            "/proc is not mounted, but the program must be executed as /proc/self/exe. Mount it (mount -t proc proc \
             /proc), also inside a new root directory, or use StartMethod::Fork",
        ),
        _ => crate::fork::explained(error),
    }
}

/// Returns whether the dynamic loader was executed with this program as its argument: the kernel
/// has loaded no interpreter (`AT_BASE` of getauxval(3)), though the program asks for one.
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

    /// Duplicates `fd` to this number in the new process. A dup2 onto the same number clears
    /// close-on-exec (POSIX 2024).
    fn duplicate(&mut self, fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
        // SAFETY: the object is initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), fd.as_raw_fd(), number) })
    }

    /// Closes all descriptors from `first` on in the new process. glibc 2.34 and later have a call
    /// for this, which also works where close_range(2) is missing or refused. For other C
    /// libraries, each descriptor of this process that would be inherited is closed by number; one
    /// that another thread opens at this moment may be missed.
    fn close_from(&mut self, first: RawFd) -> io::Result<()> {
        type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, libc::c_int) -> libc::c_int;
        let name = c"posix_spawn_file_actions_addclosefrom_np";
        // SAFETY: the name ends with a NUL.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        if !function.is_null() {
            // SAFETY: the C library's function of this name has this type.
            let close_from = unsafe { std::mem::transmute::<*mut libc::c_void, CloseFrom>(function) };
            // SAFETY: the object is initialised.
            return check(unsafe { close_from(self.0.as_mut_ptr(), first) });
        }
        for fd in inheritable(first)? {
            // SAFETY: the object is initialised. If the number is already closed, the operation is
            // ignored.
            check(unsafe { libc::posix_spawn_file_actions_addclose(self.0.as_mut_ptr(), fd) })?;
        }
        Ok(())
    }
}

/// Returns the descriptors of this process, from `first` on, that an exec would not close.
fn inheritable(first: RawFd) -> io::Result<Vec<RawFd>> {
    let listed = std::fs::read_dir("/proc/self/fd")?;
    Ok(listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // SAFETY: the kernel checks whether there is a descriptor of this number; no memory is
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
    /// All signals have their default actions, and only those of the terminal are blocked.
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

/// Converts the result of the posix_spawn functions, which return the error number itself.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inheritable_fds() {
        let (kept, closed) = crate::fd_passing::pair().unwrap();
        // SAFETY: it is open, and no memory is touched.
        unsafe { libc::fcntl(kept.as_raw_fd(), libc::F_SETFD, 0) };
        let fds = inheritable(3).unwrap();
        assert!(fds.contains(&kept.as_raw_fd()) && !fds.contains(&closed.as_raw_fd()));
        assert!(!inheritable(kept.as_raw_fd() + 1).unwrap().contains(&kept.as_raw_fd()));
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::CLOEXEC).unwrap();
    }

    #[test]
    fn loader_is_detected() {
        assert!(!is_loaded_by_hand());
    }
}
