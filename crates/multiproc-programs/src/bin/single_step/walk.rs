//! Steps one process by ptrace(2) through a call, instruction by instruction, and kills it on the
//! way.
//!
//! A scenario is a function that creates its objects, lets [`Run::victim`] make the call in a copy
//! of this process, and afterwards checks what is left of the objects. It is run repeatedly, each
//! time with another moment at which the victim is killed, and once without a kill.
//!
//! A moment is the end of an instruction, or the sleep of a system call; in all other respects the
//! kernel completes a system call or doesn't begin it.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiproc_programs::{Random, say};

/// A run that takes longer hangs.
const LONGEST: libc::c_uint = 60;

/// The minimum number of moments that are tried, however long that takes.
const FEWEST: u32 = 4;

/// The minimum for a call with more than [`LONG`] instructions, which takes seconds.
const FEWEST_OF_LONG: u32 = 2;
const LONG: u64 = 200_000;

/// After how many unsuccessful polls of the victim it is checked whether it sleeps.
const LOOKS: u32 = 20;

/// Creates the objects, lets the victim make the call, and returns the outcome.
pub(crate) type Scenario = fn(&mut Run) -> &'static str;

/// Which moments are tried.
pub(crate) enum Moments {
    All,
    /// Some of them, for that long; at least [`FEWEST`] or [`FEWEST_OF_LONG`].
    Some(Duration, Random),
}

/// The moment that is being tried.
static MOMENT: AtomicU64 = AtomicU64::new(0);

/// Kills the victim at those moments, and prints the outcomes.
pub(crate) fn walk(scenario: Scenario, moments: Moments) {
    has_an_end();
    stays_on_one_processor();
    let mut outcomes = BTreeMap::new();
    let mut run = |moment| {
        MOMENT.store(moment, Relaxed);
        // SAFETY: no memory is touched.
        unsafe { libc::alarm(LONGEST) };
        let mut run = Run { moment, passed: 0, killed: false, helpers: Vec::new() };
        let outcome = scenario(&mut run);
        run.settle();
        assert!(moment != 0 || !run.killed);
        *outcomes.entry(outcome).or_insert(0) += 1;
        run.passed
    };
    let all = run(0);
    let begun = Instant::now();
    let runs = match moments {
        // The number of moments depends a little on addresses, and on which process is first.
        Moments::All => (1..all + 20).map(&mut run).count(),
        Moments::Some(time, mut random) => {
            let fewest = if all > LONG { FEWEST_OF_LONG } else { FEWEST };
            let more = |count: &u32| *count < fewest || begun.elapsed() < time;
            (0..).take_while(more).map(|_| run(1 + random.below(all))).count()
        }
    };
    say(&format!("instructions {all}\nruns {runs}"));
    for (outcome, count) in outcomes {
        say(&format!("{outcome} {count}"));
    }
}

/// Installs a handler that ends this process when a run hangs, and prints where.
fn has_an_end() {
    extern "C" fn on_alarm(_: libc::c_int) {
        let mut text = *b"it hangs; the victim was killed at moment                     \n";
        let mut moment = MOMENT.load(Relaxed);
        let mut at = text.len() - 2;
        loop {
            text[at] = b'0' + (moment % 10) as u8;
            moment /= 10;
            at -= 1;
            if moment == 0 {
                break;
            }
        }
        // SAFETY: the bytes are ours, and both functions may be called in a signal handler.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(3);
        }
    }
    // SAFETY: the handler does only what a handler may. The structure is filled in before it is
    // used.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Pins this process to one processor: switching to the victim and back then takes a twentieth of
