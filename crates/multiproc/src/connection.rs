//! Connections between two processes: [`pipe`] and [`one_way`] for relatives, [`Listener`] and
//! [`connect`] for any two programs. Python's `multiprocessing.connection`.

pub use crate::channel::address::{Address, Peer};
pub use crate::channel::auth::Key;
pub use crate::channel::connect::{connect, connect_timeout};
pub use crate::channel::connection::{Connection, IntoIter, Iter, Receiver, Sender};
pub use crate::channel::error::{RecvError, RecvErrorKind, SendError, SendErrorKind};
pub use crate::channel::link_error::{
    ConnectError, ConnectErrorKind, ListenError, ListenErrorKind, Refusal, RefusalReason,
};
pub use crate::channel::listener::Listener;
pub use crate::channel::pipe::{one_way, pipe};
pub use crate::channel::wait::{Waitable, wait_any};
