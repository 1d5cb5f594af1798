//! Instructions of each layer's unit of work, counted by Valgrind: figures that a busy machine can't disturb.
//!
//! `cargo xtask instructions` runs this under callgrind and compares the counts with `benches/instructions.json`. What is
//! counted is each call of a function whose name begins with `counted_`; everything before is preparation. Valgrind offers
//! AVX2 and nothing newer, so that every x86-64 host counts the same kernels.

use std::hint::black_box;
use std::time::Duration;

use slackline_collective::{Group, GroupOptions, LaneOptions};
use slackline_dlrm::{Arguments, DenseModel, InteractionScratch, MlpScratch, ModelConfig};
use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling, RowFormat};
use slackline_transport::threads::ThreadEndpoint;
use slackline_transport::{GroupShape, Lane, threads};

/// Two ranks that one thread drives, and the bytes of each message.
struct Pair {
    ranks: [Group<ThreadEndpoint>; 2],
    bytes: usize,
}

fn pair(bytes: usize, slot: usize) -> Pair {
    let options = LaneOptions::lag(1);
    let shape = GroupShape { ranks: 2, lanes: vec![options.shape(slot)] };
    let endpoints = threads::group(&shape).expect("the shape is valid");
    let join = |endpoint| {
        let options = GroupOptions::new([options]).deadline(Duration::from_secs(600));
        Group::new(endpoint, options).expect("the shape fits the options")
    };
    let ranks = endpoints.into_iter().map(join).collect::<Vec<_>>().try_into().ok().expect("two endpoints");
    let mut pair = Pair { ranks, bytes };
    // Until each slot has been used.
    (0..4).for_each(|_| round(&mut pair));
    pair
}

/// One round: each rank publishes, then takes what is complete.
fn round(pair: &mut Pair) {
    for group in &mut pair.ranks {
        let exchange = group.lane(Lane(0));
        let mut round = exchange.begin(&[pair.bytes; 2]).expect("the rounds before were taken");
        for message in round.messages_mut() {
            message[0] = 1;
        }
        round.publish().expect("the group is whole");
    }
    for group in &mut pair.ranks {
        let exchange = group.lane(Lane(0));
        while let Some(complete) = exchange.take().expect("the group is whole") {
            black_box(complete.message(0));
        }
    }
}

/// A table, the lookups of one bag, and room for its sum.
struct Lookup {
    table: HeapTable,
    indices: Vec<i64>,
    out: Vec<f32>,
}

fn lookup(format: RowFormat) -> Lookup {
    let table = HeapTable::random("t", 1000, 64, 1).to_format(format).expect("random rows are finite");
    let indices = (0..20).map(|at| at * 37 % 1000).collect();
    let mut lookup = Lookup { table, indices, out: vec![0.0; 64] };
    // Finds out what the processor has.
    pool(&mut lookup);
    lookup
}

fn pool(lookup: &mut Lookup) {
    let bags = Bags::new("t", 1000, &lookup.indices, &[0, 20], None).expect("the indices are rows");
    lookup.table.pool(&bags, Pooling::Sum, &mut lookup.out).expect("there is room for one bag");
}

/// The dense part of a model, and room for what its parts compute.
struct Dense {
    model: DenseModel,
    samples: usize,
    input: Vec<f32>,
    out: Vec<f32>,
    mlp: MlpScratch,
    interaction: InteractionScratch,
}

/// A model whose bottom MLP is one layer, `[512] -> [256]`.
fn layer(samples: usize) -> Dense {
    dense(vec![512, 256], samples, 512, 256)
}

/// The reference's Kaggle model.
fn vectors(samples: usize) -> Dense {
    dense(vec![13, 512, 256, 64, 16], samples, 16, 16 + 27 * 26 / 2)
}

fn dense(mlp_bot: Vec<usize>, samples: usize, inputs: usize, outputs: usize) -> Dense {
    let arguments = Arguments {
        sparse_feature_size: *mlp_bot.last().expect("a bottom MLP has layers"),
        embedding_size: vec![10; 26],
        mlp_bot,
        mlp_top: vec![512, 256, 1],
        ..Arguments::default()
    };
    let mut dense = Dense {
        model: DenseModel::random(ModelConfig::new(arguments).expect("the configuration is valid"), 1),
        samples,
        input: vec![0.5; samples * inputs],
        out: vec![0.0; samples * outputs],
        mlp: MlpScratch::default(),
        interaction: InteractionScratch::default(),
    };
    // Grows the scratch memory.
    if inputs == 512 {
        dense.layer()
    } else {
        dense.interact()
    }
    dense
}

impl Dense {
    fn layer(&mut self) {
        self.model.bottom_mlp().forward(&self.input, self.samples, &mut self.mlp, &mut self.out);
    }

    fn interact(&mut self) {
        let tables = [self.input.as_slice(); 26];
        self.model.interaction().interact(&self.input, &tables, 0..self.samples, &mut self.interaction, &mut self.out);
    }
}

/// Functions of their own, which callgrind knows by their names.
macro_rules! counted {
    ($($name:ident($argument:ty) = $work:path;)*) => { $(
        #[inline(never)]
        fn $name(argument: &mut $argument) {
            $work(argument);
            // Keeps the compiler from making one function of two, and a jump of the call.
            black_box(stringify!($name));
        }
    )* };
}

counted! {
    counted_exchange_round_1_kib(Pair) = round;
    counted_exchange_round_1_kib_in_fragments(Pair) = round;
    counted_bag_of_20_f32(Lookup) = pool;
    counted_bag_of_20_f16(Lookup) = pool;
    counted_bag_of_20_bf16(Lookup) = pool;
    counted_bag_of_20_int8(Lookup) = pool;
    counted_bag_of_20_int4(Lookup) = pool;
    counted_layer_512_to_256_1_sample(Dense) = Dense::layer;
    counted_layer_512_to_256_128_samples(Dense) = Dense::layer;
    counted_interaction_27_vectors_of_16_16_samples(Dense) = Dense::interact;
}

fn main() {
    counted_exchange_round_1_kib(&mut pair(1 << 10, 1 << 10));
    counted_exchange_round_1_kib_in_fragments(&mut pair(1 << 10, 300));
    counted_bag_of_20_f32(&mut lookup(RowFormat::F32));
    counted_bag_of_20_f16(&mut lookup(RowFormat::F16));
    counted_bag_of_20_bf16(&mut lookup(RowFormat::Bf16));
    counted_bag_of_20_int8(&mut lookup(RowFormat::Int8));
    counted_bag_of_20_int4(&mut lookup(RowFormat::Int4));
    counted_layer_512_to_256_1_sample(&mut layer(1));
    counted_layer_512_to_256_128_samples(&mut layer(128));
    counted_interaction_27_vectors_of_16_16_samples(&mut vectors(16));
}
