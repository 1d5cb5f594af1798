//! Rank 0's side of the predictions: puts those of all ranks in order, measures them, and writes them while the run goes on.
//!
//! A batch waits here, with its labels and ids, until every rank has sent its share. No rank is ahead of rank 0 by more than the
//! lag, nor is rank 0 ahead of another, so there are never more than a few batches, however many rows the input has.

use std::collections::VecDeque;
use std::fmt::Write;
use std::mem;

use anyhow::{Context, Result, bail};
use slackline_collective::Rank;
use slackline_data::{Batch, Input, RowIds};
use slackline_dlrm::samples_of;

use super::answers::Predicted;
use super::latencies::Latencies;
use super::stream::{Sink, Stamp};
use super::{Job, terms};
use crate::metrics::QualityMeter;
use crate::output::{KeptRows, PATIENCE_ROWS, PredictionFile};

/// Rows that are passed over at a time.
const PASSED: usize = 1 << 12;

/// Collects predictions.
pub(super) struct Collector {
    ranks: usize,
    file: Option<PredictionFile>,
    kept: Option<KeptRows>,
    /// The number of the oldest batch in `waiting`.
    first: u64,
    waiting: VecDeque<Waiting>,
    spare: Vec<Waiting>,
    /// For each rank the number of the batch of which it sends predictions next.
    next: Vec<u64>,
    rows: u64,
    resumed: u64,
    labelled: bool,
    quality: QualityMeter,
    not_a_number: u64,
    latencies: Latencies,
    ids: IdText,
}

/// A batch that some rank has not answered yet.
#[derive(Default)]
struct Waiting {
    first_sample: u64,
    samples: usize,
    /// As in [`Stamp`], of rank 0.
    read: u64,
    labels: Vec<f32>,
    ids: RowIds,
    predictions: Vec<f32>,
    /// Ranks that have not sent their shares.
    missing: usize,
}

impl Collector {
    /// Opens the output, if there is one, with the rows of an earlier run if it is to be resumed. That may take long: `patience`
    /// is called now and then, while other ranks wait.
    pub(super) fn new(job: &Job<'_>, patience: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let args = job.args;
        let mut collector = Self::of(job.shape.ranks);
        (collector.file, collector.kept) = match &args.output {
            None => (None, None),
            Some(output) if args.resume => {
                let (file, kept) = PredictionFile::resume(output, &terms::of_output(job)?, patience)?;
                (Some(file), kept)
            }
            Some(output) => (Some(PredictionFile::create(output, &terms::of_output(job)?)?), None),
        };
        collector.resumed = collector.kept.as_ref().map_or(0, |kept| kept.rows);
        Ok(collector)
    }

    /// One without an output.
    fn of(ranks: usize) -> Self {
        Collector {
            ranks,
            file: None,
            kept: None,
            first: 0,
            waiting: VecDeque::new(),
            spare: Vec::new(),
            next: vec![0; ranks],
            rows: 0,
            resumed: 0,
            labelled: false,
            quality: QualityMeter::new(),
            not_a_number: 0,
            latencies: Latencies::default(),
            ids: IdText::default(),
        }
    }

    /// How many rows need not be predicted again.
    pub(super) fn kept_rows(&self) -> u64 {
        self.resumed
    }

    /// Passes over the rows that were kept, as [`pass_over`]; they count as if they had been predicted now.
    pub(super) fn pass_over(&mut self, input: &mut Input, patience: impl FnMut() -> Result<()>) -> Result<()> {
        let Some(mut kept) = self.kept.take() else { return Ok(()) };
        pass_over(input, kept.rows, patience, |batch| {
            for row in 0..batch.samples {
                let prediction = kept.next(self.ids.of(batch.ids.get(row), batch.first_sample + row as u64))?;
                self.measure(prediction, batch.labels.get(row).copied());
            }
            Ok(())
        })
    }

