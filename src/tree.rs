//! Making directories below another, and deleting one with everything in it, by descriptor and never through a link.
//!
//! Mesos lost volumes by deleting sandboxes in which they were still mounted (MESOS-7366, 8830, 9352). Here
//! every directory that is deleted is opened with `RESOLVE_NO_XDEV`, so that a mount is an error, whoever put it there.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use crate::sys::{self, Kind, Resolve, Result};

/// Deeper directories are moved up to the top first, so that no tree needs more descriptors than this.
const DEEPEST: usize = 64;

/// Names that are held in memory at once for each level.
const AT_ONCE: usize = 1024;

/// Makes a directory below another, and those on the way to it, each with this mode. `give` gives each that is made what it
/// needs, and is told which is the last. One that is there stays as it is; but with mode 0 nobody's is whole before `give`
/// is through, so that one which a killed process has left so is given that again.
///
/// # Errors
/// What mkdirat(2), openat2(2) or `give` answer.
pub fn make(
    base: impl AsFd,
    path: &str,
    mode: u32,
    resolve: Resolve,
    give: impl Fn(&OwnedFd, bool) -> Result<()>,
) -> Result<OwnedFd> {
    let mut current = sys::open_place(base, Path::new("."), resolve)?;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let made = match sys::mkdir_at(&current, name, mode) {
            Err(error) if error.errno == Errno::EEXIST => false,
            answer => answer.map(|()| true)?,
        };
        let next = sys::open_dir(&current, Path::new(name), resolve)?;
        if made || (mode == 0 && sys::stat(&next)?.permissions() == 0) {
            give(&next, names.peek().is_none())?;
        }
        current = next;
    }
    Ok(current)
}

/// Deletes `name` in `parent`, if it exists.
///
/// # Errors
/// What openat2(2), getdents(2), renameat2(2) or unlinkat(2) answer: `EXDEV` where something is mounted. What
/// was deleted until then is gone.
pub fn remove(parent: impl AsFd, name: &OsStr) -> Result<()> {
    remove_counting(parent, name, &mut |_| {})
}

/// As [`remove`], and tells of each file or directory that is gone: how many that makes.
///
/// # Errors
/// As [`remove`].
pub fn remove_counting(parent: impl AsFd, name: &OsStr, tell: &mut dyn FnMut(u64)) -> Result<()> {
    let top = match open(&parent, name) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(()),
        Err(error) if error.errno == Errno::ENOTDIR || error.errno == Errno::ELOOP => {
            return sys::unlink_at(&parent, name, false);
        }
        answer => answer?,
    };
    Emptying { top: &top, moved: 0, removed: 0, tell }.level(&top, 0)?;
    drop(top);
    match sys::unlink_at(&parent, name, true) {
        // Somebody else finished it at the same time.
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        answer => answer,
    }
}

/// Deletes everything in a directory, and not the directory.
///
/// # Errors
/// As [`remove`].
pub fn empty(top: &OwnedFd) -> Result<()> {
    empty_counting(top, &mut |_| {})
}

/// As [`empty`], and tells as [`remove_counting`].
///
/// # Errors
/// As [`remove`].
pub fn empty_counting(top: &OwnedFd, tell: &mut dyn FnMut(u64)) -> Result<()> {
    Emptying { top, moved: 0, removed: 0, tell }.level(top, 0)
}

struct Emptying<'a> {
    top: &'a OwnedFd,
    /// Directories that were too deep and are at the top now.
    moved: u64,
    removed: u64,
    tell: &'a mut dyn FnMut(u64),
}

