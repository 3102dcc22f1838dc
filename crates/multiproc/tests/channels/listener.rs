//! Listeners and their clients: over Unix and TCP sockets, with and without a key, and what happens
//! when one side violates the protocol, or dies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, Scratch, for_each_method, sleep_long};
use multiproc::connection::{
    Address, ConnectErrorKind, Connection, Key, ListenErrorKind, Listener, RecvErrorKind, Refusal, RefusalReason,
    SendErrorKind, connect, connect_timeout,
};
use multiproc::{Handle, Process, Queue, StartMethod, wait_any};

/// Lengths in the protocol, see CONNECTION.md.
const HEADER: usize = 8;
const ANSWER: usize = 40;

fn key() -> Key {
    Key::new("a key")
}

fn local() -> Address {
    Address::Tcp("127.0.0.1:0".parse().unwrap())
}

/// Sets the soft limit of open files of this process, and returns the previous one.
fn set_limit(soft: u64) -> u64 {
    // SAFETY: the pointers are to local structures.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        before
    }
}

fn client(address: Address, key: Option<Key>) {
    let connection = connect::<String, usize>(address, key).unwrap();
    connection.send("hello".into()).unwrap();
    assert_eq!(connection.recv().unwrap(), 5);
    assert!(connection.recv().unwrap_err().is_disconnected());
}

/// Connects a client in another process to a listener in this one.
fn meets(method: StartMethod, address: &Address, key: Option<Key>) {
    let listener = Listener::bind(address, key.clone()).unwrap();
    let arguments = (listener.local_address().clone(), key);
    let child = Ends(Process::new(client, arguments).start_method(method).start().unwrap());
    let connection = listener.accept_timeout::<usize, String>(LONG).unwrap();
    connection.send(connection.recv().unwrap().len()).unwrap();
    drop(connection);
    let status = child.wait_timeout(LONG).unwrap().expect("timed out");
    assert!(status.success(), "{status}");
    assert_eq!(listener.take_refused(), []);
}

/// The peer process may be stopped: no call exceeds its timeout.
#[multiproc::test]
fn stopped_peer() {
    fn hold(address: Address) {
        let (connection, listener) =
            (connect::<u32, Vec<u8>>(address, key()).unwrap(), Listener::bind(local(), key()).unwrap());
        connection
            .send(match listener.local_address() {
                Address::Tcp(address) => u32::from(address.port()),
                _ => unreachable!("it is TCP"),
            })
            .unwrap();
        sleep_long();
    }
    const SOON: Duration = Duration::from_millis(20);
    for at in [local(), Address::unique()] {
        let listener = Listener::bind(at, key()).unwrap();
        let child = Ends(Process::new(hold, (listener.local_address().clone(),)).start().unwrap());
        let connection = listener.accept_timeout::<Vec<u8>, u32>(LONG).unwrap();
        let port = connection.recv_timeout(LONG).unwrap();
        child.signal(libc::SIGSTOP).unwrap();
        let begun = Instant::now();
        assert!(connection.try_recv().unwrap_err().is_empty());
        assert!(connection.recv_timeout(SOON).unwrap_err().is_empty());
        assert!(!connection.poll(SOON).unwrap());
        assert!(wait_any(&[&connection], SOON).unwrap().is_empty());
        // Until the buffers are full. Over TCP the kernel may make some more room in them.
        let is_late = |error: &SendErrorKind| {
            matches!(error, SendErrorKind::Full | SendErrorKind::Timeout | SendErrorKind::Unfinished)
        };
        let full = (0..10_000).find_map(|_| connection.send_timeout(vec![7; 30_000], SOON).err()).unwrap();
        assert!(is_late(full.kind()), "{full}");
        for _ in 0..3 {
            for sent in [connection.try_send(vec![7; 30_000]), connection.send_timeout(vec![7; 30_000], SOON)] {
                assert!(sent.as_ref().err().is_none_or(|error| is_late(error.kind())), "{sent:?}");
            }
        }
        let there = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port as u16)));
        let error = connect_timeout::<u8, u8>(there, key(), SOON).unwrap_err();
        assert!(matches!(error.kind(), ConnectErrorKind::Timeout), "{error}");
        assert_eq!(child.wait_timeout(SOON).unwrap(), None);
        assert!(listener.accept_timeout::<u8, u8>(SOON).unwrap_err().is_empty());
        child.terminate().unwrap();
        assert!(begun.elapsed() < LONG);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(-9));
    }
}

fn serve(listener: Listener) {
    while let Ok(connection) = listener.accept::<u32, u32>() {
        let _ = connection.recv().map(|number| connection.send(number + 1));
    }
}

