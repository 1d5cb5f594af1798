//! Memory of tensors.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::Memory;

/// The memory of a contiguous CPU tensor, or of anything else with `data_ptr()` and `nbytes`. It keeps the tensor alive.
///
/// The methods of this module are called by the package `slackline` alone, which passes tensors that it has checked to be dense,
/// contiguous and in the memory of the process. What else has these two names could claim any memory: as with `ctypes`, that
/// is the caller's word.
pub(crate) fn memory(tensor: &Bound<'_, PyAny>) -> PyResult<Memory> {
    let py = tensor.py();
    let address: usize = tensor.call_method0(pyo3::intern!(py, "data_ptr"))?.extract()?;
    let bytes: usize = tensor.getattr(pyo3::intern!(py, "nbytes"))?.extract()?;
    claimed(tensor, address, bytes)
}

/// The memory of a contiguous NumPy array, in the same way.
pub(crate) fn array(array: &Bound<'_, PyAny>) -> PyResult<Memory> {
    let py = array.py();
    let interface = array.getattr(pyo3::intern!(py, "__array_interface__"))?;
    let address: usize = interface.get_item(pyo3::intern!(py, "data"))?.get_item(0)?.extract()?;
    let bytes: usize = array.getattr(pyo3::intern!(py, "nbytes"))?.extract()?;
    claimed(array, address, bytes)
}

fn claimed(owner: &Bound<'_, PyAny>, address: usize, bytes: usize) -> PyResult<Memory> {
    if bytes == 0 {
        return Ok(Memory::EMPTY);
    }
    if address == 0 {
        return Err(PyValueError::new_err("a tensor without memory, such as one on the device `meta`"));
    }
    let keeper = Arc::new(owner.clone().unbind());
    // SAFETY: the owner's own word, see above: what lives keeps its memory, and no Rust reference to it exists.
    Ok(unsafe { Memory::new(std::ptr::with_exposed_provenance_mut(address), bytes, keeper) })
}
