//! Whole models replaced while they are asked: predictions are those of one model directory, never of two.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use slackline_data::Batch;
use slackline_dlrm::{
    Arguments, DlrmError, LocalModel, LocalScratch, ModelConfig, ModelDirectory, ServedModel, UnfitModel,
    write_synthetic,
};
use slackline_embedding::{Load, Retired, UnfitTables, Verify};

use crate::common::{Small, bits, load_all};

const LONG: Duration = Duration::from_secs(60);

fn arguments() -> Arguments {
    Arguments {
        sparse_feature_size: 4,
        embedding_size: vec![30, 20, 10],
        mlp_bot: vec![3, 8, 4],
        mlp_top: vec![8, 1],
        ..Arguments::default()
    }
}

fn config() -> ModelConfig {
    ModelConfig::new(arguments()).unwrap()
}

fn batch() -> Batch {
    Small::new(config(), 1).batch(5, 0, 3)
}

fn write(config: &ModelConfig, seed: u64, path: &Path) {
    write_synthetic(config, seed, path, 2, &mut |_| ()).unwrap();
}

/// What the model of a directory predicts, apart from any server.
fn predictions(path: &Path) -> Vec<u32> {
    let (mut model, mut out) = (load_all(&ModelDirectory::open(path).unwrap()), Vec::new());
    model.predict(&batch(), &mut out).unwrap();
    bits(&out)
}

fn ask(model: &LocalModel, scratch: &mut LocalScratch) -> Vec<u32> {
    let mut out = Vec::new();
    model.predict_with(&batch(), scratch, &mut out).unwrap();
    bits(&out)
}

fn finish(retired: Retired<LocalModel>) {
    drop(retired.wait(LONG).expect("requests are short"));
}

/// Ends the loops of other threads, also where this one panics: a test that fails must not hang.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn predictions_never_mix_two_directories_however_they_are_switched() {
    const SWITCHES: u64 = 200;
    const MODELS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    let model = |number: usize| root.join(format!("model-{number}"));
    let mut expected = Vec::new();
    for number in 0..MODELS {
        write(&config(), number as u64, &model(number));
        expected.push(predictions(&model(number)));
    }
    assert!((1..MODELS).all(|number| expected[number] != expected[0]), "the models can be told apart");

    let link = root.join("current");
    symlink("model-0", &link).unwrap();
    let served = ServedModel::open(&link, Load::Mapped, Verify::Checksums).unwrap();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop = Stop(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut scratch = LocalScratch::default();
                while !done.load(Ordering::Relaxed) {
                    let generation = served.current();
                    let expected = &expected[generation.number() as usize % MODELS];
                    assert_eq!(&ask(&generation, &mut scratch), expected, "generation {}", generation.number());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..=SWITCHES {
            let next = root.join("next");
            symlink(format!("model-{}", number as usize % MODELS), &next).unwrap();
            fs::rename(&next, &link).unwrap();
            finish(served.reload(&link).unwrap());
        }
        drop(stop);
    });
    assert!(asked.load(Ordering::Relaxed) > 0);
    drop(served);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(root.to_str().unwrap()), "files are still mapped");
}

#[test]
fn a_directory_is_replaced_at_its_path_and_deleted_while_it_is_read() {
    for load in Load::ALL {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("model"), folder.path().join("next"));
        write(&config(), 1, &path);
        write(&config(), 2, &next);
        let (first, second) = (predictions(&path), predictions(&next));
        let served = ServedModel::open(&path, load, Verify::HeaderOnly).unwrap();
        let mut scratch = LocalScratch::default();
        let request = served.current();
        fs::remove_dir_all(&path).unwrap();
        fs::rename(&next, &path).unwrap();
        let retired = served.reload(&path).unwrap();
        assert_eq!(ask(&request, &mut scratch), first, "{load}");
        assert_eq!(ask(&served.current(), &mut scratch), second, "{load}");
        assert_eq!(retired.readers(), 1);
        drop(request);
        finish(retired);
    }
}

