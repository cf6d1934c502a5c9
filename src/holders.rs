//! Who holds a mount point or link that a hook made: a directory under `runtime_dir/mountpoints`, named by what is
//! held, with an empty file for each record that holds it, and its lock.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Result};
use crate::runtime_dir::RuntimeDir;
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

    fn name(self) -> String {
        format!("{:x}-{:x}-{:x}", self.id.dev, self.id.ino, self.born)
    }
}

/// The holders of one file, locked for as long as this lives.
#[derive(Debug)]
pub struct Holders {
    directory: OwnedFd,
    name: String,
}

impl Holders {
    /// Whether a hook made this file. No lock is taken.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn exist(runtime: &RuntimeDir, file: File) -> Result<bool> {
        match sys::stat_at(&runtime.mount_points, &file.name()) {
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            answer => answer.because(Cause::RuntimeDir, || "mountpoints".to_owned()).map(|_| true),
        }
    }

    /// Opens and locks the holders of a file; `None` where there are none.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn open(runtime: &RuntimeDir, file: File) -> Result<Option<Holders>> {
        let name = file.name();
        let doing = || format!("mountpoints/{name} under runtime_dir cannot be opened");
        loop {
            let directory = match sys::open_dir(&runtime.mount_points, Path::new(&name), Resolve::BeneathNoLinks) {
                Err(error) if error.errno == Errno::ENOENT => return Ok(None),
                answer => answer.because(Cause::RuntimeDir, doing)?,
            };
            sys::lock(&directory, true).because(Cause::RuntimeDir, doing)?;
            // Whoever had the lock before may have been the last holder: then this is the lock of nothing.
            if sys::link_count(&directory).because(Cause::RuntimeDir, doing)? > 0 {
                return Ok(Some(Holders { directory, name }));
            }
        }
    }

    /// Makes the holders of a file that was just made and has no name of its own yet.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn create(runtime: &RuntimeDir, file: File) -> Result<Holders> {
        let doing = || format!("mountpoints/{} under runtime_dir cannot be made", file.name());
        loop {
            match sys::mkdir_at(&runtime.mount_points, &file.name(), 0o700) {
                Err(error) if error.errno == Errno::EEXIST => {}
                answer => answer.because(Cause::RuntimeDir, doing)?,
            }
            if let Some(holders) = Holders::open(runtime, file)? {
                // Where the filesystem knows no births, these were those of something that had the inode before.
                tree::empty(&holders.directory).because(Cause::RuntimeDir, doing)?;
                return Ok(holders);
            }
        }
    }

    /// Adds a holder.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn add(&self, record: &str) -> Result<()> {
        sys::open_file_at(&self.directory, record, OFlag::O_WRONLY | OFlag::O_CREAT, 0o600)
            .map(drop)
            .because(Cause::RuntimeDir, || format!("mountpoints/{} under runtime_dir cannot be written", self.name))
    }

    /// Takes a holder out.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn take_out(&self, record: &str) -> Result<()> {
        match sys::unlink_at(&self.directory, OsStr::new(record), false) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            answer => answer.because(Cause::RuntimeDir, || format!("mountpoints/{} cannot be written", self.name)),
        }
    }

    /// Whether anybody but this record holds it. Holders whose record is gone are taken out: they need nothing.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn others(&self, runtime: &RuntimeDir, me: &str) -> Result<bool> {
        let doing = || format!("mountpoints/{} under runtime_dir cannot be read", self.name);
        let mut others = false;
        for name in tree::names(&self.directory).because(Cause::RuntimeDir, doing)? {
            let name = name.to_string_lossy();
            if name == me {
                continue;
            }
            match sys::stat_at(&runtime.records, &name) {
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
    pub fn remove(self, runtime: &RuntimeDir) -> Result<()> {
        let doing = || format!("mountpoints/{} under runtime_dir cannot be removed", self.name);
        tree::empty(&self.directory).because(Cause::RuntimeDir, doing)?;
        sys::unlink_at(&runtime.mount_points, OsStr::new(&self.name), true).because(Cause::RuntimeDir, doing)
    }
}
