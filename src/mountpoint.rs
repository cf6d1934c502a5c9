//! Mount points and links: found or made beneath a descriptor, shared between containers, and removed by the
//! last that needs them.
//!
//! Two containers may run on one root filesystem. If the first removed a mount point that it had made, the
//! kernel would take the second's mount away with it, and the second's next write would land in the root
//! filesystem. So everything a hook makes has a file under `runtime_dir/mountpoints`, named by device and
//! inode, that lists the records that hold it, and is removed under that file's lock by the last of them.
//!
//! A name appears in one step: the directory or link is made under a temporary name, its inode is written
//! down, and then it is renamed. Killed in between, the record tells what to remove.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use crate::error::{Because, Cause, Error, Result};
use crate::plan::Missing;
use crate::record::{Line, Place, Record, Within};
use crate::request::container_path::ContainerPath;
use crate::runtime_dir::{Locked, Open, RuntimeDir};
use crate::sys::{self, FileId, Resolve, SysError};

/// A directory below which mount points are found and made.
#[derive(Debug)]
pub struct Base<'a> {
    /// The directory.
    pub fd: &'a OwnedFd,
    /// Which one it is.
    pub within: Within,
    /// Its path as this process sees it now, where links may lie on the way to a mount point.
    pub path: Option<&'a Path>,
    /// How paths below it are resolved.
    pub resolve: Resolve,
    /// Owner of directories that are made on the way.
    pub owner: (u32, u32),
}

/// Finds and makes mount points for one record.
#[derive(Debug)]
pub struct MountPoints<'a> {
    /// Where holders are listed.
    pub runtime: &'a RuntimeDir,
    /// Where it is written down.
    pub record: &'a mut Record,
    /// For [`sys::path_of`].
    pub proc_fds: &'a OwnedFd,
}

/// Others may remove or make what we look at; then it is looked at again, so often.
const TRIES: usize = 16;

