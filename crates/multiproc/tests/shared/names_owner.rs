//! Names with an owner that dies, is stopped, is copied by fork(2), or has no descriptors left.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use multiproc::connection::{Receiver, Sender, one_way};
use multiproc::shared_memory::{MemoryError, NameError, NameRefusal};
use multiproc::{Process, SharedMemory, StartMethod};
use multiproc_os::limits::{self, Resource};
use multiproc_os::{fd_passing, pidfd, poll, random, socket, threads};

use crate::common::{Ends, LONG, for_each_method, in_a_process_with_one_thread, sleep_long, time_until};

/// The request to be given the descriptors for write access, see PROTOCOL.md.
const FIND: &[u8] = b"mpnq\x01\x01\0\0";

/// The answers without descriptors.
const NOT_SERVED: &[u8] = b"mpna\x01\x03\0\0\0\0\0\0";
const AGAIN: &[u8] = b"mpna\x01\x05\0\0\0\0\0\0";

fn unique() -> String {
    format!("test-{:016x}", random::seed())
}

/// Creates memory with this name and with a text in it.
fn own(name: &str) -> Result<SharedMemory, NameError> {
    let memory = SharedMemory::create(name, 3).map_err(name_error)?;
    memory.lock().unwrap().copy_from_slice(b"one");
    Ok(memory)
}

/// Opens the memory with this name, and returns the text in it.
fn look(name: &str) -> Result<String, NameError> {
    let memory = SharedMemory::open(name).map_err(name_error)?;
    let text = memory.read().unwrap();
    Ok(String::from_utf8(text.to_vec()).unwrap())
}

/// As [`look`], for reading only.
fn look_read_only(name: &str) -> Result<String, NameError> {
    let memory = SharedMemory::open_read_only(name).map_err(name_error)?;
    let text = memory.read().unwrap();
    Ok(String::from_utf8(text.to_vec()).unwrap())
}

/// Removes the name as any process may that has opened the memory.
fn withdraw(name: &str) {
    SharedMemory::open(name).unwrap().unlink().unwrap();
}

fn name_error(error: MemoryError) -> NameError {
    match error {
        MemoryError::Name(error) => error,
        error => panic!("{error}"),
    }
}

#[track_caller]
fn assert_free(name: &str) {
    let error = look(name).unwrap_err();
    assert!(matches!(&error, NameError::NotFound { name: other } if name == other), "{error}");
    own(name).unwrap();
}

/// The abstract name of the owner's socket, see PROTOCOL.md.
fn place(name: &str) -> Vec<u8> {
    format!("multiproc/memory/{}/{name}", socket::own_user()).into_bytes()
}

fn late() -> Option<Instant> {
    Some(Instant::now() + LONG)
}

/// Connects to the owner of a name, without sending a request.
fn client(name: &str) -> OwnedFd {
    socket::connect_for_packets(&place(name), late()).unwrap()
}

/// Waits for the answer to a client. None if the connection is closed without one.
fn answer(client: &OwnedFd) -> Option<Vec<u8>> {
    assert!(poll::wait_readable(client, late()).unwrap());
    let mut bytes = [0; 64];
    match socket::try_read(client, &mut bytes) {
        Ok(0) => None,
        Ok(len) => Some(bytes[..len].to_vec()),
        Err(error) => {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            assert!(matches!(error.kind(), BrokenPipe | ConnectionReset), "{error}");
            None
        }
    }
}

fn keepers() -> usize {
    threads::list().unwrap().iter().filter(|(_, name)| name == "multiproc-names").count()
}

#[multiproc::test]
fn thread_ends_with_last_name() {
    in_a_process_with_one_thread(|| {
        let forks = || Process::new(|| 7, ()).start_method(StartMethod::Fork).start().unwrap().join().unwrap();
        for _ in 0..20 {
            let (name, other) = (unique(), unique());
            let owned = own(&name).unwrap();
            let second = own(&other).unwrap();
            assert_eq!(look(&name).unwrap(), "one");
            assert_eq!(keepers(), 1);
            drop(owned);
            assert_eq!(look(&other).unwrap(), "one");
            drop(second);
            assert_eq!(forks(), 7);
            time_until(|| keepers() == 0);
            // It also ends when the name has been withdrawn.
            let owned = own(&name).unwrap();
            withdraw(&name);
            drop(owned);
            assert_eq!(forks(), 7);
            time_until(|| keepers() == 0);
        }
        let error = own(&"x".repeat(100)).unwrap_err();
        assert!(matches!(error, NameError::TooLong { .. }));
        time_until(|| keepers() == 0);
    });
}

