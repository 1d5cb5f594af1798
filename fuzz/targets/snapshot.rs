//! torchsnapshot directories: a manifest, and one file that its tensors are ranges of.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use slackline_checkpoint::Checkpoint;
use slackline_fuzz::{file, folder, golden, joined, parts, seed};

/// The file that the golden manifest names.
const DATA: &str = "1cd66e49-6332-429e-bab9-9a5ed579452e";

fn seeds() -> Vec<Vec<u8>> {
    let snapshot = "slackline-checkpoint/tests/golden/snapshot_batched";
    let files = [".snapshot_metadata".to_owned(), format!("batched/{DATA}")];
    let files = files.map(|name| golden(&format!("{snapshot}/{name}")));
    vec![joined(&files.each_ref().map(Vec::as_slice))]
}

fuzz_target!(
    init: {
        fs::create_dir_all(folder().join("batched")).expect("room for the input");
        seed(seeds);
    },
    |data: &[u8]| {
        let [manifest, bytes] = parts::<2>(data);
        file(".snapshot_metadata", manifest);
        file(&format!("batched/{DATA}"), bytes);
        let Ok(checkpoint) = Checkpoint::open(folder()) else { return };
        for (name, tensor) in checkpoint.tensors() {
            if tensor.bytes <= 1 << 20 {
                let _ = checkpoint.read_f32(name);
            }
        }
    }
);