for_each_method! {
    fn unix_path(method) {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        for key in [None, Some(key())] {
            meets(method, &path.as_str().into(), key);
            assert!(!std::path::Path::new(&path).exists(), "the socket is left behind");
        }
    }

    fn abstract_name(method) {
        for key in [None, Some(key())] {
            meets(method, &Address::unique(), key);
        }
    }

    fn tcp(method) {
        for key in [None, Some(key())] {
            meets(method, &local(), key);
        }
    }

    fn tcp6(method) {
        let address: SocketAddr = "[::1]:0".parse().unwrap();
        // Not every machine has IPv6.
        if std::net::TcpListener::bind(address).is_ok() {
            meets(method, &address.into(), Some(key()));
        }
    }

    fn killed_acceptor(method) {
        for address in [Address::unique(), local()] {
            let listener = Listener::bind(&address, key()).unwrap();
            let address = listener.local_address().clone();
            let [killed, _other] =
                [0; 2].map(|_| Ends(Process::new(serve, (listener.clone(),)).start_method(method).start().unwrap()));
            let ask = |number| {
                let connection = connect::<u32, u32>(&address, key())?;
                connection.send(number)?;
                Ok::<u32, multiproc::Error>(connection.recv()?)
            };
            for number in 0..20 {
                assert_eq!(ask(number).unwrap(), number + 1);
            }
            killed.kill().unwrap();
            killed.wait_timeout(LONG).unwrap().expect("timed out");
            for number in 0..20 {
                assert_eq!(ask(number).unwrap(), number + 1);
            }
        }
    }

    fn forked_copy_keeps_socket_file(method) {
        fn holder(listener: Listener) {
            assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
        }
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let listener = Listener::bind(path.as_str(), None).unwrap();
        let child = Process::new(holder, (listener.clone(),)).start_method(method).start().unwrap();
        child.join().unwrap();
        assert!(std::path::Path::new(&path).exists());
        drop(listener);
        assert!(!std::path::Path::new(&path).exists());
    }
}

/// The errors of both sides when a client has the key `theirs` and the listener has `ours`.
fn meet(address: &Address, theirs: Option<Key>, ours: Option<Key>) -> (ConnectErrorKind, RefusalReason) {
    let listener = Listener::bind(address, ours).unwrap();
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect_timeout::<u8, u8>(address, theirs, LONG));
    let refusal = refused(&listener);
    let error = client.join().unwrap().unwrap_err();
    let multiproc_error: multiproc::Error = connect::<u8, u8>(Address::unique(), None).unwrap_err().into();
    assert!(matches!(multiproc_error, multiproc::Error::Connect(_)), "{multiproc_error}");
    let reason = refusal.reason();
    match error {
        error if error.is_absent() => panic!("{error}"),
        error => (into_kind(error), reason),
    }
}

fn into_kind(error: multiproc::connection::ConnectError) -> ConnectErrorKind {
    match error.kind() {
        ConnectErrorKind::WrongKey => ConnectErrorKind::WrongKey,
        ConnectErrorKind::KeyMissing => ConnectErrorKind::KeyMissing,
        ConnectErrorKind::KeyUnknown => ConnectErrorKind::KeyUnknown,
        other => panic!("{other}"),
    }
}

/// Returns the next refused client.
fn refused(listener: &Listener) -> Refusal {
    let begun = Instant::now();
    loop {
        if let Some(refusal) = listener.take_refused().pop() {
            return refusal;
        }
        assert!(begun.elapsed() < LONG, "no client was refused");
        let accepted = listener.accept_timeout::<u8, u8>(Duration::from_millis(10));
        assert!(accepted.is_err_and(|error| error.is_empty()));
    }
}

#[multiproc::test]
fn wrong_key() {
    for address in [Address::unique(), local()] {
        let other = || Some(Key::new("another"));
        let (client, listener) = meet(&address, other(), Some(key()));
        assert!(matches!(client, ConnectErrorKind::WrongKey) && listener == RefusalReason::WrongKey);
        let (client, listener) = meet(&address, None, Some(key()));
        assert!(matches!(client, ConnectErrorKind::KeyMissing) && listener == RefusalReason::NoKey);
        let (client, listener) = meet(&address, other(), None);
        assert!(matches!(client, ConnectErrorKind::KeyUnknown) && listener == RefusalReason::UnknownKey);
    }
}

#[multiproc::test]
fn empty_key() {
    let error = Listener::bind(Address::unique(), Key::new("")).unwrap_err();
    assert!(error.to_string().ends_with("the key is empty"), "{error}");
    let error = connect::<u8, u8>(Address::unique(), Key::new("")).unwrap_err();
    assert!(error.to_string().ends_with("the key is empty"), "{error}");
}

/// Connects without this library, and returns the raw socket.
fn raw(listener: &Listener) -> UnixStream {
    let Address::Abstract(name) = listener.local_address() else { panic!("the address has a name") };
    let stream = UnixStream::connect_addr(&UnixAddress::from_abstract_name(name).unwrap()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn hello(keyed: bool) -> Vec<u8> {
    [&b"mpcl\x01\x01"[..], &[u8::from(keyed), 0], &[7; 32]].concat()
}

/// Asserts that a client with the key gets through, however many handshakes of others are under
/// way.
fn is_open(listener: &Listener) {
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect::<u8, u8>(address, key()).unwrap());
    let connection = listener.accept_timeout::<u8, u8>(LONG).unwrap();
    connection.send(1).unwrap();
    assert_eq!(client.join().unwrap().recv().unwrap(), 1);
}

#[multiproc::test]
fn wrong_protocol_and_version() {
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    for said in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x16\x03\x01\x02\0\x01\0", b"mpls\x01\0\x01\0", b"m?"]
    {
        let mut stream = raw(&listener);
        stream.write_all(said).unwrap();
        assert_eq!(refused(&listener).reason(), RefusalReason::OtherProtocol);
        // Closing a socket with unread data counts as a reset.
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)));
    }
    let mut stream = raw(&listener);
    stream.write_all(b"mpcl\x09\x01\x01\0").unwrap();
    assert_eq!(refused(&listener).reason(), RefusalReason::OtherVersion(9));
    let mut answer = [0; HEADER];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"mpls\x01\x01\x01\0");
    is_open(&listener);
}

