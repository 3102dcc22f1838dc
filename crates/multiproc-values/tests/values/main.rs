//! Values arrive as they were sent: those of the corpus, of other crates, and of types that
//! implement serde by hand.

#[path = "../../../multiproc/tests/common/mod.rs"]
mod common;

mod corpus;
mod crates;
mod user_code;
mod ways;
