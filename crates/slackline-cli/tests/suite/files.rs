//! Making and inspecting models, and files that are not what they should be: errors name the file and the cause.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::common::{Place, Run};
use serde_json::Value;

const INFER: &str = "infer model --input rows.csv --output out.csv --batch 16";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn equal_seeds_give_equal_files_and_nothing_is_overwritten() {
    let place = Place::new(50);
    place.succeed(&words("init --config config.json --seed 3 --output again --shards 2"));
    place.succeed(&words("init --config config.json --seed 4 --output other --shards 2"));
    let shard = |model: &str| fs::read(place.path(model).join("tables-00001-of-00002.safetensors")).unwrap();
    assert!(shard("model") == shard("again"));
    assert!(shard("model") != shard("other"));
    let line = place.fail(&words("init --config config.json --output other"));
    assert!(line.contains("other") && line.contains("already exists"), "{line}");
    place.succeed(&words("generate --config config.json --rows 50 --seed 5 --output again.csv"));
    assert_eq!(place.read("rows.csv"), place.read("again.csv"));
}

#[test]
fn inspect_shows_the_model_and_its_placement() {
    let place = Place::new(1);
    let text = place.succeed(&words("inspect model --ranks 2 --verify"));
    for part in
        ["[4, 16, 8]", "[23, 16, 1]", "5 of 8 columns, 478 rows", "5 tables on 2 ranks", "checksums     verified"]
    {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    let report: Value = serde_json::from_str(&place.succeed(&words("inspect model --ranks 2 --json"))).unwrap();
    assert_eq!(report["tables"].as_array().unwrap().len(), 5);
    assert_eq!(report["tables"][0]["rows"], 300);
    assert_eq!(report["table_bytes"], 478 * 8 * 4);
    assert_eq!(report["verified"], false);
    let placed: usize =
        report["plan"]["ranks"].as_array().unwrap().iter().map(|rank| rank["tables"].as_array().unwrap().len()).sum();
    assert_eq!(placed, 5);
}

#[test]
fn a_flipped_bit_names_file_and_table_before_any_rank_starts() {
    let place = Place::new(40);
    let path = place.path("model").join("tables-00002-of-00002.safetensors");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let last = file.metadata().unwrap().len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).unwrap();
    file.write_all_at(&[byte[0] ^ 1], last).unwrap();
    for command in ["inspect model --verify".to_owned(), INFER.to_owned(), format!("{INFER} --ranks 2 --transport shm")]
    {
        let line = place.fail(&words(&command));
        assert!(line.contains("tables-00002-of-00002.safetensors") && line.contains("emb_l."), "{command}: {line}");
        assert!(line.contains("altered"), "{line}");
    }
    assert!(!place.path("out.csv").exists());
    place.succeed(&words("inspect model"));
    place.succeed(&words(&format!("{INFER} --skip-verify")));
}

#[test]
fn a_truncated_shard_and_missing_files_are_refused_by_name() {
    let place = Place::new(40);
    let shard = place.path("model").join("tables-00001-of-00002.safetensors");
    let file = File::options().write(true).open(&shard).unwrap();
    file.set_len(file.metadata().unwrap().len() - 5).unwrap();
    for command in ["inspect model", INFER] {
        let line = place.fail(&words(command));
        assert!(line.contains("tables-00001-of-00002.safetensors") && line.contains("bytes"), "{line}");
    }
    fs::remove_file(&shard).unwrap();
    let line = place.fail(&words(INFER));
    assert!(line.contains("tables-00001-of-00002.safetensors"), "{line}");
    let line = place.fail(&words("inspect nowhere"));
    assert!(line.contains("nowhere"), "{line}");
    let line = place.fail(&words("import nowhere.pt --config config.json --output imported"));
    assert!(line.contains("nowhere.pt"), "{line}");
    let line = place.fail(&words("init --config nowhere.json --output new"));
    assert!(line.contains("nowhere.json"), "{line}");
    assert_eq!(place.names(), ["config.json", "model", "rows.csv"]);
}

