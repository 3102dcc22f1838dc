//! [`Stdio`]: a child's standard input, output and error.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use multiproc_os::fd_passing::above_stdio;

/// What a child gets as descriptor 0, 1 or 2. See [`Process::stdin`](crate::Process::stdin).
///
/// A file, a socket, a pipe end: anything that converts to an [`OwnedFd`] converts to a `Stdio` by
/// `From`.
///
/// ```
/// use std::io::Read;
///
/// use multiproc::process::Stdio;
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut child = Process::new(|| println!("hello"), ()).stdout(Stdio::piped()).start()?;
/// let mut text = String::new();
/// child.stdout.take().unwrap().read_to_string(&mut text)?;
/// assert_eq!(text, "hello\n");
/// child.join()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stdio(Kind);

#[derive(Debug)]
enum Kind {
    Inherit,
    Null,
    Piped,
    Given(OwnedFd),
}

impl Stdio {
    /// Inherits the parent's own stream at the moment of the start, close-on-exec or not;
    /// `/dev/null` if it is closed. This is the default.
    pub fn inherit() -> Stdio {
        Stdio(Kind::Inherit)
    }

    /// `/dev/null`: reads find the end of the input, and what is written is discarded.
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// Makes a pipe. The parent gets the other end, in the field of [`Child`](crate::Child)
    /// of the same name.
    ///
    /// A pipe holds 64 KiB. A process that writes more blocks until its parent reads, so read
    /// before you wait for the process, or let
    /// [`Child::join_with_output`](crate::Child::join_with_output) do both.
    pub fn piped() -> Stdio {
        Stdio(Kind::Piped)
    }
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(fd: T) -> Stdio {
        Stdio(Kind::Given(fd.into()))
    }
}

/// The three streams as the builder configures them.
#[derive(Debug, Default)]
pub(crate) struct StreamConfig(pub(crate) [Option<Stdio>; 3]);

/// The three streams as they are passed to the new process, none of them numbered 0 to 2; `None`
/// where the process inherits its parent's stream.
#[derive(Debug, Default)]
pub(crate) struct Streams(pub(crate) [Option<OwnedFd>; 3]);

/// The writing end of a child's standard input. Dropping it closes the child's input.
///
/// The input is also closed when the process that has this end leaves by `exit`, which drops
/// nothing but waits for its children. The descriptor is not copied to forked children, where it
/// would keep the input open.
#[derive(Debug)]
pub struct ChildStdin(Arc<OwnedFd>);

impl ChildStdin {
    fn new(pipe: PipeWriter) -> io::Result<ChildStdin> {
        Ok(ChildStdin(Arc::new(above_stdio(pipe.into())?)))
    }

    /// Returns a closer, for closing the pipe from elsewhere.
    pub(crate) fn closer(&self) -> Closer {
        Closer(Arc::downgrade(&self.0))
    }
}

/// Closes the pipe to a standard input whether or not its [`ChildStdin`] is still in use.
#[derive(Debug, Clone)]
pub(crate) struct Closer(Weak<OwnedFd>);

impl Closer {
    /// Closes the pipe, if it is still open. What is written to it afterwards is discarded.
    pub(crate) fn close(&self) {
        if let Some(pipe) = self.0.upgrade() {
            // The number still belongs to its owner, so it is replaced by `/dev/null`. If no
            // descriptor is free for that, the pipe stays open.
            let _ = multiproc_os::stdio::replace_by_null(&pipe);
        }
    }
}

impl Write for ChildStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &ChildStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        multiproc_os::pipe::write(&self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for ChildStdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The descriptor itself, for other libraries or as another process's stream.
impl From<ChildStdin> for OwnedFd {
    fn from(stdin: ChildStdin) -> OwnedFd {
        let mut pipe = stdin.0;
        loop {
            // A `Closer` that is at work holds a reference for a moment.
            match Arc::try_unwrap(pipe) {
                Ok(fd) => return fd,
                Err(shared) => pipe = shared,
            }
            std::thread::yield_now();
        }
    }
}

/// The parent's ends of the pipes.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
}

impl StreamConfig {
    /// Opens the pipes, `/dev/null` and the given files.
    pub(crate) fn open(self) -> io::Result<(Streams, Ends)> {
        let (mut streams, mut ends) = (Streams::default(), Ends::default());
        for (number, wanted) in self.0.into_iter().enumerate() {
            streams.0[number] = match wanted.map_or(Kind::Inherit, |wanted| wanted.0) {
                Kind::Inherit => None,
                Kind::Null => Some(multiproc_os::stdio::dev_null()?),
                Kind::Given(fd) => Some(above_stdio(fd)?),
                Kind::Piped => {
                    let (reader, writer) = io::pipe()?;
                    let (reader, writer) =
                        (PipeReader::from(above_stdio(reader.into())?), PipeWriter::from(above_stdio(writer.into())?));
                    Some(match number {
                        0 => {
                            ends.stdin = Some(ChildStdin::new(writer)?);
                            reader.into()
                        }
                        1 => {
                            ends.stdout = Some(reader);
                            writer.into()
                        }
                        _ => {
                            ends.stderr = Some(reader);
                            writer.into()
                        }
                    })
                }
            };
        }
        Ok((streams, ends))
    }
}

impl Streams {
    /// Which of the three streams are present.
    pub(crate) fn present(&self) -> [bool; 3] {
        self.0.each_ref().map(Option::is_some)
    }

    /// Returns the streams that are present, in order.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().flatten().map(AsFd::as_fd)
    }

    /// The inverse of [`present`](Streams::present) and [`fds`](Streams::fds), in the child.
    pub(crate) fn from_fds(present: [bool; 3], fds: &mut impl Iterator<Item = OwnedFd>) -> io::Result<Streams> {
        let mut streams = Streams::default();
        for (stream, _) in streams.0.iter_mut().zip(present).filter(|(_, present)| *present) {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
            *stream = Some(fds.next().ok_or_else(missing)?);
        }
        Ok(streams)
    }
}
