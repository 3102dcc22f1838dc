//! Names in one process, and between processes that die, are stopped and are copied.
#![allow(unsafe_code)]
// `#[multiproc::test]` makes system calls before `main`, which miri lacks.
#![cfg(not(miri))]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};

use multiproc_os::limits::{self, Resource};
use multiproc_os::{memfd, random, threads};

use super::*;
use crate::connection::{Receiver, Sender, one_way};
use crate::shared_memory::MemoryError;
use crate::{Child, Process, SharedMemory, StartMethod};

/// No test waits longer than this for anything.
const LONG: Duration = Duration::from_secs(300);

fn late() -> Instant {
    Instant::now() + LONG
}

fn unique() -> String {
    format!("test-{:016x}", random::seed())
}

/// Offers a file with one of some texts.
struct Texts(&'static [&'static str]);

impl Offer for Texts {
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>> {
        let text = self.0.get(usize::from(wish)).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(vec![memfd::sealed("test", &[text.as_bytes()])?])
    }
}

/// Offers what comes of a function.
struct Does<F>(F);

impl<F: Fn(u8) -> io::Result<Vec<OwnedFd>> + Send + Sync + 'static> Offer for Does<F> {
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>> {
        (self.0)(wish)
    }
}

fn weak<O: Offer>(offer: &Arc<O>) -> Weak<dyn Offer> {
    let weak: Weak<O> = Arc::downgrade(offer);
    weak
}

/// A name with an offer.
struct Owned {
    published: Published,
    offer: Arc<dyn Offer>,
}

fn own(name: &str) -> Result<Owned, NameError> {
    let offer = Arc::new(Texts(&["one", "two"]));
    Ok(Owned { published: publish(name, weak(&offer))?, offer })
}

/// What is found, as a text.
fn look(name: &str, wish: u8) -> Result<String, NameError> {
    let fds = find(name, wish, late())?.fds;
    let [fd] = <[OwnedFd; 1]>::try_from(fds).expect("one descriptor");
    let mut bytes = [0; 16];
    let len = File::from(fd).read_at(&mut bytes, 0).expect("a file");
    Ok(String::from_utf8(bytes[..len].to_vec()).expect("a text"))
}

#[track_caller]
fn assert_free(name: &str) {
    let error = look(name, 0).unwrap_err();
    assert!(matches!(&error, NameError::NotFound { name: other } if name == other), "{error}");
    own(name).unwrap();
}

/// A guest that has connected and not said anything.
fn client(name: &str) -> OwnedFd {
    socket::connect_for_packets(&place(name).unwrap(), Some(late())).unwrap()
}

/// What a guest is told; none if it has been left without a word.
fn told(client: &OwnedFd) -> Option<Result<Answer, Unfit>> {
    assert!(poll::wait_readable(client, Some(late())).unwrap());
    let mut bytes = [0; 64];
    match socket::try_read(client, &mut bytes) {
        Ok(0) => None,
        Err(error) if is_end(&error) => None,
        Ok(len) => Some(Answer::from_bytes(&bytes[..len])),
        Err(error) => panic!("{error}"),
    }
}

/// Runs a test there, as the main process of a program would.
fn alone(test: fn()) {
    Process::new(test, ()).name("harness").start().unwrap().join().unwrap();
}

