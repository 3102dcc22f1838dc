//! Open files, pipe ends and sockets that are sent to another process and back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use multiproc::process::{JoinErrorKind, StartError};
use multiproc::sync::Event;
use multiproc::{Handle, Process, Run, StartMethod};
use serde::{Deserialize, Serialize};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sets the soft limit of open files of this process.
fn set_limit(soft: u64) {
    // SAFETY: the pointers are to local structures.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// Whether `fd` is as every descriptor that was sent must be: above 2, and close-on-exec.
fn is_proper(fd: impl AsFd) -> bool {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the call accesses no memory.
    fd > 2 && unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0
}

/// An unlinked file that holds `text`, positioned at its beginning.
fn file_with(text: &str) -> File {
    let scratch = common::Scratch::new();
    let path = scratch.path("file");
    std::fs::write(&path, text).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn read_all(mut file: impl Read) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A pipe that contains `text`, followed by the end of the stream.
fn pipe_with(text: &str) -> PipeReader {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader
}

for_each_method! {
    fn file(method) {
        let mut file = file_with("one two three");
        let child = Process::new(
            |mut file: Handle<File>| {
                assert!(is_proper(&file));
                let mut text = [0; 4];
                file.read_exact(&mut text).unwrap();
                text
            },
            (file.try_clone().unwrap().into(),),
        );
        assert_eq!(&child.start_method(method).start().unwrap().join().unwrap(), b"one ");
        // They share the position.
        assert_eq!(file.stream_position().unwrap(), 4);
        assert_eq!(read_all(&file), "two three");
    }

    fn pipes_and_sockets(method) {
        type Pairs = (
            (Handle<PipeReader>, Handle<PipeWriter>),
            (Handle<UnixStream>, Handle<UnixDatagram>),
            (Handle<TcpStream>, Handle<UdpSocket>),
            Handle<OwnedFd>,
        );
        fn answer(((reader, mut writer), (mut stream, datagram), (mut tcp, udp), fd): Pairs) -> String {
            let text = read_all(reader.into_inner());
            writer.write_all(b"pipe").unwrap();
            stream.write_all(b"stream").unwrap();
            datagram.send(b"datagram").unwrap();
            tcp.write_all(b"tcp").unwrap();
            udp.send(b"udp").unwrap();
            File::from(fd.into_inner()).write_all(b"fd").unwrap();
            text
        }
        let reader = pipe_with("request");
        let (answers, writer) = std::io::pipe().unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        let (datagram, their_datagram) = UnixDatagram::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let their_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        their_udp.connect(udp.local_addr().unwrap()).unwrap();
        let (last, fd) = std::io::pipe().unwrap();
        let arguments: Pairs = (
            (reader.into(), writer.into()),
            (theirs.into(), their_datagram.into()),
            (tcp.into(), their_udp.into()),
            OwnedFd::from(fd).into(),
        );
        let child = Process::new(answer, (arguments,)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), "request");
        assert_eq!(read_all(answers), "pipe");
        assert_eq!(read_all(stream), "stream");
        assert_eq!(read_all(accepted), "tcp");
        assert_eq!(read_all(last), "fd");
        let mut message = [0; 100];
        for (socket, expected) in [(OwnedFd::from(datagram), "datagram"), (OwnedFd::from(udp), "udp")] {
            let len = UdpSocket::from(socket).recv(&mut message).unwrap();
            assert_eq!(&message[..len], expected.as_bytes());
        }
    }

    fn tcp_listener(method) {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let scratch = common::Scratch::new();
        let path = scratch.path("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let child = Process::new(
            |tcp: Handle<TcpListener>, unix: Handle<UnixListener>| {
                (read_all(tcp.accept().unwrap().0), read_all(unix.accept().unwrap().0))
            },
            (tcp.into(), unix.into()),
        );
        let child = Ends(child.start_method(method).start().unwrap());
        TcpStream::connect(address).unwrap().write_all(b"by tcp").unwrap();
        UnixStream::connect(path).unwrap().write_all(b"by unix").unwrap();
        assert!(child.wait_timeout(LONG).unwrap().unwrap().success());
    }

    fn command_pipes(method) {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin: Handle<ChildStdin> = cat.stdin.take().unwrap().into();
        let stdout: Handle<ChildStdout> = cat.stdout.take().unwrap().into();
        let child = Process::new(
            |stdin: Handle<OwnedFd>, stdout: Handle<OwnedFd>| {
                File::from(stdin.into_inner()).write_all(b"through the cat").unwrap();
                read_all(File::from(stdout.into_inner()))
            },
            (OwnedFd::from(stdin.into_inner()).into(), OwnedFd::from(stdout.into_inner()).into()),
        );
        assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), "through the cat");
        cat.wait().unwrap();
    }

    fn killed_child_closes(method) {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = Process::new(
            |mut writer: Handle<PipeWriter>| {
                writer.write_all(b"x").unwrap();
                sleep_long();
            },
            (writer.into(),),
        );
        let child = Ends(child.start_method(method).start().unwrap());
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        child.kill().unwrap();
        // No other process has kept it: not the parent, not the server.
        assert_eq!(reader.read(&mut byte).unwrap(), 0);
    }

    fn failed_start_closes(method) not_fork {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let process = Process::new(|_: Handle<PipeWriter>, _: common::Unwilling| (), (writer.into(), common::Unwilling));
        process.start_method(method).start().unwrap_err();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    fn results(method) {
        let child = Process::new(
            |text: String| {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(text.as_bytes()).unwrap();
                (Handle::new(reader), Handle::new(file_with("a file")))
            },
            ("a pipe".to_owned(),),
        );
        let child = child.start_method(method).start().unwrap();
        // They outlive the child.
        assert!(child.wait().unwrap().success());
        let (reader, file) = child.join().unwrap();
        assert!(is_proper(&reader) && is_proper(&file));
        assert_eq!((read_all(reader.into_inner()), read_all(file.into_inner())), ("a pipe".into(), "a file".into()));
    }

    fn error_with_handle(method) {
        let child = Process::new(|| Err::<(), _>(Handle::new(pipe_with("why"))), ());
        let error = child.start_method(method).start().unwrap().join().unwrap().unwrap_err();
        assert_eq!(read_all(error.into_inner()), "why");
    }

    fn thousand(method) {
        fn texts(readers: Vec<Handle<PipeReader>>) -> Vec<Handle<PipeReader>> {
            let texts: Vec<String> = readers.into_iter().map(|reader| read_all(reader.into_inner())).collect();
            texts.iter().map(|text| pipe_with(&format!("{text}!")).into()).collect()
        }
        let readers: Vec<Handle<PipeReader>> = (0..1000).map(|number| pipe_with(&number.to_string()).into()).collect();
        let back = Process::new(texts, (readers,)).start_method(method).start().unwrap().join().unwrap();
        assert_eq!(back.len(), 1000);
        for (number, reader) in back.into_iter().enumerate() {
            assert_eq!(read_all(reader.into_inner()), format!("{number}!"));
        }
    }

    fn beside_large_value(method) {
        let child = Process::new(
            |bytes: Vec<u8>, reader: Handle<PipeReader>| (bytes, Handle::new(pipe_with(&read_all(reader.into_inner())))),
            (vec![7; 3 << 20], pipe_with("beside").into()),
        );
        let (bytes, reader) = child.start_method(method).start().unwrap().join().unwrap();
        assert!(bytes.len() == 3 << 20 && bytes.iter().all(|byte| *byte == 7));
        assert_eq!(read_all(reader.into_inner()), "beside");
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nested {
    #[serde(with = "multiproc::handle")]
    file: File,
    list: Vec<Handle<PipeReader>>,
    map: HashMap<String, Handle<PipeReader>>,
    none: Option<Handle<File>>,
    some: Option<Box<Handle<PipeReader>>>,
    choice: Choice,
}

#[derive(Debug, Serialize, Deserialize)]
enum Choice {
    Unit,
    Newtype(Handle<PipeReader>),
    Struct {
        #[serde(with = "multiproc::handle")]
        reader: PipeReader,
    },
}

/// Is sent as MessagePack, and decoded by trying one variant after another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    /// Differs from the next variant in the second field.
    Pair {
        reader: Handle<PipeReader>,
        number: u32,
    },
    Text {
        reader: Handle<PipeReader>,
        number: String,
    },
    Bare(Handle<PipeReader>),
}

impl Run for Nested {
    type Output = Vec<String>;

    fn run(self) -> Vec<String> {
        let mut texts = vec![read_all(self.file)];
        texts.extend(self.list.into_iter().map(|reader| read_all(reader.into_inner())));
        let mut map: Vec<_> = self.map.into_iter().collect();
        map.sort_by(|(a, _), (b, _)| a.cmp(b));
        texts.extend(map.into_iter().map(|(key, reader)| key + &read_all(reader.into_inner())));
        assert!(self.none.is_none());
        texts.extend(self.some.map(|reader| read_all(reader.into_inner())));
        match self.choice {
            Choice::Unit => {}
            Choice::Newtype(reader) => texts.push(read_all(reader.into_inner())),
            Choice::Struct { reader } => texts.push(read_all(reader)),
        }
        texts
    }
}

for_each_method! {
    fn nested_in_value(method) {
        for (choice, last) in [
            (Choice::Unit, None),
            (Choice::Newtype(pipe_with("newtype").into()), Some("newtype")),
            (Choice::Struct { reader: pipe_with("struct") }, Some("struct")),
        ] {
            let value = Nested {
                file: file_with("file"),
                list: vec![pipe_with("first").into(), pipe_with("second").into()],
                map: ('a'..'f').map(|key| (key.into(), pipe_with(&format!("={key}")).into())).collect(),
                none: None,
                some: Some(Box::new(pipe_with("some").into())),
                choice,
            };
            let texts = value.process().start_method(method).start().unwrap().join().unwrap();
            let expected = ["file", "first", "second", "a=a", "b=b", "c=c", "d=d", "e=e", "some"].into_iter().chain(last);
            assert_eq!(texts, expected.collect::<Vec<_>>());
        }
    }

    fn self_describing_types(method) {
        fn texts(values: Vec<Untagged>) -> Vec<String> {
            let text = |value| match value {
                Untagged::Number(number) => number.to_string(),
                Untagged::Pair { reader, number } => format!("{} {number}", read_all(reader.into_inner())),
                Untagged::Text { reader, number } => format!("{} {number:?}", read_all(reader.into_inner())),
                Untagged::Bare(reader) => read_all(reader.into_inner()),
            };
            values.into_iter().map(text).collect()
        }
        let values = vec![
            Untagged::Number(0),
            Untagged::Bare(pipe_with("bare").into()),
            Untagged::Pair { reader: pipe_with("pair").into(), number: 7 },
            Untagged::Text { reader: pipe_with("text").into(), number: "seven".into() },
        ];
        let child = Process::new(texts, (values,)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), ["0", "bare", "pair 7", "text \"seven\""]);
    }

    fn closed_fd(method) not_fork {
        let error = Process::new(|_: Closed| (), (Closed,)).name("p").start_method(method).start().unwrap_err();
        assert!(matches!(&error, StartError::Encode { process, .. } if process == "p"), "{error}");
        assert!(error.to_string().contains("Bad file descriptor"), "{error}");
    }
}

