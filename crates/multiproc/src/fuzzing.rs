//! Entry points for fuzzers: everything that decodes bytes from another process. Built for fuzzers
//! (`--cfg fuzzing`, which cargo-fuzz sets) and for this crate's own tests, which try a bounded
//! number of inputs.
//!
//! Each function accepts any bytes, panics if a guarantee is broken, and returns whether the bytes
//! were a valid message, so that the caller can see that it doesn't only send garbage. [`seeds`]
//! returns valid messages to start from.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use multiproc_os::credentials::{Capabilities, Ids};
use multiproc_os::settings::Settings;
use multiproc_os::{fd_passing, image, memfd};
use multiproc_shm::memory::scratch::Scratch;
use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::message::packet::{self, INLINE, Packet, PacketError};
use multiproc_shm::message::payload::{Bytes, Payload};
use multiproc_shm::queue::block::Block;
use multiproc_shm::queue::store::{Body, INLINE as STORED, Item, Limits, Place, Store};
use multiproc_shm::slot_table::{Content, SlotTable};
use multiproc_shm::wait::notifier::ViaHandle;

use crate::channel::{auth, connect, handshakes, stream};
use crate::shared::names::wire::{Answer, Request};
use crate::spec::child_spec::{self, ChildSpec};
use crate::spec::kind;
use crate::spec::method::StartMethod;
use crate::spec::options::{Options, Resource, Variable};
use crate::spec::process_info::ProcessInfo;
use crate::spec::report::{Failure, Report, receive_report};
use crate::spec::status::Panic;
use crate::spec::target;
use crate::spec::target::Entry;
use crate::start::{forkserver, handshake};
use crate::transfer::codec;

/// A function that decodes the bytes.
pub type Parser = fn(&[u8]) -> bool;

/// All parsers, with their names, which are also the names of the fuzz targets.
pub const PARSERS: [(&str, Parser); 12] = [
    ("packet", packet),
    ("codec", codec),
    ("request", request),
    ("child_spec", spec),
    ("handshake", handshake),
    ("report", report),
    ("image", image),
    ("queue", queue),
    ("slot_table", slot_table),
    ("greeting", greeting),
    ("frame", frame),
    ("name", name),
];

/// Returns the parser of this name.
pub fn parser(name: &str) -> Parser {
    let found = PARSERS.iter().find(|(other, _)| *other == name);
    found.unwrap_or_else(|| panic!("no parser {name}")).1
}