#[test]
fn dense_weights_are_checked_too() {
    let place = Place::new(10);
    let path = place.path("model").join("dense.safetensors");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xaa; 4], file.metadata().unwrap().len() - 4).unwrap();
    // Whatever the user trusts, the dense weights are read anyway.
    for command in [INFER.to_owned(), format!("{INFER} --skip-verify --ranks 2")] {
        let line = place.fail(&words(&command));
        assert!(line.contains("dense.safetensors"), "{line}");
    }
}

#[test]
fn a_bad_row_names_file_line_column_and_value_on_every_transport() {
    let place = Place::new(90);
    let mut rows: Vec<String> = place.read("rows.csv").lines().map(str::to_owned).collect();
    let cut = rows[70].rfind(',').unwrap();
    rows[70].replace_range(cut + 1.., "xyz");
    fs::write(place.path("rows.csv"), rows.join("\n")).unwrap();
    for ranks in [1, 3] {
        let line = place.fail(&words(&format!("{INFER} --ranks {ranks}")));
        assert!(line.contains("rows.csv:71") && line.contains("C5") && line.contains("xyz"), "{line}");
    }
    let run = place.run(&words(&format!("{INFER} --ranks 3 --transport shm")));
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    for rank in 0..3 {
        let own = run.stderr.lines().find(|line| line.starts_with(&format!("[rank {rank}] slackline: error: ")));
        assert!(own.is_some_and(|line| line.contains("rows.csv:71")), "{}", run.stderr);
    }
    assert!(!place.path("out.csv").exists());
}

#[test]
fn an_index_out_of_range_names_table_sample_and_value() {
    let place = Place::new(1);
    write_npz(&place, "bad.npz", 12, |table, sample| if (table, sample) == (2, 9) { 50 } else { 0 });
    write_npz(&place, "good.npz", 12, |table, sample| if (table, sample) == (2, 9) { 49 } else { 0 });
    for ranks in [1, 4] {
        let common = format!("--batch 4 --ranks {ranks} --output out.csv");
        let line = place.fail(&words(&format!("infer model --input bad.npz {common}")));
        assert!(line.contains("emb_l.2") && line.contains("sample 9") && line.contains("50"), "{line}");
        assert!(!place.path("out.csv").exists());
        let text = place.succeed(&words(&format!("infer model --input good.npz {common}")));
        assert!(text.contains("12 rows of good.npz (npz)"), "{text}");
        fs::remove_file(place.path("out.csv")).unwrap();
    }
}

#[test]
fn inputs_of_no_known_format_and_paths_that_cannot_be() {
    let place = Place::new(10);
    fs::write(place.path("prose.txt"), "It was a dark night\n").unwrap();
    let line = place.fail(&words("infer model --input prose.txt"));
    assert!(line.contains("prose.txt") && line.contains("format"), "{line}");
    fs::write(place.path("empty.tsv"), "").unwrap();
    let line = place.fail(&words("infer model --input empty.tsv"));
    assert!(line.contains("empty.tsv") && line.contains("empty"), "{line}");
    let line = place.fail(&words("infer model --input nowhere.csv"));
    assert!(line.contains("nowhere.csv"), "{line}");
    let line = place.fail(&words("infer model --input model"));
    assert!(line.contains("not a regular file"), "{line}");
    let line = place.fail(&words("infer model --input rows.csv --output no/such/out.csv"));
    assert!(line.contains("no/such") && line.contains("there is no folder"), "{line}");
    fs::write(place.path("few.csv"), "Id,Label,I1,I2,I3,I4,C1,C2\n1,0,1,1,1,1,a,b\n").unwrap();
    let line = place.fail(&words("infer model --input few.csv --ranks 2 --transport shm"));
    assert!(line.contains("few.csv:1") && line.contains("C3"), "{line}");
}

#[test]
fn misuse_ends_with_two_and_help_with_zero() {
    let place = Place::new(10);
    for (command, said) in [
        ("infer model", "--input"),
        ("infer model --input rows.csv --ranks 0", "--ranks"),
        ("infer model --input rows.csv --format parquet", "criteo-tsv"),
        ("infer model --input rows.csv --output rows.csv", "is the same file as the input"),
        ("infer model --input rows.csv --resume", "--output"),
        ("infer model --input rows.csv --ranks 2 --delay slow:rank=7,x1", "rank 7"),
        ("fly", "fly"),
        ("", "Usage"),
    ] {
        let run = place.run(&words(command));
        assert_eq!(run.code, Some(2), "{command}: {}", run.stderr);
        assert!(run.stderr.contains(said) && run.stdout.is_empty(), "{command}: {}", run.stderr);
    }
    let help = place.succeed(&["infer", "--help"]);
    assert!(help.contains("Examples:") && help.contains("128 + n"), "{help}");
    assert!(place.succeed(&["--version"]).starts_with("slackline "));
    assert_eq!(place.read("rows.csv").lines().count(), 11, "the input is as it was");
}

