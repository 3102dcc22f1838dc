//! The relay for the `tracing` crate: in a descendant, a subscriber that makes a record of each
//! event; in the relaying process, an event for each record, if no logger of the `log` crate is
//! active there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::log::{Level, LevelFilter};
use ::tracing::dispatcher::{self, Dispatch};
use ::tracing::field::{Field, Visit};
use ::tracing::span::{Attributes, Id, Record};
use ::tracing::{Event, Metadata, Subscriber};

use super::record::{Datum, RelayedRecord};
use super::uplink;

/// Sends the events of this process to the relay as records, if they have this level or a more
/// serious one.
pub(crate) fn install(level: LevelFilter) {
    let uplink = Uplink { level, next: AtomicU64::new(1), spans: Mutex::default() };
    // No code of the program has run yet. If a subscriber has been set nevertheless, it keeps the
    // events.
    let _ = dispatcher::set_global_default(Dispatch::new(uplink));
}

/// The level of this process's own subscriber; `Off` without one.
pub(crate) fn level() -> LevelFilter {
    use ::tracing::level_filters::LevelFilter as Filter;
    match Filter::current() {
        Filter::ERROR => LevelFilter::Error,
        Filter::WARN => LevelFilter::Warn,
        Filter::INFO => LevelFilter::Info,
        Filter::DEBUG => LevelFilter::Debug,
        Filter::TRACE => LevelFilter::Trace,
        _ => LevelFilter::Off,
    }
}

/// Passes a record to this process's subscriber: an event with the target `multiproc::relay` (a
/// target must be known at compile time) and the fields `process`, `pid`, `origin` for the record's
/// own target, `file` and `line`.
pub(crate) fn emit(record: &RelayedRecord) {
    macro_rules! emit {
        ($level:ident) => {
            ::tracing::event!(
                target: "multiproc::relay",
                ::tracing::Level::$level,
                process = record.process(),
                pid = record.pid(),
                origin = record.target(),
                file = record.file(),
                line = record.line(),
                "{}",
                record.text()
            )
        };
    }
    match record.level() {
        Level::Error => emit!(ERROR),
        Level::Warn => emit!(WARN),
        Level::Info => emit!(INFO),
        Level::Debug => emit!(DEBUG),
        Level::Trace => emit!(TRACE),
    }
}

/// The subscriber of a descendant.
struct Uplink {
    level: LevelFilter,
    /// The id of the next span.
    next: AtomicU64,
    spans: Mutex<BTreeMap<u64, Span>>,
}

struct Span {
    /// `name{field=value}`.
    text: Text,
    parent: Option<u64>,
    /// The number of handles to it; each child span counts as one.
    handles: usize,
}

thread_local! {
    /// The spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn innermost() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

impl Uplink {
    fn spans(&self) -> MutexGuard<'_, BTreeMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The texts of a span and its ancestors, the outermost first.
    fn path(&self, innermost: Option<u64>) -> String {
        let spans = self.spans();
        let around = std::iter::successors(innermost.and_then(|id| spans.get(&id)), |span| spans.get(&span.parent?));
        let mut texts: Vec<String> = around.map(|span| span.text.to_string()).collect();
        texts.reverse();
        texts.join(":")
    }
}

impl Subscriber for Uplink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata) <= self.level
    }

    fn max_level_hint(&self) -> Option<::tracing::level_filters::LevelFilter> {
        use ::tracing::level_filters::LevelFilter as Filter;
        Some(match self.level {
            LevelFilter::Off => Filter::OFF,
            LevelFilter::Error => Filter::ERROR,
            LevelFilter::Warn => Filter::WARN,
            LevelFilter::Info => Filter::INFO,
            LevelFilter::Debug => Filter::DEBUG,
            LevelFilter::Trace => Filter::TRACE,
        })
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let parent = match attributes.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if attributes.is_root() => None,
            None => innermost(),
        };
        let mut text = Text { name: attributes.metadata().name(), fields: String::new() };
        attributes.record(&mut text);
        let id = self.next.fetch_add(1, Relaxed);
        let mut spans = self.spans();
        if let Some(parent) = parent.and_then(|parent| spans.get_mut(&parent)) {
            parent.handles += 1;
        }
        spans.insert(id, Span { text, parent, handles: 1 });
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        // Formatted without the lock: the code of the values may log.
        let mut more = Text { name: "", fields: String::new() };
        values.record(&mut more);
        if let Some(span) = self.spans().get_mut(&span.into_u64()) {
            span.text.add(format_args!("{}", more.fields));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Fields { message: String::new(), pairs: Vec::new() };
        event.record(&mut fields);
        let around = match event.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if event.is_root() => None,
            None => innermost(),
        };
        let thread = std::thread::current();
        let mut content = uplink::blank(&thread);
        content.level = level_of(metadata) as u8;
        content.target = metadata.target().into();
        content.module_path = metadata.module_path().map(Into::into);
        content.file = metadata.file().map(Into::into);
        content.line = metadata.line();
        content.message = fields.message.into();
        content.pairs = fields.pairs;
        content.spans = Some(self.path(around));
        uplink::send(&content);
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(at) = entered.iter().rposition(|id| *id == span.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(span) = self.spans().get_mut(&span.into_u64()) {
            span.handles += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut spans = self.spans();
        let mut next = Some(span.into_u64());
        while let Some(id) = next.take() {
            let Some(span) = spans.get_mut(&id) else { break };
            span.handles -= 1;
            if span.handles == 0 {
                // The closed span was a handle to its parent.
                next = span.parent;
                spans.remove(&id);
            }
        }
        !spans.contains_key(&span.into_u64())
    }
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        ::tracing::Level::ERROR => Level::Error,
        ::tracing::Level::WARN => Level::Warn,
        ::tracing::Level::INFO => Level::Info,
        ::tracing::Level::DEBUG => Level::Debug,
        ::tracing::Level::TRACE => Level::Trace,
    }
}

/// A span's name and fields, as they are displayed.
struct Text {
    name: &'static str,
    fields: String,
}

impl Text {
    fn add(&mut self, field: fmt::Arguments<'_>) {
        let gap = if self.fields.is_empty() { "" } else { " " };
        let _ = write!(self.fields, "{gap}{field}");
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fields.as_str() {
            "" => f.write_str(self.name),
            fields => write!(f, "{}{{{fields}}}", self.name),
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(format_args!("{}={value}", field.name()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(format_args!("{}={value:?}", field.name()));
    }
}

/// An event's message and fields.
struct Fields {
    message: String,
    pairs: Vec<(String, Datum)>,
}

impl Fields {
    fn add(&mut self, field: &Field, datum: Datum) {
        match (field.name(), datum) {
            ("message", Datum::Text(text)) => self.message = text,
            (name, datum) => self.pairs.push((name.to_owned(), datum)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Datum::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Datum::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Datum::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Datum::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Datum::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Datum::Text(format!("{value:?}")));
    }
}