/// A handle with a closed descriptor.
#[derive(Deserialize)]
struct Closed;

impl Serialize for Closed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // SAFETY: beyond the limit of open files, so the number is not in use; the only call on it
        // fails.
        let closed = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
        multiproc::handle::serialize(&closed, serializer)
    }
}

#[test]
fn other_serializers() {
    let handle = Handle::new(pipe_with(""));
    let error = serde_json::to_string(&handle).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
    let error = serde_json::from_str::<Handle<PipeReader>>(r#"{"multiproc::handle":0}"#).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

/// A forged reference to a handle, with a number of the test's choice.
#[derive(Serialize)]
struct Forged {
    #[serde(rename = "multiproc::handle")]
    place: u32,
}

impl<'de> Deserialize<'de> for Forged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Forged, D::Error> {
        Handle::<OwnedFd>::deserialize(deserializer).map(|_| Forged { place: 0 })
    }
}

#[multiproc::test]
fn invalid_index() {
    for place in [1, u32::MAX] {
        let arguments = (Handle::new(pipe_with("")), Forged { place });
        let error = Process::new(|_: Handle<PipeReader>, _: Forged| (), arguments).start().unwrap_err();
        assert!(error.to_string().contains(&format!("no handle number {place}")), "{error}");
    }
}

/// Returns what `target` reports of its descriptors in a process of its own, where no other code
/// opens any. (It must call `set_standby(false)`: a standby has descriptors in its parent, and
/// comes and goes.)
fn alone<T: Serialize + serde::de::DeserializeOwned + 'static>(target: fn(StartMethod) -> T) -> [T; 2] {
    [StartMethod::ForkServer, StartMethod::Spawn]
        .map(|method| Process::new(target, (method,)).start().unwrap().join().unwrap())
}

