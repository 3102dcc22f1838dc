//! Starts while another process kills children and the server at random moments: threads of this
//! process start more of them. The kills of whole programs, at each of their
//! moments, are tested in `multiproc-programs/tests/chaos/start.rs`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::chaos::{Random, seed};
use crate::common::{Ends, LONG, Scratch, for_each_method, sleep_long};
use multiproc::process::StartError;
use multiproc::{Process, StartMethod};

/// How many processes each method starts.
const STARTS: u32 = 2000;

/// The third and fourth field of `/proc/pid/stat`: the state, and the parent.
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn children(of: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        .collect()
}

/// Kills children of the process `of`, except itself, until it is killed.
fn kill_for_ever(of: i32, seed: u64) {
    let me = std::process::id() as i32;
    let mut random = Random::of(seed);
    loop {
        let others: Vec<i32> = children(of).into_iter().filter(|pid| *pid != me).collect();
        if others.is_empty() {
            std::thread::yield_now();
            continue;
        }
        let victim = others[random.below(others.len() as u64) as usize];
        // The server is killed less often, or hardly any start would succeed.
        let spared = random.below(if name(victim) == "multiproc-serve" { 20 } else { 2 }) > 0;
        spin(Duration::from_micros(random.below(500)));
        let Ok(pidfd) = multiproc_os::pidfd::open(victim) else { continue };
        // A process that is open as a pidfd can't be replaced by another with the same id.
        if !spared && state_and_parent(victim).is_some_and(|(_, parent)| parent == of) {
            let _ = multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL);
        }
    }
}

/// Waits for less time than the scheduler can.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Starts processes while they are being killed, in a process of its own. Returns how often each
/// outcome occurred.
fn start_while_killing(method: StartMethod, seed: u64) -> BTreeMap<String, u32> {
    let me = std::process::id() as i32;
    let scratch = Scratch::new();
    let directory = scratch.path("tmp");
    std::fs::create_dir(&directory).unwrap();
    // SAFETY: this process has one thread.
    unsafe {
        std::env::set_var("TMPDIR", &directory);
        assert_eq!(libc::setsid(), me);
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();

    let killer = Process::new(kill_for_ever, (me, seed)).start_method(StartMethod::Spawn).daemon(true).start().unwrap();
    let outcomes = Mutex::new(BTreeMap::new());
    let start_some = |count: u32| {
        for number in 0..count {
            let begun = Instant::now();
            // Some end at once, some live long enough to be hit.
            let target = |number: u32| {
                spin(Duration::from_micros(u64::from(number % 3) * 300));
                number + 1
            };
            let process = Process::new(target, (number,)).start_method(method);
            let outcome = match process.start().map(|child| child.join()) {
                Ok(Ok(value)) => {
                    assert_eq!(value, number + 1);
                    "value".to_string()
                }
                Ok(Err(error)) if error.signal() == Some(libc::SIGKILL) => "killed".into(),
                Err(StartError::Handshake { .. }) => "handshake".into(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(begun.elapsed() < LONG / 4, "{outcome} took {:?}", begun.elapsed());
            *outcomes.lock().unwrap().entry(outcome).or_insert(0) += 1;
        }
    };
    if method == StartMethod::Fork {
        start_some(STARTS);
    } else {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| start_some(STARTS / 4));
            }
        });
    }
    killer.kill().unwrap();
    killer.wait().unwrap();
    drop(killer);
    // A standby, or one about to be made, isn't a leak, but would be counted as one.
    multiproc::process::set_standby(false);

    // The next start succeeds, and reaps a server that was killed last.
    assert_eq!(Process::new(|| 7, ()).start_method(method).start().unwrap().join().unwrap(), 7);
    let left = children(me);
    let servers = usize::from(method == StartMethod::ForkServer);
    assert_eq!(
        left.len(),
        servers,
        "{:?}",
        left.iter().map(|pid| (name(*pid), state_and_parent(*pid))).collect::<Vec<_>>()
    );
    assert!(left.iter().all(|pid| name(*pid) == "multiproc-serve" && state_and_parent(*pid).unwrap().0 != 'Z'));
    // The server's socket and pidfd.
    assert_eq!(descriptors(), before + 2 * servers);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.lines().filter(|line| line.contains("memfd:")).count(), servers, "the page shared with the server");
    assert_eq!(others_in_session(me), left, "nothing else was begun here");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    outcomes.into_inner().unwrap()
}

/// The processes of the session that `leader` leads, except the leader itself.
fn others_in_session(leader: i32) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // SAFETY: the call takes only numbers.
    pids.filter(|pid| *pid != leader && unsafe { libc::getsid(*pid) } == leader).collect()
}

for_each_method! {
    fn kill_children_and_server(method) {
        let outcomes = Process::new(start_while_killing, (method, seed())).start().unwrap().join().unwrap();
        println!("{outcomes:?}");
        assert_eq!(outcomes.values().sum::<u32>(), STARTS);
        assert!(outcomes.keys().all(|outcome| ["value", "killed", "handshake"].contains(&outcome.as_str())), "{outcomes:?}");
        // On one processor that is shared with other work, all may be killed before they reach
        // their target.
        assert!(outcomes["value"] > STARTS / 10 && outcomes["value"] < STARTS, "{outcomes:?}");
    }

    fn two_hundred_children(method) {
        let children: Vec<_> =
            (0..200).map(|_| Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap())).collect();
        assert!(children.iter().all(|child| child.is_alive()));
        for child in &children {
            child.kill().unwrap();
        }
        assert!(children.iter().all(|child| child.wait().unwrap().exit_code() == Some(-9)));
    }
}
