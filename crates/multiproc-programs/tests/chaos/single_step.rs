//! Calls on shared objects with a caller that is killed after each instruction: other processes are
//! not affected. `src/bin/single_step` does it.
//!
//! By default some instructions are tried, for a moment. `MULTIPROC_STEP=all` tries all of them,
//! which takes minutes for most calls with `--release`, and hours for barriers and for calls that
//! sleep.

use std::collections::BTreeMap;
use std::process::Command;

/// How long each call is tested, in milliseconds.
const MOMENT: &str = "250";

/// Steps through the call of this name. Only the expected outcomes may occur; all of them must, if
/// all instructions are tried.
fn step(name: &str, expected: &[&str]) {
    let all = std::env::var("MULTIPROC_STEP").is_ok_and(|value| value == "all");
    let mut command = Command::new(env!("CARGO_BIN_EXE_single_step"));
    command.arg(name).env("RUST_BACKTRACE", "0");
    if all {
        command.arg("all");
    } else {
        let seed = std::env::var("MULTIPROC_SEED");
        let seed = seed.unwrap_or_else(|_| std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().to_string());
        println!("MULTIPROC_SEED={seed}");
        command.args([MOMENT, &seed]);
    }
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{stdout}{stderr}", output.status);
    println!("{name}: {}", stdout.trim().replace('\n', ", "));
    let pair = |line: &str| {
        let (name, number) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    };
    let mut numbers: BTreeMap<String, u32> = stdout.lines().map(pair).collect();
    let (instructions, runs) = (numbers.remove("instructions").unwrap(), numbers.remove("runs").unwrap());
    // Fewer would mean that the call was not stepped at all.
    assert!(instructions >= 20 && runs >= if all { instructions } else { 2 }, "{name}: {instructions}, {runs}");
    assert!(numbers.keys().all(|outcome| expected.contains(&outcome.as_str())), "{name}: {numbers:?}");
    assert!(!all || numbers.len() == expected.len(), "{name}: {numbers:?}");
}

#[test]
fn lock() {
    for name in ["lock", "rlock", "mutex_lock", "write"] {
        step(name, &["free", "poisoned"]);
    }
}

#[test]
fn unlock() {
    for name in ["unlock", "runlock", "mutex_unlock", "end_writing"] {
        step(name, &["free", "poisoned"]);
    }
}

#[test]
fn lock_wakes_waiter() {
    for name in ["lock_asleep", "unlock_with_waiters", "end_writing_with_waiters"] {
        step(name, &["free", "poisoned"]);
    }
    step("lock_timeout_asleep", &["free"]);
}

#[test]
fn poison_and_clear() {
    for name in ["lock_inherit", "rlock_inherit", "mutex_inherit", "write_inherit", "read_inherit"] {
        step(name, &["poisoned"]);
    }
}

#[test]
fn array_lock() {
    for name in ["array_lock", "array_unlock", "part_lock", "part_unlock"] {
        step(name, &["free", "poisoned"]);
    }
    for name in ["array_inherit", "part_inherit"] {
        step(name, &["poisoned"]);
    }
    for name in ["array_lock_asleep", "array_unlock_with_waiters", "part_lock_asleep", "part_unlock_with_waiters"] {
        step(name, &["free", "poisoned"]);
    }
}

#[test]
fn array_part_and_whole() {
    for name in ["array_read", "array_read_asleep", "array_end_reading_with_parts_waiting"] {
        step(name, &["free"]);
    }
    for name in ["array_lock_with_parts_held", "part_lock_behind_a_reader", "part_unlock_with_all_waiting"] {
        step(name, &["free", "poisoned"]);
    }
    // Poisoned if it is killed, because it holds another part.
    step("part_lock_with_another", &["free", "poisoned"]);
}

#[test]
fn array_split() {
    for name in ["divide", "divide_inherit"] {
        step(name, &["divided", "not divided"]);
    }
}

#[test]
fn shared_memory_grow() {
    step("memory_grow", &["grown", "not grown"]);
}

#[test]
fn rlock_twice() {
    step("rlock_again", &["free", "poisoned"]);
    step("runlock_once_of_twice", &["free", "poisoned"]);
}

#[test]
fn mutex_set() {
    step("mutex_set", &["free", "poisoned"]);
}

#[test]
fn call_once() {
    step("call_once", &["new", "begun", "done"]);
    step("call_once_with_waiters", &["new", "begun", "done"]);
    step("call_once_inherit", &["begun", "done"]);
}

#[test]
fn rwlock_read() {
    for name in ["read", "read_as_the_first_ever", "end_reading", "end_reading_with_a_writer_waiting"] {
        step(name, &["free"]);
    }
}

#[test]
fn rwlock_wakes_waiters() {
    step("read_asleep", &["free"]);
    step("read_again_while_a_writer_waits", &["free"]);
    step("write_asleep", &["free", "poisoned"]);
}

#[test]
fn semaphore_acquire() {
    for name in ["acquire", "acquire_asleep", "drop_permit_with_waiters"] {
        step(name, &["there"]);
    }
}

#[test]
fn semaphore_release() {
    step("release", &["not released", "released"]);
}

#[test]
fn event_set() {
    step("event_set", &["not set", "set"]);
    step("event_clear", &["not set", "set"]);
    step("event_wait_asleep", &["works"]);
}

#[test]
fn barrier_first() {
    step("barrier_first", &["alone", "death"]);
}

#[test]
fn barrier_last() {
    step("barrier_last", &["death", "passed"]);
}

#[test]
fn queue_put() {
    for name in ["put_small", "put_block", "put_bounded", "put_block_bounded", "put_bounded_in_bytes"] {
        step(name, &["not_put", "put"]);
    }
}

#[test]
fn joinable_queue_put() {
    for name in ["put_joinable", "put_block_joinable"] {
        step(name, &["not_put", "put"]);
    }
}

#[test]
fn queue_grow() {
    step("put_growing", &["put_0", "put_1", "put_2", "put_3", "put_4"]);
}

#[test]
fn queue_shrink() {
    step("put_shrinking", &["empty", "put"]);
}

#[test]
fn queue_get() {
    for name in ["get_small", "get_block", "get_bounded", "get_block_bounded", "get_bounded_in_bytes"] {
        step(name, &["not_taken", "taken"]);
    }
}

#[test]
fn queue_wakes_waiter() {
    step("put_asleep", &["not_put", "put"]);
    step("get_asleep", &["not_taken", "taken"]);
    step("get_bounded_asleep", &["not_taken", "taken"]);
    step("get_making_room", &["not_taken", "taken"]);
    step("get_block_making_room", &["not_taken", "taken"]);
    step("join_asleep", &["done"]);
}

#[test]
fn queue_handles() {
    step("put_handles", &["not_put", "put"]);
    step("get_handles", &["not_taken", "taken"]);
}

#[test]
fn task_done() {
    for name in ["get_joinable", "get_block_joinable", "get_returned"] {
        step(name, &["not_taken", "returned"]);
    }
    step("task_done", &["done", "returned"]);
    step("task_done_block", &["done", "returned"]);
    step("task_dropped", &["returned"]);
}

#[test]
fn queue_close() {
    for name in ["close", "close_before_producer", "close_before_consumer", "close_bounded_before_consumer"] {
        step(name, &["closed", "open"]);
    }
}

#[test]
fn list_set() {
    for name in ["shareable_set", "shareable_replace", "shareable_compare_exchange"] {
        step(name, &["new", "old"]);
    }
}

#[test]
fn list_get() {
    for name in ["shareable_get", "shareable_to_vec"] {
        step(name, &["old"]);
    }
}