    /// Takes the predictions of a rank's share of a batch. They go no further if that rank has read other rows than this one.
    pub(super) fn put(
        &mut self,
        from: Rank,
        Stamp { number, read, milliseconds }: Stamp,
        predictions: impl ExactSizeIterator<Item = f32>,
    ) -> Result<()> {
        let place = number.checked_sub(self.first).filter(|_| number == self.next[from]);
        let waiting = place.and_then(|place| self.waiting.get_mut(place as usize));
        let waiting = waiting.with_context(|| format!("rank {from} sent predictions of batch {number} out of turn"))?;
        if waiting.read != read {
            let row = waiting.first_sample + waiting.samples as u64;
            bail!("rank {from} has read other rows than rank 0, up to row {row}: start all ranks with the same input");
        }
        let share = samples_of(waiting.samples, from, self.ranks);
        if share.len() != predictions.len() {
            let (sent, expected) = (predictions.len(), share.len());
            bail!("rank {from} sent {sent} predictions of batch {number}, of which it has {expected} samples");
        }
        waiting.missing -= 1;
        let has_samples = !share.is_empty();
        for (place, prediction) in waiting.predictions[share].iter_mut().zip(predictions) {
            *place = prediction;
        }
        self.next[from] = number + 1;
        if has_samples {
            self.latencies.add(milliseconds);
        }
        while self.waiting.front().is_some_and(|waiting| waiting.missing == 0) {
            let whole = self.waiting.pop_front().expect("just seen");
            self.first += 1;
            self.write(&whole)?;
            self.spare.push(whole);
        }
        Ok(())
    }

    /// A rank that has not sent its share of the oldest batch; `None` if nothing is awaited.
    pub(super) fn awaited(&self) -> Option<Rank> {
        self.waiting.front()?;
        (0..self.ranks).find(|rank| self.next[*rank] <= self.first)
    }

    /// Everything, once nothing is awaited.
    pub(super) fn finish(self) -> Predicted {
        let Collector { file, rows, resumed, labelled, quality, not_a_number, latencies, .. } = self;
        let quality = if labelled { quality.quality() } else { Default::default() };
        Predicted { rows, resumed, labelled, quality, not_a_number, latencies, file }
    }

    fn write(&mut self, batch: &Waiting) -> Result<()> {
        for (row, &prediction) in batch.predictions.iter().enumerate() {
            self.measure(prediction, batch.labels.get(row).copied());
            if let Some(file) = &mut self.file {
                file.row(self.ids.of(batch.ids.get(row), batch.first_sample + row as u64), prediction)?;
            }
        }
        Ok(())
    }

    fn measure(&mut self, prediction: f32, label: Option<f32>) {
        self.rows += 1;
        self.not_a_number += u64::from(prediction.is_nan());
        if let Some(label) = label {
            self.labelled = true;
            self.quality.add(prediction, label);
        }
    }
}

impl Sink for Collector {
    fn submitted(&mut self, batch: &mut Batch, read: u64) {
        let mut waiting = self.spare.pop().unwrap_or_default();
        waiting.read = read;
        (waiting.first_sample, waiting.samples, waiting.missing) = (batch.first_sample, batch.samples, self.ranks);
        // The next batch is read into what was here before.
        mem::swap(&mut waiting.labels, &mut batch.labels);
        mem::swap(&mut waiting.ids, &mut batch.ids);
        waiting.predictions.clear();
        waiting.predictions.resize(batch.samples, f32::NAN);
        self.waiting.push_back(waiting);
    }

    fn answered(&mut self, stamp: Stamp, predictions: &[f32]) -> Result<()> {
        self.put(0, stamp, predictions.iter().copied())
    }

    fn turn(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), PredictionFile::turn)
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The ids of rows as they are written.
#[derive(Default)]
struct IdText {
    number: String,
}

impl IdText {
    /// A row's id, or its number from 0 if the input has none.
    fn of<'a>(&'a mut self, id: Option<&'a [u8]>, number: u64) -> &'a [u8] {
        id.unwrap_or_else(|| {
            self.number.clear();
            write!(self.number, "{number}").expect("a String takes all");
            self.number.as_bytes()
        })
    }
}