#[multiproc::test]
fn not_a_listener() {
    for (said, text) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "it speaks another protocol"),
        (b"mpls\x09\0\x01\0", "the listener speaks version 9"),
        (b"mpls\x01\0", "has closed the connection"),
        (b"", "has closed the connection"),
    ] {
        let address = Address::unique();
        let Address::Abstract(name) = &address else { panic!("the address has a name") };
        let listener = UnixListener::bind_addr(&UnixAddress::from_abstract_name(name).unwrap()).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 40]).unwrap();
            stream.write_all(said).unwrap();
        });
        let error = connect_timeout::<u8, u8>(address, key(), LONG).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        server.join().unwrap();
    }
}

/// A listener that sends a client's own messages back to it has proved nothing.
#[multiproc::test]
fn reflection_and_replay() {
    let address = Address::unique();
    let Address::Abstract(name) = &address else { panic!("the address has a name") };
    let impostor = UnixListener::bind_addr(&UnixAddress::from_abstract_name(name).unwrap()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = impostor.accept().unwrap();
        let (mut hello, mut proof) = ([0; 40], [0; 32]);
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&[&b"mpls\x01\0\x01\0"[..], &hello[HEADER..]].concat()).unwrap();
        stream.read_exact(&mut proof).unwrap();
        stream.write_all(&[&b"mpls\x01\0\x01\0"[..], &[0; 16], &proof].concat()).unwrap();
        (hello, proof)
    });
    let error = connect_timeout::<u8, u8>(&address, key(), LONG).unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::WrongKey), "{error}");
    let (hello, proof) = server.join().unwrap();

    // Not the same address: a process that another test has made at this moment may still have the
    // impostor's socket.
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    let mut stream = raw(&listener);
    stream.write_all(&hello).unwrap();
    stream.write_all(&proof).unwrap();
    assert_eq!(refused(&listener).reason(), RefusalReason::WrongKey);
    let mut said = [0; ANSWER + HEADER];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(said[ANSWER + 5], 4, "it is told why");
    is_open(&listener);
}

#[multiproc::test]
fn killed_client() {
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    let hello = hello(true);
    for said in [0, 1, 4, 8, 20, 39, 40, 41, 71] {
        let bytes = [&hello[..], &[1; 32]].concat();
        let mut stream = raw(&listener);
        stream.write_all(&bytes[..said]).unwrap();
        drop(stream);
        if said > 0 {
            assert_eq!(refused(&listener).reason(), RefusalReason::Disconnected, "after {said} bytes");
        }
        is_open(&listener);
    }
}

#[multiproc::test]
fn silent_clients() {
    let mut listener = Listener::bind(Address::unique(), key()).unwrap();
    listener.set_handshake_timeout(Duration::from_secs(3));
    let silent: Vec<_> = (0..60)
        .map(|index| {
            let mut stream = raw(&listener);
            stream.write_all(&hello(true)[..index % 41]).unwrap();
            stream
        })
        .collect();
    is_open(&listener);
    let (begun, mut late) = (Instant::now(), Vec::new());
    while late.len() < silent.len() {
        assert!(begun.elapsed() < LONG, "{} have gone", late.len());
        let accepted = listener.accept_timeout::<u8, u8>(Duration::from_millis(10));
        assert!(accepted.is_err_and(|error| error.is_empty()));
        late.extend(listener.take_refused());
    }
    assert!(late.iter().all(|refusal| refusal.reason() == RefusalReason::Timeout), "{late:?}");
    for mut stream in silent {
        // The end of the stream, after the answer if there was one.
        assert!(stream.read_to_end(&mut Vec::new()).is_ok_and(|read| read % ANSWER == 0));
    }
    is_open(&listener);
}

#[multiproc::test]
fn silent_clients_beyond_the_limit() {
    fn connect_in_silence(address: Address, go: Queue<()>) {
        set_limit(2000);
        let Address::Abstract(name) = &address else { unreachable!("as it was made") };
        let name = UnixAddress::from_abstract_name(name).unwrap();
        let _silent: Vec<_> = (0..700).map(|_| UnixStream::connect_addr(&name).unwrap()).collect();
        go.put(()).unwrap();
        sleep_long();
    }
    common::in_a_process_with_one_thread(|| {
        let before = set_limit(600);
        let listener = Listener::bind(Address::unique(), key()).unwrap();
        let go = Queue::new().unwrap();
        let silent = (listener.local_address().clone(), go.clone());
        let _silent = Ends(Process::new(connect_in_silence, silent).start().unwrap());
        go.get().unwrap();
        for _ in 0..3 {
            is_open(&listener);
        }
        let refusals = listener.take_refused();
        assert!(!refusals.is_empty(), "there was room for all");
        assert!(refusals.iter().all(|one| one.reason() == RefusalReason::TooManyClients), "{refusals:?}");
        set_limit(before);
    });
}

