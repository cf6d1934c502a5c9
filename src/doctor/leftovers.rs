//! What `fs-isolator reconcile` would find.
#![forbid(unsafe_code)]

use super::{Check, Finding, run};
use crate::config::Config;
use crate::error::{Because, Cause, Result};
use crate::lease::{Lease, Leases};
use crate::record::Record;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::tree;

/// Looks at records and leases.
pub fn examine(config: &Config, findings: &mut Vec<Finding>) {
    let stale = records(config, findings).unwrap_or_else(|error| {
        findings.push(Finding::of(Check::Record, &error, config.runtime_dir.display()));
        Vec::new()
    });
    match run::leftovers(config) {
        Err(error) if error.cause() == Cause::ConfigUnsafe => {}
        Err(error) => findings.push(Finding::of(Check::RunLeftover, &error, config.work_dir.display())),
        Ok(names) => findings.extend(names.iter().map(|name| {
            Finding::new(Check::RunLeftover, "a doctor was killed", config.work_dir.join("doctor").join(name).display())
                .why("its directory and its volume of the role fs-isolator-doctor take room")
                .remedy("fs-isolator reconcile")
        })),
    }
    match void() {
        // Whatever is wrong with the directory is told with it.
        Err(error) if error.cause() == Cause::ConfigUnsafe => {}
        Err(error) => findings.push(Finding::of(Check::Lease, &error, "leases")),
        // What a record tells goes with it.
        Ok(void) => findings.extend(void.iter().filter(|lease| !stale.contains(&lease.id)).map(|lease| {
            let what = format!("container {} has ended and its lease has not", lease.id);
            Finding::new(Check::VoidLease, what, format!("volume {} ({})", lease.volume, lease.role))
                .why("its hooks never came: the volume is free, and what else they left may stay")
                .remedy("fs-isolator reconcile")
        })),
    }
}

fn void() -> Result<Vec<Lease>> {
    let Some(leases) = Leases::open_existing()? else { return Ok(Vec::new()) };
    let mut void = Vec::new();
    for lease in leases.all()? {
        if !lease.life.may_last()? {
            void.push(lease);
        }
    }
    Ok(void)
}

/// Answers the containers of stale records.
fn records(config: &Config, findings: &mut Vec<Finding>) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    let runtime = match RuntimeDir::open_existing(&config.runtime_dir) {
        Err(error) if error.cause() == Cause::ConfigUnsafe => return Ok(stale),
        answer => answer?,
    };
    let Some(runtime) = runtime else { return Ok(stale) };
    let doing = || "records cannot be listed".to_owned();
    for name in tree::names(&runtime.records).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        let place = config.runtime_dir.join("records").join(&*name);
        // One that is in use is a hook's that works on it.
        let record = match Record::open(&runtime, &name, Open::Idle) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                findings.push(Finding::of(Check::Record, &error, place.display()));
                continue;
            }
        };
        let Some(header) = &record.header else { continue };
        if !header.life.may_last()? {
            stale.push(header.id.clone());
            findings.push(
                Finding::new(
                    Check::StaleRecord,
                    format!("container {} has ended and was not cleaned up", header.id),
                    place.display(),
                )
                .why("its mount points, links and sandbox may be left, and it is shown as a holder")
                .remedy("fs-isolator reconcile"),
            );
        }
    }
    Ok(stale)
}
