//! The messages of the handshake between a client and a listener, as bytes, and the proofs that
//! each side knows the [`Key`]. [CONNECTION.md](CONNECTION.md) has the protocol.
//!
//! A proof is an HMAC with SHA-256 (RFC 2104) over the role of the side that gives it and a random
//! number of each side. So it is useless to any other process, for any other connection, or in the
//! other direction. This module does no I/O: `handshakes.rs` checks the key on the listener's side
//! (`serve_proof`), and `connect.rs` on the client's.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::VERSION;
use super::link_error::RefusalReason;

/// The shared secret of the two sides of a connection: any bytes, but at least one.
///
/// It should be random: an impostor that pretends to be a listener gets a proof made with the key,
/// against which it can try out guesses offline. A key can be sent to other processes as an
/// argument or in a message. Its `Debug` output does not show it.
///
/// ```
/// use multiproc::connection::Key;
///
/// let random = Key::random()?;
/// assert_ne!(random, Key::random()?);
/// let shared = Key::new("a secret from a file");
/// assert_eq!(format!("{shared:?}"), "Key(..)");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Key(#[serde(with = "serde_bytes")] Vec<u8>);

impl Key {
    /// Makes a key of these bytes. With an empty key, connecting and listening are errors, because
    /// an empty key is most likely a secret that was not filled in.
    pub fn new(bytes: impl AsRef<[u8]>) -> Key {
        Key(bytes.as_ref().to_vec())
    }

    /// Makes a key of 32 random bytes from the system.
    ///
    /// # Errors
    /// None is expected: those of getrandom(2).
    pub fn random() -> std::io::Result<Key> {
        Ok(Key(random::<32>()?.to_vec()))
    }

    /// Returns the bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Compares in a time that doesn't depend on where the keys differ.
impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        let tag = |key: &Key| start(Some(key), b"equal").finalize();
        // `CtOutput` compares in constant time.
        tag(self) == tag(other)
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Returns `N` random bytes from the system.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    multiproc_os::random::fill(&mut bytes)?;
    Ok(bytes)
}

const OF_CLIENT: [u8; 4] = *b"mpcl";
const OF_LISTENER: [u8; 4] = *b"mpls";

/// Lengths of the messages in bytes, in the order in which they are sent.
pub(crate) const HEADER: usize = 8;
pub(crate) const HELLO: usize = HEADER + NONCE;
pub(crate) const ANSWER: usize = HEADER + NONCE;
pub(crate) const PROOF: usize = MAC;
pub(crate) const WELCOME: usize = HEADER + NAME + MAC;
pub(crate) const SECOND: usize = HEADER + NAME + MAC;
pub(crate) const DONE: usize = HEADER;

pub(crate) const NONCE: usize = 32;
pub(crate) const NAME: usize = 16;
pub(crate) const MAC: usize = 32;

/// A client's request: the code in byte 5 of its header.
const FIRST_CONNECTION: u8 = 1;
const SECOND_CONNECTION: u8 = 2;

/// A listener's answer: the code in byte 5 of its header. Any other code is a refusal too.
pub(crate) const ACCEPTED: u8 = 0;
pub(crate) const REFUSED_VERSION: u8 = 1;
pub(crate) const REFUSED_KEY_MISSING: u8 = 2;
pub(crate) const REFUSED_KEY_UNKNOWN: u8 = 3;
pub(crate) const REFUSED_KEY_WRONG: u8 = 4;
pub(crate) const REFUSED_USER: u8 = 5;
pub(crate) const REFUSED_NO_DESCRIPTORS: u8 = 6;
pub(crate) const REFUSED_TOO_MANY: u8 = 7;

fn header(from: [u8; 4], word: u8, keyed: bool) -> [u8; HEADER] {
    let [a, b, c, d] = from;
    [a, b, c, d, VERSION, word, u8::from(keyed), 0]
}

fn chain<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    parts.concat().try_into().expect("the parts add up to the length of the message")
}

/// The first message of a client.
pub(crate) fn hello(keyed: bool, nonce: &[u8; NONCE]) -> [u8; HELLO] {
    chain(&[&header(OF_CLIENT, FIRST_CONNECTION, keyed), nonce])
}

/// The first message on a client's second connection over TCP.
pub(crate) fn second(keyed: bool, name: &[u8; NAME], mac: &[u8; MAC]) -> [u8; SECOND] {
    chain(&[&header(OF_CLIENT, SECOND_CONNECTION, keyed), name, mac])
}

/// A listener's answer to [`hello`].
pub(crate) fn answer(keyed: bool, nonce: &[u8; NONCE]) -> [u8; ANSWER] {
    chain(&[&header(OF_LISTENER, ACCEPTED, keyed), nonce])
}

