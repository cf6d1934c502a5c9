//! Garbage collection: sandboxes of containers that are long gone, old logs, and what destructions and makings that
//! were killed have left. Volumes are never collected.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;

use crate::clock;
use crate::config::Config;
use crate::config::disks::Kind;
use crate::container::Manager;
use crate::error::{Because, Cause, Result};
use crate::lease::Leases;
use crate::reconcile;
use crate::record;
use crate::report::Report;
use crate::request::names::RESERVED;
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};
use crate::volume::{self, DiskChoice, Disks, destroy, gids};
use crate::{logging, sandbox, tree};

/// Mesos's `gc_disk_headroom`: what is in use counts for so much more (mesos.md GC2).
const HEADROOM: f64 = 0.1;

/// A making that nobody has touched for so many seconds is nobody's.
const ABANDONED: u64 = 3600;

/// For so many seconds a log stays after its last line: on crun it is the only place that says why.
const LOGS: u64 = 86_400;

/// For how many seconds a sandbox is kept, when this much of the disk is in use (mesos.md GC2).
#[must_use]
pub fn longest_age(retention: u64, usage: f64) -> u64 {
    (retention as f64 * (1.0 - HEADROOM - usage).max(0.0)) as u64
}

/// Collects. `tell` hears how many files are gone.
#[must_use]
pub fn run(config: &Config, tell: &mut dyn FnMut(u64)) -> Report {
    let mut report = reconcile::run(config);
    let disks = Disks::new(config);
    let leases = match disks.refuse_agent().and_then(|()| Leases::open()) {
        Ok(leases) => leases,
        Err(refused) => {
            report.faults.push(refused);
            return report;
        }
    };
    for name in disks.names(&DiskChoice::Any) {
        match disks.get(name, Missing::Tell) {
            Ok(Some(disk)) => {
                destroy::finish(&disk, &leases, tell, &mut report);
                if disk.kind() != Kind::Mount {
                    report.add(abandoned(&disk));
                }
            }
            Ok(None) => {}
            // A disk that is not there has nothing to be collected.
            Err(error) if error.cause() == Cause::DiskUnavailable => {}
            Err(error) => report.faults.push(error),
        }
    }
    report.add(gids::release_gone(&disks, ABANDONED).map(|done| said("freed", done)));
    if let Err(fault) = sandboxes(config, &disks, &leases, tell, &mut report) {
        report.faults.push(fault);
    }
    report.add(logging::collect(config, LOGS).map(|done| said("removed the log of", done)));
    report
}

fn said(what: &str, done: Vec<String>) -> Vec<String> {
    done.into_iter().map(|one| format!("{what} {one}")).collect()
}

/// What an import that was killed has left. One that goes on holds its lock.
fn remove_import(folder: &trusted::Directory, name: &str) -> sys::Result<bool> {
    let directory = sys::open_dir(folder, Path::new(name), Resolve::BeneathNoLinksNoMounts)?;
    match sys::lock(&directory, false) {
        Err(error) if error.errno == Errno::EWOULDBLOCK => Ok(false),
        answer => answer.and_then(|()| tree::remove(folder, OsStr::new(name))).map(|()| true),
    }
}

/// Volumes that were being made when their maker was killed: empty directories with a name of ours, and imports.
fn abandoned(disk: &volume::Disk) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for role in disk.roles()? {
        let Some(folder) = disk.open_role(&role, Missing::Tell)? else { continue };
        for name in volume::remainders(&folder)? {
            if name.strip_prefix(RESERVED).is_some_and(|rest| rest.starts_with(volume::IMPORTED)) {
                let doing = || format!("{name} of role {role}");
                if remove_import(&folder, &name).because(Cause::UndoIncomplete, doing)? {
                    removed.push(format!("removed {name} of role {role}, an import that was not finished"));
                }
                continue;
            }
            let old = sys::open_dir(&folder, Path::new(&name), Resolve::BeneathNoLinksNoMounts).and_then(sys::modified);
            if old.is_ok_and(|modified| is_older(modified, ABANDONED))
                && sys::unlink_at(&folder, OsStr::new(&name), true).is_ok()
            {
                removed.push(format!("removed {name} of role {role}, which was never finished"));
            }
        }
    }
    Ok(removed)
}

fn is_older(modified: i64, seconds: u64) -> bool {
    u64::try_from(modified).unwrap_or(0).saturating_add(seconds) <= clock::now()
}

/// Sandboxes that hooks made. Those that were made by hand are their maker's.
fn sandboxes(
    config: &Config,
    disks: &Disks<'_>,
    leases: &Leases,
    tell: &mut dyn FnMut(u64),
    report: &mut Report,
) -> Result<()> {
    let Some(work_dir) = disks.work_dir(Missing::Tell)? else { return Ok(()) };
    let doing = || "sandboxes cannot be looked at".to_owned();
    let usage = sys::usage(work_dir.fd()).because(Cause::Sandbox, doing)?;
    let longest = longest_age(config.sandbox_retention, usage);
    for manager in Manager::ALL {
        let names = ["sandboxes", manager.name()];
        let Some(place) = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &names, Missing::Tell)? else {
            continue;
        };
        let folder = sys::open_dir(&place, Path::new("."), Resolve::BeneathNoLinks).because(Cause::Sandbox, doing)?;
        for name in tree::names(&folder).because(Cause::Sandbox, doing)? {
            let name = name.to_string_lossy();
            let removed = collect(&folder, &name, longest, leases, tell);
            report.add(removed.map(|removed| match removed {
                true => vec![format!("removed the sandbox {name} of {manager}")],
                false => Vec::new(),
            }));
        }
    }
    Ok(())
}

/// Removes a sandbox, unless it is young, a container has it, or no hook has made it.
fn collect(folder: &OwnedFd, name: &str, longest: u64, leases: &Leases, tell: &mut dyn FnMut(u64)) -> Result<bool> {
    let doing = || format!("the sandbox {name} cannot be removed");
    if name.starts_with(&format!("{RESERVED}{}", sandbox::GONE)) {
        return tree::remove_counting(folder, OsStr::new(name), tell).because(Cause::Sandbox, doing).map(|()| true);
    }
    if !record::is_name(name) {
        return Ok(false);
    }
    let fd = sys::open_dir(folder, Path::new(name), Resolve::BeneathNoLinksNoMounts).because(Cause::Sandbox, doing)?;
    let modified = sys::modified(&fd).because(Cause::Sandbox, doing)?;
    if !is_older(modified, longest) {
        return Ok(false);
    }
    drop(fd);
    sandbox::remove_unheld(folder, name, leases, tell)
}

#[cfg(test)]
mod tests {
    use super::*;

    // mesos.md GC2.
    #[test]
    fn the_fuller_the_disk_the_sooner() {
        let week = 604_800;
        assert_eq!(longest_age(week, 0.0), 544_320);
        assert_eq!(longest_age(week, 0.4), week / 2);
        assert_eq!((longest_age(week, 0.9), longest_age(week, 1.0), longest_age(0, 0.0)), (0, 0, 0));
    }
}
