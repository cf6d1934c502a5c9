//! What `fs-isolator volume create` decided about a volume: kept with it, in the extended attribute
//! `trusted.fs-isolator` of its root, or in a file under `<work_dir>/meta/fs-isolator/volumes` where the filesystem, or
//! the user, has none of these.
#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::{Disk, Found};
use crate::config::Ownership;
use crate::config::disks::Kind;
use crate::error::{Because, Cause, Error, Result};
use crate::me::me;
use crate::request::names::{RESERVED, Role, VolumeId};
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};

const ATTRIBUTE: &CStr = c"trusted.fs-isolator";

/// Version of the format; every released one stays readable.
const VERSION: u32 = 1;

/// What was decided. What is absent was not decided.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the format.
    #[serde(default)]
    pub version: u32,
    /// Its role; on a MOUNT disk nobody else has it.
    pub role: Option<Role>,
    /// Its id.
    pub id: Option<VolumeId>,
    /// Whether several containers may hold it at once.
    pub shared: Option<bool>,
    /// Who owns its root.
    pub ownership: Option<Ownership>,
    /// Reserved size in MB. Not enforced.
    pub size_mb: Option<f64>,
    /// It is being destroyed: what is left of it is no volume any more.
    #[serde(default)]
    pub destroying: bool,
}

impl Meta {
    /// For a new volume.
    #[must_use]
    pub fn new(role: &Role, id: &VolumeId) -> Meta {
        Meta { version: VERSION, role: Some(role.clone()), id: Some(id.clone()), ..Meta::default() }
    }

    /// Whether it was made for this role and id, and not destroyed since.
    #[must_use]
    pub fn is_of(&self, role: &Role, id: &VolumeId) -> bool {
        !self.destroying && self.role.as_ref() == Some(role) && self.id.as_ref() == Some(id)
    }
}

/// Metadata that lies in a file, and which directory it is about: there may be another by now under that name, and on
/// a disk that has another's mount point.
#[derive(Debug, Serialize, Deserialize)]
struct Beside {
    file: Identity,
    #[serde(flatten)]
    meta: Meta,
}

/// A directory, told apart from others across reboots, which change device numbers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    filesystem: u64,
    inode: u64,
    born: i64,
}

impl Identity {
    fn of(fd: &OwnedFd) -> sys::Result<Identity> {
        let stat = sys::stat(fd)?;
        Ok(Identity { filesystem: sys::filesystem(fd)?.id, inode: stat.id.ino, born: stat.born })
    }
}

/// Where the metadata of a volume lies that cannot have the attribute: directories below `work_dir`, and a name.
struct Place {
    directories: Vec<String>,
    name: String,
}

fn place(disk: &Disk, role: &Role, id: &VolumeId) -> Place {
    let mut directories = ["meta", "fs-isolator", "volumes", disk.name()].map(str::to_owned).to_vec();
    if disk.kind() == Kind::Mount {
        return Place { directories, name: ".mount".to_owned() };
    }
    directories.push(role.directory());
    Place { directories, name: id.as_str().to_owned() }
}

/// Reads the metadata of a volume; `None` where nothing was decided.
///
/// # Errors
/// [`Cause::VolumeUnavailable`] for metadata of a later version, or that cannot be read.
pub fn read(volume: &Found) -> Result<Option<Meta>> {
    read_at(&volume.fd, &volume.disk, &volume.role, &volume.id)
}

/// Whom a MOUNT disk was made for.
///
/// # Errors
/// As [`read`].
pub fn owner_of(disk: &Rc<Disk>) -> Result<Option<(Role, VolumeId)>> {
    Ok(read_mount(disk)?.filter(|meta| !meta.destroying).and_then(|meta| Some((meta.role?, meta.id?))))
}

/// The metadata of a MOUNT disk, whosever it is.
///
/// # Errors
/// As [`read`].
pub fn read_mount(disk: &Disk) -> Result<Option<Meta>> {
    let doing = || disk.path().display().to_string();
    let fd =
        sys::open_dir(disk.fd(), Path::new("."), Resolve::BeneathNoLinks).because(Cause::DiskUnavailable, doing)?;
    // Role and id are no part of where its metadata lies.
    let (role, id) = (Role::parse("mount")?, VolumeId::parse("mount")?);
    read_at(&fd, disk, &role, &id)
}

fn read_at(fd: &OwnedFd, disk: &Disk, role: &Role, id: &VolumeId) -> Result<Option<Meta>> {
    let doing = || format!("the metadata of {} cannot be read", disk.path_of(role, id).display());
    let garbled = |error: serde_json::Error| Error::new(Cause::VolumeUnavailable, format!("{}: {error}", doing()));
    let meta = match attribute(fd) {
        Ok(None) => None,
        Ok(Some(text)) => Some(serde_json::from_slice::<Meta>(&text).map_err(garbled)?),
        Err(error) if error.errno == Errno::EOPNOTSUPP => match read_beside(&place(disk, role, id), disk)? {
            None => None,
            Some(text) => {
                let beside: Beside = serde_json::from_slice(&text).map_err(garbled)?;
                let mine = Identity::of(fd).because(Cause::VolumeUnavailable, doing)? == beside.file;
                mine.then_some(beside.meta)
            }
        },
        Err(error) => return Err(error).because(Cause::VolumeUnavailable, doing),
    };
    if let Some(meta) = &meta
        && meta.version > VERSION
    {
        return Err(Error::new(Cause::VolumeUnavailable, format!("{}: it is of version {}", doing(), meta.version))
            .remedy("use the fs-isolator that wrote it; nothing was changed"));
    }
    Ok(meta)
}

