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
use crate::me::{Me, me};
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

/// Opens a trusted directory as a place to clone from, or what lies in one: a file, device or socket, which nobody but
/// root can replace there, whoever may write to it.
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
    check(&root, Path::new("/"), false)?;
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
        let only_its_place_counts = is_last && last == OFlag::O_PATH;
        check(&next, &shown, only_its_place_counts)?;
        current = Some(next);
    }
    Ok(current)
}

/// Whether the way to a directory is closed to other users of the host.
///
/// # Errors
/// [`Cause::ConfigUnsafe`].
pub fn is_closed(path: &Path) -> Result<bool> {
    let doing = || format!("{} cannot be looked at", path.display());
    let mut current =
        sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoLinks).because(Cause::ConfigUnsafe, doing)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        current =
            sys::open_place(&current, Path::new(name), Resolve::BeneathNoLinks).because(Cause::ConfigUnsafe, doing)?;
        if !lets_others_pass(&sys::stat(&current).because(Cause::ConfigUnsafe, doing)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether anybody but root may pass a directory: its owner and its group are others too.
#[must_use]
pub fn lets_others_pass(stat: &Stat) -> bool {
    let passes = |bit: u32| stat.mode & bit != 0;
    passes(0o001) || (stat.uid != 0 && passes(0o100)) || (stat.gid != 0 && passes(0o010))
}

/// The user to whom files of unmapped users seem to belong (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

fn check(fd: &OwnedFd, shown: &Path, only_its_place_counts: bool) -> Result<()> {
    let shown = shown.display();
    let stat = sys::stat(fd).because(Cause::ConfigUnsafe, || format!("{shown} cannot be looked at"))?;
    if only_its_place_counts && !stat.is_dir() && !stat.is_link() {
        return Ok(());
    }
    match fault(&stat, me()) {
        None => Ok(()),
        Some(fault) => {
            let owner = if me().user.is_some() { me().uid.to_string() } else { "root".to_owned() };
            Err(Error::new(Cause::ConfigUnsafe, format!("{shown} {fault}"))
                .remedy(format!("chown {owner} {shown} && chmod go-w {shown}")))
        }
    }
}

/// What makes a file one that others could change. For a user's rootless containers, root of the host counts as the
/// administrator too; in their user namespace it looks like nobody.
fn fault(stat: &Stat, me: &Me) -> Option<String> {
    let administrator = match (&me.user, me.in_namespace) {
        (None, _) => stat.uid == 0,
        (Some(_), true) => stat.uid == me.uid || stat.uid == OVERFLOW,
        (Some(_), false) => stat.uid == me.uid || stat.uid == 0,
    };
    if stat.is_link() {
        Some("is a symbolic link".to_owned())
    } else if !administrator {
        let whose = if me.user.is_some() { "neither to root nor to you" } else { "not to root" };
        Some(format!("belongs to user {} and {whose}", stat.uid))
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
        let stat = |uid, mode| Stat {
            id: FileId { dev: 0, ino: 0 },
            mount: 0,
            mode,
            uid,
            gid: 7,
            mount_root: false,
            born: 0,
            size: 0,
        };
        let root = Me { user: None, uid: 0, gid: 0, in_namespace: false };
        assert_eq!(fault(&stat(0, 0o040_755), &root), None);
        assert_eq!(fault(&stat(0, 0o100_640), &root), None);
        for (uid, mode) in [(1000, 0o040_755), (0, 0o040_775), (0, 0o041_777), (0, 0o100_602), (0, 0o120_777)] {
            assert!(fault(&stat(uid, mode), &root).is_some(), "{uid} {mode:o}");
        }
        let user = crate::me::User { uid: 1000, home: "/home/u".into() };
        let rootless = Me { user: Some(user.clone()), uid: 0, gid: 0, in_namespace: true };
        let plain = Me { user: Some(user), uid: 1000, gid: 1000, in_namespace: false };
        for (me, uid, trusted) in [
            (&root, OVERFLOW, false),
            (&rootless, 0, true),
            (&rootless, OVERFLOW, true),
            (&rootless, 1000, false),
            (&plain, 1000, true),
            (&plain, 0, true),
            (&plain, 1001, false),
        ] {
            assert_eq!(fault(&stat(uid, 0o040_755), me).is_none(), trusted, "{me:?} {uid}");
            assert!(fault(&stat(uid, 0o041_777), me).is_some());
        }
    }

    #[test]
    fn a_directory_of_somebody_lets_somebody_pass() {
        let stat = |uid, gid, mode| Stat {
            id: FileId { dev: 0, ino: 0 },
            mount: 0,
            mode,
            uid,
            gid,
            mount_root: false,
            born: 0,
            size: 0,
        };
        for (uid, gid, mode, passes) in [
            (0, 0, 0o750, false),
            (0, 0, 0o711, true),
            (0, 5, 0o750, true),
            (1000, 0, 0o700, true),
            (0, 5, 0o700, false),
        ] {
            assert_eq!(lets_others_pass(&stat(uid, gid, mode)), passes, "{uid}:{gid} {mode:o}");
        }
    }

    #[test]
    fn relative_paths_and_dots_are_refused() {
        for path in ["etc", "/etc/../etc"] {
            assert_eq!(open_dir(Path::new(path), Missing::Tell).unwrap_err().cause(), Cause::ConfigUnsafe);
        }
    }
}
