//! The minimal hand-over: a memory file, its descriptor in a packet (`SCM_RIGHTS` of unix(7)),
//! mmap(2), munmap(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use multiproc::Handle;
use multiproc_benches::Outcome;
use multiproc_benches::sys::{cvt, memory_file, packet_pair};
use serde::{Deserialize, Serialize};

use super::bytes::write;
use super::hand_over::{self, Task, Way};

/// How the worker maps what arrives.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Mode {
    /// Mapped when it is touched.
    OnTouch,
    /// The same, but writable.
    Writable,
    /// As `OnTouch`, but the lender has not read the bytes since they were made.
    Unseen,
    /// With `MAP_POPULATE`.
    Populated,
    /// With `MADV_POPULATE_READ`.
    Advised,
    /// The worker has mapped the bytes beforehand.
    Kept,
}

/// Declares a [`Way`] for each [`Mode`].
macro_rules! ways {
    ($($name:ident),*) => {
        $(
            pub(crate) struct $name;

            impl Way for $name {
                type Lender = Lender;
                type Worker = Worker;

                fn pair() -> Outcome<(Lender, Worker)> {
                    pair(Mode::$name)
                }
            }
        )*
    };
}

ways!(OnTouch, Unseen, Writable, Populated, Advised, Kept);

fn pair(mode: Mode) -> Outcome<(Lender, Worker)> {
    let [one, other] = packet_pair()?.map(|fd| Handle::from(File::from(fd)));
    let lender = Lender { socket: one, mode, size: 0, file: None, seen: None };
    Ok((lender, Worker { socket: other, mode, kept: None }))
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Lender {
    socket: Handle<File>,
    mode: Mode,
    size: usize,
    #[serde(skip)]
    file: Option<File>,
    #[serde(skip)]
    seen: Option<Mapping>,
}

impl hand_over::Lender for Lender {
    fn open(&mut self, size: usize) -> Outcome<()> {
        self.size = size;
        let file = self.file.insert(memory_file(size)?);
        write(size, file)?;
        if self.mode == Mode::Kept {
            send(&self.socket, size as u64, self.file.as_ref())?;
            self.file = None;
        } else if self.mode != Mode::Unseen {
            let seen = Mapping::new(file, size, Mode::OnTouch, Task::Sum)?;
            Task::Sum.look(&seen);
            self.seen = Some(seen);
        }
        Ok(())
    }

    fn ask(&mut self, task: Task) -> Outcome<u64> {
        send(&self.socket, self.size as u64, self.file.as_ref())?;
        match receive(&self.socket)? {
            (_, Some(file)) => Ok(Mapping::new(&file, self.size, self.mode, task)?.carry_out(task)),
            (found, None) => Ok(found),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Worker {
    socket: Handle<File>,
    mode: Mode,
    #[serde(skip)]
    kept: Option<Mapping>,
}

impl hand_over::Worker for Worker {
    fn open(&mut self) -> Outcome<()> {
        if self.mode == Mode::Kept {
            let (size, file) = receive(&self.socket)?;
            let file = file.ok_or("no descriptor has arrived")?;
            let kept = self.kept.insert(Mapping::new(&file, size as usize, self.mode, Task::Sum)?);
            kept.carry_out(Task::Sum);
        }
        Ok(())
    }

    fn serve(&mut self, task: Task) -> Outcome<()> {
        let (size, file) = receive(&self.socket)?;
        let found = match (&file, &mut self.kept) {
            (Some(file), _) => Mapping::new(file, size as usize, self.mode, task)?.carry_out(task),
            (None, Some(kept)) => kept.carry_out(task),
            (None, None) => return Err("no descriptor has arrived".into()),
        };
        send(&self.socket, found, file.as_ref().filter(|_| task == Task::Return))
    }
}

/// A mapped memory file, writable if the task requires it.
struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn new(file: &File, len: usize, mode: Mode, task: Task) -> io::Result<Mapping> {
        let protection = if task == Task::Fill || mode == Mode::Writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let populate = if mode == Mode::Populated { libc::MAP_POPULATE } else { 0 };
        let flags = libc::MAP_SHARED | populate;
        // SAFETY: this creates a fresh mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Mapping { start, len };
        if mode == Mode::Advised {
            // SAFETY: the mapping is ours, and none of its bytes are changed.
            cvt(unsafe { libc::madvise(start, len, libc::MADV_POPULATE_READ) })?;
        }
        Ok(mapping)
    }

    fn carry_out(&mut self, task: Task) -> u64 {
        match task {
            // SAFETY: `len` bytes are mapped writable for as long as this exists, and the process
            // that sent the file waits.
            Task::Fill => task.change(unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }),
            _ => task.look(self),
        }
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped for as long as this exists, and no process writes to the
        // file meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and is no longer borrowed.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// A buffer for one descriptor, aligned for its header.
type Control = [u64; 4];

const ONE: u32 = size_of::<libc::c_int>() as u32;

/// A message of one number, and the buffer for its descriptor.
fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all fields are plain, and zero is valid for them.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: it only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(ONE) } as usize;
    message
}

fn send(socket: &File, mut number: u64, file: Option<&File>) -> Outcome<()> {
    let mut control = Control::default();
    let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<u64>() };
    let mut message = message(&mut part, &mut control);
    match file {
        // SAFETY: the message has room for one header, and one descriptor behind it.
        Some(file) => unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(ONE) as usize;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(file.as_raw_fd());
        },
        None => message.msg_controllen = 0,
    }
    // SAFETY: all that the message points to is alive.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent == size_of::<u64>() as isize { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

fn receive(socket: &File) -> Outcome<(u64, Option<File>)> {
    let (mut number, mut control) = (0_u64, Control::default());
    let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<u64>() };
    let mut message = message(&mut part, &mut control);
    // SAFETY: all that the message points to is alive and writable.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    match received {
        -1 => return Err(io::Error::last_os_error().into()),
        8 => {}
        _ => return Err("the other side has gone".into()),
    }
    // SAFETY: the kernel has written no header, or one with one descriptor behind it, which nothing
    // else owns.
    let file = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (!header.is_null()).then(|| File::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()))
    };
    Ok((number, file))
}
