//! Robust words: words of shared memory that say which thread owns something, and that the kernel
//! marks when that thread dies. These are robust futexes, see get_robust_list(2) and
//! Documentation/locking/robust-futexes.rst of the kernel.
//!
//! Each thread has a list of the words that it owns, with its head in the thread's memory and its
//! links in the words' memory, and beside the head one pending word that the thread is about to
//! take or to release. When the thread ends, by whatever means and at whatever instruction, the
//! kernel walks them: in each word that holds the thread's id it replaces the id with
//! [`OWNER_DIED`], and wakes one thread that sleeps on it. So no process has to watch an owner.
//!
//! The C library registers a list for its own mutexes, and a thread can have only one. The list
//! here is a section of that list: it lies between two nodes of this module, which the library
//! takes for mutexes that it isn't concerned with. The owning thread keeps the order of its words
//! in an array of its own; the links in shared memory are for the kernel, and are written here but
//! never read. So whatever other processes write there, this process follows no wild pointer.
//!
//! A word that is owned only for a moment, with no other word taken meanwhile, needn't be on the
//! list: it is enough to [announce](Thread::announce) it.

use std::cell::{Cell, UnsafeCell};
use std::io;
use std::mem::offset_of;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, compiler_fence};

use crate::at_fork::{self, Handlers};

/// The bits of a word that hold the owner's thread id.
pub const OWNER: u32 = 0x3fff_ffff;
/// Set by the kernel when the owner has died.
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Set by a thread before it sleeps on the word, so that it is woken.
pub const WAITERS: u32 = 0x8000_0000;

/// The number of words that a thread may own at a time. The kernel walks at most 2048, and the C
/// library's mutexes count among them.
pub const MOST: usize = 1024;

/// The offset of the word in [`Word`]. Its distance from the link is that of the C library's
/// mutexes, since the kernel knows one distance for all words of a thread.
#[cfg(not(target_env = "musl"))]
const WORD_AT: usize = 0;
#[cfg(target_env = "musl")]
const WORD_AT: usize = 4;
const LINK_AT: usize = 32;

/// The number of bits by which a word is shifted in its [pair](Word::pair).
pub const WORD_SHIFT: u32 = if cfg!(target_endian = "little") { WORD_AT as u32 * 8 } else { 32 - WORD_AT as u32 * 8 };

/// A word in shared memory that a thread can own, with its link in that thread's list.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Word {
    /// The word, and 32 bits beside it.
    pair: AtomicU64,
    /// Padding: the kernel finds the word by its distance from the link. The C library writes into
    /// the word before the link of its neighbour in the list.
    _between: [AtomicU64; LINK_AT / 8 - 1],
    link: AtomicUsize,
}

const _: () = assert!(WORD_AT + 4 <= size_of::<AtomicU64>() && offset_of!(Word, link) == LINK_AT);

impl Word {
    /// The word itself, as the kernel sees it: threads announce it and sleep on it.
    #[inline]
    pub fn word(&self) -> &AtomicU32 {
        // SAFETY: four aligned bytes of the pair, borrowed for as long as the pair, and only used
        // as atomics.
        unsafe { AtomicU32::from_ptr(self.pair.as_ptr().cast::<u32>().add(WORD_AT / 4)) }
    }

    /// The word, shifted by [`WORD_SHIFT`], together with 32 bits that the kernel doesn't touch, so
    /// that both can be changed at once.
    #[inline]
    pub fn pair(&self) -> &AtomicU64 {
        &self.pair
    }
}

/// `struct robust_list_head` of linux/futex.h.
#[repr(C)]
struct Head {
    first: Cell<usize>,
    distance: isize,
    pending: Cell<usize>,
}

/// A node of this module in a thread's list, with links in both directions, as in the C library's
/// mutexes.
#[repr(C)]
struct Node {
    before: Cell<usize>,
    next: Cell<usize>,
}

impl Node {
    const fn new() -> Node {
        Node { before: Cell::new(0), next: Cell::new(0) }
    }

    fn link(&self) -> usize {
        (&raw const self.next) as usize
    }
}

/// The state of this module for one thread.
struct Local {
    /// The value of [`COPIES`] when this was filled in; 0 if it never was.
    copy: Cell<u32>,
    id: Cell<u32>,
    process: Cell<u32>,
    head: Cell<*const Head>,
    first: Node,
    last: Node,
    /// The links of the owned words, the newest last. In the kernel's list the newest comes first.
    owned: UnsafeCell<[usize; MOST]>,
    count: Cell<usize>,
}