/// Connects this many clients at once, each in a thread; all of them must be accepted.
fn all_in(listener: &Listener, clients: usize, acceptors: usize) {
    let address = listener.local_address().clone();
    let go = Arc::new(Barrier::new(clients));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (go, address) = (go.clone(), address.clone());
            let client = move || {
                go.wait();
                let connection =
                    connect_timeout::<u32, u32>(address, key(), LONG).map_err(|error| error.to_string())?;
                connection.recv().map_err(|error| error.to_string())
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(client).unwrap()
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let acceptors: Vec<_> = (0..acceptors)
        .map(|_| {
            let (listener, done) = (listener.clone(), done.clone());
            std::thread::spawn(move || {
                let mut accepted = Vec::new();
                while !done.load(SeqCst) {
                    match listener.accept_timeout::<u32, u32>(Duration::from_millis(50)) {
                        Ok(connection) => {
                            connection.send(7).unwrap();
                            accepted.push(connection);
                        }
                        Err(error) => assert!(error.is_empty(), "{error}"),
                    }
                }
            })
        })
        .collect();
    let outcomes: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    done.store(true, SeqCst);
    acceptors.into_iter().for_each(|acceptor| acceptor.join().unwrap());
    let failed: Vec<_> = outcomes.iter().filter(|outcome| **outcome != Ok(7)).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), outcomes.len(), failed.first());
}

/// A connection takes two descriptors at each end, and both ends are in this process.
const CROWD: usize = 600;

#[multiproc::test]
fn many_clients() {
    fn meet(acceptors: usize) {
        set_limit(CROWD as u64 * 10);
        for at in [local(), Address::unique()] {
            let listener = Listener::bind(at, key()).unwrap();
            all_in(&listener, CROWD, acceptors);
            assert_eq!(listener.take_refused(), []);
        }
    }
    for acceptors in [1, 4] {
        Process::new(meet, (acceptors,)).start().unwrap().join().unwrap();
    }
}

/// With few descriptors, clients are told to try again, and do.
#[multiproc::test]
fn many_clients_beyond_the_limit() {
    common::in_a_process_with_one_thread(|| {
        set_limit(150);
        for at in [local(), Address::unique()] {
            let listener = Listener::bind(at, key()).unwrap();
            let clients = Ends(Process::new(crowd, (listener.local_address().clone(),)).start().unwrap());
            while clients.is_alive() {
                match listener.accept_timeout::<u32, u32>(Duration::from_millis(20)) {
                    Ok(connection) => connection.send(7).unwrap(),
                    Err(error) => assert!(error.is_empty(), "{error}"),
                }
            }
            assert_eq!(clients.exit_code(), Some(0));
        }
    });
}

/// 300 clients, each of which connects, receives a value, and disconnects.
fn crowd(address: Address) {
    set_limit(2000);
    let go = Barrier::new(300);
    std::thread::scope(|scope| {
        for _ in 0..300 {
            let client = || {
                go.wait();
                let connection = connect_timeout::<u32, u32>(address.clone(), key(), LONG).unwrap();
                assert_eq!(connection.recv().unwrap(), 7);
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, client).unwrap();
        }
    });
}

/// The same where another process has the listener too, so that half-done handshakes move between
/// the processes.
#[multiproc::test]
fn many_clients_and_acceptors() {
    fn accept(listener: Listener) {
        set_limit(2000);
        loop {
            let connection = listener.accept::<u32, u32>().unwrap();
            connection.send(7).unwrap();
        }
    }
    let listener = Listener::bind(local(), key()).unwrap();
    let _acceptors = [(); 2].map(|()| Ends(Process::new(accept, (listener.clone(),)).start().unwrap()));
    let clients = Ends(Process::new(crowd, (listener.local_address().clone(),)).start().unwrap());
    assert!(clients.wait_timeout(LONG).unwrap().expect("timed out").success());
}

/// Relays what client and listener send, one byte at a time.
#[multiproc::test]
fn byte_by_byte() {
    let (listener, there, between, here) = with_one_between();
    fn pass(mut from: TcpStream, mut to: TcpStream) {
        let mut byte = [0];
        while matches!(from.read(&mut byte), Ok(1)) && to.write_all(&byte).is_ok() {}
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
    // A connection consists of two sockets.
    let relay = std::thread::spawn(move || {
        for _ in 0..2 {
            let (client, _) = between.accept().unwrap();
            let server = TcpStream::connect(there).unwrap();
            [&client, &server].into_iter().for_each(|stream| stream.set_nodelay(true).unwrap());
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to));
            std::thread::spawn(move || pass(server, client));
        }
    });
    let client = std::thread::spawn(move || connect::<String, String>(Address::Tcp(here), key()).unwrap());
    let connection = listener.accept_timeout::<String, String>(LONG).unwrap();
    let client = client.join().unwrap();
    relay.join().unwrap();
    client.send("one byte after the other".into()).unwrap();
    connection.send(connection.recv().unwrap().to_uppercase()).unwrap();
    assert_eq!(client.recv().unwrap(), "ONE BYTE AFTER THE OTHER");
    drop(connection);
    assert!(client.recv().unwrap_err().is_disconnected());
}

