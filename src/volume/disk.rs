//! Disks: `work_dir`, which is Mesos's ROOT, and the named roots of the configuration.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix::errno::Errno;

use crate::config::Config;
use crate::config::disks::{self, Kind, ROOT};
use crate::error::{Because, Cause, Error, Result};
use crate::mesos::agent;
use crate::request::names::{Role, VolumeId};
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};

/// On which disk a volume is looked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskChoice {
    /// On every disk.
    Any,
    /// On this one.
    One(String),
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    what: disks::Disk,
    fd: trusted::Directory,
    /// Where metadata lies that cannot lie on the disk.
    work_dir: PathBuf,
}

impl Disk {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.what.name
    }

    /// How volumes lie on it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.what.kind
    }

    /// Its root.
    #[must_use]
    pub fn fd(&self) -> &trusted::Directory {
        &self.fd
    }

    /// The configuration's `work_dir`.
    #[must_use]
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// Its root's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.what.root
    }

    /// The directory of a volume (mesos.md B2).
    #[must_use]
    pub fn path_of(&self, role: &Role, id: &VolumeId) -> PathBuf {
        path_of(&self.what, role, id)
    }

    /// Opens the directory with a role's volumes.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`].
    pub fn open_role(&self, role: &Role, missing: Missing) -> Result<Option<trusted::Directory>> {
        trusted::open_dir_below(&self.fd, self.path(), &["volumes", "roles", &role.directory()], missing)
    }

    /// The roles that have, or had, volumes on it.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`], [`Cause::VolumeUnavailable`].
    pub fn roles(&self) -> Result<Vec<Role>> {
        let Some(roles) = trusted::open_dir_below(&self.fd, self.path(), &["volumes", "roles"], Missing::Tell)? else {
            return Ok(Vec::new());
        };
        Ok(super::names(&roles)?.iter().filter_map(|name| Role::from_directory(name.to_str()?).ok()).collect())
    }
}

/// The directory of a volume on a disk.
#[must_use]
pub fn path_of(disk: &disks::Disk, role: &Role, id: &VolumeId) -> PathBuf {
    match disk.kind {
        Kind::Mount => disk.root.clone(),
        Kind::Root | Kind::Path => disk.root.join("volumes/roles").join(role.directory()).join(id.as_str()),
    }
}

/// The disks of a configuration, each opened once.
#[derive(Debug)]
pub struct Disks<'c> {
    config: &'c Config,
    open: RefCell<Vec<Rc<Disk>>>,
}

