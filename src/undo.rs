//! Undoing what a record says: after a failed prestart, at poststop, and when a dead container is reaped.
//!
//! Everything is tried, whatever fails on the way; only when nothing failed is the record removed.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::lease::{self, Leases};
use crate::mountpoint;
use crate::record::{self, Base, Line, Place, Record, Within};
use crate::request::names::Role;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sandbox;
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};
use crate::volume::{Disks, make};

/// Most records of other containers that one poststop undoes.
const REAPED_AT_MOST: usize = 2;

/// Most records of other containers that one poststop looks at.
const LOOKED_AT: usize = 4;

/// Most names of records that one poststop reads to choose from.
const NAMES: usize = 64;

/// Undoes a record and removes it. The container it is about must have ended, or must not have started.
///
/// # Errors
/// One for each thing that could not be undone; the record is kept then.
pub fn undo(runtime: &RuntimeDir, record: Record, config: &Config) -> std::result::Result<(), Vec<Error>> {
    let mut errors = undo_lines(runtime, &record, 0, config);
    if errors.is_empty()
        && let Err(error) = record.remove(runtime)
    {
        errors.push(error);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Undoes what a failed attach to a running container has added to its record, from this line on. The record goes on
/// without that; where something could not be undone it stays in it, and whoever comes next tries again.
pub fn undo_from(runtime: &RuntimeDir, record: &mut Record, from: usize, config: &Config) -> Vec<Error> {
    let mut errors = undo_lines(runtime, record, from, config);
    if errors.is_empty()
        && let Err(error) = record.forget_from(runtime, from)
    {
        errors.push(error);
    }
    errors
}

fn undo_lines(runtime: &RuntimeDir, record: &Record, from: usize, config: &Config) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut keep = |answer: Result<()>| {
        if let Err(error) = answer {
            errors.push(error);
        }
    };
    let Some(header) = &record.header else { return errors };
    let (before, lines) = record.lines.split_at(from.min(record.lines.len()));
    let done = lines.iter().any(|line| matches!(line, Line::Done { .. }));
    let path = record.lines.iter().find_map(|line| match line {
        Line::Sandbox { path, .. } => Some(path),
        _ => None,
    });
    let (root, sandbox) = match (open_base(&header.root), path.map_or(Ok(None), |path| open_sandbox(path))) {
        (Ok(root), Ok(sandbox)) => (root, sandbox),
        // What was made there may still be there: nothing is forgotten.
        (root, sandbox) => {
            keep(root.map(drop));
            keep(sandbox.map(drop));
            return errors;
        }
    };
    let base = |within: Within| match within {
        Within::Root => root.as_ref(),
        Within::Sandbox => sandbox.as_ref(),
    };
    // What is still there, and with it all above: that is not given up because it is not empty.
    let mut stays: Vec<&Place> = Vec::new();
    for line in lines.iter().rev() {
        match line {
            Line::Making { place, temporary } => {
                if let Some(base) = base(place.within) {
                    let removed = mountpoint::remove_temporary(base, place, temporary);
                    stays.extend(removed.is_err().then_some(place));
                    keep(removed);
                }
            }
            Line::Made { place, .. } | Line::Hold { place, .. } if stays.iter().any(|other| other.is_below(place)) => {}
            Line::Made { place, file, .. } | Line::Hold { place, file } => {
                let released = mountpoint::release(runtime, base(place.within), &record.name, place, *file);
                stays.extend(released.is_err().then_some(place));
                keep(released);
            }
            Line::MakingVolume { disk, role, temporary } => keep(discard_volume(config, disk, role, temporary)),
            // What was held before is held on, as it was: exclusively only if it was before.
            Line::Lease { volume } if before.contains(line) => {
                if record.attachments().is_some_and(|attached| record::is_shared(attached, *volume)) {
                    keep(lease::share(*volume, &record.name, &header.life.init));
                }
            }
            Line::Lease { volume } => keep(lease::release(*volume, &record.name, &header.life.init)),
            // Announced before anything is made in it, so it comes after all of that here.
            Line::Sandbox { path, made, remove_at_stop } => {
                let goes = if done { *remove_at_stop } else { *made };
                if goes { keep(sandbox::remove(Path::new(path))) } else { touch(Path::new(path)) }
            }
            // This container's lease was given up above; others of the pod may have it still. Whoever made it, others may
            // have put something into it since.
            Line::PodSandbox { path, remove_at_stop: true } => keep(remove_unheld(Path::new(path))),
            Line::PodSandbox { path, .. } => touch(Path::new(path)),
            // Mounts end with their namespace; in one that lives, whoever begins the next command has taken them out.
            Line::Attaching { .. } | Line::Detaching { .. } | Line::Lingers { .. } => {}
            Line::GivenUp { .. } | Line::Done { .. } => {}
        }
    }
    errors
}

fn remove_unheld(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let Some(folder) = trusted::open_dir(parent, Missing::Tell)? else { return Ok(()) };
    sandbox::remove_unheld(&folder, &name.to_string_lossy(), &Leases::open()?, &mut |_| {}).map(drop)
}

/// The age of a sandbox counts from now on, as Mesos counts it (mesos.md GC1).
fn touch(sandbox: &Path) {
    if let Ok(fd) = sys::open_dir(sys::cwd(), sandbox, Resolve::NoLinks) {
        let _ = sys::touch(&fd);
    }
}

/// Opens a directory of the record, if it is still the same one: a root filesystem may be unmounted by now.
fn open_base(base: &Base) -> Result<Option<OwnedFd>> {
    let doing = || base.path.clone();
    let fd = sys::if_there(sys::open_place(sys::cwd(), Path::new(&base.path), Resolve::NoMagic));
    let Some(fd) = fd.because(Cause::UndoIncomplete, doing)? else { return Ok(None) };
    let is_it = sys::stat(&fd).because(Cause::UndoIncomplete, doing)?.id == base.id;
    Ok(is_it.then_some(fd))
}

fn open_sandbox(path: &str) -> Result<Option<OwnedFd>> {
    sys::if_there(sys::open_place(sys::cwd(), Path::new(path), Resolve::NoLinks))
        .because(Cause::UndoIncomplete, || path.to_owned())
}

fn discard_volume(config: &Config, disk: &str, role: &Role, temporary: &str) -> Result<()> {
    match Disks::new(config).get(disk, Missing::Tell) {
        Ok(None) => Ok(()),
        Ok(Some(disk)) => make::discard(&disk, role, temporary),
        // An empty directory stays on a disk that is no longer the configuration's.
        Err(error) if error.cause() == Cause::DiskUnknown => Ok(()),
        Err(error) => Err(error),
    }
}

/// Undoes the records of at most two containers that are gone and whose poststop never came (crun after a failed
/// create, podman after a missing command). What fails is only logged: it is not this container's fault. A record that
/// would take a used sandbox with it is left to its own hooks, since that may take longer than a hook may.
pub fn reap(runtime: &RuntimeDir, own_name: &str, config: &Config) {
    let names = match crate::tree::some_names(&runtime.records, NAMES) {
        Ok(names) => names,
        Err(error) => return log::warn!("records cannot be listed: {error}"),
    };
    let mut reaped = 0;
    // Another beginning each time.
    let start = usize::try_from(std::process::id()).unwrap_or(0) % names.len().max(1);
    for name in names.iter().cycle().skip(start).take(LOOKED_AT.min(names.len())) {
        let Some(name) = name.to_str().filter(|name| *name != own_name) else { continue };
        match reap_one(runtime, name, config, false) {
            Ok(true) => {
                log::info!("undid what was left of container record {name}");
                reaped += 1;
                if reaped == REAPED_AT_MOST {
                    return;
                }
            }
            Ok(false) => {}
            Err(errors) => errors.iter().for_each(|error| log::warn!("record {name}: {error}")),
        }
    }
}

/// Undoes one record if its container is gone and no hook is at it, and one that removes a used sandbox only if asked to.
///
/// # Errors
/// As [`undo`].
pub fn reap_one(
    runtime: &RuntimeDir,
    name: &str,
    config: &Config,
    with_sandbox: bool,
) -> std::result::Result<bool, Vec<Error>> {
    let one = |error: Error| vec![error];
    let Some(record) = Record::open(runtime, name, Open::Idle).map_err(one)? else { return Ok(false) };
    if let Some(header) = &record.header
        && (header.life.may_last().map_err(one)? || (record.removes_sandbox() && !with_sandbox))
    {
        return Ok(false);
    }
    record.mark_reaped();
    undo(runtime, record, config).map(|()| true)
}