#[multiproc::test]
fn thread_blocks_signals() {
    in_a_process_with_one_thread(|| {
        let name = unique();
        let _owned = own(&name).unwrap();
        assert_eq!(look(&name).unwrap(), "one", "the thread has set its name");
        let (id, _) = threads::list().unwrap().into_iter().find(|(_, name)| name == "multiproc-names").unwrap();
        let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        assert!([libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGUSR1].iter().all(|s| mask & 1 << (s - 1) != 0));
    });
}

fn set_limit(soft: u64) {
    limits::set(Resource::OpenFiles, soft, limits::get(Resource::OpenFiles).unwrap().1).unwrap();
}

/// Opens files up to a limit on descriptors, except for `room`.
fn fill(room: usize) -> Vec<File> {
    set_limit(128);
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len() - room);
    files
}

#[multiproc::test]
fn finder_without_fds() {
    in_a_process_with_one_thread(|| {
        let (_child, name) = child(StartMethod::Spawn);
        assert_eq!(look(&name).unwrap(), "one");
        // The socket, the pidfd of the owner, and the two descriptors of the memory.
        for (room, is_found) in [(0, false), (1, false), (2, false), (3, false), (4, true), (0, false), (4, true)] {
            let files = fill(room);
            let found = look(&name);
            let free = std::iter::from_fn(|| File::open("/dev/null").ok()).collect::<Vec<_>>().len();
            drop(files);
            assert_eq!(free, room, "nothing is kept");
            match found {
                Ok(text) => assert!(is_found && text == "one"),
                Err(NameError::Io { source, .. }) => {
                    assert!(!is_found && source.raw_os_error() == Some(libc::EMFILE), "{room}: {source}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
}

/// The limit is below the descriptors that are open, so closing some frees none.
const NOT_EVEN_ONE: usize = usize::MAX;
/// The limit is raised again.
const MANY: usize = usize::MAX - 1;

/// Publishes a name, and leaves the number of free descriptors that the test asks for.
fn squeezed(name: String, rooms: Receiver<usize>, done: Sender<()>) {
    let _owned = own(&name).unwrap();
    let mut files = Vec::new();
    for room in rooms {
        files.clear();
        match room.unwrap() {
            NOT_EVEN_ONE => set_limit(3),
            MANY => set_limit(1024),
            room => files = fill(room),
        }
        done.send(()).unwrap();
    }
    drop(files);
}

#[multiproc::test]
fn owner_without_fds() {
    let name = unique();
    let ((rooms, its_rooms), (its_done, done)) = (one_way().unwrap(), one_way().unwrap());
    let child = Ends(Process::new(squeezed, (name.clone(), its_rooms, its_done)).start().unwrap());
    let squeeze = |room: usize| {
        rooms.send(room).unwrap();
        done.recv().unwrap();
    };
    squeeze(50);
    let silent = client(&name);
    assert_eq!(look(&name).unwrap(), "one");
    for room in [0, 1, 2, 0] {
        let is_told = || match look(&name) {
            Ok(_) => false,
            Err(NameError::Owner { source, .. }) if source.raw_os_error() == Some(libc::EMFILE) => true,
            Err(error) => panic!("{room}: {error}"),
        };
        squeeze(room);
        // The keeper may have closed a descriptor of the previous client only after the files were
        // opened.
        while !is_told() {
            squeeze(room);
        }
        assert!((0..3).all(|_| is_told()));
    }
    // The client's socket, and the two descriptors of the memory.
    squeeze(3);
    // One of the three may be the keeper's spare descriptor, if that was taken while it had none.
    while let Err(error) = look(&name) {
        assert!(
            matches!(&error, NameError::Owner { source, .. } if source.raw_os_error() == Some(libc::EMFILE)),
            "{error}"
        );
        squeeze(3);
    }
    for _ in 0..3 {
        assert_eq!(look(&name).unwrap(), "one");
    }
    assert_eq!(answer(&silent).as_deref(), Some(AGAIN), "it had to make room, or its time was up");
    // Without a descriptor for the answer, clients stay in the backlog.
    squeeze(NOT_EVEN_ONE);
    let before = processor_time(child.pid());
    let error = look(&name).unwrap_err();
    assert!(matches!(error, NameError::Timeout { .. }), "{error}");
    let used = processor_time(child.pid()) - before;
    assert!(used < Duration::from_millis(300), "the owner must sleep meanwhile: {used:?}");
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| look_read_only(&name));
        squeeze(MANY);
        assert_eq!(finder.join().unwrap().unwrap(), "one");
    });
}

/// The processor time that a process has used, in ticks of 10 ms. See proc_pid_stat(5).
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
}

/// Publishes a name, and waits to be killed.
fn stays(name: String, ready: Sender<i32>) {
    let _owned = own(&name).unwrap();
    ready.send(threads::getpid()).unwrap();
    sleep_long();
}

/// A child that has published a name.
fn child(method: StartMethod) -> (Ends<()>, String) {
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let child = Process::new(stays, (name.clone(), its_ready)).start_method(method).start().unwrap();
    ready.recv().unwrap();
    (Ends(child), name)
}

for_each_method! {
    fn owner_dies(method) {
        let (owner, name) = child(method);
        assert_eq!(look(&name).unwrap(), "one");
        let taken = own(&name).unwrap_err();
        assert!(matches!(&taken, NameError::Taken { owner: Some(pid), .. } if *pid == owner.pid()), "{taken}");
        owner.kill().unwrap();
        owner.wait_timeout(LONG).unwrap().expect("the process hangs");
        assert_free(&name);
    }

    fn owner_exits(method) {
        let leaves = |name: String, how: u8| {
            std::mem::forget(own(&name).unwrap());
            match how {
                0 => {}
                1 => panic!("for the test"),
                2 => std::process::abort(),
                _ => std::process::exit(3),
            }
        };
        for how in 0..4 {
            let name = unique();
            let child = Process::new(leaves, (name.clone(), how)).start_method(method).start().unwrap();
            child.wait_timeout(LONG).unwrap().expect("the process hangs");
            assert_free(&name);
        }
    }
}

#[multiproc::test]
fn owner_executes() {
    let name = unique();
    let (its_ready, ready) = one_way::<()>().unwrap();
    let becomes = |name: String, _ready: Sender<()>| {
        std::mem::forget(own(&name).unwrap());
        let error = std::process::Command::new("sleep").arg("1000").exec();
        panic!("{error}");
    };
    let child = Ends(Process::new(becomes, (name.clone(), its_ready)).start().unwrap());
    // The exec has closed it too.
    assert!(ready.recv().unwrap_err().is_disconnected());
    assert!(child.is_alive());
    assert_free(&name);
}

#[multiproc::test]
fn names_are_not_inherited() {
    let name = unique();
    let owned = own(&name).unwrap();
    let children = [StartMethod::ForkServer, StartMethod::Spawn].map(child);
    drop(owned);
    let owned = own(&name).unwrap();
    // The fork server and a standby don't have it either.
    assert_eq!(
        Process::new(|name: String| look(&name).unwrap(), (name.clone(),)).start().unwrap().join().unwrap(),
        "one"
    );
    drop(owned);
    assert_free(&name);
    drop(children);
}

/// Waits until a child of this process is stopped.
fn wait_stopped(pid: i32) {
    // SAFETY: the structure is ours, and all-zero bytes are a value of it.
    unsafe {
        let mut info = std::mem::zeroed();
        assert_eq!(libc::waitid(libc::P_PID, pid as u32, &raw mut info, libc::WSTOPPED | libc::WNOWAIT), 0);
    }
}

#[multiproc::test]
fn killed_while_stopped() {
    let (owner, name) = child(StartMethod::ForkServer);
    owner.signal(libc::SIGSTOP).unwrap();
    wait_stopped(owner.pid());
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| look(&name));
        owner.kill().unwrap();
        assert!(matches!(finder.join().unwrap(), Err(NameError::NotFound { .. })));
    });
}