impl MountPoints<'_> {
    /// Opens the directory at `path` below `base` (`O_PATH`), makes it where it may be made, and holds it
    /// where a hook made it.
    ///
    /// # Errors
    /// [`Cause::MountPointMissing`] where it may not be made; [`Cause::MountPointUnsafe`] where something else
    /// than a directory is in the way.
    pub fn directory(&mut self, base: &Base<'_>, path: &ContainerPath, missing: &Missing) -> Result<OwnedFd> {
        let relative = path.relative();
        for _ in 0..TRIES {
            match sys::open_place(base.fd, Path::new(&relative), base.resolve) {
                Ok(fd) => {
                    if self.hold(base, &relative, &fd)? {
                        return Ok(fd);
                    }
                }
                Err(error) if error.errno == Errno::ENOENT => match missing {
                    Missing::Make => self.make_directories(base, &relative)?,
                    Missing::Refuse { inside, command } => {
                        return Err(Error::new(
                            Cause::MountPointMissing,
                            format!("{path} does not exist and would lie in {inside}"),
                        )
                        .remedy(format!("run: {command}")));
                    }
                },
                Err(error) => return Err(in_the_way(&relative, &error)),
            }
        }
        Err(Error::new(Cause::MountPointUnsafe, format!("{path} keeps changing, or a dangling link lies on its way")))
    }

    /// Makes a symbolic link at `path` below `base`. One that leads to the same directory already is left as it
    /// is.
    ///
    /// # Errors
    /// [`Cause::LinkConflict`] where anything else is there.
    pub fn link(&mut self, base: &Base<'_>, path: &ContainerPath, target: &Path, target_id: FileId) -> Result<()> {
        let relative = path.relative();
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", &relative));
        for _ in 0..TRIES {
            let directory = if parent.is_empty() {
                sys::open_place(base.fd, Path::new("."), base.resolve)
                    .because(Cause::PosixSandbox, || "the sandbox".to_owned())?
            } else {
                self.directory(base, &ContainerPath::parse_relative(parent)?, &Missing::Make)?
            };
            let place = Place { within: base.within, parent: parent.to_owned(), name: name.to_owned() };
            match sys::stat_at(&directory, name) {
                Ok(stat) => {
                    let there = sys::readlink_at(&directory, name).ok();
                    let same = there.is_some_and(|there| {
                        // Followed from the sandbox, as the container would.
                        sys::open_place(&directory, Path::new(&there), Resolve::NoMagic)
                            .and_then(sys::stat)
                            .is_ok_and(|stat| stat.id == target_id)
                    });
                    if !same {
                        let what = if stat.is_link() { "a link that leads elsewhere" } else { "no link" };
                        return Err(Error::new(
                            Cause::LinkConflict,
                            format!("{relative} exists already and is {what}"),
                        ));
                    }
                    if self.hold_at(&place, stat.id)? {
                        return Ok(());
                    }
                }
                Err(error) if error.errno == Errno::ENOENT => {
                    let make = |name: &str| sys::symlink_at(&directory, name, target);
                    if self.make(&directory, place, make)? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Error::new(Cause::LinkConflict, error.to_string())),
            }
        }
        Err(Error::new(Cause::LinkConflict, format!("{relative} keeps changing")))
    }

    /// Takes part in holding a directory, if a hook made it. `false` where it was removed meanwhile.
    fn hold(&mut self, base: &Base<'_>, relative: &str, fd: &OwnedFd) -> Result<bool> {
        let id = sys::stat(fd).because(Cause::MountPointUnsafe, || relative.to_owned())?.id;
        if !entry_exists(self.runtime, id)? {
            return Ok(true);
        }
        let real = self.real_path(base, relative, fd)?;
        let (parent, name) = real.rsplit_once('/').unwrap_or(("", &real));
        self.hold_at(&Place { within: base.within, parent: parent.to_owned(), name: name.to_owned() }, id)
    }

    fn hold_at(&mut self, place: &Place, id: FileId) -> Result<bool> {
        let Some(mut entry) = Locked::open(&self.runtime.mount_points, &entry_name(id), Open::Existing)? else {
            // Nobody's, or removed a moment ago: attaching will tell, and come back.
            return Ok(true);
        };
        self.record.add(Line::Hold { place: place.clone(), id })?;
        entry.append(&format!("+{}", self.record.name))?;
        Ok(true)
    }

    /// Path of an open directory below the base, without any link in it.
    fn real_path(&self, base: &Base<'_>, relative: &str, fd: impl AsFd) -> Result<String> {
        let Some(base_path) = base.path else { return Ok(relative.to_owned()) };
        let path = sys::path_of(self.proc_fds, fd).because(Cause::MountPointUnsafe, || relative.to_owned())?;
        let below = Path::new(&path).strip_prefix(base_path).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| {
            Error::new(
                Cause::MountPointUnsafe,
                format!("{relative} leads to {path:?}, which is not below the container's root"),
            )
        })
    }

    /// Makes what is missing on the way to `relative`, the last component included.
    fn make_directories(&mut self, base: &Base<'_>, relative: &str) -> Result<()> {
        let components: Vec<&str> = relative.split('/').collect();
        let mut existing = None;
        for length in (0..components.len()).rev() {
            let prefix = if length == 0 { ".".to_owned() } else { components[..length].join("/") };
            match sys::open_place(base.fd, Path::new(&prefix), base.resolve) {
                Ok(fd) => {
                    existing = Some((length, fd));
                    break;
                }
                Err(error) if error.errno == Errno::ENOENT => {}
                Err(error) => return Err(in_the_way(&prefix, &error)),
            }
        }
        let Some((length, mut directory)) = existing else {
            return Err(Error::new(Cause::MountPointUnsafe, format!("{relative} lies below nothing")));
        };
        let doing = || format!("{relative} cannot be made");
        let stat = |fd: &OwnedFd| sys::stat(fd).because(Cause::MountPointUnsafe, doing);
        if stat(&directory)?.mount != stat(base.fd)?.mount {
            return Err(Error::new(
                Cause::MountPointMissing,
                format!("{relative} does not exist and would lie in a mount that is not the container's own"),
            ));
        }
        let shown = components[..length].join("/");
        let mut parent = self.real_path(base, &shown, &directory)?;
        for name in &components[length..] {
            let place = Place { within: base.within, parent: parent.clone(), name: (*name).to_owned() };
            let owner = base.owner;
            let make = |temporary: &str| {
                sys::mkdir_at(&directory, temporary, 0o755)?;
                if owner == (0, 0) {
                    return Ok(());
                }
                let fd = sys::open_place(&directory, Path::new(temporary), Resolve::BeneathNoLinks)?;
                sys::chown(fd, owner.0, owner.1)
            };
            if !self.make(&directory, place, make)? {
                // Somebody else was first: start over with what is there now.
                return Ok(());
            }
            directory = sys::open_place(&directory, Path::new(name), Resolve::BeneathNoLinks)
                .because(Cause::MountPointUnsafe, doing)?;
            parent = if parent.is_empty() { (*name).to_owned() } else { format!("{parent}/{name}") };
        }
        Ok(())
    }

    /// Makes one thing and gives it its name. `false` where the name was taken in the meantime, or the directory
    /// is gone.
    fn make(&mut self, directory: &OwnedFd, place: Place, make: impl Fn(&str) -> sys::Result<()>) -> Result<bool> {
        let name = place.name.clone();
        let doing = || format!("{name} cannot be made");
        let temporary = self.record.temporary_name();
        self.record.add(Line::Making { place: place.clone(), temporary: temporary.clone() })?;
        match make(&temporary) {
            Err(error) if error.errno == Errno::ENOENT => return Ok(false),
            answer => answer.because(Cause::MountPointUnsafe, doing)?,
        }
        let id = sys::stat_at(directory, &temporary).because(Cause::MountPointUnsafe, doing)?.id;
        self.record.add(Line::Made { place: place.clone(), temporary: temporary.clone(), id })?;
        let entry = Locked::open(&self.runtime.mount_points, &entry_name(id), Open::Create)?;
        let Some(mut entry) = entry else {
            return Err(Error::new(Cause::RuntimeDir, format!("no list of holders for {name}")));
        };
        // A list that is here already is of something that had this inode before.
        entry.clear()?;
        entry.append(&format!("+{}", self.record.name))?;
        match sys::rename_new(directory, OsStr::new(&temporary), directory, OsStr::new(&name)) {
            Err(error) if error.errno == Errno::EEXIST => {
                entry.remove(&self.runtime.mount_points)?;
                remove_name(directory, &temporary).because(Cause::MountPointUnsafe, doing)?;
                Ok(false)
            }
            answer => answer.because(Cause::MountPointUnsafe, doing).map(|()| true),
        }
    }
}

