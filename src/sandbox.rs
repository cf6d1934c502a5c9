//! Sandboxes: a directory of its own for each container that needs one, and for posix one that the
//! administrator makes.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::container::Manager;
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::lease::Leases;
use crate::request::names::RESERVED;
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};
use crate::volume::Disk;
use crate::{record, tree};

/// Permission bits of a sandbox, as Mesos's since 1.6 (mesos.md B1).
pub const MODE: u32 = 0o750;

/// Where sandboxes that `fs-isolator sandbox create` made lie, below `sandboxes`.
const MADE_BY_HAND: &str = "posix";

/// Beginning of the name that a sandbox has while it is deleted, so that no container comes back to half of it.
pub const GONE: &str = "gone.";

/// Where all of them lie.
#[must_use]
pub fn all(work_dir: &Path) -> PathBuf {
    work_dir.join("sandboxes")
}

/// Where a sandbox of this name lies.
#[must_use]
pub fn path(work_dir: &Path, manager: Manager, name: &str) -> PathBuf {
    all(work_dir).join(manager.name()).join(name)
}

/// Name of the sandbox that the containers of a pod share; no bundle gives it to a container.
#[must_use]
pub fn pod_name(pod: &str) -> String {
    record::name(pod, "")
}

/// The sandbox that a container, or a pod, has below `work_dir`, made or not.
#[derive(Debug)]
pub struct Own {
    /// Directory of all sandboxes of one manager.
    parent: trusted::Directory,
    /// Name in it.
    name: String,
    /// Its path.
    pub path: PathBuf,
    /// It did not exist when it was looked for.
    pub missing: bool,
}

impl Own {
    /// Looks for a container's sandbox, making the directories above it. Only where containers share the host's
    /// filesystem must these let others pass: root of a container can leave setuid files in its sandbox.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`], [`Cause::Sandbox`].
    pub fn find(work_dir: &Disk, manager: Manager, name: &str, reachable: bool) -> Result<Own> {
        let names = ["sandboxes", manager.name()];
        let parents = Missing::Make(if reachable { 0o711 } else { 0o700 });
        let parent = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &names, parents)?;
        let path = path(work_dir.path(), manager, name);
        let parent = parent.ok_or_else(|| Error::new(Cause::Sandbox, format!("{} cannot be made", path.display())))?;
        let missing = match sys::stat_at(&parent, name) {
            Ok(_) => false,
            Err(error) if error.errno == Errno::ENOENT => true,
            Err(error) => return Err(Error::new(Cause::Sandbox, error.to_string())),
        };
        Ok(Own { parent, name: name.to_owned(), path, missing })
    }

    /// Whether its name leads to this directory.
    #[must_use]
    pub fn is_still(&self, id: sys::FileId) -> bool {
        sys::stat_at(&self.parent, &self.name).is_ok_and(|stat| stat.id == id)
    }

    /// Opens it, making it if it is missing, and gives it to the container's user.
    ///
    /// A container that comes back under its id and bundle (podman restart) finds its sandbox as it left it.
    ///
    /// # Errors
    /// [`Cause::Sandbox`].
    pub fn open(&self, uid: u32, gid: u32) -> Result<OwnedFd> {
        let doing = || format!("the sandbox {} cannot be made", self.path.display());
        let open = || -> sys::Result<OwnedFd> {
            if self.missing {
                match sys::mkdir_at(&self.parent, &self.name, MODE) {
                    // Another container of the pod was first.
                    Err(error) if error.errno == Errno::EEXIST => {}
                    answer => answer?,
                }
            }
            let fd = sys::open_place(&self.parent, Path::new(&self.name), Resolve::BeneathNoLinksNoMounts)?;
            let stat = sys::stat(&fd)?;
            if (stat.uid, stat.gid) != (uid, gid) {
                sys::chown(&fd, uid, gid)?;
            }
            Ok(fd)
        };
        open().because(Cause::Sandbox, doing)
    }
}

/// Deletes a sandbox, never across a mount and never through a link.
///
/// # Errors
/// [`Cause::Sandbox`].
pub fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Cause::Sandbox, format!("{} is no sandbox", path.display())));
    };
    let Some(parent) = trusted::open_dir(parent, Missing::Tell)? else { return Ok(()) };
    tree::remove(&parent, name).because(Cause::Sandbox, || format!("the sandbox {} cannot be removed", path.display()))
}

