//! Processes: what a process runs, how it is started, waited for and ended, and how it ended.

pub(crate) mod active_children;
pub(crate) mod arguments;
pub(crate) mod builder;
pub(crate) mod child;
pub(crate) mod error;
pub(crate) mod future;
pub(crate) mod init;
pub mod outcome;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod test;
pub(crate) mod wait;

pub use self::active_children::active_children;
pub use self::arguments::Arguments;
pub use self::builder::Process;
pub use self::child::{Child, ProcessHandle};
pub use self::error::{ChildError, WaitAllError};
pub use self::future::{JoinFuture, WaitFuture};
pub use self::init::init;
pub use self::outcome::RemoteError;
pub use self::run::{Call, Captured, Run};
pub use self::scope::{Scope, ScopeError, scope};
pub use self::wait::wait_all;
pub use crate::runtime::at_exit::{Finalizer, at_exit};
pub use crate::runtime::children::{grace_period, set_grace_period};
pub use crate::runtime::ctrl_c::{handle_ctrl_c, handles_ctrl_c};
pub use crate::runtime::current::{
    CurrentProcess, ParentProcess, cpu_count, current_process, parent_process, set_seed,
};
pub use crate::spec::method::{StartMethod, set_start_method, start_method};
pub use crate::spec::options::Resource;
pub use crate::spec::status::{ExitStatus, JoinError, JoinErrorKind, Panic};
pub use crate::spec::stdio::{ChildStdin, Stdio};
pub use crate::spec::target::Target;
pub use crate::start::error::{HandshakeError, HandshakeErrorKind, StartError};
pub use crate::start::forkserver::end_fork_server;
pub use crate::start::host::{Host, HostInstalled};
pub use crate::start::standby::set_standby;
