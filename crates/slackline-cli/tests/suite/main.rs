//! The command `slackline` as a user runs it: real processes, files and signals.

mod agreement;
mod common;
mod faults;
mod files;
mod hostile;
mod import;
mod inputs;
mod outputs;
mod predictions;
mod resume;
mod shared_data;
