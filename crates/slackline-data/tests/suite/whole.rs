//! Files that appear whole, and the folder in which they grow.

use std::fs;
use std::io::{ErrorKind, Write, read_to_string};
use std::os::unix::fs::symlink;
use std::path::Path;

use slackline_data::{PartialFolder, WholeFile};

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn an_unfinished_file_leaves_the_old_one_and_nothing_else_unless_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    fs::write(&path, "old").unwrap();
    let mut whole = WholeFile::create(&path).unwrap();
    whole.write_all(b"new").unwrap();
    assert_eq!(names_in(folder.path()), [".out.csv.partial", "out.csv"]);
    drop(whole);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names_in(folder.path()), ["out.csv"]);

    let mut whole = WholeFile::create(&path).unwrap();
    whole.write_all(b"kept").unwrap();
    whole.keep(true);
    drop(whole);
    assert_eq!(names_in(folder.path()), [".out.csv.partial", "out.csv"]);
    WholeFile::check(&path).unwrap();
    let whole = WholeFile::reopen(&path).unwrap();
    assert_eq!(read_to_string(whole.file()).unwrap(), "kept");
    drop(whole);
    // Whoever writes it anew throws it away.
    let mut whole = WholeFile::create(&path).unwrap();
    whole.write_all(b"a").unwrap();
    whole.finish().unwrap();
    assert_eq!(
        (fs::read_to_string(&path).unwrap().as_str(), names_in(folder.path())),
        ("a", vec!["out.csv".to_owned()])
    );
}

#[test]
fn a_finished_file_replaces_the_old_one_as_a_whole_and_a_link_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("target.csv"), folder.path().join("link.csv"));
    fs::write(&target, "old and longer than what comes after it, so that a rest would show").unwrap();
    symlink("target.csv", &link).unwrap();
    let old = fs::File::open(&target).unwrap();
    let mut whole = WholeFile::create(&link).unwrap();
    whole.write_all(b"new").unwrap();
    whole.finish().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    assert_eq!(names_in(folder.path()), ["link.csv", "target.csv"]);
    assert!(read_to_string(old).unwrap().starts_with("old"), "who had it open keeps it");
}

#[test]
fn two_writers_of_one_file_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let first = WholeFile::create(&path).unwrap();
    for refused in [WholeFile::create(&path).map(drop), WholeFile::reopen(&path).map(drop), WholeFile::check(&path)] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(error.to_string().contains(".out.csv.partial is locked"), "{error}");
    }
    drop(first);
    WholeFile::check(&path).unwrap();
    assert_eq!(names_in(folder.path()), [""; 0]);
    WholeFile::create(&path).unwrap().finish().unwrap();
}

#[test]
fn what_is_not_its_own_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let refused = |path: &Path| WholeFile::create(path).unwrap_err().to_string();
    assert_eq!(refused(folder.path()), "it is a folder");
    let missing = refused(&folder.path().join("no/such/out.csv"));
    assert!(missing.contains("there is no folder") && missing.contains("no/such"), "{missing}");
    let partial = PartialFolder::beside(&path);
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("journal.json"), "{}").unwrap();
    assert!(refused(&path).contains("holds \"journal.json\", which another command left"), "{}", refused(&path));
    assert_eq!(names_in(&partial), ["journal.json"]);
    fs::remove_dir_all(&partial).unwrap();
    fs::write(&partial, "a file").unwrap();
    assert!(refused(&path).contains("is in the way"), "{}", refused(&path));
    assert_eq!(fs::read_to_string(&partial).unwrap(), "a file");
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    let mut whole = WholeFile::create("/dev/null").unwrap();
    whole.write_all(b"gone").unwrap();
    assert!(whole.folder().is_none() && whole.terms().is_none());
    whole.finish().unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
