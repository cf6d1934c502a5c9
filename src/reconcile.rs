//! Finding containers that are gone, ending what they held and undoing what their hooks left. Safe at any time: what
//! lives, or may live, is left alone, and so is what a hook is working on.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::error::{Because, Cause, Result};
use crate::holders::Holders;
use crate::lease::Leases;
use crate::report::Report;
use crate::runtime_dir::RuntimeDir;
use crate::{tree, undo};

/// Reconciles everything.
#[must_use]
pub fn run(config: &Config) -> Report {
    let mut report = Report::default();
    match RuntimeDir::open_existing(&config.runtime_dir) {
        Err(fault) => report.faults.push(fault),
        Ok(None) => {}
        Ok(Some(runtime)) => {
            if let Err(fault) = records(&runtime, config, &mut report) {
                report.faults.push(fault);
            }
            report.add(mount_points(&runtime));
        }
    }
    match Leases::open_existing() {
        Err(fault) => report.faults.push(fault),
        Ok(None) => {}
        Ok(Some(leases)) => leases.remove_void(&mut report),
    }
    report
}

fn records(runtime: &RuntimeDir, config: &Config, report: &mut Report) -> Result<()> {
    let doing = || "records cannot be listed".to_owned();
    for name in tree::names(&runtime.records).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        match undo::reap_one(runtime, &name, config, true) {
            Ok(true) => report.done.push(format!("undid what was left of container record {name}")),
            Ok(false) => {}
            Err(faults) => report.faults.extend(faults.into_iter().map(|fault| fault.container(&name))),
        }
    }
    Ok(())
}

/// Mount points that nobody with a record holds are nobody's any more.
fn mount_points(runtime: &RuntimeDir) -> Result<Vec<String>> {
    let doing = || "mount points cannot be listed".to_owned();
    let mut forgotten = Vec::new();
    for name in tree::names(runtime.mount_points()?).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        let Some(holders) = Holders::open(runtime.mount_points()?, &name)? else { continue };
        if !holders.others(&runtime.records, "")? {
            holders.remove(runtime.mount_points()?)?;
            forgotten.push(format!("forgot mount point {name}, which nobody holds"));
        }
    }
    Ok(forgotten)
}
