//! [`capture_output`]: what children print comes to this process's own stdout and stderr line by line, each with its process in front.
//!
//! A captured child has two pipes for its stdout and stderr; a thread here reads all of them and writes whole lines. `PROTOCOL.md` says
//! when a line has been written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use multiproc_os::poller::Poller;
use multiproc_os::{pipe, stdio};

use super::barrier::Barrier;
use super::lines::Lines;
use super::service::Service;
use crate::process::stdio::Streams;
use crate::{Error, Result};

/// Has all that processes print which this one starts from now on come to its own stdout and stderr in whole lines, each with its process
/// in front: `[Process-1] line`. Lines of several processes never mix.
///
/// It is the descriptors 1 and 2 that are captured: what C libraries and programs that the process executes write to them is in it, and so
/// are panic messages. What a process has printed when it ends has been written here before `wait` or `join` of it returns; the last line
/// is completed then if its end is missing. Descriptors that something else has inherited and keeps open are read on, but not waited for.
/// A line of more than 64 KiB is cut into several. Other than that every byte comes through, text or not.
///
/// Processes that a captured one starts share its pipes, and count as it; capture there, too, if they should not. stdout and stderr are two
/// pipes, so what a process writes to one and then to the other may appear in another order. While nobody reads this process's own output,
/// captured processes wait once their pipes are full. One that outlives this process has no stdout and stderr any more. A stream that a process
/// has been given, as with [`Process::stdout`](crate::Process::stdout), is not captured.
///
/// Lines go past the standard library's buffer for stdout, so that a `print!` here without a line feed is not torn.
///
/// For one process alone there is [`Process::capture_output`](crate::Process::capture_output), for the lines themselves [`OutputCapture`].
///
/// ```
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// multiproc::capture_output()?;
/// Process::new(|| println!("hello"), ()).start()?.wait()?; // [Process-1] hello
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Setup`] when the system has no thread or descriptor to give.
pub fn capture_output() -> Result<()> {
    OutputCapture::new().start()
}

type Handler = Arc<dyn Fn(&CapturedLine<'_>) + Send + Sync>;

/// [`capture_output`] with a function for the lines.
///
/// ```
/// use multiproc::{OutputCapture, Process};
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
    /// What [`capture_output`] does.
    #[allow(clippy::new_without_default)]
    pub fn new() -> OutputCapture {
        OutputCapture { all: true, handler: None }
    }

    /// Has `handler` called with each line, in place of writing it.
    ///
    /// It is called by one thread, one line after the other; while it is at work, the next ones wait. A panic in it loses that line alone.
    pub fn handler(mut self, handler: impl Fn(&CapturedLine<'_>) + Send + Sync + 'static) -> OutputCapture {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Starts capturing; or, if this process captures already, does it in this way from now on.
    ///
    /// # Errors
    /// As [`capture_output`].
    pub fn start(self) -> Result<()> {
        let capture = here_or_launch(&self).map_err(|source| Error::Setup { what: "capture output", source })?;
        *capture.options() = self;
        Ok(())
    }
}

impl fmt::Debug for OutputCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputCapture").field("handler", &self.handler.as_ref().map(|_| "…")).finish()
    }
}

/// Which of its two output streams a process has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// A line that a process has printed. See [`OutputCapture::handler`].
///
/// It prints as `[Process-1] line`.
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

    /// Where it was written to.
    pub fn stream(&self) -> OutputStream {
        self.stream
    }

    /// Its bytes, without the line feed.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its text; what is no UTF-8 is replaced.
    pub fn text(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

impl fmt::Display for CapturedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.process, self.text())
    }
}

/// What the output of one process is known by here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CaptureId(u64);

/// Has a child's `streams` be pipes to here, those that have not been given to it; none if it is not to be captured. Unless said for this one
/// it is as for all.
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

/// Whose last lines are complete, though their ends may be missing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    One(CaptureId),
    All,
}

/// Has the thread waited for again, if it was stuck; see [`Barrier::ignore_poison`].
pub(crate) fn ignore_poison() {
    if let Some(capture) = CAPTURE.here() {
        capture.barrier.ignore_poison();
    }
}