#[multiproc::test]
fn continued_during_lookup() {
    let (owner, name) = child(StartMethod::Spawn);
    owner.signal(libc::SIGSTOP).unwrap();
    wait_stopped(owner.pid());
    std::thread::scope(|scope| {
        let finders: Vec<_> = (0..20).map(|_| scope.spawn(|| look_read_only(&name))).collect();
        owner.signal(libc::SIGCONT).unwrap();
        for finder in finders {
            assert_eq!(finder.join().unwrap().unwrap(), "one");
        }
    });
}

#[multiproc::test]
fn killed_during_lookup() {
    let found = AtomicU32::new(0);
    for round in 0..30 {
        let (owner, name) = child(StartMethod::ForkServer);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        match look(&name) {
                            Ok(text) => assert_eq!(text, "one"),
                            Err(NameError::NotFound { .. }) => break,
                            Err(error) => panic!("{error}"),
                        }
                        found.fetch_add(1, SeqCst);
                    }
                });
            }
            (0..round * 2).for_each(|_| std::thread::yield_now());
            if round == 29 {
                time_until(|| found.load(SeqCst) > 0);
            }
            owner.kill().unwrap();
        });
        owner.wait_timeout(LONG).unwrap().expect("the process hangs");
        assert_free(&name);
    }
}