#[multiproc::test]
fn drops() {
    fn rounds(method: StartMethod) -> Vec<usize> {
        multiproc::process::set_standby(false);
        fn handles(count: usize) -> Vec<Handle<PipeReader>> {
            (0..count).map(|_| pipe_with("").into()).collect()
        }
        let round = || {
            for count in [1, 16, 17, 300] {
                // Everything succeeds.
                let echo = Process::new(|list: Vec<Handle<PipeReader>>| list, (handles(count),));
                assert_eq!(echo.start_method(method).start().unwrap().join().unwrap().len(), count);
                // A result that is never taken.
                let echo = Process::new(|list: Vec<Handle<PipeReader>>| list, (handles(count),));
                echo.start_method(method).start().unwrap().wait().unwrap();
                // An argument that can't be sent.
                let unwilling = Process::new(
                    |_: Vec<Handle<PipeReader>>, _: common::Unwilling| (),
                    (handles(count), common::Unwilling),
                );
                unwilling.start_method(method).start().unwrap_err();
                // A child that dies with the handles.
                let sleeper = Process::new(
                    |list: Vec<Handle<PipeReader>>| {
                        sleep_long();
                        list
                    },
                    (handles(count),),
                );
                let sleeper = sleeper.start_method(method).start().unwrap();
                sleeper.kill().unwrap();
                sleeper.wait().unwrap();
                // A result that can't be sent.
                let unwilling =
                    Process::new(|list: Vec<Handle<PipeReader>>| (list, common::Unwilling), (handles(count),));
                let error = unwilling.start_method(method).start().unwrap().join().unwrap_err();
                assert!(matches!(error.kind(), JoinErrorKind::Encode(_)), "{error}");
            }
        };
        round();
        (0..3)
            .map(|_| {
                round();
                open_descriptors()
            })
            .collect()
    }
    for counts in alone(rounds) {
        assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{counts:?}");
    }
}

