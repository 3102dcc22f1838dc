//! What every start method passes to a child: its [`ProcessInfo`] and its task. The methods differ
//! only in how the process is made.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Serialize};

use super::method::StartMethod;
use super::report::Report;
use super::target::Entry;
use crate::spec::key::SigningKey;
use crate::spec::log_config::LogConfig;
use crate::spec::options::Options;
use crate::spec::process_info::ProcessInfo;
use crate::spec::stdio::Streams;
use crate::transfer::codec;

/// The description of a child, which its parent sends to it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChildSpec {
    pub(crate) info: ProcessInfo,
    /// The function that decodes the payload and runs it; none for a fork copy, which has both in
    /// its memory.
    pub(crate) entry: Option<Entry>,
    pub(crate) options: Options,
    pub(crate) outlives_parent: bool,
    pub(crate) log: LogConfig,
    pub(crate) start_method: StartMethod,
    pub(crate) grace_period: Duration,
    /// Whether the child leaves Ctrl-C to its parent.
    pub(crate) handles_ctrl_c: bool,
    /// Whether the child keeps a standby process ready for its own starts.
    pub(crate) standby: bool,
    /// The key that signs [`RemoteFn`](crate::RemoteFn) values.
    pub(crate) key: SigningKey,
}

/// A child spec and its payload (the encoded [`Run`](crate::Run) value), ready to be sent.
pub(crate) struct Launch<'a> {
    pub(crate) spec: &'a ChildSpec,
    pub(crate) payload: &'a Payload,
    /// Replacements for descriptors 0 to 2; the child inherits the others from its parent.
    pub(crate) streams: &'a Streams,
    /// Further descriptors, in the order in which the spec refers to them.
    pub(crate) fds: &'a [BorrowedFd<'a>],
}

impl Launch<'_> {
    /// Returns the name of the process, for errors.
    pub(crate) fn name(&self) -> &str {
        &self.spec.info.name
    }
}

/// A new process.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// None if another part of the program has already reaped the process.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The parent's end of the child's socket.
    pub(crate) socket: OwnedFd,
    /// The child's report, if it arrived during the start.
    pub(crate) early: Option<Report>,
}

/// Encodes the first part of a message body with a head and a tail: the length of the encoded head
/// as eight bytes, and the head. The tail follows.
pub(crate) fn join<T: Serialize>(head: &T) -> Vec<u8> {
    let head = codec::pack(head);
    let mut front = Vec::with_capacity(8 + head.len());
    front.extend_from_slice(&(head.len() as u64).to_le_bytes());
    front.extend_from_slice(&head);
    front
}

/// The inverse of [`join`]: returns the head, and the tail's bytes.
pub(crate) fn split<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<(T, &[u8]), String> {
    let (len, rest) = body.split_first_chunk::<8>().ok_or("it is too short")?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| "its head is too long")?;
    let (head, tail) = rest.split_at_checked(len).ok_or("its head is cut off")?;
    Ok((codec::unpack(head).map_err(|error| error.to_string())?, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail() {
        let mut body = join(&("head".to_string(), 7_u32));
        body.extend_from_slice(b"tail");
        assert_eq!(split::<(String, u32)>(&body).unwrap(), (("head".into(), 7), &b"tail"[..]));
        for cut in 0..body.len() - 4 {
            assert!(split::<(String, u32)>(&body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(split::<u8>(&[0xFF; 64]).is_err());
    }
}