#[multiproc::test]
fn accept_without_fds() {
    common::in_a_process_with_one_thread(|| {
        let listener = Listener::bind(Address::unique(), key()).unwrap();
        let stream = raw(&listener);
        let mut taken = Vec::new();
        let before = set_limit(64);
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        let begun = Instant::now();
        let error = listener.accept_timeout::<u8, u8>(LONG).unwrap_err();
        assert!(begun.elapsed() < LONG);
        let ListenErrorKind::Accept(cause) = error.kind() else { panic!("{error}") };
        assert_eq!(cause.raw_os_error(), Some(libc::EMFILE));
        drop(taken);
        set_limit(before);
        drop(stream);
        is_open(&listener);
    });
}

#[multiproc::test]
fn address_in_use() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    for address in [Address::from(path.as_str()), Address::unique(), local()] {
        let listener = Listener::bind(address, None).unwrap();
        let error = Listener::bind(listener.local_address(), None).unwrap_err();
        assert!(error.is_in_use(), "{error}");
    }
    std::fs::write(&path, "no socket").unwrap();
    assert!(Listener::bind(path.as_str(), None).unwrap_err().is_in_use());
    let error: multiproc::Error = Listener::bind(scratch.path("no/where"), None).unwrap_err().into();
    assert!(error.to_string().contains("no/where"), "{error}");
}

#[multiproc::test]
fn long_path() {
    let scratch = Scratch::new();
    let directory = scratch.path(&"d".repeat(200));
    std::fs::create_dir(&directory).unwrap();
    let path = format!("{directory}/socket");
    meets(StartMethod::Spawn, &path.as_str().into(), Some(key()));
    // An address that can be bound can be connected to, and is replaced when its listener is dead;
    // one that can't be bound is an equally clear error at both sides.
    let room = 107 - scratch.path("").len();
    for len in [room - 1, room, room + 1, room + 2, 95, 150, 255, 256] {
        let path = scratch.path(&"f".repeat(len));
        let connected = |path: &str| connect_timeout::<u8, u8>(path, None, Duration::ZERO).unwrap_err();
        match Listener::bind(path.as_str(), None) {
            Ok(listener) => {
                assert!(matches!(connected(&path).kind(), ConnectErrorKind::Timeout), "{len}: {}", connected(&path));
                assert!(Listener::bind(path.as_str(), None).unwrap_err().is_in_use());
                drop(listener);
                assert!(connected(&path).is_absent());
                let dead = UnixListener::bind_addr(&UnixAddress::from_pathname(scratch.path("dead")).unwrap()).unwrap();
                // A process that another test has made at this moment may still have the socket.
                multiproc_os::socket::shut_down(&dead);
                drop(dead);
                std::fs::rename(scratch.path("dead"), &path).unwrap();
                assert!(connected(&path).is_absent());
                drop(Listener::bind(path.as_str(), None).unwrap());
            }
            Err(error) => {
                assert_eq!(len, 256, "{error}");
                let ListenErrorKind::Bind(bind) = error.kind() else { panic!("{error}") };
                let connected = connected(&path);
                let ConnectErrorKind::Io(connect) = connected.kind() else { panic!("{connected}") };
                assert_eq!(
                    (bind.raw_os_error(), connect.raw_os_error()),
                    (Some(libc::ENAMETOOLONG), Some(libc::ENAMETOOLONG))
                );
            }
        }
    }
}

#[multiproc::test]
fn invalid_address() {
    let abstract_name = |len| Address::Abstract(vec![b'n'; len]);
    for (address, what) in [
        (Address::from(""), "empty"),
        (Address::from("zero\0byte"), "zero byte"),
        (abstract_name(0), "empty"),
        (abstract_name(108), "107"),
    ] {
        let bind = Listener::bind(&address, None).unwrap_err().to_string();
        let connect = connect::<u8, u8>(&address, None).unwrap_err().to_string();
        assert!(bind.contains(what) && connect.contains(what), "{bind}; {connect}");
    }
    let longest = Address::Abstract([Key::random().unwrap().as_bytes(), &[b'n'; 107]].concat()[..107].to_vec());
    meets(StartMethod::Spawn, &longest, Some(key()));
}

