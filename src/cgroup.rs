//! A container's cgroup, to know whether anything of it still runs when its init has ended and it has no pid
//! namespace of its own, in which the kernel would have ended the rest.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

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

/// Whether any process is in a cgroup or below it. One that is gone is empty.
#[must_use]
pub fn is_populated(directory: &Path) -> bool {
    if let Ok(events) = fs::read_to_string(directory.join("cgroup.events")) {
        return events.lines().any(|line| line == "populated 1");
    }
    let own = fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|processes| !processes.trim().is_empty());
    own || fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_populated(&entry.path()))
    })
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
    fn what_does_not_exist_is_empty() {
        assert!(!is_populated(Path::new("/nonexistent")));
    }
}
