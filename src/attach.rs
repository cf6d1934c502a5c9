//! How something is mounted in a container: cloned in the host's mount namespace, made what it must be while
//! nobody can see it, and moved into the container's, descriptor to descriptor.
//!
//! No path string is used after it was checked, and no mount is ever made in the host's mount namespace.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Because, Cause, Error, Result};
use crate::init::Live;
use crate::mountinfo::{self, Mount};
use crate::mountpoint::{Base, Kind, MountPoints};
use crate::plan::{Attachment, How, Origin, Plan};
use crate::record::Within;
use crate::request::Propagation;
use crate::sys::{self, FileId, MountAttributes, Resolve, SetPropagation, SysError};

/// A detached mount tree, ready to be moved.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
    /// What its root is.
    id: FileId,
    /// What must be where it goes.
    kind: Kind,
}

impl Tree {
    /// Clones the tree below an open place, with everything that is mounted there.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`].
    pub fn clone_of(
        source: &OwnedFd,
        attributes: MountAttributes,
        propagation: Propagation,
        idmap: Option<&OwnedFd>,
    ) -> Result<Tree> {
        let doing = || "it cannot be cloned".to_owned();
        let fd = sys::clone_tree(source).because(Cause::AttachFailed, doing)?;
        let propagation = match propagation {
            Propagation::Slave => SetPropagation::Slave,
            Propagation::Private => SetPropagation::Private,
            // The clone is in the peer group of its source.
            Propagation::Bidirectional => SetPropagation::Keep,
        };
        // Recursively: a clone left shared would carry the container's mounts to the host, and a submount
        // left writable would not be read-only (mesos.md E2). Attributes of the source stay (E3).
        sys::mount_setattr(&fd, attributes, propagation, true).because(Cause::AttachFailed, doing)?;
        if let Some(namespace) = idmap {
            sys::idmap(&fd, namespace).map_err(|error| cannot_map(source, namespace, &error))?;
        }
        Tree::of(fd)
    }

    /// A mount that is detached already.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`].
    pub fn of(fd: OwnedFd) -> Result<Tree> {
        let stat = sys::stat(&fd).because(Cause::AttachFailed, || "it cannot be looked at".to_owned())?;
        Ok(Tree { fd, id: stat.id, kind: Kind::of(&stat) })
    }
}

/// Says which filesystem cannot be idmapped, and what can be done instead. Nothing else is done silently: files would
/// belong to nobody, or to the wrong.
fn cannot_map(source: &OwnedFd, namespace: &OwnedFd, error: &SysError) -> Error {
    let refused = |what: String| Error::new(Cause::Ownership, what);
    if error.errno == Errno::EPERM {
        return refused(
            "its ids must be mapped, and in a rootless container the kernel lets only root of the host do that"
                .to_owned(),
        )
        .remedy("run it without --userns or with --userns=keep-id, so that your own files are the container user's");
    }
    let own = mounted_below(source).into_iter().find(|mount| !can_map(mount, namespace));
    let what = match (own, error.errno) {
        (Some(mount), Errno::EINVAL) => {
            format!("{} at {} cannot be idmapped", mount.filesystem, mount.mount_point.display())
        }
        _ => format!("it cannot be idmapped: {error}"),
    };
    refused(format!("{what}, and the container's user namespace has other ids than the volume")).remedy(
        "put the volume on ext4, xfs, btrfs or tmpfs; or make it with --ownership mesos, which gives its root to the \
         container's user as the host knows it, or with --ownership never",
    )
}

/// The mount that a directory lies on, and those below the directory.
fn mounted_below(directory: &OwnedFd) -> Vec<Mount> {
    let Ok(stat) = sys::stat(directory) else { return Vec::new() };
    let path = sys::open_proc_fds().and_then(|proc_fds| sys::path_of(proc_fds, directory)).unwrap_or_default();
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let is_in = |mount: &Mount| mount.id == stat.mount || mount.mount_point.starts_with(&path);
    mountinfo::parse(&table).into_iter().filter(is_in).collect()
}