#[multiproc::test]
fn no_other_fds() {
    fn count(method: StartMethod) -> (usize, usize) {
        multiproc::process::set_standby(false);
        let get = |count: usize| {
            let list: Vec<Handle<PipeReader>> = (0..count).map(|_| pipe_with("").into()).collect();
            let child = Process::new(|list: Vec<Handle<PipeReader>>| (list, open_descriptors()).1, (list,));
            child.start_method(method).start().unwrap().join().unwrap()
        };
        (get(10) - get(0), get(500) - get(0))
    }
    for counts in alone(count) {
        assert_eq!(counts, (10, 500));
    }
}

#[multiproc::test]
fn open_file_limit_at_start() {
    fn sweep(method: StartMethod) -> (usize, usize, Vec<usize>) {
        multiproc::process::set_standby(false);
        // The server, if there is one, is started with a limit that is high enough for it.
        set_limit(4096);
        Process::new(|| (), ()).start_method(method).start().unwrap().join().unwrap();
        let list: Vec<Handle<PipeReader>> = (0..20).map(|number| pipe_with(&number.to_string()).into()).collect();
        let open = open_descriptors();
        let (mut failed, mut started) = (0, 0);
        let mut counts = Vec::new();
        for spare in 0..40 {
            let arguments = (list.iter().map(|reader| reader.try_clone().unwrap().into()).collect::<Vec<Handle<_>>>(),);
            let process = Process::new(|list: Vec<Handle<PipeReader>>| list.len(), arguments).name("p");
            // The open descriptors have the lowest numbers, as none has been closed in between.
            set_limit((open - 1 + list.len() + spare) as u64);
            let result = process.start_method(method).start();
            set_limit(4096);
            match result {
                Ok(child) => {
                    started += 1;
                    assert_eq!(child.join().unwrap(), 20);
                }
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().starts_with("cannot start p: "), "{error}");
                    assert!(error.to_string().contains("Too many open files"), "{error}");
                }
            }
            counts.push(open_descriptors());
        }
        (failed, started, counts)
    }
    for (failed, started, counts) in alone(sweep) {
        assert!(failed >= 20 && started > 4, "{failed} {started}");
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    }
}

