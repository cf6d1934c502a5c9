//! Who uses what is attached to a container: for people, when it cannot be detached.
//!
//! A descriptor that is on its way in a message between two processes is nobody's, and is not seen.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::processes;
use crate::error::{Because, Cause, Result};
use crate::sys;

/// Most users that are named.
const NAMED: usize = 20;

/// What is looked for.
#[derive(Debug)]
pub enum Use<'a> {
    /// Anything of these mounts, by whomever.
    Mounts {
        /// Their numbers.
        numbers: Vec<u64>,
        /// Their filesystem, by major and minor number.
        device: (u32, u32),
        /// Where they are in the container.
        points: Vec<PathBuf>,
    },
    /// Anything below a directory of the host, by these processes: what a link leads to is on no mount of its own.
    Below(&'a Path, &'a [i32]),
}

/// Processes that have something of it open, mapped, or as their working or root directory.
///
/// # Errors
/// [`Cause::PathInUse`] where that cannot be looked at.
pub fn of(what: &Use<'_>) -> Result<Vec<String>> {
    let pids = match what {
        Use::Mounts { .. } => processes::all()?,
        Use::Below(_, pids) => pids.to_vec(),
    };
    let mut users = Vec::new();
    let me = i32::try_from(std::process::id()).ok();
    for pid in pids.into_iter().filter(|pid| Some(*pid) != me) {
        // One that cannot be looked at could be a user.
        let used =
            processes::tasks(pid).into_iter().map(|task| uses(task, what)).find(|used| !matches!(used, Ok(false)));
        if used.unwrap_or(Ok(false)).because(Cause::PathInUse, || format!("process {pid}"))? {
            users.push(processes::describe(pid));
            if users.len() == NAMED {
                users.push("others".to_owned());
                break;
            }
        }
    }
    Ok(users)
}

fn uses(task: i32, what: &Use<'_>) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{task}"));
    for link in ["cwd", "root"] {
        if leads_to(&process.join(link), what)? {
            return Ok(true);
        }
    }
    for entry in entries(&process.join("fd"))? {
        if leads_to(&entry, what)? {
            return Ok(true);
        }
    }
    for entry in entries(&process.join("map_files"))? {
        match leads_to(&entry, what) {
            // Root of a user namespace may not follow these.
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
                return Ok(
                    unless_gone(fs::read_to_string(process.join("maps")))?.is_some_and(|maps| maps_have(&maps, what))
                );
            }
            answer => {
                if answer? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in unless_gone(fs::read_dir(directory))?.into_iter().flatten() {
        all.extend(unless_gone(entry)?.map(|entry| entry.path()));
    }
    Ok(all)
}

/// Through the link of /proc itself, which leads to the very file, in whatever namespace.
fn leads_to(link: &Path, what: &Use<'_>) -> io::Result<bool> {
    match what {
        Use::Mounts { numbers, .. } => {
            let file = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(link);
            let number = file.and_then(|file| sys::mount_number(file).map_err(|error| error.errno.into()));
            Ok(unless_gone(number)?.is_some_and(|mount| numbers.contains(&mount)))
        }
        Use::Below(directory, _) => {
            Ok(unless_gone(fs::read_link(link))?.is_some_and(|path| path.starts_with(directory)))
        }
    }
}

/// What proc(5) tells of mappings: the filesystem's numbers and a path in the process's own mount namespace.
fn maps_have(maps: &str, what: &Use<'_>) -> bool {
    let is_it = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let device = fields.nth(3)?.split_once(':')?;
        let device = (u32::from_str_radix(device.0, 16).ok()?, u32::from_str_radix(device.1, 16).ok()?);
        let path = Path::new(fields.nth(1)?.trim_start());
        Some(match what {
            Use::Mounts { device: theirs, points, .. } => {
                device == *theirs && points.iter().any(|point| path.starts_with(point))
            }
            Use::Below(directory, _) => path.starts_with(directory),
        })
    };
    maps.lines().any(|line| is_it(line) == Some(true))
}

/// A process, or what it has open, may be gone by now; a kernel thread has neither directory nor mappings.
fn unless_gone<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    let gone = [Errno::ENOENT, Errno::ESRCH, Errno::ENXIO, Errno::ENOTDIR, Errno::EACCES];
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|code| gone.contains(&Errno::from_raw(code))) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_a_volume() {
        let maps = "7f00-7f01 r-xp 00000000 08:1f 99                         /d/lib so.1\n7f02-7f03 rw-p 00000000 00:00 0\n\
                    7f04-7f05 r--p 00000000 08:02 7    /d/other\n7f06-7f07 rw-p 00000000 00:00 0  [heap]\n";
        let mounts = |device, point: &str| Use::Mounts { numbers: vec![], device, points: vec![point.into()] };
        assert!(maps_have(maps, &mounts((8, 31), "/d")) && maps_have(maps, &mounts((8, 2), "/d/other")));
        assert!(!maps_have(maps, &mounts((8, 31), "/e")) && !maps_have(maps, &mounts((8, 3), "/d")));
        assert!(
            maps_have(maps, &Use::Below(Path::new("/d"), &[])) && !maps_have(maps, &Use::Below(Path::new("/d/l"), &[]))
        );
    }
}