/// Whether a mount can be idmapped, by trying it on a clone that nobody sees.
fn can_map(mount: &Mount, namespace: &OwnedFd) -> bool {
    let answer = sys::open_place(sys::cwd(), &mount.mount_point, Resolve::NoMagic)
        .and_then(sys::clone_mount)
        .and_then(|clone| sys::idmap(clone, namespace));
    answer.err().is_none_or(|error| error.errno != Errno::EINVAL)
}

/// The container's root filesystem, as the host sees it.
#[derive(Debug)]
pub struct HostRoot {
    /// Absolute path.
    pub path: PathBuf,
    /// What is there.
    pub id: FileId,
}

impl HostRoot {
    /// Finds `root.path` of a bundle whose own real path is `bundle_path`.
    ///
    /// # Errors
    /// [`Cause::BundleConfig`].
    pub fn find(bundle: &OwnedFd, bundle_path: &Path, root: &str) -> Result<HostRoot> {
        let doing = || format!("root.path {root:?} cannot be opened");
        let fd = sys::open_place(bundle, Path::new(root), Resolve::NoMagic).because(Cause::BundleConfig, doing)?;
        let id = sys::stat(&fd).because(Cause::BundleConfig, doing)?.id;
        Ok(HostRoot { path: bundle_path.join(root), id })
    }
}

/// How far a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its root filesystem is mounted at root.path in its namespace, and it has not yet gone into it.
    Starting,
    /// Its root filesystem is its root.
    Running,
}

/// This process inside the container's mount namespace; it comes back when this is dropped.
///
/// Nothing may be logged in here: the log's path would mean the container's.
#[derive(Debug)]
pub struct Inside<'a> {
    home: &'a OwnedFd,
    /// The container's root directory.
    pub root: OwnedFd,
    /// Its path here, without links.
    pub root_path: PathBuf,
}

impl<'a> Inside<'a> {
    /// Enters the namespace and opens the container's root in it.
    ///
    /// # Errors
    /// [`Cause::Pid`] where the root filesystem is not mounted there, so that it is another container's;
    /// [`Cause::AttachFailed`].
    pub fn enter(
        live: &Live,
        home: &'a OwnedFd,
        host_root: &HostRoot,
        phase: Phase,
        proc_fds: &OwnedFd,
    ) -> Result<Inside<'a>> {
        sys::enter_mount_namespace(&live.namespace)
            .because(Cause::AttachFailed, || "the container's mount namespace cannot be entered".to_owned())?;
        let open = || -> Result<(OwnedFd, PathBuf)> {
            let not_there = || {
                format!(
                    "root.path {} is not mounted in the mount namespace of process {}",
                    host_root.path.display(),
                    live.init.pid
                )
            };
            let path = match phase {
                Phase::Starting => host_root.path.as_path(),
                Phase::Running => Path::new("/"),
            };
            let root = sys::open_place(sys::cwd(), path, Resolve::NoMagic).because(Cause::Pid, not_there)?;
            let stat = sys::stat(&root).because(Cause::Pid, not_there)?;
            // Of one that runs the runtime's own state has told which process it is; its overlay may be mounted nowhere else.
            let is_it = phase == Phase::Running || stat.id == host_root.id;
            if !stat.mount_root || !is_it {
                return Err(Error::new(Cause::Pid, not_there()));
            }
            let path = sys::path_of(proc_fds, &root).because(Cause::Pid, not_there)?;
            Ok((root, PathBuf::from(path)))
        };
        match open() {
            Ok((root, root_path)) => Ok(Inside { home, root, root_path }),
            Err(error) => {
                come_back(home);
                Err(error)
            }
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        come_back(self.home);
    }
}

/// Enters this process's own mount namespace again, or ends the process.
pub fn come_back(home: &OwnedFd) {
    if let Err(error) = sys::enter_mount_namespace(home) {
        // Nothing this process does from here on would be on the host. It must not go on.
        eprintln!("fs-isolator: the host's mount namespace cannot be entered again: {error}");
        std::process::exit(i32::from(Cause::AttachFailed.code()));
    }
}