/// Makes a copy of this process that calls `live`, and returns its pid.
fn copy(live: impl FnOnce()) -> i32 {
    // SAFETY: the test is whether the library copes with a copy made at any moment of its other
    // thread.
    match unsafe { libc::fork() } {
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(live)).is_ok();
            // SAFETY: it ends the process.
            unsafe { libc::_exit(i32::from(!done)) }
        }
        pid => pid,
    }
}

fn wait_for(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

fn pause() {
    loop {
        // SAFETY: no memory is touched.
        unsafe { libc::pause() };
    }
}

/// Kills a process that is not a child of this one.
fn kill_other(pid: i32) {
    if let Ok(pidfd) = pidfd::open(pid) {
        let _ = pidfd::send_signal(&pidfd, libc::SIGKILL);
    }
}

#[multiproc::test]
fn forked_copy_does_not_keep_name() {
    fn copied(name: String, ready: Sender<i32>) {
        let owned = own(&name).unwrap();
        // The keeper has a connected client.
        let _client = client(&name);
        assert_eq!(look(&name).unwrap(), "one");
        ready.send(copy(pause)).unwrap();
        pause();
        drop(owned);
    }
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let owner = Ends(Process::new(copied, (name.clone(), its_ready)).start().unwrap());
    let copy = ready.recv().unwrap();
    assert_eq!(look(&name).unwrap(), "one");
    owner.kill().unwrap();
    owner.wait_timeout(LONG).unwrap().expect("the process hangs");
    assert!(threads::exists(copy));
    assert_free(&name);
    kill_other(copy);
}

#[multiproc::test]
fn forked_copy_has_own_names() {
    in_a_process_with_one_thread(|| {
        let (name, its) = (unique(), unique());
        let mut owned = Some(own(&name).unwrap());
        let pid = copy(|| {
            let not_live = owned.take().unwrap().unlink().unwrap_err();
            assert!(matches!(not_live, MemoryError::Name(NameError::NotFound { .. })), "{not_live}");
            assert_eq!(look(&name).unwrap(), "one", "the original's");
            assert!(own(&name).is_err());
            let its_own = own(&its).unwrap();
            assert_eq!(look_read_only(&its).unwrap(), "one");
            drop(its_own);
            assert_free(&its);
            assert_eq!(threads::count_running().unwrap(), 1);
        });
        assert_eq!(wait_for(pid), 0);
        assert_eq!(look(&name).unwrap(), "one");
        owned.unwrap().unlink().unwrap();
        assert_free(&name);
    });
}

#[multiproc::test]
fn fork_at_any_moment() {
    in_a_process_with_one_thread(|| {
        let (stop, stopped) = mpsc::channel::<()>();
        let forker = std::thread::spawn(move || {
            let mut copies = Vec::new();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                if copies.len() == 50 {
                    copies.drain(..).for_each(end);
                }
                copies.push(copy(pause));
            }
            copies.into_iter().for_each(end);
        });
        fn end(pid: i32) {
            kill_other(pid);
            wait_for(pid);
        }
        let name = unique();
        for _ in 0..300 {
            let owned = own(&name).unwrap();
            assert_eq!(look(&name).unwrap(), "one");
            drop(owned);
        }
        drop(stop);
        forker.join().unwrap();
    });
}

