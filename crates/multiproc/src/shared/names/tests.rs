//! Names in one process: publishing, finding, withdrawing, and clients that send anything. What
//! happens when the owner is another process is tested in `tests/shared/names_owner.rs`.

// miri has no sockets of this kind.
#![cfg(not(miri))]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};

use multiproc_os::{memfd, random, threads};

use super::super::error::MemoryError;
use super::super::memory::SharedMemory;
use super::*;

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

/// Offers the result of a function.
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

/// Finds a name, and returns the text in the file.
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

/// Connects to the owner of a name, without sending a request.
fn client(name: &str) -> OwnedFd {
    socket::connect_for_packets(&socket_name(name).unwrap(), Some(late())).unwrap()
}

/// Waits for the answer to a client. None if the connection is closed without one.
fn answer(client: &OwnedFd) -> Option<Result<Answer, WireError>> {
    assert!(poll::wait_readable(client, Some(late())).unwrap());
    let mut bytes = [0; 64];
    match socket::try_read(client, &mut bytes) {
        Ok(0) => None,
        Err(error) if is_end(&error) => None,
        Ok(len) => Some(Answer::from_bytes(&bytes[..len])),
        Err(error) => panic!("{error}"),
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
    // The descriptors that were found stay open.
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
    // The first has no effect on the name any more.
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
        3 => panic!("for the test"),
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

/// An offer that owns its published name.
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
        // The keeper has the last reference now.
        drop(whole);
        go_on.send(()).unwrap();
        assert_eq!(finder.join().unwrap().unwrap(), "whole");
    });
    // The keeper drops it after the answer.
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
        assert_eq!(answer(&client), None, "{garbage:?}");
    }
    let newer = client(&name);
    fd_passing::send(&newer, &[b"mpnq\x02whatever there is in version 2"], &[]).unwrap();
    assert_eq!(answer(&newer), Some(Ok(Answer::OtherVersion(1))));
    // Clients that close the connection before the answer.
    for _ in 0..100 {
        fd_passing::send(client(&name), &[&Request::Find(0).to_bytes()], &[]).unwrap();
    }
    assert_eq!(look(&name, 0).unwrap(), "one");
    assert_eq!(answer(&silent), Some(Ok(Answer::Again)), "its time is up");
}

#[test]
fn oldest_clients_are_dropped() {
    let name = unique();
    let _owned = own(&name).unwrap();
    let clients: Vec<OwnedFd> = (0..300).map(|_| client(&name)).collect();
    for _ in 0..10 {
        assert_eq!(look(&name, 1).unwrap(), "two");
    }
    assert!(clients[..150].iter().all(|client| answer(client) == Some(Ok(Answer::Again))));
    // A client that sends its request late, but in time.
    let last = client(&name);
    assert_eq!(look(&name, 0).unwrap(), "one");
    fd_passing::send(&last, &[&Request::Find(1).to_bytes()], &[]).unwrap();
    assert_eq!(answer(&last), Some(Ok(Answer::Granted { count: 1 })));
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
        assert_eq!(answer(&client), None);
    }
}

/// Looks up a name at which a foreign program listens, which sends one of `answers`, with a number
/// of descriptors, to each connection.
fn find_at_foreign(answers: &[(&[u8], usize)]) -> Result<Vec<OwnedFd>, NameError> {
    let name = unique();
    let listening = CloseOnFork::make(socket::packet_socket).unwrap();
    socket::listen_for_packets(&listening, &socket_name(&name).unwrap()).unwrap();
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
    let here = Answer::Granted { count: 2 }.to_bytes();
    assert_eq!(find_at_foreign(&[(&here, 2)]).unwrap().len(), 2);
    // The connection is closed with the request unread, so the first read fails.
    let again = Answer::Again.to_bytes();
    assert_eq!(find_at_foreign(&[(&again, 0), (&again, 0), (&here, 2)]).unwrap().len(), 2);
    assert!(matches!(find_at_foreign(&[(b"", 0)]), Err(NameError::NotFound { .. })));
    let garbage: [(&[u8], usize); 6] =
        [(&here, 1), (&here, 3), (b"hello", 0), (&[0; 100], 1), (&Answer::Withdrawn.to_bytes(), 0), (&again, 1)];
    for answer in garbage {
        let error = find_at_foreign(&[answer]).unwrap_err();
        assert!(matches!(&error, NameError::OtherProtocol { owner: Some(_), .. }), "{answer:?}: {error}");
    }
    let error = find_at_foreign(&[(&Answer::OtherVersion(9).to_bytes(), 0)]).unwrap_err();
    assert!(matches!(&error, NameError::OtherVersion { theirs: 9, .. }), "{error}");
    let error = find_at_foreign(&[(&Answer::NotServed.to_bytes(), 0)]).unwrap_err();
    assert!(matches!(&error, NameError::Refused { why: NameRefusal::NotServed, .. }), "{error}");
    let error = find_at_foreign(&[(&Answer::Failed(libc::ETOOMANYREFS).to_bytes(), 0)]).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
}

#[test]
fn owner_does_not_answer() {
    let name = unique();
    // The kernel connects clients to the backlog, as with a stopped owner.
    let listening = CloseOnFork::make(socket::packet_socket).unwrap();
    socket::listen_for_packets(&listening, &socket_name(&name).unwrap()).unwrap();
    for _ in 0..3 {
        let error = find(&name, 0, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert!(matches!(&error, NameError::Timeout { owner: Some(pid), .. } if *pid == threads::getpid()), "{error}");
    }
    let error = withdraw(&name, Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&error, NameError::Timeout { .. }), "{error}");
    assert!(matches!(find(&name, 0, Instant::now()), Err(NameError::Timeout { .. })));
    assert!(matches!(own(&name), Err(NameError::Taken { .. })));
}
