//! What has to be the same on every rank, in the words of the command line.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use slackline_collective::Terms;
use slackline_data::Batch;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Job;

/// How many places of the input are read before the first batch, and how many bytes of each.
const PLACES: u64 = 64;
const BYTES: u64 = 4096;

/// What is compared before the first batch.
pub(super) fn before(job: &Job<'_>) -> Result<Terms> {
    let args = job.args;
    let plan = serde_json::to_vec(&job.plan).context("writing the plan down")?;
    let (bytes, digest) =
        sample(&args.input).with_context(|| format!("{}: cannot read its digest", args.input.display()))?;
    Ok(Terms::new()
        .with("the program's version", env!("CARGO_PKG_VERSION"))
        .with("the model (digest)", format!("{:032x}", job.directory.digest()))
        .with("the plan (digest)", format!("{:016x}", xxh3_64(&plan)))
        .with("the input (bytes)", bytes)
        .with("the input (digest of parts)", format!("{digest:016x}"))
        .with("--format", job.format)
        .with("--ranks", job.shape.ranks)
        .with("--batch", args.batch)
        .with("--lag", args.lag)
        .with("--delivery", args.delivery)
        .with("--wire", args.wire)
        .with("--transport", format!("{:?}", args.transport).to_lowercase())
        .with("--peers", &args.peers))
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

    pub(super) fn terms(&self) -> Terms {
        Terms::new()
            .with("the input (rows read)", self.rows)
            .with("the input (digest of all rows)", format!("{:016x}", self.hash.digest()))
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
