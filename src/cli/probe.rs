//! What `doctor --run` has others call: the program in its container, and a clock around each hook.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, exit};
use std::time::Instant;

use clap::Args;

use crate::error::{Because, Cause, Result};

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// What the host wrote into the volume
    pub nonce: String,
}

/// Arguments of `time-hook`.
#[derive(Debug, Args)]
pub struct TimeHook {
    /// The file for the microseconds
    file: PathBuf,
    /// The hook and its arguments
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the hook with this process's standard input, and ends as it does.
///
/// # Errors
/// [`Cause::Doctor`] where the time cannot be written down.
pub fn time(arguments: &TimeHook) -> Result<()> {
    let [program, words @ ..] = &arguments.command[..] else { return Ok(()) };
    let begin = Instant::now();
    let ended = Command::new(program).args(words).status();
    let took = begin.elapsed().as_micros();
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{}: {error}", program.to_string_lossy());
            exit(127);
        }
    };
    super::show::file(&arguments.file, &took.to_string())
        .because(Cause::Doctor, || arguments.file.display().to_string())?;
    match status.code() {
        Some(0) => Ok(()),
        code => exit(code.unwrap_or(1)),
    }
}
