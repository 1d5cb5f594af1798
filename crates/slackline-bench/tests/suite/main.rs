//! The benchmark as a program, and its report from a canned result.

mod report;
mod smoke;
