//! Instruction counts of the layers, each by itself: see `instructions.rs`, and run them with `cargo xtask instructions`.
//!
//! They tell whether a change made a layer do more. How long work takes is measured by `cargo xtask bench`, with checked
//! outputs and beside the programs of others.
#![forbid(unsafe_code)]
