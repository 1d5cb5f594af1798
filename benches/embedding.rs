//! The embedding engine alone: pooling by row format and instruction set, checking and picking lookups, compressed tables,
//! and encoding rows.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slackline_data::{Access, Batch, Synthetic, SyntheticSpec, TableSpec};
use slackline_embedding::compressed::{Combine, ProjectedTable, QuotientRemainderTable, RemappedTable, RowMap};
use slackline_embedding::kernels::{self, Cache, Isa, LookAhead};
use slackline_embedding::{BagBuffer, Bags, EmbeddingTable, HeapTable, Output, Pooling, RowFormat};

/// Rows of the table: past any cache at 64 columns, with hot rows inside.
const ROWS: u64 = 1_000_000;
const DIM: usize = 64;
const SAMPLES: usize = 128;

/// A batch of one table with bags of `lookups` rows.
fn batch(lookups: u32) -> Batch {
    batches(lookups, Access::Zipf(1.05), 1).remove(0)
}

fn batches(lookups: u32, access: Access, number: u64) -> Vec<Batch> {
    let pooling = slackline_data::Pooling::Fixed(lookups);
    let table = TableSpec { rows: ROWS, pooling, access };
    let spec = SyntheticSpec { samples_per_batch: SAMPLES, dense_features: 1, tables: vec![table], seed: 1 };
    let source = Synthetic::new(&spec).expect("the specification is valid");
    let draw = |number| {
        let mut batch = Batch::default();
        source.fill(number, &mut batch);
        batch
    };
    (0..number).map(draw).collect()
}

fn bags(batch: &Batch) -> Bags<'_> {
    let input = &batch.tables[0];
    Bags::new("table", ROWS, &input.indices, &input.offsets, None).expect("indices within the table")
}

fn pooling(c: &mut Criterion) {
    let table = HeapTable::random("table", ROWS, DIM, 1);
    for &format in RowFormat::ALL {
        let table = table.to_format(format).expect("values within -1 and 1");
        let mut group = c.benchmark_group(format!("pooling {format}"));
        for lookups in [1, 20] {
            let batch = batch(lookups);
            let bags = bags(&batch);
            let mut out = vec![0.0; SAMPLES * DIM];
            group.throughput(Throughput::Elements(bags.lookups() as u64));
            for &isa in Isa::available() {
                group.bench_function(BenchmarkId::new(isa.to_string(), format!("{lookups} rows a bag")), |b| {
                    b.iter(|| {
                        kernels::pool(isa, table.stored(), &bags, Pooling::Sum, Output::F32(&mut out));
                        black_box(&mut out);
                    });
                });
            }
        }
    }
}

/// The ways of asking for rows between which [`kernels::pool`] chooses, over rows that no cache of a core holds.
fn asking(c: &mut Criterion) {
    let table = HeapTable::random("table", ROWS, DIM, 1);
    let batches = batches(20, Access::Uniform, 256);
    for &format in RowFormat::ALL {
        let table = table.to_format(format).expect("values within -1 and 1");
        let mut group = c.benchmark_group(format!("asking for rows of {format}"));
        group.throughput(Throughput::Elements(20 * SAMPLES as u64));
        let mut out = vec![0.0; SAMPLES * DIM];
        for way in LookAhead::ways(table.stored()) {
            let LookAhead { first, all, cache, group: at_once } = way;
            let lookups = |ahead: Option<usize>| ahead.map_or("never".to_owned(), |ahead| format!("{ahead} ahead"));
            let level = if cache == Cache::First { 1 } else { 2 };
            let name =
                format!("first line {}, all {} (cache {level}), {at_once} at once", lookups(first), lookups(all));
            let mut next = batches.iter().cycle();
            group.bench_function(name, |b| {
                b.iter(|| {
                    let bags = bags(next.next().expect("there is always one"));
                    kernels::pool_with(Isa::best(), way, table.stored(), &bags, Pooling::Sum, Output::F32(&mut out));
                    black_box(&mut out);
                });
            });
        }
    }
}

fn lookups(c: &mut Criterion) {
    let batch = batch(20);
    let input = &batch.tables[0];
    let mut group = c.benchmark_group("lookups");
    group.throughput(Throughput::Elements(input.indices.len() as u64));
    group.bench_function("check", |b| b.iter(|| black_box(bags(black_box(&batch)))));
    let (all, mut buffer) = (bags(&batch), BagBuffer::default());
    group.bench_function("pick a quarter of the rows", |b| {
        b.iter(|| {
            black_box(buffer.run(&all, ROWS / 4..ROWS / 2));
        });
    });
}

fn compressed(c: &mut Criterion) {
    let heap = |rows, dim| Arc::new(HeapTable::random("table", rows, dim, 1)) as Arc<dyn EmbeddingTable>;
    let quotient = |combine| {
        let table = QuotientRemainderTable::new(heap(ROWS / 4, DIM), heap(4, DIM), ROWS, combine);
        Arc::new(table.expect("as many quotients as that needs"))
    };
    let matrix = vec![0.25; DIM * 16];
    let tables: [(&str, Arc<dyn EmbeddingTable>); 5] = [
        ("plain", heap(ROWS, DIM)),
        ("quotient-remainder mult", quotient(Combine::Multiply)),
        ("quotient-remainder add", quotient(Combine::Add)),
        ("16 columns projected", Arc::new(ProjectedTable::new(heap(ROWS, 16), &matrix).expect("64 by 16"))),
        (
            "hashed to a tenth",
            Arc::new(RemappedTable::new(heap(ROWS / 10, DIM), ROWS, RowMap::Modulo).expect("there are rows")),
        ),
    ];
    let batch = batch(20);
    let bags = bags(&batch);
    let mut out = vec![0.0; SAMPLES * DIM];
    let mut group = c.benchmark_group("compressed tables, 20 rows a bag");
    group.throughput(Throughput::Elements(bags.lookups() as u64));
    for (name, table) in tables {
        group.bench_function(name, |b| {
            b.iter(|| {
                table.pool(&bags, Pooling::Sum, &mut out).expect("the output has the right length");
                black_box(&mut out);
            });
        });
    }
}

fn encoding(c: &mut Criterion) {
    let table = HeapTable::random("table", 1000, DIM, 1);
    let mut group = c.benchmark_group("encoding rows of 64");
    group.throughput(Throughput::Elements(1000));
    for &format in RowFormat::ALL {
        let mut bytes = vec![0; format.row_bytes(DIM)];
        group.bench_function(format.to_string(), |b| {
            b.iter(|| {
                for row in table.data().chunks_exact(DIM) {
                    format.encode(row, &mut bytes).expect("values within -1 and 1");
                    black_box(&mut bytes);
                }
            });
        });
    }
}

criterion_group!(embedding, pooling, asking, lookups, compressed, encoding);
criterion_main!(embedding);
