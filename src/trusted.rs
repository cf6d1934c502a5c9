//! Opening what must be the administrator's alone: the configuration, `work_dir`, `runtime_dir` and all above.
//!
//! Each component is opened below the one before it, without following links, and looked at through the
//! descriptor: owned by root, writable by nobody else. A sticky `/tmp` does not pass.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};
use std::sync::Arc;

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

/// A trusted directory, open as a place (`O_PATH`).
pub type Directory = Arc<OwnedFd>;

thread_local! {
    /// Directories that were opened and checked, by path, where that is remembered. By its bytes: paths are compared by
    /// component, at ten times the cost.
    static PASSED: RefCell<Option<BTreeMap<OsString, Directory>>> = const { RefCell::new(None) };
}

/// From here on this thread opens and checks each directory once. For a hook: it lives for a moment, opens several paths
/// that begin alike, and only root could exchange what it has passed.
pub fn remember() {
    PASSED.set(Some(BTreeMap::new()));
}

/// Opens a trusted directory.
///
/// # Errors
/// [`Cause::ConfigUnsafe`] where a component could be changed by others, is a link or no directory, or the path
/// is not absolute.
pub fn open_dir(path: &Path, missing: Missing) -> Result<Option<Directory>> {
    let (root, names) = components(path)?;
    descend(root, Path::new("/"), &names, missing)
}

/// Opens a trusted file for reading, and tells what it is.
///
/// # Errors
/// As [`open_dir`].
pub fn open_file(path: &Path) -> Result<Option<(OwnedFd, Stat)>> {
    open_last(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
}

/// Opens a trusted directory as a place to clone from, or what lies in one: a file, device or socket, which nobody but
/// root can replace there, whoever may write to it.
///
/// # Errors
/// As [`open_dir`].
pub fn open_place(path: &Path) -> Result<Option<OwnedFd>> {
    Ok(open_last(path, OFlag::O_PATH)?.map(|(place, _)| place))
}

/// Opens a trusted directory below one that is open and trusted already; `shown` is that one's path.
///
/// # Errors
/// As [`open_dir`].
pub fn open_dir_below(base: &Directory, shown: &Path, names: &[&str], missing: Missing) -> Result<Option<Directory>> {
    let names: Vec<&Path> = names.iter().map(Path::new).collect();
    descend(Arc::clone(base), shown, &names, missing)
}

/// Opens `/`, and tells which components lead on from there.
fn components(path: &Path) -> Result<(Directory, Vec<&Path>)> {
    if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(Error::new(Cause::ConfigUnsafe, format!("{} is not an absolute path without ..", path.display()))
            .remedy("write an absolute path without .. into the configuration"));
    }
    let names = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Path::new(name)),
            _ => None,
        })
        .collect();
    let root = Path::new("/");
    if let Some(known) = passed(root) {
        return Ok((known, names));
    }
    let open = sys::open_place(sys::cwd(), root, Resolve::NoLinks)
        .because(Cause::ConfigUnsafe, || "/ cannot be opened".to_owned())?;
    check(&open, root, false)?;
    Ok((pass(root, open), names))
}

fn passed(path: &Path) -> Option<Directory> {
    PASSED.with_borrow(|passed| passed.as_ref()?.get(path.as_os_str()).cloned())
}

fn pass(path: &Path, open: OwnedFd) -> Directory {
    let open = Arc::new(open);
    PASSED.with_borrow_mut(|passed| {
        if let Some(passed) = passed {
            passed.insert(path.into(), Arc::clone(&open));
        }
    });
    open
}

fn cannot_open(path: &Path) -> String {
    format!("{} cannot be opened without following links", path.display())
}

/// Opens one directory after the other.
fn descend(base: Directory, shown: &Path, names: &[&Path], missing: Missing) -> Result<Option<Directory>> {
    let mut current = base;
    let mut shown = shown.to_owned();
    for name in names {
        shown.push(name);
        if let Some(known) = passed(&shown) {
            current = known;
            continue;
        }
        let open = || sys::open_place(&current, name, Resolve::BeneathNoLinks);
        let next = match (open(), missing) {
            (Err(error), Missing::Tell) if error.errno == Errno::ENOENT => return Ok(None),
            (Err(error), Missing::Make(mode)) if error.errno == Errno::ENOENT => {
                match sys::mkdir_at(&current, &*name.to_string_lossy(), mode) {
                    Err(error) if error.errno == Errno::EEXIST => {}
                    answer => answer
                        .and_then(|()| sys::fsync(sys::open_dir(&current, Path::new("."), Resolve::BeneathNoLinks)?))
                        .because(Cause::ConfigUnsafe, || format!("{} cannot be made", shown.display()))?,
                }
                open().because(Cause::ConfigUnsafe, || cannot_open(&shown))?
            }
            (answer, _) => answer.because(Cause::ConfigUnsafe, || cannot_open(&shown))?,
        };
        check(&next, &shown, false)?;
        current = pass(&shown, next);
    }
    Ok(Some(current))
}

/// Opens a path whose last component may be no directory.
fn open_last(path: &Path, flags: OFlag) -> Result<Option<(OwnedFd, Stat)>> {
    let (root, names) = components(path)?;
    let (parent, name) = match names.split_last() {
        Some((name, above)) => (descend(root, Path::new("/"), above, Missing::Tell)?, *name),
        None => (Some(root), Path::new(".")),
    };
    let Some(parent) = parent else { return Ok(None) };
    match sys::open_below(&parent, name, flags, Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        answer => {
            let open = answer.because(Cause::ConfigUnsafe, || cannot_open(path))?;
            let stat = check(&open, path, flags == OFlag::O_PATH)?;
            Ok(Some((open, stat)))
        }
    }
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

fn check(fd: &OwnedFd, shown: &Path, only_its_place_counts: bool) -> Result<Stat> {
    let shown = shown.display();
    let stat = sys::stat(fd).because(Cause::ConfigUnsafe, || format!("{shown} cannot be looked at"))?;
    if only_its_place_counts && !stat.is_dir() && !stat.is_link() {
        return Ok(stat);
    }
    match fault(&stat, me()) {
        None => Ok(stat),
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

    #[test]
    fn only_root_may_write() {
        let stat = |uid, mode| Stat { mode, uid, gid: 7, ..Stat::default() };
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
        let stat = |uid, gid, mode| Stat { mode, uid, gid, ..Stat::default() };
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
