//! Panics in a child: what the child prints, and what it reports to its parent.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::spec::report::{Failure, Report};
use crate::spec::status::Panic;

thread_local! {
    /// The last panic that the hook has seen in this thread.
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Installs a panic hook in this process, the child `name`, that prints `Process NAME:`, the
/// message, the location and a backtrace (none with `RUST_BACKTRACE=0`).
///
/// In a program built with `panic = "abort"`, a panic can't be caught. There the hook itself
/// reports a panic of the target on `socket`, and ends the process with code 1, as in other
/// programs.
pub(crate) fn install(name: &str, socket: &OwnedFd) {
    let name = name.to_owned();
    let target_thread = thread::current().id();
    let pid = multiproc_os::threads::getpid();
    let socket = if cfg!(panic = "abort") { socket.try_clone().ok() } else { None };
    std::panic::set_hook(Box::new(move |info| {
        let panic =
            Panic { message: message(info.payload()), location: info.location().map(|location| location.to_string()) };
        let is_target = thread::current().id() == target_thread;
        print(&name, is_target, &panic);
        crate::log::failure::panicked(&panic, info.location());
        if let Some(socket) = &socket
            && is_target
            && pid == multiproc_os::threads::getpid()
        {
            Report::Failed(Failure::Panicked(panic)).send(socket.as_fd());
            crate::runtime::at_exit::run();
            super::run_child::leave_with(1);
        }
        LAST.with_borrow_mut(|last| *last = Some(panic));
    }));
}

fn print(name: &str, is_target: bool, panic: &Panic) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or(if is_target { "main" } else { "<unnamed>" });
    let location = panic.location.as_deref().unwrap_or("an unknown location");
    let mut text = format!("Process {name}:\nthread '{thread}' panicked at {location}:\n{}\n", panic.message);
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value != "0") {
        text.push_str(&backtrace());
    }
    multiproc_os::stdio::tell(&text);
}

/// Returns the frames between the panic and the call of the target, like the standard library's
/// short backtraces.
fn backtrace() -> String {
    let whole = Backtrace::force_capture().to_string();
    let mut frames: Vec<Vec<&str>> = Vec::new();
    for line in whole.lines() {
        let is_new = line.trim_start().split(':').next().is_some_and(|number| number.parse::<u32>().is_ok());
        match frames.last_mut() {
            Some(frame) if !is_new => frame.push(line),
            _ => frames.push(vec![line]),
        }
    }
    let is = |frame: &[&str], marks: &[&str]| marks.iter().any(|mark| frame[0].contains(mark));
    // The frames before are the panic machinery, those from the call of the target on are this
    // library's.
    let begin = frames.iter().position(|frame| is(frame, &["rust_begin_unwind", "begin_panic"])).map_or(0, |at| at + 1);
    let begin = begin + frames[begin..].iter().take_while(|frame| is(frame, &["core::panicking::"])).count();
    let target = ["multiproc::process::run::", "multiproc::spec::target::", "multiproc::runtime::at_exit::"];
    let end = frames[begin..].iter().position(|frame| is(frame, &target)).map_or(frames.len(), |at| begin + at);
    let shown = match frames.iter().any(|frame| is(frame, &["<unknown>"])) {
        false if begin < end => &frames[begin..end],
        // The target has been inlined into its caller.
        false => &frames[begin..],
        true => return "stack backtrace: none, this program has no symbols\n".into(),
    };
    let mut text = String::from("stack backtrace:\n");
    for line in shown.iter().flatten() {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Calls `function`; a panic in it becomes the error.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(function)).map_err(|payload| {
        let panic = Panic { message: message(&*payload), location: None };
        // Leaked, since dropping a payload may panic.
        std::mem::forget(payload);
        // If the target has installed its own hook, the panic that this module's hook has seen last
        // may be another one.
        let seen = LAST.take().filter(|seen| seen.message == panic.message);
        seen.unwrap_or(panic)
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "Box<dyn Any>".to_owned(),
    }
}
