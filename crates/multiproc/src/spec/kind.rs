//! The kinds of messages. `start/PROTOCOL.md` says which process sends them and what they contain.

pub(crate) const HELLO: u8 = 1;
pub(crate) const REFUSED: u8 = 2;
pub(crate) const SERVE: u8 = 3;
pub(crate) const READY: u8 = 4;
pub(crate) const START: u8 = 5;
pub(crate) const STARTED: u8 = 6;
pub(crate) const NOT_STARTED: u8 = 7;
pub(crate) const RETURNED: u8 = 8;
pub(crate) const RETURNED_ERR: u8 = 9;
pub(crate) const FAILED: u8 = 10;
pub(crate) const STAND_BY: u8 = 11;
pub(crate) const GUARD: u8 = 12;
pub(crate) const NOT_PERMITTED: u8 = 13;
pub(crate) const GO_AHEAD: u8 = 14;
