//! What the configuration names: whether it is the administrator's alone and there, and whom it lets in.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use super::{Check, Finding, kernel, word};
use crate::attach;
use crate::config::disks::Kind;
use crate::config::{Config, Isolator, Ownership, lease_directory};
use crate::error::{Because, Cause};
use crate::me::me;
use crate::mesos::{agent, leftovers};
use crate::selinux::{Context, host};
use crate::sys;
use crate::trusted::{self, Missing};
use crate::volume::DiskChoice;
use crate::volume::{self, Disk, Disks};

/// Looks at all of it.
pub fn examine(config: &Config, findings: &mut Vec<Finding>) {
    let disks = Disks::new(config);
    for (name, path) in [("runtime_dir", config.runtime_dir.clone()), ("leases", lease_directory(me()))] {
        if let Err(error) = trusted::open_dir(&path, Missing::Tell) {
            findings.push(Finding::of(Check::UnsafeDirectory, &error, format!("{name} {}", path.display())));
        }
    }
    for (manager, path) in config.manager_directories() {
        if let Err(error) = trusted::open_dir(path, Missing::Tell) {
            findings.push(
                Finding::new(Check::ManagerDirectory, error.what(), format!("managers {}", path.display()))
                    .why(format!("who can put a bundle there is taken for {manager}, and may use every volume it may"))
                    .remedy(error.how()),
            );
        }
    }
    for entry in &config.host_paths {
        match trusted::open_place(entry.path.as_ref()) {
            Err(error) => findings.push(Finding::of(Check::HostPath, &error, format!("host_paths {}", entry.path))),
            Ok(None) if !entry.create => findings.push(
                Finding::new(Check::HostPath, "it does not exist", format!("host_paths {}", entry.path))
                    .why("containers that ask for it are refused")
                    .remedy(format!("make it, or take {} out of host_paths", entry.path)),
            ),
            Ok(_) => {}
        }
    }
    for secret in &config.secrets {
        if let Err(error) = crate::secret::check(&secret.path) {
            let place = format!("secrets {} {}", secret.name, secret.path.display());
            findings.push(Finding::of(Check::Secret, &error, place));
        }
    }
    // Only root of the host idmaps, and nobody where that was switched off.
    let idmaps = me().user.is_none() && config.ownership != Ownership::Never;
    let ids = if idmaps { kernel::user_namespace() } else { None };
    for name in disks.names(&DiskChoice::Any) {
        match disks.get(name, Missing::Tell) {
            Ok(Some(disk)) => one_disk(&disk, ids.as_ref(), config, findings),
            Ok(None) if name != crate::config::disks::ROOT => {
                let place = config.disk(name).map_or_else(|_| name.to_owned(), |disk| disk.root.display().to_string());
                findings.push(
                    Finding::new(Check::Disk, format!("the root of disk {name} does not exist"), place)
                        .why("volumes on it are not found, and new ones would land on the disk below")
                        .remedy("mount the disk, or take it out of the configuration"),
                );
            }
            Ok(None) => {}
            Err(error) => {
                let place = config.disk(name).map_or_else(|_| name.to_owned(), |disk| disk.root.display().to_string());
                let check = if error.cause() == Cause::DiskUnavailable { Check::Disk } else { Check::UnsafeDirectory };
                findings.push(Finding::of(check, &error, place));
            }
        }
    }
    volumes(&disks, findings);
    if let Ok(Some(work_dir)) = disks.work_dir(Missing::Tell) {
        mesos(&work_dir, findings);
    }
}

