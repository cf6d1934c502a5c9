//! The hook executables: what they share, and one module for each.
#![forbid(unsafe_code)]

pub mod input;
mod poststart;
mod poststop;
mod prestart;
pub mod stage;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{self, Config};
use crate::container::State;
use crate::error::{Cause, Error, Result};
use crate::hook::stage::Stage;
use crate::{counters, logging, record, request, steps, sys, trusted};

/// The options of each hook, for its help and its manual page: name, value, meaning.
pub const OPTIONS: [(&str, Option<&str>, &str); 3] = [
    ("config", Some("FILE"), "Read this configuration instead of the default one"),
    ("version", None, "Print the version"),
    ("help", None, "Print help"),
];

/// What a hook's help says after the options.
#[must_use]
pub fn manner() -> String {
    format!(
        "The container's OCI state is read from standard input. Without --config the configuration is {}.\n\
         `fs-isolator explain CODE` tells what an exit code means.",
        config::DEFAULT_PATH
    )
}

fn help(stage: Stage) -> String {
    let mut text = format!("{}\n\nUsage: {} [OPTIONS]\n\nOptions:\n", stage.purpose(), stage.program());
    for (name, value, meaning) in OPTIONS {
        let option = format!("--{name} {}", value.unwrap_or_default());
        text.push_str(&format!("  {option:<14} {meaning}\n"));
    }
    format!("{text}\n{}", manner())
}

/// Runs a hook: state on standard input, the cause of a failure as exit code.
pub fn main(stage: Stage, words: Vec<OsString>) -> ! {
    sys::exit(run_and_report(stage, words))
}

fn run_and_report(stage: Stage, words: Vec<OsString>) -> u8 {
    let ready = sys::reset_process();
    let config = match arguments(stage, words) {
        Ok(Arguments::Run { config }) => config,
        Ok(Arguments::Print(text)) => {
            println!("{text}");
            return 0;
        }
        Err(error) => {
            // On every path: a runtime that cannot write its state to the end fails on its own.
            let _ = input::read_state();
            return failed(stage, &error);
        }
    };
    match run(stage, ready, config) {
        Ok(()) => 0,
        Err(error) => failed(stage, &error),
    }
}

fn failed(stage: Stage, error: &Error) -> u8 {
    if logging::is_on() {
        logging::refused(error);
    } else {
        // Not through eprintln!, which panics where standard error is closed.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{}: {error}", stage.program());
    }
    error.cause().code()
}

#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    Run { config: Option<PathBuf> },
    Print(String),
}

fn arguments(stage: Stage, words: Vec<OsString>) -> Result<Arguments> {
    let mut config = None;
    let mut arguments = words.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--version") => {
                return Ok(Arguments::Print(format!("{} {}", stage.program(), env!("CARGO_PKG_VERSION"))));
            }
            Some("--help") => {
                return Ok(Arguments::Print(help(stage)));
            }
            Some("--config") if config.is_none() => {
                let file = arguments.next().ok_or_else(|| Error::new(Cause::Usage, "--config needs a file"))?;
                config = Some(PathBuf::from(file));
            }
            _ => return Err(Error::new(Cause::Usage, format!("argument {argument:?} is not understood"))),
        }
    }
    Ok(Arguments::Run { config })
}

fn run(stage: Stage, ready: sys::Result<()>, config: Option<PathBuf>) -> Result<()> {
    steps::begin();
    let unusable = |error: sys::SysError| Error::new(Cause::StateUnreadable, error.to_string());
    let closed = sys::close_inherited();
    // First of all, on every path: `crun delete` dies of SIGPIPE if nobody reads a large state.
    let text = input::read_state();
    closed.map_err(unusable)?;
    ready.map_err(unusable)?;
    steps::done("read");
    trusted::remember();
    let state = State::parse(&text?)?;
    let named = |error: Error| error.container(&state.id);
    let asked = request::is_asked(&state.annotations);
    let config = match Config::load(config.as_deref()) {
        Ok(config) => config,
        // A container that asks for nothing is none of ours, and others' poststop hooks would not run.
        Err(_) if !asked => return Ok(()),
        Err(error) if stage == Stage::Poststart => {
            poststart::end_unchecked(&state);
            return Err(named(error));
        }
        Err(error) => return Err(named(error)),
    };
    if !asked && stage != Stage::Poststop && config.default_container_info.is_none() {
        return Ok(());
    }
    steps::done("config");
    let name = record::name(&state.id, &state.bundle);
    logging::start(stage.program(), &config, &name);
    if let Some(status) = state.status.as_deref()
        && !["creating", "created", "running", "stopped"].contains(&status)
    {
        log::info!("the runtime says the container is {status:?}, which is no status of the runtime-spec");
    }
    let answer = match stage {
        Stage::Prestart => prestart::run(&state, &config, &name),
        Stage::Poststart => poststart::run(&state, &config, &name).inspect_err(|error| {
            // Any other failure: what it has could not be looked at, and crun ignores a failing poststart.
            if error.cause() != Cause::NotAsAsked {
                poststart::end_unchecked(&state);
            }
        }),
        Stage::Poststop => poststop::run(&state.id, &config, &name),
    };
    counters::count(&config, stage, answer.as_ref().err().map(Error::cause), steps::since_begin());
    if answer.is_ok() {
        logging::done(stage == Stage::Poststop);
    }
    answer.map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments> {
        arguments(Stage::Prestart, words.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_command_line() {
        assert_eq!(parse(&[]).unwrap(), Arguments::Run { config: None });
        assert_eq!(parse(&["--config", "/c"]).unwrap(), Arguments::Run { config: Some("/c".into()) });
        assert!(
            matches!(parse(&["--version"]).unwrap(), Arguments::Print(text) if text.starts_with("fs-isolator-prestart "))
        );
        for (name, value, _) in OPTIONS {
            let option = format!("--{name}");
            let words: Vec<&str> = std::iter::once(option.as_str()).chain(value).collect();
            assert!(parse(&words).is_ok(), "{words:?}");
            assert!(help(Stage::Poststop).contains(&option));
        }
        for bad in [&["--config"][..], &["--config", "/a", "--config", "/b"], &["-v"], &["x"]] {
            assert_eq!(parse(bad).unwrap_err().cause(), Cause::Usage);
        }
    }
}
