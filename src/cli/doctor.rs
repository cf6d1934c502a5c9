//! `fs-isolator doctor`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::show;
use crate::doctor::run::Proof;
use crate::doctor::{self, Report};
use crate::error::{Cause, Error, Result};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Look at the hooks.d files of this directory, as podman does with the same option; of several, later ones mask
    /// earlier ones. Without one, of the directories that podman and CRI-O are configured to read
    #[arg(long, value_name = "DIR")]
    hooks_dir: Vec<PathBuf>,
    /// Prove it: run a throw-away container with a volume under each of runc and crun, and by podman, and remove both
    #[arg(long)]
    run: bool,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::Doctor`] after the report, where there are findings.
pub fn run(arguments: &Arguments, config: Option<&Path>, json: bool) -> Result<()> {
    let report = doctor::examine(config, &arguments.hooks_dir, arguments.run)?;
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
    let mut lines = Vec::new();
    for program in &report.programs {
        let version = program.version.as_deref().unwrap_or("of unknown version");
        lines.push(format!("{} {version} at {}", program.name, program.path.display()));
    }
    for reader in &report.readers {
        let list: Vec<String> = reader.directories.iter().map(|path| path.display().to_string()).collect();
        lines.push(format!("{} reads {}", reader.who, list.join(", ")));
    }
    if !report.proofs.is_empty() {
        lines.push(String::new());
        lines.extend(proofs(&report.proofs));
    }
    for finding in &report.findings {
        lines.push(String::new());
        lines.push(format!("{} {}", paint("1;31", finding.check.name()), paint("1", &show::plain(&finding.what))));
        for (name, text) in [("where", &finding.place), ("why", &finding.why), ("remedy", &finding.remedy)] {
            lines.push(format!("  {name:8}{}", show::plain(text)));
        }
    }
    if report.findings.is_empty() {
        lines.push(paint("32", "no faults were found"));
    }
    lines
}

fn proofs(proofs: &[Proof]) -> Vec<String> {
    let seen = |answer: Option<bool>| answer.map_or("-", |yes| if yes { "yes" } else { "NO" }).to_owned();
    let time = |microseconds: Option<u64>| {
        microseconds.map_or_else(|| "-".to_owned(), |us| format!("{}.{} ms", us / 1000, us % 1000 / 100))
    };
    let rows: Vec<[String; 9]> = proofs
        .iter()
        .map(|proof| {
            [
                proof.by.to_owned(),
                seen(proof.volume),
                seen(proof.slave),
                seen(proof.contained),
                seen(proof.freed),
                proof.start_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
                time(proof.prestart_us),
                time(proof.poststart_us),
                time(proof.poststop_us),
            ]
        })
        .collect();
    let headings = ["RUN", "VOLUME", "SLAVE", "CONTAINED", "FREED", "START", "PRESTART", "POSTSTART", "POSTSTOP"];
    show::columns(headings, &rows)
}
