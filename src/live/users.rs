//! Who uses a mount of a container: for people, when it cannot be detached.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Result};
use crate::init::Live;
use crate::mountinfo;
use crate::sys;

/// Most users that are named.
const NAMED: usize = 20;

/// Processes that have something of a mount, or of what is mounted in it, open, mapped, or as their working or root
/// directory: pid and name.
///
/// # Errors
/// [`Cause::PathInUse`] where the container's mounts cannot be looked at.
pub fn of(mount: &OwnedFd, live: &Live) -> Result<Vec<String>> {
    let doing = || "the container's mounts cannot be looked at".to_owned();
    let root = sys::mount_number(mount).because(Cause::PathInUse, doing)?;
    let table = fs::read(format!("/proc/{}/mountinfo", live.init.pid)).because(Cause::PathInUse, doing)?;
    let mounts = mountinfo::parse(&table);
    let point = mounts.iter().find(|mount| mount.id == root).map(|mount| mount.mount_point.clone());
    let is_its = |mount: &mountinfo::Mount| point.as_ref().is_some_and(|point| mount.mount_point.starts_with(point));
    let ids: Vec<u64> = mounts.iter().filter(|mount| is_its(mount)).map(|mount| mount.id).collect();
    let mut users = Vec::new();
    for process in fs::read_dir("/proc").because(Cause::PathInUse, doing)?.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        let is_me = name == std::process::id().to_string();
        let is_process = !is_me && name.bytes().all(|byte| byte.is_ascii_digit());
        // One that cannot be looked at could be a user.
        if is_process && uses(&process.path(), &ids).because(Cause::PathInUse, || format!("process {name}"))? {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("process {name} ({})", comm.trim()));
            if users.len() == NAMED {
                users.push("others".to_owned());
                break;
            }
        }
    }
    Ok(users)
}

fn uses(process: &Path, mounts: &[u64]) -> io::Result<bool> {
    // Through the link of /proc itself, which leads to the very file, in whatever namespace.
    let is_there = |link: &Path| -> io::Result<bool> {
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(link);
        let number = file.and_then(|file| sys::mount_number(file).map_err(|error| error.errno.into()));
        Ok(unless_gone(number)?.is_some_and(|mount| mounts.contains(&mount)))
    };
    for link in ["cwd", "root"] {
        if is_there(&process.join(link))? {
            return Ok(true);
        }
    }
    for directory in ["fd", "map_files"] {
        for entry in unless_gone(fs::read_dir(process.join(directory)))?.into_iter().flatten() {
            if unless_gone(entry)?.map_or(Ok(false), |entry| is_there(&entry.path()))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A process, or what it has open, may be gone by now; a kernel thread has neither directory nor mappings.
fn unless_gone<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    let gone = [Errno::ENOENT, Errno::ESRCH, Errno::ENXIO, Errno::ENOTDIR, Errno::EACCES];
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|code| gone.contains(&Errno::from_raw(code))) => Ok(None),
        answer => answer.map(Some),
    }
}
