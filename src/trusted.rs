//! Opening what must be the administrator's alone: the configuration, `work_dir`, `runtime_dir` and all above.
//!
//! Each component is opened below the one before it, without following links, and looked at through the
//! descriptor: owned by root, writable by nobody else. A sticky `/tmp` does not pass.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Error, Result};
use crate::sys::{self, Resolve, Stat};

/// What to do where a component is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Answer `None`.
    Tell,
    /// Make it, and what is missing above it, with these permission bits.
    Make(u32),
}

/// Opens a trusted directory (`O_PATH`).
///
/// # Errors
/// [`Cause::ConfigUnsafe`] where a component could be changed by others, is a link or no directory, or the path
/// is not absolute.
pub fn open_dir(path: &Path, missing: Missing) -> Result<Option<OwnedFd>> {
    walk(path, missing, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

/// Opens a trusted file for reading.
///
/// # Errors
/// As [`open_dir`].
pub fn open_file(path: &Path) -> Result<Option<OwnedFd>> {
    walk(path, Missing::Tell, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
}

/// Opens a trusted directory or file as a place to clone from.
///
/// # Errors
/// As [`open_dir`].
pub fn open_place(path: &Path) -> Result<Option<OwnedFd>> {
    walk(path, Missing::Tell, OFlag::O_PATH)
}

/// Opens a trusted directory below one that is open and trusted already; `shown` is that one's path.
///
/// # Errors
/// As [`open_dir`].
pub fn open_dir_below(base: &OwnedFd, shown: &Path, names: &[&str], missing: Missing) -> Result<Option<OwnedFd>> {
    let names: Vec<&Path> = names.iter().map(Path::new).collect();
    descend(base, shown, &names, missing, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

fn walk(path: &Path, missing: Missing, last: OFlag) -> Result<Option<OwnedFd>> {
    if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(Error::new(Cause::ConfigUnsafe, format!("{} is not an absolute path without ..", path.display()))
            .remedy("write an absolute path without .. into the configuration"));
    }
    let names: Vec<&Path> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Path::new(name)),
            _ => None,
        })
        .collect();
    let place = if names.is_empty() { last } else { OFlag::O_PATH | OFlag::O_DIRECTORY };
    let root = sys::open_below(sys::cwd(), Path::new("/"), place, Resolve::NoLinks)
        .because(Cause::ConfigUnsafe, || "/ cannot be opened".to_owned())?;
    check(&root, Path::new("/"))?;
    if names.is_empty() { Ok(Some(root)) } else { descend(&root, Path::new("/"), &names, missing, last) }
}

/// Opens one component after the other.
fn descend(base: &OwnedFd, shown: &Path, names: &[&Path], missing: Missing, last: OFlag) -> Result<Option<OwnedFd>> {
    let mut current: Option<OwnedFd> = None;
    let mut shown = shown.to_owned();
    for (index, name) in names.iter().enumerate() {
        shown.push(name);
        let is_last = index + 1 == names.len();
        let flags = if is_last { last } else { OFlag::O_PATH | OFlag::O_DIRECTORY };
        let parent = current.as_ref().unwrap_or(base);
        let doing = || format!("{} cannot be opened without following links", shown.display());
        let open = || sys::open_below(parent, name, flags, Resolve::BeneathNoLinks);
        let next = match (open(), missing) {
            (Err(error), Missing::Tell) if error.errno == Errno::ENOENT => return Ok(None),
            (Err(error), Missing::Make(mode)) if error.errno == Errno::ENOENT => {
                match sys::mkdir_at(parent, &name.to_string_lossy(), mode) {
                    Err(error) if error.errno == Errno::EEXIST => {}
                    answer => answer
                        .and_then(|()| sys::fsync(sys::open_dir(parent, Path::new("."), Resolve::BeneathNoLinks)?))
                        .because(Cause::ConfigUnsafe, || format!("{} cannot be made", shown.display()))?,
                }
                open().because(Cause::ConfigUnsafe, doing)?
            }
            (answer, _) => answer.because(Cause::ConfigUnsafe, doing)?,
        };
        check(&next, &shown)?;
        current = Some(next);
    }
    Ok(current)
}

/// The user to whom files of unmapped users seem to belong (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

fn check(fd: &OwnedFd, shown: &Path) -> Result<()> {
    let shown = shown.display();
    let stat = sys::stat(fd).because(Cause::ConfigUnsafe, || format!("{shown} cannot be looked at"))?;
    match fault(&stat) {
        None => Ok(()),
        Some(fault) if stat.uid == OVERFLOW => Err(Error::new(
            Cause::NotSupported,
            format!("{shown} {fault}: this looks like a rootless container, which this version does not serve"),
        )
        .remedy("run the container as root of the host")),
        Some(fault) => Err(Error::new(Cause::ConfigUnsafe, format!("{shown} {fault}"))
            .remedy(format!("chown root {shown} && chmod go-w {shown}"))),
    }
}

/// What makes a file one that others could change.
fn fault(stat: &Stat) -> Option<String> {
    if stat.is_link() {
        Some("is a symbolic link".to_owned())
    } else if stat.uid != 0 {
        Some(format!("belongs to user {} and not to root", stat.uid))
    } else if stat.mode & 0o022 != 0 {
        Some(format!("is writable by others (mode {:04o})", stat.permissions()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FileId;

    #[test]
    fn only_root_may_write() {
        let stat =
            |uid, mode| Stat { id: FileId { dev: 0, ino: 0 }, mount: 0, mode, uid, gid: 7, mount_root: false, born: 0 };
        assert_eq!(fault(&stat(0, 0o040_755)), None);
        assert_eq!(fault(&stat(0, 0o100_640)), None);
        for (uid, mode) in [(1000, 0o040_755), (0, 0o040_775), (0, 0o041_777), (0, 0o100_602), (0, 0o120_777)] {
            assert!(fault(&stat(uid, mode)).is_some(), "{uid} {mode:o}");
        }
    }

    #[test]
    fn relative_paths_and_dots_are_refused() {
        for path in ["etc", "/etc/../etc"] {
            assert_eq!(open_dir(Path::new(path), Missing::Tell).unwrap_err().cause(), Cause::ConfigUnsafe);
        }
    }
}
