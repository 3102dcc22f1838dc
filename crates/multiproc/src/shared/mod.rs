//! Values that several processes have at the same time, and change in place. What happens when one of those who use them dies is in `PROTOCOL.md` beside
//! this file.

pub(crate) mod shareable_list;
