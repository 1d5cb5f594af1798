//! Checkpoints of one file: PyTorch's zip and legacy formats, safetensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_checkpoint::Checkpoint;
use slackline_fuzz::{file, golden, seed};

fn seeds() -> Vec<Vec<u8>> {
    let of_checkpoint = ["module.pt", "fields.pt", "parallel.pt", "bare_protocol4.pt", "odd.pt"]
        .into_iter()
        .chain(["fields_legacy.pt", "bare_legacy_protocol4.pt", "expected.safetensors", "odd_expected.safetensors"])
        .map(|name| golden(&format!("slackline-checkpoint/tests/golden/{name}")));
    of_checkpoint.chain([golden("slackline-dlrm/tests/golden/dot.pt")]).collect()
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let Ok(checkpoint) = Checkpoint::open(file("checkpoint", data)) else { return };
        for (name, tensor) in checkpoint.tensors() {
            // A view may repeat its elements without end; that is not a defect.
            if tensor.bytes <= 1 << 20 {
                let _ = checkpoint.read_bytes(name);
                let _ = checkpoint.read_f32(name);
            }
        }
    }
);
