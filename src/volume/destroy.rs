//! Destroying volumes: the one way by which data of volumes is ever deleted.
//!
//! A volume loses its name first, in one step, so that a kill halfway leaves either the volume or a remainder that is
//! none any more and that `gc` finishes. A MOUNT disk's root cannot be renamed: its metadata says so instead.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;

use super::{DESTROYED, Disk, Found, Meta, gids, meta, names};
use crate::config::disks::Kind;
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::lease::Leases;
use crate::mountinfo;
use crate::report::Report;
use crate::request::names::{RESERVED, Role};
use crate::sys::{self, Resolve};
use crate::tree;
use crate::trusted::Missing;

/// Refuses while a container has the volume, or something is mounted at or below it.
///
/// # Errors
/// [`Cause::VolumeInUse`], [`Cause::VolumeUnsafe`], [`Cause::VolumeUnavailable`] for metadata of a later version.
pub fn check(volume: &Found, leases: &Leases) -> Result<()> {
    // What a later version decided about it may be why it must stay.
    volume.meta()?;
    refuse_holders(&leases.holders_of(volume.stat.id)?)?;
    refuse_mounts(volume)
}

fn refuse_holders(holders: &[crate::lease::Lease]) -> Result<()> {
    match holders.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(Cause::VolumeInUse, first.describe())),
    }
}

fn refuse_mounts(volume: &Found) -> Result<()> {
    let path = volume.path();
    let mounts = std::fs::read("/proc/self/mountinfo")
        .because(Cause::VolumeUnsafe, || "the mount table cannot be read".to_owned())?;
    let is_disk = |point: &Path| volume.disk.kind() == Kind::Mount && point == path;
    let below = |mount: &&mountinfo::Mount| mount.mount_point.starts_with(&path) && !is_disk(&mount.mount_point);
    let mounts = mountinfo::parse(&mounts);
    let Some(mount) = mounts.iter().find(below) else { return Ok(()) };
    let point = mount.mount_point.to_string_lossy();
    Err(Error::new(Cause::VolumeUnsafe, format!("something is mounted at {point}"))
        .remedy(format!("umount {} first; nothing was deleted", shell_word(&point))))
}

/// Deletes a volume and all its data. `tell` hears how many files are gone.
///
/// # Errors
/// As [`check`]; [`Cause::VolumeUnavailable`] where it was destroyed meanwhile.
pub fn destroy(volume: &Found, leases: &Leases, tell: &mut dyn FnMut(u64)) -> Result<()> {
    // From here on nobody gets it.
    let locked = leases.lock(volume.stat.id)?;
    let answer = (|| {
        refuse_holders(&locked.live()?)?;
        refuse_mounts(volume)?;
        volume.confirm()?;
        match &volume.folder {
            None => {
                let meta = Meta { destroying: true, ..volume.meta()? };
                meta::write(&volume.fd, &volume.disk, &volume.role, &volume.id, &meta).map(|()| None)
            }
            Some(folder) => move_aside(volume, folder).map(Some),
        }
    })();
    locked.tidy()?;
    let aside = answer?;
    gids::release(volume)?;
    match (&volume.folder, aside) {
        (Some(folder), Some(aside)) => tree::remove_counting(folder, OsStr::new(&aside), tell)
            .because(Cause::VolumeUnsafe, || format!("{} is not wholly deleted", volume.path().display())),
        _ => finish_mount(&volume.disk, leases, tell).map(drop),
    }
}

/// Takes its name from a volume. The new one says which inode is to be deleted, and nothing else is under that name.
fn move_aside(volume: &Found, folder: &OwnedFd) -> Result<String> {
    let path = volume.path();
    let doing = || format!("{} cannot be moved aside", path.display());
    let destroyed = format!("{RESERVED}{DESTROYED}{}.{:x}", std::process::id(), volume.stat.id.ino);
    let rename = |from: &str, to: &str| {
        sys::rename_new(folder, OsStr::new(from), folder, OsStr::new(to)).because(Cause::VolumeUnsafe, doing)
    };
    rename(volume.id.as_str(), &destroyed)?;
    let moved = sys::stat_at(folder, &destroyed).because(Cause::VolumeUnsafe, doing)?;
    if moved.id != volume.stat.id {
        rename(&destroyed, volume.id.as_str())?;
        return Err(Error::new(Cause::VolumeUnsafe, format!("{} was replaced a moment ago", path.display()))
            .remedy("look at it, and try again; nothing was deleted"));
    }
    sys::open_dir(folder, Path::new("."), Resolve::BeneathNoLinks)
        .and_then(sys::fsync)
        .because(Cause::VolumeUnsafe, doing)?;
    meta::forget(None, &volume.disk, &volume.role, &volume.id)?;
    Ok(destroyed)
}

