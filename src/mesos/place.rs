//! Where a volume of an agent's checkpoint lies, and whether it is there.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use nix::errno::Errno;

use super::checkpoint::{Disk as Source, Volume};
use crate::sys::{self, Resolve};
use crate::volume::{Disk, Found};

/// Whether a volume of the checkpoint is this directory.
#[must_use]
pub fn lies_at(work_dir: &Disk, volume: &Volume, directory: &Found) -> bool {
    volume.role == directory.role
        && volume.id == directory.id
        && path_of(work_dir, volume).is_some_and(|path| path == directory.path())
}

/// Where a volume lies, for people; one that only Mesos can reach by its role and id.
#[must_use]
pub fn place(work_dir: &Disk, volume: &Volume) -> String {
    path_of(work_dir, volume)
        .map_or_else(|| format!("{} {}", volume.role, volume.id), |path| path.display().to_string())
}

/// The directory of a volume (mesos.md B2).
fn path_of(work_dir: &Disk, volume: &Volume) -> Option<PathBuf> {
    match &volume.disk {
        Source::Root => Some(work_dir.path_of(&volume.role, &volume.id)),
        Source::Path(root) => {
            let roles = work_dir.path().join(root).join("volumes/roles");
            Some(roles.join(volume.role.directory()).join(volume.id.as_str()))
        }
        Source::Mount(root) => Some(work_dir.path().join(root)),
        Source::Foreign(_) => None,
    }
}

/// Why a volume of the checkpoint cannot be reached.
#[must_use]
pub fn missing(work_dir: &Disk, listed: &[Found], volume: &Volume) -> Option<String> {
    let path = match &volume.disk {
        Source::Root => {
            let found = listed.iter().any(|directory| lies_at(work_dir, volume, directory));
            return (!found).then(|| "there is no such directory".to_owned());
        }
        Source::Foreign(why) => return Some(why.clone()),
        Source::Path(_) | Source::Mount(_) => path_of(work_dir, volume)?,
    };
    // The administrator's own disks may be reached through links.
    match sys::open_place(sys::cwd(), &path, Resolve::NoMagic).and_then(|fd| sys::stat(&fd)) {
        Err(error) if error.errno == Errno::ENOENT => Some("there is no such directory".to_owned()),
        Err(error) => Some(error.to_string()),
        Ok(stat) if matches!(volume.disk, Source::Mount(_)) && !stat.mount_root => {
            Some("nothing is mounted there".to_owned())
        }
        Ok(_) => None,
    }
}
