//! Persistent volumes on disk, exactly where Mesos keeps them (mesos.md B2):
//! `<work_dir>/volumes/roles/<role, "/" as " ">/<persistence id>`.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Because, Cause, Error, Result};
use crate::mountinfo;
use crate::request::container_path::ContainerPath;
use crate::request::names::{RESERVED, Role, VolumeId};
use crate::sys::{self, FileId, Resolve, Stat};
use crate::tree;
use crate::trusted::{self, Missing};

/// An open `work_dir`.
#[derive(Debug)]
pub struct Store {
    fd: OwnedFd,
    path: PathBuf,
}

/// How a new volume is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewVolume {
    /// Permission bits of its root; 0750 unless the administrator says otherwise.
    pub mode: u32,
    /// Owner and group of its root.
    pub owner: (u32, u32),
    /// Whether containers reach volumes through the host's directories, which then must let them pass.
    pub reachable: bool,
}

/// A volume that was found.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its role.
    pub role: Role,
    /// Its id.
    pub id: VolumeId,
    /// Its directory.
    pub path: PathBuf,
    /// What its directory is.
    pub stat: Stat,
}

impl Store {
    /// Opens `work_dir`, making it if asked to.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`] where others could change it.
    pub fn open(work_dir: &Path, missing: Missing) -> Result<Option<Store>> {
        Ok(trusted::open_dir(work_dir, missing)?.map(|fd| Store { fd, path: work_dir.to_owned() }))
    }

    /// The directory of a volume.
    #[must_use]
    pub fn path_of(&self, role: &Role, id: &VolumeId) -> PathBuf {
        self.path.join("volumes/roles").join(role.directory()).join(id.as_str())
    }

