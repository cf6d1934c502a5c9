//! Mesos's volume gid manager (mesos.md A9), for operators who set `volume_gid_range`: each volume gets a group of its
//! own at its first use, and keeps it until it is destroyed.
//!
//! Mesos marked a volume as done before it had walked it (mesos.md E10). Here a group is only reserved before the walk,
//! and the volume's root gets it last: a root with a group of the range is a volume that was walked to its end. All by
//! descriptor, across no mount, and files with several names are left alone: they may be the host's.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::{Disk, Disks, Found};
use crate::config::GidRange;
use crate::error::{Because, Cause, Error, Result};
use crate::mesos::checkpoint;
use crate::request::names::{RESERVED, Role, VolumeId};
use crate::sys::{self, Resolve};
use crate::tree;
use crate::trusted::{self, Missing};
use crate::volume::DiskChoice;

/// Deepest directory that is walked: each takes a descriptor.
const DEEPEST: usize = 256;

/// A group that is reserved for a volume: the content of a file that has the group as its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reserved {
    disk: String,
    role: Role,
    id: VolumeId,
}

impl Reserved {
    fn of(volume: &Found) -> Reserved {
        Reserved { disk: volume.disk.name().to_owned(), role: volume.role.clone(), id: volume.id.clone() }
    }
}

/// The volume's group: the one it has, or the one that is reserved for it, or the lowest that is free.
///
/// # Errors
/// [`Cause::Ownership`] where none is free; [`Cause::ConfigUnsafe`].
pub fn reserve(volume: &Found, range: &GidRange) -> Result<u32> {
    let directory = open(&volume.disk, Missing::Make(0o700))?
        .ok_or_else(|| Error::new(Cause::Ownership, "groups of volumes cannot be kept"))?;
    let wanted = Reserved::of(volume);
    if range.contains(volume.stat.gid) {
        // It was given before, by this or by a Mesos agent; to this volume, that is.
        let gid = volume.stat.gid;
        return match read(&directory, gid)? {
            Some(reserved) if reserved != wanted => Err(Error::new(
                Cause::Ownership,
                format!("its group {gid} is that of volume {} of role {}", reserved.id, reserved.role),
            )
            .remedy("chgrp one of the two volumes to root, and start again: it gets a group of its own")),
            Some(_) => Ok(gid),
            None => keep(&directory, &wanted, std::iter::once(gid)).map(|_| gid),
        };
    }
    let mut taken = Vec::new();
    for name in super::names(&directory)? {
        let Some(gid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if read(&directory, gid)?.as_ref() == Some(&wanted) && range.contains(gid) {
            return Ok(gid);
        }
        taken.push(gid);
    }
    // A Mesos agent's own volumes keep theirs.
    let path = volume.path();
    for (theirs, gid) in of_mesos(&volume.disk)? {
        if theirs == path && range.contains(gid) {
            return Ok(gid);
        }
        taken.push(gid);
    }
    keep(&directory, &wanted, range.iter().filter(|gid| !taken.contains(gid)))?.ok_or_else(|| {
        Error::new(Cause::Ownership, format!("no group of volume_gid_range {range} is free"))
            .remedy("make the range larger, or destroy volumes that nobody needs")
    })
}

/// Reserves the first of these groups that nobody has; `None` where all are taken.
fn keep(directory: &OwnedFd, wanted: &Reserved, mut gids: impl Iterator<Item = u32>) -> Result<Option<u32>> {
    let doing = || "groups of volumes cannot be kept".to_owned();
    let text = serde_json::to_string(wanted).map_err(|error| Error::new(Cause::Ownership, error.to_string()))?;
    let temporary = format!("{RESERVED}{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let fd = sys::open_file_at(directory, &temporary, flags, 0o600).because(Cause::Ownership, doing)?;
    std::io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes()).because(Cause::Ownership, doing)?;
    let found = gids.find_map(|gid| {
        let name = gid.to_string();
        match sys::rename_new(directory, OsStr::new(&temporary), directory, OsStr::new(&name)) {
            // Another hook was first.
            Err(error) if error.errno == Errno::EEXIST => None,
            answer => Some(answer.because(Cause::Ownership, doing).map(|()| gid)),
        }
    });
    if found.is_none() {
        let _ = sys::unlink_at(directory, OsStr::new(&temporary), false);
    }
    found.transpose()
}

/// Gives a volume and everything in it to a group, its directories with group write and setgid. The root comes last.
///
/// # Errors
/// [`Cause::Ownership`].
pub fn give(volume: &Found, gid: u32) -> Result<()> {
    if volume.stat.gid == gid {
        return Ok(());
    }
    let mut left = 0;
    walk(&volume.fd, gid, 0, &mut left).because(Cause::Ownership, || {
        format!("not everything in {} could be given to group {gid}", volume.path().display())
    })?;
    if left > 0 {
        log::warn!("{left} files in {} have several names and were left alone", volume.path().display());
    }
    Ok(())
}

fn walk(directory: &OwnedFd, gid: u32, depth: usize, left: &mut u64) -> sys::Result<()> {
    if depth > DEEPEST {
        return Err(sys::SysError { call: "openat2", on: "a directory below 256 others".into(), errno: Errno::ELOOP });
    }
    for name in tree::names(directory)? {
        let path = Path::new(&name);
        match sys::open_dir(directory, path, Resolve::BeneathNoLinksNoMounts) {
            Ok(child) => walk(&child, gid, depth + 1, left)?,
            // It went, or something is mounted there: then it is none of the volume's.
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EXDEV) => {}
            Err(error) if matches!(error.errno, Errno::ENOTDIR | Errno::ELOOP) => {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
                let file = match sys::open_file_at(directory, &*name.to_string_lossy(), flags, 0) {
                    Err(error) if error.errno == Errno::ENOENT => continue,
                    answer => answer?,
                };
                let stat = sys::stat(&file)?;
                if stat.gid == gid || !(stat.is_file() || stat.is_link()) {
                    continue;
                }
                if sys::stat(&file)?.links > 1 {
                    *left += 1;
                    continue;
                }
                sys::chgrp(&file, gid)?;
            }
            Err(error) => return Err(error),
        }
    }
    // After its content, so that what has the group is done.
    let stat = sys::stat(directory)?;
    let mode = stat.permissions() | 0o2020;
    if mode != stat.permissions() || stat.gid != gid {
        sys::chgrp(directory, gid)?;
        sys::chmod(directory, mode)?;
    }
    Ok(())
}