/// Ends with the test.
struct Ends<T>(Child<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn smoke() {
    let name = unique();
    assert!(matches!(look(&name, 0), Err(NameError::NotFound { .. })));
    let owned = own(&name).unwrap();
    assert!(owned.published.is_live());
    for _ in 0..3 {
        assert_eq!((look(&name, 0).unwrap(), look(&name, 1).unwrap()), ("one".into(), "two".into()));
    }
    let taken = own(&name).err().unwrap();
    assert!(matches!(&taken, NameError::Taken { owner: Some(pid), .. } if *pid == threads::getpid()), "{taken}");
    assert_eq!(taken.to_string(), format!("the name {name:?} is taken by process {}", threads::getpid()));
    // What has been found stays.
    let Found { fds: found, owner } = find(&name, 0, late()).unwrap();
    assert_eq!(owner, Some(threads::getpid()));
    drop(owned);
    assert_free(&name);
    assert_eq!(File::from(found.into_iter().next().unwrap()).metadata().unwrap().len(), 3);
}

#[test]
fn withdraw_by_any_process() {
    let name = unique();
    let first = own(&name).unwrap();
    withdraw(&name, late()).unwrap();
    assert!(!first.published.is_live());
    assert!(matches!(withdraw(&name, late()), Err(NameError::NotFound { .. })));
    // It is another's now, whatever becomes of the first.
    let second = own(&name).unwrap();
    drop(first);
    assert!(second.published.is_live());
    assert_eq!(look(&name, 1).unwrap(), "two");
}

#[test]
fn valid_and_invalid_names() {
    assert!(matches!(own(""), Err(NameError::Empty)));
    assert!(matches!(own("a\0b"), Err(NameError::Invalid { .. })));
    let long = "x".repeat(LIMIT + 1);
    let error = own(&long).err().unwrap();
    assert!(error.to_string().ends_with("has 80 bytes; the limit is 79"), "{error}");
    assert!(matches!(find(&long, 0, late()), Err(NameError::TooLong { .. })));
    for name in [unique() + &"/ä ".repeat(14), format!("{:x<79}", unique())] {
        assert!(name.len() <= LIMIT);
        let _owned = own(&name).unwrap();
        assert_eq!(look(&name, 0).unwrap(), "one");
    }
}

#[test]
fn many_names() {
    let names: Vec<String> = (0..200).map(|_| unique()).collect();
    let owned: Vec<Owned> = names.iter().map(|name| own(name).unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let names = &names;
            scope.spawn(move || {
                for name in names.iter().skip(thread) {
                    assert_eq!(look(name, 1).unwrap(), "two");
                }
            });
        }
    });
    drop(owned);
    names.iter().for_each(|name| assert_free(name));
}

