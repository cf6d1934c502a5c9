//! `filesystem/posix`: the container shares the host's filesystem; volumes are symbolic links in the sandbox,
//! and UNIX permissions keep containers apart (mesos.md A2).
//!
//! Nothing is mounted. A namespace is entered only to prove that the container will see what the links lead to.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::sources::{self, Opened};
use super::{Job, Outcome};
use crate::attach::Inside;
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::me::me;
use crate::mountpoint::{Base, MountPoints};
use crate::plan::{Attachment, Sandbox};
use crate::record::{Line, Within};
use crate::sandbox;
use crate::sys::{self, FileId, Resolve};
use crate::trusted::{self, Missing};

/// Attaches everything.
///
/// # Errors
/// See [`super::attach`].
pub fn attach(job: &mut Job<'_>) -> Result<Outcome> {
    let Sandbox::WorkingDirectory(cwd) = &job.plan.sandbox else {
        return Err(Error::new(Cause::PosixSandbox, "the plan has no working directory"));
    };
    let user = job.user()?;
    let sandbox = sandbox::open_working_directory(cwd, &job.config.posix_sandboxes, user.0)?;
    if user.0 == 0 && me().user.is_none() {
        log::warn!(
            "the container runs as root on the host's filesystem: nothing keeps it from other containers' files"
        );
    }
    let plan = job.plan;
    let mut items: Vec<(&Attachment, Opened, PathBuf)> = Vec::with_capacity(plan.attachments.len());
    for (attachment, opened) in plan.attachments.iter().zip(sources::open_all(job, |_| Ok(None))?) {
        let named = |error: Error| attachment.named(error);
        let path = sys::path_of(job.proc_fds, opened.fd()).because(Cause::AttachFailed, || "its path".to_owned());
        if let (Some(folder), true) = (opened.volume_folder(), user.0 != me().uid) {
            check_passable(user.0, &folder).map_err(named)?;
        }
        items.push((attachment, opened, PathBuf::from(path.map_err(named)?)));
    }
    let sandbox_id = sys::stat(&sandbox).because(Cause::PosixSandbox, || cwd.clone())?.id;
    check_visible(job, Path::new(cwd), sandbox_id, &items)?;
    job.record.add(Line::Sandbox { path: cwd.clone(), made: false, remove_at_stop: false })?;
    let owner = user;
    let base = Base { fd: &sandbox, within: Within::Sandbox, resolve: Resolve::BeneathNoLinks, owner };
    let mut points = MountPoints { runtime: job.runtime, record: job.record, proc_fds: job.proc_fds, host_root: None };
    for (attachment, opened, path) in &items {
        let Some(link) = &attachment.in_sandbox else { continue };
        // A volume that was made for this container has another name until all is done.
        let path = opened.volume_path().unwrap_or_else(|| path.clone());
        points.link(&base, link, &path).map_err(|error| attachment.named(error))?;
    }
    for (attachment, opened, _) in &items {
        opened.finish().map_err(|error| attachment.named(error))?;
    }
    let attached =
        items.iter().map(|(attachment, opened, _)| opened.attached(plan, attachment, job.proc_fds)).collect();
    let opened = items.into_iter().map(|(_, opened, _)| opened).collect();
    Ok(Outcome { attached, open: (opened, Vec::new(), vec![sandbox]) })
}

/// Every path must lead, in the container, to the very file it leads to on the host. An image does not have it; an
/// overlay of `/` has the same inode on another device, and would swallow what is written.
fn check_visible(job: &Job<'_>, cwd: &Path, sandbox: FileId, items: &[(&Attachment, Opened, PathBuf)]) -> Result<()> {
    let check = |root: &OwnedFd| -> Result<()> {
        let leads_to = |path: &Path| {
            let below = path.strip_prefix("/").unwrap_or(path);
            sys::open_place(root, below, Resolve::InRoot).and_then(sys::stat).ok().map(|stat| stat.id)
        };
        let refused = |path: &Path| {
            Error::new(
                Cause::NotHostFilesystem,
                format!("{} in the container is not what it is on the host", path.display()),
            )
        };
        if leads_to(cwd) != Some(sandbox) {
            return Err(refused(cwd));
        }
        for (attachment, opened, path) in items {
            if leads_to(path) != Some(opened.stat.id) {
                return Err(attachment.named(refused(path)));
            }
        }
        Ok(())
    };
    if job.live.shares_namespace(job.home)? {
        let root = sys::open_place(sys::cwd(), &job.host_root.path, Resolve::NoMagic)
            .because(Cause::BundleConfig, || "root.path cannot be opened".to_owned())?;
        return check(&root);
    }
    let inside = Inside::enter(job.live, job.home, job.host_root, job.phase)?;
    check(&inside.root)
}

/// A link is of no use to a user who cannot pass the directories above the volume.
fn check_passable(uid: u32, folder: &Path) -> Result<()> {
    for path in folder.ancestors() {
        let Some(fd) = trusted::open_dir(path, Missing::Tell)? else { continue };
        let stat = sys::stat(&fd).because(Cause::Ownership, || path.display().to_string())?;
        if stat.mode & 0o001 == 0 {
            return Err(Error::new(
                Cause::Ownership,
                format!("user {uid} cannot pass {} (mode {:04o})", path.display(), stat.permissions()),
            )
            .remedy(format!("chmod o+x {}", shell_word(&path.to_string_lossy()))));
        }
    }
    Ok(())
}
