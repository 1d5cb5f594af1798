//! Micro-benchmarks of the layers, each by itself: `cargo bench -p slackline-benches`, or a part of them with
//! `cargo bench -p slackline-benches -- pooling`.
//!
//! They tell whether a change made one layer slower or faster on one machine. What a user gains is measured by
//! `cargo xtask bench`, on whole runs with checked outputs.
#![forbid(unsafe_code)]