#[test]
fn offer_metadata() {
    let name = unique();
    let offer = Arc::new(Does(|wish| match wish {
        0 => Ok(vec![]),
        1 => Err(io::ErrorKind::PermissionDenied.into()),
        2 => Err(io::ErrorKind::InvalidInput.into()),
        3 => panic!("as the test wants it"),
        _ => (0..200).map(|_| memfd::sealed("test", &[b"x"])).collect(),
    }));
    let _published = publish(&name, weak(&offer)).unwrap();
    let this = threads::getpid();
    assert!(find(&name, 0, late()).unwrap().fds.is_empty());
    let error = find(&name, 1, late()).unwrap_err();
    assert!(matches!(&error, NameError::Refused { why: NameRefusal::Denied(_), .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!("cannot get the shared memory {name:?} from process {this}: Permission denied (os error 13)")
    );
    for (wish, errno) in [(2, libc::EINVAL), (3, libc::EIO)] {
        let error = find(&name, wish, late()).unwrap_err();
        let NameError::Owner { owner: Some(pid), source, .. } = &error else { panic!("{error}") };
        assert_eq!((*pid, source.raw_os_error()), (this, Some(errno)));
    }
    assert_eq!(find(&name, 4, late()).unwrap().fds.len(), 200);
}

#[test]
fn dropped_offer_is_not_found() {
    let name = unique();
    let Owned { published, offer } = own(&name).unwrap();
    drop(offer);
    assert!(matches!(look(&name, 0), Err(NameError::NotFound { .. })));
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
    drop(published);
    assert_free(&name);
}

/// Offers one name, which it holds itself.
struct Whole {
    published: OnceLock<Published>,
    asked: mpsc::SyncSender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Offer for Whole {
    fn offer(&self, _: u8) -> io::Result<Vec<OwnedFd>> {
        self.asked.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(vec![memfd::sealed("test", &[b"whole"])?])
    }
}

#[test]
fn drop_during_lookup() {
    let name = unique();
    let (asked, is_asked) = mpsc::sync_channel(1);
    let (go_on, goes_on) = mpsc::channel();
    let whole = Arc::new(Whole { published: OnceLock::new(), asked, go_on: Mutex::new(goes_on) });
    whole.published.set(publish(&name, weak(&whole)).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| look(&name, 0));
        is_asked.recv().unwrap();
        // The keeper has the last of it.
        drop(whole);
        go_on.send(()).unwrap();
        assert_eq!(finder.join().unwrap().unwrap(), "whole");
    });
    // It is dropped behind the answer.
    while !matches!(find(&name, 0, late()), Err(NameError::NotFound { .. })) {
        std::thread::yield_now();
    }
    assert_free(&name);
}

#[test]
fn silent_and_garbage_clients() {
    let name = unique();
    let _owned = own(&name).unwrap();
    let silent = client(&name);
    for garbage in [&b"x"[..], &[7; 100], &[0; 8], b"mpnq\x01\x04\0\0", b"mpnq\x01\x01\0\x01", b"mpnq\x01\x02\x01\0"] {
        let client = client(&name);
        fd_passing::send(&client, &[garbage], &[silent.as_fd(); 20]).unwrap();
        assert_eq!(told(&client), None, "{garbage:?}");
    }
    let newer = client(&name);
    fd_passing::send(&newer, &[b"mpnq\x02whatever there is in version 2"], &[]).unwrap();
    assert_eq!(told(&newer), Some(Ok(Answer::OtherVersion(1))));
    // One that doesn't listen.
    for _ in 0..100 {
        fd_passing::send(client(&name), &[&Request::Find(0).to_bytes()], &[]).unwrap();
    }
    assert_eq!(look(&name, 0).unwrap(), "one");
    assert_eq!(told(&silent), Some(Ok(Answer::Again)), "its time is up");
}

#[test]
fn oldest_clients_are_dropped() {
    let name = unique();
    let _owned = own(&name).unwrap();
    let clients: Vec<OwnedFd> = (0..300).map(|_| client(&name)).collect();
    for _ in 0..10 {
        assert_eq!(look(&name, 1).unwrap(), "two");
    }
    assert!(clients[..150].iter().all(|client| told(client) == Some(Ok(Answer::Again))));
    // One that is late to speak, but not too late.
    let last = client(&name);
    assert_eq!(look(&name, 0).unwrap(), "one");
    fd_passing::send(&last, &[&Request::Find(1).to_bytes()], &[]).unwrap();
    assert_eq!(told(&last), Some(Ok(Answer::Here { count: 1 })));
}

#[test]
fn withdraw_disconnects_clients() {
    let (name, other) = (unique(), unique());
    let _other = own(&other).unwrap();
    let owned = own(&name).unwrap();
    let clients: Vec<OwnedFd> = (0..3).map(|_| client(&name)).collect();
    assert_eq!(look(&name, 0).unwrap(), "one", "they have been accepted");
    drop(owned);
    for client in clients {
        // It may have been closed already.
        let _ = fd_passing::send(&client, &[&Request::Find(0).to_bytes()], &[]);
        assert_eq!(told(&client), None);
    }
}

/// What one finds who meets somebody at the name that says this to each of those who come, one after the other.
fn meets(answers: &[(&[u8], usize)]) -> Result<Vec<OwnedFd>, NameError> {
    let name = unique();
    let listening = CloseOnFork::make(socket::packet_socket).unwrap();
    socket::listen_for_packets(&listening, &place(&name).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| find(&name, 0, late()));
        for (bytes, fds) in answers {
            assert!(poll::wait_readable(&listening, Some(late())).unwrap());
            let (socket, _) = socket::try_accept(&listening).unwrap().unwrap();
            assert!(poll::wait_readable(&socket, Some(late())).unwrap());
            if !bytes.is_empty() {
                fd_passing::send(&socket, &[bytes], &vec![listening.as_fd(); *fds]).unwrap();
            }
        }
        finder.join().unwrap().map(|found| found.fds)
    })
}