/// Deletes what destructions on a disk have begun and not finished, whatever fails on the way.
pub fn finish(disk: &Rc<Disk>, leases: &Leases, tell: &mut dyn FnMut(u64), report: &mut Report) {
    let said = |done: Vec<String>| done.into_iter().map(|one| format!("finished the destruction of {one}")).collect();
    if disk.kind() == Kind::Mount {
        return report.add(finish_mount(disk, leases, tell).map(said));
    }
    match disk.roles() {
        Err(fault) => report.faults.push(fault),
        Ok(roles) => roles.iter().for_each(|role| finish_role(disk, role, tell, report)),
    }
}

fn finish_role(disk: &Disk, role: &Role, tell: &mut dyn FnMut(u64), report: &mut Report) {
    let doing = |name: &str| format!("{name} of role {role} on disk {}", disk.name());
    let folder = match disk.open_role(role, Missing::Tell) {
        Ok(Some(folder)) => folder,
        Ok(None) => return,
        Err(fault) => return report.faults.push(fault),
    };
    let names = match names(&folder) {
        Ok(names) => names,
        Err(fault) => return report.faults.push(fault),
    };
    for name in names.iter().filter_map(|name| name.to_str()) {
        let Some(number) = name.strip_prefix(RESERVED).and_then(|rest| rest.strip_prefix(DESTROYED)) else { continue };
        let wanted = number.rsplit_once('.').and_then(|(_, inode)| u64::from_str_radix(inode, 16).ok());
        let is_it = match sys::stat_at(&folder, name) {
            Err(error) if error.errno == Errno::ENOENT => continue,
            answer => answer.map(|stat| Some(stat.id.ino) == wanted),
        };
        report.add(match is_it.because(Cause::VolumeUnsafe, || doing(name)) {
            Ok(true) => tree::remove_counting(&folder, OsStr::new(name), tell)
                .because(Cause::VolumeUnsafe, || doing(name))
                .map(|()| vec![format!("finished the destruction of {}", doing(name))]),
            // Something took the volume's place in the very moment in which it was moved, and then the kill came.
            Ok(false) => {
                Err(Error::new(Cause::VolumeUnsafe, format!("{} is not what was to be destroyed", doing(name)))
                    .remedy("look at it: give it its name again, or delete it by hand"))
            }
            Err(fault) => Err(fault),
        });
    }
}

/// Empties a MOUNT disk whose volume is being destroyed. Its root stays, and so does an empty `lost+found`, which
/// fsck(8) needs. All under a lock: by the time that a slow deletion went on, the disk could be another volume.
fn finish_mount(disk: &Disk, leases: &Leases, tell: &mut dyn FnMut(u64)) -> Result<Vec<String>> {
    let doing = || format!("{} is not wholly emptied", disk.path().display());
    if !meta::read_mount(disk)?.is_some_and(|meta| meta.destroying) {
        return Ok(Vec::new());
    }
    let root = sys::open_dir(disk.fd(), Path::new("."), Resolve::BeneathNoLinks).because(Cause::VolumeUnsafe, doing)?;
    let locked = leases.lock(sys::stat(&root).because(Cause::VolumeUnsafe, doing)?.id)?;
    let answer = (|| {
        let Some(Meta { destroying: true, role: Some(role), id: Some(id), .. }) = meta::read_mount(disk)? else {
            return Ok(Vec::new());
        };
        for name in names(disk.fd())? {
            let kept = if name == "lost+found" {
                sys::open_dir(&root, Path::new(&name), Resolve::BeneathNoLinksNoMounts).ok()
            } else {
                None
            };
            match kept {
                Some(kept) => tree::empty_counting(&kept, tell),
                None => tree::remove_counting(&root, &name, tell),
            }
            .because(Cause::VolumeUnsafe, doing)?;
        }
        meta::forget(Some(&root), disk, &role, &id)?;
        Ok(vec![format!("volume {id} of role {role} on disk {}", disk.name())])
    })();
    locked.tidy()?;
    answer
}