impl<'c> Disks<'c> {
    /// The disks of this configuration. Nothing is opened yet.
    #[must_use]
    pub fn new(config: &'c Config) -> Disks<'c> {
        Disks { config, open: RefCell::new(Vec::new()) }
    }

    /// Names of the disks that a volume may lie on.
    #[must_use]
    pub fn names<'n>(&'n self, choice: &'n DiskChoice) -> Vec<&'n str> {
        match choice {
            DiskChoice::One(name) => vec![name],
            DiskChoice::Any => {
                std::iter::once(ROOT).chain(self.config.disks.iter().map(|disk| disk.name.as_str())).collect()
            }
        }
    }

    /// Opens a disk; `None` where its root does not exist and may not be made.
    ///
    /// # Errors
    /// [`Cause::DiskUnknown`]; [`Cause::DiskUnavailable`] for a MOUNT root that is not a mount point right now: what
    /// was written would land on the disk below it. [`Cause::ConfigUnsafe`].
    pub fn get(&self, name: &str, missing: Missing) -> Result<Option<Rc<Disk>>> {
        if let Some(disk) = self.open.borrow().iter().find(|disk| disk.name() == name) {
            return Ok(Some(Rc::clone(disk)));
        }
        let what = self.config.disk(name)?;
        let fd = match what.kind {
            Kind::Mount => Some(Arc::new(open_mount(&what)?)),
            Kind::Root | Kind::Path => trusted::open_dir(&what.root, missing)?,
        };
        let Some(fd) = fd else { return Ok(None) };
        let disk = Rc::new(Disk { what, fd, work_dir: self.config.work_dir.clone() });
        self.open.borrow_mut().push(Rc::clone(&disk));
        Ok(Some(disk))
    }

    /// Opens a disk to make a volume on it, and makes its root where that may be.
    ///
    /// # Errors
    /// As [`Disks::get`].
    pub fn to_make_on(&self, name: &str) -> Result<Rc<Disk>> {
        self.get(name, Missing::Make(0o755))?
            .ok_or_else(|| Error::new(Cause::DiskUnavailable, format!("the root of disk {name} cannot be made")))
    }

    /// Opens `work_dir`.
    ///
    /// # Errors
    /// As [`Disks::get`].
    pub fn work_dir(&self, missing: Missing) -> Result<Option<Rc<Disk>>> {
        self.get(ROOT, missing)
    }

    /// Refuses PATH disks that show no sign of volumes: what is missing may be there once they are mounted.
    ///
    /// # Errors
    /// [`Cause::DiskUnavailable`], and as [`Disks::get`].
    pub fn refuse_empty(&self, choice: &DiskChoice) -> Result<()> {
        for name in self.names(choice) {
            let what = self.config.disk(name)?;
            if what.kind != Kind::Path {
                continue;
            }
            let has_volumes = match self.get(name, Missing::Tell)? {
                None => false,
                Some(disk) => trusted::open_dir_below(disk.fd(), disk.path(), &["volumes"], Missing::Tell)?.is_some(),
            };
            if !has_volumes {
                let shown = what.root.join("volumes");
                return Err(Error::new(
                    Cause::DiskUnavailable,
                    format!("a missing volume is not made while {} of disk {name} does not exist", shown.display()),
                )
                .remedy(format!("mount the disk; if it is new: mkdir -m 700 {}", shown.display())));
            }
        }
        Ok(())
    }

    /// Refuses to change anything while a Mesos agent runs on `work_dir`.
    ///
    /// # Errors
    /// [`Cause::MesosAgent`], and as [`Disks::get`].
    pub fn refuse_agent(&self) -> Result<()> {
        self.work_dir(Missing::Tell)?.map_or(Ok(()), |disk| agent::refuse(disk.fd(), disk.path()))
    }

    /// Opens `work_dir`, making it if it is missing.
    ///
    /// # Errors
    /// As [`Disks::get`].
    pub fn make_work_dir(&self) -> Result<Rc<Disk>> {
        let disk = self.work_dir(Missing::Make(0o755))?;
        disk.ok_or_else(|| {
            Error::new(Cause::ConfigUnsafe, format!("{} cannot be made", self.config.work_dir.display()))
        })
    }
}

/// A MOUNT disk's root is the volume itself, and may be anybody's; what is above it is the administrator's.
fn open_mount(disk: &disks::Disk) -> Result<OwnedFd> {
    let unavailable = |what: &str| {
        Error::new(Cause::DiskUnavailable, format!("{} of disk {} {what}", disk.root.display(), disk.name))
    };
    let (Some(parent), Some(name)) = (disk.root.parent(), disk.root.file_name()) else {
        return Err(unavailable("cannot be a disk of its own"));
    };
    let parent = trusted::open_dir(parent, Missing::Tell)?.ok_or_else(|| unavailable("does not exist"))?;
    let fd = match sys::open_place(&parent, Path::new(name), Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT => return Err(unavailable("does not exist")),
        answer => answer.because(Cause::DiskUnavailable, || disk.root.display().to_string())?,
    };
    let stat = sys::stat(&fd).because(Cause::DiskUnavailable, || disk.root.display().to_string())?;
    if !stat.mount_root {
        return Err(unavailable("is not a mount point right now"));
    }
    Ok(fd)
}
