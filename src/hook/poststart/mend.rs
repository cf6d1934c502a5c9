//! Giving slave back to mounts of a running container that the runtime made private after the hooks (crun does, unless
//! `linux.rootfsPropagation` is set).
//!
//! In place, and without a moment in which the volume is not there: the mount takes over the peer group of a slave clone
//! that is made anew in the host's namespace (`MOVE_MOUNT_SET_GROUP`). What was mounted on the host between prestart and
//! now is brought in.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::aside::Aside;
use crate::error::{Because, Cause, Error, Result};
use crate::mountinfo::{self, Mount};
use crate::request::Propagation;
use crate::sys::{self, FileId, MountAttributes, Resolve, SetPropagation};

/// A mount of the container that should follow the host.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its root, in the container.
    pub found: &'a OwnedFd,
    /// What that is.
    pub id: FileId,
    /// Where that lies on the host.
    pub source: &'a Path,
    /// Attributes that it has, and that what is brought in gets too.
    pub attributes: MountAttributes,
    /// What it should have: slave, or with the host in both directions.
    pub propagation: Propagation,
    /// What is mounted below on the host by now is not to be brought in.
    pub alone: bool,
}

/// The container's mount namespace and this process's own.
#[derive(Debug)]
pub struct Namespaces<'a> {
    /// The container's.
    pub theirs: &'a OwnedFd,
    /// The hook's.
    pub home: &'a OwnedFd,
    /// `/proc/self/fd`, which is of use in both.
    pub proc_fds: &'a OwnedFd,
    /// A copy of the container's.
    pub aside: Aside<'a>,
}

/// Makes a mount of the container, and those below it, follow the host again. Answers where the host has mounts below it.
///
/// # Errors
/// [`Cause::NoPropagation`] where that cannot be done.
pub fn mend(wanted: &Wanted<'_>, namespaces: &Namespaces<'_>) -> Result<Vec<PathBuf>> {
    let doing = || format!("{} cannot be looked at on the host", wanted.source.display());
    let source = sys::open_path(sys::cwd(), wanted.source, Resolve::NoLinks).because(Cause::NoPropagation, doing)?;
    let replaced = || Err(Error::new(Cause::NoPropagation, format!("{} is another one now", wanted.source.display())));
    let stat = sys::stat(&source).because(Cause::NoPropagation, doing)?;
    if stat.id != wanted.id {
        return replaced();
    }
    let donor = clone(&source, wanted.propagation)?;
    let bring_in_all = |donor: Option<&OwnedFd>| {
        let has_more = stat.is_dir() && !wanted.alone;
        let all = if has_more { mounted_below(&source, namespaces)? } else { Vec::new() };
        all.iter().try_for_each(|below| bring_in(&source, donor, below, wanted, namespaces))?;
        Ok(all)
    };
    if wanted.propagation == Propagation::Bidirectional {
        // A slave cannot join a peer group; and what is brought in below a mount of the host's group would be mounted on the
        // host again, so all of that is there before anything joins.
        make_private(wanted, namespaces)?;
        bring_in_all(None)?;
    }
    take_over(&donor, wanted.found)?;
    // From here on the host's mounts arrive by themselves: what is missing now was mounted before.
    bring_in_all(Some(&donor))
}

/// A detached clone with everything below it, which has the propagation that is wanted.
fn clone(source: &OwnedFd, propagation: Propagation) -> Result<OwnedFd> {
    let doing = || "it cannot be cloned anew".to_owned();
    let clone = sys::clone_tree(source).because(Cause::NoPropagation, doing)?;
    sys::mount_setattr(&clone, MountAttributes::default(), set(propagation), true)
        .because(Cause::NoPropagation, doing)?;
    Ok(clone)
}

fn make_private(wanted: &Wanted<'_>, namespaces: &Namespaces<'_>) -> Result<()> {
    let doing = || "it cannot be made private first".to_owned();
    sys::enter_mount_namespace(namespaces.theirs).because(Cause::NoPropagation, doing)?;
    let answer = sys::mount_setattr(wanted.found, MountAttributes::default(), SetPropagation::Private, true);
    crate::attach::come_back(namespaces.home);
    answer.because(Cause::NoPropagation, doing)
}

