//! [`capture_output`]: forwards what children print to this process's own stdout and stderr, line
//! by line, each line prefixed with its process.
//!
//! A captured child has two pipes as its stdout and stderr; a thread here reads all of them and
//! writes whole lines. `PROTOCOL.md` says when a line has been written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use multiproc_os::epoll::{Epoll, Trigger, Waker};
use multiproc_os::{pipe, stdio};

use super::barrier::Barrier;
use super::lines::Lines;
use super::service::Service;
use crate::create_error::CreateError;
use crate::spec::stdio::Streams;

/// Captures what processes print that this one starts from now on, and writes it to this process's
/// own stdout and stderr in whole lines, each prefixed with its process: `[Process-1] line`. Lines
/// of several processes never mix.
///
/// The descriptors 1 and 2 are captured, so this includes the output of C libraries, of programs
/// that the process executes, and panic messages. All that a process has printed by its end has
/// been written here before `wait` or `join` of it returns; a last line without a line feed is
/// completed. Descriptors that other processes have inherited and keep open are read on, but not
/// waited for. A line of more than 64 KiB is split into several. Otherwise every byte is forwarded,
/// whether it is text or not.
///
/// Processes that a captured one starts share its pipes, and their lines carry its name; capture in
/// that process as well to tell them apart. stdout and stderr are two pipes, so what a process
/// writes to one and then to the other may appear in another order. While this process's own output
/// is not read, captured processes block once their pipes are full. A process that outlives this
/// one has no stdout and stderr any more. A stream set for a process, for example with
/// [`Process::stdout`](crate::Process::stdout), is not captured.
///
/// Lines bypass the standard library's buffer for stdout, so they don't break up the output of a
/// `print!` here without a line feed.
///
/// To capture a single process use [`Process::capture_output`](crate::Process::capture_output), to
/// receive the lines use [`OutputCapture`].
///
/// ```
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// multiproc::log::capture_output()?;
/// Process::new(|| println!("hello"), ()).start()?.wait()?; // [Process-1] hello
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CreateError`](crate::CreateError) at the limit of threads or descriptors.
pub fn capture_output() -> Result<(), CreateError> {
    OutputCapture::new().start()
}

type Handler = Arc<dyn Fn(&CapturedLine<'_>) + Send + Sync>;

/// [`capture_output`] with a function that receives the lines.
///
/// ```
/// use multiproc::log::OutputCapture;
/// use multiproc::Process;
/// use std::sync::mpsc;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let (sender, lines) = mpsc::channel();
/// OutputCapture::new()
///     .handler(move |line| sender.send(format!("{} said {}", line.process(), line.text())).unwrap())
///     .start()?;
/// Process::new(|| println!("hello"), ()).start()?.wait()?;
/// assert_eq!(lines.try_recv().unwrap(), "Process-1 said hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is captured before it is started"]
pub struct OutputCapture {
    all: bool,
    handler: Option<Handler>,
}

impl OutputCapture {
    /// Returns the options of [`capture_output`].
    #[allow(clippy::new_without_default)]
    pub fn new() -> OutputCapture {
        OutputCapture { all: true, handler: None }
    }

    /// Calls `handler` with each line instead of writing it.
    ///
    /// One thread calls it, one line after the other; while it runs, later lines wait. A panic in
    /// it loses only that line.
    pub fn handler(mut self, handler: impl Fn(&CapturedLine<'_>) + Send + Sync + 'static) -> OutputCapture {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Starts capturing; if this process captures already, these options replace the present ones.
    ///
    /// # Errors
    /// As [`capture_output`].
    pub fn start(self) -> Result<(), CreateError> {
        let capture = here_or_launch(&self).map_err(CreateError::of("output capture"))?;
        *capture.options() = self;
        Ok(())
    }
}

impl fmt::Debug for OutputCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputCapture").field("handler", &self.handler.as_ref().map(|_| "…")).finish()
    }
}

/// The output stream that a process has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// A line that a process has printed. See [`OutputCapture::handler`].
///
/// Its `Display` is `[Process-1] line`.
#[derive(Debug, Clone, Copy)]
pub struct CapturedLine<'a> {
    process: &'a str,
    stream: OutputStream,
    bytes: &'a [u8],
}