#[test]
fn not_memory() {
    let name = unique();
    let _owned = own(&name).unwrap();
    for error in [SharedMemory::open(&name).unwrap_err(), SharedMemory::open_read_only(&name).unwrap_err()] {
        let MemoryError::Name(NameError::OtherProtocol { owner, .. }) = &error else { panic!("{error}") };
        assert_eq!(*owner, Some(threads::getpid()));
        assert!(!error.is_not_found() && !error.is_taken());
    }
}

#[test]
fn foreign_listener_at_name() {
    let here = Answer::Here { count: 2 }.to_bytes();
    assert_eq!(meets(&[(&here, 2)]).unwrap().len(), 2);
    // Closed with the request unread, which is an error first.
    let again = Answer::Again.to_bytes();
    assert_eq!(meets(&[(&again, 0), (&again, 0), (&here, 2)]).unwrap().len(), 2);
    assert!(matches!(meets(&[(b"", 0)]), Err(NameError::NotFound { .. })));
    let garbage: [(&[u8], usize); 6] =
        [(&here, 1), (&here, 3), (b"hello", 0), (&[0; 100], 1), (&Answer::Withdrawn.to_bytes(), 0), (&again, 1)];
    for answer in garbage {
        let error = meets(&[answer]).unwrap_err();
        assert!(matches!(&error, NameError::OtherProtocol { owner: Some(_), .. }), "{answer:?}: {error}");
    }
    let error = meets(&[(&Answer::OtherVersion(9).to_bytes(), 0)]).unwrap_err();
    assert!(matches!(&error, NameError::OtherVersion { theirs: 9, .. }), "{error}");
    let error = meets(&[(&Answer::NotServed.to_bytes(), 0)]).unwrap_err();
    assert!(matches!(&error, NameError::Refused { why: NameRefusal::NotServed, .. }), "{error}");
    let error = meets(&[(&Answer::Failed(libc::ETOOMANYREFS).to_bytes(), 0)]).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
}

fn keepers() -> usize {
    threads::list().unwrap().iter().filter(|(_, name)| name == "multiproc-names").count()
}

#[multiproc::test]
fn thread_ends_with_last_name() {
    alone(|| {
        let forks = || Process::new(|| 7, ()).start_method(StartMethod::Fork).start().unwrap().join().unwrap();
        for _ in 0..20 {
            let (name, other) = (unique(), unique());
            let owned = own(&name).unwrap();
            let second = own(&other).unwrap();
            assert_eq!(look(&name, 0).unwrap(), "one");
            assert_eq!(keepers(), 1);
            drop(owned);
            assert_eq!(look(&other, 0).unwrap(), "one");
            drop(second);
            assert_eq!(forks(), 7);
            assert_eq!(keepers(), 0);
            // And when somebody has withdrawn it.
            let owned = own(&name).unwrap();
            withdraw(&name, late()).unwrap();
            drop(owned);
            assert_eq!(forks(), 7);
            assert_eq!(keepers(), 0);
        }
        let error = own(&"x".repeat(100)).err().unwrap();
        assert!(matches!(error, NameError::TooLong { .. }));
        assert_eq!(keepers(), 0);
    });
}