/// Frees a destroyed volume's group.
///
/// # Errors
/// [`Cause::Ownership`].
pub fn release(volume: &Found) -> Result<()> {
    let Some(directory) = open(&volume.disk, Missing::Tell)? else { return Ok(()) };
    let wanted = Reserved::of(volume);
    for name in super::names(&directory)? {
        let Some(gid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if read(&directory, gid)?.as_ref() == Some(&wanted) {
            sys::unlink_at(&directory, &name, false)
                .because(Cause::Ownership, || format!("group {gid} cannot be freed"))?;
        }
    }
    Ok(())
}

/// Frees the groups of volumes that are gone (mesos.md G7), unless they were reserved within so many seconds, and tells
/// of which.
///
/// # Errors
/// [`Cause::Ownership`] and the causes of [`super::find`].
pub fn release_gone(disks: &Disks<'_>, seconds: u64) -> Result<Vec<String>> {
    let mut freed = Vec::new();
    let Some(work_dir) = disks.work_dir(Missing::Tell)? else { return Ok(freed) };
    let Some(directory) = open(&work_dir, Missing::Tell)? else { return Ok(freed) };
    for name in super::names(&directory)? {
        let Some(gid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(reserved) = read(&directory, gid)? else { continue };
        let modified = sys::open_file_at(&directory, gid.to_string(), OFlag::O_RDONLY, 0).and_then(sys::modified);
        let old = modified
            .is_ok_and(|modified| u64::try_from(modified).unwrap_or(0).saturating_add(seconds) <= crate::clock::now());
        // A disk that is not mounted now may have it: where it is, the role has its directory.
        let has_role = || match disks.get(&reserved.disk, Missing::Tell) {
            Ok(Some(disk)) => disk.open_role(&reserved.role, Missing::Tell).is_ok_and(|folder| folder.is_some()),
            _ => false,
        };
        let choice = DiskChoice::One(reserved.disk.clone());
        if old && has_role() && matches!(super::find(disks, &choice, &reserved.role, &reserved.id), Ok(None)) {
            sys::unlink_at(&directory, &name, false)
                .because(Cause::Ownership, || format!("group {gid} cannot be freed"))?;
            freed.push(format!("group {gid} of volume {} ({})", reserved.id, reserved.role));
        }
    }
    Ok(freed)
}

fn open(disk: &Disk, missing: Missing) -> Result<Option<trusted::Directory>> {
    let Some(work_dir) = trusted::open_dir(disk.work_dir(), missing)? else { return Ok(None) };
    trusted::open_dir_below(&work_dir, disk.work_dir(), &["meta", "fs-isolator", "gids"], missing)
}

/// What a group is reserved for; `None` where that cannot be understood.
fn read(directory: &OwnedFd, gid: u32) -> Result<Option<Reserved>> {
    let doing = || format!("what group {gid} is for cannot be read");
    let fd = match sys::open_file_at(directory, gid.to_string(), OFlag::O_RDONLY, 0) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        answer => answer.because(Cause::Ownership, doing)?,
    };
    let text = crate::read::at_most(fd.into(), 64 << 10).because(Cause::Ownership, doing)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Groups that a Mesos agent gave to volumes of this `work_dir`.
fn of_mesos(disk: &Disk) -> Result<Vec<(PathBuf, u32)>> {
    match trusted::open_dir(disk.work_dir(), Missing::Tell)? {
        None => Ok(Vec::new()),
        Some(work_dir) => checkpoint::gids(&work_dir),
    }
}