/// Returns valid messages for the parser of this name.
pub fn seeds(parser: &str) -> Vec<Vec<u8>> {
    let mut options = Options::default();
    options.environment = vec![Variable::Clear, Variable::set("NAME".into(), "value".into())];
    options.set_directory("/tmp".into());
    options.niceness = Some(-5);
    options.affinity = Some(vec![0, 1]);
    options.add_limit(Resource::AddressSpace, 16, 32);
    let spec = ChildSpec {
        info: ProcessInfo {
            name: "Process-1:2".into(),
            numbers: vec![1, 2],
            seed: 7,
            daemon: true,
            parent: Some(("MainProcess".into(), 1234)),
        },
        entry: Some(
            Entry::of(crate::process::run::enter::<crate::process::run::Call<fn(), ()>, _>)
                .expect("a function of this image"),
        ),
        options,
        outlives_parent: false,
        log: crate::spec::log_config::LogConfig::sample(),
        start_method: StartMethod::Spawn,
        grace_period: std::time::Duration::from_secs(5),
        handles_ctrl_c: true,
        standby: true,
        key: crate::spec::key::SigningKey::none(),
    };
    let with_tail = |front: Vec<u8>| [front, b"payload".to_vec()].concat();
    match parser {
        // The first byte selects the descriptors that are sent along.
        "packet" => vec![
            [&[0], &message(kind::START, b"inline")[..]].concat(),
            [&[5], &in_memory_file(kind::START, 64)[..]].concat(),
        ],
        "codec" => {
            let mut seeds = vec![
                encoded(&samples::plain()),
                encoded(&samples::SelfDescribing::List(vec![samples::SelfDescribing::Number { n: 7 }])),
                encoded(&samples::Unlike { word: Some("x".into()) }),
            ];
            seeds.extend(samples::structs().iter().map(encoded));
            seeds.extend(samples::variants().iter().map(encoded));
            seeds.extend(samples::tagged().iter().map(encoded));
            seeds.extend(samples::flat().iter().map(encoded));
            seeds
        }
        "request" => [false, true].map(|first| with_tail(forkserver::sample_request(first))).to_vec(),
        "child_spec" => vec![with_tail(child_spec::join(&spec))],
        "handshake" => vec![
            // After a valid greeting, then without one.
            [&[1], &message(kind::SERVE, b"")[..]].concat(),
            [&[1], &message(kind::START, &with_tail(child_spec::join(&spec)))[..]].concat(),
            [&[0], &message(kind::HELLO, b"ids and build id")[..]].concat(),
        ],
        "report" => {
            vec![
                [&[kind::RETURNED], &codec::pack(&7_u32)[..]].concat(),
                [
                    &[kind::FAILED],
                    &codec::pack(&Failure::Panicked(Panic {
                        message: "boom".into(),
                        location: Some("a.rs:1:2".into()),
                    }))[..],
                ]
                .concat(),
                [&[kind::FAILED], &codec::pack(&Failure::Encode("why".into()))[..]].concat(),
            ]
        }
        "image" => vec![
            b"\x04\0\0\0\x02\0\0\0\x05\0\0\0GNU\0ab\0\0\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0abcdefghijklmnopqrst"
                .to_vec(),
        ],
        // Whatever is put is taken. The second seed changes memory in between that is not read any
        // more.
        "queue" => vec![
            b"\x00\x00\x10\x00\x02\xf0\x00\x03\x00\x00\x03\x00\x00\x05\x00\x00".to_vec(),
            b"\x01\x02\xf0\x01\x00\x10\x01\x03\x00\x01\x06\x80\x01\x01\x03\x00\x00".to_vec(),
            b"\x02\x00\xff\x00\x02\xff\x00\x03\x00\x01\x04\x00\x00\x03\x00\x00\x03\x00\x00".to_vec(),
        ],
        // Whatever is written is read. After that, the directory is changed, and a head.
        "slot_table" => vec![
            b"\x07\x00\x10\x00\x01\x00\x00\x04\x00\x00".to_vec(),
            b"\x99\x00\x18\x01\x01\x00\x01\x06\x05\x81\x02\x03\x01\x07\x17\x05\x01\x00\x00\x04\x00\x00".to_vec(),
            b"\xff\x00\x08\x02\x03\x07\x02\x26\xff\x03\x05\x00\x02\x16\x81\x08\x05\x00\x00".to_vec(),
        ],
        // The first byte selects the receiver and its options, see [`greeting`].
        "greeting" => {
            let (nonce, name, mac) = ([1; auth::NONCE], [2; auth::NAME], [3; auth::MAC]);
            let said = |first: u8, parts: &[&[u8]]| [&[first], &parts.concat()[..]].concat();
            vec![
                said(0b100, &[&auth::hello(false, &nonce)]),
                said(0b101, &[&auth::hello(true, &nonce)]),
                said(0b000, &[&auth::second(false, &name, &mac)]),
                said(0b010, &[&auth::answer(false, &nonce), &auth::welcome(false, &name, &mac)]),
                said(0b011, &[&auth::answer(true, &nonce), &auth::welcome(true, &name, &mac)]),
                said(0b011, &[&auth::status(auth::REFUSED_KEY_WRONG, true)]),
            ]
        }
        "frame" => vec![
            stream::frames(&[(b'v', b"one"), (b'b', b""), (b'x', &[7; 100])]),
            stream::frames(&[(b'b', &[0; stream::LIMIT + 1]), (b'b', b"behind a long one")]),
        ],
        "name" => {
            let requests =
                [Request::Find(1), Request::Withdraw, Request::Greet].map(|request| request.to_bytes().to_vec());
            let answers = [Answer::Granted { count: 1 }, Answer::Failed(24), Answer::Again];
            requests.into_iter().chain(answers.map(|answer| answer.to_bytes().to_vec())).collect()
        }
        other => panic!("no parser {other}"),
    }
}

/// The encoded form of a value.
fn encoded<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Vec<u8> {
    codec::encode(&[], value).expect("it can be sent").bytes.open().expect("it is small").to_vec()
}

/// A payload of these bytes.
fn payload(bytes: &[u8]) -> Payload {
    Payload { bytes: Bytes::Inline(bytes.to_vec()), handles: FdBundle::default() }
}

