//! Starting and ending, communicators, and the one blocking collective that setting up a group needs.

use std::ffi::c_int;
use std::ptr;

use mpi::ffi;

use super::{MpiError, check, count};

/// Starts MPI for use by this one thread, unless somebody (mpi4py, PyTorch) has; whether this call did.
pub(crate) fn start() -> Result<bool, MpiError> {
    let mut flag = 0;
    // SAFETY: may be called at any time; `flag` is written.
    check("MPI_Initialized", unsafe { ffi::MPI_Initialized(&raw mut flag) })?;
    let fresh = flag == 0;
    if fresh {
        let mut provided = 0;
        // SAFETY: a constant that the shim of the bindings holds.
        let wanted = unsafe { ffi::RSMPI_THREAD_FUNNELED };
        // SAFETY: MPI is not initialised; both argument pointers may be null since MPI-2.
        let code = unsafe { ffi::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), wanted, &raw mut provided) };
        check("MPI_Init_thread", code)?;
    }
    Comm::world().return_errors()?;
    Ok(fresh)
}

/// Whether MPI has been ended in this process, after which nothing of it may be called.
pub(crate) fn has_ended() -> bool {
    let mut flag = 0;
    // SAFETY: may be called at any time; `flag` is written.
    unsafe { ffi::MPI_Finalized(&raw mut flag) };
    flag != 0
}

/// Ends MPI; collective.
pub(crate) fn end() -> Result<(), MpiError> {
    // SAFETY: the caller has started MPI and drops its last handle.
    check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
}

/// Ends all processes of the job.
pub(crate) fn abort(code: i32) -> ! {
    let world = Comm::world();
    // SAFETY: MPI is running; the call ends this process.
    unsafe { ffi::MPI_Abort(world.0, code) };
    std::process::exit(code)
}

/// The library's name and version, in one line.
pub(crate) fn library_version() -> Result<String, MpiError> {
    let mut text = vec![0u8; ffi::MPI_MAX_LIBRARY_VERSION_STRING as usize];
    let mut length = 0;
    // SAFETY: the buffer has the size that the standard asks for.
    check("MPI_Get_library_version", unsafe {
        ffi::MPI_Get_library_version(text.as_mut_ptr().cast(), &raw mut length)
    })?;
    text.truncate(length.max(0) as usize);
    let text = String::from_utf8_lossy(&text);
    Ok(text.trim_end_matches('\0').lines().next().unwrap_or_default().trim().to_owned())
}

/// A communicator. Copies are names of the same one.
#[derive(Clone, Copy)]
pub(crate) struct Comm(pub(super) ffi::MPI_Comm);

impl Comm {
    pub(crate) fn world() -> Self {
        // SAFETY: a constant that the shim of the bindings holds.
        Comm(unsafe { ffi::RSMPI_COMM_WORLD })
    }

    pub(super) fn return_errors(self) -> Result<(), MpiError> {
        // SAFETY: a constant that the shim of the bindings holds.
        let handler = unsafe { ffi::RSMPI_ERRORS_RETURN };
        // SAFETY: a live communicator and a predefined handler.
        check("MPI_Comm_set_errhandler", unsafe { ffi::MPI_Comm_set_errhandler(self.0, handler) })
    }

    pub(crate) fn rank(self) -> Result<usize, MpiError> {
        let mut rank = 0;
        // SAFETY: as above.
        check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(self.0, &raw mut rank) })?;
        Ok(rank as usize)
    }

    pub(crate) fn size(self) -> Result<usize, MpiError> {
        let mut size = 0;
        // SAFETY: as above.
        check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(self.0, &raw mut size) })?;
        Ok(size as usize)
    }

    /// What every rank brings, in rank order; as many bytes from each.
    fn all_gather_equal(self, own: &[u8]) -> Result<Vec<u8>, MpiError> {
        let bytes = count("MPI_Allgather", own.len())?;
        let mut all = vec![0u8; own.len() * self.size()?];
        // SAFETY: `all` has room for `bytes` from every rank.
        let code = unsafe {
            ffi::MPI_Allgather(own.as_ptr().cast(), bytes, byte(), all.as_mut_ptr().cast(), bytes, byte(), self.0)
        };
        check("MPI_Allgather", code)?;
        Ok(all)
    }

    /// The ranks that share this rank's memory, this one included, in rank order; collective, and blocks: MPI has no other call
    /// for it. All ranks have come before.
    pub(crate) fn ranks_of_node(self) -> Result<Vec<usize>, MpiError> {
        let rank = self.rank()?;
        let mut node = self.0;
        // SAFETY: a constant that the shim of the bindings holds.
        let shared = unsafe { ffi::RSMPI_COMM_TYPE_SHARED };
        // SAFETY: as above.
        let info = unsafe { ffi::RSMPI_INFO_NULL };
        // SAFETY: a live communicator; `node` is written. `key` keeps the order of ranks.
        let code = unsafe { ffi::MPI_Comm_split_type(self.0, shared, rank as c_int, info, &raw mut node) };
        check("MPI_Comm_split_type", code)?;
        let node = Comm(node);
        node.return_errors()?;
        let members = node.all_gather_equal(&(rank as u64).to_le_bytes())?;
        let members = members.as_chunks::<8>().0.iter().map(|member| u64::from_le_bytes(*member) as usize).collect();
        let mut handle = node.0;
        // SAFETY: the communicator was made above and is not used any more.
        check("MPI_Comm_free", unsafe { ffi::MPI_Comm_free(&raw mut handle) })?;
        Ok(members)
    }
}

/// The datatype of bytes.
#[inline]
pub(super) fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant that the shim of the bindings holds.
    unsafe { ffi::RSMPI_UINT8_T }
}