/// Deletes a sandbox that no live container holds, and tells whether it is gone. `tell` hears how many files
/// are gone.
///
/// # Errors
/// [`Cause::Sandbox`] and the causes of [`Leases`].
pub fn remove_unheld(folder: &OwnedFd, name: &str, leases: &Leases, tell: &mut dyn FnMut(u64)) -> Result<bool> {
    let doing = || format!("the sandbox {name} cannot be removed");
    let found = || match sys::stat_at(folder, name) {
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        answer => answer.because(Cause::Sandbox, doing).map(|stat| Some(stat.id)),
    };
    let Some(id) = found()? else { return Ok(true) };
    // Whatever configuration its container was started with; and none can start with it from here on.
    let locked = leases.lock(id)?;
    let aside = format!("{RESERVED}{GONE}{}.{:x}", std::process::id(), id.ino);
    // Somebody else may have removed it before the lock was had, and a container have made another.
    let free = found()? == Some(id) && locked.live()?.is_empty();
    let moved = if free {
        sys::rename_new(folder, OsStr::new(name), folder, OsStr::new(&aside)).because(Cause::Sandbox, doing)
    } else {
        Ok(())
    };
    locked.tidy()?;
    moved?;
    if free {
        tree::remove_counting(folder, OsStr::new(&aside), tell).because(Cause::Sandbox, doing)?;
    }
    Ok(free)
}

/// Makes a sandbox for containers of filesystem/posix.
///
/// # Errors
/// [`Cause::Sandbox`] where the name is taken or no name.
pub fn create(work_dir: &Disk, name: &str, uid: u32, gid: u32) -> Result<PathBuf> {
    if crate::request::names::VolumeId::parse(name).is_err() {
        return Err(Error::new(Cause::Sandbox, format!("{name:?} cannot be the name of a directory"))
            .remedy("use a name without / and control characters"));
    }
    let path = work_dir.path().join("sandboxes").join(MADE_BY_HAND).join(name);
    let names = ["sandboxes", MADE_BY_HAND];
    let Some(parent) = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &names, Missing::Make(0o711))? else {
        return Err(Error::new(Cause::Sandbox, format!("{} cannot be made", path.display())));
    };
    let temporary = format!("{}new.{}", RESERVED, std::process::id());
    let make = || -> sys::Result<()> {
        sys::mkdir_at(&parent, &temporary, MODE)?;
        let fd = sys::open_place(&parent, Path::new(&temporary), Resolve::BeneathNoLinks)?;
        sys::chown(&fd, uid, gid)?;
        sys::rename_new(&parent, OsStr::new(&temporary), &parent, OsStr::new(name))
    };
    if let Err(error) = make() {
        tree::remove(&parent, OsStr::new(&temporary)).because(Cause::Sandbox, || temporary.clone())?;
        let taken = error.errno == Errno::EEXIST;
        let what = if taken { "exists already".to_owned() } else { format!("cannot be made: {error}") };
        return Err(Error::new(Cause::Sandbox, format!("{} {what}", path.display())));
    }
    Ok(path)
}

/// Opens the sandbox of a container of filesystem/posix: a directory below one of `directories`, owned by the
/// container's user and writable by nobody else.
///
/// # Errors
/// [`Cause::PosixSandbox`].
pub fn open_working_directory(cwd: &str, directories: &[PathBuf], uid: u32) -> Result<OwnedFd> {
    let refused = |what: String| Error::new(Cause::PosixSandbox, what);
    let cwd = Path::new(cwd);
    let Some((directory, rest)) = directories.iter().find_map(|d| Some((d, cwd.strip_prefix(d).ok()?))) else {
        return Err(refused(format!("{} does not lie below posix_sandboxes", cwd.display())));
    };
    let Some(directory) = trusted::open_dir(directory, Missing::Tell)? else {
        return Err(refused(format!("{} does not exist", directory.display())));
    };
    let fd = sys::open_place(&directory, rest, Resolve::BeneathNoLinks)
        .because(Cause::PosixSandbox, || format!("the working directory {} cannot be opened", cwd.display()))?;
    let stat = sys::stat(&fd).because(Cause::PosixSandbox, || cwd.display().to_string())?;
    if stat.uid != uid {
        return Err(refused(format!(
            "the working directory {} belongs to user {} and the container runs as {uid}",
            cwd.display(),
            stat.uid
        )));
    }
    if stat.mode & 0o022 != 0 {
        return Err(refused(format!(
            "the working directory {} is writable by others (mode {:04o})",
            cwd.display(),
            stat.permissions()
        ))
        .remedy(format!("chmod go-w {}", shell_word(&cwd.to_string_lossy()))));
    }
    Ok(fd)
}
