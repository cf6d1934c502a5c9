//! Destroying volumes: the one way by which data of volumes is ever deleted.
//!
//! A volume loses its name first, in one step, so that a kill halfway leaves either the volume or a remainder that is
//! none any more and that `gc` finishes. A MOUNT disk's root cannot be renamed: its metadata says so instead.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::rc::Rc;

use super::{DESTROYED, Disk, Found, Meta, gids, meta, names};
use crate::config::disks::Kind;
use crate::error::{Because, Cause, Error, Result};
use crate::holders::File;
use crate::lease::Leases;
use crate::mountinfo;
use crate::plan::shell_word;
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
    refuse_holders(&leases.holders_of(File::of(&volume.stat))?)?;
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
    let path = volume.path();
    let doing = || format!("{} cannot be moved aside", path.display());
    // From here on nobody gets it.
    let locked = leases.lock(File::of(&volume.stat))?;
    let answer = (|| {
        refuse_holders(&locked.live()?)?;
        refuse_mounts(volume)?;
        volume.confirm()?;
        match &volume.folder {
            None => {
                let meta = Meta { destroying: true, ..volume.meta()? };
                meta::write(&volume.fd, &volume.disk, &volume.role, &volume.id, &meta)
            }
            Some(folder) => {
                let aside = format!("{RESERVED}{DESTROYED}{}.{:x}", std::process::id(), volume.stat.id.ino);
                let (aside, name) = (OsStr::new(&aside), OsStr::new(volume.id.as_str()));
                sys::rename_new(folder, name, folder, aside).because(Cause::VolumeUnsafe, doing)?;
                let moved = sys::stat_at(folder, &aside.to_string_lossy()).because(Cause::VolumeUnsafe, doing)?;
                if moved.id != volume.stat.id {
                    sys::rename_new(folder, aside, folder, name).because(Cause::VolumeUnsafe, doing)?;
                    return Err(Error::new(
                        Cause::VolumeUnsafe,
                        format!("{} was replaced a moment ago", path.display()),
                    )
                    .remedy("look at it, and try again; nothing was deleted"));
                }
                meta::forget(None, &volume.disk, &volume.role, &volume.id)
            }
        }
    })();
    locked.tidy()?;
    answer?;
    gids::release(volume)?;
    match volume.folder {
        None => finish_mount(&volume.disk, tell).map(drop),
        Some(_) => finish_role(&volume.disk, &volume.role, tell).map(drop),
    }
}

/// Deletes what destructions on a disk have begun and not finished, and tells of what.
///
/// # Errors
/// [`Cause::VolumeUnsafe`].
pub fn finish(disk: &Rc<Disk>, tell: &mut dyn FnMut(u64)) -> Result<Vec<String>> {
    if disk.kind() == Kind::Mount {
        return finish_mount(disk, tell);
    }
    let mut finished = Vec::new();
    for role in disk.roles()? {
        finished.extend(finish_role(disk, &role, tell)?);
    }
    Ok(finished)
}

fn finish_role(disk: &Disk, role: &Role, tell: &mut dyn FnMut(u64)) -> Result<Vec<String>> {
    let mut finished = Vec::new();
    let Some(folder) = disk.open_role(role, Missing::Tell)? else { return Ok(finished) };
    let doing = || format!("role {role}: a destroyed volume is not wholly deleted");
    for name in names(&folder)? {
        if name.to_string_lossy().starts_with(&format!("{RESERVED}{DESTROYED}")) {
            tree::remove_counting(&folder, &name, tell).because(Cause::VolumeUnsafe, doing)?;
            finished.push(format!("{} of role {role} on disk {}", name.to_string_lossy(), disk.name()));
        }
    }
    Ok(finished)
}

/// Empties a MOUNT disk whose volume is being destroyed. Its root stays, and so does an empty `lost+found`, which
/// fsck(8) needs.
fn finish_mount(disk: &Disk, tell: &mut dyn FnMut(u64)) -> Result<Vec<String>> {
    let Some(Meta { destroying: true, role: Some(role), id: Some(id), .. }) = meta::read_mount(disk)? else {
        return Ok(Vec::new());
    };
    let doing = || format!("{} is not wholly emptied", disk.path().display());
    let root = sys::open_dir(disk.fd(), Path::new("."), Resolve::BeneathNoLinks).because(Cause::VolumeUnsafe, doing)?;
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
}
