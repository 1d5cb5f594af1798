//! Lists the tensors of a checkpoint and writes the largest one to a file.
//!
//! `cargo run -p slackline-checkpoint --example tensors [CHECKPOINT [OUTPUT]]`; without arguments it reads a small `.pt` of
//! the tests.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use slackline_checkpoint::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/fields.pt").to_owned());
    let output = args.next().map_or_else(|| std::env::temp_dir().join("largest.raw"), Into::into);

    let checkpoint = Checkpoint::open(&path)?;
    println!("{path}: {}", checkpoint.format());
    for (name, tensor) in checkpoint.tensors() {
        println!("  {name:<14} {:<5} {:?}, {} bytes", tensor.dtype.to_string(), tensor.shape, tensor.bytes);
    }
    println!("not tensors: {}", checkpoint.skipped().join(", "));

    // A tensor of any size goes through one buffer of 1 MiB.
    let readable = checkpoint.tensors().iter().filter(|(_, tensor)| tensor.dtype.size().is_some());
    let Some((name, _)) = readable.max_by_key(|(_, tensor)| tensor.bytes) else { return Ok(()) };
    let mut file = File::create(&output)?;
    checkpoint.stream(name, 1 << 20, |chunk| file.write_all(chunk))?;
    println!("wrote {name} to {}, {} bytes", output.display(), file.metadata()?.len());
    Ok(())
}