    /// `work_dir` itself.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// `work_dir`'s path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_role(&self, role: &Role, missing: Missing) -> Result<Option<OwnedFd>> {
        trusted::open_dir_below(&self.fd, &self.path, &["volumes", "roles", &role.directory()], missing)
    }

    /// Opens a volume (`O_PATH`), if it exists. A link is no volume.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
    pub fn find(&self, role: &Role, id: &VolumeId) -> Result<Option<OwnedFd>> {
        let Some(directory) = self.open_role(role, Missing::Tell)? else { return Ok(None) };
        match sys::open_place(&directory, Path::new(id.as_str()), Resolve::BeneathNoLinks) {
            Err(error) if error.errno == Errno::ENOENT => Ok(None),
            answer => answer
                .because(Cause::VolumeUnavailable, || {
                    format!("{} is not a directory of its own", self.path_of(role, id).display())
                })
                .map(Some)
                .map_err(|error| error.remedy("look at it: a volume is never reached through a link")),
        }
    }

    /// Makes a volume: complete, with owner and mode and on disk, or not at all.
    ///
    /// # Errors
    /// [`Cause::VolumeExists`], [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
    pub fn create(&self, role: &Role, id: &VolumeId, new: NewVolume) -> Result<()> {
        let temporary = format!("{RESERVED}new.{}", std::process::id());
        self.discard(role, &temporary)?;
        let unnamed = self.make(role, id, temporary, new)?;
        unnamed.publish().inspect_err(|_| {
            if let Err(left) = self.discard(role, &unnamed.temporary) {
                log::error!("{left}");
            }
        })
    }

    /// Makes a volume that has not got its id yet. Nobody can find it until it is published.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
    pub fn make(&self, role: &Role, id: &VolumeId, temporary: String, new: NewVolume) -> Result<Unnamed> {
        let doing = || format!("{} cannot be made", self.path_of(role, id).display());
        let parents = Missing::Make(if new.reachable { 0o711 } else { 0o700 });
        let Some(directory) = self.open_role(role, parents)? else {
            return Err(Error::new(Cause::VolumeUnavailable, doing()));
        };
        let make = || -> sys::Result<OwnedFd> {
            sys::mkdir_at(&directory, &temporary, 0o700)?;
            let fd = sys::open_dir(&directory, Path::new(&temporary), Resolve::BeneathNoLinks)?;
            sys::chown(&fd, new.owner.0, new.owner.1)?;
            sys::chmod(&fd, new.mode)?;
            sys::fsync(&fd)?;
            Ok(fd)
        };
        let fd = make().because(Cause::VolumeUnavailable, doing)?;
        Ok(Unnamed { directory, temporary, id: id.clone(), fd })
    }

    /// Removes a volume that was made and not published, if it is there. It is empty.
    ///
    /// # Errors
    /// [`Cause::UndoIncomplete`].
    pub fn discard(&self, role: &Role, temporary: &str) -> Result<()> {
        let Some(directory) = self.open_role(role, Missing::Tell)? else { return Ok(()) };
        match sys::unlink_at(&directory, OsStr::new(temporary), true) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            answer => answer.because(Cause::UndoIncomplete, || format!("{temporary} of role {role}")),
        }
    }

    /// Every volume, by role and id.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut volumes = Vec::new();
        let Some(roles) = trusted::open_dir_below(&self.fd, &self.path, &["volumes", "roles"], Missing::Tell)? else {
            return Ok(volumes);
        };
        let names =
            |fd: &OwnedFd| tree::names(fd).because(Cause::VolumeUnavailable, || "volumes cannot be listed".to_owned());
        for role_name in names(&roles)? {
            let Some(role) = role_name.to_str().and_then(|name| Role::from_directory(name).ok()) else { continue };
            let Some(directory) = self.open_role(&role, Missing::Tell)? else { continue };
            for name in names(&directory)? {
                let Some(id) = name.to_str().and_then(|name| VolumeId::parse(name).ok()) else { continue };
                let stat =
                    sys::stat_at(&directory, id.as_str()).because(Cause::VolumeUnavailable, || id.to_string())?;
                if stat.is_dir() {
                    volumes.push(Listed { path: self.path_of(&role, &id), role: role.clone(), id, stat });
                }
            }
        }
        Ok(volumes)
    }

    /// Deletes a volume and all its data, if it is still this directory. It is moved aside first, so that a kill
    /// halfway leaves either the volume or a remainder that has no volume's name; the next destruction in its role
    /// finishes that.
    ///
    /// # Errors
    /// [`Cause::VolumeUnavailable`] where there is none; [`Cause::VolumeUnsafe`] where something is mounted at or
    /// below it, before anything is moved.
    pub fn destroy(&self, role: &Role, id: &VolumeId, expected: FileId) -> Result<()> {
        let path = self.path_of(role, id);
        let Some(directory) = self.open_role(role, Missing::Tell)? else {
            return Err(crate::plan::unavailable(role, id));
        };
        let mounts = std::fs::read("/proc/self/mountinfo")
            .because(Cause::VolumeUnsafe, || "the mount table cannot be read".to_owned())?;
        if let Some(mount) = mountinfo::parse(&mounts).iter().find(|mount| mount.mount_point.starts_with(&path)) {
            let point = mount.mount_point.to_string_lossy();
            return Err(Error::new(Cause::VolumeUnsafe, format!("something is mounted at {point}"))
                .remedy(format!("umount {} first; nothing was deleted", crate::plan::shell_word(&point))));
        }
        let aside = format!("{RESERVED}destroyed.{}.{:x}", std::process::id(), expected.ino);
        let (aside, name) = (OsStr::new(&aside), OsStr::new(id.as_str()));
        let doing = || format!("{} cannot be moved aside", path.display());
        sys::rename_new(&directory, name, &directory, aside).because(Cause::VolumeUnsafe, doing)?;
        let moved = sys::stat_at(&directory, &aside.to_string_lossy()).because(Cause::VolumeUnsafe, doing)?;
        if moved.id != expected {
            sys::rename_new(&directory, aside, &directory, name).because(Cause::VolumeUnsafe, doing)?;
            return Err(Error::new(Cause::VolumeUnsafe, format!("{} was replaced a moment ago", path.display()))
                .remedy("look at it, and try again; nothing was deleted"));
        }
        self.finish_destroying(role)
    }

    /// Deletes what destructions in a role have moved aside, of earlier ones that were killed too.
    ///
    /// # Errors
    /// [`Cause::VolumeUnsafe`].
    pub fn finish_destroying(&self, role: &Role) -> Result<()> {
        let Some(directory) = self.open_role(role, Missing::Tell)? else { return Ok(()) };
        let doing = || format!("role {role}: a destroyed volume is not wholly deleted");
        let directory_to_read = sys::open_dir(&directory, Path::new("."), Resolve::BeneathNoLinks);
        for name in directory_to_read.and_then(|fd| tree::names(&fd)).because(Cause::VolumeUnsafe, doing)? {
            if name.to_string_lossy().starts_with(&format!("{RESERVED}destroyed.")) {
                tree::remove(&directory, &name).because(Cause::VolumeUnsafe, doing)?;
            }
        }
        Ok(())
    }
}

/// A volume without its id yet.
#[derive(Debug)]
pub struct Unnamed {
    directory: OwnedFd,
    temporary: String,
    id: VolumeId,
    /// Its directory.
    pub fd: OwnedFd,
}

impl Unnamed {
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

/// Opens a directory inside a volume, which must exist; no component may be a link.
///
/// # Errors
/// [`Cause::Subpath`].
pub fn open_subpath(volume: &OwnedFd, subpath: &ContainerPath) -> Result<OwnedFd> {
    sys::open_place(volume, Path::new(&subpath.relative()), Resolve::BeneathNoLinks)
        .because(Cause::Subpath, || format!("subpath {subpath} cannot be opened"))
}