#[multiproc::test]
fn symbolic_link() {
    let scratch = Scratch::new();
    let (link, target) = (scratch.path("link"), scratch.path("target"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let error = Listener::bind(link.as_str(), None).unwrap_err();
    assert!(error.is_in_use() && error.to_string().contains("symbolic link"), "{error}");
    let listener = Listener::bind(target.as_str(), key()).unwrap();
    let client = std::thread::spawn(move || connect::<u8, u8>(link.as_str(), key()).map(drop).map_err(|_| link));
    listener.accept_timeout::<u8, u8>(LONG).unwrap();
    client.join().unwrap().unwrap();
}

#[multiproc::test]
fn killed_listener() {
    fn listen_until_killed(path: String, ready: Queue<()>) {
        let _listener = Listener::bind(path, None).unwrap();
        ready.put(()).unwrap();
        sleep_long();
    }
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let ready = Queue::new().unwrap();
    let child = Ends(Process::new(listen_until_killed, (path.clone(), ready.clone())).start().unwrap());
    ready.get_timeout(LONG).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Listener::bind(path.as_str(), None).unwrap_err().is_in_use());
    child.kill().unwrap();
    child.wait_timeout(LONG).unwrap().expect("timed out");
    assert!(std::path::Path::new(&path).exists());
    assert!(connect::<u8, u8>(path.as_str(), None).unwrap_err().is_absent());
    meets(StartMethod::Spawn, &path.as_str().into(), Some(key()));
}

/// Clients that keep connecting hold up no other.
#[multiproc::test]
fn concurrent_handshakes_are_limited() {
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    let is_readable = || multiproc_os::poll::wait_readable(listener.as_fd(), Some(Instant::now())).unwrap();
    let _many: Vec<_> = (0..100).map(|_| raw(&listener)).collect();
    assert!(is_readable());
    assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
    assert!(is_readable(), "all were handled at once");
    is_open(&listener);
    assert!(!is_readable());
}

/// Pending clients make room for one that has proved that it knows the key.
#[multiproc::test]
fn open_file_limit() {
    fn client(address: Address, go: Queue<()>) {
        go.get().unwrap();
        connect::<u8, u8>(address, key()).unwrap().send(7).unwrap();
    }
    common::in_a_process_with_one_thread(|| {
        let listener = Listener::bind(Address::unique(), key()).unwrap();
        let go = Queue::new().unwrap();
        let address = listener.local_address().clone();
        let child = Ends(Process::new(client, (address, go.clone())).start().unwrap());
        let silent: Vec<_> = (0..8).map(|_| raw(&listener)).collect();
        // The listener keeps the pending clients.
        let _ = listener.as_fd();
        assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
        let before = set_limit(128);
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        go.put(()).unwrap();
        let connection = listener.accept_timeout::<u8, u8>(LONG).unwrap();
        assert_eq!(connection.recv().unwrap(), 7);
        drop((taken, silent));
        set_limit(before);
        child.wait_timeout(LONG).unwrap().expect("timed out");
        let refusals = listener.take_refused();
        assert!(refusals.iter().all(|one| one.reason() == RefusalReason::TooManyClients), "{refusals:?}");
    });
}

/// For an event loop.
#[multiproc::test]
fn silent_client_and_readiness() {
    let is_readable = |listener: &Listener, wait: Duration| {
        multiproc_os::poll::wait_readable(listener.as_fd(), Some(Instant::now() + wait)).unwrap()
    };
    let mut listener = Listener::bind(Address::unique(), key()).unwrap();
    listener.set_handshake_timeout(Duration::from_secs(3));
    let mut silent = raw(&listener);
    assert!(is_readable(&listener, LONG));
    assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
    assert!(!is_readable(&listener, Duration::ZERO), "the client has sent nothing");
    silent.write_all(b"mpcl").unwrap();
    assert!(is_readable(&listener, LONG));
    assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
    assert!(!is_readable(&listener, Duration::ZERO), "the client was handled");
    // When its time is up, the descriptor becomes readable once more.
    assert!(is_readable(&listener, LONG));
    assert!(listener.try_accept::<u8, u8>().unwrap_err().is_empty());
    assert_eq!(listener.take_refused().pop().unwrap().reason(), RefusalReason::Timeout);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert!(!is_readable(&listener, Duration::ZERO));
    // Waiting for the descriptor alone is enough to accept a client.
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect::<u8, u8>(address, key()).unwrap());
    let connection = loop {
        assert!(is_readable(&listener, LONG));
        match listener.try_accept::<u8, u8>() {
            Ok(connection) => break connection,
            Err(error) => assert!(error.is_empty(), "{error}"),
        }
    };
    drop(client.join().unwrap());
    assert!(connection.recv().unwrap_err().is_disconnected());
}

/// The two ends of a connection.
fn connected<S: Send + 'static, R: Send + 'static>(listener: &Listener) -> (Connection<S, R>, Connection<R, S>) {
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect::<R, S>(address, key()).unwrap());
    let connection = listener.accept_timeout(LONG).unwrap();
    (connection, client.join().unwrap())
}

#[multiproc::test]
fn handles() {
    type Sent = (Queue<u32>, Handle<std::fs::File>);
    let scratch = Scratch::new();
    let make = || {
        std::fs::write(scratch.path("file"), "text").unwrap();
        (Queue::new().unwrap(), Handle::new(std::fs::File::open(scratch.path("file")).unwrap()))
    };
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    let (ours, theirs) = connected::<Sent, ()>(&listener);
    let (queue, file) = make();
    queue.put(7).unwrap();
    ours.send((queue, file)).unwrap();
    let (queue, mut file) = theirs.recv().unwrap();
    assert_eq!(queue.get().unwrap(), 7);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");

    let listener = Listener::bind(local(), key()).unwrap();
    let (ours, theirs) = connected::<Sent, ()>(&listener);
    assert!(ours.send(make()).is_err());
    theirs.send(()).unwrap();
    ours.recv().unwrap();
}

