//! The command line: arguments, wiring of the layers, and reports.
//!
//! All computation is in the layers below, used through their public interfaces.
#![forbid(unsafe_code)]

mod args;
mod convert_input;
mod fail;
mod infer;
mod inspect;
mod metrics;
mod model;
mod output;
mod paths;
mod placement;
mod progress;
mod signals;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use slackline_dlrm::Printable;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            fail::say(&format!("slackline: {}", error.render()));
            return ExitCode::from(fail::USAGE);
        }
        // Help and version.
        Err(error) => return ended(print(&error.render().to_string()).map(|()| fail::OK)),
    };
    if !cli.command.joins_mpi()
        && let Err(error) = guard(infer::is_rank_process())
    {
        return ended(Err(error));
    }
    ended(match cli.command {
        Command::Import(args) => model::import(&args),
        Command::Convert(args) => model::convert(&args),
        Command::Init(args) => model::init(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Profile(args) => placement::profile(&args),
        Command::Plan(args) => placement::plan(&args),
        Command::Infer(args) => infer::run(&args),
        Command::ConvertInput(args) => convert_input::run(&args),
        Command::Generate(args) => model::generate(&args),
    })
}

/// Makes a table file that is truncated during a run an error instead of SIGBUS, and so signals that would end the command.
/// Called before anything is mapped, but after MPI, which may have handlers of its own, is initialised. `is_rank`: whether a
/// launcher has started this process.
fn guard(is_rank: bool) -> Result<()> {
    slackline_embedding::guard::install()?;
    signals::listen(is_rank)
}

fn ended(result: Result<u8>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|error| {
        fail::tell(&fail::one_line(&error));
        fail::code_of(&error)
    }))
}

/// A JSON object as text, in which what a terminal would obey is escaped as in JSON.
fn json_text(object: &serde_json::Value) -> String {
    let mut text = String::new();
    for character in format!("{object:#}").chars() {
        // Outside of strings, there is only white space of ASCII.
        if character != '\n' && Printable::is_unprintable(character) {
            let mut units = [0; 2];
            character.encode_utf16(&mut units).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        } else {
            text.push(character);
        }
    }
    text + "\n"
}

/// Writes to standard output, with everything but line ends escaped that a terminal would obey. A reader that closes the pipe,
/// such as `head`, is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(Printable::lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