/// Reads the first `rows` of an input and gives their labels and ids to `each`. `patience` is called as often on every rank, so
/// that they can keep in step: a rank that is waited for at the end of a long file would count as late.
pub(super) fn pass_over(
    input: &mut Input,
    rows: u64,
    mut patience: impl FnMut() -> Result<()>,
    mut each: impl FnMut(&Batch) -> Result<()>,
) -> Result<()> {
    let (mut batch, mut passed) = (Batch::default(), 0);
    while passed < rows {
        let most = usize::try_from(rows - passed).map_or(PASSED, |rest| rest.min(PASSED));
        if !input.skip_batch(most, &mut batch)? {
            bail!("the input has {passed} rows, and {rows} were kept; leave out --resume to start over");
        }
        let before = passed;
        passed += batch.samples as u64;
        each(&batch)?;
        if before / PATIENCE_ROWS != passed / PATIENCE_ROWS {
            patience()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three ranks, and batches of the given numbers of samples, each with a digest of ten times its number.
    fn collector(samples: &[usize]) -> Collector {
        let mut collector = Collector::of(3);
        let mut first_sample = 0;
        for (number, &samples) in samples.iter().enumerate() {
            let labels = vec![0.0; samples];
            let mut batch = Batch { first_sample, samples, labels, ..Batch::default() };
            collector.submitted(&mut batch, 10 * number as u64);
            first_sample += samples as u64;
        }
        collector
    }

    fn put(collector: &mut Collector, from: Rank, number: u64, predictions: &[f32]) -> Result<()> {
        collector.put(
            from,
            Stamp { number, read: number.wrapping_mul(10), milliseconds: 1.0 },
            predictions.iter().copied(),
        )
    }

    #[test]
    fn a_batch_is_over_when_the_last_share_has_come_in_whatever_order() {
        let mut collector = collector(&[3, 2, 4]);
        put(&mut collector, 2, 0, &[0.5]).unwrap();
        put(&mut collector, 2, 1, &[0.5]).unwrap();
        // Of two samples rank 0 has none.
        put(&mut collector, 0, 0, &[0.5]).unwrap();
        put(&mut collector, 0, 1, &[]).unwrap();
        assert_eq!((collector.rows, collector.awaited()), (0, Some(1)));
        put(&mut collector, 1, 0, &[f32::NAN]).unwrap();
        assert_eq!((collector.rows, collector.awaited()), (3, Some(1)));
        put(&mut collector, 1, 1, &[0.5]).unwrap();
        assert_eq!((collector.rows, collector.awaited()), (5, Some(0)));
        for (rank, share) in [(0, 1), (1, 1), (2, 2)] {
            put(&mut collector, rank, 2, &[0.5; 2][..share]).unwrap();
        }
        assert_eq!(collector.awaited(), None);
        let predicted = collector.finish();
        assert_eq!((predicted.rows, predicted.not_a_number, predicted.latencies.count()), (9, 1, 8));
    }

    #[test]
    fn what_no_rank_should_send_is_an_error() {
        let refused = |from, number, predictions: &[f32]| {
            let mut collector = collector(&[3, 2]);
            put(&mut collector, 1, 0, &[0.5]).unwrap();
            put(&mut collector, 0, 0, &[0.5]).unwrap();
            put(&mut collector, from, number, predictions).unwrap_err().to_string()
        };
        assert!(refused(1, 0, &[0.5]).contains("rank 1 sent predictions of batch 0 out of turn"));
        assert!(refused(1, 2, &[0.5]).contains("out of turn"));
        assert!(refused(1, u64::MAX, &[0.5]).contains("out of turn"));
        assert!(refused(2, 0, &[0.5; 2]).contains("rank 2 sent 2 predictions of batch 0, of which it has 1 samples"));
        assert!(refused(0, 1, &[0.5]).contains("of which it has 0"));
    }

    #[test]
    fn predictions_of_other_rows_go_no_further() {
        let mut collector = collector(&[5, 2]);
        let stamp = Stamp { number: 0, read: 1, milliseconds: 1.0 };
        let error = collector.put(1, stamp, [0.5; 2].into_iter()).unwrap_err().to_string();
        assert!(error.contains("rank 1 has read other rows than rank 0, up to row 5"), "{error}");
        assert_eq!(collector.rows, 0);
    }
}
