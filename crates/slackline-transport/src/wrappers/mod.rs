//! Endpoints around endpoints.

mod checked;
mod delayed;

pub use checked::Checked;
pub use delayed::Delayed;
