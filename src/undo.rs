//! Undoing what a record says: after a failed prestart, at poststop, and when a dead container is reaped.
//!
//! Everything is tried, whatever fails on the way; only when nothing failed is the record removed.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::{Error, Result};
use crate::mountpoint;
use crate::record::{Base, Line, Record, Within};
use crate::request::names::Role;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sandbox;
use crate::sys::{self, Resolve};
use crate::trusted::Missing;
use crate::volume::Store;

/// Most records of other containers that one prestart undoes.
const REAPED_AT_MOST: usize = 2;

/// Most records of other containers that one prestart looks at.
const LOOKED_AT: usize = 4;

/// Most names of records that one prestart reads to choose from.
const NAMES: usize = 64;

/// Undoes a record and removes it. The container it is about must have ended, or must not have started.
///
/// # Errors
/// One for each thing that could not be undone; the record is kept then.
pub fn undo(runtime: &RuntimeDir, record: Record, work_dir: &Path) -> std::result::Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    let mut keep = |answer: Result<()>| {
        if let Err(error) = answer {
            errors.push(error);
        }
    };
    if let Some(header) = &record.header {
        let done = record.attachments().is_some();
        let root = open_base(&header.root);
        let sandbox = record.lines.iter().find_map(|line| match line {
            Line::Sandbox { path, .. } => sys::open_place(sys::cwd(), Path::new(path), Resolve::NoLinks).ok(),
            _ => None,
        });
        let base = |within: Within| match within {
            Within::Root => root.as_ref(),
            Within::Sandbox => sandbox.as_ref(),
        };
        for line in record.lines.iter().rev() {
            match line {
                Line::Making { place, temporary } => {
                    if let Some(base) = base(place.within) {
                        keep(mountpoint::remove_temporary(base, place, temporary));
                    }
                }
                Line::Made { place, file, .. } | Line::Hold { place, file } => {
                    keep(mountpoint::release(runtime, base(place.within), &record.name, place, *file));
                }
                Line::MakingVolume { role, temporary } => keep(discard_volume(work_dir, role, temporary)),
                // Announced before anything is made in it, so it comes after all of that here.
                Line::Sandbox { path, made, remove_at_stop } if (done && *remove_at_stop) || (!done && *made) => {
                    keep(sandbox::remove(Path::new(path)));
                }
                Line::Sandbox { .. } | Line::Done { .. } => {}
            }
        }
    }
    if errors.is_empty()
        && let Err(error) = record.remove(runtime)
    {
        errors.push(error);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Opens a directory of the record, if it is still the same one: a root filesystem may be unmounted by now.
fn open_base(base: &Base) -> Option<OwnedFd> {
    let fd = sys::open_place(sys::cwd(), Path::new(&base.path), Resolve::NoMagic).ok()?;
    (sys::stat(&fd).ok()?.id == base.id).then_some(fd)
}

fn discard_volume(work_dir: &Path, role: &Role, temporary: &str) -> Result<()> {
    match Store::open(work_dir, Missing::Tell)? {
        None => Ok(()),
        Some(store) => store.discard(role, temporary),
    }
}

/// Undoes the records of at most two containers that are gone and whose poststop never came (crun after a failed
/// create, podman after a missing command). What fails is only logged: it is not this container's fault. A record that
/// would take a used sandbox with it is left to its own hooks, since that may take longer than a start may.
pub fn reap(runtime: &RuntimeDir, own_name: &str, turn: u64, work_dir: &Path) {
    let names = match crate::tree::some_names(&runtime.records, NAMES) {
        Ok(names) => names,
        Err(error) => return log::warn!("records cannot be listed: {error}"),
    };
    let mut reaped = 0;
    let start = usize::try_from(turn).unwrap_or(0) % names.len().max(1);
    for name in names.iter().cycle().skip(start).take(LOOKED_AT.min(names.len())) {
        let Some(name) = name.to_str().filter(|name| *name != own_name) else { continue };
        match reap_one(runtime, name, work_dir) {
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

fn reap_one(runtime: &RuntimeDir, name: &str, work_dir: &Path) -> std::result::Result<bool, Vec<Error>> {
    let one = |error: Error| vec![error];
    let Some(record) = Record::open(runtime, name, Open::Idle).map_err(one)? else { return Ok(false) };
    if let Some(header) = &record.header
        && (header.may_live().map_err(one)? || record.removes_sandbox())
    {
        return Ok(false);
    }
    undo(runtime, record, work_dir).map(|()| true)
}