impl<'a> CapturedLine<'a> {
    /// The name of the process.
    pub fn process(&self) -> &'a str {
        self.process
    }

    /// The stream that it was written to.
    pub fn stream(&self) -> OutputStream {
        self.stream
    }

    /// The bytes of the line, without the line feed.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The text of the line; invalid UTF-8 is replaced.
    pub fn text(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

impl fmt::Display for CapturedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.process, self.text())
    }
}

/// Identifies the captured output of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CaptureId(u64);

/// Makes pipes to the capture for those of a child's output `streams` that are not set; returns
/// None if the child is not captured. `capture` overrides the setting for all children.
pub(crate) fn begin(name: &str, capture: Option<bool>, streams: &mut Streams) -> io::Result<Option<CaptureId>> {
    let here = CAPTURE.here();
    let wanted = capture.unwrap_or_else(|| here.as_ref().is_some_and(|capture| capture.options().all));
    if !wanted || streams.0[1..].iter().all(Option::is_some) {
        return Ok(None);
    }
    let capture = match here {
        Some(capture) => capture,
        None => here_or_launch(&OutputCapture { all: false, handler: None })?,
    };
    capture.admit(name, streams).map(Some)
}

/// The processes with output that [`flush`] completes: their last lines count as complete, even
/// without a line feed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    One(CaptureId),
    All,
}

/// Lets callers wait for the thread again after it was stuck; see [`Barrier::ignore_poison`].
pub(crate) fn ignore_poison() {
    if let Some(capture) = CAPTURE.here() {
        capture.barrier.ignore_poison();
    }
}

/// Waits until all that has been printed so far has been written or handled; see [`Barrier::wait`].
pub(crate) fn flush(whose: Whose, deadline: Option<Instant>) {
    let Some(capture) = CAPTURE.here() else { return };
    capture.barrier.wait(deadline, |mark, _| {
        capture.commands().push(Command::Flush { mark, whose });
        capture.waker.wake();
        Ok(true)
    });
}

/// The capture of this process, shared with its thread.
struct Capture {
    options: Mutex<OutputCapture>,
    /// The readers of all captured streams.
    epoll: Epoll,
    /// Wakes the thread for a command.
    waker: Waker,
    commands: Mutex<Commands>,
    barrier: Barrier,
}

/// Requests to the thread.
#[derive(Debug, Default)]
struct Commands {
    /// The number of processes that have been captured; the next [`CaptureId`].
    admitted: u64,
    waiting: Vec<Command>,
}

impl Commands {
    fn push(&mut self, command: Command) {
        self.waiting.push(command);
    }
}

#[derive(Debug)]
enum Command {
    Read(u64, Source),
    Flush { mark: u64, whose: Whose },
}

/// One output stream of one process.
#[derive(Debug)]
struct Source {
    id: CaptureId,
    process: Arc<str>,
    stream: OutputStream,
    reader: OwnedFd,
    lines: Lines,
}

static CAPTURE: Service<Capture> = Service::new();

/// The capture of this process; starts one with these options if there is none.
fn here_or_launch(options: &OutputCapture) -> io::Result<Arc<Capture>> {
    CAPTURE.here_or_launch("multiproc-output", || Capture::new(options.clone()), Capture::serve)
}

/// The token of the waker; those of sources are small.
const WAKE: u64 = u64::MAX;

/// The most bytes that are read at a time.
const CHUNK: usize = 64 * 1024;

impl Capture {
    fn new(options: OutputCapture) -> io::Result<Capture> {
        let epoll = Epoll::new()?;
        Ok(Capture {
            options: Mutex::new(options),
            waker: Waker::new(&epoll, WAKE)?,
            epoll,
            commands: Mutex::default(),
            barrier: Barrier::default(),
        })
    }

    fn options(&self) -> MutexGuard<'_, OutputCapture> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pipes for the process `name`.
    fn admit(&self, name: &str, streams: &mut Streams) -> io::Result<CaptureId> {
        let process: Arc<str> = name.into();
        // Held until both pipes are registered: the thread takes the commands after it has learned
        // which pipes are readable, and so finds both.
        let mut commands = self.commands();
        let id = CaptureId(commands.admitted);
        commands.admitted += 1;
        for (number, stream) in [(1, OutputStream::Stdout), (2, OutputStream::Stderr)] {
            if streams.0[number].is_some() {
                continue;
            }
            let (reader, writer) = pipe::pair()?;
            let token = 2 * id.0 + number as u64 - 1;
            // If registering the second fails, the first reads as ended, and is removed.
            self.epoll.add(&reader, token, Trigger::Level)?;
            commands.push(Command::Read(
                token,
                Source { id, process: process.clone(), stream, reader, lines: Lines::default() },
            ));
            streams.0[number] = Some(writer);
        }
        Ok(id)
    }