impl Emptying<'_> {
    /// Deletes what is in `directory`. What is too deep is moved to the top, where it is met again.
    fn level(&mut self, directory: &OwnedFd, depth: usize) -> Result<()> {
        loop {
            let names = entries(directory, AT_ONCE)?;
            if names.is_empty() {
                return Ok(());
            }
            for (name, kind) in names {
                if kind == Some(Kind::Other) {
                    self.unlink(directory, &name, false)?;
                    continue;
                }
                let child = match open(directory, &name) {
                    Err(error) if error.errno == Errno::ENOENT => continue,
                    Err(error) if error.errno == Errno::ENOTDIR || error.errno == Errno::ELOOP => {
                        self.unlink(directory, &name, false)?;
                        continue;
                    }
                    answer => answer?,
                };
                if depth >= DEEPEST {
                    self.move_up(directory, &name)?;
                    continue;
                }
                self.level(&child, depth + 1)?;
                drop(child);
                self.unlink(directory, &name, true)?;
            }
        }
    }

    /// Gives a directory a name at the top that nobody has taken, on purpose or not.
    fn move_up(&mut self, directory: &OwnedFd, name: &OsStr) -> Result<()> {
        loop {
            self.moved += 1;
            let aside = OsString::from(format!(".fs-isolator.deep.{}.{}", std::process::id(), self.moved));
            match sys::rename_new(directory, name, self.top, &aside) {
                Err(error) if error.errno == Errno::EEXIST => {}
                Err(error) if error.errno == Errno::ENOENT => return Ok(()),
                answer => return answer,
            }
        }
    }

    fn unlink(&mut self, directory: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<()> {
        match sys::unlink_at(directory, name, is_directory) {
            Err(error) if error.errno == Errno::ENOENT => {}
            answer => answer?,
        }
        self.removed += 1;
        (self.tell)(self.removed);
        Ok(())
    }
}

fn open(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    sys::open_dir(parent, Path::new(name), Resolve::BeneathNoLinksNoMounts)
}

/// Names in a directory, in the kernel's order, with their kinds where the filesystem tells.
fn entries(directory: &OwnedFd, most: usize) -> Result<Vec<(OsString, Option<Kind>)>> {
    match sys::read_directory(directory, most) {
        // It was opened as a place only.
        Err(error) if error.errno == Errno::EBADF => {
            sys::read_directory(&sys::open_dir(directory, Path::new("."), Resolve::BeneathNoLinks)?, most)
        }
        answer => answer,
    }
}

/// Names in a directory, sorted.
///
/// # Errors
/// What openat2(2) or getdents(2) answer.
pub fn names(directory: &OwnedFd) -> Result<Vec<OsString>> {
    let mut names: Vec<OsString> = entries(directory, usize::MAX)?.into_iter().map(|(name, _)| name).collect();
    names.sort();
    Ok(names)
}

/// The first few names of a directory, in the kernel's order: the work does not grow with the directory.
///
/// # Errors
/// As [`names`].
pub fn some_names(directory: &OwnedFd, most: usize) -> Result<Vec<OsString>> {
    Ok(entries(directory, most)?.into_iter().map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> (std::path::PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("fs-isolator-tree-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let fd = sys::open_dir(sys::cwd(), &path, Resolve::NoMagic).unwrap();
        (path, fd)
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let (path, fd) = scratch("links");
        fs::create_dir_all(path.join("keep")).unwrap();
        fs::write(path.join("keep/file"), "x").unwrap();
        fs::create_dir_all(path.join("gone/sub")).unwrap();
        std::os::unix::fs::symlink("../../keep", path.join("gone/sub/link")).unwrap();
        std::os::unix::fs::symlink("../keep/file", path.join("gone/file")).unwrap();
        remove(&fd, OsStr::new("gone")).unwrap();
        assert!(!path.join("gone").exists());
        assert_eq!(fs::read(path.join("keep/file")).unwrap(), b"x");
        remove(&fd, OsStr::new("gone")).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    // Names that are taken already, as only somebody who means harm would have them.
    #[test]
    fn a_deep_tree_with_taken_names_is_removed() {
        let (path, fd) = scratch("taken");
        let top = path.join("top");
        let mut deep = top.clone();
        (0..70).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        for number in 1..5 {
            fs::write(top.join(format!(".fs-isolator.deep.{}.{number}", std::process::id())), "").unwrap();
        }
        remove(&fd, OsStr::new("top")).unwrap();
        assert!(!top.exists());
        fs::remove_dir_all(path).unwrap();
    }

    // A container can make a tree deeper than any process may have descriptors.
    #[test]
    fn a_very_deep_tree_is_removed() {
        let (path, fd) = scratch("deep");
        sys::mkdir_at(&fd, "deep", 0o700).unwrap();
        let mut current = sys::open_place(&fd, Path::new("deep"), Resolve::NoLinks).unwrap();
        for _ in 0..3000 {
            sys::mkdir_at(&current, "d", 0o700).unwrap();
            current = sys::open_place(&current, Path::new("d"), Resolve::NoLinks).unwrap();
        }
        remove(&fd, OsStr::new("deep")).unwrap();
        assert!(!path.join("deep").exists());
        fs::remove_dir_all(path).unwrap();
    }
}
