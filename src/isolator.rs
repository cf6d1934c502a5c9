//! Executing a plan: the only part that changes anything.
#![forbid(unsafe_code)]

mod linux;
mod posix;
mod shared;
mod sources;

use std::os::fd::OwnedFd;

use crate::attach::HostRoot;
use crate::config::{Config, Isolator};
use crate::error::Result;
use crate::init::Live;
use crate::plan::Plan;
use crate::record::{Attached, Record};
use crate::runtime_dir::RuntimeDir;
use crate::sandbox;
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
    /// The container's own sandbox, if the plan has one.
    pub sandbox: Option<&'a sandbox::Own>,
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
