//! Safetensors in several files, and the index that names them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_checkpoint::Checkpoint;
use slackline_fuzz::{file, golden, joined, parts, seed};

const FILES: [&str; 3] =
    ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn seeds() -> Vec<Vec<u8>> {
    let files = FILES.map(|name| golden(&format!("slackline-checkpoint/tests/golden/{name}")));
    vec![joined(&files.each_ref().map(Vec::as_slice))]
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let paths = parts::<3>(data).into_iter().zip(FILES).map(|(bytes, name)| file(name, bytes)).collect::<Vec<_>>();
        let Ok(checkpoint) = Checkpoint::open(&paths[0]) else { return };
        for (name, tensor) in checkpoint.tensors() {
            if tensor.bytes <= 1 << 20 {
                let _ = checkpoint.read_f32(name);
            }
        }
    }
);
