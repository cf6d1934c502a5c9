//! Executing a plan: the only part that changes anything.
#![forbid(unsafe_code)]

mod linux;
mod posix;
mod shared;
pub mod sources;

use std::os::fd::OwnedFd;

use crate::attach::{HostRoot, Phase, Tree};
use crate::config::{Config, Isolator};
use crate::container::BundleConfig;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{Life, Live};
use crate::lease::{Holder, Leases};
use crate::me::me;
use crate::plan::{Attachment, Origin, Plan, Sandbox};
use crate::record::{Attached, Line, Record};
use crate::request::container_path::ContainerPath;
use crate::request::names::{Role, VolumeId};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{self, Own};
use crate::sys::{self, FileId};
use crate::trusted::Missing;
use crate::volume::Disks;
use sources::Opened;

/// How a sandbox is called among leases.
const SANDBOX: &str = "sandbox";

/// So many attachments need fewer descriptors than any process may have: some six each.
const FEW: usize = 64;

/// gc may take a sandbox away that is just being opened: then there is a new one.
const SANDBOX_TRIES: usize = 4;

/// Everything an isolator needs, opened before anything is changed.
#[derive(Debug)]
pub struct Job<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// What the administrator allows.
    pub config: &'a Config,
    /// The container's init.
    pub live: &'a Live,
    /// This process's own mount namespace.
    pub home: &'a OwnedFd,
    /// The container's root filesystem.
    pub host_root: &'a HostRoot,
    /// Where persistent volumes lie.
    pub disks: &'a Disks<'a>,
    /// By what the container's end is seen.
    pub life: &'a Life,
    /// The container's id and bundle.
    pub container: (&'a str, &'a str),
    /// Where records lie.
    pub runtime: &'a RuntimeDir,
    /// This container's record, begun.
    pub record: &'a mut Record,
    /// How far the container is.
    pub phase: Phase,
    /// The sandbox that a running container has already: where, and what it is.
    pub sandbox: Option<(ContainerPath, FileId)>,
    /// What the bundle says.
    pub bundle: &'a BundleConfig,
    /// For `sys::path_of`.
    pub proc_fds: &'a OwnedFd,
}

/// What was attached.
#[derive(Debug)]
pub struct Outcome {
    /// What the container must have now.
    pub attached: Vec<Attached>,
    /// What is open still. A hook ends with it open, since closing each costs a system call.
    pub open: (Vec<Opened>, Vec<Tree>, Vec<OwnedFd>),
}

/// Executes the plan and tells what the container must have now. After a failure nothing is mounted; what was
/// made for it stands in the record.
///
/// # Errors
/// Each reason for which a plan cannot be executed; see [`crate::error::Cause`].
pub fn attach(job: &mut Job<'_>) -> Result<Outcome> {
    if job.plan.attachments.len() > FEW {
        sys::raise_descriptor_limit();
    }
    match job.plan.isolator {
        Isolator::Linux => linux::attach(job),
        Isolator::Posix => posix::attach(job),
        Isolator::Shared => shared::attach(job),
    }
}

impl Job<'_> {
    /// Opens the container's own sandbox, making it if it is missing; `None` where the plan has none.
    ///
    /// # Errors
    /// [`crate::error::Cause::Sandbox`].
    pub fn open_sandbox(&mut self) -> Result<Option<OwnedFd>> {
        if self.plan.sandbox != Sandbox::Own {
            return Ok(None);
        }
        let (name, user) = (self.record.name.clone(), self.user()?);
        self.open_leased(&name, user, |path, made, remove_at_stop| Line::Sandbox { path, made, remove_at_stop })
    }

    /// Opens the sandbox of the container's pod, making it if it is missing; `None` where the plan needs none. It is the
    /// administrator's: only what lies in it is for containers.
    ///
    /// # Errors
    /// [`crate::error::Cause::Sandbox`].
    pub fn open_parent(&mut self) -> Result<Option<OwnedFd>> {
        let is_in_it = |attachment: &Attachment| matches!(attachment.from, Origin::InParent { .. });
        let Some(pod) = self.plan.pod.as_deref().filter(|_| self.plan.attachments.iter().any(is_in_it)) else {
            return Ok(None);
        };
        let line = |path, _, remove_at_stop| Line::PodSandbox { path, remove_at_stop };
        self.open_leased(&sandbox::pod_name(pod), (me().uid, me().gid), line)
    }

    /// Opens a sandbox below `work_dir` and holds it, which `line` announces: where, whether it is made now, and whether it
    /// is to go at the end.
    fn open_leased(
        &mut self,
        name: &str,
        owner: (u32, u32),
        line: impl Fn(String, bool, bool) -> Line,
    ) -> Result<Option<OwnedFd>> {
        let Some(work_dir) = self.disks.work_dir(Missing::Tell)? else { return Ok(None) };
        let reachable = self.config.shares_host_filesystem();
        let leases = Leases::open()?;
        for _ in 0..SANDBOX_TRIES {
            let own = Own::find(&work_dir, self.plan.manager, name, reachable)?;
            let path = own.path.to_string_lossy().into_owned();
            self.record.add(line(path, own.missing, self.plan.sandbox_retention == 0))?;
            let fd = own.open(owner.0, owner.1)?;
            let id = sys::stat(&fd).because(Cause::Sandbox, || own.path.display().to_string())?.id;
            self.record.add(Line::Lease { volume: id })?;
            let (role, lease) = (Role::parse("sandbox")?, VolumeId::parse(SANDBOX)?);
            let locked = leases.lock(id)?;
            // gc takes it away under this lock.
            if own.is_still(id) {
                locked.take(&self.record.name, self.holder().lease(&role, &lease, true, None))?;
                return Ok(Some(fd));
            }
            locked.tidy()?;
        }
        Err(Error::new(Cause::Sandbox, "the sandbox is collected again and again"))
    }

    /// The container's user and group as the host knows them.
    ///
    /// # Errors
    /// [`Cause::Ownership`] where they have no ids outside the container's user namespace.
    pub fn user(&self) -> Result<(u32, u32)> {
        let user = (self.plan.uid, self.plan.gid);
        let outside = self.live.user_namespace.as_ref().map_or(Some(user), |namespace| namespace.outside(user));
        outside.ok_or_else(|| {
            Error::new(
                Cause::Ownership,
                format!("the container's user {}:{} has no id outside its user namespace", user.0, user.1),
            )
            .remedy("map that user in the container's user namespace")
        })
    }

    /// Root of the container as the host knows it; root itself where it has no id.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        self.live.user_namespace.as_ref().and_then(|namespace| namespace.outside((0, 0))).unwrap_or((0, 0))
    }

    /// Who the container is, for its leases.
    #[must_use]
    pub fn holder(&self) -> Holder<'_> {
        Holder {
            id: self.container.0,
            bundle: self.container.1,
            manager: self.plan.manager,
            identity: &self.plan.identity,
            pod: self.plan.pod.as_deref(),
            life: self.life,
        }
    }
}
