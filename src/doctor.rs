//! A look at the host: what keeps containers from getting their volumes, or lets others reach them. Each check tells what
//! it found, where, why that matters and what mends it. Nothing is changed.
#![forbid(unsafe_code)]

mod bundles;
pub mod check;
mod hooks_d;
mod kernel;
mod leftovers;
mod readers;
pub mod run;
pub(crate) mod runtimes;
mod storage;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result, shell_word};
pub use check::Check;
use readers::Reader;
use run::Proof;
use runtimes::Program;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Finding {
    /// Name of the check.
    #[schemars(with = "String", extend("enum" = Check::ALL.iter().map(|check| check.name()).collect::<Vec<_>>()))]
    pub check: Check,
    /// What was found.
    pub what: String,
    /// Where: mostly a path.
    #[serde(rename = "where")]
    pub place: String,
    /// Why it matters.
    pub why: String,
    /// What to do about it; a command where there is one.
    pub remedy: String,
}

impl Finding {
    fn new(check: Check, what: impl Into<String>, place: impl ToString) -> Finding {
        let (what, place) = (what.into(), place.to_string());
        Finding { check, what, place, why: String::new(), remedy: String::new() }
    }

    fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = why.into();
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = remedy.into();
        self
    }

    /// What a hook would refuse, in the hook's words.
    fn of(check: Check, error: &Error, place: impl ToString) -> Finding {
        let why = format!("containers are refused with exit code {}: {}", error.cause().code(), error.cause().title());
        Finding::new(check, error.what(), place).why(why).remedy(error.how())
    }
}

/// What was looked at, and what was found.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// Runtimes and managers that are installed.
    pub programs: Vec<Program>,
    /// Who reads which hooks.d directories.
    pub readers: Vec<Reader>,
    /// What was seen with throw-away containers, where that was asked for.
    pub proofs: Vec<Proof>,
    /// Faults; none on a host that is well.
    pub findings: Vec<Finding>,
}

/// Examines this host. `file` is the configuration if not the default one; `directories` are those of hooks.d files that
/// count, if not those of podman's and CRI-O's configuration. `prove` runs throw-away containers too.
///
/// # Errors
/// As [`run::run`].
pub fn examine(file: Option<&Path>, directories: &[PathBuf], prove: bool) -> Result<Report> {
    let mut findings = Vec::new();
    let loaded = Config::load(file);
    if let Err(error) = &loaded {
        findings.push(Finding::of(Check::Configuration, error, shown(file)));
    }
    let config = loaded.as_ref().ok();
    let programs = runtimes::find();
    let readers = readers::find(&programs, directories, &mut findings);
    let hooks = hooks_d::examine(&readers, file, config, &mut findings);
    runtimes::examine(&programs, &hooks, config, &mut findings);
    kernel::examine(&mut findings);
    if let Some(config) = config {
        storage::examine(config, &mut findings);
        bundles::examine(config, &mut findings);
        leftovers::examine(config, &mut findings);
    }
    let proofs = match loaded {
        Ok(config) if prove => run::run(file, &config, &programs, &hooks, directories, &mut findings)?,
        _ => Vec::new(),
    };
    Ok(Report { programs, readers, proofs, findings })
}

fn shown(file: Option<&Path>) -> String {
    file.map_or_else(|| crate::config::default_path(crate::me::me()), Path::to_owned).display().to_string()
}

/// A path as a word of a command.
fn word(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}
