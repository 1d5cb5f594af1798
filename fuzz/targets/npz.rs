//! `.npz` archives: as they are, and made of `.npy` members whose checksums are right.
#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use slackline_data::{Batch, Input, InputShape, NpzFile};
use slackline_fuzz::{file, golden, joined, parts, seed};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const MEMBERS: [&str; 5] = ["dense.npy", "offsets_0.npy", "indices_0.npy", "weights_0.npy", "labels.npy"];

fn seeds() -> Vec<Vec<u8>> {
    let whole = golden("slackline-dlrm/tests/golden/qr_mult.npz");
    let mut archive = ZipArchive::new(Cursor::new(&whole)).expect("an archive");
    let members = MEMBERS.map(|name| {
        let mut bytes = Vec::new();
        if let Ok(mut member) = archive.by_name(name) {
            std::io::copy(&mut member, &mut bytes).expect("it can be read");
        }
        bytes
    });
    let members = joined(&members.each_ref().map(Vec::as_slice));
    vec![[&[0][..], &whole].concat(), [&[1][..], &members].concat()]
}

fn archive(data: &[u8]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in MEMBERS.into_iter().zip(parts::<5>(data)).filter(|(_, bytes)| !bytes.is_empty()) {
        writer.start_file(name, options).expect("a new name");
        writer.write_all(bytes).expect("memory");
    }
    writer.finish().expect("memory").into_inner()
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let Some((mode, data)) = data.split_first() else { return };
        let path = if mode % 2 == 0 { file("input", data) } else { file("input", &archive(data)) };
        if let Ok(mut npz) = NpzFile::open(&path) {
            for name in npz.names() {
                let _ = (npz.f32(&name), npz.i64(&name), npz.u8(&name));
            }
        }
        let shape = InputShape { dense_features: 1 + usize::from(mode / 2 % 16), table_rows: vec![1000] };
        let Ok(mut input) = Input::open(&path, None, &shape) else { return };
        let mut batch = Batch::default();
        while let Ok(true) = input.next_batch(7, &mut batch) {
            assert!(batch.samples <= 7);
        }
    }
);
