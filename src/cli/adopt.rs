//! `fs-isolator adopt`: what stands in the way of using a Mesos agent's `work_dir` in place (mesos.md B5).
//!
//! It looks, and with `--detach` detaches leftover mounts. It never moves, chowns or writes anything.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::show;
use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::mesos::checkpoint::{Checkpoint, Volume};
use crate::mesos::place::{lies_at, missing, place};
use crate::mesos::{agent, checkpoint, leftovers};
use crate::trusted::Missing;
use crate::volume::{self, Disk, Disks};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Detach the mounts that the agent left in its sandboxes
    #[arg(long)]
    detach: bool,
}

/// What was found.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// The directory that was looked at.
    work_dir: PathBuf,
    /// The file that tells the agent's volumes.
    checkpoint: Option<String>,
    /// The volumes that it tells of.
    volumes: Vec<Volume>,
    /// Mounts that were detached, by their mount points.
    detached: Vec<PathBuf>,
    /// What stands in the way.
    in_the_way: Vec<Finding>,
}

/// One thing that stands in the way.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Finding {
    /// Which kind of finding it is.
    kind: Kind,
    /// What it is about: mostly a path.
    on: String,
    /// What there is to know.
    what: String,
}

/// Kinds of findings, as they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A mount in a sandbox.
    Mount,
    /// A change that the agent may have carried out in part.
    Pending,
    /// A record in the checkpoint that can be no volume.
    Fault,
    /// A volume of the checkpoint that cannot be reached.
    Missing,
    /// A directory that the checkpoint does not know.
    Unlisted,
    /// A volume that other users of this host can reach.
    Reachable,
    /// A directory that has a group id of the agent's range.
    Gid,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Mount => "mount",
            Kind::Pending => "pending",
            Kind::Fault => "fault",
            Kind::Missing => "missing",
            Kind::Unlisted => "unlisted",
            Kind::Reachable => "reachable",
            Kind::Gid => "gid",
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::MesosAgent`] where an agent is running; after the report [`Cause::MesosCheckpoint`] for a checkpoint that
/// cannot be read, and [`Cause::MountPointUnsafe`] for a mount that was to be detached and was not.
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let disks = Disks::new(config);
    let work_dir = disks.work_dir(Missing::Tell)?.ok_or_else(|| {
        Error::new(Cause::ConfigInvalid, format!("work_dir {} does not exist", config.work_dir.display()))
            .remedy("write the real path of the agent's --work_dir into the configuration")
    })?;
    agent::refuse(work_dir.fd(), work_dir.path())?;
    let mut survey = Survey { work_dir: &work_dir, in_the_way: Vec::new(), failure: None };
    let detached = survey.mounts(arguments.detach)?;
    let known = checkpoint::read(work_dir.fd());
    let known = survey.unless_failed(known).flatten();
    survey.directories(&disks, known.as_ref())?;
    let gids = checkpoint::gids(work_dir.fd());
    for (path, gid) in survey.unless_failed(gids).unwrap_or_default() {
        survey.add(Kind::Gid, path.display().to_string(), format!("the agent has given it the group id {gid}"));
    }
    let (source, volumes) = known.map_or((None, Vec::new()), |known| (Some(known.source), known.volumes));
    print(
        &Report {
            work_dir: work_dir.path().to_owned(),
            checkpoint: source,
            volumes,
            detached,
            in_the_way: survey.in_the_way,
        },
        json,
    )?;
    survey.failure.map_or(Ok(()), Err)
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        return show::json(report);
    }
    let work_dir = report.work_dir.display();
    let mut lines = vec![match &report.checkpoint {
        Some(source) => format!("{work_dir}: {} volumes in {source}", report.volumes.len()),
        None => format!("{work_dir}: no checkpoint of a Mesos agent"),
    }];
    lines.extend(report.detached.iter().map(|path| format!("detached {}", path.display())));
    if report.in_the_way.is_empty() {
        lines.push("nothing stands in the way".to_owned());
        return show::lines(&lines);
    }
    // Not columns: paths are long, and are to be copied whole.
    for finding in &report.in_the_way {
        lines.push(format!("{:<10} {}", finding.kind.name(), finding.on));
        lines.push(format!("           {}", finding.what));
    }
    show::lines(&lines)
}

/// A look at a `work_dir`.
#[derive(Debug)]
struct Survey<'a> {
    work_dir: &'a Disk,
    in_the_way: Vec<Finding>,
    /// What to end with once everything is reported.
    failure: Option<Error>,
}

impl Survey<'_> {
    fn add(&mut self, kind: Kind, on: impl Into<String>, what: impl Into<String>) {
        self.in_the_way.push(Finding { kind, on: on.into(), what: what.into() });
    }

    /// Keeps the first failure for the end, so that the rest is looked at all the same.
    fn unless_failed<T>(&mut self, answer: Result<T>) -> Option<T> {
        answer.map_err(|error| self.failure.get_or_insert(error)).ok()
    }

    /// Leftover mounts; answers those that were detached.
    fn mounts(&mut self, detach: bool) -> Result<Vec<PathBuf>> {
        let mut detached = Vec::new();
        loop {
            let found = leftovers::find(self.work_dir.fd())?;
            if !detach {
                for leftover in found {
                    self.add(Kind::Mount, leftover.mount_point.display().to_string(), "left over; see --detach");
                }
                return Ok(detached);
            }
            let before = detached.len();
            let mut failed = Vec::new();
            for leftover in found {
                match leftovers::detach(&leftover) {
                    Ok(()) => detached.push(leftover.mount_point),
                    Err(error) => failed.push((leftover, error)),
                }
            }
            // One that was covered by another can be reached once that is gone.
            if failed.is_empty() || detached.len() == before {
                for (leftover, error) in failed {
                    self.add(Kind::Mount, leftover.mount_point.display().to_string(), error.what());
                    self.failure.get_or_insert(error);
                }
                return Ok(detached);
            }
        }
    }

    /// Volumes on disk against those in the checkpoint.
    fn directories(&mut self, disks: &Disks<'_>, known: Option<&Checkpoint>) -> Result<()> {
        let (listed, faults) = volume::list(disks)?;
        for fault in faults {
            self.add(Kind::Fault, "disks", fault.what());
        }
        if let Some(known) = known {
            for fault in &known.faults {
                self.add(Kind::Fault, known.source.clone(), fault.clone());
            }
            if let Some(pending) = &known.pending {
                self.add(Kind::Pending, pending.source.clone(), "the agent has not finished this change");
                for (volumes, what) in [(&pending.created, "is to be made"), (&pending.destroyed, "is to be deleted")] {
                    for volume in volumes {
                        self.add(Kind::Pending, place(self.work_dir, volume), what);
                    }
                }
            }
            for volume in &known.volumes {
                if let Some(what) = missing(self.work_dir, &listed, volume) {
                    self.add(Kind::Missing, place(self.work_dir, volume), what);
                }
            }
            for directory in
                listed.iter().filter(|directory| !known.volumes.iter().any(|v| lies_at(self.work_dir, v, directory)))
            {
                self.add(Kind::Unlisted, directory.path().display().to_string(), "no volume of the checkpoint");
            }
        }
        for directory in &listed {
            if directory.is_reachable()? {
                let what = format!("mode {:04o}: other users of this host can reach it", directory.stat.permissions());
                self.add(Kind::Reachable, directory.path().display().to_string(), what);
            }
        }
        Ok(())
    }
}