/// Two directories change places at one path all the time: what opens is one of them whole.
#[test]
fn a_directory_that_is_replaced_while_it_is_opened_is_never_half_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("model"), folder.path().join("other"));
    write(&config(), 1, &path);
    write(&config(), 2, &other);
    let models = [predictions(&path), predictions(&other)];
    let mut scratch = LocalScratch::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let mut opened = 0;
        while opened < 100 {
            match ServedModel::open(&path, Load::Mapped, Verify::Checksums) {
                Ok(served) => {
                    assert!(models.contains(&ask(&served.current(), &mut scratch)), "after {opened} whole ones");
                    opened += 1;
                }
                Err(error) => assert!(matches!(error, DlrmError::Replaced { .. }), "{error}"),
            }
        }
        drop(stop);
    });
}

/// Every file of a directory, missing, cut short and altered.
#[test]
fn a_directory_that_cannot_be_opened_leaves_the_old_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    write(&config(), 1, &path);
    let expected = predictions(&path);
    let served = ServedModel::open(&path, Load::Mapped, Verify::Checksums).unwrap();
    let mut scratch = LocalScratch::default();
    let mut refused = |next: &Path, named: &Path| {
        let error = served.reload(next).unwrap_err();
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error} does not name {}", named.display());
        let current = served.current();
        assert_eq!((current.number(), ask(&current, &mut scratch)), (0, expected.clone()));
        error
    };
    let nowhere = folder.path().join("nowhere");
    assert!(matches!(refused(&nowhere, &nowhere), DlrmError::Io { .. }));

    let good = folder.path().join("good");
    write(&config(), 2, &good);
    let files: Vec<PathBuf> = fs::read_dir(&good).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 5);
    for file in &files {
        let whole = fs::read(file).unwrap();
        let named = fs::canonicalize(&good).unwrap().join(file.file_name().unwrap());
        fs::remove_file(file).unwrap();
        refused(&good, &named);
        fs::write(file, &whole[..whole.len() / 2]).unwrap();
        refused(&good, &named);
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 0x20;
        // The last byte of the JSON files is an end of line.
        if whole.ends_with(b"\n") {
            altered[0] = b'?';
        }
        fs::write(file, &altered).unwrap();
        refused(&good, &named);
        fs::remove_file(file).unwrap();
        fs::write(file, &whole).unwrap();
    }
    finish(served.reload(&good).unwrap());
    assert_eq!(ask(&served.current(), &mut scratch), predictions(&good));
}

#[test]
fn a_model_that_todays_requests_do_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&config(), 1, &path("model"));
    let served = ServedModel::open(path("model"), Load::Mapped, Verify::Checksums).unwrap();
    let reload = |name: &str, arguments: Arguments| {
        write(&ModelConfig::new(arguments).unwrap(), 2, &path(name));
        served.reload(path(name))
    };
    let refused = |name: &str, arguments: Arguments| match reload(name, arguments).unwrap_err() {
        DlrmError::UnfitModel { path: file, source } => {
            assert_eq!((file, served.current().number()), (path(name), 0));
            source
        }
        other => panic!("{other}"),
    };
    let found = refused("features", Arguments { mlp_bot: vec![5, 4], ..arguments() });
    assert_eq!(found, UnfitModel::DenseFeatures { expected: 3, found: 5 });
    let found = refused("tables", Arguments { embedding_size: vec![30, 20], ..arguments() });
    assert_eq!(found, UnfitModel::Tables(UnfitTables::Count { expected: 3, found: 2 }));
    let found = refused("rows", Arguments { embedding_size: vec![30, 19, 10], ..arguments() });
    let fewer = UnfitTables::Rows { table: "emb_l.1.weight".into(), least: 20, found: 19 };
    assert_eq!(found, UnfitModel::Tables(fewer));
    let found = refused("dim", Arguments { sparse_feature_size: 2, mlp_bot: vec![3, 2], ..arguments() });
    assert!(matches!(found, UnfitModel::Tables(UnfitTables::Dim { expected: 4, found: 2, .. })), "{found}");

    let grown = Arguments { embedding_size: vec![30, 25, 10], mlp_bot: vec![3, 9, 4], mlp_top: vec![1], ..arguments() };
    finish(reload("grown", grown).unwrap());
    assert_eq!(ask(&served.current(), &mut LocalScratch::default()), predictions(&path("grown")));
}