fn one_disk(disk: &Disk, ids: Option<&OwnedFd>, config: &Config, findings: &mut Vec<Finding>) {
    // With links nothing is mounted, and what the host mounts is there anyway.
    let mounts = config.allowed_isolation.iter().chain([&config.isolation]).any(|one| *one != Isolator::Posix);
    if !mounts {
        return;
    }
    let looked = sys::stat(disk.fd())
        .because(Cause::AttachFailed, || disk.path().display().to_string())
        .and_then(|stat| attach::propagates(disk.fd(), &stat, true));
    match looked {
        Ok(true) => {}
        Ok(false) => findings.push(
            Finding::new(Check::PrivateMount, "the mount on which it lies is private", disk.path().display())
                .why("what the host mounts below a volume later does not appear in containers, and slave is refused")
                .remedy(match disk.kind() {
                    Kind::Root => "fs-isolator host, before containers are started".to_owned(),
                    _ => format!(
                        "mount --make-shared \"$(findmnt -n -o TARGET -T {})\", before containers are started",
                        word(disk.path())
                    ),
                }),
        ),
        Err(error) => findings.push(Finding::of(Check::PrivateMount, &error, disk.path().display())),
    }
    if let Some(ids) = ids {
        let tried = sys::clone_mount(disk.fd()).and_then(|tree| sys::idmap(tree, ids));
        if let Err(error) = tried {
            findings.push(
                Finding::new(Check::KernelIdmap, format!("it cannot be idmapped: {error}"), disk.path().display())
                    .why("containers with a user namespace are refused volumes that are not their user's already")
                    .remedy("put it on ext4, xfs, btrfs or tmpfs (Linux 6.3), or set \"ownership\": \"never\""),
            );
        }
    }
    if disk.kind() == Kind::Root {
        return;
    }
    let filesystem = sys::filesystem(disk.fd());
    if filesystem.is_ok_and(|filesystem| filesystem.attributes.read_only) {
        findings.push(
            Finding::new(Check::Disk, "it is mounted read-only", disk.path().display())
                .why("volumes on it cannot be written")
                .remedy(format!("mount -o remount,rw {}", word(disk.path()))),
        );
    }
}

fn volumes(disks: &Disks<'_>, findings: &mut Vec<Finding>) {
    let (listed, faults) = match volume::list(disks) {
        Ok(listed) => listed,
        Err(error) => (Vec::new(), vec![error]),
    };
    for fault in faults.iter().filter(|fault| fault.cause() != Cause::DiskUnavailable) {
        // What is wrong with a disk was told with the disk.
        if !findings.iter().any(|finding| finding.what == fault.what()) {
            findings.push(Finding::of(Check::Volume, fault, "disks"));
        }
    }
    // Of any container: one with every category.
    let process = Context::parse("system_u:system_r:container_t:s0-s0:c0.c1023").ok();
    for found in &listed {
        let label = process.as_ref().and_then(|process| host::examine(process, &found.fd, &found.stat, false));
        if let Some((fault, _)) = label {
            let path = found.path();
            let remedy = fault.chcon(false, &path.to_string_lossy());
            findings.push(
                Finding::new(Check::VolumeLabel, fault.what, path.display())
                    .why(format!(
                        "while SELinux enforces, containers are refused it with exit code {}",
                        Cause::Label.code()
                    ))
                    .remedy(format!("{remedy}; docs/security-model.md tells how it stays")),
            );
        }
        if found.is_reachable().unwrap_or(false) {
            let path = found.path();
            let what = format!("other users of this host can reach it (mode {:04o})", found.stat.permissions());
            findings.push(
                Finding::new(Check::VolumeReachable, what, path.display())
                    .why(
                        "they can run a setuid file that root of a container left in it, and read what its files allow",
                    )
                    .remedy(format!("chmod o-rwx {}", word(&path))),
            );
        }
    }
}

fn mesos(work_dir: &Disk, findings: &mut Vec<Finding>) {
    if let Err(error) = agent::refuse(work_dir.fd(), work_dir.path()) {
        findings.push(Finding::of(Check::MesosAgent, &error, work_dir.path().display()));
    }
    for leftover in leftovers::find(work_dir.fd()).unwrap_or_default() {
        findings.push(
            Finding::new(
                Check::MesosLeftover,
                "a Mesos agent left this mount in a sandbox",
                leftover.mount_point.display(),
            )
            .why("it keeps a volume busy, and whoever deletes the sandbox could delete through it")
            .remedy("fs-isolator adopt --detach"),
        );
    }
}