/// A message with its front inside the packet.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let (ours, theirs) = fd_passing::pair().expect("a socket pair");
    packet::send(&ours, kind, &[body], &[]).expect("there is room for one");
    let len = fd_passing::peek(&theirs, &mut [], false).expect("it is there");
    fd_passing::receive(&theirs, len, false).expect("it is there").bytes
}

/// The header of a message with its front in a memory file.
fn in_memory_file(kind: u8, len: u64) -> Vec<u8> {
    let mut header = message(kind, b"");
    header[7] = 1;
    header[8..16].copy_from_slice(&len.to_le_bytes());
    header[30] = 1;
    header
}

/// Parses a message with descriptors. The first byte selects them: none, some, memory files that
/// are sealed or not.
fn packet(data: &[u8]) -> bool {
    const SIZE: usize = 64;
    let Some((first, bytes)) = data.split_first() else { return false };
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it can be opened"));
    let sealed = || memfd::sealed("fuzz", &[&[7; SIZE]]).expect("a memory file");
    let fds = || match first % 6 {
        0 => vec![],
        1 => vec![null()],
        2 => vec![memfd::allocate("fuzz", SIZE as u64).expect("a memory file")],
        3 => vec![sealed(), null()],
        4 => vec![null(), sealed()],
        _ => vec![sealed()],
    };
    let parsed = packet::parse(bytes.to_vec(), fds());
    if let Ok(packet) = &parsed {
        let bodies = [&packet.front, &packet.payload.bytes];
        let mapped = bodies.iter().filter(|body| matches!(body, Bytes::Mapped(_))).count();
        assert_eq!(packet.fds.len() + packet.payload.handles.parts().len() + mapped, fds().len());
        for body in bodies {
            match body {
                Bytes::Inline(body) => assert!(body.is_empty() || bytes.windows(body.len()).any(|part| part == body)),
                Bytes::Mapped(body) => assert!(body.len() <= SIZE && body.iter().all(|byte| *byte == 7)),
                Bytes::File { .. } => panic!("a received memory file is mapped"),
            }
        }
    }
    // The same through a socket. An empty message can't be told from the end of the stream.
    let (ours, theirs) = fd_passing::pair().expect("a socket pair");
    let (handed, most) = (fds(), 2 * INLINE + 1024);
    let handed: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
    if !bytes.is_empty() && bytes.len() <= most && fd_passing::send(&ours, &[bytes], &handed).is_ok() {
        let received = packet::receive(&theirs, false);
        assert_eq!(received.is_ok(), parsed.is_ok(), "{received:?} {parsed:?}");
        assert!(matches!(packet::receive(&theirs, false), Err(PacketError::Empty)), "a message is received once");
    }
    parsed.is_ok()
}

/// Decodes a value as several types.
fn codec(data: &[u8]) -> bool {
    fn one<T>(data: &[u8]) -> bool
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let Ok(value) = codec::decode::<T>(payload(data), 0) else { return false };
        // What was decoded can be encoded again, and decodes to the same value.
        let sent = codec::encode(&[], &value).expect("a value of this type can be sent");
        assert_eq!(codec::decode::<T>(sent, 0).as_ref(), Ok(&value));
        true
    }
    let all = [
        one::<samples::Plain>(data),
        one::<samples::SelfDescribing>(data),
        one::<(String, i32)>(data),
        one::<samples::Struct>(data),
        one::<samples::Variant>(data),
        one::<samples::Tagged>(data),
        one::<samples::Flat>(data),
        one::<samples::Unlike>(data),
    ];
    all.contains(&true)
}

/// Decodes a request to the forkserver.
fn request(data: &[u8]) -> bool {
    forkserver::reads_request(data)
}

/// Decodes a child spec. Its entry is either an address in the program's code, or an error.
fn spec(data: &[u8]) -> bool {
    let Ok((spec, payload)) = child_spec::split::<ChildSpec>(data) else { return false };
    assert!(data.ends_with(payload));
    match spec.entry.map(Entry::function) {
        Some(Ok(function)) => assert!(target::image().is_code(function as usize)),
        Some(Err(error)) => assert!(!error.to_string().is_empty()),
        None => {}
    }
    true
}