/// Waits until all that has been printed so far has been written, or handled; see [`Barrier::wait`].
pub(crate) fn flush(whose: Whose, deadline: Option<Instant>) {
    let Some(capture) = CAPTURE.here() else { return };
    capture.barrier.wait(deadline, |mark, _| {
        capture.commands().push(Command::Flush { mark, whose });
        capture.poller.wake();
        Ok(true)
    });
}

/// The capture of this process, shared with its thread.
struct Capture {
    options: Mutex<OutputCapture>,
    poller: Poller,
    commands: Mutex<Commands>,
    barrier: Barrier,
}

/// What others want of the thread.
#[derive(Debug, Default)]
struct Commands {
    /// How many processes have been admitted.
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

/// One stream of one process.
#[derive(Debug)]
struct Source {
    id: CaptureId,
    process: Arc<str>,
    stream: OutputStream,
    reader: OwnedFd,
    lines: Lines,
}

static CAPTURE: Service<Capture> = Service::new();

/// The capture of this process; launched with these options if there is none.
fn here_or_launch(options: &OutputCapture) -> io::Result<Arc<Capture>> {
    CAPTURE.here_or_launch("multiproc-output", || Capture::new(options.clone()), Capture::serve)
}

/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;

impl Capture {
    fn new(options: OutputCapture) -> io::Result<Capture> {
        Ok(Capture {
            options: Mutex::new(options),
            poller: Poller::new()?,
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

    /// Pipes for the process `name`.
    fn admit(&self, name: &str, streams: &mut Streams) -> io::Result<CaptureId> {
        let process: Arc<str> = name.into();
        // Held until both are in: the thread looks here before it asks what has become readable.
        let mut commands = self.commands();
        let id = CaptureId(commands.admitted);
        commands.admitted += 1;
        for (number, stream) in [(1, OutputStream::Stdout), (2, OutputStream::Stderr)] {
            if streams.0[number].is_some() {
                continue;
            }
            let (reader, writer) = pipe::pair()?;
            let token = 2 * id.0 + number as u64 - 1;
            // Should the second not find room, the first reads the end of its pipe, and is forgotten.
            self.poller.add(&reader, token)?;
            commands.push(Command::Read(
                token,
                Source { id, process: process.clone(), stream, reader, lines: Lines::default() },
            ));
            streams.0[number] = Some(writer);
        }
        Ok(id)
    }

    /// The thread's life: as long as the process.
    fn serve(&self) {
        self.barrier.adopt();
        let mut sources = BTreeMap::new();
        let mut buffer = vec![0; CHUNK];
        while let Ok(tokens) = self.poller.wait() {
            let commands = std::mem::take(&mut self.commands().waiting);
            let mut flushes = Vec::new();
            for command in commands {
                match command {
                    Command::Read(token, source) => drop(sources.insert(token, source)),
                    Command::Flush { mark, whose } => flushes.push((mark, whose)),
                }
            }
            for token in tokens {
                // One piece each, lest one that never pauses keeps the others waiting.
                self.read(&mut sources, token, CHUNK, &mut buffer);
            }
            for (mark, whose) in flushes {
                let tokens: Vec<u64> = sources.keys().copied().collect();
                for token in tokens {
                    // What is there now, and no more: somebody may go on writing for ever.
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

    /// Reads up to `limit` bytes of a source, and forgets it at its end.
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
            self.poller.remove(&source.reader);
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

/// Where the lines of one piece go.
struct Output<'a> {
    barrier: &'a Barrier,
    handler: Option<Handler>,
    process: Arc<str>,
    stream: OutputStream,
    /// What is to be written in one go.
    text: Vec<u8>,
}

impl Output<'_> {
    fn line(&mut self, bytes: &[u8]) {
        match &self.handler {
            Some(handler) => {
                let line = CapturedLine { process: &self.process, stream: self.stream, bytes };
                // The panic hook has said what there is to say.
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
        // That nobody may be reading is no reason to keep those who write waiting.
        let _ = stdio::write_all(number, &self.text);
        self.barrier.handled();
    }
}