/// A listener's answer to the proof. Over a Unix socket, `name` is all zero.
pub(crate) fn welcome(keyed: bool, name: &[u8; NAME], mac: &[u8; MAC]) -> [u8; WELCOME] {
    chain(&[&header(OF_LISTENER, ACCEPTED, keyed), name, mac])
}

/// A listener's last message, or, with another code than [`ACCEPTED`], its refusal.
pub(crate) fn status(word: u8, keyed: bool) -> [u8; DONE] {
    header(OF_LISTENER, word, keyed)
}

/// A message from a client, as far as it has been received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    /// The message is incomplete: read at least up to this length.
    Incomplete(usize),
    Hello([u8; NONCE]),
    /// The name of the rendezvous socket at which the process that accepted the first connection
    /// waits for this one. That process checks the proof.
    Second([u8; NAME]),
}

/// Reads what a client has sent so far to a listener with a key (`keyed`) or without one.
pub(crate) fn read_client_message(bytes: &[u8], keyed: bool) -> Result<ClientMessage, RefusalReason> {
    let known = bytes.len().min(OF_CLIENT.len());
    if bytes[..known] != OF_CLIENT[..known] {
        return Err(RefusalReason::OtherProtocol);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(ClientMessage::Incomplete(HEADER)) };
    let [.., version, word, has_key, nothing] = *head;
    if version != VERSION {
        return Err(RefusalReason::OtherVersion(version));
    }
    if !matches!(word, FIRST_CONNECTION | SECOND_CONNECTION) || has_key > 1 || nothing != 0 {
        return Err(RefusalReason::OtherProtocol);
    }
    match (has_key == 1, keyed) {
        (false, true) => return Err(RefusalReason::NoKey),
        (true, false) => return Err(RefusalReason::UnknownKey),
        _ => {}
    }
    match (word, rest.len()) {
        (FIRST_CONNECTION, NONCE) => Ok(ClientMessage::Hello(*rest.first_chunk().expect("its length fits"))),
        (FIRST_CONNECTION, len) if len < NONCE => Ok(ClientMessage::Incomplete(HELLO)),
        (SECOND_CONNECTION, len) if len == NAME + MAC => {
            Ok(ClientMessage::Second(*rest.first_chunk().expect("its length fits")))
        }
        (SECOND_CONNECTION, len) if len < NAME + MAC => Ok(ClientMessage::Incomplete(SECOND)),
        _ => Err(RefusalReason::OtherProtocol),
    }
}

/// Returns the proof in the first message on a second connection with this `name`, if `bytes` is
/// one.
pub(crate) fn read_second(bytes: &[u8], keyed: bool, name: &[u8; NAME]) -> Option<[u8; MAC]> {
    match read_client_message(bytes, keyed) {
        Ok(ClientMessage::Second(named)) if named == *name => bytes.last_chunk().copied(),
        _ => None,
    }
}

/// Why a header is not an acceptance by a listener.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    OtherProtocol,
    /// It is the header of a client.
    Client,
    Version(u8),
    /// It is a refusal with this code.
    Refused(u8),
}

/// Checks the header of a listener's message.
pub(crate) fn read_status(head: &[u8; HEADER], keyed: bool) -> Result<(), HeaderError> {
    let [a, b, c, d, version, word, has_key, nothing] = *head;
    if [a, b, c, d] == OF_CLIENT {
        return Err(HeaderError::Client);
    }
    if [a, b, c, d] != OF_LISTENER {
        return Err(HeaderError::OtherProtocol);
    }
    // This includes a refusal because of the version: its header has the listener's version in it.
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    if word != ACCEPTED {
        return Err(HeaderError::Refused(word));
    }
    match (has_key, keyed, nothing) {
        (1, true, 0) | (0, false, 0) => Ok(()),
        _ => Err(HeaderError::OtherProtocol),
    }
}

/// The side that gives a proof, and on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Listener,
    SecondHalf,
}

/// The random numbers of both sides, which tell this handshake from all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transcript {
    pub(crate) client: [u8; NONCE],
    pub(crate) listener: [u8; NONCE],
}