fn read_beside(place: &Place, disk: &Disk) -> Result<Option<Vec<u8>>> {
    let Some(directory) = open_directory(disk, place, Missing::Tell)? else { return Ok(None) };
    let doing = || format!("metadata of a volume on disk {} cannot be read", disk.name());
    match sys::open_file_at(&directory, &place.name, OFlag::O_RDONLY, 0) {
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        answer => {
            let fd = answer.because(Cause::VolumeUnavailable, doing)?;
            crate::read::at_most(fd.into(), 64 << 10).because(Cause::VolumeUnavailable, doing).map(Some)
        }
    }
}

/// Without CAP_SYS_ADMIN on the host there are no `trusted.` attributes: none can be read, and none set.
fn attribute(fd: &OwnedFd) -> sys::Result<Option<Vec<u8>>> {
    if has_attributes() {
        return sys::get_xattr(fd, ATTRIBUTE);
    }
    Err(sys::SysError { call: "fgetxattr", on: String::new(), errno: Errno::EOPNOTSUPP })
}

fn has_attributes() -> bool {
    me().user.is_none() && !me().in_namespace
}

/// Writes the metadata of a volume whose root is open for reading.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn write(fd: &OwnedFd, disk: &Disk, role: &Role, id: &VolumeId, meta: &Meta) -> Result<()> {
    write_attribute(fd, disk, role, id, meta)?;
    write_beside(fd, disk, role, id, meta)
}

/// Writes the metadata into the volume's attribute, where it can have one.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn write_attribute(fd: &OwnedFd, disk: &Disk, role: &Role, id: &VolumeId, meta: &Meta) -> Result<()> {
    let doing = || format!("the metadata of {} cannot be written", disk.path_of(role, id).display());
    if !has_attributes() {
        return Ok(());
    }
    let text = serde_json::to_vec(meta)
        .map_err(|error| Error::new(Cause::VolumeUnavailable, format!("{}: {error}", doing())))?;
    match sys::set_xattr(fd, ATTRIBUTE, &text) {
        Err(error) if error.errno == Errno::EOPNOTSUPP => Ok(()),
        answer => answer.and_then(|()| sys::fsync(fd)).because(Cause::VolumeUnavailable, doing),
    }
}

/// Writes the metadata beside the volume, where it cannot have the attribute.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn write_beside(fd: &OwnedFd, disk: &Disk, role: &Role, id: &VolumeId, meta: &Meta) -> Result<()> {
    let doing = || format!("the metadata of {} cannot be written", disk.path_of(role, id).display());
    if !matches!(attribute(fd), Err(error) if error.errno == Errno::EOPNOTSUPP) {
        return Ok(());
    }
    let file = Identity::of(fd).because(Cause::VolumeUnavailable, doing)?;
    let text = serde_json::to_vec(&Beside { file, meta: meta.clone() })
        .map_err(|error| Error::new(Cause::VolumeUnavailable, format!("{}: {error}", doing())))?;
    let place = place(disk, role, id);
    let directory = open_directory(disk, &place, Missing::Make(0o700))?
        .ok_or_else(|| Error::new(Cause::VolumeUnavailable, doing()))?;
    let temporary = format!("{RESERVED}{}", std::process::id());
    let write = || -> std::io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let io = |error: sys::SysError| std::io::Error::from(error.errno);
        let mut file = std::fs::File::from(sys::open_file_at(&directory, &temporary, flags, 0o600).map_err(io)?);
        std::io::Write::write_all(&mut file, &text)?;
        file.sync_all()?;
        sys::rename_over(&directory, &temporary, &place.name).map_err(io)
    };
    write().because(Cause::VolumeUnavailable, doing)
}

/// Forgets what was decided about a volume; its root may be gone.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn forget(fd: Option<&OwnedFd>, disk: &Disk, role: &Role, id: &VolumeId) -> Result<()> {
    let doing = || format!("the metadata of {} cannot be removed", disk.path_of(role, id).display());
    if let Some(fd) = fd
        && has_attributes()
    {
        match sys::remove_xattr(fd, ATTRIBUTE) {
            Err(error) if error.errno == Errno::EOPNOTSUPP => {}
            answer => return answer.because(Cause::VolumeUnavailable, doing),
        }
    }
    let place = place(disk, role, id);
    let Some(directory) = open_directory(disk, &place, Missing::Tell)? else { return Ok(()) };
    match sys::unlink_at(&directory, OsStr::new(&place.name), false) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        answer => answer.because(Cause::VolumeUnavailable, doing),
    }
}

/// The directory of a place lies below `work_dir`, whatever disk the volume is on.
fn open_directory(disk: &Disk, place: &Place, missing: Missing) -> Result<Option<trusted::Directory>> {
    let work_dir = disk.work_dir();
    let Some(fd) = trusted::open_dir(work_dir, missing)? else { return Ok(None) };
    let names: Vec<&str> = place.directories.iter().map(String::as_str).collect();
    trusted::open_dir_below(&fd, work_dir, &names, missing)
}
