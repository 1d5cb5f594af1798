//! The extension module `slackline._native`.

mod errors;
#[allow(unsafe_code)]
mod ffi;
mod group;
mod lag;
mod model;

use pyo3::prelude::*;

/// What the package `slackline` is built on; see `docs/pytorch.md` for what it offers.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<group::Segment>()?;
    module.add_class::<group::Group>()?;
    module.add_class::<group::Pending>()?;
    module.add_class::<lag::Lag>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<model::Bags>()?;
    module.add_function(wrap_pyfunction!(model::import_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(lag::lag_segment, module)?)?;
    Ok(())
}
