//! This process's own state: its identity, its children, and what it does when it ends.

pub(crate) mod at_exit;
pub(crate) mod child;
pub(crate) mod children;
pub(crate) mod ctrl_c;
pub(crate) mod current;
pub(crate) mod out_of_memory;
pub(crate) mod test_binary;