#[multiproc::test]
fn open_file_limit_at_join() {
    fn join(method: StartMethod) -> (String, Vec<String>) {
        multiproc::process::set_standby(false);
        set_limit(4096);
        // None returns before the limit is set: a start takes the report of a child that has ended.
        let limited = Event::new().unwrap();
        let start = |count: usize| {
            let target = |count: usize, limited: Event| -> Vec<Handle<PipeReader>> {
                limited.wait().unwrap();
                (0..count).map(|number| pipe_with(&number.to_string()).into()).collect()
            };
            Process::new(target, (count, limited.clone())).name("p").start_method(method).start().unwrap()
        };
        let child = start(3);
        let hopeless = start(3);
        let many = start(30);
        let open = open_descriptors() as u64;
        // One descriptor fits: `open` includes that of the directory that was listed, which is
        // closed again.
        set_limit(open - 1);
        limited.set();
        // The wait for the process succeeds all the same.
        assert!(child.wait().unwrap().success());
        let error = hopeless.join().unwrap_err();
        assert_eq!(error.process(), "p");
        assert!(matches!(error.kind(), JoinErrorKind::Wait(_)), "{error}");
        set_limit(open + 1);
        assert!(many.wait().unwrap().success());
        set_limit(4096);
        let read =
            |list: Vec<Handle<PipeReader>>| list.into_iter().map(|reader| read_all(reader.into_inner())).collect();
        let texts: Vec<String> = read(child.join().unwrap());
        assert_eq!(read(many.join().unwrap()).len(), 30);
        (error.to_string(), texts)
    }
    for (error, texts) in alone(join) {
        assert!(error.contains("Too many open files"), "{error}");
        assert_eq!(texts, ["0", "1", "2"]);
    }
}

#[multiproc::test]
fn too_many_in_flight() {
    /// As an unprivileged user, since the limit doesn't apply to others.
    fn limited(method: StartMethod) -> Option<(String, String)> {
        multiproc::process::set_standby(false);
        // SAFETY: the call accesses no memory.
        if unsafe { libc::setgid(60_125) != 0 || libc::setuid(60_125) != 0 } {
            return None;
        }
        set_limit(1000);
        let echo = |count: usize| {
            let list: Vec<Handle<PipeReader>> = (0..count).map(|_| pipe_with("").into()).collect();
            Process::new(|list: Vec<Handle<PipeReader>>| list.len(), (list,)).name("p").start_method(method).start()
        };
        assert_eq!(echo(100).unwrap().join().unwrap(), 100);
        let (a, b) = multiproc_os::fd_passing::pair().unwrap();
        for _ in 0..10 {
            multiproc_os::fd_passing::send(&a, &[b"."], &[a.as_fd(); 20]).unwrap();
        }
        set_limit(150);
        let few = echo(1).err().map_or("started".to_owned(), |error| error.to_string());
        let many = echo(20).unwrap_err().to_string();
        drop((a, b));
        // The descriptors in the socket are no longer in flight once the kernel has closed it.
        let deadline = std::time::Instant::now() + LONG;
        while echo(20).is_err() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        Some((few, many))
    }
    for errors in alone(limited) {
        let Some((few, many)) = errors else {
            return eprintln!("skipped: this needs the right to become another user");
        };
        for error in [few, many] {
            assert!(error.starts_with("cannot start p: ") && error.contains("in flight"), "{error}");
        }
    }
}
