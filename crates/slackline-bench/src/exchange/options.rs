//! What an exchange benchmark measures, and a line of its result.

use serde::Serialize;

use crate::ranks::Transport;
use crate::results::Spread;

/// The sizes that are measured, in bytes to each peer.
pub const SIZES: [usize; 9] = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// What to measure.
#[derive(Clone, Debug)]
pub struct ExchangeOptions {
    /// Processes, at least 1.
    pub ranks: usize,
    /// Bytes to each peer, before they are made uneven.
    pub sizes: Vec<usize>,
    /// The lag; 0 is an ordinary alltoallv. MPI has lag + 1 non-blocking calls under way.
    pub lag: usize,
    /// Whether receivers read one byte of every cache line.
    pub read: bool,
    /// Whether each rank is bound to a core, if there are enough cores.
    pub pin: bool,
    /// Timed blocks per turn; another block before them warms up.
    pub blocks: usize,
    /// Turns per size; in each, Slackline comes first, then MPI.
    pub turns: usize,
    /// Whether MPI takes part, as another program.
    pub mpi: bool,
    /// How ranks are run; not as threads.
    pub transport: Transport,
}

/// One implementation at one size, over all blocks of all turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExchangeLine {
    /// `slackline`, or MPI's name and version.
    pub implementation: String,
    /// The call.
    pub call: String,
    /// Processes.
    pub ranks: usize,
    /// The lag.
    pub lag: usize,
    /// Whether received messages were read.
    pub read: bool,
    /// Bytes to each peer.
    pub bytes: usize,
    /// Microseconds per round.
    pub us: Spread,
    /// MPI's time divided by Slackline's, turn by turn; in MPI's lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
}

impl ExchangeLine {
    /// From the blocks of each turn, and those of what they are compared with.
    pub(crate) fn new(
        options: &ExchangeOptions,
        bytes: usize,
        implementation: &str,
        call: &str,
        turns: &[Vec<f64>],
        ours: Option<&[Vec<f64>]>,
    ) -> Self {
        let median = |us: &[f64]| Spread::of(us.to_vec()).median;
        let ratios = |ours: &[Vec<f64>]| turns.iter().zip(ours).map(|(us, ours)| median(us) / median(ours)).collect();
        ExchangeLine {
            implementation: implementation.to_owned(),
            call: call.to_owned(),
            ranks: options.ranks,
            lag: options.lag,
            read: options.read,
            bytes,
            us: Spread::of(turns.concat()),
            ratio: ours.map(|ours| Spread::of(ratios(ours))),
        }
    }
}
