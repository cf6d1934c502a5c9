//! `runtime_dir`: small files that say what was done for live containers, and locks on them.
//!
//! A record is only ever appended to, whole lines with one write(2), under its own lock. A hook
//! that is killed in between leaves whole lines, and a torn last one is no line: whoever opens the
//! record to write cuts it off, or the next line would be one with it.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Error, Result};
use crate::request::names::RESERVED;
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};

/// Largest record, in bytes.
pub const LARGEST: u64 = 4 << 20;

/// Directory of records.
const RECORDS: &str = "records";

/// The open directory.
#[derive(Debug)]
pub struct RuntimeDir {
    /// The directory itself.
    pub root: trusted::Directory,
    /// Records, one for each container that has something.
    pub records: OwnedFd,
    mount_points: OnceCell<OwnedFd>,
}

/// Directory of mount points and links that hooks made, see [`crate::holders`].
const MOUNT_POINTS: &str = "mountpoints";

impl RuntimeDir {
    /// Opens the directory, making what is missing.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`] where others could change it; [`Cause::RuntimeDir`].
    pub fn open(path: &Path) -> Result<RuntimeDir> {
        match RuntimeDir::open_existing(path)? {
            Some(open) => Ok(open),
            None => {
                let root = make_root(path)?;
                let records = subdirectory(&root, RECORDS)?;
                Ok(RuntimeDir { root, records, mount_points: OnceCell::new() })
            }
        }
    }

    /// Opens the directory if any hook has ever made it.
    ///
    /// # Errors
    /// As [`RuntimeDir::open`].
    pub fn open_existing(path: &Path) -> Result<Option<RuntimeDir>> {
        let Some(root) = trusted::open_dir(path, Missing::Tell)? else { return Ok(None) };
        match sys::open_dir(&root, Path::new(RECORDS), Resolve::BeneathNoLinks) {
            Err(error) if error.errno == Errno::ENOENT => Ok(None),
            answer => answer
                .because(Cause::RuntimeDir, || format!("{}/{RECORDS} cannot be opened", path.display()))
                .map(|records| Some(RuntimeDir { root, records, mount_points: OnceCell::new() })),
        }
    }

    /// Mount points and links that hooks made, each a directory of its holders. Made when it is first needed.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn mount_points(&self) -> Result<&OwnedFd> {
        if self.mount_points.get().is_none() {
            let _ = self.mount_points.set(subdirectory(&self.root, MOUNT_POINTS)?);
        }
        self.mount_points.get().ok_or_else(|| Error::new(Cause::RuntimeDir, MOUNT_POINTS))
    }

    /// Whether a mount point or link was made by a hook, as far as anybody holds it. No lock is taken.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn is_made_by_hook(&self, name: &str) -> Result<bool> {
        match sys::stat_at(&self.root, &format!("{MOUNT_POINTS}/{name}")) {
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            answer => answer.because(Cause::RuntimeDir, || "holders".to_owned()).map(|_| true),
        }
    }
}

/// Opens `runtime_dir` itself, making it if it is missing (it is gone after a reboot).
///
/// # Errors
/// As [`RuntimeDir::open`].
pub fn make_root(path: &Path) -> Result<trusted::Directory> {
    let root = trusted::open_dir(path, Missing::Make(0o700))?;
    root.ok_or_else(|| Error::new(Cause::RuntimeDir, format!("{} cannot be made", path.display())))
}

/// Opens a directory in a directory of ours, making it with mode 0700 if it is missing.
///
/// # Errors
/// [`Cause::RuntimeDir`].
pub fn subdirectory(root: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let doing = || format!("{name} under runtime_dir cannot be opened");
    match sys::mkdir_at(root, name, 0o700) {
        Err(error) if error.errno == Errno::EEXIST => {}
        answer => answer.because(Cause::RuntimeDir, doing)?,
    }
    sys::open_dir(root, Path::new(name), Resolve::BeneathNoLinks).because(Cause::RuntimeDir, doing)
}

/// The whole lines of a text: a torn last one is none.
#[must_use]
pub fn whole_lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(&text[..whole(text)]).lines().map(str::to_owned).collect()
}

/// Where the last whole line ends.
fn whole(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// How to open a file that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Only if it exists.
    Existing,
    /// Made if it does not.
    Create,
    /// Only if it exists and nobody has it locked.
    Idle,
}

/// A file under `runtime_dir`, locked for as long as this lives.
#[derive(Debug)]
pub struct Locked {
    file: File,
    name: String,
    /// How long it is, in bytes.
    size: u64,
}

