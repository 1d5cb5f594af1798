//! A model whose tables are spread over three ranks, here threads. Each rank is late in every third batch; with lag 2 the
//! others go on meanwhile. The predictions have the bits of a local run.
//!
//! `cargo run -p slackline-dlrm --features distributed --example distributed`

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use slackline_dlrm::{
    Batch, Distributed, DistributedModel, DlrmError, Endpoint, Group, GroupOptions, Lane, LaneOptions, Load, Local,
    LocalModel, Model, ModelConfig, ModelDirectory, Plan, TableInput, Verify, largest_message, threads,
    write_synthetic,
};

const RANKS: usize = 3;
const SAMPLES: usize = 24;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ModelConfig::from_json(
        r#"{"arch_sparse_feature_size": 8, "arch_embedding_size": "900-40-3000-7", "arch_mlp_bot": "3-16-8", "arch_mlp_top": "16-1"}"#,
    )?
    .config;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    write_synthetic(&config, 7, &path, 1, &mut |_| ())?;
    let directory = ModelDirectory::open(&path)?;
    let batches: Vec<Batch> = (0..30).map(|number| batch(&config, number)).collect();

    let tables = directory.load_tables(&[0, 1, 2, 3], Load::Mapped, Verify::Checksums)?;
    let mut local = Local::new(LocalModel::new(directory.load_dense()?, tables)?);
    let expected = predict(&mut local, &batches, |_| ())?;

    let plan = Plan::table_wise(&directory.tables(), RANKS)?;
    println!("{plan}");
    for lag in [0, 2] {
        let options = GroupOptions::new([LaneOptions::lag(lag)]);
        let endpoints = threads::group(&options.shape(RANKS, largest_message(&plan, SAMPLES)))?;
        let begin = Instant::now();
        let mut found = thread::scope(|scope| {
            let run = |endpoint| scope.spawn(|| rank(endpoint, options.clone(), &path, &plan, &batches));
            let ranks: Vec<_> = endpoints.into_iter().map(run).collect();
            let ranks = ranks.into_iter().map(|rank| rank.join().expect("no rank panics"));
            ranks.collect::<Result<Vec<_>, DlrmError>>()
        })?
        .concat();
        found.sort_by_key(|(sample, _)| *sample);
        assert!(found.iter().map(bits).eq(expected.iter().map(bits)));
        println!("lag {lag}: {} predictions in {:?}, the bits of the local run", found.len(), begin.elapsed());
    }
    Ok(())
}

/// One rank: its own samples' predictions, each with the number of the sample.
fn rank(
    endpoint: impl Endpoint,
    options: GroupOptions,
    path: &Path,
    plan: &Plan,
    batches: &[Batch],
) -> Result<Vec<(u64, f32)>, DlrmError> {
    let rank = endpoint.rank();
    let directory = ModelDirectory::open(path)?;
    let tables = directory.load_rank(plan, rank, Load::Mapped, Verify::Checksums, &mut |_| ())?;
    let model = DistributedModel::new(directory.load_dense()?, tables, plan.clone(), rank)?;
    let group = Group::new(endpoint, options)?;
    let mut model = Distributed::new(model, group.lane(Lane(0)))?;
    model.warm_up()?;
    predict(&mut model, batches, |number| {
        if number % RANKS == rank {
            thread::sleep(Duration::from_millis(3));
        }
    })
}

/// The predictions that a model makes, each with the number of its sample; the loop is the same for every model.
fn predict(model: &mut impl Model, batches: &[Batch], before: impl Fn(usize)) -> Result<Vec<(u64, f32)>, DlrmError> {
    let (mut all, mut predictions) = (Vec::new(), Vec::new());
    for (number, batch) in batches.iter().enumerate() {
        before(number);
        model.submit(batch)?;
        while let Some(answered) = model.take(&mut predictions)? {
            all.extend((answered.first_sample..).zip(predictions.iter().copied()));
        }
    }
    // The last batches, for which no later one has waited.
    while let Some(answered) = model.drain(&mut predictions)? {
        all.extend((answered.first_sample..).zip(predictions.iter().copied()));
    }
    model.intact()?;
    Ok(all)
}

fn bits((sample, prediction): &(u64, f32)) -> (u64, u32) {
    (*sample, prediction.to_bits())
}

/// Two lookups a sample in every table.
fn batch(config: &ModelConfig, number: usize) -> Batch {
    let table = |rows: &usize| TableInput {
        indices: (0..2 * SAMPLES).map(|at| ((number * 7919 + at * 104_729) % rows) as i64).collect(),
        offsets: (0..=SAMPLES).map(|sample| 2 * sample as i64).collect(),
        ..TableInput::default()
    };
    Batch {
        first_sample: (number * SAMPLES) as u64,
        samples: SAMPLES,
        dense: (0..SAMPLES * config.dense_features()).map(|at| (at % 11) as f32 / 11.0).collect(),
        tables: config.rows().iter().map(table).collect(),
        ..Batch::default()
    }
}
