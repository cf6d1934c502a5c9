//! What the kernel can do, found out by trying it: in a mount namespace of a thread of its own, which goes with it.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;

use super::{Check, Finding};
use crate::error::{Because, Cause, Error, Result};
use crate::init::own_mount_namespace;
use crate::me::me;
use crate::sys::{self, MountAttributes, Resolve, SetPropagation};

/// Tries everything.
pub fn examine(findings: &mut Vec<Finding>) {
    // Without rights over mounts nothing can be tried.
    if me().user.is_some() && !me().in_namespace {
        return;
    }
    let tried = std::thread::spawn(|| {
        let mut findings = Vec::new();
        if let Err(error) = try_all(&mut findings) {
            findings.push(
                Finding::of(Check::Kernel, &error, "kernel")
                    .remedy("use Linux 5.12 or newer, and run this as root outside of a container"),
            );
        }
        findings
    });
    findings.extend(tried.join().unwrap_or_default());
}

fn try_all(findings: &mut Vec<Finding>) -> Result<()> {
    let doing = |what: &'static str| move || format!("{what} does not work");
    let failed = Cause::AttachFailed;
    sys::pidfd_open(std::process::id().cast_signed()).because(failed, doing("pidfd_open(2)"))?;
    own_mount_namespace()?;
    sys::leave_mount_namespace().because(failed, doing("a mount namespace (unshare(2))"))?;
    let root = sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoLinks).because(failed, doing("openat2(2)"))?;
    sys::mount_setattr(&root, MountAttributes::default(), SetPropagation::Private, true)
        .because(failed, doing("mount_setattr(2)"))?;
    // Over /proc, which is everywhere, and in this thread alone.
    let base = match sys::memory_filesystem(MountAttributes::default(), None) {
        Ok(base) => base,
        Err(error) => {
            let error = Error::new(Cause::SecretUnavailable, format!("fsopen(2) and fsmount(2) do not work: {error}"));
            findings
                .push(Finding::of(Check::KernelMemoryFilesystem, &error, "kernel").remedy("use Linux 5.2 or newer"));
            return Ok(());
        }
    };
    let place =
        sys::open_place(sys::cwd(), Path::new("/proc"), Resolve::NoLinks).because(failed, doing("openat2(2)"))?;
    sys::move_mount(&base, &place).because(failed, doing("move_mount(2)"))?;
    let open = |name| sys::open_place(&base, Path::new(name), Resolve::BeneathNoLinks);
    for name in ["a", "b"] {
        sys::mkdir_at(&base, name, 0o700).because(failed, doing("mkdirat(2)"))?;
    }
    // Both of one directory: a group goes to no mount that shows more than its own do.
    let clone = || open("a").and_then(sys::clone_tree).because(failed, doing("open_tree(2)"));
    let mounts = [clone()?, clone()?];
    for (tree, name) in mounts.iter().zip(["a", "b"]) {
        let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
        sys::mount_setattr(tree, read_only, SetPropagation::Keep, true).because(failed, doing("mount_setattr(2)"))?;
        open(name).and_then(|place| sys::move_mount(tree, place)).because(failed, doing("move_mount(2)"))?;
    }
    let [from, to] = &mounts;
    groups(from, to, findings);
    Ok(())
}

/// A user namespace in which root is another user of the host; `None` where none can be made, as then no container has
/// one either.
pub fn user_namespace() -> Option<OwnedFd> {
    let mut command = Command::new("/proc/self/exe");
    // It waits until its standard input is closed, which is below.
    command.args(["probe", ""]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::in_user_namespace(&mut command);
    let mut child = command.spawn().ok()?;
    let of_child = |name: &str| format!("/proc/{}/{name}", child.id());
    let mapped = ["uid_map", "gid_map"].iter().all(|map| std::fs::write(of_child(map), "0 100000 65536").is_ok());
    let open = std::fs::File::open(of_child("ns/user"));
    drop(child.stdin.take());
    let _ = child.wait();
    open.ok().filter(|_| mapped).map(OwnedFd::from)
}

fn groups(from: &OwnedFd, to: &OwnedFd, findings: &mut Vec<Finding>) {
    let made = sys::mount_setattr(from, MountAttributes::default(), SetPropagation::Shared, false);
    if let Err(error) = made.and_then(|()| sys::set_group(from, to)) {
        let old = error.errno == Errno::EINVAL || error.errno == Errno::ENOSYS;
        findings.push(
            Finding::new(Check::KernelSetGroup, format!("MOVE_MOUNT_SET_GROUP does not work: {error}"), "kernel")
                .why("slave is not given back where crun takes it, and a volume that names it ends its container")
                .remedy(if old { "use Linux 5.15 or newer, or runc" } else { "run this as root" }),
        );
    }
    let told = sys::stat(to).is_ok_and(|stat| sys::propagation_of(stat.mount).is_some());
    if !told {
        findings.push(
            Finding::new(Check::KernelStatmount, "statmount(2) does not work", "kernel")
                .why("the whole mount table is read where a volume names slave, which costs each such start")
                .remedy("use Linux 6.8 or newer"),
        );
    }
}
