//! `fs-isolator doctor`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::show;
use crate::doctor::{self, Report};
use crate::error::{Cause, Error, Result};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Look at the hooks.d files of this directory, as podman does with the same option; of several, later ones mask
    /// earlier ones. Without one, of the directories that podman and CRI-O are configured to read
    #[arg(long, value_name = "DIR")]
    hooks_dir: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::Doctor`] after the report, where there are findings.
pub fn run(arguments: &Arguments, config: Option<&Path>, json: bool) -> Result<()> {
    let report = doctor::examine(config, &arguments.hooks_dir);
    if json {
        show::json(&report)?;
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        show::lines(&text(&report, colour))?;
    }
    match report.findings.len() {
        0 => Ok(()),
        1 => Err(Error::new(Cause::Doctor, "1 fault was found")),
        count => Err(Error::new(Cause::Doctor, format!("{count} faults were found"))),
    }
}

fn text(report: &Report, colour: bool) -> Vec<String> {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let mut lines = Vec::new();
    for program in &report.programs {
        let version = program.version.as_deref().unwrap_or("of unknown version");
        lines.push(format!("{} {version} at {}", program.name, program.path.display()));
    }
    for reader in &report.readers {
        let list: Vec<String> = reader.directories.iter().map(|path| path.display().to_string()).collect();
        lines.push(format!("{} reads {}", reader.who, list.join(", ")));
    }
    for finding in &report.findings {
        lines.push(String::new());
        lines.push(format!("{} {}", paint("1;31", finding.check), paint("1", &plain(&finding.what))));
        for (name, text) in [("where", &finding.place), ("why", &finding.why), ("remedy", &finding.remedy)] {
            lines.push(format!("  {name:8}{}", plain(text)));
        }
    }
    if report.findings.is_empty() {
        lines.push(paint("32", "no faults were found"));
    }
    lines
}
