//! A container's cgroup, to know whether anything of it still runs when its init has ended and it has no pid
//! namespace of its own, in which the kernel would have ended the rest.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use crate::sys;

/// The directory of a process's cgroup, if that is not the one this process is in (cgroups(7), both versions).
#[must_use]
pub fn of(pid: i32) -> Option<PathBuf> {
    let table = |process: &str| fs::read_to_string(format!("/proc/{process}/cgroup")).ok();
    let (theirs, mine) = (table(&pid.to_string())?, table("self")?);
    theirs
        .lines()
        .filter(|line| !mine.lines().any(|own| own == *line))
        .flat_map(directories)
        .find(|directory| directory.is_dir())
}

/// Where the cgroup of a line of `/proc/PID/cgroup` may be.
fn directories(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let path = path.trim_start_matches('/');
    if path.is_empty() || path.split('/').any(|component| component == "..") {
        return Vec::new();
    }
    let mounts = match controllers {
        "" => vec!["", "unified"],
        named => vec![named.strip_prefix("name=").unwrap_or(named)],
    };
    mounts.into_iter().map(|mount| Path::new("/sys/fs/cgroup").join(mount).join(path)).collect()
}

/// Whether any process is in a cgroup or below it. One that is gone is empty; one that cannot be looked at may not be.
#[must_use]
pub fn is_populated(directory: &Path) -> bool {
    match look(directory) {
        Ok(populated) => populated,
        Err(error) if error.kind() == ErrorKind::NotFound => !is_gone(directory),
        Err(_) => true,
    }
}

fn look(directory: &Path) -> Result<bool> {
    if let Ok(events) = fs::read_to_string(directory.join("cgroup.events")) {
        return Ok(events.lines().any(|line| line == "populated 1"));
    }
    if !fs::read_to_string(directory.join("cgroup.procs"))?.trim().is_empty() {
        return Ok(true);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // One below may go while it is looked at.
        if entry.file_type()?.is_dir() && is_populated(&entry.path()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a cgroup was removed, and not only is out of sight: what is left above it must be a cgroup.
fn is_gone(directory: &Path) -> bool {
    let there = directory.ancestors().skip(1).find_map(|above| fs::File::open(above).ok());
    let magic = there.and_then(|above| sys::filesystem(above).ok());
    !directory.exists() && magic.is_some_and(|filesystem| filesystem.is_cgroup())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_versions() {
        let found = |line| directories(line).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(found("0::/a/b"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/unified/a/b"]);
        assert_eq!(found("7:cpu,cpuacct:/a"), ["/sys/fs/cgroup/cpu,cpuacct/a"]);
        assert_eq!(found("1:name=systemd:/a"), ["/sys/fs/cgroup/systemd/a"]);
        assert!(found("0::/").is_empty() && found("0::/../x").is_empty() && found("x").is_empty());
    }

    #[test]
    fn what_is_out_of_sight_may_be_populated() {
        assert!(is_populated(Path::new("/nonexistent/cgroup")));
        let mut mounted = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new).into_iter();
        let is_cgroup = |path: &&Path| fs::File::open(path).is_ok_and(|fd| sys::filesystem(fd).unwrap().is_cgroup());
        if let Some(hierarchy) = mounted.find(is_cgroup) {
            assert!(!is_populated(&hierarchy.join("removed/long ago")), "{}", hierarchy.display());
        }
    }
}
