//! [`RelayedRecord`]: a log record received from another process.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::log::kv::{self, Key, Source, Value, VisitSource, VisitValue};
use ::log::{Level, Record};
use serde::{Deserialize, Serialize};

use super::{TARGET, elsewhere, failure, relay};

/// A log record that was received from a descendant of this process. See
/// [`LogRelay::handler`](crate::log::LogRelay::handler).
///
/// Its `Display` is `[INFO/Process-1] message`.
#[derive(Debug, Clone)]
pub struct RelayedRecord {
    /// The level at which it was logged. For the library's own records that is the level for
    /// `log_to_stderr`.
    original: Level,
    /// The level for other loggers.
    level: Level,
    content: Content<'static>,
}

/// The part of a record that is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Content<'a> {
    pub(crate) process: Cow<'a, str>,
    pub(crate) pid: i32,
    pub(crate) thread: Option<Cow<'a, str>>,
    /// When it was logged, since 1970.
    pub(crate) time: Duration,
    pub(crate) level: u8,
    pub(crate) target: Cow<'a, str>,
    pub(crate) module_path: Option<Cow<'a, str>>,
    pub(crate) file: Option<Cow<'a, str>>,
    pub(crate) line: Option<u32>,
    pub(crate) message: Cow<'a, str>,
    pub(crate) pairs: Vec<(String, Datum)>,
    /// For an event of `tracing`: the spans in which it occurred, the outermost first.
    pub(crate) spans: Option<String>,
}

/// The value of a key, in the forms that can be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Datum {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl RelayedRecord {
    /// Returns None if there is no such level.
    pub(crate) fn new(content: Content<'static>) -> Option<RelayedRecord> {
        let original = Level::iter().find(|level| *level as usize == usize::from(content.level))?;
        let level = if content.target == TARGET { elsewhere(original) } else { original };
        Some(RelayedRecord { original, level, content })
    }

    /// Returns the name of the process that logged it.
    pub fn process(&self) -> &str {
        &self.content.process
    }

    /// Returns the id of that process. It may have ended since.
    pub fn pid(&self) -> i32 {
        self.content.pid
    }

    /// Returns the name of the thread that logged it, if it has one.
    pub fn thread(&self) -> Option<&str> {
        self.content.thread.as_deref()
    }

    /// When it was logged.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.content.time).unwrap_or(UNIX_EPOCH)
    }

    /// Its level. The start and end of a process, and waiting for one, are `Debug` or `Trace`; a
    /// panic, and a death by a signal or for want of memory, are `Error`.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The level at which `log_to_stderr` prints it.
    pub(crate) fn original_level(&self) -> Level {
        self.original
    }

    /// Whether its process has printed the same on its stderr.
    pub(crate) fn is_printed(&self) -> bool {
        failure::is_panic(&self.content)
    }

    /// Its target: the module, unless the program sets another. The library's own records have
    /// `multiproc`.
    pub fn target(&self) -> &str {
        &self.content.target
    }

    /// Returns the module that logged it.
    pub fn module_path(&self) -> Option<&str> {
        self.content.module_path.as_deref()
    }

    /// Returns the source file that logged it.
    pub fn file(&self) -> Option<&str> {
        self.content.file.as_deref()
    }

    /// Returns the line in that source file.
    pub fn line(&self) -> Option<u32> {
        self.content.line
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.content.message
    }

    /// Its key-values, or the fields of the `tracing` event. Values other than numbers, booleans
    /// and text are converted to the text that they are printed as.
    pub fn key_values(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.content.pairs.iter().map(|(key, datum)| (key.as_str(), datum.as_value()))
    }

    /// Returns the spans in which it occurred, `outer{id=1}:inner`, if it was an event of `tracing`
    /// inside any.
    pub fn spans(&self) -> Option<&str> {
        self.content.spans.as_deref().filter(|spans| !spans.is_empty())
    }

    /// Passes it to this process's logger, as the relay does without a handler: prefixed with its
    /// process, `[Process-1 4711] message`.
    pub fn log(&self) {
        relay::log_here(self, true);
    }

    /// The message for a logger that shows no fields.
    pub(crate) fn text(&self) -> impl fmt::Display {
        Text(self)
    }

    /// Passes it to the program's logger of the `log` crate.
    pub(crate) fn log_by_facade(&self, prefix: bool) {
        let mut builder = Record::builder();
        let pairs = Pairs(self);
        builder
            .level(self.level)
            .target(self.target())
            .module_path(self.module_path())
            .file(self.file())
            .line(self.line())
            .key_values(&pairs);
        let (process, pid, text) = (self.process(), self.pid(), self.text());
        match prefix {
            true => ::log::logger().log(&builder.args(format_args!("[{process} {pid}] {text}")).build()),
            false => ::log::logger().log(&builder.args(format_args!("{text}")).build()),
        }
    }
}

impl fmt::Display for RelayedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}/{}] {}", self.level, self.process(), self.text())
    }
}

/// The message of a record; for an event of `tracing`, with its spans and fields.
struct Text<'a>(&'a RelayedRecord);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text(record) = self;
        if record.content.spans.is_none() {
            return f.write_str(record.message());
        }
        let mut parts = Vec::new();
        parts.extend((!record.message().is_empty()).then(|| record.message().to_owned()));
        parts.extend(record.key_values().map(|(key, value)| format!("{key}={value}")));
        if let Some(spans) = record.spans() {
            write!(f, "{spans}: ")?;
        }
        f.write_str(&parts.join(" "))
    }
}

/// The key-values of a record, preceded by those for its process.
struct Pairs<'a>(&'a RelayedRecord);

impl Source for Pairs<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from_str("process"), Value::from(self.0.process()))?;
        visitor.visit_pair(Key::from_str("pid"), Value::from(self.0.pid()))?;
        self.0.key_values().try_for_each(|(key, value)| visitor.visit_pair(Key::from_str(key), value))
    }
}

impl Datum {
    fn as_value(&self) -> Value<'_> {
        match self {
            Datum::Null => Value::null(),
            Datum::Bool(value) => Value::from(*value),
            Datum::Signed(value) => Value::from(*value),
            Datum::Unsigned(value) => Value::from(*value),
            Datum::Float(value) => Value::from(*value),
            Datum::Text(value) => Value::from(value.as_str()),
        }
    }
}

/// The key-values of a record of this process.
pub(crate) fn pairs_of(record: &Record<'_>) -> Vec<(String, Datum)> {
    struct Collect(Vec<(String, Datum)>);

    impl<'kvs> VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            let mut datum = Datum::Null;
            value.visit(&mut datum)?;
            self.0.push((key.as_str().to_owned(), datum));
            Ok(())
        }
    }

    let mut collect = Collect(Vec::new());
    // If a source fails, the pairs visited so far are kept.
    let _ = record.key_values().visit(&mut collect);
    collect.0
}

impl<'v> VisitValue<'v> for &mut Datum {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        **self = Datum::Text(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        **self = Datum::Null;
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        **self = Datum::Bool(value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        **self = Datum::Signed(value);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        **self = Datum::Unsigned(value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        **self = Datum::Float(value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        **self = Datum::Text(value.to_owned());
        Ok(())
    }
}
