//! Shards that are written and read in an orderly way, and writers that are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Load, Pooling, RowFormat, Shard, ShardDefect, ShardError, ShardWriter, TableSpec,
    Verify,
};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

fn spec(table: &HeapTable) -> TableSpec {
    TableSpec::new(table.name(), table.rows(), table.dim(), table.stored().format())
}

fn bytes(table: &HeapTable) -> &[u8] {
    bytemuck::cast_slice(table.data())
}

fn write(path: &Path, tables: &[HeapTable]) {
    let mut writer = ShardWriter::create(path, &tables.iter().map(spec).collect::<Vec<_>>()).unwrap();
    for (number, table) in tables.iter().enumerate() {
        writer.write_rows(number, bytes(table)).unwrap();
    }
    writer.finish().unwrap();
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-0.safetensors");
    (folder, path)
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn three_tables() -> Vec<HeapTable> {
    [("user", 7, 4), ("item \"new\" \\ é", 5, 3), ("empty", 0, 16)]
        .map(|(name, rows, dim)| HeapTable::random(name, rows, dim, rows))
        .into()
}

#[test]
fn tables_come_back_as_they_were_written() {
    let (folder, path) = folder();
    let tables = three_tables();
    write(&path, &tables);
    assert_eq!(names(&folder), ["shard-0.safetensors"]);
    for verify in [Verify::Checksums, Verify::HeaderOnly] {
        let shard = Shard::open(&path, verify).unwrap();
        assert_eq!(shard.path(), path);
        assert_eq!(
            shard.tables().iter().map(|table| &*table.tensor).collect::<Vec<_>>(),
            ["user", tables[1].name(), "empty"]
        );
        for table in &tables {
            let mapped = shard.table(table.name()).unwrap();
            assert_eq!(
                (mapped.name(), mapped.rows(), mapped.dim(), mapped.bytes(), mapped.row_format()),
                (table.name(), table.rows(), table.dim(), table.bytes(), Some(RowFormat::F32))
            );
            assert_eq!(mapped.row_bytes(), bytes(table));
            let meta = mapped.meta();
            assert_eq!((&*meta.table, meta.first_row, meta.xxh3), (table.name(), 0, xxh3_64(bytes(table))));
        }
        let error = shard.table("users").unwrap_err().to_string();
        assert_eq!(error, format!("{}: no table users in this shard", path.display()));
        assert!(matches!(shard.verify("users"), Err(ShardError::NoTable { .. })));
    }
}

#[test]
fn a_table_outlives_its_shard_and_the_file_that_replaces_it() {
    let (_folder, path) = folder();
    write(&path, &[HeapTable::new("t", 2, vec![1.0, 2.0])]);
    let table = Shard::open(&path, Verify::Checksums).unwrap().table("t").unwrap();
    write(&path, &[HeapTable::new("t", 2, vec![3.0, 4.0])]);
    let pool = |table: &dyn EmbeddingTable| {
        let mut out = [0.0; 2];
        table.pool(&Bags::new("t", 1, &[0i64], &[0i64, 1], None).unwrap(), Pooling::Sum, &mut out).unwrap();
        out
    };
    assert_eq!(pool(&table), [1.0, 2.0]);
    assert_eq!(pool(&Shard::open(&path, Verify::Checksums).unwrap().table("t").unwrap()), [3.0, 4.0]);
    fs::remove_file(&path).unwrap();
    assert_eq!(pool(&table), [1.0, 2.0]);
}

#[test]
fn the_ordinary_safetensors_library_reads_a_shard() {
    let (_folder, path) = folder();
    let tables = three_tables();
    write(&path, &tables);
    let file = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.len(), tables.len());
    for table in &tables {
        let tensor = tensors.tensor(table.name()).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[table.rows() as usize, table.dim()][..]));
        assert_eq!(tensor.data(), bytes(table));
    }
    let (header, metadata) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!((8 + header) % 4096, 0, "the data start on a page");
    let map = metadata.metadata().as_ref().unwrap();
    assert_eq!((map["format"].as_str(), map["version"].as_str()), ("slackline.shard", "1"));
    let described: serde_json::Value = serde_json::from_str(&map["table:user"]).unwrap();
    let expected = serde_json::json!({
        "row_format": "f32", "table": "user", "first_row": 0, "rows": 7, "dim": 4,
        "xxh3": format!("{:016x}", xxh3_64(bytes(&tables[0]))),
    });
    assert_eq!(described, expected);
}

