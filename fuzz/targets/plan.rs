//! Plans and profiles as JSON: what is read can be asked, and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_embedding::{CostModel, Plan, Profile, TableCost, TableProfile};
use slackline_fuzz::seed;

fn seeds() -> Vec<Vec<u8>> {
    let tables = [TableCost::new("a", 10, 4, 16), TableCost::new("b", 100, 4, 16)];
    let plan = Plan::table_wise(&tables, 2).expect("two tables on two ranks");
    let table = TableProfile {
        name: "a".into(),
        rows: 10,
        lookups: 9,
        used_rows: 3,
        runs: vec![9],
        hot: vec![(1, 9)],
        ns_per_sample: 1.5,
    };
    let profile = Profile { samples: 3, tables: vec![table] };
    vec![
        serde_json::to_vec(&plan).expect("a plan"),
        serde_json::to_vec(&profile).expect("a profile"),
        serde_json::to_vec(plan.model()).expect("a cost model"),
    ]
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        if let Ok(plan) = serde_json::from_slice::<Plan>(data) {
            for rank in 0..plan.ranks().min(1000) {
                let _ = (plan.parts_of(rank), plan.bytes_of(rank), plan.cost_of(rank), plan.tables_of(rank));
            }
            for table in 0..plan.tables().len() {
                let _ = (plan.hot_rows(table), plan.rank_of(table));
            }
            let _ = (plan.cost_imbalance(), plan.bytes_imbalance(), plan.to_string());
            let again = serde_json::to_vec(&plan).expect("a plan can be written");
            serde_json::from_slice::<Plan>(&again).expect("and read again");
        }
        if let Ok(profile) = serde_json::from_slice::<Profile>(data) {
            let mut tables: Vec<TableCost> =
                profile.tables.iter().map(|table| TableCost::new(&table.name, table.rows, 4, 16)).collect();
            let _ = profile.apply(&mut tables);
            let _ = profile.hot_rows(&tables, 1000);
            let _ = Plan::table_wise(&tables, 3);
        }
        if let Ok(model) = serde_json::from_slice::<CostModel>(data) {
            let _ = model.nanoseconds(&TableCost::new("a", 10, 4, 16));
        }
    }
);