    /// The loop of the thread, for as long as the process lives.
    fn serve(&self) {
        self.barrier.adopt();
        let mut sources = BTreeMap::new();
        let mut buffer = vec![0; CHUNK];
        while let Ok(tokens) = self.epoll.wait() {
            let commands = std::mem::take(&mut self.commands().waiting);
            let mut flushes = Vec::new();
            for command in commands {
                match command {
                    Command::Read(token, source) => drop(sources.insert(token, source)),
                    Command::Flush { mark, whose } => flushes.push((mark, whose)),
                }
            }
            for token in tokens.into_iter().filter(|token| *token != WAKE) {
                // One chunk each, so that a process that never pauses doesn't delay the others.
                self.read(&mut sources, token, CHUNK, &mut buffer);
            }
            for (mark, whose) in flushes {
                let tokens: Vec<u64> = sources.keys().copied().collect();
                for token in tokens {
                    // Only the bytes that are in the pipe now: another process may write forever.
                    let available = pipe::available(&sources[&token].reader).unwrap_or(0);
                    self.read(&mut sources, token, available, &mut buffer);
                    let Some(source) = sources.get_mut(&token) else { continue };
                    if matches!(whose, Whose::All) || matches!(whose, Whose::One(id) if id == source.id) {
                        self.finish(source);
                    }
                }
                self.barrier.pass(mark);
            }
        }
        self.barrier.close();
    }

    /// Reads at most `limit` bytes of a source, and removes it at its end.
    fn read(&self, sources: &mut BTreeMap<u64, Source>, token: u64, limit: usize, buffer: &mut [u8]) {
        let Some(source) = sources.get_mut(&token) else { return };
        let mut left = limit;
        while left > 0 {
            let room = left.min(buffer.len());
            match pipe::read(&source.reader, &mut buffer[..room]) {
                Ok(0) => break,
                Ok(len) => {
                    left -= len;
                    let mut output = self.output(source.process.clone(), source.stream);
                    source.lines.take(&buffer[..len], |line| output.line(line));
                    output.done();
                    if len < room {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        if left == 0 {
            return;
        }
        if let Some(mut source) = sources.remove(&token) {
            self.finish(&mut source);
            let _ = self.epoll.remove(&source.reader);
        }
    }

    /// Completes the last line of a source.
    fn finish(&self, source: &mut Source) {
        let mut output = self.output(source.process.clone(), source.stream);
        source.lines.finish(|line| output.line(line));
        output.done();
    }

    fn output(&self, process: Arc<str>, stream: OutputStream) -> Output<'_> {
        Output { barrier: &self.barrier, handler: self.options().handler.clone(), process, stream, text: Vec::new() }
    }
}

/// The destination of the lines of one chunk.
struct Output<'a> {
    barrier: &'a Barrier,
    handler: Option<Handler>,
    process: Arc<str>,
    stream: OutputStream,
    /// The lines to be written with one call.
    text: Vec<u8>,
}

impl Output<'_> {
    fn line(&mut self, bytes: &[u8]) {
        match &self.handler {
            Some(handler) => {
                let line = CapturedLine { process: &self.process, stream: self.stream, bytes };
                // The panic hook has reported it.
                let _ = catch_unwind(AssertUnwindSafe(|| handler(&line)));
                self.barrier.handled();
            }
            None => {
                for part in [b"[", self.process.as_bytes(), b"] ", bytes, b"\n"] {
                    self.text.extend_from_slice(part);
                }
            }
        }
    }

    fn done(self) {
        let number = match self.stream {
            OutputStream::Stdout => 1,
            OutputStream::Stderr => 2,
        };
        // A failure, for example because the reader is gone, must not block the captured processes.
        let _ = stdio::write_all(number, &self.text);
        self.barrier.handled();
    }
}
