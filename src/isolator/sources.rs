//! Opening what is to be attached: volumes, host paths, sandboxes and private folders.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use super::Job;
use crate::attach::propagates;
use crate::error::{Because, Cause, Error, Result};
use crate::plan::{self, Attachment, How, Origin};
use crate::record::{Attached, Line, VolumeRecord};
use crate::request::Propagation;
use crate::request::container_path::ContainerPath;
use crate::sys::{self, FileId, Resolve, Stat};
use crate::trusted;
use crate::volume::{self, NewVolume};

/// Something that is open and may be attached.
#[derive(Debug)]
pub struct Opened {
    /// What is attached.
    pub fd: OwnedFd,
    /// What that is.
    pub id: FileId,
    /// Root of the volume, where that is something else (a subpath).
    volume_root: Option<OwnedFd>,
    /// The volume.
    pub volume: Option<VolumeRecord>,
    /// Later host mounts can reach it.
    propagates: bool,
}

/// Opens the source of one attachment.
///
/// # Errors
/// [`Cause::VolumeUnavailable`], [`Cause::Subpath`], [`Cause::HostPathNotAllowed`], [`Cause::NoPropagation`] and
/// the causes of what lies on the way.
pub fn open(job: &mut Job<'_>, attachment: &Attachment, sandbox: Option<&OwnedFd>) -> Result<Opened> {
    let gone = |what: &str| Error::new(Cause::Sandbox, format!("there is no sandbox for {what}"));
    let (fd, volume_root, volume) = match &attachment.from {
        Origin::Sandbox => (copy(sandbox.ok_or_else(|| gone("it"))?)?, None, None),
        Origin::Private { path } => {
            let sandbox = sandbox.ok_or_else(|| gone("the private folder"))?;
            let fd = sys::open_place(sandbox, Path::new(&path.relative()), Resolve::BeneathNoLinksNoMounts)
                .because(Cause::Sandbox, || format!("the private folder {path} cannot be opened"))?;
            (fd, None, None)
        }
        Origin::HostPath { allowed, below } => (open_host_path(allowed, below.as_ref())?, None, None),
        Origin::Volume { role, id, subpath, .. } => {
            let root = match job.store.find(role, id)? {
                Some(root) => root,
                None if job.plan.create_missing_volumes => {
                    job.record.add(Line::MakingVolume { role: role.to_string(), id: id.to_string() })?;
                    let reachable = job.config.shares_host_filesystem();
                    job.store.create(role, id, NewVolume { mode: 0o750, owner: (0, 0), reachable })?
                }
                None => return Err(plan::unavailable(role, id)),
            };
            let file = stat(&root)?.id;
            let record = VolumeRecord { role: role.clone(), id: id.clone(), file };
            match subpath {
                None => (root, None, Some(record)),
                Some(subpath) => (volume::open_subpath(&root, subpath)?, Some(root), Some(record)),
            }
        }
    };
    let mut opened = Opened { id: stat(&fd)?.id, fd, volume_root, volume, propagates: false };
    if let How::Mount { propagation: Propagation::Slave, named, .. } = attachment.how {
        opened.propagates = propagates(&opened.fd, named)?;
        if !opened.propagates && named {
            return Err(Error::new(Cause::NoPropagation, "slave was asked for, and its mount on the host is private"));
        }
        if !opened.propagates && opened.volume.is_some() {
            log::info!(
                "{}: its mount on the host is private, so later host mounts below it will not appear in the container",
                attachment.label
            );
        }
    }
    Ok(opened)
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().because(Cause::AttachFailed, || "out of descriptors".to_owned())
}

fn stat(fd: &OwnedFd) -> Result<Stat> {
    sys::stat(fd).because(Cause::AttachFailed, || "it cannot be looked at".to_owned())
}

fn open_host_path(allowed: &str, below: Option<&ContainerPath>) -> Result<OwnedFd> {
    let missing = || Error::new(Cause::HostPathNotAllowed, format!("the host path {allowed} does not exist"));
    let entry = trusted::open_place(Path::new(allowed))?.ok_or_else(missing)?;
    match below {
        None => Ok(entry),
        Some(below) => sys::open_place(&entry, Path::new(&below.relative()), Resolve::BeneathNoLinks)
            .because(Cause::HostPathNotAllowed, || format!("{below} below {allowed} cannot be opened")),
    }
}

impl Opened {
    /// What the record says of it.
    pub fn attached(&self, attachment: &Attachment) -> Attached {
        let (slave, slave_named) = match attachment.how {
            How::Mount { propagation, named, .. } => (propagation == Propagation::Slave && self.propagates, named),
            How::Link => (false, false),
        };
        Attached {
            label: attachment.label.clone(),
            target: attachment.target.to_string(),
            id: self.id,
            link: attachment.how == How::Link,
            attributes: crate::attach::attributes(attachment.how),
            slave,
            slave_named: slave && slave_named,
            volume: self.volume.clone(),
        }
    }

    /// Gives the root of a volume to the container's user: mesos.md P9. Not recursive, not for root, and a shared
    /// volume only while it is still root's, since others may be using it.
    ///
    /// # Errors
    /// [`Cause::Ownership`].
    pub fn give_to_user(&self, job: &Job<'_>, attachment: &Attachment) -> Result<()> {
        let Origin::Volume { shared, .. } = attachment.from else { return Ok(()) };
        if !job.plan.own_volumes {
            return Ok(());
        }
        let root = self.volume_root.as_ref().unwrap_or(&self.fd);
        let stat = stat(root)?;
        let user = (job.plan.uid, job.plan.gid);
        if (stat.uid, stat.gid) == user || (shared && stat.uid != 0) {
            return Ok(());
        }
        sys::chown(root, user.0, user.1)
            .because(Cause::Ownership, || format!("its root cannot be given to user {}", user.0))
            .map_err(|error| error.volume(&attachment.label))
    }
}