/// the time, and a process that waits for another doesn't spin.
fn stays_on_one_processor() {
    // SAFETY: the set is filled in before it is used.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}

/// Makes the call that it is given, under the control of the tracer.
pub(crate) type Step<'a> = &'a dyn Fn(&mut dyn FnMut());

/// One run of a scenario.
pub(crate) struct Run {
    /// The moment of the call at which the victim is killed; 0 for no kill.
    moment: u64,
    /// How many moments have passed.
    passed: u64,
    killed: bool,
    helpers: Vec<i32>,
}

impl Run {
    /// Runs `body` in a copy of this process; `body` passes the call to be stepped to its argument.
    /// Calls `ready` in this process when the victim has reached the call, and `asleep` when it
    /// sleeps in the call, which should wake it. Returns when the victim is gone, with whether it
    /// was killed.
    pub(crate) fn victim(
        &mut self,
        body: impl FnOnce(Step<'_>),
        ready: impl FnOnce(&mut Run),
        asleep: impl FnOnce(),
    ) -> bool {
        let victim = copy(|| {
            // SAFETY: no memory is touched.
            assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
            body(&|call| {
                stop();
                call();
                stop();
            });
        });
        assert_eq!(wait_for(victim, 0).map(stop_signal), Some(Some(libc::SIGSTOP)), "the call was not reached");
        ready(self);
        let mut asleep = Some(asleep);
        loop {
            resume(victim, libc::PTRACE_SINGLESTEP);
            let mut looks = 0;
            let status = loop {
                if let Some(status) = wait_for(victim, libc::WNOHANG) {
                    break status;
                }
                looks += 1;
                if looks % LOOKS == 0 && asleep.is_some() && sleeps(victim) {
                    if self.passes() {
                        break self.kill(victim);
                    }
                    asleep.take().expect("`asleep` was checked above")();
                }
                std::thread::yield_now();
            };
            match stop_signal(status) {
                None => break,
                Some(libc::SIGTRAP) if self.passes() => {
                    self.kill(victim);
                    break;
                }
                Some(libc::SIGTRAP) => {}
                Some(libc::SIGSTOP) => {
                    resume(victim, libc::PTRACE_CONT);
                    let status = wait_for(victim, 0).expect("wait_for blocks without WNOHANG");
                    assert_eq!(status, 0, "the victim failed without being killed");
                    break;
                }
                Some(other) => panic!("signal {other} in the victim"),
            }
        }
        self.killed
    }

    /// Counts one more moment. Returns whether it was the victim's last.
    fn passes(&mut self) -> bool {
        self.passed += 1;
        self.passed == self.moment
    }

    fn kill(&mut self, victim: i32) -> libc::c_int {
        self.killed = true;
        // SAFETY: it is a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
        let status = wait_for(victim, 0).expect("wait_for blocks without WNOHANG");
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL, "{status:x}");
        status
    }

    /// Runs `body` in another copy of this process, which must end successfully whatever happens to
    /// the victim. Returns when it sleeps in a system call.
    pub(crate) fn beside(&mut self, body: impl FnOnce()) {
        let helper = copy(body);
        self.helpers.push(helper);
        while !sleeps(helper) {
            std::thread::yield_now();
        }
    }

    /// As [`beside`](Run::beside), but returns when it polls: when it is past the waits that have a
    /// timeout.
    pub(crate) fn beside_at_the_door(&mut self, body: impl FnOnce()) {
        self.beside(body);
        while !self.polls() {
            std::thread::yield_now();
        }
    }

    /// Returns whether the last process beside the victim sleeps in poll(2).
    pub(crate) fn polls(&self) -> bool {
        let helper = self.helpers.last().expect("no process runs beside the victim");
        let call = std::fs::read_to_string(format!("/proc/{helper}/syscall")).unwrap_or_default();
        let number = call.split(' ').next().and_then(|number| number.parse().ok());
        number == Some(libc::SYS_ppoll) || cfg!(target_arch = "x86_64") && number == Some(7)
    }

    /// Returns whether the last process beside the victim has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let helper = self.helpers.last().expect("no process runs beside the victim");
        let stat = std::fs::read_to_string(format!("/proc/{helper}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    /// As [`settle`](Run::settle), when each of them can get what it waits for.
    pub(crate) fn settle_soon(&mut self) {
        end_soon(std::mem::take(&mut self.helpers));
    }

    /// Waits for all processes beside the victim.
    pub(crate) fn settle(&mut self) {
        for helper in self.helpers.drain(..) {
            assert_eq!(wait_for(helper, 0), Some(0), "a process beside the victim failed");
        }
    }
}

/// Runs `body` in a copy of this process, which dies with it.
pub(crate) fn copy(body: impl FnOnce()) -> i32 {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no memory is touched. The alarm is not for the copy.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::alarm(0);
            }
            let result = catch_unwind(AssertUnwindSafe(body));
            // SAFETY: it ends the copy, without running the original's exit handlers.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        -1 => panic!("{}", io::Error::last_os_error()),
        pid => pid,
    }
}

/// Stops this process until the tracer resumes it.
fn stop() {
    // SAFETY: no memory is touched.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Returns the change of state of a child, as waitpid(2) does. None if there is none, and `flags`
/// has WNOHANG.
pub(crate) fn wait_for(pid: i32, flags: libc::c_int) -> Option<libc::c_int> {
    let mut status = 0;
    // SAFETY: the status is written to a local variable.
    let result = unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) };
    assert!(result == pid || result == 0, "{}", io::Error::last_os_error());
    (result == pid).then_some(status)
}

/// Waits for copies that can get what they wait for, and must end successfully. They recheck by
/// themselves after a second, so they must end before if they are woken.
pub(crate) fn end_soon(mut pids: Vec<i32>) {
    /// The most that is counted of an interval, as the whole machine may have stood still.
    const MOMENT: Duration = Duration::from_millis(20);
    let (mut looked, mut counted) = (Instant::now(), Duration::ZERO);
    loop {
        pids.retain(|pid| match wait_for(*pid, libc::WNOHANG) {
            Some(status) => {
                assert_eq!(status, 0, "a waiting process failed");
                false
            }
            None => true,
        });
        if pids.is_empty() {
            return;
        }
        assert!(counted < Duration::from_millis(900), "a waiting process was not woken");
        match counted.as_millis() {
            0 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
        counted += looked.elapsed().min(MOMENT);
        looked = Instant::now();
    }
}

/// The signal by which it has stopped; None if it has ended.
fn stop_signal(status: libc::c_int) -> Option<libc::c_int> {
    libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status))
}

fn resume(pid: i32, request: libc::c_uint) {
    // SAFETY: it is a stopped tracee of ours.
    let result = unsafe { libc::ptrace(request, pid, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Returns whether it sleeps in a system call.
pub(crate) fn sleeps(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
}
