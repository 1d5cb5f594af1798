//! Generations: no request mixes two, the old one goes when its last reader has gone and not before, and what does not fit
//! changes nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{
    Bags, EmbeddingTable, Generation, Generations, HeapTable, Load, Pooling, Retired, RowFormat, Shard, ShardWriter,
    Successor, TableSet, TableSpec, UnfitTables, Verify,
};

const TABLES: usize = 4;
const ROWS: u64 = 50;
const DIM: usize = 3;
const LONG: Duration = Duration::from_secs(60);

/// Tables whose every value is the number of their generation: heap tables, and one table in a shard.
fn numbered(number: u64, folder: &Path) -> TableSet {
    let path = folder.join(format!("{number}.safetensors"));
    let last = format!("t{}", TABLES - 1);
    let mut writer = ShardWriter::create(&path, &[TableSpec::new(&last, ROWS, DIM, RowFormat::F32)]).unwrap();
    writer.write_rows(0, bytemuck::cast_slice(&vec![number as f32; ROWS as usize * DIM])).unwrap();
    writer.finish().unwrap();
    let mut tables: Vec<Arc<dyn EmbeddingTable>> = Vec::new();
    for table in 0..TABLES - 1 {
        tables.push(Arc::new(HeapTable::from_fn(format!("t{table}"), ROWS, DIM, |_, _| number as f32)));
    }
    let shard = Shard::open(&path, Verify::Checksums).unwrap();
    tables.push(shard.load(&last, Load::Mapped, Verify::HeaderOnly).unwrap());
    TableSet::new(tables)
}

/// The files of a folder that are mapped into this process, deleted or not.
fn mapped(folder: &Path) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let folder = folder.to_str().unwrap();
    maps.lines().filter_map(|line| line.find(folder).map(|at| line[at..].to_owned())).collect()
}

/// One request: every table is looked up, and every value must be the generation's number.
fn ask(generation: &Generation<TableSet>) {
    let mut out = [f32::NAN; DIM];
    for table in generation.iter() {
        let bags = Bags::new(table.name(), table.rows(), &[ROWS as i64 - 1], &[0i64, 1], None).unwrap();
        table.pool(&bags, Pooling::Sum, &mut out).unwrap();
        assert_eq!(out, [generation.number() as f32; DIM], "{}", table.name());
    }
}

/// Ends the loops of other threads, also where this one panics: a test that fails must not hang.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn requests_that_go_on_while_generations_are_switched_see_one_each() {
    const SWITCHES: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let folder = fs::canonicalize(folder.path()).unwrap();
    let generations = Generations::new(numbered(0, &folder));
    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop = Stop(&done);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let generation = generations.current();
                    ask(&generation);
                    assert!(generation.number() >= last, "time runs backwards");
                    if generation.number() > last {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    last = generation.number();
                }
            });
        }
        let mut retired: Option<Retired<TableSet>> = None;
        for number in 1..=SWITCHES {
            let old = generations.switch(numbered(number, &folder)).unwrap();
            assert_eq!(old.number(), number - 1);
            // Readers may still be in it: its file goes at once.
            fs::remove_file(folder.join(format!("{}.safetensors", number - 1))).unwrap();
            // The one before has its turn, so that up to three are there at a time.
            if let Some(before) = retired.replace(old) {
                drop(before.wait(LONG).expect("requests are short"));
            }
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        drop(stop);
        drop(retired.unwrap().wait(LONG).expect("requests are short"));
    });
    assert!(seen.load(Ordering::Relaxed) > 0, "readers saw no switch at all");
    let left = mapped(&folder);
    assert!(
        left.iter().all(|file| file.ends_with(&format!("/{SWITCHES}.safetensors"))) && !left.is_empty(),
        "{left:?}"
    );
    drop(generations);
    assert_eq!(mapped(&folder), [""; 0]);
}

#[test]
fn a_request_keeps_its_generation_whose_files_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(folder.path()).unwrap();
    let generations = Generations::new(numbered(0, &path));
    let old = generations.current();
    let retired = generations.switch(numbered(1, &path)).unwrap();
    folder.close().unwrap();
    ask(&old);
    ask(&generations.current());
    assert!(mapped(&path).iter().any(|file| file.ends_with("/0.safetensors (deleted)")), "{:?}", mapped(&path));

    let retired = retired.wait(Duration::ZERO).unwrap_err();
    assert_eq!((retired.number(), retired.readers()), (0, 1));
    // The last reader goes on another thread, while we wait.
    let value = thread::scope(|scope| {
        scope.spawn(move || {
            ask(&old);
            drop(old);
        });
        retired.wait(LONG).unwrap()
    });
    assert!(mapped(&path).iter().any(|file| file.contains("/0.safetensors")), "it was dropped by a reader");
    drop(value);
    assert!(!mapped(&path).iter().any(|file| file.contains("/0.safetensors")), "{:?}", mapped(&path));
}

