//! The extension module `slackline._native`.

mod errors;
mod ffi;
mod group;

use pyo3::prelude::*;

/// What the package `slackline` is built on; see `docs/pytorch.md` for what it offers.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<group::Segment>()?;
    module.add_class::<group::Group>()?;
    module.add_class::<group::Pending>()?;
    Ok(())
}
