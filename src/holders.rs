//! Who holds something, in a directory for each thing, named by what it is: a file for each record that holds it, and
//! the directory's lock. Mount points and links that hooks made are held so, and volumes ([`crate::lease`]).
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Result};
use crate::sys::{self, FileId, Resolve, Stat};
use crate::tree;

/// A file, told apart from any later one that has the same inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct File {
    /// Device and inode.
    pub id: FileId,
    /// Birth, see [`Stat::born`].
    pub born: i64,
}

impl File {
    /// The file that was looked at.
    #[must_use]
    pub fn of(stat: &Stat) -> File {
        File { id: stat.id, born: stat.born }
    }

    /// Its name among what is held.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:x}-{:x}-{:x}", self.id.dev, self.id.ino, self.born)
    }
}

/// The holders of one file, locked for as long as this lives.
#[derive(Debug)]
pub struct Holders {
    directory: OwnedFd,
    name: String,
    /// Its names were read, so that reading them again begins anew.
    was_read: Cell<bool>,
}

impl Holders {
    /// Opens and locks the holders of a file; `None` where there are none.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn open(all: &OwnedFd, name: &str) -> Result<Option<Holders>> {
        let doing = || format!("the holders {name} cannot be opened");
        loop {
            let directory = match sys::open_dir(all, Path::new(name), Resolve::BeneathNoLinks) {
                Err(error) if error.errno == Errno::ENOENT => return Ok(None),
                answer => answer.because(Cause::RuntimeDir, doing)?,
            };
            sys::lock(&directory, true).because(Cause::RuntimeDir, doing)?;
            // Whoever had the lock before may have been the last holder: then this is the lock of nothing.
            if sys::stat(&directory).because(Cause::RuntimeDir, doing)?.links > 0 {
                return Ok(Some(Holders { directory, name: name.to_owned(), was_read: Cell::new(false) }));
            }
        }
    }

    /// Opens and locks the holders of something, making them where there are none.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn create(all: &OwnedFd, name: &str) -> Result<Holders> {
        loop {
            match sys::mkdir_at(all, name, 0o700) {
                Err(error) if error.errno == Errno::EEXIST => {}
                answer => answer.because(Cause::RuntimeDir, || format!("the holders {name} cannot be made"))?,
            }
            if let Some(holders) = Holders::open(all, name)? {
                return Ok(holders);
            }
        }
    }

    /// Takes everybody out, and removes nothing else. For a file that was just made: where the filesystem knows no
    /// births, there may be holders of something that had its inode before.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn clear(&self) -> Result<()> {
        self.was_read.set(true);
        tree::empty(&self.directory)
            .because(Cause::RuntimeDir, || format!("the holders {} cannot be cleared", self.name))
    }

    /// The directory with a file for each holder.
    #[must_use]
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Every holder's name.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn names(&self) -> Result<Vec<std::ffi::OsString>> {
        let names = match self.was_read.replace(true) {
            true => tree::names(&self.directory),
            false => {
                sys::read_on(&self.directory, usize::MAX).map(|all| all.into_iter().map(|(name, _)| name).collect())
            }
        };
        names.because(Cause::RuntimeDir, || format!("the holders {} cannot be read", self.name))
    }

    /// Adds a holder.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn add(&self, record: &str) -> Result<()> {
        sys::open_file_at(&self.directory, record, OFlag::O_WRONLY | OFlag::O_CREAT, 0o600)
            .map(drop)
            .because(Cause::RuntimeDir, || format!("the holders {} cannot be written", self.name))
    }

    /// Takes a holder out.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn take_out(&self, record: &str) -> Result<()> {
        match sys::unlink_at(&self.directory, OsStr::new(record), false) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            answer => answer.because(Cause::RuntimeDir, || format!("the holders {} cannot be written", self.name)),
        }
    }

    /// Whether anybody but this record holds it. Holders whose record is gone are taken out: they need nothing.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn others(&self, records: &OwnedFd, me: &str) -> Result<bool> {
        let mut others = false;
        for name in self.names()? {
            let name = name.to_string_lossy();
            if name == me {
                continue;
            }
            match sys::stat_at(records, &name) {
                Err(error) if error.errno == Errno::ENOENT => self.take_out(&name)?,
                // Whatever else is the matter, somebody may hold it.
                _ => others = true,
            }
        }
        Ok(others)
    }

    /// Ends the holding: the file is gone, or is nobody's any more.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn remove(self, all: &OwnedFd) -> Result<()> {
        self.clear()?;
        sys::unlink_at(all, OsStr::new(&self.name), true)
            .because(Cause::RuntimeDir, || format!("the holders {} cannot be removed", self.name))
    }
}
