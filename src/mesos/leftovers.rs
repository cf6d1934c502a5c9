//! Mounts that a Mesos agent left in its sandboxes on the host. Whoever deletes such a sandbox deletes the volume that
//! is still mounted there (MESOS-7366, 8830, 9352, 9355); Mesos itself leaves most of them alone (mesos.md L21, B5).
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use crate::error::{Because, Cause, Error, Result};
use crate::mountinfo::{self, Mount};
use crate::sys::{self, Resolve};

/// A mount in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub mount_point: PathBuf,
    /// Its mount id: another mount may come to stand there.
    pub id: u64,
}

/// Mounts of this namespace in the sandboxes of a `work_dir`, in the order in which they can be detached: the deepest
/// first, and of several at one place the topmost.
///
/// # Errors
/// [`Cause::MountPointUnsafe`] where the mount table cannot be read.
pub fn find(work_dir: &OwnedFd) -> Result<Vec<Leftover>> {
    let doing = || "it cannot be told what is mounted in sandboxes".to_owned();
    // The table has real paths; Mesos compared them to its flag, which may lead through a link (mesos.md E7).
    let proc_fds = sys::open_proc_fds().because(Cause::MountPointUnsafe, doing)?;
    let real = PathBuf::from(sys::path_of(&proc_fds, work_dir).because(Cause::MountPointUnsafe, doing)?);
    let table = std::fs::read("/proc/self/mountinfo").because(Cause::MountPointUnsafe, doing)?;
    Ok(among(mountinfo::parse(&table), &real))
}

fn among(mounts: Vec<Mount>, work_dir: &Path) -> Vec<Leftover> {
    let mut found: Vec<Leftover> = mounts
        .into_iter()
        .filter(|mount| is_in_sandbox(&mount.mount_point, work_dir))
        .map(|mount| Leftover { mount_point: mount.mount_point, id: mount.id })
        .collect();
    // What was mounted on top of something comes after it in the table.
    found.reverse();
    found.sort_by_key(|leftover| std::cmp::Reverse(leftover.mount_point.components().count()));
    found
}

/// Whether this is `slaves/S/frameworks/F/executors/E/runs` below `work_dir`, or below that: a container path of `..`
/// made Mesos mount on `runs` itself (mesos.md E8).
fn is_in_sandbox(path: &Path, work_dir: &Path) -> bool {
    let Ok(below) = path.strip_prefix(work_dir) else { return false };
    let names: Vec<Component<'_>> = below.components().take(7).collect();
    let is = |index: usize, name: &str| names.get(index) == Some(&Component::Normal(OsStr::new(name)));
    is(0, "slaves") && is(2, "frameworks") && is(4, "executors") && is(6, "runs")
}

/// Detaches a mount, if it is still the one that was found. The working directory is `/` afterwards.
///
/// # Errors
/// [`Cause::MountPointUnsafe`]; nothing was detached then.
pub fn detach(leftover: &Leftover) -> Result<()> {
    let point = leftover.mount_point.display();
    let by_hand = |error: Error| error.remedy("look at it and umount it by hand; it was not detached");
    let doing = || format!("{point} cannot be detached");
    let fd = sys::open_place(sys::cwd(), &leftover.mount_point, Resolve::NoLinks)
        .because(Cause::MountPointUnsafe, doing)
        .map_err(by_hand)?;
    let stat = sys::stat(&fd).because(Cause::MountPointUnsafe, doing).map_err(by_hand)?;
    let number = sys::mount_number(&fd).because(Cause::MountPointUnsafe, doing).map_err(by_hand)?;
    if number != leftover.id || !stat.mount_root {
        let what = format!("{point} is not the mount {} that was found there", leftover.id);
        return Err(by_hand(Error::new(Cause::MountPointUnsafe, what)));
    }
    let detached = sys::open_proc_fds().and_then(|proc_fds| sys::detach_mount(proc_fds, &fd));
    detached.because(Cause::MountPointUnsafe, doing).map_err(by_hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_in_sandboxes_are_found_and_the_deepest_come_first() {
        let table = b"\
            1 0 0:1 / / rw - ext4 x rw\n\
            2 1 0:1 / /w rw shared:1 - ext4 x rw\n\
            3 2 0:1 / /w/slaves/S/frameworks/F/executors/a\\040b/runs/C/data rw - ext4 x rw\n\
            4 3 0:1 / /w/slaves/S/frameworks/F/executors/a\\040b/runs/C/data/sub\\134x rw - ext4 x rw\n\
            5 3 0:1 / /w/slaves/S/frameworks/F/executors/a\\040b/runs/C/data rw - ext4 x rw\n\
            6 2 0:1 / /w/slaves/S/frameworks/F/executors/runs rw - ext4 x rw\n\
            7 2 0:1 / /w/slaves/S/frameworks/F/executors/E/runs rw - ext4 x rw\n\
            8 2 0:1 / /w/slaves/S/frameworks/F/executors/E/runsx/C rw - ext4 x rw\n\
            9 2 0:1 / /w/volumes/roles/a/slaves/S/frameworks/F/executors/E/runs/C rw - ext4 x rw\n\
            10 2 0:1 / /w2/slaves/S/frameworks/F/executors/E/runs/C rw - ext4 x rw\n\
            11 2 0:1 / /w/provisioner/x rw - ext4 x rw\n";
        let found = among(mountinfo::parse(table), Path::new("/w"));
        assert_eq!(found.iter().map(|leftover| leftover.id).collect::<Vec<_>>(), [4, 5, 3, 7]);
        assert_eq!(
            found[0].mount_point,
            Path::new("/w/slaves/S/frameworks/F/executors/a b/runs/C/data/sub\\x"),
            "unescaped"
        );
    }

    // That a mount is told from another is in tests/adopt.rs: here a fault would detach the machine's own.
    #[test]
    fn what_is_gone_or_behind_a_link_is_not_detached() {
        for point in ["/no/such/place", "/proc/self/fd"] {
            let error = detach(&Leftover { mount_point: PathBuf::from(point), id: 0 }).unwrap_err();
            assert_eq!(error.cause(), Cause::MountPointUnsafe, "{point}");
            assert!(error.to_string().contains("cannot be detached: openat2"), "{error}");
        }
    }
}