/// Runs the handshake of an exec'd process: the bytes follow a valid greeting, or replace it.
fn handshake(data: &[u8]) -> bool {
    let build_id = &target::image().build_id;
    let Some((first, bytes)) = data.split_first() else { return false };
    // With the right build id in another position, the handshake could succeed and really change
    // the user ids of this process.
    if bytes.windows(build_id.len()).any(|window| window == *build_id) {
        return false;
    }
    let (ours, theirs) = fd_passing::pair().expect("a socket pair");
    if first % 2 == 1 {
        packet::send(&ours, kind::HELLO, &[&handshake::hello()], &[]).expect("there is room for one");
    }
    let fds = if first & 2 == 0 { vec![] } else { vec![ours.as_fd()] };
    if !bytes.is_empty() && fd_passing::send(&ours, &[bytes], &fds).is_err() {
        return false;
    }
    // So that `accept` doesn't wait for more.
    drop(ours);
    match handshake::accept(theirs.as_fd()) {
        Ok(_) => {
            assert_eq!(first % 2, 1, "no handshake succeeds without the right build id");
            true
        }
        Err(handshake::AcceptError::Refused(reason)) => {
            assert!(!reason.is_empty());
            false
        }
        Err(handshake::AcceptError::Disconnected) => false,
    }
}

/// Decodes a child's last message: the kind, then bytes that serve as both front and payload.
fn report(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    let packet = Packet { kind: *kind, front: Bytes::Inline(body.to_vec()), payload: payload(body), fds: vec![] };
    let report = Report::from_packet(packet);
    // The same through a socket, where anything that is not a report is skipped, or is garbage.
    let (ours, theirs) = fd_passing::pair().expect("a socket pair");
    if body.len() <= INLINE && packet::send_with(&ours, *kind, &[body], &[], &payload(body)).is_ok() {
        drop(ours);
        let received = receive_report(&theirs).expect("nothing is wrong with the socket");
        assert_eq!(received.map(|report| report.exit_code()), report.as_ref().map(Report::exit_code));
    }
    matches!(report, Some(Report::Returned { .. } | Report::Failed(_)))
}

/// Decodes the notes of an executable file, the ids and capabilities of a greeting, and the
/// settings in a request.
fn image(data: &[u8]) -> bool {
    if let Some((ids, _)) = data.split_first_chunk() {
        assert_eq!(Ids::from_bytes(ids).to_bytes(), *ids);
    }
    if let Some((capabilities, _)) = data.split_first_chunk() {
        assert_eq!(Capabilities::from_bytes(capabilities).to_bytes(), *capabilities);
    }
    if let Some(settings) = Settings::from_bytes(data) {
        assert_eq!(settings.to_bytes(), data);
    }
    match image::build_id(data) {
        Some(id) => {
            assert!(!id.is_empty() && data.windows(id.len()).any(|window| window == id));
            true
        }
        None => false,
    }
}

/// Uses a queue while other processes write to its memory. The first byte selects the kind of
/// queue, and then each three bytes are a step, which may be to change some memory. Whatever the
/// memory holds, nothing panics or hangs, and no memory outside the queue is touched. Returns
/// whether an item came out as it had been put.
fn queue(data: &[u8]) -> bool {
    let Some((kind, steps)) = data.split_first() else { return false };
    let limits = if kind & 1 == 0 { Limits::NONE } else { Limits { items: 50, bytes: 1 << 20 } };
    let one = Store::create(limits, kind & 2 != 0).expect("a queue");
    let other = Store::open(one.to_send(true).expect("descriptors")).expect("the same queue");
    let memory = File::from(one.file().as_fd().try_clone_to_owned().expect("a descriptor"));
    let mut came = false;
    let mut leases = Vec::new();
    for step in steps.chunks_exact(3).take(100) {
        let [what, size, at] = [step[0], step[1], step[2]];
        let store = if at & 1 == 0 { &one } else { &other };
        match what % 16 {
            0 | 1 => (0..=what >> 4).for_each(|_| {
                let bytes = vec![7; usize::from(size) * 8 % (STORED + 1)];
                let _ = store.try_put(&Item { body: Body::Inline(&bytes), raw: true, fds: &[], handles: 0 });
            }),
            2 => put_block(store, usize::from(size) * 300),
            3 => {
                let mut scratch = Scratch::new();
                if let Ok(Some(taken)) = store.take_any(&mut scratch) {
                    match (taken.place, taken.block(|| store)) {
                        (_, Some(block)) => {
                            came |= block.bytes().is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 7))
                        }
                        (Place::Scratch, None) => came |= scratch.bytes().iter().all(|byte| *byte == 7),
                        (Place::Lease(index) | Place::Block(index, _), None) => leases.push((at, index)),
                    }
                }
            }
            4 => match leases.pop() {
                Some((at, index)) if size & 1 == 0 => {
                    came |= if at & 1 == 0 { &one } else { &other }.finish(index).is_ok();
                }
                Some((at, index)) => if at & 1 == 0 { &one } else { &other }.return_lease(index),
                None => {}
            },
            5 => drop((store.len(), store.is_empty(), store.is_full(), store.is_closed(), store.unfinished())),
            6 if size & 0x1f == 0 => store.close(),
            7 => store.give_back_kept(),
            // With a deadline that has passed, it doesn't sleep.
            8 => drop(store.take(&mut Scratch::new(), Some(Instant::now()), ViaHandle::Own)),
            9 => {
                let _ = store.join(Some(Instant::now()), ViaHandle::Own);
            }
            // Another process opens the queue later.
            10 => {
                let _ = Store::open(one.to_send(true).expect("descriptors"))
                    .map(|store| store.try_take(&mut Scratch::new()));
            }
            _ => {
                let (place, value) = spoiled(what, size, at);
                memory.write_all_at(&value, place).expect("memory");
                one.orphan_locks();
            }
        }
    }
    came
}