fn in_the_way(path: &str, error: &SysError) -> Error {
    let what = match error.errno {
        Errno::ENOTDIR => "is not a directory, or lies below something that is none".to_owned(),
        Errno::ELOOP => "has a symbolic link that may not be followed".to_owned(),
        _ => format!("cannot be opened: {error}"),
    };
    Error::new(Cause::MountPointUnsafe, format!("{path} {what}"))
}

fn entry_name(id: FileId) -> String {
    format!("{:x}-{:x}", id.dev, id.ino)
}

fn entry_exists(runtime: &RuntimeDir, id: FileId) -> Result<bool> {
    match sys::stat_at(&runtime.mount_points, &entry_name(id)) {
        Ok(_) => Ok(true),
        Err(error) if error.errno == Errno::ENOENT => Ok(false),
        Err(error) => Err(Error::new(Cause::RuntimeDir, error.to_string())),
    }
}

/// Removes an empty directory, or a link.
fn remove_name(directory: &OwnedFd, name: &str) -> sys::Result<()> {
    match sys::unlink_at(directory, OsStr::new(name), true) {
        Err(error) if error.errno == Errno::ENOTDIR => sys::unlink_at(directory, OsStr::new(name), false),
        answer => answer,
    }
}

/// Removes what carries a temporary name, which nothing of anybody else does.
///
/// # Errors
/// [`Cause::UndoIncomplete`].
pub fn remove_temporary(base: &OwnedFd, place: &Place, temporary: &str) -> Result<()> {
    let Some(directory) = open_parent(base, place)? else { return Ok(()) };
    match remove_name(&directory, temporary) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        answer => answer.because(Cause::UndoIncomplete, || format!("{temporary} in {}", place.parent)),
    }
}