#[multiproc::test]
fn thread_blocks_signals() {
    alone(|| {
        let name = unique();
        let _owned = own(&name).unwrap();
        assert_eq!(look(&name, 0).unwrap(), "one", "it has given itself its name");
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

/// Fills this process with descriptors, up to a limit, but for so many.
fn fill(but: usize) -> Vec<File> {
    set_limit(128);
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len() - but);
    files
}

#[multiproc::test]
fn finder_without_fds() {
    alone(|| {
        let (_child, name) = child(StartMethod::Spawn);
        // A socket, the life of the owner, and what is found.
        for (room, is_found) in [(0, false), (1, false), (2, false), (3, true), (0, false), (3, true)] {
            let files = fill(room);
            let found = look(&name, 0);
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

/// None can be opened, whatever is closed.
const NOT_EVEN_ONE: usize = usize::MAX;
const MANY: usize = usize::MAX - 1;

/// Has a name, and as many free descriptors as it is told.
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
    assert_eq!(look(&name, 0).unwrap(), "one");
    for room in [0, 1, 0] {
        let is_told = || match look(&name, 0) {
            Ok(_) => false,
            Err(NameError::Owner { source, .. }) if source.raw_os_error() == Some(libc::EMFILE) => true,
            Err(error) => panic!("{room}: {error}"),
        };
        squeeze(room);
        // The keeper may have let go of the one before only when the others had been taken.
        while !is_told() {
            squeeze(room);
        }
        assert!((0..3).all(|_| is_told()));
    }
    squeeze(2);
    // One of the two may be the keeper's spare one, if that was taken while it had none.
    while let Err(error) = look(&name, 0) {
        assert!(
            matches!(&error, NameError::Owner { source, .. } if source.raw_os_error() == Some(libc::EMFILE)),
            "{error}"
        );
        squeeze(2);
    }
    for _ in 0..3 {
        assert_eq!(look(&name, 0).unwrap(), "one");
    }
    assert_eq!(told(&silent), Some(Ok(Answer::Again)), "it had to make room, or its time was up");
    // Without a descriptor by which to say so, those who come stand in line.
    squeeze(NOT_EVEN_ONE);
    let error = find(&name, 0, Instant::now() + Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, NameError::Timeout { .. }), "{error}");
    let used = processor_time(child.0.pid());
    assert!(used < Duration::from_millis(300), "the owner has not spun meanwhile: {used:?}");
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| look(&name, 1));
        squeeze(MANY);
        assert_eq!(finder.join().unwrap().unwrap(), "two");
    });
}

/// How much processor time a process has used, in ticks of 10 ms. See proc_pid_stat(5).
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
}

/// Publishes a name, and stays.
fn stays(name: String, ready: Sender<i32>) {
    let _owned = own(&name).unwrap();
    ready.send(threads::getpid()).unwrap();
    std::thread::sleep(LONG * 1000);
}

/// A child that has published a name.
fn child(method: StartMethod) -> (Ends<()>, String) {
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let child = Process::new(stays, (name.clone(), its_ready)).start_method(method).start().unwrap();
    ready.recv().unwrap();
    (Ends(child), name)
}

/// Makes a test for each start method. Fork wants a process with one thread.
macro_rules! for_each_method {
    ($(fn $name:ident($method:ident) $body:block)*) => {
        $(mod $name {
            use super::*;

            fn check($method: StartMethod) $body

            #[multiproc::test]
            fn forkserver() {
                check(StartMethod::ForkServer)
            }

            #[multiproc::test]
            fn spawn() {
                check(StartMethod::Spawn)
            }

            #[multiproc::test]
            fn fork() {
                alone(|| check(StartMethod::Fork))
            }
        })*
    };
}

for_each_method! {
    fn name_ends_with_owner(method) {
        let (owner, name) = child(method);
        assert_eq!(look(&name, 0).unwrap(), "one");
        let taken = own(&name).err().unwrap();
        assert!(matches!(&taken, NameError::Taken { owner: Some(pid), .. } if *pid == owner.0.pid()), "{taken}");
        owner.0.kill().unwrap();
        owner.0.wait_timeout(LONG).unwrap().expect("it hangs");
        assert_free(&name);
    }

    fn name_ends_with_any_exit(method) {
        let leaves = |name: String, how: u8| {
            std::mem::forget(own(&name).unwrap());
            match how {
                0 => {}
                1 => panic!("as the test wants it"),
                2 => std::process::abort(),
                _ => std::process::exit(3),
            }
        };
        for how in 0..4 {
            let name = unique();
            let child = Process::new(leaves, (name.clone(), how)).start_method(method).start().unwrap();
            child.wait_timeout(LONG).unwrap().expect("it hangs");
            assert_free(&name);
        }
    }
}

#[multiproc::test]
fn name_ends_with_exec() {
    let name = unique();
    let (its_ready, ready) = one_way::<()>().unwrap();
    let becomes = |name: String, _ready: Sender<()>| {
        std::mem::forget(own(&name).unwrap());
        let error = std::process::Command::new("sleep").arg("1000").exec();
        panic!("{error}");
    };
    let child = Ends(Process::new(becomes, (name.clone(), its_ready)).start().unwrap());
    // Closed by the exec too.
    assert!(ready.recv().unwrap_err().is_disconnected());
    assert!(child.0.is_alive());
    assert_free(&name);
}

