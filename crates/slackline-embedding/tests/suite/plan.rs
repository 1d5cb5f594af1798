//! Placement: complete, balanced, and the same on every rank.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{
    Bags, CostModel, Cuts, Forced, Part, Plan, PlanError, PlanOptions, Profile, Profiler, Split, TableCost,
};

fn table(name: impl ToString, rows: u64, row_bytes: u64, lookups_per_sample: f64) -> TableCost {
    TableCost::new(name.to_string(), rows, row_bytes as usize / 4, row_bytes).lookups(lookups_per_sample)
}

fn nanoseconds(table: &TableCost) -> f64 {
    CostModel::default().nanoseconds(table)
}

fn tables(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<TableCost>> {
    let one = (0..1000u64, 1..20u64, prop_oneof![Just(0.0), Just(1.0), 0.0..50.0]);
    vec(one, count).prop_map(|tables| {
        let tables = tables.into_iter().enumerate();
        tables.map(|(at, (rows, columns, lookups))| table(at, rows * rows, 4 * columns, lookups)).collect()
    })
}

fn largest_cost(plan: &Plan) -> f64 {
    (0..plan.ranks()).map(|rank| plan.cost_of(rank)).fold(0.0, f64::max)
}

fn largest_bytes(plan: &Plan) -> u64 {
    (0..plan.ranks()).map(|rank| plan.bytes_of(rank)).max().unwrap()
}

/// The largest cost of the best of all placements.
fn best_cost(tables: &[TableCost], loads: &mut [f64]) -> f64 {
    let Some((table, others)) = tables.split_first() else { return loads.iter().copied().fold(0.0, f64::max) };
    let mut best = f64::INFINITY;
    for rank in 0..loads.len() {
        let before = loads[rank];
        loads[rank] += nanoseconds(table);
        best = best.min(best_cost(others, loads));
        loads[rank] = before;
    }
    best
}

/// Options of all kinds for these tables.
fn options(tables: usize, ranks: usize) -> impl Strategy<Value = PlanOptions> {
    let split = prop_oneof![Just(Split::Never), Just(Split::Columns), Just(Split::Rows), Just(Split::Both)];
    let forced = prop_oneof![
        (0..ranks).prop_map(Forced::Rank),
        Just(Forced::Whole),
        Just(Forced::Replicated),
        (1..3usize).prop_map(Forced::Columns),
        (1..3usize).prop_map(Forced::Rows),
    ];
    let forced = proptest::collection::btree_map(0..tables, forced, 0..3);
    let memory = prop_oneof![Just(None), (0..40_000_000u64).prop_map(Some)];
    (split, forced, memory, prop_oneof![Just(0), Just(4096u64)]).prop_map(|(split, forced, memory, replicate)| {
        PlanOptions { split, forced, memory, replicate, ..PlanOptions::default() }
    })
}

proptest! {
    #[test]
    fn every_value_lies_where_the_conditions_allow_it(
        (tables, ranks, options) in (tables(1..12), 1..6usize)
            .prop_flat_map(|(tables, ranks)| { let o = options(tables.len(), ranks); (Just(tables), Just(ranks), o) })
    ) {
        let plan = match Plan::make(&tables, ranks, &options) {
            Ok(plan) => plan,
            Err(error @ PlanError::Memory(_)) => {
                let PlanError::Memory(short) = &error else { unreachable!() };
                prop_assert_eq!(Some(short.limit), options.memory);
                let total: u64 = tables.iter().map(|table| table.bytes()).sum();
                prop_assert_eq!(short.total, total);
                let said = error.to_string().contains(&format!("all tables take {total} bytes"));
                prop_assert!(said, "{}", error);
                // Without a part that is too large, all that is placed once is too much for all ranks.
                if short.part.is_none() {
                    let room = u128::from(short.limit.saturating_sub(short.replicated + short.hot)) * ranks as u128;
                    prop_assert!(u128::from(total - short.replicated) > room || short.replicated + short.hot > short.limit);
                }
                for (name, bytes) in &short.largest {
                    prop_assert_eq!(tables.iter().find(|table| table.name == *name).map(|table| table.bytes()), Some(*bytes));
                }
                return Ok(());
            }
            Err(PlanError::Parts { table, .. }) => {
                let asked = |(at, forced): (&usize, &Forced)| {
                    tables[*at].name == table && matches!(forced, Forced::Columns(_) | Forced::Rows(_))
                };
                prop_assert!(options.forced.iter().any(asked));
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        for (number, table) in tables.iter().enumerate() {
            let parts: Vec<&Part> = plan.parts().iter().filter(|part| part.table == number).collect();
            if plan.replicated().contains(&number) {
                prop_assert!(parts.is_empty());
                continue;
            }
            let values: u128 =
                parts.iter().map(|part| u128::from(part.rows.end - part.rows.start) * part.columns.len() as u128).sum();
            prop_assert_eq!(values, u128::from(table.rows) * table.dim as u128);
            let lookups: f64 = parts.iter().filter(|part| part.columns.start == 0).map(|part| part.lookups_per_sample).sum();
            prop_assert!((lookups - table.lookups_per_sample).abs() < 1e-6 * (1.0 + lookups), "{} {}", lookups, plan);
            match options.forced.get(&number) {
                Some(Forced::Rank(rank)) => prop_assert_eq!(plan.rank_of(number), Some(*rank)),
                Some(Forced::Whole) => prop_assert!(plan.rank_of(number).is_some()),
                Some(Forced::Columns(count) | Forced::Rows(count)) => prop_assert_eq!(parts.len(), *count),
                _ => {}
            }
            if options.split == Split::Never && !options.forced.contains_key(&number) && options.memory.is_none() {
                prop_assert!(plan.rank_of(number).is_some());
            }
        }
        for rank in 0..ranks {
            // A byte a part for rounding.
            let room = options.memory.map_or(u64::MAX, |memory| memory + plan.parts().len() as u64);
            prop_assert!(plan.bytes_of(rank) <= room, "{}", plan);
        }
        let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        prop_assert_eq!(read.parts().len(), plan.parts().len());
        // Decimal digits need not be the nearest number.
        prop_assert!((read.cost_imbalance() - plan.cost_imbalance()).abs() < 1e-9);
    }

    #[test]
    fn cutting_never_makes_the_largest_cost_larger(tables in tables(1..10), ranks in 1..6usize) {
        let whole = largest_cost(&Plan::table_wise(&tables, ranks).unwrap());
        for split in [Split::Columns, Split::Rows, Split::Both] {
            let cut = Plan::make(&tables, ranks, &PlanOptions { split, ..PlanOptions::default() }).unwrap();
            prop_assert!(largest_cost(&cut) <= whole * (1.0 + 1e-9));
        }
    }

    #[test]
    fn every_table_lies_on_exactly_one_rank(tables in tables(0..40), ranks in 1..50usize) {
        let plan = Plan::table_wise(&tables, ranks).unwrap();
        prop_assert_eq!(plan.ranks(), ranks);
        let mut seen = vec![0; tables.len()];
        for rank in 0..ranks {
            let held = plan.tables_of(rank);
            prop_assert!(held.is_sorted());
            held.iter().for_each(|&table| seen[table] += 1);
            prop_assert!(held.iter().all(|&table| plan.rank_of(table) == Some(rank)));
            prop_assert_eq!(plan.bytes_of(rank), held.iter().map(|&table| tables[table].bytes()).sum::<u64>());
            let cost = held.iter().map(|&table| nanoseconds(&tables[table])).sum::<f64>();
            prop_assert!((plan.cost_of(rank) - cost).abs() <= 1e-9 * cost);
        }
        prop_assert!(seen.iter().all(|&times| times == 1));
        for imbalance in [plan.cost_imbalance(), plan.bytes_imbalance()] {
            prop_assert!((1.0 - 1e-9..=ranks as f64 + 1e-9).contains(&imbalance));
        }
    }

    #[test]
    fn the_largest_cost_is_within_four_thirds_of_the_best(tables in tables(0..9), ranks in 1..4usize) {
        let plan = Plan::table_wise(&tables, ranks).unwrap();
        let best = best_cost(&tables, &mut vec![0.0; ranks]);
        let guarantee = 4.0 / 3.0 - 1.0 / (3.0 * ranks as f64);
        prop_assert!(largest_cost(&plan) <= guarantee * best + 1e-6, "{} of {best}\n{plan}", largest_cost(&plan));
    }

    #[test]
    fn no_single_move_could_still_lower_the_memory_for_free(tables in tables(1..12), ranks in 1..5usize) {
        let plan = Plan::table_wise(&tables, ranks).unwrap();
        let (cost, bytes) = (largest_cost(&plan), largest_bytes(&plan));
        let heaviest = (0..ranks).filter(|&rank| plan.bytes_of(rank) == bytes).collect::<Vec<_>>();
        // With several heaviest ranks one move cannot lower the largest.
        if let [heavy] = heaviest[..] {
            for moved in plan.tables_of(heavy) {
                for to in (0..ranks).filter(|&to| to != heavy) {
                    let placement = (0..tables.len()).map(|at| if at == moved { to } else { plan.rank_of(at).unwrap() }).collect();
                    let other = Plan::placed(&tables, ranks, placement).unwrap();
                    let dearer = other.cost_of(heavy).max(other.cost_of(to));
                    // A gain of less than a thousandth is not sought, and costs are compared with room for rounding.
                    let better = largest_bytes(&other) < bytes - bytes / 1024 && dearer < cost * (1.0 - 1e-9);
                    prop_assert!(!better, "{plan}\n{other}");
                }
            }
        }
    }

    #[test]
    fn equal_inputs_give_equal_plans_also_through_a_file(tables in tables(0..30), ranks in 1..9usize) {
        let plan = Plan::table_wise(&tables, ranks).unwrap();
        prop_assert_eq!(&plan, &Plan::table_wise(&tables, ranks).unwrap());
        let json = serde_json::to_string(&plan).unwrap();
        let read: Plan = serde_json::from_str(&json).unwrap();
        prop_assert_eq!((0..tables.len()).map(|at| read.rank_of(at)).collect::<Vec<_>>(),
            (0..tables.len()).map(|at| plan.rank_of(at)).collect::<Vec<_>>());
        prop_assert_eq!(read.ranks(), ranks);
    }
}

#[test]
fn large_tables_that_cost_nothing_are_spread_by_their_memory() {
    // Four huge tables that are hardly looked up, four tiny busy ones: cost alone would say nothing about the huge ones.
    let huge = |name| table(name, 40_000_000, 512, 0.0);
    let busy = |name| table(name, 10, 512, 10.0);
    let tables = [huge("a"), busy("b"), huge("c"), busy("d"), huge("e"), busy("f"), huge("g"), busy("h")];
    let plan = Plan::table_wise(&tables, 4).unwrap();
    assert_eq!((plan.cost_imbalance(), plan.bytes_imbalance()), (1.0, 1.0), "{plan}");
}

#[test]
fn memory_is_evened_out_within_the_largest_cost() {
    // The greedy order puts both large tables on the rank beside the busy one's; as that one is the slowest anyway, the
    // other two may share the large tables at no loss.
    let tables = [
        table("busy", 10, 64, 10.0),
        table("small", 10, 64, 3.1),
        table("large", 10_000, 64, 3.0),
        table("larger", 20_000, 64, 2.1),
        table("smaller", 9, 64, 2.0),
    ];
    let plan = Plan::table_wise(&tables, 3).unwrap();
    assert_ne!(plan.rank_of(2), plan.rank_of(3), "{plan}");
    assert_eq!(plan.tables_of(plan.rank_of(0).unwrap()), [0], "{plan}");
}

#[test]
fn more_ranks_than_tables_leaves_some_ranks_empty() {
    let plan = Plan::table_wise(&[table("a", 10, 64, 1.0), table("b", 10, 64, 2.0)], 5).unwrap();
    assert_eq!((0..5).filter(|&rank| plan.tables_of(rank).is_empty()).count(), 3);
    let none = Plan::table_wise(&[], 2).unwrap();
    assert_eq!((none.cost_imbalance(), none.bytes_imbalance()), (1.0, 1.0));
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let refused = |tables: &[TableCost], ranks| Plan::table_wise(tables, ranks).unwrap_err().to_string();
    assert_eq!(refused(&[], 0), "a plan for 0 ranks");
    assert_eq!(refused(&[table("a", 1, 4, -0.5)], 1), "table a: -0.5 lookups per sample");
    assert_eq!(refused(&[table("a", 1, 4, f64::NAN)], 1), "table a: NaN lookups per sample");
    assert_eq!(refused(&[table("a", 1, 4, f64::INFINITY)], 1), "table a: inf lookups per sample");
    let large = table("b", u64::MAX / 4, 4, 1.0);
    let message =
        "table b: 4611686018427387903 rows of 4 bytes and the tables before it are more than 64 bits can count";
    assert_eq!(refused(&[table("a", 1, 4, 1.0), large], 1), message);
}

#[test]
fn a_placement_by_hand_is_checked_also_when_it_is_read_from_a_file() {
    let tables = [table("a", 10, 64, 1.0), table("b", 10, 64, 2.0)];
    assert_eq!(
        Plan::placed(&tables, 2, vec![0, 2]).unwrap_err(),
        PlanError::NoSuchRank { table: "b".to_owned(), rank: 2, ranks: 2 }
    );
    assert_eq!(Plan::placed(&tables, 2, vec![0]).unwrap_err(), PlanError::Placements { tables: 2, placed: 1 });
    let json = serde_json::to_string(&Plan::placed(&tables, 2, vec![1, 1]).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap().tables_of(1), [0, 1]);
    let error =
        serde_json::from_str::<Plan>(&json.replace("\"table\":1,\"rank\":1", "\"table\":1,\"rank\":7")).unwrap_err();
    assert!(error.to_string().contains("table b is placed on rank 7 of 2 ranks"), "{error}");
}

#[test]
fn parts_that_are_not_the_table_are_refused() {
    let tables = [table("a", 10, 64, 1.0)];
    let part = |rows, columns| Part { table: 0, rank: 0, rows, columns, lookups_per_sample: 1.0 };
    let made = |parts, replicated, hot: &[(usize, Vec<u64>)]| {
        Plan::with_parts(CostModel::default(), &tables, 2, parts, replicated, hot.iter().cloned().collect())
    };
    let refused = |parts| made(parts, vec![], &[]).unwrap_err().to_string();
    assert!(made(vec![part(0..4, 0..16), part(4..10, 0..16)], vec![], &[]).is_ok());
    assert!(made(vec![part(0..10, 0..2), part(0..4, 2..16), part(4..10, 2..16)], vec![], &[]).is_ok());
    assert_eq!(refused(vec![]), "table a: the parts have 0 of 16 columns");
    assert_eq!(refused(vec![part(0..4, 0..16)]), "table a: the parts have 4 of 10 rows");
    assert_eq!(
        refused(vec![part(0..10, 0..8), part(0..10, 9..16)]),
        "table a: columns 9..16 come where column 8 should"
    );
    assert_eq!(refused(vec![part(0..5, 0..16), part(4..10, 0..16)]), "table a: rows 4..10 come where row 5 should");
    assert_eq!(refused(vec![part(0..10, 0..17)]), "table a: the parts have 17 of 16 columns");
    let whole = || vec![part(0..10, 0..16)];
    assert!(made(whole(), vec![0], &[]).unwrap_err().to_string().contains("replicated, and placed as well"));
    assert!(made(whole(), vec![], &[(0, vec![10])]).unwrap_err().to_string().contains("hot row 10 of 10 rows"));
    assert_eq!(made(whole(), vec![], &[(0, vec![7, 3, 7])]).unwrap().hot_rows(0), [3, 7]);
    let rows = vec![part(0..5, 0..16), part(5..10, 0..16)];
    assert!(made(rows, vec![], &[(0, vec![1])]).unwrap_err().to_string().contains("not whole on one rank"));
    assert_eq!(made(vec![], vec![1], &[]).unwrap_err(), PlanError::NoSuchTable { table: 1, tables: 1 });
    let fixed = [TableCost { cuts: Cuts::Columns, ..tables[0].clone() }];
    let rows = vec![part(0..5, 0..16), part(5..10, 0..16)];
    let error = Plan::with_parts(CostModel::default(), &fixed, 1, rows, vec![], [].into()).unwrap_err();
    assert_eq!(error.to_string(), "table a: cannot be cut by rows");
}

#[test]
fn a_table_that_outweighs_all_others_is_cut_where_its_lookups_are() {
    let mut big = TableCost { row_load: vec![0.7, 0.1, 0.1, 0.1], ..TableCost::new("big", 4000, 16, 64) };
    big.lookups_per_sample = 20.0;
    let tables = [big, table("small", 10, 64, 1.0)];
    let options = PlanOptions { split: Split::Rows, ..PlanOptions::default() };
    let plan = Plan::make(&tables, 4, &options).unwrap();
    assert!(plan.cost_imbalance() < 1.1, "{plan}");
    // 70 % of the lookups go to the first quarter of the rows.
    let first = &plan.parts()[0];
    assert!(first.rows.end < 1000 && first.lookups_per_sample > 3.0, "{plan}");
    // 32 columns or more can be cut without another sum.
    let wide = [TableCost::new("wide", 4000, 64, 256).lookups(20.0), table("small", 10, 64, 1.0)];
    let plan = Plan::make(&wide, 2, &PlanOptions::default()).unwrap();
    assert!(plan.to_string().contains("wide columns 0..32"), "{plan}");
}

#[test]
fn measured_times_come_before_reckoned_ones() {
    let measured = |name, ns| TableCost { measured_ns: Some(ns), ..TableCost::new(name, 1000, 16, 64) };
    let plan = Plan::table_wise(&[measured("a", 5.0), measured("b", 1.0), measured("c", 4.0)], 2).unwrap();
    assert_eq!((plan.cost_of(0), plan.cost_of(1)), (5.0, 5.0), "{plan}");
}

#[test]
fn a_person_can_read_the_plan() {
    let mut tables: Vec<_> = (0..11).map(|at| table(format!("emb_{at}"), 1000, 64, 0.1)).collect();
    tables.push(table("big", 40_000_000, 512, 2.0));
    let plan = Plan::table_wise(&tables, 3).unwrap();
    let expected = "\
12 tables on 3 ranks, table-wise
largest / mean: 2.446 of the cost, 3.000 of the memory
rank  tables      memory  ns/sample  names
   0       1    19.1 GiB      152.4  big
   1       6   375.0 KiB       18.8  emb_0, emb_2, emb_4, emb_6, emb_8, emb_10
   2       5   312.5 KiB       15.7  emb_1, emb_3, emb_5, emb_7, emb_9";
    assert_eq!(plan.to_string(), expected);
    let many = Plan::table_wise(&tables, 1).unwrap().to_string();
    assert!(many.ends_with("emb_0, emb_1, emb_2, emb_3, emb_4, emb_5, emb_6, emb_7 and 4 more"), "{many}");
}

#[test]
fn a_number_of_ranks_from_a_file_does_not_decide_how_much_memory_is_asked_for() {
    let plan = Plan::table_wise(&[table("a", 10, 64, 1.0)], 1).unwrap();
    let text = serde_json::to_string(&plan).unwrap().replace("\"ranks\":1,", "\"ranks\":1000000000000000,");
    let error = serde_json::from_str::<Plan>(&text).unwrap_err().to_string();
    assert!(error.contains("1000000000000000 ranks"), "{error}");
}

#[test]
fn a_run_of_rows_costs_the_picking_of_its_lookups() {
    let tables = [table("a", 1000, 64, 20.0)];
    let cost = |pick_ns| {
        let model = CostModel { pick_ns, ..CostModel::default() };
        let options = PlanOptions { forced: [(0, Forced::Rows(2))].into(), model, ..PlanOptions::default() };
        Plan::make(&tables, 2, &options).unwrap().cost_of(0)
    };
    // Both halves look at all 20 lookups.
    assert!((cost(3.0) - cost(0.0) - 60.0).abs() < 1e-9);
}

#[test]
fn a_profile_counts_and_says_what_is_hot() {
    let mut profiler = Profiler::new([("a".to_owned(), 1000), ("b".to_owned(), 10)]);
    for first in [0, 1] {
        profiler.batch(2);
        let indices = [7, 7, 990 + first, 7];
        let bags = Bags::new("a", 1000, &indices, &[0i64, 3, 4], None).unwrap();
        profiler.lookups(0, &bags, Some(Duration::from_nanos(40)));
        let none = Bags::new("b", 10, &[0i64; 0], &[0i64, 0, 0], None).unwrap();
        profiler.lookups(1, &none, None);
    }
    let profile = profiler.finish(2);
    let a = &profile.tables[0];
    assert_eq!((profile.samples, a.lookups, a.used_rows, a.ns_per_sample), (4, 8, 3, 20.0));
    assert_eq!(a.hot, [(7, 6), (990, 1)]);
    assert_eq!((a.runs[1], a.runs[253], a.runs.iter().sum::<u64>()), (6, 2, 8));
    let mut tables = [TableCost::new("a", 1000, 16, 64), TableCost::new("b", 10, 16, 64)];
    profile.apply(&mut tables).unwrap();
    assert_eq!(
        (tables[0].lookups_per_sample, tables[0].measured_ns, tables[0].used_bytes),
        (2.0, Some(20.0), Some(192))
    );
    assert_eq!((tables[1].lookups_per_sample, tables[1].measured_ns), (0.0, None));
    // Row 990 was looked up once.
    assert_eq!(profile.hot_rows(&tables, 1 << 20).unwrap(), [(0, vec![7])].into());
    assert_eq!(profile.hot_rows(&tables, 63).unwrap(), [].into());
    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    let other = profile.apply(&mut [TableCost::new("a", 1000, 16, 64), TableCost::new("c", 10, 16, 64)]);
    assert_eq!(other.unwrap_err().to_string(), "the profile is of other tables: b of 10 rows instead of c of 10");
}

#[test]
fn measured_constants_are_numbers_that_make_plans() {
    let model = CostModel::measure();
    assert!(model.levels.is_sorted_by_key(|level| level.bytes) && model.levels.last().unwrap().bytes == u64::MAX);
    let costs = |model: &CostModel, lookups| model.nanoseconds(&TableCost::new("a", 1 << 20, 64, 256).lookups(lookups));
    assert!(costs(&model, 40.0) > costs(&model, 1.0), "{model:?}");
    let options = PlanOptions { model: model.clone(), ..PlanOptions::default() };
    let plan = Plan::make(&[table("a", 1000, 64, 1.0), table("b", 1000, 64, 1.0)], 2, &options).unwrap();
    assert_eq!(plan.model(), &model);
}

#[test]
fn too_little_memory_is_told_for_all_tables_and_ranks_with_what_would_help() {
    let tables = [table("a", 4000, 64, 1.0), table("b", 1000, 64, 1.0), table("c", 10, 64, 1.0)];
    let short = |options: PlanOptions| Plan::make(&tables, 2, &options).unwrap_err().to_string();
    let text = short(PlanOptions { memory: Some(100_000), ..PlanOptions::default() });
    for part in [
        "all tables take 320640 bytes, and 2 ranks of 100000 bytes have 200000",
        "120640 bytes are lacking",
        "a 256000, b 64000, c 640",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("at least 4 ranks") && text.contains("at least 160320 bytes a rank"), "{text}");
    // Rows of 16 columns: 24 bytes as int8.
    assert!(text.contains("int8 120240"), "{text}");

    let replicated = PlanOptions { memory: Some(100_000), replicate: 1 << 20, ..PlanOptions::default() };
    let text = short(replicated);
    assert!(text.contains("each rank has to hold 320640 bytes of replicated tables (320640)"), "{text}");
    assert!(
        text.contains("220640 too many") && text.contains("a 256000, b 64000") && !text.contains("a 320640"),
        "{text}"
    );

    let whole = PlanOptions { memory: Some(200_000), split: Split::Never, ..PlanOptions::default() };
    let text = short(whole);
    assert!(text.contains("table a: a part of 256000 bytes, which is not cut further, has no room"), "{text}");
    assert!(text.contains("at least 256000 bytes a rank") && text.contains("--split"), "{text}");
}