/// This test is both programs: the second is started like any program, and knows only the address
/// of the first.
#[multiproc::test]
fn queue_to_unrelated_program() {
    const NAME: &str = "queue_to_unrelated_program";
    const ADDRESS: &str = "MULTIPROC_TEST_ADDRESS";
    if let Ok(path) = std::env::var(ADDRESS) {
        let connection = connect::<(), Queue<u32>>(path, key()).unwrap();
        connection.recv().unwrap().put(std::process::id()).unwrap();
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let listener = Listener::bind(path.as_str(), key()).unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let mut program = command
        .args(["--exact", &common::test_name(module_path!(), NAME)])
        .env(ADDRESS, &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let queue = Queue::new().unwrap();
    let connection = listener.accept_timeout::<Queue<u32>, ()>(LONG).unwrap();
    connection.send(queue.clone()).unwrap();
    assert_eq!(queue.get_timeout(LONG).unwrap(), program.id());
    assert!(program.wait().unwrap().success());
}

/// A listener and its address, and a socket in between, with its address, for a test that relays
/// the messages.
fn with_one_between() -> (Listener, SocketAddr, std::net::TcpListener, SocketAddr) {
    let listener = Listener::bind(local(), key()).unwrap();
    let &Address::Tcp(there) = listener.local_address() else { panic!("the address has a port") };
    let between = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let here = between.local_addr().unwrap();
    (listener, there, between, here)
}

/// Over TCP a client has two connections. Here the second does not get to the listener.
#[multiproc::test]
fn half_a_connection() {
    let (listener, there, between, here) = with_one_between();
    let relay = std::thread::spawn(move || {
        let (mut client, _) = between.accept().unwrap();
        let mut server = TcpStream::connect(there).unwrap();
        for len in [40, 32] {
            let mut said = vec![0; len];
            client.read_exact(&mut said).unwrap();
            server.write_all(&said).unwrap();
            let mut answer = vec![0; if len == 40 { ANSWER } else { 56 }];
            server.read_exact(&mut answer).unwrap();
            client.write_all(&answer).unwrap();
        }
        drop(between.accept().unwrap());
    });
    let client = std::thread::spawn(move || connect_timeout::<u8, u8>(Address::Tcp(here), key(), LONG));
    assert_eq!(refused(&listener).reason(), RefusalReason::Disconnected);
    let error = client.join().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::Disconnected), "{error}");
    relay.join().unwrap();
    is_open(&listener);
}

/// Over TCP, the second connection is passed to the process that has the first, through a socket
/// that any process may connect to.
#[multiproc::test]
fn unrelated_bytes() {
    let (listener, there, between, here) = with_one_between();
    let relay = std::thread::spawn(move || {
        let pass = |from: &mut TcpStream, to: &mut TcpStream, len| {
            let mut said = vec![0; len];
            from.read_exact(&mut said).unwrap();
            to.write_all(&said).unwrap();
            said
        };
        let (mut client, _) = between.accept().unwrap();
        let mut server = TcpStream::connect(there).unwrap();
        pass(&mut client, &mut server, 40);
        pass(&mut server, &mut client, ANSWER);
        pass(&mut client, &mut server, 32);
        let welcome = pass(&mut server, &mut client, 56);
        let name: String = welcome[HEADER..HEADER + 16].iter().map(|byte| format!("{byte:02x}")).collect();
        let stranger = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let place = UnixAddress::from_abstract_name(format!("multiproc/second/{name}")).unwrap();
        stranger.connect_addr(&place).unwrap();
        for fds in [0, 1, 5, 50] {
            let fds = vec![stranger.as_fd(); fds];
            multiproc_os::fd_passing::send(&stranger, &[b"something else"], &fds).unwrap();
        }
        let (mut second, _) = between.accept().unwrap();
        let mut server_second = TcpStream::connect(there).unwrap();
        pass(&mut second, &mut server_second, 56);
        pass(&mut server_second, &mut second, HEADER);
        (client, server, second, server_second)
    });
    let client = std::thread::spawn(move || connect_timeout::<u8, u8>(Address::Tcp(here), key(), LONG));
    let _accepted = listener.accept_timeout::<u8, u8>(LONG).unwrap();
    client.join().unwrap().unwrap();
    relay.join().unwrap();
    assert_eq!(listener.take_refused(), []);
}

#[multiproc::test]
fn message_limit() {
    for address in [Address::unique(), local()] {
        let mut listener = Listener::bind(address, key()).unwrap();
        listener.set_max_message(1000);
        let (ours, theirs) = connected::<(), Vec<u8>>(&listener);
        theirs.send_bytes(&[1; 5000]).unwrap();
        theirs.send_bytes(b"short").unwrap();
        let error = ours.recv_bytes().unwrap_err();
        assert!(matches!(error.kind(), RecvErrorKind::TooLong { limit: 1000, .. }), "{error}");
        assert_eq!(ours.recv_bytes().unwrap(), b"short");
    }
}