impl Locked {
    /// Opens and locks a file; `None` where it does not exist, or is in use and [`Open::Idle`] was asked for.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn open(dir: &OwnedFd, name: &str, open: Open) -> Result<Option<Locked>> {
        let doing = || format!("{name} under runtime_dir cannot be opened");
        let create = if open == Open::Create { OFlag::O_CREAT } else { OFlag::empty() };
        loop {
            let fd = match sys::open_file_at(dir, name, OFlag::O_RDWR | OFlag::O_APPEND | create, 0o600) {
                Err(error) if error.errno == Errno::ENOENT && open != Open::Create => return Ok(None),
                answer => answer.because(Cause::RuntimeDir, doing)?,
            };
            match sys::lock(&fd, open != Open::Idle) {
                Err(error) if error.errno == Errno::EWOULDBLOCK => return Ok(None),
                answer => answer.because(Cause::RuntimeDir, doing)?,
            }
            // Whoever had the lock before may have removed the file: then this is the lock of nothing.
            let stat = sys::stat(&fd).because(Cause::RuntimeDir, doing)?;
            if stat.links > 0 {
                return Ok(Some(Locked { file: fd.into(), name: name.to_owned(), size: stat.size }));
            }
        }
    }

    /// The whole lines in the file, and no others from now on: a torn last one is cut off.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn lines(&mut self) -> Result<Vec<String>> {
        if self.size == 0 {
            return Ok(Vec::new());
        }
        let doing = || format!("{} under runtime_dir cannot be read", self.name);
        let mut text = Vec::with_capacity(8 << 10);
        (&self.file).take(LARGEST + 1).read_to_end(&mut text).because(Cause::RuntimeDir, doing)?;
        if text.len() as u64 > LARGEST {
            // What is beyond could be what matters.
            return Err(Error::new(Cause::RuntimeDir, format!("{} under runtime_dir is too large", self.name)));
        }
        let whole = whole(&text);
        if whole < text.len() {
            self.cut(whole as u64)?;
        }
        Ok(whole_lines(&text))
    }

    fn cut(&mut self, size: u64) -> Result<()> {
        self.file
            .set_len(size)
            .because(Cause::RuntimeDir, || format!("{} under runtime_dir cannot be cut", self.name))?;
        self.size = size;
        Ok(())
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, for what needs a descriptor.
    #[must_use]
    pub fn fd(&self) -> impl AsFd + '_ {
        &self.file
    }

    /// Adds lines.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn append(&mut self, lines: &str) -> Result<()> {
        let doing = || format!("{} under runtime_dir cannot be written", self.name);
        let written = self.file.write_all(lines.as_bytes()).because(Cause::RuntimeDir, doing);
        match &written {
            Ok(()) => self.size += lines.len() as u64,
            // Where there is no room the kernel has written what fits. If that stays, the next to open it cuts it off.
            Err(_) => drop(self.cut(self.size)),
        }
        written
    }

    /// Empties the file.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn clear(&mut self) -> Result<()> {
        if self.size == 0 { Ok(()) } else { self.cut(0) }
    }

    /// Puts another file in its place, in one step and locked as this one is. Only for records.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn replace(&mut self, runtime: &RuntimeDir, text: &str) -> Result<()> {
        let doing = || format!("{} under runtime_dir cannot be written anew", self.name);
        let temporary = self.temporary();
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_TRUNC;
        // Not among the records: nobody may take it for one.
        let fd = sys::open_file_at(&runtime.root, &temporary, flags, 0o600).because(Cause::RuntimeDir, doing)?;
        sys::lock(&fd, true).because(Cause::RuntimeDir, doing)?;
        let mut file = File::from(fd);
        file.write_all(text.as_bytes()).because(Cause::RuntimeDir, doing)?;
        sys::rename_to(&runtime.root, &temporary, &runtime.records, &self.name).because(Cause::RuntimeDir, doing)?;
        self.file = file;
        self.size = text.len() as u64;
        Ok(())
    }

    /// The name under which it is written anew: always the same, so that one of which the writer was killed is found again.
    fn temporary(&self) -> String {
        let end = self.name.get(self.name.len().saturating_sub(240)..).unwrap_or(&self.name);
        format!("{RESERVED}{end}")
    }

    /// Removes what [`Locked::replace`] has left if it was killed.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn remove_replacement(&self, runtime: &RuntimeDir) -> Result<()> {
        match sys::unlink_at(&runtime.root, self.temporary().as_ref(), false) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            answer => {
                answer.because(Cause::RuntimeDir, || format!("{} under runtime_dir cannot be removed", self.name))
            }
        }
    }

    /// Removes the file; others that wait for its lock will notice.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn remove(self, dir: &OwnedFd) -> Result<()> {
        sys::unlink_at(dir, self.name.as_ref(), false)
            .because(Cause::RuntimeDir, || format!("{} under runtime_dir cannot be removed", self.name))
    }
}
