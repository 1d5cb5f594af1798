//! `slackline convert-input`: an input in another format.

use anyhow::Result;
use serde_json::json;
use slackline_data::{Converted, convert_input};
use slackline_dlrm::ModelDirectory;

use crate::args::ConvertInputArgs;
use crate::progress::{Progress, bytes};
use crate::{fail, paths, print};

/// Runs the command.
pub(crate) fn run(args: &ConvertInputArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, [args.model.as_path(), &args.input].into_iter())?;
    let directory = ModelDirectory::open(&args.model)?;
    let config = directory.config();
    let options = args.reading.options(config.preprocessing());
    let mut progress = Progress::new("convert-input");
    let shape = config.input_shape();
    let converted = convert_input(&args.input, &options, &shape, args.to, &args.output, &mut |done, total| {
        progress.share(done, total, "samples");
    })?;
    drop(progress);
    print(&if args.json { to_json(args, &converted) } else { to_text(args, &converted) })?;
    Ok(fail::OK)
}

fn to_text(args: &ConvertInputArgs, converted: &Converted) -> String {
    let Converted { files, from, samples, resumed, transforms, .. } = converted;
    let (dense, sparse) = (transforms.dense, transforms.sparse);
    let mut text = format!("{samples} samples of {} ({from}) as {}\n", args.input.display(), args.to);
    text += &format!("dense features: {dense}, {}; categories: {sparse}, {}\n", dense.formula(), sparse.rule());
    if *resumed > 0 {
        text += &format!("resumed a conversion that had written {resumed} samples\n");
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    text + &format!("wrote {}: {}\n", names.join(", "), bytes(converted.bytes))
}

fn to_json(args: &ConvertInputArgs, converted: &Converted) -> String {
    let object = json!({
        "model": args.model,
        "input": args.input,
        "from": converted.from.to_string(),
        "to": args.to.to_string(),
        "samples": converted.samples,
        "resumed_samples": converted.resumed,
        "dense_transform": converted.transforms.dense.to_string(),
        "sparse_transform": converted.transforms.sparse.to_string(),
        "files": converted.files,
        "bytes": converted.bytes,
    });
    format!("{object:#}\n")
}
