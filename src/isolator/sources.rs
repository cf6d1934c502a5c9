//! Opening what is to be attached: volumes, host paths, sandboxes and private folders.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use super::Job;
use crate::attach::propagates;
use crate::error::{Because, Cause, Error, Result};
use crate::plan::{self, Attachment, How, Origin, Plan};
use crate::record::{Attached, Line, VolumeRecord};
use crate::request::Propagation;
use crate::request::container_path::ContainerPath;
use crate::request::names::{Role, VolumeId};
use crate::sys::{self, FileId, Resolve, Stat};
use crate::trusted;
use crate::volume::{self, NewVolume, Unnamed};

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
    /// The volume, where it was made for this container.
    unnamed: Option<Unnamed>,
    /// Later host mounts can reach it.
    propagates: bool,
}

/// Opens every source of the plan, in its order. `sandbox` opens the container's sandbox, and is only called when
/// everything that must exist already was found: nothing is made for a container that asks for a missing volume.
///
/// # Errors
/// [`Cause::VolumeUnavailable`], [`Cause::Subpath`], [`Cause::HostPathNotAllowed`], [`Cause::NoPropagation`] and
/// the causes of what lies on the way.
pub fn open_all(
    job: &mut Job<'_>,
    sandbox: impl FnOnce(&mut Job<'_>) -> Result<Option<OwnedFd>>,
) -> Result<Vec<Opened>> {
    let plan = job.plan;
    let mut found = Vec::with_capacity(plan.attachments.len());
    for attachment in &plan.attachments {
        let opened = match &attachment.from {
            Origin::Sandbox | Origin::Private { .. } => Ok(None),
            Origin::HostPath { allowed, below } => open_host_path(allowed, below.as_ref()).map(Some),
            Origin::Volume { role, id, subpath, .. } => open_volume(job, role, id, subpath.as_ref()).map(Some),
        };
        found.push(opened.map_err(|error| error.volume(&attachment.label))?);
    }
    let sandbox = sandbox(job)?;
    let complete = |(attachment, found): (&Attachment, Option<Opened>)| {
        let opened = match found {
            Some(opened) => Ok(opened),
            None => open_in_sandbox(sandbox.as_ref(), &attachment.from),
        };
        opened.and_then(|opened| opened.propagating_to(attachment)).map_err(|error| error.volume(&attachment.label))
    };
    plan.attachments.iter().zip(found).map(complete).collect()
}

fn open_volume(job: &mut Job<'_>, role: &Role, id: &VolumeId, subpath: Option<&ContainerPath>) -> Result<Opened> {
    let (root, unnamed) = match job.store.find(role, id)? {
        Some(root) => (root, None),
        None if job.plan.create_missing_volumes => {
            let temporary = job.record.temporary_name();
            job.record.add(Line::MakingVolume { role: role.clone(), temporary: temporary.clone() })?;
            let reachable = job.config.shares_host_filesystem();
            let unnamed = job.store.make(role, id, temporary, NewVolume { mode: 0o750, owner: (0, 0), reachable })?;
            let root = unnamed.fd.try_clone().because(Cause::AttachFailed, || "out of descriptors".to_owned())?;
            (root, Some(unnamed))
        }
        None => return Err(plan::unavailable(role, id)),
    };
    let volume = Some(VolumeRecord { role: role.clone(), id: id.clone(), file: stat(&root)?.id });
    match subpath {
        None => Ok(Opened { volume, unnamed, ..Opened::new(root)? }),
        Some(subpath) => {
            let inside = volume::open_subpath(&root, subpath)?;
            Ok(Opened { volume, unnamed, volume_root: Some(root), ..Opened::new(inside)? })
        }
    }
}

fn open_in_sandbox(sandbox: Option<&OwnedFd>, from: &Origin) -> Result<Opened> {
    let sandbox = sandbox.ok_or_else(|| Error::new(Cause::Sandbox, "the plan has no sandbox"))?;
    let path = match from {
        Origin::Private { path } => path.relative(),
        _ => ".".to_owned(),
    };
    let fd = sys::open_place(sandbox, Path::new(&path), Resolve::BeneathNoLinksNoMounts)
        .because(Cause::Sandbox, || format!("{path} in the sandbox cannot be opened"))?;
    Opened::new(fd)
}

fn stat(fd: &OwnedFd) -> Result<Stat> {
    sys::stat(fd).because(Cause::AttachFailed, || "it cannot be looked at".to_owned())
}

fn open_host_path(allowed: &str, below: Option<&ContainerPath>) -> Result<Opened> {
    let missing = || Error::new(Cause::HostPathNotAllowed, format!("the host path {allowed} does not exist"));
    let entry = trusted::open_place(Path::new(allowed))?.ok_or_else(missing)?;
    Opened::new(match below {
        None => entry,
        Some(below) => sys::open_place(&entry, Path::new(&below.relative()), Resolve::BeneathNoLinks)
            .because(Cause::HostPathNotAllowed, || format!("{below} below {allowed} cannot be opened"))?,
    })
}

impl Opened {
    fn new(fd: OwnedFd) -> Result<Opened> {
        Ok(Opened { id: stat(&fd)?.id, fd, volume_root: None, volume: None, unnamed: None, propagates: false })
    }

    /// Finds out whether later host mounts can reach it, where that is wanted.
    fn propagating_to(mut self, attachment: &Attachment) -> Result<Opened> {
        if let How::Mount { propagation: Propagation::Slave, named, .. } = attachment.how {
            self.propagates = propagates(&self.fd, named)?;
            if !self.propagates && named {
                return Err(Error::new(
                    Cause::NoPropagation,
                    "slave was asked for, and its mount on the host is private",
                ));
            }
            if !self.propagates && self.volume.is_some() {
                log::info!(
                    "{}: its mount on the host is private, so later host mounts below it will not appear in the container",
                    attachment.label
                );
            }
        }
        Ok(self)
    }

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

    /// The last steps, when it is in its place: gives the volume to the container's user, and its id to one that was made.
    ///
    /// # Errors
    /// [`Cause::Ownership`], [`Cause::VolumeExists`].
    pub fn finish(&self, plan: &Plan, attachment: &Attachment) -> Result<()> {
        self.give_to_user(plan, attachment)?;
        self.unnamed.as_ref().map_or(Ok(()), Unnamed::publish)
    }

    /// Gives the root of a volume to the container's user: mesos.md P9. Not recursive, not for root, and a shared
    /// volume only while it is still root's, since others may be using it.
    fn give_to_user(&self, plan: &Plan, attachment: &Attachment) -> Result<()> {
        let Origin::Volume { shared, .. } = attachment.from else { return Ok(()) };
        if !plan.own_volumes {
            return Ok(());
        }
        let root = self.volume_root.as_ref().unwrap_or(&self.fd);
        let stat = stat(root)?;
        let user = (plan.uid, plan.gid);
        if (stat.uid, stat.gid) == user || (shared && stat.uid != 0) {
            return Ok(());
        }
        sys::chown(root, user.0, user.1)
            .because(Cause::Ownership, || format!("its root cannot be given to user {}", user.0))
    }
}
