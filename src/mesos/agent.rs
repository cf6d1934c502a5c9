//! Whether a Mesos agent is running on a `work_dir`: two masters of the same volumes would delete each other's.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Because, Cause, Error, Result};
use crate::me::me;
use crate::read;
use crate::sys::{self, FileId, Resolve};

/// The names of an agent's process, of older versions and of a build tree included.
const NAMES: [&str; 4] = ["mesos-agent", "mesos-slave", "lt-mesos-agent", "lt-mesos-slave"];

/// More than any process can have as arguments or environment with Linux's usual stack.
const LARGEST: u64 = 8 << 20;

/// The process of an agent that is running on this directory, or of one of which that cannot be told. A directory
/// that no agent ever used costs one system call.
///
/// # Errors
/// [`Cause::MesosAgent`] where processes cannot be looked at.
pub fn running_on(work_dir: &OwnedFd) -> Result<Option<i32>> {
    running_in(Path::new("/proc"), work_dir)
}

/// Refuses to use a directory on which an agent is running.
///
/// # Errors
/// [`Cause::MesosAgent`].
pub fn refuse(work_dir: &OwnedFd, path: &Path) -> Result<()> {
    match running_on(work_dir)? {
        None => Ok(()),
        Some(pid) => Err(Error::new(Cause::MesosAgent, format!("process {pid} uses {}", path.display()))),
    }
}

