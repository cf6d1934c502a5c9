//! Mount points and links: found or made beneath a descriptor, shared between containers, and removed by the
//! last that needs them.
//!
//! Two containers may run on one root filesystem. If the first removed a mount point that it had made, the
//! kernel would take the second's mount away with it, and the second's next write would land in the root
//! filesystem. So everything a hook makes has a directory under `runtime_dir/mountpoints`, named by device,
//! inode and birth, with an empty file for each record that holds it. The last of them removes the thing, under
//! that directory's lock. Who holds something holds the directories above it that hooks made, too.
//!
//! A name appears in one step: the directory or link is made under a temporary name, its inode is written
//! down, and then it is renamed. Killed in between, the record tells what to remove.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Error, Result};
use crate::holders::{File, Holders};
use crate::record::{Line, Place, Record, Within};
use crate::request::container_path::ContainerPath;
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, Resolve, Stat, SysError};

/// A directory below which mount points are found and made.
#[derive(Debug)]
pub struct Base<'a> {
    /// The directory.
    pub fd: &'a OwnedFd,
    /// Which one it is.
    pub within: Within,
    /// How paths below it are resolved.
    pub resolve: Resolve,
    /// Owner of directories that are made on the way.
    pub owner: (u32, u32),
}

/// What a mount point must be: the same as what is mounted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else; one that is made is an empty regular file.
    File,
}

impl Kind {
    /// The kind of a mount point for this.
    #[must_use]
    pub fn of(stat: &Stat) -> Kind {
        if stat.is_dir() { Kind::Directory } else { Kind::File }
    }
}

/// What to do where a target does not exist.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Make it.
    Make,
    /// Refuse: it would lie in something that is not the container's own.
    Refuse {
        /// What it would lie in.
        inside: String,
        /// The command to run instead.
        command: String,
    },
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
    /// The root filesystem of a container that runs, as the host has it: its own mount may be read-only.
    pub host_root: Option<&'a OwnedFd>,
}

/// What to do where nothing can be made.
const READ_ONLY: &str = "make the mount point in the image, or ask for a path on a mount that is writable";

/// Others may remove or make what we look at; then it is looked at again, so often.
const TRIES: usize = 16;