/// Trees that were moved into the container, to be taken out again if a later one fails.
#[derive(Debug)]
pub struct Moved<'t> {
    /// Owner of mount points in the sandbox: the container's user.
    user: (u32, u32),
    /// Owner of mount points in the container's root filesystem: its root.
    root: (u32, u32),
    trees: Vec<&'t Tree>,
    /// The sandbox, once it is there.
    sandbox: Option<&'t OwnedFd>,
}

/// Moving again and again onto a mount point that is removed again and again ends somewhere.
const TRIES: usize = 16;

impl<'t> Moved<'t> {
    /// Nothing yet, for a container with this user and root, as the host knows them. One that runs may have its sandbox
    /// already.
    #[must_use]
    pub fn new(user: (u32, u32), root: (u32, u32), sandbox: Option<&'t OwnedFd>) -> Moved<'t> {
        Moved { user, root, trees: Vec::new(), sandbox }
    }

    /// Moves one tree to its target. What lies in the sandbox is found below the sandbox's own descriptor.
    ///
    /// # Errors
    /// The causes of [`MountPoints::place`]; [`Cause::MountPointUnsafe`], [`Cause::AttachFailed`].
    pub fn add(
        &mut self,
        inside: &Inside<'_>,
        points: &mut MountPoints<'_>,
        plan: &Plan,
        attachment: &Attachment,
        tree: &'t Tree,
        may_cover_mounts: bool,
    ) -> Result<()> {
        let (base, path) = match (&attachment.in_sandbox, self.sandbox) {
            (Some(path), Some(sandbox)) => {
                let resolve = Resolve::BeneathNoLinks;
                (Base { fd: sandbox, within: Within::Sandbox, path: None, resolve, owner: self.user }, path)
            }
            _ => {
                let (fd, resolve) = (&inside.root, Resolve::InRoot);
                let path = Some(inside.root_path.as_path());
                (Base { fd, within: Within::Root, path, resolve, owner: self.root }, &attachment.target)
            }
        };
        for _ in 0..TRIES {
            let target = points.place(&base, path, tree.kind, &attachment.missing)?;
            check_target(&target, attachment, may_cover_mounts)?;
            if is_shared(&target, plan, points.proc_fds)? {
                return Err(shared_target(attachment));
            }
            match sys::move_mount(&tree.fd, &target) {
                // The mount point was removed after it was found: its last holder just went.
                Err(error) if error.errno == Errno::ENOENT => {}
                answer => {
                    answer.because(Cause::AttachFailed, || format!("it cannot be mounted at {}", attachment.target))?;
                    self.trees.push(tree);
                    if attachment.from == Origin::Sandbox {
                        self.sandbox = Some(&tree.fd);
                    }
                    return Ok(());
                }
            }
        }
        Err(Error::new(Cause::MountPointUnsafe, format!("{} is removed again and again", attachment.target)))
    }

    /// Compares what the container's paths lead to with what was moved there: nothing covers anything else.
    ///
    /// # Errors
    /// [`Cause::PathConflict`].
    pub fn verify(&self, inside: &Inside<'_>, attachment: &Attachment, tree: &Tree) -> Result<()> {
        let doing = || format!("{} does not lead to what was mounted there", attachment.target);
        let mount = sys::stat(&tree.fd).because(Cause::AttachFailed, doing)?.mount;
        let found = sys::open_path(&inside.root, Path::new(&attachment.target.relative()), Resolve::InRoot)
            .and_then(sys::stat)
            .because(Cause::PathConflict, doing)?;
        if found.id != tree.id || found.mount != mount {
            return Err(Error::new(Cause::PathConflict, doing()).remedy(
                "another mount covers it, by way of a symbolic link in the image: ask for another container path",
            ));
        }
        Ok(())
    }

    /// Takes everything out again, children first. The container does not start.
    pub fn undo(self, proc_fds: &OwnedFd) -> Vec<String> {
        let detach = |tree: &&Tree| detach(&tree.fd, proc_fds).err().map(|error| error.to_string());
        self.trees.iter().rev().filter_map(detach).collect()
    }
}

/// Detaches a mount of the container from it, with what is mounted below.
///
/// # Errors
/// Whatever mount_setattr(2) and umount2(2) answer.
pub fn detach(mount: &OwnedFd, proc_fds: &OwnedFd) -> sys::Result<()> {
    // Below one that is shared with the host, the host's own mounts would go with the container's.
    sys::mount_setattr(mount, MountAttributes::default(), SetPropagation::Private, true)?;
    sys::detach_mount(proc_fds, mount)
}

/// What a target must not be, whatever path led to it.
fn check_target(target: &OwnedFd, attachment: &Attachment, may_cover_mounts: bool) -> Result<()> {
    let doing = || attachment.target.to_string();
    let unsafe_target = |what: &str| Err(Error::new(Cause::MountPointUnsafe, format!("{} {what}", attachment.target)));
    if sys::filesystem(target).because(Cause::MountPointUnsafe, doing)?.is_kernel_interface() {
        return unsafe_target("lies on one of the kernel's own filesystems");
    }
    if !may_cover_mounts && sys::stat(target).because(Cause::MountPointUnsafe, doing)?.mount_root {
        return unsafe_target("leads to a place where something is mounted already");
    }
    Ok(())
}

/// Whether a mount on this target would be seen elsewhere. Without statmount(2) the container's own mount table
/// tells, which is only needed where the bundle asked for something shared.
fn is_shared(target: &OwnedFd, plan: &Plan, proc_fds: &OwnedFd) -> Result<bool> {
    if let Some(propagation) = sys::propagation_of(target) {
        return Ok(propagation.shared);
    }
    if plan.enslave_root {
        return Ok(false);
    }
    let doing = || "the container's mount table cannot be read".to_owned();
    let mount = sys::stat(target).because(Cause::AttachFailed, doing)?.mount;
    let mut table = Vec::new();
    let mut file = File::from(sys::open_mount_table(proc_fds).because(Cause::AttachFailed, doing)?);
    file.read_to_end(&mut table).because(Cause::AttachFailed, doing)?;
    Ok(mountinfo::parse(&table).iter().any(|line| line.id == mount && line.shared.is_some()))
}

fn shared_target(attachment: &Attachment) -> Error {
    Error::new(
        Cause::NotSupported,
        format!("{} lies in a mount that is shared with the host, which this mount would reach", attachment.target),
    )
    .remedy("ask for another container path, or drop shared, rshared or Bidirectional from the mount above it")
}

/// Whether host mounts that are made later below `source` can reach a slave clone of it. Without statmount(2)
/// the mount table is only read if `must_know`; otherwise poststart will tell.
///
/// # Errors
/// [`Cause::AttachFailed`].
pub fn propagates(source: &OwnedFd, must_know: bool) -> Result<bool> {
    match sys::propagation_of(source) {
        Some(propagation) => Ok(propagation.shared || propagation.slave),
        None if !must_know => Ok(true),
        None => Ok(line_of(source)?.is_some_and(|mount| mount.shared.is_some() || mount.master.is_some())),
    }
}

/// Whether mounts that a peer of `source` gets appear on it.
///
/// # Errors
/// [`Cause::AttachFailed`].
pub fn sends(source: &OwnedFd) -> Result<bool> {
    match sys::propagation_of(source) {
        Some(propagation) => Ok(propagation.shared),
        None => Ok(line_of(source)?.is_some_and(|mount| mount.shared.is_some())),
    }
}

/// What the mount table says of the mount that something lies on.
fn line_of(place: &OwnedFd) -> Result<Option<Mount>> {
    let doing = || "the mount table cannot be read".to_owned();
    let table = std::fs::read("/proc/self/mountinfo").because(Cause::AttachFailed, doing)?;
    let id = sys::stat(place).because(Cause::AttachFailed, doing)?.mount;
    Ok(mountinfo::parse(&table).into_iter().find(|mount| mount.id == id))
}

/// The attributes of a planned mount; a link has none.
#[must_use]
pub fn attributes(how: How) -> MountAttributes {
    match how {
        How::Mount { attributes, .. } => attributes,
        How::Link => MountAttributes::default(),
    }
}
