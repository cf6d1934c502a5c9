//! Secrets: a value of the administrator's, as one file in a filesystem of its own in memory, which only the container
//! has. Mesos staged it on the host, readable by all (mesos.md SE5, E19).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::aside::Aside;
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::sys::{self, MountAttributes, Resolve, SetPropagation};
use crate::{read, selinux, trusted};

/// Largest secret, in bytes: Kubernetes's limit too.
const LARGEST: u64 = 1 << 20;

/// Name of the only file of the filesystem, which nobody ever sees.
const NAME: &str = "secret";

/// What every secret's mount has.
pub const ATTRIBUTES: MountAttributes = MountAttributes { read_only: true, nosuid: true, nodev: true, noexec: true };

/// A detached mount of a file with the value that stands at `path`, readable by this user alone (0400). It is gone with
/// the last mount namespace that has it. Where the host has SELinux, it has the label of the container's mounts.
///
/// # Errors
/// [`Cause::SecretUnavailable`] where the value cannot be read; [`Cause::ConfigUnsafe`] where others can read or change
/// it; [`Cause::AttachFailed`].
pub fn mount(path: &Path, user: (u32, u32), home: &OwnedFd, label: Option<&str>) -> Result<OwnedFd> {
    let value = value(path)?;
    let doing = || "a filesystem for the secret cannot be made".to_owned();
    // Elsewhere the kernel does not know the option.
    let label = label.filter(|_| selinux::host::is_on());
    let filesystem = sys::memory_filesystem(MountAttributes { read_only: false, ..ATTRIBUTES }, label);
    let filesystem = filesystem.because(Cause::AttachFailed, doing)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = sys::open_file_at(&filesystem, NAME, flags, 0o400).because(Cause::AttachFailed, doing)?;
    let mut file = File::from(file);
    file.write_all(&value).because(Cause::AttachFailed, doing)?;
    sys::chown(&file, user.0, user.1).because(Cause::AttachFailed, doing)?;
    drop(file);
    let file =
        sys::open_path(&filesystem, Path::new(NAME), Resolve::BeneathNoLinks).because(Cause::AttachFailed, doing)?;
    let clone = match sys::clone_mount(&file) {
        // Before Linux 6.15 only what is mounted somewhere can be cloned.
        Err(error) if error.errno == Errno::EINVAL => clone_aside(&filesystem, &file, home)?,
        answer => answer.because(Cause::AttachFailed, doing)?,
    };
    sys::mount_setattr(&clone, ATTRIBUTES, SetPropagation::Private, false).because(Cause::AttachFailed, doing)?;
    Ok(clone)
}

/// Clones a file of a detached filesystem by mounting that in a mount namespace that nobody else is ever in.
fn clone_aside(filesystem: &OwnedFd, file: &OwnedFd, home: &OwnedFd) -> Result<OwnedFd> {
    let doing = || "the secret's mount cannot be made".to_owned();
    let proc_fds = sys::open_proc_fds().because(Cause::AttachFailed, doing)?;
    // A copy of the host's: that of a container which starts has the host's mounts still, so that it would cost no less.
    let clone = Aside::of(home, home, &proc_fds).with_mounted(filesystem, || sys::clone_mount(file));
    clone.because(Cause::AttachFailed, doing)
}

/// Sees that a secret's value could be read, and by nobody else.
///
/// # Errors
/// As [`mount`].
pub fn check(path: &Path) -> Result<()> {
    value(path).map(drop)
}

fn value(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let Some((file, stat)) = trusted::open_file(path)? else {
        return Err(Error::new(Cause::SecretUnavailable, format!("its file {shown} does not exist")));
    };
    let doing = || format!("its file {shown} cannot be read");
    if !stat.is_file() {
        return Err(Error::new(Cause::SecretUnavailable, format!("{shown} is no regular file")));
    }
    if stat.mode & 0o007 != 0 || (stat.gid != 0 && stat.mode & 0o070 != 0) {
        let what = format!("{shown} can be read by others (mode {:04o})", stat.permissions());
        return Err(
            Error::new(Cause::ConfigUnsafe, what).remedy(format!("chmod 0400 {}", shell_word(&path.to_string_lossy())))
        );
    }
    read::known(file.into(), &stat, LARGEST).because(Cause::SecretUnavailable, doing)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    // The machine's kernel clones detached mounts, so the way for older ones is taken by hand.
    #[test]
    fn both_ways_give_the_same_file() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let ways = std::thread::spawn(|| {
            // A thread of a test enters namespaces only with a root directory of its own, as a hook has.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            let home = crate::init::own_mount_namespace().unwrap();
            let filesystem =
                sys::memory_filesystem(MountAttributes { nosuid: true, ..Default::default() }, None).unwrap();
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            let file = sys::open_file_at(&filesystem, NAME, flags, 0o400).unwrap();
            File::from(file).write_all(b"hunter2").unwrap();
            let file = sys::open_path(&filesystem, Path::new(NAME), Resolve::BeneathNoLinks).unwrap();
            let before = std::fs::read("/proc/thread-self/mountinfo").unwrap();
            let clone = clone_aside(&filesystem, &file, &home).unwrap();
            assert_eq!(std::fs::read("/proc/thread-self/mountinfo").unwrap(), before);
            let path = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&clone));
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            (text, sys::stat(&clone).unwrap().id == sys::stat(&file).unwrap().id)
        });
        assert_eq!(ways.join().unwrap(), ("hunter2".to_owned(), true));
    }
}
