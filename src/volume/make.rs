//! Making volumes: complete, with owner and mode and on disk, or not at all.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;

use super::{Disk, Meta, meta};
use crate::config::disks::Kind;
use crate::error::{Because, Cause, Error, Result};
use crate::lease::Leases;
use crate::request::names::{RESERVED, Role, VolumeId};
use crate::sys::{self, Resolve};
use crate::tree;
use crate::trusted::{self, Missing};

/// How a new volume is made.
#[derive(Debug, Clone, PartialEq)]
pub struct New {
    /// Permission bits of its root; 0750 unless the administrator says otherwise. `None` on a MOUNT disk that has
    /// data already leaves them.
    pub mode: Option<u32>,
    /// Owner and group of its root. `None` on a MOUNT disk leaves them; elsewhere they are this process's.
    pub owner: Option<(u32, u32)>,
    /// Whether containers reach volumes through the host's directories, which then must let them pass.
    pub reachable: bool,
    /// What else was decided.
    pub meta: Option<Meta>,
}

/// Permission bits of a volume for which nothing else was said.
const MODE: u32 = 0o750;

/// Makes a volume.
///
/// # Errors
/// [`Cause::VolumeExists`], [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
pub fn create(disk: &Rc<Disk>, role: &Role, id: &VolumeId, new: New) -> Result<()> {
    if disk.kind() == Kind::Mount {
        let doing = || format!("{} cannot be made a volume", disk.path().display());
        let leases = Leases::open()?;
        let locked = leases.lock(sys::stat(disk.fd()).because(Cause::VolumeUnavailable, doing)?.id)?;
        let answer = register(disk, role, id, new);
        locked.tidy()?;
        return answer;
    }
    // Two that make volumes of one process id lie in two pid namespaces, and are told apart by the clock.
    let temporary = format!("{RESERVED}new.{}.{:x}", std::process::id(), crate::clock::now());
    discard(disk, role, &temporary)?;
    let meta = new.meta.clone();
    let unnamed = make(disk, role, id, temporary, new)?;
    unnamed.publish().inspect_err(|_| {
        if let Err(left) = discard(disk, role, &unnamed.temporary) {
            log::error!("{left}");
        }
    })?;
    // Where it cannot lie with the volume it has the volume's name, which is this one's only now.
    meta.map_or(Ok(()), |meta| meta::write_beside(&unnamed.fd, disk, role, id, &meta))
}

/// Makes a volume that has not got its id yet. Nobody can find it until it is published.
///
/// # Errors
/// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
pub fn make(disk: &Disk, role: &Role, id: &VolumeId, temporary: String, new: New) -> Result<Unnamed> {
    let doing = || format!("{} cannot be made", disk.path_of(role, id).display());
    let parents = Missing::Make(if new.reachable { 0o711 } else { 0o700 });
    let Some(directory) = disk.open_role(role, parents)? else {
        return Err(Error::new(Cause::VolumeUnavailable, doing()));
    };
    let make = || -> sys::Result<OwnedFd> {
        sys::mkdir_at(&directory, &temporary, 0o700)?;
        let fd = sys::open_dir(&directory, Path::new(&temporary), Resolve::BeneathNoLinks)?;
        if let Some((uid, gid)) = new.owner {
            sys::chown(&fd, uid, gid)?;
        }
        sys::chmod(&fd, new.mode.unwrap_or(MODE))?;
        sys::fsync(&fd)?;
        Ok(fd)
    };
    let fd = make().because(Cause::VolumeUnavailable, doing)?;
    if let Some(meta) = &new.meta {
        meta::write_attribute(&fd, disk, role, id, meta)?;
    }
    Ok(Unnamed { directory, temporary, id: id.clone(), fd })
}

/// Removes a volume that was made and not published, if it is there. It is empty.
///
/// # Errors
/// [`Cause::UndoIncomplete`].
pub fn discard(disk: &Disk, role: &Role, temporary: &str) -> Result<()> {
    let Some(directory) = disk.open_role(role, Missing::Tell)? else { return Ok(()) };
    match sys::unlink_at(&directory, OsStr::new(temporary), true) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        answer => answer.because(Cause::UndoIncomplete, || format!("{temporary} of role {role}")),
    }
}

/// Makes a MOUNT disk the volume of one role and id. Data that is there stays: it may be a Mesos agent's.
fn register(disk: &Rc<Disk>, role: &Role, id: &VolumeId, new: New) -> Result<()> {
    let doing = || format!("{} cannot be made a volume", disk.path().display());
    if let Some(meta) = meta::read_mount(disk)? {
        let what = if meta.destroying { "is being destroyed: run fs-isolator gc" } else { "is a volume already" };
        return Err(Error::new(Cause::VolumeExists, format!("{} {what}", disk.path().display())));
    }
    let fd =
        sys::open_dir(disk.fd(), Path::new("."), Resolve::BeneathNoLinks).because(Cause::VolumeUnavailable, doing)?;
    let names = tree::some_names(&fd, 2).because(Cause::VolumeUnavailable, doing)?;
    let empty = names.iter().all(|name| name == "lost+found");
    let prepare = || -> sys::Result<()> {
        if let Some((uid, gid)) = new.owner {
            sys::chown(&fd, uid, gid)?;
        }
        match new.mode.or(empty.then_some(MODE)) {
            Some(mode) => sys::chmod(&fd, mode),
            None => Ok(()),
        }
    };
    prepare().because(Cause::VolumeUnavailable, doing)?;
    meta::write(&fd, disk, role, id, &new.meta.unwrap_or_else(|| Meta::new(role, id)))
}

/// A volume without its id yet.
#[derive(Debug)]
pub struct Unnamed {
    directory: trusted::Directory,
    temporary: String,
    id: VolumeId,
    /// Its directory.
    pub fd: OwnedFd,
}

impl Unnamed {
    /// Deletes it with everything that was put into it.
    ///
    /// # Errors
    /// [`Cause::UndoIncomplete`].
    pub fn abandon(&self) -> Result<()> {
        tree::remove(&self.directory, OsStr::new(&self.temporary))
            .because(Cause::UndoIncomplete, || format!("{} of volume {}", self.temporary, self.id))
    }

    /// Gives the volume its id. By descriptor, so that it works in every mount namespace.
    ///
    /// # Errors
    /// [`Cause::VolumeExists`] where another was made meanwhile.
    pub fn publish(&self) -> Result<()> {
        let publish = || -> sys::Result<()> {
            let (temporary, id) = (OsStr::new(&self.temporary), OsStr::new(self.id.as_str()));
            sys::rename_new(&self.directory, temporary, &self.directory, id)?;
            sys::fsync(sys::open_dir(&self.directory, Path::new("."), Resolve::BeneathNoLinks)?)
        };
        publish().map_err(|error| match error.errno {
            Errno::EEXIST => {
                Error::new(Cause::VolumeExists, format!("volume {} was made a moment ago", self.id)).remedy("try again")
            }
            _ => Error::new(Cause::VolumeUnavailable, format!("volume {} cannot be made: {error}", self.id)),
        })
    }
}
