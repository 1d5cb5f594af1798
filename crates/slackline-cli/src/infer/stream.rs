//! The loop over the input, the same for every model.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use slackline_data::{Batch, Input};
use slackline_dlrm::{Answered, Model};

use super::Job;
use super::terms::InputDigest;
use crate::progress::Progress;

/// What a model made of the input.
#[derive(Default)]
pub(super) struct Stream {
    /// Rows of the input.
    pub(super) rows: usize,
    /// What was read, where there are other ranks to compare it with.
    pub(super) input: InputDigest,
    /// Of the rows that this model answers.
    pub(super) predictions: Vec<f32>,
    /// Of all rows, on the first rank.
    pub(super) labels: Vec<f32>,
    /// In milliseconds, of each batch of which this model had samples.
    pub(super) latencies: Vec<f32>,
    /// Warming up.
    pub(super) warmup: Duration,
    /// From then on, once all were ready.
    pub(super) elapsed: Duration,
}

/// Warms the model up, waits for `ready`, and gives it every batch of the input. The predictions may be released.
///
/// `is_first`: whether this is the rank that shows progress and keeps labels.
pub(super) fn run(
    model: &mut impl Model,
    job: &Job<'_>,
    input: &mut Input,
    is_first: bool,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Stream> {
    // A rank is ready when its first batch will be as fast as the others. `ready` waits until all ranks are.
    let begin = Instant::now();
    model.warm_up()?;
    let warmup = begin.elapsed();
    ready()?;
    let begin = Instant::now();
    let stream = predict(model, job, input, is_first)?;
    let elapsed = begin.elapsed();
    model.intact()?;
    Ok(Stream { warmup, elapsed, ..stream })
}

fn predict(model: &mut impl Model, job: &Job<'_>, input: &mut Input, is_first: bool) -> Result<Stream> {
    let mut progress = is_first.then(|| Progress::new("infer"));
    let mut stream = Stream::default();
    let mut batch = Batch::default();
    let mut fresh = Vec::new();
    // The start of every batch that is not answered yet, oldest first.
    let mut begun = VecDeque::new();
    let keep = |stream: &mut Stream, begun: &mut VecDeque<Instant>, answered: Answered, fresh: &[f32]| {
        stream.predictions.extend_from_slice(fresh);
        let begin = begun.pop_front().expect("one entry for each batch that was submitted");
        if answered.samples > 0 {
            stream.latencies.push(begin.elapsed().as_secs_f32() * 1e3);
        }
    };
    while input.next_batch(job.args.batch, &mut batch)? {
        begun.push_back(Instant::now());
        model.submit(&batch)?;
        if job.shape.ranks > 1 {
            stream.input.add(&batch);
        }
        stream.rows += batch.samples;
        if is_first {
            stream.labels.extend_from_slice(&batch.labels);
        }
        while let Some(answered) = model.take(&mut fresh)? {
            keep(&mut stream, &mut begun, answered, &fresh);
        }
        if let Some(progress) = &mut progress {
            progress.at(|| {
                let share = input.total_bytes().map_or(0.0, |total| input.bytes_read() as f64 / total.max(1) as f64);
                format!("{:3.0} %, {} rows", 100.0 * share, stream.rows)
            });
        }
    }
    while let Some(answered) = model.drain(&mut fresh)? {
        keep(&mut stream, &mut begun, answered, &fresh);
    }
    Ok(stream)
}