/// More than fits into the sockets' buffers.
fn large() -> Vec<u8> {
    vec![b'x'; 100_000_000]
}

/// Over TCP: nothing that is sent afterwards counts as part of the message that the dead sender has
/// begun.
#[multiproc::test]
fn killed_sender() {
    fn send(sender: multiproc::connection::Sender<()>) {
        sender.send_bytes(&large()).unwrap();
    }
    let listener = Listener::bind(local(), key()).unwrap();
    let (ours, theirs) = connected::<(), ()>(&listener);
    let child = Ends(Process::new(send, (ours.sender().clone(),)).start().unwrap());
    assert!(multiproc_os::poll::wait_readable(theirs.as_fd(), Some(Instant::now() + LONG)).unwrap());
    child.kill().unwrap();
    child.wait_timeout(LONG).unwrap().expect("timed out");
    assert!(ours.sender().send_bytes_timeout(b"small", LONG).unwrap_err().is_disconnected());
    assert!(theirs.receiver().recv_bytes_timeout(LONG).unwrap_err().is_disconnected());
    theirs.send_bytes(b"the other direction").unwrap();
    assert_eq!(ours.recv_bytes().unwrap(), b"the other direction");
}

/// Over TCP: no receiver takes the rest of a message for new messages.
#[multiproc::test]
fn killed_receiver() {
    fn poll(receiver: multiproc::connection::Receiver<()>, polled: Queue<bool>, drops: bool) {
        let is_there = receiver.poll(Duration::ZERO).unwrap();
        if drops {
            drop(receiver);
        }
        polled.put(is_there).unwrap();
        sleep_long();
    }
    let listener = Listener::bind(local(), key()).unwrap();
    for drops in [true, false] {
        let (ours, theirs) = connected::<(), ()>(&listener);
        let error = theirs.sender().try_send_bytes(&large()).unwrap_err();
        assert!(matches!(error.kind(), multiproc::connection::SendErrorKind::Unfinished), "{error}");
        assert!(multiproc_os::poll::wait_readable(ours.as_fd(), Some(Instant::now() + LONG)).unwrap());
        let polled = Queue::new().unwrap();
        let child = Ends(Process::new(poll, (ours.receiver().clone(), polled.clone(), drops)).start().unwrap());
        assert!(!polled.get_timeout(LONG).unwrap(), "the message is incomplete");
        if !drops {
            child.kill().unwrap();
            child.wait_timeout(LONG).unwrap().expect("timed out");
        }
        assert!(ours.receiver().recv_bytes_timeout(LONG).unwrap_err().is_disconnected());
        assert!(theirs.sender().send_bytes_timeout(b"small", LONG).unwrap_err().is_disconnected());
    }
}

/// Over TCP.
#[multiproc::test]
fn killed_between_messages() {
    fn echo(connection: Connection<String, String>) {
        connection.send(connection.recv().unwrap()).unwrap();
        connection.recv().unwrap();
    }
    let listener = Listener::bind(local(), key()).unwrap();
    let (ours, theirs) = connected::<String, String>(&listener);
    let child = Ends(Process::new(echo, (ours.clone(),)).start().unwrap());
    theirs.send("one".into()).unwrap();
    assert_eq!(theirs.recv().unwrap(), "one");
    child.kill().unwrap();
    child.wait_timeout(LONG).unwrap().expect("timed out");
    theirs.send("two".into()).unwrap();
    assert_eq!(ours.recv().unwrap(), "two");
    ours.send("three".into()).unwrap();
    assert_eq!(theirs.recv().unwrap(), "three");
}

/// Over TCP: both ends take turns, as clones do.
#[multiproc::test]
fn end_sent_to_own_process() {
    let listener = Listener::bind(local(), key()).unwrap();
    let (ours, theirs) = connected::<(), ()>(&listener);
    let ends = Queue::new().unwrap();
    ends.put((ours.sender().clone(), theirs.receiver().clone())).unwrap();
    let (second_sender, second_receiver) = ends.get().unwrap();
    let error = ours.sender().try_send_bytes(&large()).unwrap_err();
    assert!(matches!(error.kind(), multiproc::connection::SendErrorKind::Unfinished), "{error}");
    assert!(!theirs.poll(Duration::ZERO).unwrap());
    let sender = std::thread::spawn(move || second_sender.send_bytes(b"small").unwrap());
    assert!(second_receiver.recv_bytes().unwrap() == large());
    assert_eq!(theirs.recv_bytes().unwrap(), b"small");
    sender.join().unwrap();
}

#[multiproc::test]
fn waitable() {
    let listener = Listener::bind(Address::unique(), key()).unwrap();
    let queue = Queue::<u8>::new().unwrap();
    assert!(wait_any(&[&listener, &queue], Duration::from_millis(1)).unwrap().is_empty());
    let address = listener.local_address().clone();
    let client = std::thread::spawn(move || connect::<u8, u8>(address, key()).unwrap());
    assert_eq!(wait_any(&[&listener, &queue], LONG).unwrap(), [0]);
    let connection = listener.try_accept::<u8, u8>().unwrap();
    drop(client.join().unwrap());
    assert!(connection.recv().unwrap_err().is_disconnected());
    let _ = listener.as_fd();
}
