//! Programs that are killed: at each system call of a start, and after each instruction of a call
//! on a shared object.

mod single_step;
mod start;