thread_local! {
    /// It has no destructor, so it lives as long as the thread.
    static LOCAL: Local = const {
        Local {
            copy: Cell::new(0),
            id: Cell::new(0),
            process: Cell::new(0),
            head: Cell::new(std::ptr::null()),
            first: Node::new(),
            last: Node::new(),
            owned: UnsafeCell::new([0; MOST]),
            count: Cell::new(0),
        }
    };
}

/// Incremented in each fork copy of this process, where a thread's state must be filled in anew.
static COPIES: AtomicU32 = AtomicU32::new(1);

extern "C" fn copied() {
    COPIES.fetch_add(1, Relaxed);
}

/// A number that differs between a process and its fork copies. This holds only if
/// [`Thread::current`] was called before the copy was made.
#[inline]
pub fn copy_number() -> u32 {
    COPIES.load(Relaxed)
}

/// Resets the thread's list in a fork copy that was not made by the C library, where it is still
/// the original's list. `head` is the list head registered there for the calling thread.
///
/// # Safety
/// `head` must be the list head of the C library, or of this module, for the calling thread.
pub(crate) unsafe fn copy_was_made(head: *mut libc::c_void) {
    if !head.is_null() {
        let head = head.cast::<usize>();
        // SAFETY: the caller guarantees it; the link in the other direction is right before the
        // head. The library's fork does the same.
        unsafe {
            head.write(head as usize);
            head.sub(1).write(head as usize);
        }
    }
    copied();
}

/// The calling thread, as an owner of words.
#[derive(Clone, Copy)]
pub struct Thread {
    local: *const Local,
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thread({})", self.id())
    }
}

impl Thread {
    /// The calling thread. `Thread` is not `Send`, so the value stays on it.
    #[inline]
    pub fn current() -> Thread {
        LOCAL.with(|local| {
            if local.copy.get() != COPIES.load(Relaxed) {
                prepare(local);
            }
            Thread { local }
        })
    }

    #[inline]
    fn local(&self) -> &Local {
        // SAFETY: a `Thread` stays on its thread, and the thread-local has no destructor.
        unsafe { &*self.local }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: `prepare` has set the pointer to a head that lives as long as the thread.
        unsafe { &*self.local().head.get() }
    }

    /// The thread's id, as in a word that it owns.
    #[inline]
    pub fn id(&self) -> u32 {
        self.local().id.get()
    }

    /// The id of the thread's process.
    #[inline]
    pub fn process(&self) -> u32 {
        self.local().process.get()
    }

    /// Tells the kernel that this thread is about to take `word`, owns it or is about to release
    /// it. One word at a time, until [`done`](Thread::done). If the thread dies meanwhile with its
    /// id in `word`, the kernel acts as the module's documentation says; if it dies while `word`
    /// holds no id, the kernel wakes one thread that sleeps on the word.
    #[inline]
    pub fn announce(&self, word: &AtomicU32) {
        self.head().pending.set(word.as_ptr() as usize - WORD_AT + LINK_AT);
        compiler_fence(SeqCst);
    }

    /// Ends the announcement.
    #[inline]
    pub fn done(&self) {
        compiler_fence(SeqCst);
        self.head().pending.set(0);
    }

