//! Persistent volumes on disk, exactly where Mesos keeps them (mesos.md B2):
//! `<work_dir or PATH root>/volumes/roles/<role, "/" as " ">/<persistence id>`, or the root of a MOUNT disk.
#![forbid(unsafe_code)]

pub mod archive;
pub mod destroy;
pub mod disk;
pub mod gids;
pub mod make;
pub mod meta;
pub mod ownership;
pub mod usage;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use crate::config::disks::{self, Kind};
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::request::container_path::ContainerPath;
use crate::request::names::{RESERVED, Role, VolumeId};
use crate::sys::{self, Resolve, Stat};
use crate::tree;
use crate::trusted::{self, Missing};
pub use disk::{Disk, DiskChoice, Disks};
pub use meta::Meta;

/// The refusal for a volume that is not there, and, in the same words, for one that is somebody else's.
#[must_use]
pub fn unavailable(role: &Role, id: &VolumeId, disk: &DiskChoice) -> Error {
    let disk = match disk {
        DiskChoice::One(name) if name != disks::ROOT => format!("--disk {} ", shell_word(name)),
        _ => String::new(),
    };
    Error::new(
        Cause::VolumeUnavailable,
        format!(
            "there is no volume {id:?} in role {role:?} that this container may use",
            id = id.as_str(),
            role = role.as_str()
        ),
    )
    .remedy(format!(
        "if there should be one: fs-isolator volume create --role {} {disk}{}",
        shell_word(role.as_str()),
        shell_word(id.as_str())
    ))
}

/// A volume that was found, and is open.
#[derive(Debug)]
pub struct Found {
    /// The disk it lies on.
    pub disk: Rc<Disk>,
    /// Its role.
    pub role: Role,
    /// Its id.
    pub id: VolumeId,
    /// Its directory, open for reading.
    pub fd: OwnedFd,
    /// What that is.
    pub stat: Stat,
    /// The directory it has its name in; `None` for a MOUNT disk.
    folder: Option<trusted::Directory>,
}

impl Found {
    /// A volume that was just made and has no name yet.
    #[must_use]
    pub fn unnamed(disk: Rc<Disk>, role: Role, id: VolumeId, stat: Stat, fd: OwnedFd) -> Found {
        Found { disk, role, id, fd, stat, folder: None }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.disk.path_of(&self.role, &self.id)
    }

    /// What was decided about it when it was made.
    ///
    /// # Errors
    /// The causes of [`meta::read`].
    pub fn meta(&self) -> Result<Meta> {
        Ok(meta::read(self)?.unwrap_or_default())
    }

    /// Sees that its name still leads to it: it may have been destroyed since it was opened. Under its leases' lock,
    /// nobody destroys it from then on.
    ///
    /// # Errors
    /// [`Cause::VolumeUnavailable`].
    pub fn confirm(&self) -> Result<()> {
        let there = match &self.folder {
            None => self.meta()?.is_of(&self.role, &self.id),
            Some(folder) => sys::stat_at(folder, self.id.as_str()).is_ok_and(|stat| stat.id == self.stat.id),
        };
        if there {
            Ok(())
        } else {
            Err(unavailable(&self.role, &self.id, &DiskChoice::One(self.disk.name().to_owned())))
        }
    }

    /// Whether other users of the host can reach it, and so run a setuid file that root of a container left in it.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`].
    pub fn is_reachable(&self) -> Result<bool> {
        Ok(trusted::lets_others_pass(&self.stat) && self.can_be_opened_to_others()?)
    }

    /// Whether its owner can let other users of the host reach it: root of a container to whom it is mapped can change
    /// its mode. Only what lies above it, or a mount on which setuid means nothing, keeps them out.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`].
    pub fn can_be_opened_to_others(&self) -> Result<bool> {
        let doing = || self.path().display().to_string();
        if sys::filesystem(&self.fd).because(Cause::ConfigUnsafe, doing)?.attributes.nosuid {
            return Ok(false);
        }
        let path = self.path();
        Ok(!trusted::is_closed(path.parent().unwrap_or(&path))?)
    }
}

