//! Memory that processes share by name or by handle. `PROTOCOL.md` beside this file says how they find it.

#[allow(dead_code)]
pub(crate) mod names;
