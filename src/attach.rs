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
use crate::sys::{self, FileId, MountAttributes, MountId, Resolve, SetPropagation, Stat, SysError};

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
    /// Clones the tree below an open place, which is this, with everything that is mounted there.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`].
    pub fn clone_of(
        source: &OwnedFd,
        root: &Stat,
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
        Ok(Tree { fd, id: root.id, kind: Kind::of(root) })
    }

    /// A mount that is detached already, and what its root is.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`] where there are no descriptors left.
    pub fn of(mount: &OwnedFd, root: &Stat) -> Result<Tree> {
        let fd = mount.try_clone().because(Cause::AttachFailed, || "out of descriptors".to_owned())?;
        Ok(Tree { fd, id: root.id, kind: Kind::of(root) })
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
    let Ok(number) = sys::mount_number(directory) else { return Vec::new() };
    let path = sys::open_proc_fds().and_then(|proc_fds| sys::path_of(proc_fds, directory)).unwrap_or_default();
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let is_in = |mount: &Mount| mount.id == number || mount.mount_point.starts_with(&path);
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
    /// The mount that the host has there.
    mount: MountId,
}

impl HostRoot {
    /// Finds `root.path` of a bundle whose own real path is `bundle_path`.
    ///
    /// # Errors
    /// [`Cause::BundleConfig`].
    pub fn find(bundle: &OwnedFd, bundle_path: &Path, root: &str) -> Result<HostRoot> {
        let doing = || format!("root.path {root:?} cannot be looked at");
        // Opened it is in the container's namespace, where it must be this.
        let stat = sys::stat_through(bundle, Path::new(root)).because(Cause::BundleConfig, doing)?;
        Ok(HostRoot { path: bundle_path.join(root), id: stat.id, mount: stat.mount })
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

/// This process comes back to its own mount namespace when this is dropped.
#[derive(Debug)]
struct Home<'a>(&'a OwnedFd);

/// This process inside the container's mount namespace; it comes back when this is dropped.
///
/// Nothing may be logged in here: the log's path would mean the container's.
#[derive(Debug)]
pub struct Inside<'a> {
    home: Home<'a>,
    /// The container's root directory.
    pub root: OwnedFd,
    /// The mount of its root filesystem.
    mount: MountId,
}