fn put_block(store: &Store, len: usize) {
    let Ok(mut block) = Block::new(store, len as u64) else { return };
    if block.fill(&vec![7; len]).is_ok() {
        let item = Item { body: Body::Block(block.index(), block.len()), raw: true, fds: &[], handles: 0 };
        if store.try_put(&item).is_ok() {
            block.leave();
        }
    }
}

/// Returns a position in a queue's memory and the bytes to write there.
fn spoiled(what: u8, size: u8, at: u8) -> (u64, Vec<u8>) {
    // The header and the counts, the ring, the descriptors of blocks, and the blocks.
    const REGIONS: [(u64, u64); 6] = [(64, 8), (64, 4), (1 << 20, 8), (1 << 41, 8), (64 + 512, 8), (1 << 20, 256)];
    let (base, step) = REGIONS[usize::from(what >> 4) % REGIONS.len()];
    let small = u64::from(size & 0x0f);
    let value = match size >> 4 {
        0 => small,
        1 => u64::MAX - small,
        2 => 1 << (4 * small),
        3 => (1 << 62) - small,
        4 => (1 << 40) + small,
        5 => (1 << 12) << small,
        6 => u64::from(u32::MAX) - small,
        7 => small << 32,
        8 => small << 24,
        9 => 1 << 63 | small,
        _ => u64::from(size).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(u32::from(at)),
    };
    let len = if size & 1 == 0 { 8 } else { 4 };
    (base + u64::from(at) * step, value.to_ne_bytes()[..len].to_vec())
}

/// Uses a slot table while other processes write to its memory. The first byte selects how much
/// room the slots have, and then each three bytes are a step, which may be to change some memory.
/// Whatever the memory holds, nothing panics or hangs, and no memory outside the table is touched.
/// Returns whether a content came out as it had been written.
fn slot_table(data: &[u8]) -> bool {
    const CELLS: usize = 3;
    let Some((first, steps)) = data.split_first() else { return false };
    let rooms = [first & 7, first >> 3 & 7, first >> 6].map(|room| usize::from(room) * 8);
    let none = Content { kind: 0, bytes: &[] };
    let one = SlotTable::create(rooms.iter().map(|room| (none, *room))).expect("a list");
    let fd = || one.as_fd().try_clone_to_owned().expect("a descriptor");
    let other = SlotTable::open(fd()).expect("the same list");
    let memory = File::from(fd());
    let mut came = false;
    for step in steps.chunks_exact(3).take(100) {
        let [what, size, at] = [step[0], step[1], step[2]];
        let slot_table = if at & 0x80 == 0 { &one } else { &other };
        // One index more than there are slots.
        let index = usize::from(at & 3);
        let bytes = vec![7; usize::from(size % 64)];
        let content = Content { kind: 7, bytes: &bytes };
        match what % 8 {
            0 => drop(slot_table.write(index, content)),
            1 => {
                if let Ok(found) = slot_table.read(index) {
                    came |= found.kind == 7 && found.bytes().iter().all(|byte| *byte == 7);
                }
            }
            2 => assert!(slot_table.replace(index, content).is_err() || index < CELLS),
            3 => drop(slot_table.compare_exchange(index, none, content)),
            4 => assert_eq!(slot_table.snapshot().len(), CELLS),
            // Another process opens the table later.
            5 => drop(
                SlotTable::open(fd())
                    .map(|slot_table| (slot_table.read(index), slot_table.snapshot(), slot_table.room(index))),
            ),
            // The numbers of slots and of words; below, the memory from the directory on.
            6 => {
                let value = u64::from(size).rotate_right(u32::from(what >> 5));
                memory.write_all_at(&value.to_ne_bytes(), 64 + 8 + u64::from(at & 1) * 8).expect("memory");
            }
            _ => {
                let value = u64::from(size) << (what >> 3 & 0x18) | u64::from(size & 15) << (what & 0x20);
                memory.write_all_at(&value.to_ne_bytes(), 4096 + u64::from(at) * 8).expect("memory");
            }
        }
    }
    came
}