#[multiproc::test]
fn names_are_not_inherited() {
    let name = unique();
    let owned = own(&name).unwrap();
    let children = [StartMethod::ForkServer, StartMethod::Spawn].map(child);
    drop(owned);
    let owned = own(&name).unwrap();
    // Nor has one the old server, or a standby.
    assert_eq!(
        Process::new(|name: String| look(&name, 0).unwrap(), (name.clone(),)).start().unwrap().join().unwrap(),
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
fn stopped_owner() {
    let (owner, name) = child(StartMethod::ForkServer);
    owner.0.signal(libc::SIGSTOP).unwrap();
    wait_stopped(owner.0.pid());
    for _ in 0..3 {
        let error = find(&name, 0, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert!(matches!(&error, NameError::Timeout { owner: Some(pid), .. } if *pid == owner.0.pid()), "{error}");
    }
    let error = withdraw(&name, Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&error, NameError::Timeout { .. }), "{error}");
    assert!(matches!(find(&name, 0, Instant::now()), Err(NameError::Timeout { .. })));
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| look(&name, 0));
        owner.0.kill().unwrap();
        assert!(matches!(finder.join().unwrap(), Err(NameError::NotFound { .. })));
    });
}

#[multiproc::test]
fn continued_owner() {
    let (owner, name) = child(StartMethod::Spawn);
    owner.0.signal(libc::SIGSTOP).unwrap();
    wait_stopped(owner.0.pid());
    std::thread::scope(|scope| {
        let finders: Vec<_> = (0..20).map(|_| scope.spawn(|| look(&name, 1))).collect();
        owner.0.signal(libc::SIGCONT).unwrap();
        for finder in finders {
            assert_eq!(finder.join().unwrap().unwrap(), "two");
        }
    });
}

#[multiproc::test]
fn killed_owner() {
    let mut found = 0;
    for round in 0..30 {
        let (owner, name) = child(StartMethod::ForkServer);
        std::thread::scope(|scope| {
            let finders: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut found = 0;
                        loop {
                            match look(&name, 0) {
                                Ok(text) => assert_eq!(text, "one"),
                                Err(NameError::NotFound { .. }) => return found,
                                Err(error) => panic!("{error}"),
                            }
                            found += 1;
                        }
                    })
                })
                .collect();
            (0..round * 2).for_each(|_| std::thread::yield_now());
            owner.0.kill().unwrap();
            found += finders.into_iter().map(|finder| finder.join().unwrap()).sum::<u32>();
        });
        owner.0.wait_timeout(LONG).unwrap().expect("it hangs");
        assert_free(&name);
    }
    assert!(found > 0);
}