/// An archive of `samples` samples with one index a bag.
fn write_npz(place: &Place, name: &str, samples: usize, index: impl Fn(usize, usize) -> i64) {
    let mut archive = zip::ZipWriter::new(File::create(place.path(name)).unwrap());
    let mut member = |name: &str, kind: &str, shape: &str, bytes: Vec<u8>| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        // Magic, version and length of the header come to 10 bytes; the data begin at a multiple of 64.
        let header = format!("{header:<width$}\n", width = (header.len() + 11).next_multiple_of(64) - 11);
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.write_all(&bytes).unwrap();
    };
    let flat = |values: Vec<i64>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    member("dense", "<f4", &format!("{samples}, 4"), vec![0; samples * 16]);
    for table in 0..5 {
        member(&format!("offsets_{table}"), "<i8", &format!("{samples},"), flat((0..samples as i64).collect()));
        let indices = (0..samples).map(|sample| index(table, sample)).collect();
        member(&format!("indices_{table}"), "<i8", &format!("{samples},"), flat(indices));
    }
    archive.finish().unwrap();
}

#[test]
fn files_that_are_pipes_or_lead_out_of_the_model_are_refused_by_name() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    for name in
        ["config.json", "model.safetensors.index.json", "dense.safetensors", "tables-00001-of-00002.safetensors"]
    {
        let place = Place::new(20);
        let path = place.path("model").join(name);
        fs::rename(&path, place.path("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", &path).unwrap();
        let line = place.fail(&words(INFER));
        assert!(line.contains(name) && line.contains("leads out of the model directory"), "{line}");
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let line = place.fail(&words(&format!("{INFER} --ranks 2 --transport shm --skip-verify")));
        assert!(line.contains(name) && line.contains("not a regular file"), "{line}");
        assert!(!place.path("out.csv").exists());
    }
}

#[test]
fn streams_that_cannot_be_written_change_no_exit_code_and_no_output() {
    let place = Place::new(40);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    fs::write(place.path("out.csv"), "before").unwrap();
    let before = place.names();
    // The report of a run that went well cannot be printed: a failure, and the output is as it was.
    for transport in ["threads", "shm"] {
        let words =
            ["infer", "model", "--input", "rows.csv", "--output", "out.csv", "--ranks", "2", "--transport", transport];
        let run = Run::of(place.command(&words).stdout(full()).output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("standard output"), "{}", run.stderr);
        assert_eq!((place.read("out.csv"), place.names_but(".out.csv.partial")), ("before".to_owned(), before.clone()));
    }
    let words = ["plan", "model", "--ranks", "2", "--output", "plan.json"];
    let run = Run::of(place.command(&words).stdout(full()).output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(place.names_but(".out.csv.partial"), before);
    // An error that cannot be told has its exit code all the same; and so where nobody reads any more.
    for (words, code) in
        [(&["infer", "nothing", "--input", "rows.csv"] as &[&str], 1), (&["infer"], 2), (&["--nonsense"], 2)]
    {
        let run = Run::of(place.command(words).stderr(full()).output().unwrap());
        assert_eq!(run.code, Some(code), "{words:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(place.command(words).stderr(writer).output().unwrap());
        assert_eq!(run.code, Some(code), "{words:?}");
    }
    // Ranks whose errors nobody can read.
    let words =
        ["infer", "model", "--input", "rows.csv", "--ranks", "3", "--transport", "shm", "--delay", "slow:rank=2,x1"];
    let words =
        [&words[..], &["--delay-unit", "5000", "--deadline", "1", "--batch", "8", "--output", "out.csv"]].concat();
    let run = Run::of(place.command(&words).stderr(full()).output().unwrap());
    assert_eq!(run.code, Some(1));
    assert_eq!(place.read("out.csv"), "before");
}