/// Runs the handshake of a connection on the bytes. The first byte selects the receiver (a listener
/// or a client), whether there is a key, and whether a valid proof is sent in place of the
/// client's.
fn greeting(data: &[u8]) -> bool {
    let Some((first, bytes)) = data.split_first() else { return false };
    let bytes = &bytes[..bytes.len().min(1 << 14)];
    let (keyed, to_client, proves) = (first & 1 != 0, first & 2 != 0, first & 4 != 0);
    if to_client { connect::hears(bytes, keyed) } else { handshakes::hears(bytes, keyed, proves) }
}

/// Decodes what a process that looks up a name, and the name's owner, send.
fn name(data: &[u8]) -> bool {
    let (request, answer) = (Request::from_bytes(data), Answer::from_bytes(data));
    assert!(request.is_err() || answer.is_err());
    // A message has only one encoding.
    request.is_ok_and(|request| request.to_bytes() == data) || answer.is_ok_and(|answer| answer.to_bytes() == data)
}

/// Decodes messages over TCP, one after the other. Returns whether all bytes were messages.
fn frame(data: &[u8]) -> bool {
    let data = &data[..data.len().min(1 << 14)];
    let (messages, ended_well) = stream::read_all(data);
    let short: Vec<(u8, &[u8])> =
        messages.iter().filter_map(|message| message.as_ref().ok()).map(|(kind, bytes)| (*kind, &bytes[..])).collect();
    let frames = stream::frames(&short);
    if messages.iter().all(Result::is_ok) {
        // Encoding the messages that were read gives the same bytes.
        assert!(data.starts_with(&frames));
        assert!(!ended_well || frames.len() == data.len());
    }
    ended_well && !messages.is_empty()
}

/// Types that use each of the codec's formats.
mod samples {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    pub(super) type Plain = (u8, Vec<Option<i64>>, BTreeMap<String, Result<char, String>>, Option<(bool, u128)>);

    pub(super) fn plain() -> Plain {
        let map = BTreeMap::from([("ok".into(), Ok('ß')), ("error".into(), Err("no".into()))]);
        (200, vec![Some(-5), None, Some(i64::MAX)], map, Some((true, u128::MAX)))
    }

