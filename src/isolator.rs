//! Executing a plan: the only part that changes anything.
#![forbid(unsafe_code)]

mod linux;
mod posix;
mod shared;
mod sources;

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::attach::HostRoot;
use crate::config::{Config, Isolator};
use crate::error::Result;
use crate::init::Live;
use crate::plan::{Plan, Sandbox};
use crate::record::{Attached, Line, Record};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::Own;
use crate::volume::Store;

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
    /// Persistent volumes.
    pub store: &'a Store,
    /// Where records lie.
    pub runtime: &'a RuntimeDir,
    /// This container's record, begun.
    pub record: &'a mut Record,
    /// For `sys::path_of`.
    pub proc_fds: &'a OwnedFd,
}

/// Executes the plan and tells what the container must have now. After a failure nothing is mounted; what was
/// made for it stands in the record.
///
/// # Errors
/// Each reason for which a plan cannot be executed; see [`crate::error::Cause`].
pub fn attach(job: &mut Job<'_>) -> Result<Vec<Attached>> {
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
        let own = Own::find(self.store, self.plan.manager, &self.record.name, self.config.shares_host_filesystem())?;
        self.announce_sandbox(&own.path, own.missing, self.plan.sandbox_retention == 0)?;
        own.open(self.plan.uid, self.plan.gid).map(Some)
    }

    /// Writes down which directory is the sandbox.
    ///
    /// # Errors
    /// [`crate::error::Cause::RuntimeDir`].
    pub fn announce_sandbox(&mut self, path: &Path, made: bool, remove_at_stop: bool) -> Result<()> {
        let path = path.to_string_lossy().into_owned();
        self.record.add(Line::Sandbox { path, made, remove_at_stop })
    }
}