impl MountPoints<'_> {
    /// Opens what is at `path` below `base` (`O_PATH`), makes it where it may be made, and holds it where a hook made it.
    ///
    /// # Errors
    /// [`Cause::MountPointMissing`] where it may not be made; [`Cause::MountPointUnsafe`] where something of another kind
    /// is in the way.
    pub fn place(
        &mut self,
        base: &Base<'_>,
        path: &ContainerPath,
        kind: Kind,
        missing: &Missing,
    ) -> Result<(OwnedFd, Stat)> {
        let relative = path.relative();
        for _ in 0..TRIES {
            match sys::open_path(base.fd, Path::new(&relative), base.resolve) {
                Ok(fd) => {
                    let there = stat(&fd, &relative)?;
                    check_kind(&relative, &there, kind)?;
                    if self.hold(base, &relative, &fd, &there)? {
                        return Ok((fd, there));
                    }
                }
                Err(error) if error.errno == Errno::ENOENT => match missing {
                    Missing::Make => self.make_missing(base, &relative, kind)?,
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

    /// Makes a symbolic link at `path` below `base`. One that says the same already is left as it is.
    ///
    /// # Errors
    /// [`Cause::LinkConflict`] where anything else is there.
    pub fn link(&mut self, base: &Base<'_>, path: &ContainerPath, target: &Path) -> Result<()> {
        let relative = path.relative();
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", &relative));
        for _ in 0..TRIES {
            let directory = if parent.is_empty() {
                sys::open_place(base.fd, Path::new("."), base.resolve)
                    .because(Cause::PosixSandbox, || "the sandbox".to_owned())?
            } else {
                self.place(base, &ContainerPath::parse_relative(parent)?, Kind::Directory, &Missing::Make)?.0
            };
            let place = Place { within: base.within, parent: parent.to_owned(), name: name.to_owned() };
            match sys::stat_at(&directory, name) {
                Ok(stat) => {
                    // By its text: following it would mean going, as root, wherever the container's user points.
                    let same = sys::readlink_at(&directory, name).is_ok_and(|there| there.as_os_str() == target);
                    if !same {
                        let what = if stat.is_link() { "a link that leads elsewhere" } else { "no link" };
                        return Err(Error::new(
                            Cause::LinkConflict,
                            format!("{relative} exists already and is {what}"),
                        ));
                    }
                    let file = File::of(&stat);
                    if !self.runtime.is_made_by_hook(&file.name())? || self.hold_one(place, file)? {
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

    /// Takes part in holding a mount point, and the directories above it, if a hook made it. `false` where it was removed
    /// meanwhile.
    fn hold(&mut self, base: &Base<'_>, relative: &str, fd: &OwnedFd, there: &Stat) -> Result<bool> {
        let file = File::of(there);
        if !self.runtime.is_made_by_hook(&file.name())? {
            // Nobody's. If a hook made a directory above, this one keeps that from being removed.
            return Ok(true);
        }
        let real = self.real_path(base, relative, fd)?;
        self.hold_all(base, &real)
    }

    /// Holds a mount point, whose path below the base has no links, and those above it, topmost first, as far as hooks
    /// made them. `false` where one was removed meanwhile.
    fn hold_all(&mut self, base: &Base<'_>, path: &str) -> Result<bool> {
        let components: Vec<&str> = path.split('/').collect();
        for length in 1..=components.len() {
            let shown = components[..length].join("/");
            let Ok(fd) = sys::open_path(base.fd, Path::new(&shown), Resolve::BeneathNoLinks) else { return Ok(false) };
            let file = File::of(&stat(&fd, &shown)?);
            if self.runtime.is_made_by_hook(&file.name())? {
                let parent = components[..length - 1].join("/");
                let place = Place { within: base.within, parent, name: components[length - 1].to_owned() };
                if !self.hold_one(place, file)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn hold_one(&mut self, place: Place, file: File) -> Result<bool> {
        // Once is enough, and the first time stands before everything below it: undoing goes the other way.
        if self.record.holds(file) {
            return Ok(true);
        }
        let Some(holders) = Holders::open(self.runtime.mount_points()?, &file.name())? else {
            // Its last holder has just removed it: look again.
            return Ok(false);
        };
        self.record.add(Line::Hold { place, file })?;
        holders.add(&self.record.name)?;
        Ok(true)
    }

    /// Path of an open place below the base, without any link in it.
    fn real_path(&self, base: &Base<'_>, relative: &str, fd: impl AsFd) -> Result<String> {
        if base.resolve != Resolve::InRoot {
            return Ok(relative.to_owned());
        }
        let doing = || relative.to_owned();
        let base_path = sys::path_of(self.proc_fds, base.fd).because(Cause::MountPointUnsafe, doing)?;
        let path = sys::path_of(self.proc_fds, fd).because(Cause::MountPointUnsafe, doing)?;
        let below = Path::new(&path).strip_prefix(&base_path).ok().and_then(Path::to_str);
        below.map(str::to_owned).ok_or_else(|| {
            Error::new(
                Cause::MountPointUnsafe,
                format!("{relative} leads to {path:?}, which is not below the container's root"),
            )
        })
    }

    /// Makes what is missing on the way to `relative`, the last component included, which is of this kind.
    fn make_missing(&mut self, base: &Base<'_>, relative: &str, kind: Kind) -> Result<()> {
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
        if stat(&directory, relative)?.mount != stat(base.fd, relative)?.mount {
            return Err(Error::new(
                Cause::MountPointMissing,
                format!("{relative} does not exist and would lie in a mount that is not the container's own"),
            ));
        }
        let shown = components[..length].join("/");
        let mut parent = self.real_path(base, &shown, &directory)?;
        if !parent.is_empty() && !self.hold_all(base, &parent)? {
            return Ok(());
        }
        if base.within == Within::Root {
            directory = self.writable(base, directory)?;
        }
        for (index, name) in components.iter().enumerate().skip(length) {
            let is_last = index + 1 == components.len();
            let place = Place { within: base.within, parent: parent.clone(), name: (*name).to_owned() };
            let owner = base.owner;
            let make = |temporary: &str| {
                if is_last && kind == Kind::File {
                    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                    drop(sys::open_file_at(&directory, temporary, flags, 0o644)?);
                } else {
                    sys::mkdir_at(&directory, temporary, 0o755)?;
                }
                if owner == (0, 0) {
                    return Ok(());
                }
                let fd = sys::open_path(&directory, Path::new(temporary), Resolve::BeneathNoLinks)?;
                sys::chown(fd, owner.0, owner.1)
            };
            if !self.make(&directory, place, make)? {
                // Somebody else was first: start over with what is there now.
                return Ok(());
            }
            if is_last {
                break;
            }
            directory = sys::open_place(&directory, Path::new(name), Resolve::BeneathNoLinks)
                .because(Cause::MountPointUnsafe, doing)?;
            parent = if parent.is_empty() { (*name).to_owned() } else { format!("{parent}/{name}") };
        }
        Ok(())
    }

    /// A directory of the root filesystem, to make something in: itself, or where the container runs and its mount is
    /// read-only, the same directory in a copy of the mount that nobody else sees. Not where the host cannot write there
    /// either: it could not remove anything, and whoever has made it so means it.
    fn writable(&self, base: &Base<'_>, directory: OwnedFd) -> Result<OwnedFd> {
        let Some(host) = self.host_root else { return Ok(directory) };
        let doing = || "the root filesystem is read-only".to_owned();
        let is_read_only = |fd: &OwnedFd| {
            sys::filesystem(fd).because(Cause::MountPointMissing, doing).map(|found| found.attributes.read_only)
        };
        let is_the_same = || stat(host, "/").and_then(|host| Ok(host.id == stat(base.fd, "/")?.id));
        if !is_read_only(&directory)? || !is_the_same()? || is_read_only(host)? {
            return Ok(directory);
        }
        let copy = sys::clone_mount(&directory).and_then(|copy| sys::make_writable(&copy).map(|()| copy));
        copy.because(Cause::MountPointMissing, doing).map_err(|error| error.remedy(READ_ONLY))
    }

    /// Makes one thing and gives it its name. `false` where the name was taken in the meantime, or the directory
    /// is gone.
    fn make(&mut self, directory: &OwnedFd, place: Place, make: impl Fn(&str) -> sys::Result<()>) -> Result<bool> {
        let name = place.name.clone();
        let doing = || format!("{name} cannot be made");
        let mut tries = 0;
        let temporary = loop {
            let temporary = self.record.temporary_name();
            self.record.add(Line::Making { place: place.clone(), temporary: temporary.clone() })?;
            tries += 1;
            match make(&temporary) {
                Ok(()) => break temporary,
                Err(error) if error.errno == Errno::ENOENT => return Ok(false),
                // Somebody guessed the name and was first. It is not ours, and there are others.
                Err(error) if error.errno == Errno::EEXIST && tries < TRIES => {}
                Err(error) if error.errno == Errno::EROFS && place.within == Within::Root => {
                    let what = format!("/{} is read-only, and {name} would have to be made there", place.parent);
                    return Err(Error::new(Cause::MountPointMissing, what).remedy(READ_ONLY));
                }
                Err(error) => return Err(error).because(Cause::MountPointUnsafe, doing),
            }
        };
        let made = sys::stat_at(directory, &temporary).because(Cause::MountPointUnsafe, doing)?;
        let file = File::of(&made);
        self.record.add(Line::Made { place: place.clone(), temporary: temporary.clone(), file })?;
        let holders = Holders::create(self.runtime.mount_points()?, &file.name())?;
        holders.clear()?;
        holders.add(&self.record.name)?;
        match sys::rename_new(directory, OsStr::new(&temporary), directory, OsStr::new(&name)) {
            Err(error) if error.errno == Errno::EEXIST => {
                holders.remove(self.runtime.mount_points()?)?;
                remove_name(directory, &temporary, &made).because(Cause::MountPointUnsafe, doing)?;
                Ok(false)
            }
            answer => answer.because(Cause::MountPointUnsafe, doing).map(|()| true),
        }
    }
}

fn stat(fd: &OwnedFd, shown: &str) -> Result<Stat> {
    sys::stat(fd).because(Cause::MountPointUnsafe, || shown.to_owned())
}

fn check_kind(path: &str, there: &Stat, kind: Kind) -> Result<()> {
    let (is, what) = match (Kind::of(there), kind) {
        (Kind::Directory, Kind::File) => ("a directory", "a file"),
        (Kind::File, Kind::Directory) => ("not a directory", "a directory"),
        _ => return Ok(()),
    };
    Err(Error::new(Cause::MountPointUnsafe, format!("{path} is {is}, and what is mounted there is {what}"))
        .remedy("ask for another container path"))
}

fn in_the_way(path: &str, error: &SysError) -> Error {
    let what = match error.errno {
        Errno::ENOTDIR => "is not a directory, or lies below something that is none".to_owned(),
        Errno::ELOOP => "has a symbolic link that may not be followed".to_owned(),
        _ => format!("cannot be opened: {error}"),
    };
    Error::new(Cause::MountPointUnsafe, format!("{path} {what}"))
}

/// Removes an empty directory, an empty file, or a link: whatever somebody has put into is theirs, and stays.
fn remove_name(directory: &OwnedFd, name: &str, there: &Stat) -> sys::Result<()> {
    if there.is_file() && there.size > 0 {
        return Ok(());
    }
    match sys::unlink_at(directory, OsStr::new(name), there.is_dir()) {
        Err(error) if matches!(error.errno, Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => Ok(()),
        answer => answer,
    }
}

/// Removes what carries a temporary name and is empty, as everything is that a hook gives such a name.
///
/// # Errors
/// [`Cause::UndoIncomplete`].
pub fn remove_temporary(base: &OwnedFd, place: &Place, temporary: &str) -> Result<()> {
    let Some(directory) = open_parent(base, place)? else { return Ok(()) };
    let doing = || format!("{temporary} in /{}", place.parent);
    match sys::stat_at(&directory, temporary).and_then(|there| remove_name(&directory, temporary, &there)) {
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EBUSY) => Ok(()),
        answer => answer.because(Cause::UndoIncomplete, doing),
    }
}

/// Gives up a hold; the last holder removes the thing itself. Without `base` (it is unmounted or gone) only the
/// holders are kept up.
///
/// # Errors
/// [`Cause::UndoIncomplete`], [`Cause::RuntimeDir`].
pub fn release(runtime: &RuntimeDir, base: Option<&OwnedFd>, record: &str, place: &Place, file: File) -> Result<()> {
    let Some(holders) = Holders::open(runtime.mount_points()?, &file.name())? else { return Ok(()) };
    if holders.others(&runtime.records, record)? {
        return holders.take_out(record);
    }
    let directory = match base {
        None => None,
        Some(base) => open_parent(base, place)?,
    };
    let doing = || format!("{} in /{}", place.name, place.parent);
    if let Some(directory) = directory
        && let Some(there) =
            sys::if_there(sys::stat_at(&directory, &place.name)).because(Cause::UndoIncomplete, doing)?
        && File::of(&there) == file
    {
        remove_name(&directory, &place.name, &there).because(Cause::UndoIncomplete, doing)?;
    }
    holders.remove(runtime.mount_points()?)
}

fn open_parent(base: &OwnedFd, place: &Place) -> Result<Option<OwnedFd>> {
    let parent = if place.parent.is_empty() { "." } else { &place.parent };
    // Replaced or moved, what was made is not there any more.
    sys::if_there(sys::open_place(base, Path::new(parent), Resolve::BeneathNoLinksNoMounts))
        .because(Cause::UndoIncomplete, || format!("{parent} cannot be opened"))
}
