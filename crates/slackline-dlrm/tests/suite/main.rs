//! The integration tests of the crate, in one binary: a module for each subject.

mod common;
mod directory;
mod directory_damage;
mod distributed;
mod forward;
mod golden;
mod quantised;
mod resume;
mod serving;
mod sources;
