//! A mount namespace that nobody else is ever in, for what the kernel does only with mounts that are mounted somewhere.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::attach::come_back;
use crate::sys::{self, MountAttributes, Resolve, SetPropagation};

/// A copy of a mount namespace, made when it is first needed: that costs what the namespace has of mounts. It goes with this.
#[derive(Debug)]
pub struct Aside<'a> {
    origin: &'a OwnedFd,
    home: &'a OwnedFd,
    proc_fds: &'a OwnedFd,
    copy: OnceCell<OwnedFd>,
}

impl<'a> Aside<'a> {
    /// Of this namespace, for a process that comes back to its own.
    #[must_use]
    pub fn of(origin: &'a OwnedFd, home: &'a OwnedFd, proc_fds: &'a OwnedFd) -> Aside<'a> {
        Aside { origin, home, proc_fds, copy: OnceCell::new() }
    }

    /// Mounts a detached tree over the root of the copy, where nobody else sees it, and does something there.
    ///
    /// Nothing may be logged in there: the log's path may mean another.
    ///
    /// # Errors
    /// Whatever setns(2), unshare(2), mount_setattr(2), move_mount(2) or what is done answer.
    pub fn with_mounted<T>(&self, tree: &OwnedFd, work: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
        let work = || {
            let root = self.enter()?;
            sys::move_mount(tree, &root)?;
            work()
        };
        let done = work();
        come_back(self.home);
        done
    }

    /// Enters the copy, and opens its root. After a failure this process may be in the original.
    fn enter(&self) -> sys::Result<OwnedFd> {
        let open = || sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoLinks);
        if let Some(copy) = self.copy.get() {
            sys::enter_mount_namespace(copy)?;
            return open();
        }
        sys::enter_mount_namespace(self.origin)?;
        sys::leave_mount_namespace()?;
        let root = open()?;
        // What is mounted on a shared mount would be mounted on the host, too.
        sys::mount_setattr(&root, MountAttributes::default(), SetPropagation::Private, false)?;
        let _ = self.copy.set(sys::open_mount_namespace(self.proc_fds)?);
        Ok(root)
    }
}
