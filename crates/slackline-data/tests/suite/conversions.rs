//! Inputs that are converted to another format.

use std::path::Path;

use slackline_data::{DataError, Input, InputFormat, InputOptions, convert_input};

use crate::arrays::{Folder, archive, files, list, matrix, read, shape};

fn convert(from: &Path, to: InputFormat, out: &Path) -> Result<u64, DataError> {
    let converted = convert_input(from, &InputOptions::default(), &shape(), to, out, &mut |_, _| ())?;
    assert_eq!(converted.samples, Input::open(out, Some(to), &shape())?.samples_total().unwrap());
    Ok(converted.resumed)
}

#[test]
fn a_converted_input_has_the_same_samples() {
    let folder = Folder::new();
    let options = InputOptions::default();
    let of = |name: &str| folder.0.path().join(name);
    for (from, format) in files(&folder, 50, true, true) {
        let expected = read(&from, &options, 7).unwrap();
        for (to, name) in
            [(InputFormat::Npz, "a.npz"), (InputFormat::MultiHot, "a_sparse.npz"), (InputFormat::Npy, "b_sparse.npy")]
        {
            assert_eq!(convert(&from, to, &of(name)).unwrap(), 0);
            assert_eq!(InputFormat::detect(of(name)).unwrap(), to);
            assert_eq!(read(&of(name), &options, 7).unwrap(), expected, "{format} to {to}");
        }
    }
    // Bags of any size, with weights, and labels between 0 and 1.
    let members = [
        ("dense", matrix("<f4", false, &vec![vec![0.5; 3]; 3])),
        ("offsets_0", list("<i8", &[0.0, 2.0, 2.0])),
        ("indices_0", list("<i8", &[7.0, 8.0, 9.0])),
        ("offsets_1", list("<i8", &[0.0, 0.0, 1.0, 4.0])),
        ("indices_1", list("<i8", &[2.0, 2.0, 1.0, 0.0])),
        ("weights_1", list("<f4", &[0.25, 0.5, 0.75, 1.0])),
        ("labels", list("<f4", &[1.0, 0.25, 0.0])),
    ];
    let bags = folder.file("bags.npz", &archive(&members, true));
    convert(&bags, InputFormat::Npz, &of("c.npz")).unwrap();
    assert_eq!(read(&of("c.npz"), &options, 2).unwrap(), read(&bags, &options, 2).unwrap());
    let refused = convert(&bags, InputFormat::MultiHot, &of("d_sparse.npz")).unwrap_err().to_string();
    assert!(refused.contains("d_sparse.npz: the input has weights"), "{refused}");
    let members: Vec<_> = members.into_iter().filter(|member| member.0 != "weights_1").collect();
    let bags = folder.file("bags.npz", &archive(&members, true));
    let refused = convert(&bags, InputFormat::MultiHot, &of("d_sparse.npz")).unwrap_err().to_string();
    assert!(refused.contains("different numbers of lookups in table 1"), "{refused}");
    assert!(!of("d_sparse.npz").exists());
}

#[test]
fn what_is_no_file_is_not_replaced_and_links_are_followed() {
    let folder = Folder::new();
    let from = files(&folder, 5, false, false).swap_remove(0).0;
    let of = |name: &str| folder.0.path().join(name);
    let said = |to, name: &str| convert(&from, to, &of(name)).unwrap_err().to_string();
    std::fs::create_dir_all(of("folder_sparse.npy")).unwrap();
    std::fs::create_dir_all(of("day_dense.npy")).unwrap();
    std::fs::create_dir_all(of(".taken.npz.partial/model")).unwrap();
    std::os::unix::fs::symlink("/dev/null", of("device.npz")).unwrap();
    let before = std::fs::read_dir(folder.0.path()).unwrap().count();
    for (to, name, problem) in [
        (InputFormat::Npy, "folder_sparse.npy", "folder_sparse.npy: it is a folder"),
        (InputFormat::Npy, "day_sparse.npy", "day_dense.npy: it is a folder"),
        (InputFormat::Npz, "device.npz", "/dev/null: it is a pipe or a device"),
        (InputFormat::Npz, "taken.npz", "which another command left; finish that"),
    ] {
        let error = said(to, name);
        assert!(error.contains(problem), "{error}");
        assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), before, "{name}");
    }
    folder.file("real.npz", b"before");
    std::os::unix::fs::symlink("real.npz", of("link.npz")).unwrap();
    convert(&from, InputFormat::Npz, &of("link.npz")).unwrap();
    assert!(of("link.npz").is_symlink());
    let options = InputOptions::default();
    assert_eq!(read(&of("real.npz"), &options, 7).unwrap(), read(&from, &options, 7).unwrap());
}