    /// Whether the thread may own another word.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.local().count.get() < MOST
    }

    /// Puts an announced word, which holds this thread's id, on the list.
    ///
    /// # Safety
    /// `word` must stay mapped until it is [taken off](Thread::let_go) or the thread has ended, and
    /// the thread must [have room](Thread::has_room).
    #[inline]
    pub unsafe fn own(&self, word: &Word) {
        let local = self.local();
        let count = local.count.get();
        assert!(count < MOST, "the thread owns too many words");
        word.link.store(local.first.next.get(), Relaxed);
        compiler_fence(SeqCst);
        let link = (&raw const word.link) as usize;
        local.first.next.set(link);
        // SAFETY: the array belongs to this thread, and no reference into it outlives a statement.
        unsafe { (*local.owned.get())[count] = link };
        local.count.set(count + 1);
    }

    /// Takes a word off the list, if it is there. The word should be announced, as it still holds
    /// the thread's id.
    #[inline]
    pub fn let_go(&self, word: &Word) {
        let local = self.local();
        let link = (&raw const word.link) as usize;
        let count = local.count.get();
        // SAFETY: as above.
        let owned = unsafe { &mut *local.owned.get() };
        // It is nearly always the last.
        let Some(place) = owned[..count].iter().rposition(|other| *other == link) else { return };
        let next = if place == 0 { local.last.link() } else { owned[place - 1] };
        if place + 1 == count {
            local.first.next.set(next);
        } else {
            // SAFETY: the next newer word is mapped, as the caller of `own` guaranteed, and its
            // link is an atomic.
            unsafe { AtomicUsize::from_ptr(owned[place + 1] as *mut usize) }.store(next, Relaxed);
        }
        compiler_fence(SeqCst);
        if place + 1 < count {
            owned.copy_within(place + 1..count, place);
        }
        local.count.set(count - 1);
    }

    /// Whether a word is on the list at its address in this process; the same word may be mapped
    /// twice.
    #[inline]
    pub fn owns(&self, word: &Word) -> bool {
        let local = self.local();
        let link = (&raw const word.link) as usize;
        // SAFETY: as above.
        let owned = unsafe { &*local.owned.get() };
        owned[..local.count.get()].iter().rev().any(|other| *other == link)
    }

    /// The number of words that the thread owns.
    pub fn count(&self) -> usize {
        self.local().count.get()
    }
}

/// Finds the thread's list, and inserts the two nodes of this module into it.
#[cold]
fn prepare(local: &Local) {
    static HANDLERS: Handlers = Handlers::new();
    // It fails only for want of memory. A fork copy would then continue with its original's state,
    // and never touch the original's words.
    let _ = HANDLERS.ensure(|| at_fork::register_in_copy(copied));
    local.count.set(0);
    local.id.set(crate::threads::gettid() as u32);
    local.process.set(crate::threads::getpid() as u32);
    let head = find_head().unwrap_or_else(|_| own_head());
    // SAFETY: the list head lives as long as the thread.
    let list = unsafe { &*head };
    local.head.set(head);
    // In a fork copy the links are those of the original.
    local.first.next.set(local.last.link());
    local.last.before.set(local.first.link());
    local.last.next.set(list.first.get());
    local.first.before.set(head as usize);
    compiler_fence(SeqCst);
    let neighbour = (list.first.get() & !1) as *mut usize;
    // SAFETY: the C library's nodes and its list head have the link in the other direction right
    // before this one, and belong to this thread. So does a list head of our own.
    unsafe { *neighbour.sub(1) = local.last.link() };
    list.first.set(local.first.link());
    compiler_fence(SeqCst);
    local.copy.set(COPIES.load(Relaxed));
}

/// The list head that the C library has registered for the calling thread.
fn find_head() -> io::Result<*const Head> {
    #[cfg(target_env = "musl")]
    musl_registers_late();
    let (mut head, mut len) = (std::ptr::null_mut::<Head>(), 0_usize);
    // SAFETY: the kernel writes one pointer and one size; 0 is the calling thread.
    crate::cvt_long(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) })?;
    let distance = WORD_AT as isize - LINK_AT as isize;
    // SAFETY: null, or the thread's list head.
    match unsafe { head.as_ref() } {
        Some(found) if found.distance == distance => Ok(found),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// musl registers a thread's list when the thread first locks a robust mutex.
#[cfg(target_env = "musl")]
fn musl_registers_late() {
    // SAFETY: a mutex of our own, which no other thread sees, initialised before it is used.
    unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut attributes);
        libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        let mut mutex = std::mem::zeroed();
        libc::pthread_mutex_init(&raw mut mutex, &raw const attributes);
        libc::pthread_mutex_lock(&raw mut mutex);
        libc::pthread_mutex_unlock(&raw mut mutex);
        libc::pthread_mutex_destroy(&raw mut mutex);
    }
}