impl<'a> Inside<'a> {
    /// Enters the namespace and opens the container's root in it.
    ///
    /// # Errors
    /// [`Cause::Pid`] where the root filesystem is not mounted there, so that it is another container's, or where the
    /// namespace is the host's; [`Cause::AttachFailed`].
    pub fn enter(live: &Live, home: &'a OwnedFd, host_root: &HostRoot, phase: Phase) -> Result<Inside<'a>> {
        sys::enter_mount_namespace(&live.namespace)
            .because(Cause::AttachFailed, || "the container's mount namespace cannot be entered".to_owned())?;
        let home = Home(home);
        let open = || -> Result<(OwnedFd, MountId)> {
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
            // A mount is in one namespace only. With the hook's own the host would be mounted on.
            let is_the_hosts = match phase {
                Phase::Starting => stat.mount == host_root.mount,
                Phase::Running => live.shares_namespace(home.0)?,
            };
            if is_the_hosts {
                return Err(Error::new(
                    Cause::Pid,
                    format!(
                        "process {} is in the host's mount namespace, and its container has another",
                        live.init.pid
                    ),
                ));
            }
            Ok((root, stat.mount))
        };
        let (root, mount) = open()?;
        Ok(Inside { home, root, mount })
    }

    /// Comes back, with the container's root still open.
    #[must_use]
    pub fn leave(self) -> OwnedFd {
        drop(self.home);
        self.root
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        come_back(self.0);
    }
}

/// Enters this process's own mount namespace again, or ends the process.
pub fn come_back(home: &OwnedFd) {
    if let Err(error) = sys::enter_mount_namespace(home) {
        // Nothing this process does from here on would be on the host. It must not go on.
        let error =
            Error::new(Cause::AttachFailed, format!("the host's mount namespace cannot be entered again: {error}"));
        eprintln!("fs-isolator: {error}");
        std::process::exit(i32::from(error.cause().code()));
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
    /// The container's root filesystem was just made slave.
    root_is_slave: bool,
    /// Places that were opened on the way.
    pub places: Vec<OwnedFd>,
}

/// Moving again and again onto a mount point that is removed again and again ends somewhere.
const TRIES: usize = 16;

impl<'t> Moved<'t> {
    /// Nothing yet, for a container with this user and root, as the host knows them. One that runs may have its sandbox
    /// already.
    #[must_use]
    pub fn new(user: (u32, u32), root: (u32, u32), sandbox: Option<&'t OwnedFd>, root_is_slave: bool) -> Moved<'t> {
        Moved { user, root, trees: Vec::new(), sandbox, root_is_slave, places: Vec::new() }
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
                (Base { fd: sandbox, within: Within::Sandbox, resolve, owner: self.user }, path)
            }
            _ => {
                let (fd, resolve) = (&inside.root, Resolve::InRoot);
                (Base { fd, within: Within::Root, resolve, owner: self.root }, &attachment.target)
            }
        };
        for _ in 0..TRIES {
            let (target, there) = points.place(&base, path, tree.kind, &attachment.missing)?;
            if !may_cover_mounts && there.mount_root {
                let what = format!("{} leads to a place where something is mounted already", attachment.target);
                return Err(Error::new(Cause::MountPointUnsafe, what));
            }
            // What lies on the root filesystem itself is neither, since prestart has made that slave.
            if there.mount != inside.mount || !self.root_is_slave {
                refuse_kernel_interface(&target, attachment)?;
                if is_shared(&target, &there, plan, points.proc_fds)? {
                    return Err(shared_target(attachment));
                }
            }
            match sys::move_mount(&tree.fd, &target) {
                // The mount point was removed after it was found: its last holder just went.
                Err(error) if error.errno == Errno::ENOENT => {}
                answer => {
                    answer.because(Cause::AttachFailed, || format!("it cannot be mounted at {}", attachment.target))?;
                    self.trees.push(tree);
                    self.places.push(target);
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
    pub fn verify(&mut self, inside: &Inside<'_>, attachment: &Attachment, tree: &Tree) -> Result<()> {
        let doing = || format!("{} does not lead to what was mounted there", attachment.target);
        let mount = sys::stat(&tree.fd).because(Cause::AttachFailed, doing)?.mount;
        let place = sys::open_path(&inside.root, Path::new(&attachment.target.relative()), Resolve::InRoot)
            .because(Cause::PathConflict, doing)?;
        let found = sys::stat(&place).because(Cause::PathConflict, doing)?;
        self.places.push(place);
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

fn refuse_kernel_interface(target: &OwnedFd, attachment: &Attachment) -> Result<()> {
    let doing = || attachment.target.to_string();
    if !sys::filesystem(target).because(Cause::MountPointUnsafe, doing)?.is_kernel_interface() {
        return Ok(());
    }
    let what = format!("{} lies on one of the kernel's own filesystems", attachment.target);
    Err(Error::new(Cause::MountPointUnsafe, what))
}

/// Whether a mount on this target would be seen elsewhere. Without statmount(2) the container's own mount table
/// tells, which is only needed where the bundle asked for something shared.
fn is_shared(target: &OwnedFd, there: &Stat, plan: &Plan, proc_fds: &OwnedFd) -> Result<bool> {
    if let Some(propagation) = sys::propagation_of(there.mount) {
        return Ok(propagation.shared);
    }
    if plan.enslave_root {
        return Ok(false);
    }
    let doing = || "the container's mount table cannot be read".to_owned();
    let mount = sys::mount_number(target).because(Cause::AttachFailed, doing)?;
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
pub fn propagates(source: &OwnedFd, stat: &Stat, must_know: bool) -> Result<bool> {
    match sys::propagation_of(stat.mount) {
        Some(propagation) => Ok(propagation.shared || propagation.slave),
        None if !must_know => Ok(true),
        None => Ok(line_of(source)?.is_some_and(|mount| mount.shared.is_some() || mount.master.is_some())),
    }
}

/// Whether mounts that a peer of `source` gets appear on it.
///
/// # Errors
/// [`Cause::AttachFailed`].
pub fn sends(source: &OwnedFd, stat: &Stat) -> Result<bool> {
    match sys::propagation_of(stat.mount) {
        Some(propagation) => Ok(propagation.shared),
        None => Ok(line_of(source)?.is_some_and(|mount| mount.shared.is_some())),
    }
}

/// What the mount table says of the mount that something lies on.
fn line_of(place: &OwnedFd) -> Result<Option<Mount>> {
    let doing = || "the mount table cannot be read".to_owned();
    let table = std::fs::read("/proc/self/mountinfo").because(Cause::AttachFailed, doing)?;
    let id = sys::mount_number(place).because(Cause::AttachFailed, doing)?;
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