#[test]
fn labels_of_another_input_are_not_taken_for_those_of_this_one() {
    let folder = Folder::new();
    let lookups = matrix("<i4", false, &vec![vec![1.0]; 3]);
    let dense = matrix("<f4", false, &vec![vec![0.5; 3]; 3]);
    let from = folder.file("from.npz", &archive(&[("0", lookups.clone()), ("1", lookups), ("dense", dense)], false));
    let out = folder.0.path().join("day_sparse.npy");
    let labels = folder.file("day_labels.npy", &list("<i4", &[1.0, 0.0, 1.0]));
    for to in [InputFormat::Npy, InputFormat::MultiHot] {
        let refused = convert(&from, to, &out).unwrap_err().to_string();
        assert!(refused.contains("the input has no labels, and") && refused.contains("day_labels.npy"), "{refused}");
    }
    assert!(!out.exists());
    std::fs::remove_file(&labels).unwrap();
    convert(&from, InputFormat::Npy, &out).unwrap();
    assert_eq!(read(&out, &InputOptions::default(), 2).unwrap().labels, [] as [f32; 0]);
}

#[test]
fn what_numpy_expects_of_an_archive_is_there() {
    let folder = Folder::new();
    let from = files(&folder, 5, false, false).swap_remove(0).0;
    let out = folder.0.path().join("a.npz");
    convert(&from, InputFormat::Npz, &out).unwrap();
    // The archive crate compares the checksums.
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&out).unwrap()).unwrap();
    assert_eq!(archive.len(), 6);
    for number in 0..archive.len() {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive.by_index(number).unwrap(), &mut bytes).unwrap();
        assert!(bytes.starts_with(b"\x93NUMPY\x01\0") && bytes.len() > 64);
    }
}

#[test]
fn an_interrupted_conversion_goes_on_and_another_one_starts_afresh() {
    let folder = Folder::new();
    let rows = 6000;
    let ints = |s: i32| [s % 2, s % 5, s % 7, s % 9, s % 10, s % 3];
    let mut bytes: Vec<u8> = (0..rows).flat_map(ints).flat_map(i32::to_le_bytes).collect();
    let good = bytes.clone();
    // A row that is none, near the end.
    bytes[5000 * 24 + 16..5000 * 24 + 20].copy_from_slice(&10i32.to_le_bytes());
    let from = folder.file("a.bin", &bytes);
    let (out, partial) = (folder.0.path().join("a_sparse.npz"), folder.0.path().join(".a_sparse.npz.partial"));
    let refused = convert(&from, InputFormat::MultiHot, &out).unwrap_err().to_string();
    assert!(refused.contains("a.bin: sample 5000: 10 is not a row"), "{refused}");
    assert!(partial.exists() && !out.exists());
    // As if 4096 samples had been synced before the interruption.
    let journal = partial.join("journal");
    let mut kept = std::fs::read(&journal).unwrap();
    assert_eq!(kept[..8], [0; 8]);
    kept[..8].copy_from_slice(&4096u64.to_le_bytes());
    std::fs::write(&journal, &kept).unwrap();
    let content = std::fs::read(partial.join("content")).unwrap();
    // The same size and time: the same file to the journal.
    let times = std::fs::metadata(&from).unwrap().modified().unwrap();
    std::fs::write(&from, &good).unwrap();
    std::fs::File::options().write(true).open(&from).unwrap().set_modified(times).unwrap();
    assert_eq!(convert(&from, InputFormat::MultiHot, &out).unwrap(), 4096);
    let expected = read(&from, &InputOptions::default(), 999).unwrap();
    assert_eq!(read(&out, &InputOptions::default(), 999).unwrap(), expected);
    assert!(!partial.exists());

    // What another input has left is not gone on with.
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(&journal, &kept).unwrap();
    std::fs::write(partial.join("content"), content).unwrap();
    std::fs::write(&from, &good[..3000 * 24]).unwrap();
    assert_eq!(convert(&from, InputFormat::MultiHot, &out).unwrap(), 0);
    assert_eq!(read(&out, &InputOptions::default(), 999).unwrap().samples, 3000);
}
