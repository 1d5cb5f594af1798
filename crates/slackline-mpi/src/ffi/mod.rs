//! All that touches MPI's C interface: every return code is looked at, every count is checked before C sees it.
//!
//! [`comm`] has starting, ending and communicators; [`meeting`] the collectives that set a group up; [`rings`] the slots that messages lie
//! in and the requests that own them meanwhile, [`alltoallv`] MPI's own exchange. What they offer is safe.

pub(crate) mod alltoallv;
pub(crate) mod comm;
pub(crate) mod meeting;
pub(crate) mod rings;
pub(crate) mod slots;

use std::ffi::c_int;

use mpi::ffi;

/// A call of MPI that returned an error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{call}: {text} (MPI error {code})")]
pub struct MpiError {
    /// The function.
    pub call: &'static str,
    /// What it returned.
    pub code: i32,
    /// MPI's own words for it.
    pub text: String,
}

/// `Ok` for MPI_SUCCESS.
#[inline]
fn check(call: &'static str, code: c_int) -> Result<(), MpiError> {
    if code == ffi::MPI_SUCCESS as c_int { Ok(()) } else { Err(error(call, code)) }
}

#[cold]
fn error(call: &'static str, code: c_int) -> MpiError {
    let mut text = vec![0u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the buffer has the size that the standard asks for, and `length` is written by the call.
    let answer = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(if answer == ffi::MPI_SUCCESS as c_int { length.max(0) as usize } else { 0 });
    MpiError { call, code, text: String::from_utf8_lossy(&text).into_owned() }
}

/// A number of bytes as MPI counts them.
fn count(call: &'static str, bytes: usize) -> Result<c_int, MpiError> {
    c_int::try_from(bytes).map_err(|_| MpiError {
        call,
        code: ffi::MPI_ERR_COUNT as c_int,
        text: format!("{bytes} bytes are more than a count of MPI can say"),
    })
}