    /// A type that needs a self-describing format.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum SelfDescribing {
        Number { n: u32 },
        Text(String),
        List(Vec<SelfDescribing>),
    }

    /// A type with fields that are left out.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Struct {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u8>,
        #[serde(skip)]
        skipped: u8,
        #[serde(alias = "number")]
        count: u32,
        inner: Option<Box<Struct>>,
    }

    pub(super) fn structs() -> Vec<Struct> {
        let inner = Struct { limit: None, skipped: 0, count: 300, inner: None };
        vec![
            Struct { limit: Some(1), skipped: 0, count: 1, inner: Some(inner.into()) },
            Struct { limit: None, skipped: 0, count: 7, inner: None },
        ]
    }

    /// A type with variants that are left out.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum Variant {
        Unit,
        #[serde(skip)]
        #[allow(dead_code)]
        Skipped(u8),
        Newtype(i16),
        #[serde(alias = "Other")]
        Tuple(u8, Vec<u16>),
        Struct {
            address: std::net::IpAddr,
            deep: Vec<Variant>,
        },
    }

    pub(super) fn variants() -> Vec<Variant> {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        vec![
            Variant::Newtype(-1),
            Variant::Tuple(1, vec![2, 300]),
            Variant::Struct { address, deep: vec![Variant::Unit, Variant::Newtype(7)] },
        ]
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    pub(super) enum Tagged {
        Unit,
        Struct {
            a: u8,
            b: Adjacent,
        },
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "t", content = "c")]
    pub(super) enum Adjacent {
        Unit,
        Newtype(Option<char>),
        Tuple(u8, String),
    }

    pub(super) fn tagged() -> Vec<Tagged> {
        vec![
            Tagged::Unit,
            Tagged::Struct { a: 1, b: Adjacent::Unit },
            Tagged::Struct { a: 2, b: Adjacent::Newtype(Some('ß')) },
            Tagged::Struct { a: 3, b: Adjacent::Tuple(4, "x".into()) },
            Tagged::Other,
        ]
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Flat {
        own: u8,
        #[serde(flatten)]
        inner: Option<Inner>,
        #[serde(flatten)]
        rest: BTreeMap<String, Option<i64>>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        x: String,
        y: [u8; 2],
    }

    pub(super) fn flat() -> Vec<Flat> {
        let inner = Some(Inner { x: "x".into(), y: [1, 2] });
        vec![
            Flat { own: 1, inner: None, rest: BTreeMap::from([("a".into(), Some(-1)), ("b".into(), None)]) },
            Flat { own: 2, inner, rest: BTreeMap::new() },
        ]
    }

    /// Serialised as a map with numbers as keys, deserialised as one with strings: only a text
    /// format such as JSON allows that.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(from = "BTreeMap<String, SelfDescribing>", into = "BTreeMap<u8, Option<String>>")]
    pub(super) struct Unlike {
        pub(super) word: Option<String>,
    }

    impl From<BTreeMap<String, SelfDescribing>> for Unlike {
        fn from(mut map: BTreeMap<String, SelfDescribing>) -> Unlike {
            match map.remove("1") {
                Some(SelfDescribing::Text(word)) => Unlike { word: Some(word) },
                _ => Unlike { word: None },
            }
        }
    }

    impl From<Unlike> for BTreeMap<u8, Option<String>> {
        fn from(unlike: Unlike) -> BTreeMap<u8, Option<String>> {
            unlike.word.map(|word| (1, Some(word))).into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{RngSeed, TestRunner};

    /// Uses the same bytes each time, unless `PROPTEST_RNG_SEED` is set.
    fn runner() -> TestRunner {
        let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        if config.rng_seed == RngSeed::Random {
            config.rng_seed = RngSeed::Fixed(0x6d70_6b74);
        }
        config.cases = config.cases.max(1000);
        TestRunner::new(config)
    }

    /// A change of a message: at an index, a number of bytes are replaced with others.
    type Change = (prop::sample::Index, usize, Vec<u8>);

    fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
        for (place, removed, inserted) in changes {
            let from = place.index(bytes.len() + 1);
            let to = bytes.len().min(from + removed);
            bytes.splice(from..to, inserted.iter().copied());
        }
        bytes
    }

    #[test]
    fn valid_messages() {
        for (name, parser) in PARSERS {
            assert!(seeds(name).iter().any(|seed| parser(seed)), "{name}");
        }
    }

    #[test]
    fn arbitrary_bytes() {
        for (name, parser) in PARSERS {
            let result = runner().run(&vec(any::<u8>(), 0..300), |bytes| {
                parser(&bytes);
                Ok(())
            });
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn mutated_messages() {
        let change = (any::<prop::sample::Index>(), 0..9_usize, vec(any::<u8>(), 0..9));
        for (name, parser) in PARSERS {
            let strategy = (prop::sample::select(seeds(name)), vec(change.clone(), 1..4));
            let result = runner().run(&strategy, |(seed, changes)| {
                parser(&changed(seed, &changes));
                Ok(())
            });
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn truncated_messages() {
        for (name, parser) in PARSERS
            .into_iter()
            .filter(|(name, _)| !matches!(*name, "report" | "codec" | "queue" | "slot_table" | "frame"))
        {
            for seed in seeds(name).iter().filter(|seed| parser(seed)) {
                // A payload may be of any length.
                let whole = seed.strip_suffix(b"payload").unwrap_or(seed);
                for cut in 0..whole.len() {
                    assert!(!parser(&whole[..cut]), "{name} cut at {cut}");
                }
            }
        }
    }
}