#[multiproc::test]
fn raw_clone_keeps_name() {
    fn cloned(name: String, ready: Sender<i32>) {
        let _owned = own(&name).unwrap();
        // SAFETY: as fork(2). The copy does nothing.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if pid != 0 {
            ready.send(pid as i32).unwrap();
        }
        pause();
    }
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let owner = Ends(Process::new(cloned, (name.clone(), its_ready)).start().unwrap());
    let copy = ready.recv().unwrap();
    assert_eq!(look(&name).unwrap(), "one");
    owner.kill().unwrap();
    owner.wait_timeout(LONG).unwrap().expect("the process hangs");
    assert!(matches!(look(&name), Err(NameError::NotFound { .. })));
    // The copy has the socket, so the name stays taken.
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
    let ended = pidfd::open(copy).unwrap();
    kill_other(copy);
    poll::wait_readable(&ended, late()).unwrap();
    assert_free(&name);
}

/// Changes to another user, if this process may.
fn becomes_stranger() -> bool {
    // SAFETY: no memory is touched.
    unsafe { libc::setgid(60_127) == 0 && libc::setuid(60_127) == 0 }
}

#[multiproc::test]
fn other_user_is_not_served() {
    let name = unique();
    let _owned = own(&name).unwrap();
    let stranger = |name: String, place: Vec<u8>| {
        if !becomes_stranger() {
            return;
        }
        assert!(matches!(look(&name), Err(NameError::NotFound { .. })), "each user has names of its own");
        let client = socket::connect_for_packets(&place, late()).unwrap();
        let _ = fd_passing::send(&client, &[FIND], &[]);
        // The first read fails if the owner has closed the connection with the request unread.
        let answer = answer(&client).or_else(|| answer(&client));
        assert_eq!(answer.as_deref(), Some(NOT_SERVED));
    };
    Process::new(stranger, (name.clone(), place(&name))).start().unwrap().join().unwrap();
    assert_eq!(look(&name).unwrap(), "one");
}

#[multiproc::test]
fn other_user_is_not_trusted() {
    let plants = |place: Vec<u8>, ready: Sender<bool>| {
        let is_stranger = becomes_stranger();
        let socket = socket::packet_socket().unwrap();
        socket::listen_for_packets(&socket, &place).unwrap();
        ready.send(is_stranger).unwrap();
        pause();
    };
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let planter = Ends(Process::new(plants, (place(&name), its_ready)).start().unwrap());
    if !ready.recv().unwrap() {
        return;
    }
    let error = look(&name).unwrap_err();
    assert!(matches!(&error, NameError::Refused { why: NameRefusal::OtherUser(60_127), .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", planter.pid())), "{error}");
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
}

#[multiproc::test]
fn closed_epoll_fd() {
    in_a_process_with_one_thread(|| {
        let before: Vec<i32> = open_numbers();
        let name = unique();
        let owned = own(&name).unwrap();
        // The epoll(7) set that contains the names.
        for fd in open_numbers().into_iter().filter(|fd| !before.contains(fd)) {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            if info.matches("tfd:").count() > 0 {
                let file = File::open("/dev/null").unwrap();
                // SAFETY: it replaces a descriptor, as does a program that closes those it doesn't
                // know.
                unsafe { libc::dup2(file.as_raw_fd(), fd) };
            }
        }
        // The keeper gets the error when it waits again.
        let found = look(&name);
        assert!(matches!(found, Ok(_) | Err(NameError::NotFound { .. })));
        drop(owned);
        // A thread that has been joined stays in /proc/self/task a moment longer.
        while keepers() > 0 {
            std::thread::yield_now();
        }
        let _owned = own(&name).unwrap();
        assert_eq!(look(&name).unwrap(), "one");
    });
}

fn open_numbers() -> Vec<i32> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}
