//! `filesystem/linux`: bind mounts in the container's own mount namespace (mesos.md A3).
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use super::sources::{self, Opened};
use super::{Job, Outcome};
use crate::attach::{Inside, Moved, Phase, Tree, attributes};
use crate::error::{Because, Cause, Error, Result};
use crate::mountpoint::MountPoints;
use crate::plan::Attachment;
use crate::record::{Attached, Line};
use crate::request::container_path::ContainerPath;
use crate::steps;
use crate::sys::{self, FileId, MountAttributes, Resolve, SetPropagation};

/// Attaches everything.
///
/// # Errors
/// See [`super::attach`].
pub fn attach(job: &mut Job<'_>) -> Result<Outcome> {
    let sources = sources::open_all(job, |job| job.open_sandbox())?;
    mount_all(job, sources, false)
}

/// Clones every source, enters the container and moves the clones to their places, all or none.
///
/// # Errors
/// See [`super::attach`].
pub fn mount_all(job: &mut Job<'_>, sources: Vec<Opened>, may_cover_mounts: bool) -> Result<Outcome> {
    let mut trees = Vec::with_capacity(sources.len());
    for (attachment, opened) in job.plan.attachments.iter().zip(&sources) {
        let propagation = opened.propagation(attachment.how);
        let idmap = job.live.user_namespace.as_ref().filter(|_| opened.is_idmapped()).map(|namespace| &namespace.fd);
        let tree = match opened.is_mount() {
            true => Tree::of(opened.fd(), &opened.stat),
            false => Tree::clone_of(opened.fd(), &opened.stat, attributes(attachment.how), propagation, idmap),
        };
        trees.push(tree.map_err(|error| attachment.named(error))?);
    }
    steps::done("open");
    let attached = |(attachment, opened): (&Attachment, &Opened)| opened.attached(job.plan, attachment, job.proc_fds);
    let attached: Vec<Attached> = job.plan.attachments.iter().zip(&sources).map(attached).collect();
    if job.phase == Phase::Running {
        // A container that starts ends with a hook that is killed; one that runs goes on with what was moved into it.
        job.record.add(Line::Attaching { attachments: attached.clone() })?;
    }
    let places = move_all(job, &sources, &trees, may_cover_mounts)?;
    Ok(Outcome { attached, open: (sources, trees, places) })
}

fn move_all(job: &mut Job<'_>, sources: &[Opened], trees: &[Tree], may_cover_mounts: bool) -> Result<Vec<OwnedFd>> {
    let (user, root) = (job.user()?, job.root());
    let host_root = match job.phase {
        Phase::Starting => None,
        // Where the host has it nowhere, a read-only one gets no mount points.
        Phase::Running => sys::open_place(sys::cwd(), &job.host_root.path, Resolve::NoMagic).ok(),
    };
    let inside = Inside::enter(job.live, job.home, job.host_root, job.phase)?;
    let sandbox = match &job.sandbox {
        None => None,
        Some((path, id)) => Some(open_sandbox(&inside, path, *id)?),
    };
    let make_slave = job.plan.enslave_root && job.phase == Phase::Starting;
    let mut moved = Moved::new(user, root, sandbox.as_ref(), make_slave);
    if make_slave {
        // What the runtime left shared here would carry the container's mounts to the host.
        sys::mount_setattr(&inside.root, MountAttributes::default(), SetPropagation::Slave, true)
            .because(Cause::AttachFailed, || "the container's mounts cannot be made slave".to_owned())?;
    }
    let mut points =
        MountPoints { runtime: job.runtime, record: job.record, proc_fds: job.proc_fds, host_root: host_root.as_ref() };
    let plan = job.plan;
    let mut all = || -> Result<()> {
        for (attachment, tree) in plan.attachments.iter().zip(trees) {
            moved
                .add(&inside, &mut points, plan, attachment, tree, may_cover_mounts)
                .map_err(|error| attachment.named(error))?;
        }
        for (attachment, tree) in plan.attachments.iter().zip(trees) {
            moved.verify(&inside, attachment, tree).map_err(|error| attachment.named(error))?;
        }
        // Last, because these are what a failure would leave behind.
        for (attachment, opened) in plan.attachments.iter().zip(sources) {
            opened.finish().map_err(|error| attachment.named(error))?;
        }
        Ok(())
    };
    if let Err(error) = all() {
        let left = moved.undo(job.proc_fds);
        drop(inside);
        left.iter().for_each(|left| log::warn!("a mount stays in the container: {left}"));
        return Err(error);
    }
    let mut open = moved.places;
    open.push(inside.leave());
    Ok(open)
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
