//! How much room a volume takes. Nothing is asked of containers, nothing is crossed and no link is followed.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use serde::Serialize;

use super::Found;
use crate::config::disks::Kind;
use crate::error::{Because, Cause, Result};
use crate::sys::{self, FileId, Resolve};
use crate::tree;

/// Deeper directories are not looked into: each level costs a descriptor.
const DEEPEST: usize = 256;

/// What a volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Usage {
    /// Bytes that are allocated on disk, each file once however many names it has.
    pub bytes: u64,
    /// Files and directories that were counted; `null` where the filesystem told the bytes.
    pub files: Option<u64>,
    /// Everything was counted: nothing was unreadable, or too deep.
    pub complete: bool,
}

impl Usage {
    /// The bytes, for people; with a `+` where there may be more.
    #[must_use]
    pub fn size(&self) -> String {
        format!("{}{}", shown(self.bytes), if self.complete { "" } else { "+" })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.size())?;
        self.files.map_or(Ok(()), |files| write!(f, " in {files} files"))
    }
}

/// Counts. A MOUNT disk is a filesystem of its own, which knows; elsewhere all files are walked, which takes as long as
/// there are.
///
/// # Errors
/// [`Cause::VolumeUnavailable`].
pub fn of(volume: &Found) -> Result<Usage> {
    let doing = || format!("{} cannot be looked at", volume.path().display());
    if volume.disk.kind() == Kind::Mount {
        let bytes = sys::used_bytes(&volume.fd).because(Cause::VolumeUnavailable, doing)?;
        return Ok(Usage { bytes, files: None, complete: true });
    }
    let root = sys::allocated(&volume.fd).because(Cause::VolumeUnavailable, doing)?;
    let mut walk = Walk { bytes: root, files: 1, complete: true, seen: HashSet::new() };
    walk.directory(&volume.fd, 0);
    Ok(Usage { bytes: walk.bytes, files: Some(walk.files), complete: walk.complete })
}

struct Walk {
    bytes: u64,
    files: u64,
    complete: bool,
    /// Files with several names that were counted.
    seen: HashSet<FileId>,
}

impl Walk {
    fn directory(&mut self, directory: &OwnedFd, depth: usize) {
        let Ok(names) = tree::names(directory) else {
            self.complete = false;
            return;
        };
        for name in names {
            let path = Path::new(&name);
            let place = match sys::open_path(directory, path, Resolve::BeneathNoLinksNoMounts) {
                // A link is a name in a directory and no more; a mount is not of the volume. What is gone is not there.
                Err(error) if matches!(error.errno, Errno::ELOOP | Errno::EXDEV | Errno::ENOENT) => continue,
                Err(_) => {
                    self.complete = false;
                    continue;
                }
                Ok(place) => place,
            };
            let (Ok(stat), Ok(allocated)) = (sys::stat(&place), sys::allocated(&place)) else {
                self.complete = false;
                continue;
            };
            if stat.is_dir() {
                self.files += 1;
                self.bytes += allocated;
                match sys::open_dir(&place, Path::new("."), Resolve::BeneathNoLinksNoMounts) {
                    Ok(open) if depth < DEEPEST => self.directory(&open, depth + 1),
                    _ => self.complete = false,
                }
            } else if stat.links < 2 || self.seen.insert(stat.id) {
                self.files += 1;
                self.bytes += allocated;
            }
        }
    }
}

/// Bytes for people, in the units of ls(1) and du(1).
#[must_use]
fn shown(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_in_units() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(super::shown(bytes), text);
        }
    }
}