/// A list head of our own, for when the C library has no suitable one. The library's own robust
/// mutexes aren't robust in this thread then, as they weren't before.
fn own_head() -> *const Head {
    #[repr(C)]
    struct WithBefore {
        before: Cell<usize>,
        head: Head,
    }
    thread_local! {
        static OWN: WithBefore = const {
            WithBefore {
                before: Cell::new(0),
                head: Head {
                    first: Cell::new(0),
                    distance: WORD_AT as isize - LINK_AT as isize,
                    pending: Cell::new(0),
                },
            }
        };
    }
    OWN.with(|own| {
        let head = &raw const own.head;
        own.before.set(head as usize);
        own.head.first.set(head as usize);
        // SAFETY: the head is well-formed, and lives as long as the thread.
        unsafe { libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>()) };
        head
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word() -> &'static Word {
        Box::leak(Box::new(Word {
            pair: AtomicU64::new(0),
            _between: [const { AtomicU64::new(0) }; _],
            link: AtomicUsize::new(0),
        }))
    }

    fn take(thread: Thread, word: &'static Word) {
        thread.announce(word.word());
        word.word().store(thread.id(), SeqCst);
        // SAFETY: it is leaked.
        unsafe { thread.own(word) };
        thread.done();
    }

    fn give_back(thread: Thread, word: &'static Word) {
        thread.announce(word.word());
        thread.let_go(word);
        word.word().store(0, SeqCst);
        thread.done();
    }

    /// Waits until the kernel has marked the word, which it may do only after `join` has returned.
    fn died(word: &Word) -> bool {
        for _ in 0..10_000_000 {
            if word.word().load(SeqCst) & OWNER_DIED != 0 {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn marks_words_of_ended_thread() {
        let words: Vec<&'static Word> = (0..6).map(|_| word()).collect();
        let announced = word();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let thread = Thread::current();
                words.iter().for_each(|word| take(thread, word));
                // The newest, the oldest, and one from the middle.
                for index in [5, 0, 2] {
                    give_back(thread, words[index]);
                }
                // A word that another thread owns is left alone.
                words[3].word().store(thread.id() + 1, SeqCst);
                assert_eq!(thread.count(), 3);
                thread.announce(announced.word());
                announced.word().store(thread.id() | WAITERS, SeqCst);
            });
        });
        assert!(died(words[1]) && died(words[4]) && died(announced));
        assert_eq!(announced.word().load(SeqCst), OWNER_DIED | WAITERS);
        for index in [0, 2, 5] {
            assert_eq!(words[index].word().load(SeqCst), 0);
        }
        assert_eq!(words[3].word().load(SeqCst) & OWNER_DIED, 0);
    }

    #[test]
    fn libc_robust_mutexes() {
        let mutexes = std::thread::spawn(|| {
            let make = || {
                // SAFETY: initialised in place, and leaked.
                unsafe {
                    let mutex: *mut libc::pthread_mutex_t = Box::leak(Box::new(std::mem::zeroed()));
                    let mut attributes = std::mem::zeroed();
                    libc::pthread_mutexattr_init(&raw mut attributes);
                    libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
                    libc::pthread_mutex_init(mutex, &raw const attributes);
                    mutex as usize
                }
            };
            let lock = |mutex: usize| {
                // SAFETY: made above.
                assert_eq!(unsafe { libc::pthread_mutex_lock(mutex as *mut _) }, 0);
            };
            let unlock = |mutex: usize| {
                // SAFETY: made above.
                assert_eq!(unsafe { libc::pthread_mutex_unlock(mutex as *mut _) }, 0);
            };
            let (a, b, c, d) = (make(), make(), make(), make());
            lock(a);
            lock(b);
            let thread = Thread::current();
            let (one, two) = (word(), word());
            take(thread, one);
            lock(c);
            take(thread, two);
            unlock(a);
            give_back(thread, one);
            lock(d);
            unlock(c);
            give_back(thread, two);
            lock(a);
            let kept = word();
            take(thread, kept);
            unlock(d);
            ([a, b, c, d], kept)
        });
        let ([a, b, c, d], kept) = mutexes.join().unwrap();
        assert!(died(kept));
        for (mutex, result) in [(a, libc::EOWNERDEAD), (b, libc::EOWNERDEAD), (c, 0), (d, 0)] {
            // SAFETY: made above.
            assert_eq!(unsafe { libc::pthread_mutex_lock(mutex as *mut _) }, result);
        }
    }

    #[test]
    fn capacity() {
        std::thread::spawn(|| {
            let thread = Thread::current();
            let words: Vec<_> = (0..MOST).map(|_| word()).collect();
            words.iter().for_each(|word| take(thread, word));
            assert!(!thread.has_room());
            words.iter().rev().for_each(|word| give_back(thread, word));
            assert!(thread.has_room());
            words
        })
        .join()
        .unwrap();
    }
}