/// Finds a volume; `None` where there is none. A link is no volume.
///
/// # Errors
/// [`Cause::VolumeAmbiguous`] where it is on two disks and none was named; [`Cause::DiskUnavailable`] where a disk on
/// which it may be is not mounted; [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
pub fn find(disks: &Disks<'_>, choice: &DiskChoice, role: &Role, id: &VolumeId) -> Result<Option<Found>> {
    let mut found: Option<Found> = None;
    let mut unavailable = None;
    for name in disks.names(choice) {
        let disk = match disks.get(name, Missing::Tell) {
            Ok(disk) => disk,
            // Another disk may have it.
            Err(error) if error.cause() == Cause::DiskUnavailable && *choice == DiskChoice::Any => {
                unavailable = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(disk) = disk else { continue };
        let volume = match find_on(&disk, role, id) {
            // Whose it is cannot be told: that is no reason against what lies elsewhere.
            Err(error) if disk.kind() == Kind::Mount && *choice == DiskChoice::Any => {
                unavailable = Some(error);
                continue;
            }
            answer => answer?,
        };
        let Some(volume) = volume else { continue };
        if let Some(first) = &found {
            return Err(Error::new(
                Cause::VolumeAmbiguous,
                format!("{id} of role {role} is on two disks, {} and {}", first.disk.name(), disk.name()),
            )
            .remedy(format!("name one: {id}:PATH:disk={} or disk={}", first.disk.name(), disk.name())));
        }
        found = Some(volume);
    }
    match (found, unavailable) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

/// Finds a volume on one disk.
///
/// # Errors
/// As [`find`].
pub fn find_on(disk: &Rc<Disk>, role: &Role, id: &VolumeId) -> Result<Option<Found>> {
    let (folder, opened) = if disk.kind() == Kind::Mount {
        (None, sys::open_dir(disk.fd(), Path::new("."), Resolve::BeneathNoLinks))
    } else {
        let Some(folder) = disk.open_role(role, Missing::Tell)? else { return Ok(None) };
        let opened = sys::open_dir(&folder, Path::new(id.as_str()), Resolve::BeneathNoLinks);
        (Some(folder), opened)
    };
    let fd = match opened {
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        answer => answer
            .because(Cause::VolumeUnavailable, || {
                format!("{} is not a directory of its own", disk.path_of(role, id).display())
            })
            .map_err(|error| error.remedy("look at it: a volume is never reached through a link"))?,
    };
    let stat = sys::stat(&fd).because(Cause::VolumeUnavailable, || id.to_string())?;
    let found = Found { disk: Rc::clone(disk), role: role.clone(), id: id.clone(), fd, stat, folder };
    // A MOUNT disk is one volume, of whom it was made for.
    if disk.kind() == Kind::Mount && !found.meta()?.is_of(role, id) {
        return Ok(None);
    }
    Ok(Some(found))
}

/// Every volume of every disk, by disk, role and id. Disks that cannot be looked at are told of.
///
/// # Errors
/// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
pub fn list(disks: &Disks<'_>) -> Result<(Vec<Found>, Vec<Error>)> {
    let (mut volumes, mut faults) = (Vec::new(), Vec::new());
    for name in disks.names(&DiskChoice::Any) {
        match disks.get(name, Missing::Tell) {
            Ok(Some(disk)) => list_on(&disk, &mut volumes, &mut faults)?,
            Ok(None) => {}
            Err(error) if error.cause() == Cause::DiskUnavailable => faults.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((volumes, faults))
}

fn list_on(disk: &Rc<Disk>, volumes: &mut Vec<Found>, faults: &mut Vec<Error>) -> Result<()> {
    if disk.kind() == Kind::Mount {
        let found = meta::owner_of(disk).and_then(|owner| match owner {
            None => Ok(None),
            Some((role, id)) => find_on(disk, &role, &id),
        });
        match found {
            Ok(found) => volumes.extend(found),
            Err(error) => faults.push(error),
        }
        return Ok(());
    }
    for role in disk.roles()? {
        let Some(folder) = disk.open_role(&role, Missing::Tell)? else { continue };
        for name in names(&folder)? {
            let Some(id) = name.to_str().and_then(|name| VolumeId::parse(name).ok()) else { continue };
            match find_on(disk, &role, &id) {
                Ok(found) => volumes.extend(found),
                Err(error) => faults.push(error),
            }
        }
    }
    Ok(())
}

/// Names in a directory that was opened as a place.
fn names(folder: &OwnedFd) -> Result<Vec<std::ffi::OsString>> {
    sys::open_dir(folder, Path::new("."), Resolve::BeneathNoLinks)
        .and_then(|fd| tree::names(&fd))
        .because(Cause::VolumeUnavailable, || "volumes cannot be listed".to_owned())
}

/// The beginning of the name under which a destroyed volume waits for its deletion.
const DESTROYED: &str = "destroyed.";

/// The beginning of the name under which a volume is read from a stream: locked for as long as it is, and never a volume.
pub const IMPORTED: &str = "import.";

/// Names in a role's directory of what is being made, or was when its maker was killed.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn remainders(folder: &OwnedFd) -> Result<Vec<String>> {
    let names = names(folder)?.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| name.strip_prefix(RESERVED).is_some_and(|rest| !rest.starts_with(DESTROYED))).collect())
}

/// Opens a directory inside a volume, which must exist; no component may be a link.
///
/// # Errors
/// [`Cause::Subpath`].
pub fn open_subpath(volume: &OwnedFd, subpath: &ContainerPath) -> Result<OwnedFd> {
    sys::open_place(volume, Path::new(&subpath.relative()), Resolve::BeneathNoLinks)
        .because(Cause::Subpath, || format!("subpath {subpath} cannot be opened"))
}
