//! `fs-isolator reconcile` and `fs-isolator gc`.
#![forbid(unsafe_code)]

use schemars::JsonSchema;
use serde::Serialize;

use super::show;
use super::volume::Progress;
use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::report::Report;
use crate::{doctor, gc, reconcile};

/// What was done.
#[derive(Serialize, JsonSchema)]
pub struct Done {
    /// A line for each thing.
    done: Vec<String>,
    /// What failed, and what to do about it.
    faults: Vec<String>,
}

/// Runs `reconcile`.
///
/// # Errors
/// [`Cause::UndoIncomplete`] after everything was tried.
pub fn reconcile(config: &Config, json: bool) -> Result<()> {
    let mut report = reconcile::run(config);
    let left = doctor::run::clean(config);
    report.done.extend(left.done);
    report.faults.extend(left.faults);
    print(report, json)
}

/// Runs `gc`.
///
/// # Errors
/// [`Cause::UndoIncomplete`] after everything was tried.
pub fn gc(config: &Config, json: bool) -> Result<()> {
    let mut progress = Progress::new();
    let report = gc::run(config, &mut |count| progress.tell(count));
    progress.end();
    print(report, json)
}

fn print(report: Report, json: bool) -> Result<()> {
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let report = Done { done: report.done, faults };
    if json {
        show::json(&report)?;
    } else {
        show::lines(&report.done)?;
        report.faults.iter().for_each(|fault| eprintln!("fs-isolator: {fault}"));
    }
    match report.faults.len() {
        0 => Ok(()),
        count => Err(Error::new(Cause::UndoIncomplete, format!("{count} of the steps failed"))),
    }
}