fn set(propagation: Propagation) -> SetPropagation {
    match propagation {
        Propagation::Slave => SetPropagation::Slave,
        Propagation::Private => SetPropagation::Private,
        // A clone is in the peer group of its source.
        Propagation::Bidirectional => SetPropagation::Keep,
    }
}

fn take_over(donor: &OwnedFd, mount: &OwnedFd) -> Result<()> {
    match sys::set_group(donor, mount) {
        // It follows the host already.
        Err(error) if error.errno == Errno::EINVAL && follows(mount) => Ok(()),
        Err(error) if error.errno == Errno::EINVAL => Err(Error::new(
            Cause::NoPropagation,
            "the runtime made it private after the hooks, and this kernel cannot change that (Linux 5.15 can)",
        )
        .remedy("set linux.rootfsPropagation in the bundle (podman: give any volume bind-propagation=rslave)")),
        answer => answer.because(Cause::NoPropagation, || "slave cannot be given back".to_owned()),
    }
}

fn follows(mount: &OwnedFd) -> bool {
    sys::stat(mount).ok().and_then(|stat| sys::propagation_of(stat.mount)).is_some_and(|propagation| propagation.slave)
}

/// Where something is mounted on the host below a place, parents first, as paths below it.
///
/// A clone has it all, and of a clone that is mounted somewhere the kernel tells it. That is in a copy of the container's mount
/// namespace, which has few mounts; the host's table may have any number.
fn mounted_below(source: &OwnedFd, namespaces: &Namespaces<'_>) -> Result<Vec<PathBuf>> {
    let doing = || "what is mounted below it on the host cannot be listed".to_owned();
    let look = || {
        let clone = sys::clone_tree(source)?;
        // Nothing that is done with it is to reach the host.
        sys::mount_setattr(&clone, MountAttributes::default(), SetPropagation::Private, true)?;
        let table = namespaces.aside.with_mounted(&clone, || sys::open_mount_table(namespaces.proc_fds))?;
        Ok((mountinfo::read(table)?, sys::mount_number(&clone)?))
    };
    let answer: sys::Result<(Vec<Mount>, u64)> = look();
    let (mounts, number) = answer.because(Cause::NoPropagation, doing)?;
    let path = |mount: &Mount| mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point).to_owned();
    Ok(mountinfo::below(&mounts, number).into_iter().map(path).collect())
}

/// Lets one mount of the host appear in the container as it would have by itself; without a donor it stays private yet.
fn bring_in(
    source: &OwnedFd,
    donor: Option<&OwnedFd>,
    below: &Path,
    wanted: &Wanted<'_>,
    namespaces: &Namespaces<'_>,
) -> Result<()> {
    let doing = || format!("{} below it cannot be brought in", below.display());
    let open = |base: &OwnedFd| sys::open_place(base, below, Resolve::BeneathNoLinks);
    // It may be gone again on the host, or be a file, which nothing is looked for below.
    let Ok(on_host) = open(source) else { return Ok(()) };
    let host = sys::stat(&on_host).because(Cause::NoPropagation, doing)?;
    let Ok(in_container) = open(wanted.found) else {
        log::warn!("{}: the container has something else there than the host", doing());
        return Ok(());
    };
    let there = sys::stat(&in_container).because(Cause::NoPropagation, doing)?;
    if there.mount_root && there.id == host.id {
        let Some(Ok(theirs)) = donor.map(open) else { return Ok(()) };
        return match sys::set_group(theirs, &in_container) {
            // A private mount of the host does not propagate, and one that follows already need not be told.
            Err(error) if error.errno == Errno::EINVAL => Ok(()),
            answer => answer.because(Cause::NoPropagation, doing),
        };
    }
    let propagation = match wanted.propagation {
        Propagation::Bidirectional if donor.is_some() => {
            return Err(Error::new(Cause::NoPropagation, format!("{}: it was mounted just now", doing())));
        }
        Propagation::Bidirectional => SetPropagation::Private,
        other => set(other),
    };
    let clone = sys::clone_mount(&on_host).because(Cause::NoPropagation, doing)?;
    sys::mount_setattr(&clone, wanted.attributes, propagation, false).because(Cause::NoPropagation, doing)?;
    sys::enter_mount_namespace(namespaces.theirs).because(Cause::NoPropagation, doing)?;
    let moved = sys::move_mount(&clone, &in_container);
    crate::attach::come_back(namespaces.home);
    moved.because(Cause::NoPropagation, doing)
}
