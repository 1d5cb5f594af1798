//! Why delays could not be read.

use std::path::PathBuf;

/// A delay profile or a trace of delays that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DelayError {
    /// A profile that cannot be parsed, or whose numbers make no sense.
    #[error("delay profile `{profile}`: {why}")]
    Profile {
        /// The profile as it is written.
        profile: String,
        /// What is wrong with it.
        why: String,
    },
    /// A trace file that cannot be read.
    #[error("delay trace {}: {source}", .file.display())]
    TraceFile {
        /// The file.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A line of a trace file that cannot be parsed, or names a rank outside the group.
    #[error("delay trace {}, line {line}: {why}", .file.display())]
    Trace {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}
