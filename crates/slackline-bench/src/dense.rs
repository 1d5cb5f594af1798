//! The dense part of a model, bottom MLP, interaction and top MLP, alone or beside PyTorch on the same shape.
//!
//! Slackline and each peer take turns on one core, with the arithmetic peak measured in every turn, so that changes of the
//! machine's speed affect all: compare the ratios within a turn. Kernels are compared bit for bit with their oracles by tests,
//! predictions with PyTorch's by the golden models.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use slackline_dlrm::{Arguments, DenseModel, DenseScratch, ModelConfig, peak_flops};
use slackline_transport::cores;

use crate::BenchError;
use crate::peers::{self, Peer, PeersPlace};
use crate::results::Spread;

/// Seconds of one turn, about.
const TURN: f64 = 0.2;

/// A model's shape, named after the data set that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// The reference's script for Criteo Kaggle: vectors of 16.
    Kaggle,
    /// The reference's script for Criteo Terabyte: vectors of 64.
    Terabyte,
    /// MLPerf's first DLRM: vectors of 128.
    Mlperf,
}

impl Shape {
    /// All shapes, the smallest first.
    pub const ALL: [Shape; 3] = [Shape::Kaggle, Shape::Terabyte, Shape::Mlperf];

    /// Widths of the bottom MLP, and those of the top MLP after its input.
    fn widths(self) -> (Vec<usize>, Vec<usize>) {
        match self {
            Shape::Kaggle => (vec![13, 512, 256, 64, 16], vec![512, 256, 1]),
            Shape::Terabyte => (vec![13, 512, 256, 64], vec![512, 512, 256, 1]),
            Shape::Mlperf => (vec![13, 512, 256, 128], vec![1024, 1024, 512, 256, 1]),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Shape::Kaggle => "kaggle",
            Shape::Terabyte => "terabyte",
            Shape::Mlperf => "mlperf",
        })
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Shape::ALL.into_iter().find(|shape| shape.to_string() == name);
        found.ok_or_else(|| format!("no shape `{name}`; there are kaggle, terabyte and mlperf"))
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct DenseOptions {
    /// Shapes, one after the other.
    pub shapes: Vec<Shape>,
    /// Samples of a batch.
    pub batches: Vec<usize>,
    /// Turns of each setting.
    pub turns: usize,
    /// Where to find PyTorch, if it takes part.
    pub peers: Option<PeersPlace>,
}

/// One setting: microseconds of a batch of Slackline and of a peer, turn by turn.
#[derive(Clone, Debug, Serialize)]
pub struct DenseLine {
    /// The model's shape.
    pub shape: Shape,
    /// Samples of a batch.
    pub batch: usize,
    /// Microseconds of a batch, by turn.
    pub ours: Vec<f64>,
    /// 10^9 floating-point operations a second, by turn; of the interaction those of different vectors count.
    pub gigaflops: Vec<f64>,
    /// The most that the core's arithmetic allows, by turn.
    pub peak_gigaflops: Vec<f64>,
    /// The peer.
    pub peer: Option<String>,
    /// Microseconds of a batch of the peer, by turn.
    pub theirs: Vec<f64>,
}

/// Measures all settings and passes every line to `each` as soon as it is complete.
///
/// # Errors
///
/// [`BenchError::Settings`] for invalid settings, [`BenchError::Peer`], [`BenchError::File`].
pub fn dense(options: &DenseOptions, mut each: impl FnMut(&DenseLine)) -> Result<(), BenchError> {
    if options.batches.contains(&0) || options.turns == 0 {
        return Err(BenchError::Settings("batches and turns must be at least 1".to_owned()));
    }
    let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
    let python = options.peers.as_ref().map(PeersPlace::python).transpose()?;
    // One core for both: they never run at the same time.
    cores::bind(&cores::available()[..1]);
    let mut peer = python.map(|python| Peer::start(&peers::DENSE, &python, folder.path())).transpose()?;
    let torch = peer.as_mut().map(Peer::versions).transpose()?.map(|(torch, _)| torch);
    for &shape in &options.shapes {
        for &batch in &options.batches {
            let mut ours = Ours::new(shape, batch);
            let Some((peer, torch)) = peer.as_mut().zip(torch.as_ref()) else {
                each(&measure(options, &mut ours, None)?);
                continue;
            };
            for how in ["traced", "eager"] {
                let (bottom, top) = (ours.model.config().bottom(), ours.model.config().top());
                let tables = ours.model.config().tables();
                peer.ask(
                    json!({"do": "build", "bottom": bottom, "top": top, "tables": tables, "batch": batch, "how": how}),
                )?;
                each(&measure(options, &mut ours, Some((peer, format!("PyTorch {torch} {how}"))))?);
            }
        }
    }
    Ok(())
}

/// A model and a batch for its dense part.
struct Ours {
    shape: Shape,
    batch: usize,
    model: DenseModel,
    dense: Vec<f32>,
    pooled: Vec<Vec<f32>>,
    scratch: DenseScratch,
    bottom: Vec<f32>,
    out: Vec<f32>,
}

impl Ours {
    fn new(shape: Shape, batch: usize) -> Self {
        let (mlp_bot, mlp_top) = shape.widths();
        let dim = *mlp_bot.last().expect("there are layers");
        let arguments = Arguments {
            sparse_feature_size: dim,
            embedding_size: vec![10; 26],
            mlp_bot,
            mlp_top,
            ..Arguments::default()
        };
        let model = DenseModel::random(ModelConfig::new(arguments).expect("the shape is a model"), 1);
        let values = |count: usize, seed: usize| (0..count).map(|at| ((at * 31 + seed) as f32).sin()).collect();
        Ours {
            dense: values(batch * 13, 1),
            pooled: (0..26).map(|table| values(batch * dim, table)).collect(),
            shape,
            batch,
            model,
            scratch: DenseScratch::default(),
            bottom: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Floating-point operations of a batch.
    fn flops(&self) -> f64 {
        let config = self.model.config();
        let layers = [config.bottom(), config.top()].into_iter().flat_map(|widths| widths.windows(2));
        let weights: usize = layers.map(|pair| pair[0] * pair[1]).sum();
        let vectors = config.tables() + 1;
        (2 * self.batch * (weights + vectors * (vectors - 1) / 2 * config.dim())) as f64
    }

    /// Seconds of so many calls.
    fn sweep(&mut self, times: usize) -> f64 {
        let blocks: Vec<&[f32]> = self.pooled.iter().map(Vec::as_slice).collect();
        let begin = Instant::now();
        for _ in 0..times {
            self.model.bottom(&self.dense, self.batch, &mut self.scratch, &mut self.bottom);
            self.model.predict(&self.bottom, &blocks, self.batch, &mut self.scratch, &mut self.out);
        }
        begin.elapsed().as_secs_f64()
    }
}

fn measure(
    options: &DenseOptions,
    ours: &mut Ours,
    mut peer: Option<(&mut Peer, String)>,
) -> Result<DenseLine, BenchError> {
    ours.sweep(3);
    let times = ((TURN / ours.sweep(1).max(1e-7)) as usize).max(1);
    let theirs_times = match &mut peer {
        Some((peer, _)) => ((TURN / peer.sweep(3)?.max(1e-7) * 3.0) as usize).max(1),
        None => 0,
    };
    let mut line = DenseLine {
        shape: ours.shape,
        batch: ours.batch,
        ours: Vec::new(),
        gigaflops: Vec::new(),
        peak_gigaflops: Vec::new(),
        peer: peer.as_ref().map(|(_, name)| name.clone()),
        theirs: Vec::new(),
    };
    for _ in 0..options.turns {
        let seconds = ours.sweep(times) / times as f64;
        line.ours.push(seconds * 1e6);
        line.gigaflops.push(ours.flops() / seconds / 1e9);
        line.peak_gigaflops.push(peak_flops() / 1e9);
        if let Some((peer, _)) = &mut peer {
            line.theirs.push(peer.sweep(theirs_times)? / theirs_times as f64 * 1e6);
        }
    }
    Ok(line)
}

/// A readable line.
pub fn describe(line: &DenseLine) -> String {
    let spread = |numbers: Vec<f64>, digits: usize| {
        let Spread { median, min, max } = Spread::of(numbers);
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    };
    let shares = line.gigaflops.iter().zip(&line.peak_gigaflops).map(|(ours, peak)| ours / peak).collect();
    let mut text = format!(
        "{:<8} B={:<5} {:<28} us  {:<20} GFLOP/s, {} of peak",
        line.shape,
        line.batch,
        spread(line.ours.clone(), 1),
        spread(line.gigaflops.clone(), 1),
        spread(shares, 2),
    );
    if let Some(peer) = &line.peer {
        let ratios = line.ours.iter().zip(&line.theirs).map(|(ours, theirs)| theirs / ours).collect();
        text += &format!("   {}x {peer} ({} us)", spread(ratios, 2), spread(line.theirs.clone(), 1));
    }
    text + "\n"
}
