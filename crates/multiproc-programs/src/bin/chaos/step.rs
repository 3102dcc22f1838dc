//! Steps through a start with ptrace(2): in each run the victim is killed at the next of its system
//! calls.
//!
//! The program and all processes that come from it are traced (`PTRACE_O_TRACECLONE` and similar
//! options). They run freely, except for the victim, which stops at the beginning and at the end of
//! each system call, and inside of those that create a process. What a process does between two
//! system calls is invisible to others, except in shared memory; so the only other moments at which
//! a kill could matter are inside a system call, and the kernel completes those or doesn't begin
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use multiproc_programs::say;

use super::family::{self, Event};
use super::subject::MARK;

/// The part that a process has in the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The program.
    Parent,
    /// The server that creates its processes.
    Server,
    /// The process that it starts.
    Child,
    /// Any other process, created earlier or later.
    Bystander,
}

/// Kills the victim at each of its moments. Prints the number of moments, and how often each
/// outcome occurred.
pub(crate) fn walk(method: &str, victim: &str, state: &str) {
    let victim = match victim {
        "parent" => Role::Parent,
        "server" => Role::Server,
        "child" => Role::Child,
        other => panic!("no victim {other}"),
    };
    family::adopt_orphans();
    let mut outcomes = BTreeMap::new();
    for moment in 1.. {
        let (killed, outcome) = run(method, victim, state, moment);
        if !killed {
            say(&format!("moments {}", moment - 1));
            break;
        }
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    family::no_files_are_left();
    for (outcome, count) in outcomes {
        say(&format!("{outcome} {count}"));
    }
}

/// Runs the program once. Returns whether the victim reached the moment and was killed, and what
/// the program printed. Returns when no process of it is left.
#[expect(clippy::zombie_processes, reason = "`next_event` waits for it, and for all others")]
fn run(method: &str, victim: Role, state: &str, moment: u32) -> (bool, String) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["subject", method, state]).env("TMPDIR", family::temporary_directory());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: ptrace(2) is only a system call.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    family::begin();
    let mut program = command.spawn().unwrap();
    let parent = program.id() as i32;
    let mut tracer = Tracer {
        parent,
        has_server: method == "forkserver",
        victim,
        left: moment,
        armed: false,
        marks: 0,
        is_set_up: false,
        roles: BTreeMap::from([(parent, Role::Parent)]),
        waiting: BTreeSet::new(),
        held: None,
    };
    let mut status = None;
    while let Some(event) = family::next_event() {
        if libc::WIFSTOPPED(event.status) {
            tracer.stopped(event);
        } else {
            tracer.ended(event.pid);
            if event.pid == parent {
                status = Some(event.status);
            }
        }
    }
    let killed = tracer.left == 0;
    let expected = if killed && victim == Role::Parent { libc::SIGKILL } else { 0 };
    let mut outcome = String::new();
    // All processes that could write to it have ended.
    program.stdout.take().unwrap().read_to_string(&mut outcome).unwrap();
    assert_eq!(status, Some(expected), "{method} {victim:?} {state}, killed at moment {moment}: {outcome}");
    let outcome = outcome.trim().to_owned();
    (killed, if outcome.is_empty() { "nothing".into() } else { outcome })
}

struct Tracer {
    parent: i32,
    /// Whether a server creates the children.
    has_server: bool,
    victim: Role,
    /// How many moments the victim has left.
    left: u32,
    /// Whether this is a part of the run in which the victim's moments count.
    armed: bool,
    /// How many times the parent has marked the beginning of a part.
    marks: u32,
    /// Whether the ptrace options are set.
    is_set_up: bool,
    roles: BTreeMap<i32, Role>,
    /// Processes that have stopped for the first time before the kernel reported their creator, so
    /// that their roles aren't known yet.
    waiting: BTreeSet<i32>,
    /// The child, held back until its server has gone through all of its moments, because a run is
    /// over once the child has ended.
    held: Option<i32>,
}

