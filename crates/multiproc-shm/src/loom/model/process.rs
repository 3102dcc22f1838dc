//! The processes of a model, and their deaths.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ::loom::thread::JoinHandle;

use super::futex::{self, Futex};
use super::robust::{OWNER, OWNER_DIED, WAITERS, Word};

/// What the kernel and the C library know of one process.
pub(super) struct Local {
    pub(super) id: Cell<u32>,
    /// The word that it has announced.
    pub(super) pending: Cell<Option<*const dyn Futex>>,
    /// The words on its robust list.
    pub(super) owned: RefCell<Vec<*const Word>>,
    /// The steps until it is killed, if it is to be.
    left: Cell<Option<usize>>,
    dead: Cell<bool>,
    /// See [`futex::be_impatient_if`].
    pub(super) impatient: Cell<bool>,
}

::loom::thread_local! {
    static LOCAL: Local = Local {
        // The model's main thread.
        id: Cell::new(1),
        pending: Cell::new(None),
        owned: RefCell::default(),
        left: Cell::new(None),
        dead: Cell::new(false),
        impatient: Cell::new(false),
    };
}

::loom::lazy_static! {
    /// See [`was_overtaken`]. Of `std`, as the model's own bookkeeping is no step of any process.
    static ref OVERTAKEN: AtomicBool = AtomicBool::new(false);
}

/// Whether, when a process died that had announced a word, another one was the owner of that word:
/// then the kernel has woken no waiter, not knowing whether the dead process should have.
pub(crate) fn was_overtaken() -> bool {
    OVERTAKEN.load(Relaxed)
}

pub(super) fn local<R>(action: impl FnOnce(&Local) -> R) -> R {
    LOCAL.with(|local| action(local))
}

/// The payload with which a killed process unwinds.
struct Killed;

/// Must be called before each step. Kills the process if its time has come: it unwinds, and what
/// its destructors do has no effect, for which this returns false.
pub(super) fn step() -> bool {
    let killed = local(|local| {
        if local.dead.get() {
            return None;
        }
        let left = local.left.get();
        local.dead.set(left == Some(0));
        local.left.set(left.map(|left| left.saturating_sub(1)));
        Some(left == Some(0))
    });
    match killed {
        None => false,
        Some(false) => true,
        Some(true) => resume_unwind(Box::new(Killed)),
    }
}

/// When a process of a model is killed.
#[derive(Clone)]
pub(crate) struct Kill {
    /// Before which step.
    step: Option<usize>,
    /// Whether any execution has got that far.
    happened: Arc<AtomicBool>,
}

impl Kill {
    pub(crate) fn never() -> Kill {
        Kill { step: None, happened: Arc::default() }
    }

    /// Calls `model` for a death before the first step, before the second, and so on, until the
    /// process ends before it is killed in all executions.
    pub(crate) fn at_each_step(model: impl Fn(Kill)) {
        for step in 0.. {
            let kill = Kill { step: Some(step), happened: Arc::default() };
            model(kill.clone());
            if !kill.happened.load(Relaxed) {
                assert!(step > 1, "the process never had a chance to die");
                return;
            }
        }
    }
}

/// Starts a process. The result is that of `main`; `None` if it was killed.
pub(crate) fn start<R: 'static>(id: u32, kill: &Kill, main: impl FnOnce() -> R + 'static) -> JoinHandle<Option<R>> {
    let kill = kill.clone();
    ::loom::thread::spawn(move || {
        local(|local| {
            local.id.set(id);
            local.left.set(kill.step);
        });
        let result = match catch_unwind(AssertUnwindSafe(main)) {
            Ok(result) => Some(result),
            Err(payload) if payload.is::<Killed>() => {
                kill.happened.store(true, Relaxed);
                None
            }
            Err(payload) => resume_unwind(payload),
        };
        end();
        result
    })
}

/// What the kernel does when a thread has ended: `exit_robust_list` in kernel/futex/core.c.
fn end() {
    let (id, pending, owned) =
        local(|local| (local.id.get(), local.pending.take(), std::mem::take(&mut *local.owned.borrow_mut())));
    // SAFETY: a model keeps the memory with the words until all its threads have ended.
    let pending = pending.map(|word| unsafe { &*word });
    for word in owned.into_iter().rev() {
        // SAFETY: as above.
        let word = unsafe { &*word }.word();
        if pending.is_none_or(|pending| pending.address() != word.address()) {
            handle_death(word, id, false);
        }
    }
    if let Some(word) = pending {
        handle_death(word, id, true);
    }
}

/// `handle_futex_death` in kernel/futex/core.c.
fn handle_death(word: &dyn Futex, id: u32, is_pending: bool) {
    loop {
        let found = word.value();
        if is_pending && found & OWNER == 0 {
            futex::wake_in_kernel(word, 1);
            return;
        }
        if found & OWNER != id {
            OVERTAKEN.fetch_or(is_pending, Relaxed);
            return;
        }
        if word.replace(found, OWNER_DIED | found & WAITERS) {
            if found & WAITERS != 0 {
                futex::wake_in_kernel(word, 1);
            }
            return;
        }
    }
}
