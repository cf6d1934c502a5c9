//! Which processes are a container's, and in which mount namespaces they are.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Because, Cause, Result};
use crate::init::{Life, Live};
use crate::sys;

/// Tasks of a process that may be something else than its leader: threads that share all of it with that are left out.
#[must_use]
pub fn tasks(pid: i32) -> Vec<i32> {
    let others = numbers(Path::new(&format!("/proc/{pid}/task"))).into_iter().filter(|task| {
        let same = |what| sys::have_in_common(pid, *task, what);
        *task != pid && !(same(sys::Common::Files) && same(sys::Common::Directories))
    });
    std::iter::once(pid).chain(others).collect()
}

/// All processes that this one sees.
///
/// # Errors
/// [`Cause::PathInUse`] where /proc cannot be read.
pub fn all() -> Result<Vec<i32>> {
    fs::metadata("/proc/self").because(Cause::PathInUse, || "processes cannot be looked at".to_owned())?;
    Ok(numbers(Path::new("/proc")))
}

fn numbers(directory: &Path) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes of a container: those of its pid namespace and below it; without one of its own, those of its cgroup and of
/// its init's mount namespace.
///
/// # Errors
/// [`Cause::PathInUse`] where /proc cannot be read.
pub fn of(live: &Live, life: &Life) -> Result<Vec<i32>> {
    let mut pids = all()?;
    if life.own_pid_namespace {
        let Some(own) = inode(live.init.pid, "pid") else { return Ok(Vec::new()) };
        let mut known = HashMap::from([(own, true)]);
        pids.retain(|pid| is_within(*pid, own, &mut known));
    } else {
        let members = life.cgroup.as_deref().map(members).unwrap_or_default();
        let mounts = inode(live.init.pid, "mnt");
        pids.retain(|pid| members.contains(pid) || (mounts.is_some() && inode(*pid, "mnt") == mounts));
    }
    Ok(pids)
}

fn inode(pid: i32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|namespace| namespace.ino())
}

/// Whether a process's pid namespace is this one or below it.
fn is_within(pid: i32, own: u64, known: &mut HashMap<u64, bool>) -> bool {
    let Some(first) = inode(pid, "pid") else { return false };
    if let Some(answer) = known.get(&first) {
        return *answer;
    }
    let climb = || -> Option<bool> {
        let mut namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/pid")).ok()?);
        loop {
            if sys::stat(&namespace).ok()?.id.ino == own {
                return Some(true);
            }
            namespace = sys::parent_of(&namespace).ok()?;
        }
    };
    let answer = climb().unwrap_or(false);
    known.insert(first, answer);
    answer
}

fn members(cgroup: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(directory) = left.pop() {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        left.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    found
}

/// Mount namespaces of these processes other than their init's and this process's own, each with one that is in it.
#[must_use]
pub fn other_namespaces(pids: &[i32], live: &Live, home: &OwnedFd) -> Vec<(i32, OwnedFd)> {
    let id = |fd: &OwnedFd| sys::stat(fd).ok().map(|stat| stat.id.ino);
    let mut known: Vec<u64> = [id(&live.namespace), id(home)].into_iter().flatten().collect();
    let mut found = Vec::new();
    for task in pids.iter().flat_map(|pid| tasks(*pid)) {
        let Ok(namespace) = File::open(format!("/proc/{task}/ns/mnt")).map(OwnedFd::from) else { continue };
        if let Some(inode) = id(&namespace)
            && !known.contains(&inode)
        {
            known.push(inode);
            found.push((task, namespace));
        }
    }
    found
}

/// A process, for people.
#[must_use]
pub fn describe(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim())
}