impl Tracer {
    fn stopped(&mut self, Event { pid, status }: Event) {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        match (signal, event) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK) => {
                let made = self.event_message(pid);
                self.is_made(pid, made);
                self.moment(pid);
            }
            (libc::SIGTRAP, 0) if pid == self.parent && !self.is_set_up => {
                // The first stop of all: the program has been executed.
                self.is_set_up = true;
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACEEXEC
                    | libc::PTRACE_O_EXITKILL;
                // SAFETY: the process is a stopped tracee of ours.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options as usize) };
                self.resume(pid, 0);
            }
            (libc::SIGSTOP, 0) if !self.roles.contains_key(&pid) => {
                self.waiting.insert(pid);
            }
            (MARK, 0) if pid == self.parent => {
                self.marks += 1;
                // The last part is the parent's own end.
                self.armed = self.marks == 1 || (self.marks == 3 && self.victim == Role::Parent);
                self.resume(pid, 0);
            }
            (SYSTEM_CALL, _) => {
                // The server has finished its part when it waits for the next request.
                if self.held.is_some() && pid != self.parent && begins_system_call(pid, libc::SYS_recvfrom) {
                    self.release();
                }
                self.moment(pid);
            }
            (libc::SIGTRAP, _) => self.moment(pid),
            (signal, _) => self.resume(pid, signal),
        }
    }

    /// Assigns a role to a new process.
    fn is_made(&mut self, maker: i32, made: i32) {
        let role = match self.roles.get(&maker) {
            Some(Role::Parent) if self.has_server => Role::Server,
            Some(Role::Parent | Role::Server) if self.armed => Role::Child,
            _ => Role::Bystander,
        };
        // The first such process after the beginning has the role.
        let taken = self.roles.values().any(|other| *other == role);
        self.roles.insert(made, if taken { Role::Bystander } else { role });
        // Its first stop is the one at its creation.
        if self.waiting.remove(&made) || family::stops(made) {
            if self.victim == Role::Server && self.left > 0 && self.roles.get(&made) == Some(&Role::Child) {
                self.held = Some(made);
            } else {
                self.moment(made);
            }
        }
    }

    fn ended(&mut self, pid: i32) {
        self.waiting.remove(&pid);
        self.held.take_if(|held| *held == pid);
        if self.roles.remove(&pid) == Some(self.victim) {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.moment(held);
        }
    }

    /// Handles a stop: kills the victim if this was its last moment, and otherwise resumes the
    /// process.
    fn moment(&mut self, pid: i32) {
        if self.armed && self.left > 0 && self.roles.get(&pid) == Some(&self.victim) {
            self.left -= 1;
            if self.left == 0 {
                // SAFETY: the process is a tracee, and only this process reaps it.
                assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
                return;
            }
        }
        self.resume(pid, 0);
    }

    fn resume(&self, pid: i32, signal: libc::c_int) {
        // The victim is known by its role before its moments count, and may then be inside a system
        // call.
        let stepped = self.left > 0 && self.roles.get(&pid) == Some(&self.victim);
        let request = if stepped { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
        // SAFETY: the process is a stopped tracee of ours. It may have been killed meanwhile, which
        // is no error: its end is reported next.
        unsafe { libc::ptrace(request, pid, 0, signal as usize) };
    }

    fn event_message(&self, pid: i32) -> i32 {
        let mut message: libc::c_ulong = 0;
        // SAFETY: the process is a stopped tracee of ours; the message is written to a local
        // variable.
        unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut message) };
        message as i32
    }
}

/// Returns whether this stop is the beginning of the system call `number`.
fn begins_system_call(pid: i32, number: libc::c_long) -> bool {
    const ENTRY: u8 = 1;
    // SAFETY: the structure is valid when all bytes are zero; the process is a stopped tracee of
    // ours, and the kernel writes at most the given size.
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size_of_val(&info), &raw mut info);
        info.op == ENTRY && info.u.entry.nr == number as u64
    }
}

/// The signal of a stop at a system call, as opposed to other traps, with `PTRACE_O_TRACESYSGOOD`.
const SYSTEM_CALL: libc::c_int = libc::SIGTRAP | 0x80;