#[test]
fn a_handle_that_is_thrown_away_leaves_the_generation_to_its_last_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(folder.path()).unwrap();
    let generations = Generations::new(numbered(0, &path));
    let old = generations.current();
    drop(generations.switch(numbered(1, &path)).unwrap());
    ask(&old);
    drop(old);
    assert!(mapped(&path).iter().all(|file| file.ends_with("/1.safetensors")), "{:?}", mapped(&path));
}

#[test]
fn tables_that_do_not_fit_change_nothing() {
    let table = |name: &str, rows, dim| -> Arc<dyn EmbeddingTable> { Arc::new(HeapTable::random(name, rows, dim, 1)) };
    let generations = Generations::new(TableSet::new(vec![table("a", 5, 2), table("b", 6, 3)]));
    let refused = |tables: Vec<Arc<dyn EmbeddingTable>>| {
        let error = generations.switch(TableSet::new(tables)).unwrap_err();
        assert_eq!(generations.current().number(), 0);
        error
    };
    assert_eq!(refused(vec![table("a", 5, 2)]), UnfitTables::Count { expected: 2, found: 1 });
    assert_eq!(
        refused(vec![table("b", 6, 3), table("a", 5, 2)]),
        UnfitTables::Name { number: 0, expected: "a".into(), found: "b".into() }
    );
    assert_eq!(
        refused(vec![table("a", 5, 2), table("b", 6, 4)]),
        UnfitTables::Dim { table: "b".into(), expected: 3, found: 4 }
    );
    assert_eq!(
        refused(vec![table("a", 4, 2), table("b", 6, 3)]),
        UnfitTables::Rows { table: "a".into(), least: 5, found: 4 }
    );
    let narrow = HeapTable::random("b", 7, 3, 1).to_format(RowFormat::Int8).unwrap();
    let retired = generations.switch(TableSet::new(vec![table("a", 5, 2), Arc::new(narrow)])).unwrap();
    assert_eq!(generations.current().number(), 1, "more rows, and another row format");
    assert!(retired.wait(Duration::ZERO).is_ok());
}

/// A generation that tells when it is dropped.
#[derive(Debug)]
struct Counted {
    number: u64,
    fits: bool,
    dropped: Arc<[AtomicBool; 64]>,
}

impl Successor for Counted {
    type Unfit = u64;

    fn check(&self, _: &Self) -> Result<(), u64> {
        if self.fits { Ok(()) } else { Err(self.number) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.fits {
            assert!(!self.dropped[self.number as usize].swap(true, Ordering::Relaxed), "dropped twice");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    Leave(usize),
    Switch,
    Refuse,
    Wait(usize),
    Forget(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Leave),
        2 => Just(Step::Switch),
        1 => Just(Step::Refuse),
        2 => any::<usize>().prop_map(Step::Wait),
        1 => any::<usize>().prop_map(Step::Forget),
    ]
}

proptest! {
    /// Whatever the order of taking, leaving, switching and waiting: the number of readers is exact, a retired generation
    /// is handed out when and only when it has none, and each is dropped once, at the moment it should.
    #[test]
    fn every_order_of_events_is_told_right(steps in vec(step(), 0..60)) {
        let dropped = Arc::new([const { AtomicBool::new(false) }; 64]);
        let new = |number: u64, fits: bool| Counted { number, fits, dropped: Arc::clone(&dropped) };
        let generations = Generations::new(new(0, true));
        let mut current = 0;
        let mut readers: Vec<Generation<Counted>> = Vec::new();
        let mut retired: Vec<Retired<Counted>> = Vec::new();
        let mut waited = Vec::new();
        for step in steps {
            match step {
                Step::Take => readers.push(generations.current()),
                Step::Leave(at) if !readers.is_empty() => drop(readers.swap_remove(at % readers.len())),
                Step::Switch => {
                    retired.push(generations.switch(new(current + 1, true)).unwrap());
                    current += 1;
                }
                Step::Refuse => assert_eq!(generations.switch(new(99, false)).unwrap_err(), 99),
                Step::Wait(at) if !retired.is_empty() => {
                    match retired.swap_remove(at % retired.len()).wait(Duration::ZERO) {
                        Ok(value) => {
                            prop_assert!(readers.iter().all(|reader| reader.number() != value.number));
                            waited.push(value);
                        }
                        Err(handle) => {
                            prop_assert!(readers.iter().any(|reader| reader.number() == handle.number()));
                            retired.push(handle);
                        }
                    }
                }
                Step::Forget(at) if !retired.is_empty() => drop(retired.swap_remove(at % retired.len())),
                _ => {}
            }
            prop_assert_eq!(generations.current().number(), current);
            for handle in &retired {
                let expected = readers.iter().filter(|reader| reader.number() == handle.number()).count();
                prop_assert_eq!(handle.readers(), expected);
            }
            for number in 0..=current {
                let held = number == current
                    || readers.iter().any(|reader| reader.number() == number && reader.number == number)
                    || retired.iter().any(|handle| handle.number() == number)
                    || waited.iter().any(|value| value.number == number);
                prop_assert_eq!(dropped[number as usize].load(Ordering::Relaxed), !held, "generation {}", number);
            }
        }
    }
}
