//! What has to be the same on every rank, in the words of the command line.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use slackline_collective::Terms;
use slackline_data::Batch;
use slackline_dlrm::Wire;
use slackline_embedding::Part;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Job;

/// How many places of the input are read before the first batch, and how many bytes of each.
const PLACES: u64 = 64;
const BYTES: u64 = 4096;

/// What ranks compare before the first batch.
pub(super) fn before(job: &Job<'_>) -> Result<Terms> {
    let args = job.args;
    Ok(computation(job)?
        .with("the plan (digest)", plan(job)?)
        .with("--ranks", job.shape.ranks)
        .with("--batch", args.batch)
        .with("--lag", args.lag)
        .with("--delivery", args.delivery)
        .with("--transport", format!("{:?}", args.transport).to_lowercase())
        .with("--peers", &args.peers))
}

/// What a run compares with the run whose output it resumes: everything that the predictions depend on, to the bit.
pub(super) fn of_output(job: &Job<'_>) -> Result<Terms> {
    let args = job.args;
    let changed = fs::metadata(&args.input).and_then(|metadata| metadata.modified());
    let changed = changed.with_context(|| format!("{}: cannot look at it", args.input.display()))?;
    let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut terms = computation(job)?
        .with("the input (last change)", format!("{}.{:09}", changed.as_secs(), changed.subsec_nanos()));
    // Otherwise no placement changes a bit.
    let by_rows = |part: &Part| part.rows != (0..job.plan.tables()[part.table].rows);
    if args.wire != Wire::F32 || job.plan.parts().iter().any(by_rows) {
        terms = terms.with("the plan (digest)", plan(job)?).with("--ranks", job.shape.ranks);
    }
    Ok(terms)
}

fn plan(job: &Job<'_>) -> Result<String> {
    let plan = serde_json::to_vec(&job.plan).context("writing the plan down")?;
    Ok(format!("{:016x}", xxh3_64(&plan)))
}

/// What is computed, of what.
fn computation(job: &Job<'_>) -> Result<Terms> {
    let args = job.args;
    let (bytes, digest) =
        sample(&args.input).with_context(|| format!("{}: cannot read its digest", args.input.display()))?;
    Ok(Terms::new()
        .with("the program's version", env!("CARGO_PKG_VERSION"))
        .with("the model (digest)", format!("{:032x}", job.directory.digest()))
        .with("the input (bytes)", bytes)
        .with("the input (digest of parts)", format!("{digest:016x}"))
        .with("--format", job.format)
        .with("--wire", args.wire))
}

/// The size of a file, and a digest of places spread over all of it: what differs in between is found at the
/// [end](InputDigest).
fn sample(path: &Path) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hash = Xxh3::new();
    let mut block = vec![0; BYTES as usize];
    for place in 0..PLACES {
        let last = size.saturating_sub(BYTES);
        let offset = (u128::from(last) * u128::from(place) / u128::from(PLACES - 1)) as u64;
        let wanted = BYTES.min(size - offset) as usize;
        file.read_exact_at(&mut block[..wanted], offset)?;
        hash.update(&block[..wanted]);
    }
    Ok((size, hash.digest()))
}

/// A digest of every batch as the model is given it, compared before predictions are released.
#[derive(Default)]
pub(super) struct InputDigest {
    hash: Xxh3,
    rows: usize,
}

impl InputDigest {
    pub(super) fn add(&mut self, batch: &Batch) {
        self.rows += batch.samples;
        self.hash.update(bytemuck::cast_slice(&batch.dense));
        for table in &batch.tables {
            self.hash.update(bytemuck::cast_slice(&table.indices));
            self.hash.update(bytemuck::cast_slice(&table.offsets));
            self.hash.update(bytemuck::cast_slice(&table.weights));
        }
    }

    /// Of all rows so far.
    pub(super) fn value(&self) -> u64 {
        self.hash.digest()
    }

    pub(super) fn terms(&self) -> Terms {
        Terms::new()
            .with("the input (rows read)", self.rows)
            .with("the input (digest of all rows)", format!("{:016x}", self.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_size_have_a_digest_that_sees_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        for size in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let mut bytes: Vec<u8> = (0..size).map(|at| at as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let before = sample(&path).unwrap();
            assert_eq!(before.0, size as u64);
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                assert_ne!(sample(&path).unwrap().1, before.1, "{size} bytes");
            }
        }
    }
}
