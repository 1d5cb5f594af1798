//! Why an instruction failed.

use super::heap::{Full, MAX_HEAP_BYTES};
use crate::source::Cursor;
use crate::{CheckpointError, Corrupt};

/// Why an instruction failed; [`Fault::at`] adds where.
#[derive(Debug)]
pub(super) enum Fault {
    Read(CheckpointError),
    UnknownOpcode(u8),
    Malformed(&'static str),
    Limit(&'static str, u64),
    Forbidden(String),
}

pub(super) type Step<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn at(self, input: &Cursor<'_>, at: u64) -> CheckpointError {
        input.corrupt(match self {
            Fault::Read(error) => return error,
            Fault::UnknownOpcode(opcode) => Corrupt::UnknownOpcode { at, opcode },
            Fault::Malformed(what) => Corrupt::Pickle { at, what },
            Fault::Limit(what, limit) => Corrupt::Limit { at, what, limit },
            Fault::Forbidden(global) => Corrupt::ForbiddenGlobal { at, global },
        })
    }
}

impl From<CheckpointError> for Fault {
    fn from(error: CheckpointError) -> Self {
        Fault::Read(error)
    }
}

impl From<Full> for Fault {
    fn from(_: Full) -> Self {
        Fault::Limit("the values of the pickle need too much memory", MAX_HEAP_BYTES as u64)
    }
}
