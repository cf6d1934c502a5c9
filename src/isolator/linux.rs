//! `filesystem/linux`: bind mounts in the container's own mount namespace (mesos.md A3).
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use super::Job;
use super::sources::{self, Opened};
use crate::attach::{Inside, Moved, Phase, Tree, attributes};
use crate::error::{Because, Cause, Error, Result};
use crate::mountpoint::MountPoints;
use crate::plan::Attachment;
use crate::record::Attached;
use crate::request::container_path::ContainerPath;
use crate::sys::{self, FileId, MountAttributes, Resolve, SetPropagation};

/// Attaches everything.
///
/// # Errors
/// See [`super::attach`].
pub fn attach(job: &mut Job<'_>) -> Result<Vec<Attached>> {
    refuse_host_namespace(job)?;
    let sources = sources::open_all(job, |job| job.open_sandbox())?;
    mount_all(job, sources, false)
}

/// With the hook's own namespace the host would be mounted on.
///
/// # Errors
/// [`Cause::HostNamespace`].
pub fn refuse_host_namespace(job: &Job<'_>) -> Result<()> {
    if job.live.shares_namespace(job.home)? {
        return Err(Error::new(
            Cause::Pid,
            format!(
                "process {} is in the host's mount namespace, though config.json gives the container another",
                job.live.init.pid
            ),
        ));
    }
    Ok(())
}

/// Clones every source, enters the container and moves the clones to their places, all or none.
///
/// # Errors
/// See [`super::attach`].
pub fn mount_all(job: &mut Job<'_>, sources: Vec<Opened>, may_cover_mounts: bool) -> Result<Vec<Attached>> {
    let mut items: Vec<(&Attachment, Opened, Tree)> = Vec::with_capacity(sources.len());
    for (attachment, opened) in job.plan.attachments.iter().zip(sources) {
        let propagation = opened.propagation(attachment.how);
        let idmap = job.live.user_namespace.as_ref().filter(|_| opened.is_idmapped()).map(|namespace| &namespace.fd);
        let tree = match opened.detached()? {
            Some(mount) => Tree::of(mount),
            None => Tree::clone_of(&opened.fd, attributes(attachment.how), propagation, idmap),
        };
        items.push((attachment, opened, tree.map_err(|error| error.volume(&attachment.label))?));
    }
    move_all(job, &items, may_cover_mounts)?;
    Ok(items.iter().map(|(attachment, opened, _)| opened.attached(job.plan, attachment, job.proc_fds)).collect())
}

fn move_all(job: &mut Job<'_>, items: &[(&Attachment, Opened, Tree)], may_cover_mounts: bool) -> Result<()> {
    let (user, root) = (job.user()?, job.root());
    let inside = Inside::enter(job.live, job.home, job.host_root, job.phase, job.proc_fds)?;
    let sandbox = match &job.sandbox {
        None => None,
        Some((path, id)) => Some(open_sandbox(&inside, path, *id)?),
    };
    let mut moved = Moved::new(user, root, sandbox.as_ref());
    if job.plan.enslave_root && job.phase == Phase::Starting {
        // What the runtime left shared here would carry the container's mounts to the host.
        sys::mount_setattr(&inside.root, MountAttributes::default(), SetPropagation::Slave, true)
            .because(Cause::AttachFailed, || "the container's mounts cannot be made slave".to_owned())?;
    }
    let mut points = MountPoints { runtime: job.runtime, record: job.record, proc_fds: job.proc_fds };
    let plan = job.plan;
    let mut all = || -> Result<()> {
        for (attachment, _, tree) in items {
            moved
                .add(&inside, &mut points, plan, attachment, tree, may_cover_mounts)
                .map_err(|error| error.volume(&attachment.label))?;
        }
        for (attachment, _, tree) in items {
            moved.verify(&inside, attachment, tree).map_err(|error| error.volume(&attachment.label))?;
        }
        // Last, because these are what a failure would leave behind.
        for (attachment, opened, _) in items {
            opened.finish().map_err(|error| error.volume(&attachment.label))?;
        }
        Ok(())
    };
    let answer = all();
    if answer.is_err() {
        let left = moved.undo(job.proc_fds);
        drop(inside);
        left.iter().for_each(|left| log::warn!("a mount stays in the container: {left}"));
    }
    answer
}

/// The sandbox of a container that runs, in which it may have mounted anything else meanwhile.
fn open_sandbox(inside: &Inside<'_>, path: &ContainerPath, id: FileId) -> Result<OwnedFd> {
    let doing = || format!("the sandbox at {path}");
    let fd =
        sys::open_place(&inside.root, Path::new(&path.relative()), Resolve::InRoot).because(Cause::Sandbox, doing)?;
    if sys::stat(&fd).because(Cause::Sandbox, doing)?.id != id {
        return Err(Error::new(Cause::Sandbox, format!("{path} in the container is not its sandbox any more")));
    }
    Ok(fd)
}
