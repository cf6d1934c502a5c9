//! `filesystem/shared`, deprecated: the host's filesystem with private parts (mesos.md A4).
//!
//! Mesos's leaked on hosts whose `/` is shared (MESOS-6563), ignored `RO` and had no persistent volumes. Here it
//! is the machinery of filesystem/linux with other rules: targets must exist, and private folders take the mode
//! and owner of what they cover.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Job, Outcome, linux, sources};
use crate::attach::Inside;
use crate::error::{Because, Cause, Error, Result};
use crate::plan::Origin;
use crate::request::container_path::ContainerPath;
use crate::sys::{self, Resolve, Stat};
use crate::tree;

/// Attaches everything.
///
/// # Errors
/// See [`super::attach`].
pub fn attach(job: &mut Job<'_>) -> Result<Outcome> {
    log::warn!("filesystem/shared is deprecated: use filesystem/linux, which has private parts and images");
    refuse_images(job)?;
    let covered = covered(job)?;
    let sources = sources::open_all(job, |job| {
        let sandbox = job.open_sandbox()?;
        if let Some(sandbox) = &sandbox {
            for (path, like) in &covered {
                let give = |made: &OwnedFd, is_last: bool| match is_last {
                    true => sys::chown(made, like.uid, like.gid).and_then(|()| sys::chmod(made, like.permissions())),
                    false => sys::chmod(made, 0o755),
                };
                tree::make(sandbox, &path.relative(), 0, Resolve::BeneathNoLinksNoMounts, give)
                    .because(Cause::Sandbox, || format!("{path} in the sandbox cannot be made"))?;
            }
        }
        Ok(sandbox)
    })?;
    // A private /tmp covers a /tmp that is a mount of its own.
    linux::mount_all(job, sources, true)
}

/// The container's root must be the host's.
fn refuse_images(job: &Job<'_>) -> Result<()> {
    let host = sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoLinks)
        .and_then(sys::stat)
        .because(Cause::NotHostFilesystem, || "/ cannot be looked at".to_owned())?;
    if host.id != job.host_root.id {
        return Err(Error::new(
            Cause::NotHostFilesystem,
            format!(
                "the container's root filesystem {} is not the host's, and filesystem/shared has no images",
                job.host_root.path.display()
            ),
        ));
    }
    Ok(())
}

/// What each private folder will cover, as the container sees it.
fn covered(job: &Job<'_>) -> Result<Vec<(ContainerPath, Stat)>> {
    let private = |from: &Origin| match from {
        Origin::Private { path } => Some(path.clone()),
        _ => None,
    };
    let wanted: Vec<_> = job.plan.attachments.iter().filter_map(|a| Some((a, private(&a.from)?))).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let inside = Inside::enter(job.live, job.home, job.host_root, job.phase)?;
    wanted
        .into_iter()
        .map(|(attachment, path)| {
            let stat = sys::open_place(&inside.root, Path::new(&attachment.target.relative()), Resolve::InRoot)
                .and_then(sys::stat)
                .because(Cause::MountPointMissing, || format!("{} must exist on the host", attachment.target))
                .map_err(|error| attachment.named(error))?;
            Ok((path, stat))
        })
        .collect()
}
