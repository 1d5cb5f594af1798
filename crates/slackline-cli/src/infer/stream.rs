//! The loop over the input, the same for every model.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use slackline_data::{Batch, Input};
use slackline_dlrm::{Answered, Model};

use super::Job;
use super::terms::InputDigest;
use crate::progress::Progress;

/// Which batch predictions are of.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    /// The number of the batch.
    pub(super) number: u64,
    /// A digest of the rows that were read up to its end, where there are other ranks to compare it with.
    pub(super) read: u64,
    /// From when it was submitted until it was answered.
    pub(super) milliseconds: f32,
}

/// Where predictions go.
pub(super) trait Sink {
    /// A batch was submitted. Its labels and ids may be taken. `read` as in [`Stamp`].
    fn submitted(&mut self, batch: &mut Batch, read: u64);

    /// Predictions of this rank's samples of a batch, of which it may have none.
    fn answered(&mut self, stamp: Stamp, predictions: &[f32]) -> Result<()>;

    /// Moves on what can be moved without waiting. Called after each batch.
    fn turn(&mut self) -> Result<()>;

    /// All batches are answered: waits until everything has arrived.
    fn end(&mut self) -> Result<()>;
}

/// What a pass over the input took, and what was read.
pub(super) struct Times {
    /// Warming up.
    pub(super) warmup: Duration,
    /// From then on, once all were ready.
    pub(super) elapsed: Duration,
    /// What was read, where there are other ranks to compare it with.
    pub(super) input: InputDigest,
}

/// Warms the model up, waits for `ready`, and gives it every batch of the input. The predictions may be released.
///
/// `is_first`: whether this is the rank that shows progress.
pub(super) fn run(
    model: &mut impl Model,
    job: &Job<'_>,
    input: &mut Input,
    sink: &mut impl Sink,
    is_first: bool,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Times> {
    // A rank is ready when its first batch will be as fast as the others. `ready` waits until all ranks are.
    let begin = Instant::now();
    model.warm_up()?;
    let warmup = begin.elapsed();
    ready()?;
    let begin = Instant::now();
    let input = predict(model, job, input, sink, is_first)?;
    let elapsed = begin.elapsed();
    model.intact()?;
    sink.end()?;
    Ok(Times { warmup, elapsed, input })
}

fn predict(
    model: &mut impl Model,
    job: &Job<'_>,
    input: &mut Input,
    sink: &mut impl Sink,
    is_first: bool,
) -> Result<InputDigest> {
    let mut progress = is_first.then(|| Progress::new("infer"));
    let mut read = InputDigest::default();
    let mut batch = Batch::default();
    let mut fresh = Vec::new();
    // Of every batch that is not answered yet, oldest first: when it was submitted, and what had been read.
    let mut begun = VecDeque::new();
    while input.next_batch(job.args.batch, &mut batch)? {
        let begin = Instant::now();
        model.submit(&batch)?;
        if job.shape.ranks > 1 {
            read.add(&batch);
        }
        let digest = read.value();
        begun.push_back((begin, digest));
        let rows = batch.first_sample + batch.samples as u64;
        sink.submitted(&mut batch, digest);
        while let Some(answered) = model.take(&mut fresh)? {
            pass_on(sink, &mut begun, answered, &fresh)?;
        }
        sink.turn()?;
        if let Some(progress) = &mut progress {
            progress.at(|| {
                let share = input.total_bytes().map_or(0.0, |total| input.bytes_read() as f64 / total.max(1) as f64);
                format!("{:3.0} %, {rows} rows", 100.0 * share)
            });
        }
    }
    while let Some(answered) = model.drain(&mut fresh)? {
        pass_on(sink, &mut begun, answered, &fresh)?;
        sink.turn()?;
    }
    Ok(read)
}

fn pass_on(
    sink: &mut impl Sink,
    begun: &mut VecDeque<(Instant, u64)>,
    answered: Answered,
    predictions: &[f32],
) -> Result<()> {
    let (begin, read) = begun.pop_front().expect("one entry for each batch that was submitted");
    let milliseconds = begin.elapsed().as_secs_f32() * 1e3;
    sink.answered(Stamp { number: answered.round, read, milliseconds }, predictions)
}