/// Gives up a hold. The last holder removes the thing itself, and with it the directories above that hooks
/// made and nobody holds any more. Without `base` (it is unmounted or gone) only the lists are kept up.
///
/// # Errors
/// [`Cause::UndoIncomplete`], [`Cause::RuntimeDir`].
pub fn release(runtime: &RuntimeDir, base: Option<&OwnedFd>, holder: &str, place: &Place, id: FileId) -> Result<()> {
    let mut current = Some((place.clone(), id));
    while let Some((place, id)) = current.take() {
        let Some(mut entry) = Locked::open(&runtime.mount_points, &entry_name(id), Open::Existing)? else { break };
        if has_other_holders(runtime, &mut entry, holder)? {
            entry.append(&format!("-{holder}"))?;
            break;
        }
        let directory = match base {
            None => None,
            Some(base) => open_parent(base, &place)?,
        };
        let Some(directory) = directory else {
            entry.remove(&runtime.mount_points)?;
            break;
        };
        let there = sys::stat_at(&directory, &place.name).ok().filter(|stat| stat.id == id);
        if let Some(stat) = there {
            let removed = sys::unlink_at(&directory, OsStr::new(&place.name), stat.is_dir());
            match removed {
                // Somebody put something into it: it stays, and goes with the last of what hooks put there.
                Err(error) if error.errno == Errno::ENOTEMPTY || error.errno == Errno::EEXIST => {
                    entry.append(&format!("-{holder}"))?;
                    break;
                }
                Err(error) if error.errno == Errno::ENOENT => {}
                answer => answer.because(Cause::UndoIncomplete, || format!("{} in {}", place.name, place.parent))?,
            }
        }
        entry.remove(&runtime.mount_points)?;
        // Was the directory above made by a hook, and is it held by nobody now?
        current = match (place.up(), sys::stat(&directory)) {
            (Some(up), Ok(stat)) => Some((up, stat.id)),
            _ => None,
        };
    }
    Ok(())
}

/// Whether anybody else needs it: a record that no longer exists needs nothing.
fn has_other_holders(runtime: &RuntimeDir, entry: &mut Locked, me: &str) -> Result<bool> {
    let mut holders: Vec<String> = Vec::new();
    for line in entry.lines()? {
        match line.split_at_checked(1) {
            Some(("+", name)) => holders.push(name.to_owned()),
            Some(("-", name)) => holders.retain(|holder| holder != name),
            _ => {}
        }
    }
    Ok(holders.iter().any(|holder| holder != me && sys::stat_at(&runtime.records, holder).is_ok()))
}

fn open_parent(base: &OwnedFd, place: &Place) -> Result<Option<OwnedFd>> {
    let parent = if place.parent.is_empty() { "." } else { &place.parent };
    match sys::open_place(base, Path::new(parent), Resolve::BeneathNoLinksNoMounts) {
        // It was replaced or moved: then what was made is not there any more.
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
        answer => answer.because(Cause::UndoIncomplete, || format!("{parent} cannot be opened")).map(Some),
    }
}