fn running_in(proc: &Path, work_dir: &OwnedFd) -> Result<Option<i32>> {
    let doing = || "it cannot be told whether a Mesos agent is running".to_owned();
    match sys::open_place(work_dir, Path::new("meta/slaves"), Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        // Whatever else it is, an agent may have made it.
        _ => {}
    }
    if is_of_an_earlier_boot(work_dir) {
        return Ok(None);
    }
    let wanted = sys::stat(work_dir).because(Cause::MesosAgent, doing)?.id;
    for entry in fs::read_dir(proc).because(Cause::MesosAgent, doing)? {
        let name = entry.because(Cause::MesosAgent, doing)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = proc.join(name);
        if !is_agent(&process) {
            continue;
        }
        let uses = uses(&process, wanted).unwrap_or_else(|| is_of_the_host(proc, &process));
        if uses && !has_ended(&process) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Whether no agent has been started on the directory since the machine was: it writes the boot's id when it starts
/// (mesos.md B1). Then no process need be looked at.
fn is_of_an_earlier_boot(work_dir: &OwnedFd) -> bool {
    let written = sys::open_below(work_dir, Path::new("meta/boot_id"), OFlag::O_RDONLY, Resolve::BeneathNoLinks)
        .ok()
        .and_then(|fd| read::at_most(fd.into(), 4096).ok());
    match (written, crate::init::boot_id()) {
        (Some(written), Ok(now)) => !written.is_empty() && written.trim_ascii() != now.as_bytes(),
        _ => false,
    }
}

/// An agent is root's: any container could have a process of that name.
fn is_agent(process: &Path) -> bool {
    let is_root = |owner: u32| owner == 0 || owner == me().uid;
    read::line(process.join("comm")).is_ok_and(|name| NAMES.contains(&name.as_str()))
        && fs::metadata(process).is_ok_and(|process| is_root(process.uid()))
}

/// Whether a process sees the host's mounts. Of one that does not, and whose directory cannot be told, it is not to be
/// feared that it is this one: it would be a container's.
fn is_of_the_host(proc: &Path, process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let theirs = namespace(process);
    theirs == namespace(&proc.join("1")) || theirs == namespace(&proc.join("self"))
}

/// Whether a process is gone or a zombie. Asked last: what /proc says of one that ends meanwhile is worth nothing.
fn has_ended(process: &Path) -> bool {
    match read::line(process.join("stat")) {
        // The name in parentheses may contain anything.
        Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => !process.exists(),
    }
}

/// Whether an agent's `work_dir` is this directory; `None` where that cannot be told.
fn uses(process: &Path, wanted: FileId) -> Option<bool> {
    let path = work_dir_of(&list(process, "cmdline")?, &list(process, "environ")?)?;
    // Through the process's own root, and with links as they are there: it may live in a container.
    let root = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(process.join("root"))
        .ok()?;
    let directory = sys::open_place(&root, &path, Resolve::InRoot).ok()?;
    Some(sys::stat(&directory).ok()?.id == wanted)
}

/// A file of strings that each end with a zero byte.
fn list(process: &Path, name: &str) -> Option<Vec<Vec<u8>>> {
    let bytes = read::at_most(File::open(process.join(name)).ok()?, LARGEST).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// The `work_dir` that an agent was given: by a flag, or by a variable where there is no flag. Only an absolute path
/// can be told: Mesos takes `file://` for a file that holds the value.
fn work_dir_of(arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Option<PathBuf> {
    let mut flag = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if let Some(value) = argument.strip_prefix(b"--work_dir=") {
            flag = Some(value);
        } else if argument == b"--work_dir" {
            flag = rest.next().map(Vec::as_slice);
        }
    }
    let variable = || environment.iter().find_map(|variable| variable.strip_prefix(b"MESOS_WORK_DIR="));
    let path = PathBuf::from(OsStr::from_bytes(flag.or_else(variable)?));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that stands for /proc, and one that stands for a `work_dir`.
    struct Host {
        dir: PathBuf,
        work_dir: OwnedFd,
    }

    impl Host {
        fn new(name: &str) -> Host {
            let dir = std::env::temp_dir().join(format!("fs-isolator-agent-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("root/data/mesos/meta/slaves")).unwrap();
            fs::create_dir_all(dir.join("root/other/meta/slaves")).unwrap();
            // Absolute, and right only within that root.
            symlink("/data", dir.join("root/link")).unwrap();
            let work_dir = sys::open_place(sys::cwd(), &dir.join("root/data/mesos"), Resolve::NoMagic).unwrap();
            Host { dir, work_dir }
        }

        fn process(&self, pid: i32, name: &str, cmdline: &str, environ: &str) -> PathBuf {
            let process = self.dir.join("proc").join(pid.to_string());
            fs::create_dir_all(&process).unwrap();
            for (file, text) in [("comm", format!("{name}\n")), ("stat", format!("{pid} ({name}) S 1 1"))] {
                fs::write(process.join(file), text).unwrap();
            }
            fs::write(process.join("cmdline"), cmdline.replace(' ', "\0")).unwrap();
            fs::write(process.join("environ"), environ.replace(' ', "\0")).unwrap();
            let _ = symlink(self.dir.join("root"), process.join("root"));
            process
        }

        fn found(&self) -> Option<i32> {
            running_in(&self.dir.join("proc"), &self.work_dir).unwrap()
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn an_agent_is_found_by_name_and_directory() {
        let host = Host::new("found");
        host.process(1, "systemd", "systemd --work_dir=/data/mesos ", "");
        host.process(2, "mesos-master", "mesos-master --work_dir=/data/mesos ", "");
        assert_eq!(host.found(), None);
        for name in NAMES {
            host.process(7, name, "mesos --x=1 --work_dir=/data/mesos/ --y ", "MESOS_WORK_DIR=/other ");
            assert_eq!(host.found(), Some(7), "{name}");
            host.process(7, name, "mesos --work_dir=/other ", "MESOS_WORK_DIR=/data/mesos ");
            assert_eq!(host.found(), None, "the flag wins, {name}");
        }
        host.process(7, "mesos-agent", "mesos --work_dir /link/mesos ", "");
        assert_eq!(host.found(), Some(7));
        host.process(7, "mesos-agent", "mesos ", "A=1 MESOS_WORK_DIR=/link/../data/mesos ");
        assert_eq!(host.found(), Some(7));
    }

    #[test]
    fn an_agent_of_which_it_cannot_be_told_counts() {
        let host = Host::new("unclear");
        for cmdline in ["mesos ", "mesos --work_dir ", "mesos --work_dir=data ", "mesos --work_dir=file:///etc/w "] {
            host.process(7, "mesos-agent", cmdline, "HOME=/ ");
            assert_eq!(host.found(), Some(7), "{cmdline}");
        }
        host.process(7, "mesos-agent", "mesos --work_dir=/gone ", "");
        assert_eq!(host.found(), Some(7));
        let process = host.process(7, "mesos-agent", "mesos --work_dir=/other ", "");
        assert_eq!(host.found(), None);
        fs::remove_file(process.join("root")).unwrap();
        assert_eq!(host.found(), Some(7));
        fs::remove_file(process.join("cmdline")).unwrap();
        assert_eq!(host.found(), Some(7));
        fs::write(process.join("stat"), "7 (mesos) Z) Z 1 1").unwrap();
        assert_eq!(host.found(), None, "a zombie is not running");
    }

    // Any container can have a process of this name.
    #[test]
    fn an_agent_of_which_it_cannot_be_told_counts_only_on_the_host() {
        let host = Host::new("namespaces");
        let namespace = |process: &Path, name: &str| {
            fs::create_dir_all(process.join("ns")).unwrap();
            let _ = fs::remove_file(process.join("ns/mnt"));
            symlink(name, process.join("ns/mnt")).unwrap();
        };
        namespace(&host.process(1, "systemd", "", ""), "mnt:[1]");
        let process = host.process(7, "mesos-agent", "mesos ", "");
        namespace(&process, "mnt:[1]");
        assert_eq!(host.found(), Some(7));
        namespace(&process, "mnt:[2]");
        assert_eq!(host.found(), None);
        let process = host.process(7, "mesos-agent", "mesos --work_dir=/data/mesos ", "");
        namespace(&process, "mnt:[2]");
        assert_eq!(host.found(), Some(7), "an agent in a container of its own");
    }

    #[test]
    fn where_no_agent_ever_was_no_process_is_looked_at() {
        let host = Host::new("never");
        let never = sys::open_place(sys::cwd(), &host.dir.join("root"), Resolve::NoMagic).unwrap();
        assert_eq!(running_in(&host.dir.join("no such proc"), &never).unwrap(), None);
        assert!(running_in(&host.dir.join("no such proc"), &host.work_dir).is_err());
    }
}