impl Transcript {
    /// Returns the proof of `role`. `name` is all zero where there is none yet.
    pub(crate) fn prove(&self, key: Option<&Key>, role: Role, name: &[u8; NAME]) -> [u8; MAC] {
        self.mac(key, role, name).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of `role`. The comparison takes the same time wherever the two
    /// differ.
    pub(crate) fn is_proof(&self, key: Option<&Key>, role: Role, name: &[u8; NAME], proof: &[u8]) -> bool {
        self.mac(key, role, name).verify_slice(proof).is_ok()
    }

    fn mac(&self, key: Option<&Key>, role: Role, name: &[u8; NAME]) -> Hmac<Sha256> {
        // The labels are of equal length, so that none is the beginning of another.
        let label: &[u8; 20] = match role {
            Role::Client => b"multiproc 1 client  ",
            Role::Listener => b"multiproc 1 listener",
            Role::SecondHalf => b"multiproc 1 second  ",
        };
        start(key, label).chain_update(self.client).chain_update(self.listener).chain_update(name)
    }
}

/// Starts a MAC. Without a key, it only proves that its sender has received the random numbers.
fn start(key: Option<&Key>, label: &[u8]) -> Hmac<Sha256> {
    let key = key.map_or(&[][..], Key::as_bytes);
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("an HMAC key may have any length").chain_update(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        Transcript { client: [1; NONCE], listener: [2; NONCE] }
    }

    #[test]
    fn proof_binds_role_key_challenge_and_name() {
        let (key, name) = (Key::new("secret"), [9; NAME]);
        let proof = transcript().prove(Some(&key), Role::Client, &name);
        let is_proof = |transcript: &Transcript, key: Option<&Key>, role, name: &[u8; NAME]| {
            transcript.is_proof(key, role, name, &proof)
        };
        assert!(is_proof(&transcript(), Some(&key), Role::Client, &name));
        for other in [Role::Listener, Role::SecondHalf] {
            assert!(!is_proof(&transcript(), Some(&key), other, &name), "reflected as {other:?}");
        }
        assert!(!is_proof(&transcript(), Some(&Key::new("secret.")), Role::Client, &name));
        assert!(!is_proof(&transcript(), None, Role::Client, &name));
        assert!(!is_proof(&transcript(), Some(&key), Role::Client, &[8; NAME]));
        let swapped = Transcript { client: [2; NONCE], listener: [1; NONCE] };
        let replayed = Transcript { listener: [3; NONCE], ..transcript() };
        assert!(!is_proof(&swapped, Some(&key), Role::Client, &name));
        assert!(!is_proof(&replayed, Some(&key), Role::Client, &name));
        assert!(!transcript().is_proof(Some(&key), Role::Client, &name, &proof[..31]));
        assert!(!transcript().is_proof(Some(&key), Role::Client, &name, b""));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn hmac_test_vectors() {
        let mac = start(Some(&Key::new("Jefe")), b"what do ya want for nothing?").finalize().into_bytes();
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn client_messages() {
        let (nonce, name, mac) = ([3; NONCE], [4; NAME], [5; MAC]);
        for keyed in [false, true] {
            let first = hello(keyed, &nonce);
            let other = second(keyed, &name, &mac);
            for (whole, said) in [(&first[..], ClientMessage::Hello(nonce)), (&other, ClientMessage::Second(name))] {
                for cut in 0..whole.len() {
                    match read_client_message(&whole[..cut], keyed) {
                        Ok(ClientMessage::Incomplete(more)) => assert!(more > cut && more <= whole.len()),
                        other => panic!("{other:?} after {cut} bytes"),
                    }
                }
                assert_eq!(read_client_message(whole, keyed), Ok(said));
            }
            assert_eq!(read_second(&other, keyed, &name), Some(mac));
            assert_eq!(read_second(&other, keyed, &[0; NAME]), None);
            assert_eq!(read_second(&first, keyed, &name), None);
        }
        assert_eq!(read_client_message(&hello(false, &nonce), true), Err(RefusalReason::NoKey));
        assert_eq!(read_client_message(&hello(true, &nonce), false), Err(RefusalReason::UnknownKey));
        for foreign in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x16\x03\x01", b"mpcL", &answer(true, &nonce)] {
            assert_eq!(read_client_message(foreign, true), Err(RefusalReason::OtherProtocol));
        }
        let mut newer = hello(true, &nonce);
        newer[4] = 2;
        assert_eq!(read_client_message(&newer, true), Err(RefusalReason::OtherVersion(2)));
    }

    #[test]
    fn listener_messages() {
        let head = |bytes: &[u8]| *bytes.first_chunk().unwrap();
        for keyed in [false, true] {
            assert_eq!(read_status(&head(&answer(keyed, &[0; NONCE])), keyed), Ok(()));
            assert_eq!(read_status(&head(&welcome(keyed, &[0; NAME], &[0; MAC])), keyed), Ok(()));
            assert_eq!(read_status(&status(ACCEPTED, keyed), !keyed), Err(HeaderError::OtherProtocol));
            assert_eq!(
                read_status(&status(REFUSED_KEY_UNKNOWN, keyed), true),
                Err(HeaderError::Refused(REFUSED_KEY_UNKNOWN))
            );
        }
        assert_eq!(read_status(&head(&hello(true, &[0; NONCE])), true), Err(HeaderError::Client));
        assert_eq!(read_status(b"HTTP/1.1", true), Err(HeaderError::OtherProtocol));
        assert_eq!(read_status(b"mpls\x09\0\0\0", true), Err(HeaderError::Version(9)));
    }
}
