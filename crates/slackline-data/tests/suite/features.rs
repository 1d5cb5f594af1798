//! What needs a feature that is off says which one.

#[cfg(not(feature = "gzip"))]
use slackline_data::InputFormat;
use slackline_data::{DataError, Input, InputOptions, InputShape, ids};

/// Every way to open a file of this content gives an error that names the feature, or with the feature on, one about the
/// content.
fn check(name: &str, content: &[u8], feature: &str, is_on: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let shape = InputShape { dense_features: 1, table_rows: vec![10] };
    let refusals = [Input::open(&path, None, &shape).err(), ids(&path, &InputOptions::default(), &shape).err()];
    for refused in refusals.into_iter().flatten() {
        let missing = matches!(&refused, DataError::MissingFeature { feature: named, .. } if *named == feature);
        assert_eq!(missing, !is_on, "{refused}");
        if missing {
            assert!(
                refused.to_string().contains(&format!("without feature `{feature}` of slackline-data")),
                "{refused}"
            );
        }
    }
    assert!(Input::open(&path, None, &shape).is_err());
}

#[test]
fn gzip_and_npz() {
    check("a.tsv.gz", b"\x1f\x8b\x08\0", "gzip", cfg!(feature = "gzip"));
    check("a.npz", b"PK\x05\x06", "npz", cfg!(feature = "npz"));
}

#[cfg(not(feature = "gzip"))]
#[test]
fn the_format_of_a_gzipped_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gz");
    std::fs::write(&path, b"\x1f\x8b\x08\0").unwrap();
    assert!(matches!(InputFormat::detect(&path), Err(DataError::MissingFeature { feature: "gzip", .. })));
}

#[cfg(all(feature = "generate", not(feature = "gzip")))]
#[test]
fn writing_a_gzipped_file() {
    let folder = tempfile::tempdir().unwrap();
    let shape = InputShape { dense_features: 1, table_rows: vec![10] };
    let refused = slackline_data::CriteoWriter::create(folder.path().join("a.gz"), &shape).err();
    assert!(matches!(refused, Some(DataError::MissingFeature { feature: "gzip", .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