/// Makes a copy of this process that does `live`, and gives its pid.
fn copy(live: impl FnOnce()) -> i32 {
    // SAFETY: the keeper is the only other thread, and what it may be in the middle of is what is tested.
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

/// Kills a process that isn't waited for by this one.
fn kill_other(pid: i32) {
    if let Ok(pidfd) = pidfd::open(pid) {
        let _ = pidfd::send_signal(&pidfd, libc::SIGKILL);
    }
}

#[multiproc::test]
fn forked_copy_does_not_keep_name() {
    fn copied(name: String, ready: Sender<i32>) {
        let owned = own(&name).unwrap();
        // In the middle of it, too.
        let _guest = client(&name);
        assert_eq!(look(&name, 0).unwrap(), "one");
        ready.send(copy(pause)).unwrap();
        pause();
        drop(owned);
    }
    let name = unique();
    let (its_ready, ready) = one_way().unwrap();
    let owner = Ends(Process::new(copied, (name.clone(), its_ready)).start().unwrap());
    let copy = ready.recv().unwrap();
    assert_eq!(look(&name, 0).unwrap(), "one");
    owner.0.kill().unwrap();
    owner.0.wait_timeout(LONG).unwrap().expect("it hangs");
    assert!(threads::exists(copy));
    assert_free(&name);
    kill_other(copy);
}

#[multiproc::test]
fn forked_copy_has_own_names() {
    alone(|| {
        let (name, its) = (unique(), unique());
        let mut owned = Some(own(&name).unwrap());
        let pid = copy(|| {
            assert!(!owned.as_ref().unwrap().published.is_live());
            owned = None;
            assert_eq!(look(&name, 0).unwrap(), "one", "the original's");
            assert!(own(&name).is_err());
            let its_own = own(&its).unwrap();
            assert_eq!(look(&its, 1).unwrap(), "two");
            drop(its_own);
            assert_free(&its);
            assert_eq!(threads::count().unwrap(), 1);
        });
        assert_eq!(wait_for(pid), 0);
        assert_eq!(look(&name, 0).unwrap(), "one");
        assert!(owned.as_ref().unwrap().published.is_live());
        drop(owned);
        assert_free(&name);
    });
}

#[multiproc::test]
fn fork_at_any_moment() {
    alone(|| {
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
            assert_eq!(look(&name, 0).unwrap(), "one");
            drop(owned);
        }
        drop(stop);
        forker.join().unwrap();
    });
}

#[multiproc::test]
fn raw_fork() {
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
    assert_eq!(look(&name, 0).unwrap(), "one");
    owner.0.kill().unwrap();
    owner.0.wait_timeout(LONG).unwrap().expect("it hangs");
    assert!(matches!(look(&name, 0), Err(NameError::NotFound { .. })));
    // It has the socket, and nobody can do anything about it.
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
    let ended = pidfd::open(copy).unwrap();
    kill_other(copy);
    poll::wait_readable(&ended, Some(late())).unwrap();
    assert_free(&name);
}

/// Becomes another user, if it may.
fn becomes_stranger() -> bool {
    // SAFETY: they take numbers.
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
        assert!(matches!(look(&name, 0), Err(NameError::NotFound { .. })), "names of its own");
        let client = socket::connect_for_packets(&place, Some(late())).unwrap();
        let _ = fd_passing::send(&client, &[&Request::Find(0).to_bytes()], &[]);
        // An error first, if it was closed with something unread.
        let answer = told(&client).or_else(|| told(&client));
        assert_eq!(answer, Some(Ok(Answer::NotServed)));
    };
    Process::new(stranger, (name.clone(), place(&name).unwrap())).start().unwrap().join().unwrap();
    assert_eq!(look(&name, 0).unwrap(), "one");
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
    let planter = Ends(Process::new(plants, (place(&name).unwrap(), its_ready)).start().unwrap());
    if !ready.recv().unwrap() {
        return;
    }
    let error = look(&name, 0).unwrap_err();
    assert!(matches!(&error, NameError::Refused { why: NameRefusal::OtherUser(60_127), .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", planter.0.pid())), "{error}");
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
}

#[multiproc::test]
fn closed_listener_fd() {
    alone(|| {
        let before: Vec<i32> = open_numbers();
        let name = unique();
        let owned = own(&name).unwrap();
        // The set of epoll(7), the one that has names in it.
        for fd in open_numbers().into_iter().filter(|fd| !before.contains(fd)) {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            if info.matches("tfd:").count() > 0 {
                // Something that can't be waited at is in its place.
                let file = File::open("/dev/null").unwrap();
                // SAFETY: it replaces a descriptor, as a program might that closes what it doesn't know.
                unsafe { libc::dup2(file.as_raw_fd(), fd) };
            }
        }
        // It is told when it comes to look.
        let found = look(&name, 0);
        assert!(matches!(found, Ok(_) | Err(NameError::NotFound { .. })));
        drop(owned);
        // A thread that has been joined is on the kernel's list a moment longer.
        while keepers() > 0 {
            std::thread::yield_now();
        }
        let _owned = own(&name).unwrap();
        assert_eq!(look(&name, 0).unwrap(), "one");
    });
}

fn open_numbers() -> Vec<i32> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}
