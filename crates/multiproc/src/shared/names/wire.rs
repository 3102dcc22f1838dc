//! The messages between a client that looks for a name and the owner of the name, one in each
//! direction. See `PROTOCOL.md`, "Names".

/// The version of the protocol.
pub(crate) const VERSION: u8 = 1;

const REQUEST_MAGIC: &[u8; 4] = b"mpnq";
const ANSWER_MAGIC: &[u8; 4] = b"mpna";

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Hand over the descriptors for this kind of access.
    Find(u8),
    /// Give up the name.
    Withdraw,
    /// Answer, to show that the owner is alive: another process wants to publish the name.
    Greet,
}

/// An owner's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The descriptors, `count` of them, come with this message. The answer to a greeting has none.
    Granted { count: u8 },
    /// The name is given up.
    Withdrawn,
    /// The client uses another version of the protocol than the owner, which uses this one.
    OtherVersion(u8),
    /// The client belongs to another user.
    NotServed,
    /// The owner failed, with this error number.
    Failed(i32),
    /// The owner has too many clients, or this one was too slow. The client may try again.
    Again,
}

/// Why a message is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireError {
    /// It has another version.
    Version(u8),
    Corrupt,
}

impl Request {
    pub(crate) const BYTES: usize = 8;

    pub(crate) fn to_bytes(self) -> [u8; Request::BYTES] {
        let (word, access) = match self {
            Request::Find(access) => (1, access),
            Request::Withdraw => (2, 0),
            Request::Greet => (3, 0),
        };
        let [a, b, c, d] = *REQUEST_MAGIC;
        [a, b, c, d, VERSION, word, access, 0]
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Request, WireError> {
        match *body(REQUEST_MAGIC, bytes)? {
            [1, access, 0] => Ok(Request::Find(access)),
            [2, 0, 0] => Ok(Request::Withdraw),
            [3, 0, 0] => Ok(Request::Greet),
            _ => Err(WireError::Corrupt),
        }
    }
}

impl Answer {
    pub(crate) const BYTES: usize = 12;

    pub(crate) fn to_bytes(self) -> [u8; Answer::BYTES] {
        let (word, count, errno) = match self {
            Answer::Granted { count } => (0, count, 0),
            Answer::Withdrawn => (1, 0, 0),
            Answer::OtherVersion(_) => (2, 0, 0),
            Answer::NotServed => (3, 0, 0),
            Answer::Failed(errno) => (4, 0, errno),
            Answer::Again => (5, 0, 0),
        };
        let version = if let Answer::OtherVersion(version) = self { version } else { VERSION };
        let ([a, b, c, d], [e, f, g, h]) = (*ANSWER_MAGIC, errno.to_le_bytes());
        [a, b, c, d, version, word, count, 0, e, f, g, h]
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Answer, WireError> {
        Ok(match *body(ANSWER_MAGIC, bytes)? {
            [0, count, 0, 0, 0, 0, 0] => Answer::Granted { count },
            [1, 0, 0, 0, 0, 0, 0] => Answer::Withdrawn,
            [2, 0, 0, 0, 0, 0, 0] => Answer::OtherVersion(VERSION),
            [3, 0, 0, 0, 0, 0, 0] => Answer::NotServed,
            [4, 0, 0, e, f, g, h] if i32::from_le_bytes([e, f, g, h]) > 0 => {
                Answer::Failed(i32::from_le_bytes([e, f, g, h]))
            }
            [5, 0, 0, 0, 0, 0, 0] => Answer::Again,
            _ => return Err(WireError::Corrupt),
        })
    }
}

/// The content after magic and version.
fn body<'a>(magic: &[u8; 4], bytes: &'a [u8]) -> Result<&'a [u8], WireError> {
    match bytes.strip_prefix(magic).and_then(<[u8]>::split_first) {
        Some((&VERSION, body)) => Ok(body),
        Some((other, _)) => Err(WireError::Version(*other)),
        None => Err(WireError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for request in [Request::Find(0), Request::Find(255), Request::Withdraw, Request::Greet] {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        let answers = [
            Answer::Granted { count: 0 },
            Answer::Granted { count: 253 },
            Answer::Withdrawn,
            Answer::NotServed,
            Answer::Failed(24),
            Answer::Again,
        ];
        for answer in answers {
            assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
        // Parsing stops at the version already.
        assert_eq!(Answer::from_bytes(&Answer::OtherVersion(9).to_bytes()), Err(WireError::Version(9)));
    }

    #[test]
    fn garbage() {
        let (request, answer) = (Request::Find(1).to_bytes(), Answer::Granted { count: 1 }.to_bytes());
        for len in 0..request.len() {
            assert_eq!(Request::from_bytes(&request[..len]), Err(WireError::Corrupt), "{len}");
        }
        for len in 0..answer.len() {
            assert_eq!(Answer::from_bytes(&answer[..len]), Err(WireError::Corrupt), "{len}");
        }
        assert_eq!(Request::from_bytes(&[&request[..], b"x"].concat()), Err(WireError::Corrupt));
        assert_eq!(Answer::from_bytes(&[&answer[..], b"x"].concat()), Err(WireError::Corrupt));
        assert_eq!(Request::from_bytes(&answer), Err(WireError::Corrupt));
        assert_eq!(Answer::from_bytes(&Answer::Failed(0).to_bytes()), Err(WireError::Corrupt));
    }
}
