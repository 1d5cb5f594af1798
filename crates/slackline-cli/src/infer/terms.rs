//! What has to be the same on every rank, in the words of the command line.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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
    let mut changed = Vec::new();
    for file in job.open_input()?.files() {
        let at = fs::metadata(&file).and_then(|metadata| metadata.modified());
        let at = at.with_context(|| format!("{}: cannot look at it", file.display()))?;
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        changed.push(format!("{}.{:09}", at.as_secs(), at.subsec_nanos()));
    }
    let mut terms = computation(job)?.with("the input (last change)", changed.join(" "));
    // Otherwise no placement changes a bit.
    let by_rows = |part: &Part| part.rows != (0..job.plan.tables()[part.table].rows);
    if job.args.wire != Wire::F32 || job.plan.parts().iter().any(by_rows) {
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
    let (bytes, digest) = sample_all(&job.open_input()?.files())?;
    Ok(Terms::new()
        .with("the program's version", env!("CARGO_PKG_VERSION"))
        .with("the model (digest)", format!("{:032x}", job.directory.digest()))
        .with("the input (bytes)", bytes)
        .with("the input (digest of parts)", format!("{digest:016x}"))
        .with("--format", job.format)
        .with("--dense-transform", job.transforms.dense)
        .with("--sparse-transform", job.transforms.sparse)
        .with("--wire", job.args.wire))
}

/// The same of all files of an input together.
fn sample_all(files: &[PathBuf]) -> Result<(u64, u64)> {
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    for file in files {
        let (size, digest) = sample(file).with_context(|| format!("{}: cannot read its digest", file.display()))?;
        bytes += size;
        hash.update(&size.to_le_bytes());
        hash.update(&digest.to_le_bytes());
    }
    Ok((bytes, hash.digest()))
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
    use clap::Parser;
    use slackline_dlrm::{ModelConfig, write_synthetic};

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn ranks_that_would_read_the_input_differently_differ() {
        let folder = tempfile::tempdir().unwrap();
        let (model, input) = (folder.path().join("model"), folder.path().join("rows.tsv"));
        let config = r#"{"arch_sparse_feature_size": 2, "arch_embedding_size": [5, 3], "arch_mlp_bot": [1, 2],
                         "arch_mlp_top": [1]}"#;
        let config = ModelConfig::from_json(config).unwrap().config;
        write_synthetic(&config, 1, &model, 1, &mut |_| ()).unwrap();
        std::fs::write(&input, "1\t2\t1\t1\n").unwrap();
        let terms = |more: &[&str]| {
            let words = ["slackline", "infer", model.to_str().unwrap(), "--input", input.to_str().unwrap()];
            let Command::Infer(args) = Cli::try_parse_from([&words, more].concat()).unwrap().command else {
                panic!("infer is infer");
            };
            before(&Job::new(&args, 1).unwrap()).unwrap().to_bytes()
        };
        let usual = terms(&[]);
        assert!(Terms::compare(&[usual.clone(), terms(&["--dense-transform", "ln1p"])]).is_ok());
        for more in [["--dense-transform", "ln3"], ["--sparse-transform", "none"]] {
            let differ = Terms::compare(&[usual.clone(), terms(&more)]).unwrap_err().to_string();
            assert!(differ.contains(more[0]) && differ.contains(more[1]), "{differ}");
        }
    }

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