#[test]
fn a_shard_without_tables_is_a_shard() {
    let (_folder, path) = folder();
    write(&path, &[]);
    assert!(Shard::open(&path, Verify::Checksums).unwrap().tables().is_empty());
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
}

#[test]
fn a_header_of_more_than_a_page_is_padded_to_the_next() {
    let (_folder, path) = folder();
    let tables: Vec<_> = (0..100).map(|at| HeapTable::random(format!("table_{at}"), 2, 5, at)).collect();
    write(&path, &tables);
    let shard = Shard::open(&path, Verify::Checksums).unwrap();
    assert!(shard.tables()[0].offset > 4096 && shard.tables()[0].offset.is_multiple_of(4096));
    assert!(tables.iter().all(|table| shard.table(table.name()).unwrap().row_bytes() == bytes(table)));
}

#[test]
fn progress_counts_up_to_the_size_of_the_table() {
    let (_folder, path) = folder();
    let table = HeapTable::random("t", 40_000, 20, 1);
    write(&path, std::slice::from_ref(&table));
    let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
    let mut seen = Vec::new();
    shard.verify_with("t", &mut |done| seen.push(done)).unwrap();
    assert_eq!(seen, [1 << 20, 2 << 20, 3 << 20, table.bytes()]);
}

#[test]
fn a_shard_is_readable_as_any_new_file_is() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = folder();
    write(&path, &[]);
    fs::write(folder.path().join("other"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&folder.path().join("other")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rows_may_come_in_pieces_of_any_size(
        shapes in vec((0..9u64, 1..9usize), 0..5),
        cuts in vec(1..70usize, 1..20),
    ) {
        let (_folder, path) = folder();
        let shapes = shapes.into_iter().enumerate();
        let tables: Vec<_> =
            shapes.map(|(at, (rows, dim))| HeapTable::random(format!("t{at}"), rows, dim, at as u64)).collect();
        let mut writer = ShardWriter::create(&path, &tables.iter().map(spec).collect::<Vec<_>>()).unwrap();
        let mut cuts = cuts.into_iter().cycle();
        for (number, table) in tables.iter().enumerate() {
            let mut left = bytes(table);
            while !left.is_empty() {
                let (piece, rest) = left.split_at(left.len().min(cuts.next().unwrap()));
                writer.write_rows(number, piece).unwrap();
                left = rest;
            }
            writer.write_rows(number, &[]).unwrap();
        }
        writer.finish().unwrap();
        let shard = Shard::open(&path, Verify::Checksums).unwrap();
        for table in &tables {
            let mapped = shard.table(table.name()).unwrap();
            prop_assert_eq!(mapped.row_bytes(), bytes(table));
        }
    }
}

#[test]
fn a_dropped_writer_leaves_nothing_and_what_was_there_before() {
    let (folder, path) = folder();
    let table = HeapTable::random("t", 1000, 16, 1);
    let mut writer = ShardWriter::create(&path, &[spec(&table)]).unwrap();
    writer.write_rows(0, &bytes(&table)[..400]).unwrap();
    let partial = names(&folder);
    assert!(partial.len() == 1 && partial[0].starts_with(".shard-0.safetensors.") && partial[0].ends_with(".partial"));
    drop(writer);
    assert!(names(&folder).is_empty());

    write(&path, std::slice::from_ref(&table));
    let before = fs::read(&path).unwrap();
    let mut writer = ShardWriter::create(&path, &[spec(&table)]).unwrap();
    writer.write_rows(0, &[0; 64]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert_eq!(error, format!("{}: table t has only 64 of its 64000 bytes", path.display()));
    assert_eq!(names(&folder), ["shard-0.safetensors"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_partial_file_is_not_a_shard_even_with_all_its_rows() {
    let (folder, path) = folder();
    let table = HeapTable::random("t", 500_000, 4, 1);
    let mut writer = ShardWriter::create(&path, &[spec(&table)]).unwrap();
    writer.write_rows(0, bytes(&table)).unwrap();
    let partial = folder.path().join(&names(&folder)[0]);
    let error = Shard::open(&partial, Verify::HeaderOnly).unwrap_err().to_string();
    assert!(error.contains("the header cannot be parsed"), "{error}");
}

#[test]
fn rows_out_of_order_or_too_many_are_refused_and_can_be_put_right() {
    let (_folder, path) = folder();
    let tables = [HeapTable::random("a", 2, 4, 1), HeapTable::random("b", 0, 4, 2), HeapTable::random("c", 1, 4, 3)];
    let mut writer = ShardWriter::create(&path, &tables.iter().map(spec).collect::<Vec<_>>()).unwrap();
    let file = path.display();
    let refused = |writer: &mut ShardWriter, table, length, message: &str| {
        let error = writer.write_rows(table, &vec![0; length]).unwrap_err();
        assert_eq!(error.to_string(), format!("{file}: {message}"));
    };
    refused(&mut writer, 2, 4, "rows for table number 2, but table number 0 comes next");
    refused(&mut writer, 3, 0, "rows for table number 3, but table number 0 comes next");
    writer.write_rows(0, &bytes(&tables[0])[..20]).unwrap();
    refused(&mut writer, 0, 13, "table a takes 32 bytes, not 33");
    writer.write_rows(0, &bytes(&tables[0])[20..]).unwrap();
    refused(&mut writer, 0, 1, "rows for table number 0, but table number 2 comes next");
    refused(&mut writer, 1, 1, "rows for table number 1, but table number 2 comes next");
    writer.write_rows(2, bytes(&tables[2])).unwrap();
    refused(&mut writer, 2, 1, "rows for table number 2, but table number 3 comes next");
    writer.finish().unwrap();
    let shard = Shard::open(&path, Verify::Checksums).unwrap();
    assert!(tables.iter().all(|table| shard.table(table.name()).unwrap().row_bytes() == bytes(table)));
}

#[test]
fn tables_that_cannot_be_written_are_refused_by_name() {
    let (folder, path) = folder();
    let spec = |name: &str, rows, dim| TableSpec::new(name, rows, dim, RowFormat::F32);
    let refused = |specs: &[TableSpec], message: &str| {
        let error = ShardWriter::create(&path, specs).unwrap_err().to_string();
        assert_eq!(error, format!("{}: table {message}", path.display()));
    };
    refused(&[spec("a", 1, 1), spec("a", 2, 2)], "a cannot be written: another table has this name");
    refused(&[spec("__metadata__", 1, 1)], "__metadata__ cannot be written: safetensors reserve this name");
    refused(&[spec("a", 1, 0)], "a cannot be written: 0 columns, not 1 to 1048576");
    refused(&[spec("a", 1, usize::MAX)], &format!("a cannot be written: {} columns, not 1 to 1048576", usize::MAX));
    refused(&[spec("a", u64::MAX, 4)], &format!("a cannot be written: {} rows of 16 bytes are too many", u64::MAX));
    let half = spec("a", u64::MAX >> 5, 2);
    refused(
        &[half, spec("b", u64::MAX >> 5, 2)],
        &format!("b cannot be written: {} rows of 8 bytes are too many", u64::MAX >> 5),
    );
    // A name stands in the header three times.
    let error = ShardWriter::create(&path, &[spec(&"long".repeat(8_400_000), 1, 1)]).unwrap_err().to_string();
    assert!(
        error.ends_with("the header would have 100802552 bytes, and at most 100000000 are accepted"),
        "{}",
        &error[error.len() - 90..]
    );
    assert!(names(&folder).is_empty());
}

#[test]
fn a_folder_that_takes_no_files_is_an_error_that_names_the_file() {
    let (folder, path) = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    let sealed = folder.path().join("sealed");
    fs::create_dir(&sealed).unwrap();
    let mut permissions = fs::metadata(&sealed).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&sealed, permissions).unwrap();
    let mut paths = vec![folder.path().join("missing/t"), folder.path().join("file/t")];
    // A superuser may write anyway.
    if fs::write(sealed.join("probe"), "").is_err() {
        paths.push(sealed.join("t"));
    }
    for path in paths {
        let error = ShardWriter::create(&path, &[]).unwrap_err();
        assert!(matches!(error, ShardError::Io { .. }));
        let message = error.to_string();
        let start = format!("{}: creating a file beside it failed: ", path.display());
        assert!(message.starts_with(&start), "{message}");
    }
    // A name that cannot be taken is found when the file is renamed.
    fs::create_dir(&path).unwrap();
    let error = ShardWriter::create(&path, &[]).unwrap().finish().unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: renaming failed: ", path.display())), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "the partial file is gone");
}

/// Runs itself again in a process that may write only small files: to the writer that is a disk that fills up.
#[test]
fn a_disk_that_fills_up_is_an_error_that_names_the_file() {
    const FOLDER: &str = "SLACKLINE_TEST_SMALL_FILES";
    let Some(inner) = std::env::var_os(FOLDER) else {
        let (folder, _) = folder();
        let shell = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact shard::a_disk_that_fills_up_is_an_error_that_names_the_file";
        let program = std::env::current_exe().unwrap();
        let run = Command::new("sh").args(["-c", shell]).arg(program).env(FOLDER, folder.path()).output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && told.contains("1 passed"), "{told}");
        return;
    };
    let path = PathBuf::from(inner).join("full");
    let left = || fs::read_dir(path.parent().unwrap()).unwrap().count();
    let table = HeapTable::random("t", 200_000, 4, 1);

    // Larger than the writer's buffer: fails while rows come.
    let mut writer = ShardWriter::create(&path, &[spec(&table)]).unwrap();
    let error = writer.write_rows(0, bytes(&table)).unwrap_err();
    assert!(matches!(error, ShardError::Io { .. }));
    assert!(error.to_string().starts_with(&format!("{}: writing rows failed: ", path.display())), "{error}");
    assert_eq!(left(), 0, "the space is given back at once");
    assert!(matches!(writer.write_rows(0, &[0; 16]), Err(ShardError::Abandoned { .. })));
    drop(writer);

    // Smaller: fails only when the buffer is written out.
    let mut writer = ShardWriter::create(&path, &[TableSpec::new("t", 10_000, 4, RowFormat::F32)]).unwrap();
    writer.write_rows(0, &bytes(&table)[..160_000]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: writing rows failed: ", path.display())), "{error}");
    assert_eq!(left(), 0);
}

#[test]
fn every_way_of_loading_gives_the_same_rows() {
    let (_folder, path) = folder();
    let tables = three_tables();
    write(&path, &tables);
    let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
    for how in Load::ALL {
        assert_eq!(how.to_string().parse(), Ok(how));
        for (table, verify) in tables.iter().flat_map(|table| [(table, Verify::Checksums), (table, Verify::HeaderOnly)])
        {
            let loaded = shard.load(table.name(), how, verify).unwrap();
            assert_eq!((loaded.name(), loaded.rows(), loaded.bytes()), (table.name(), table.rows(), table.bytes()));
            let indices: Vec<i64> = (0..table.rows() as i64).collect();
            let offsets = [0, indices.len() as i64];
            let pool = |table: &dyn EmbeddingTable| {
                let mut out = vec![f32::NAN; table.dim()];
                let bags = Bags::new("t", table.rows(), &indices, &offsets, None).unwrap();
                table.pool(&bags, Pooling::Sum, &mut out).unwrap();
                out
            };
            assert_eq!(pool(&*loaded), pool(table), "{how}");
        }
    }
}

#[test]
fn a_copy_outlives_a_file_that_is_cut_short_and_one_that_comes_too_late_is_an_error() {
    let (_folder, path) = folder();
    // Larger than what is read at once, so that the cut falls between two reads as well.
    write(&path, &[HeapTable::random("t", 100_000, 4, 1)]);
    let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
    let copy = shard.load("t", Load::Copied, Verify::Checksums).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    for kept in [length - 1, 4096 + (1 << 20), 5000, 0] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(kept).unwrap();
        let mut out = [f32::NAN; 4];
        let bags = Bags::new("t", 100_000, &[99_999i64], &[0i64, 1], None).unwrap();
        copy.pool(&bags, Pooling::Sum, &mut out).unwrap();
        assert_eq!(out[..], HeapTable::random("t", 100_000, 4, 1).data()[4 * 99_999..]);
        let late = shard.load("t", Load::Copied, Verify::HeaderOnly).unwrap_err();
        let defect = ShardDefect::Short { expected: length, found: kept };
        assert!(matches!(&late, ShardError::Corrupt { defect: found, .. } if **found == defect), "{late}");
    }
}

#[test]
fn a_copy_of_altered_rows_is_refused() {
    let (_folder, path) = folder();
    write(&path, &[HeapTable::random("t", 10, 4, 1)]);
    let mut file = fs::read(&path).unwrap();
    *file.last_mut().unwrap() ^= 1;
    fs::write(&path, file).unwrap();
    let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
    assert!(matches!(shard.load("t", Load::Copied, Verify::Checksums), Err(ShardError::Corrupt { .. })));
    assert!(shard.load("t", Load::Copied, Verify::HeaderOnly).is_ok(), "nothing was asked for");
}
