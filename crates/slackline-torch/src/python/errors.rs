//! Failures as exceptions of `slackline.errors`.

use pyo3::prelude::*;

use crate::{Failure, FailureKind};

/// The exception for a failure, with its ranks, round and bytes.
pub(crate) fn raised(py: Python<'_>, failure: &Failure) -> PyErr {
    let class = match failure.kind {
        FailureKind::Dead => "DeadRankError",
        FailureKind::Late => "LateRankError",
        FailureKind::Mismatch => "MismatchError",
        FailureKind::Unusable => "CollectiveError",
    };
    let made = py.import("slackline.errors").and_then(|errors| {
        let details = (failure.text.as_str(), failure.ranks.clone(), failure.round, failure.bytes, failure.expected);
        errors.getattr(class)?.call1(details)
    });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// An exception about a model or an input.
pub(crate) fn unfit(py: Python<'_>, text: &str) -> PyErr {
    match py.import("slackline.errors").and_then(|errors| errors.getattr("ModelError")?.call1((text,))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}
