//! Opening what is to be attached: volumes, host paths, secrets, and what lies in sandboxes.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::Job;
use crate::attach::{propagates, sends};
use crate::config::Isolator;
use crate::config::disks::{Kind, ROOT};
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::lease::Leases;
use crate::plan::{Attachment, How, Origin, Plan};
use crate::record::{Attached, Line, VolumeRecord};
use crate::request::Propagation;
use crate::request::container_path::ContainerPath;
use crate::request::names::{Role, VolumeId};
use crate::selinux::{Context, host};
use crate::sys::{self, Resolve, Stat};
use crate::trusted::{self, Missing};
use crate::volume::make::{self, New, Unnamed};
use crate::volume::ownership::{self, Action, Facts};
use crate::volume::{self, DiskChoice, Found, Meta, gids, meta};
use crate::{sandbox, secret, tree};

/// Something that is open and may be attached.
#[derive(Debug)]
pub struct Opened {
    what: What,
    /// What is attached.
    pub stat: Stat,
    /// Later host mounts can reach it.
    propagates: bool,
}

#[derive(Debug)]
enum What {
    /// A place of the host, or of a sandbox.
    Place(OwnedFd),
    /// A mount already, which nothing else has.
    Detached(OwnedFd),
    /// A persistent volume.
    Volume(Box<Volume>),
}

/// A volume that this container holds.
#[derive(Debug)]
struct Volume {
    found: Found,
    /// What of it is attached, where that is not its root: path and directory.
    subpath: Option<(String, OwnedFd)>,
    /// What is done about its owner.
    action: Action,
    /// It was made for this container, and has no id yet.
    unnamed: Option<Unnamed>,
}

/// Opens every source of the plan, in its order. `open_sandbox` opens the container's sandbox, and is only called when
/// everything that must exist already was found: nothing is made for a container that asks for a missing volume.
///
/// # Errors
/// [`Cause::VolumeUnavailable`], [`Cause::Subpath`], [`Cause::HostPathNotAllowed`], [`Cause::NoPropagation`] and
/// the causes of what lies on the way.
pub fn open_all(
    job: &mut Job<'_>,
    open_sandbox: impl FnOnce(&mut Job<'_>) -> Result<Option<OwnedFd>>,
) -> Result<Vec<Opened>> {
    let plan = job.plan;
    let mut found = Vec::with_capacity(plan.attachments.len());
    for attachment in &plan.attachments {
        let opened = match &attachment.from {
            Origin::Sandbox | Origin::InSandbox { .. } | Origin::InParent { .. } | Origin::Private { .. } => Ok(None),
            Origin::HostPath { allowed, below, create } => open_host_path(allowed, below.as_ref(), *create),
            Origin::Secret { path, .. } => open_secret(job, path).map(Some),
            Origin::Volume { .. } => open_volume(job, &attachment.from).map(Some),
        };
        found.push(opened.map_err(|error| attachment.named(error))?);
    }
    let sandboxes = Sandboxes { own: open_sandbox(job)?, parent: job.open_parent()?, user: job.user()? };
    // One that is none is the runtime's to refuse.
    let process = job.bundle.process_label.as_deref().and_then(|label| Context::parse(label).ok());
    let complete = |(attachment, found): (&Attachment, Option<Opened>)| {
        let opened = match (found, &attachment.from) {
            (Some(opened), _) => Ok(opened),
            (None, Origin::HostPath { allowed, below, .. }) => make_host_path(allowed, below.as_ref()),
            (None, from) => sandboxes.open(from),
        };
        let usable = |opened: Opened| {
            process.as_ref().map_or(Ok(()), |process| check_label(job, process, attachment, &opened)).map(|()| opened)
        };
        opened
            .and_then(usable)
            .and_then(|opened| opened.propagating_to(attachment))
            .map_err(|error| attachment.named(error))
    };
    plan.attachments.iter().zip(found).map(complete).collect()
}

/// Refuses what SELinux would keep the container out of: it would run without what it asked for.
fn check_label(job: &Job<'_>, process: &Context, attachment: &Attachment, opened: &Opened) -> Result<()> {
    let read_only = matches!(attachment.how, How::Mount { attributes, .. } if attributes.read_only);
    // A mount that was made for the container has its label.
    let found = if opened.is_mount() { None } else { host::examine(process, opened.fd(), &opened.stat, !read_only) };
    let Some((fault, enforced)) = found else { return Ok(()) };
    let exclusive = matches!(attachment.from, Origin::Volume { shared: false, .. });
    let mut remedy = fault.chcon(exclusive, &opened.to_relabel(job, attachment));
    if let Origin::HostPath { .. } = attachment.from {
        remedy.push_str(", if the host itself does not need the label; else --security-opt label=disable");
    }
    if enforced {
        return Err(Error::new(Cause::Label, fault.what).remedy(remedy));
    }
    log::warn!("{}: {}, once SELinux is not permissive any more; {remedy}", attachment.label, fault.what);
    Ok(())
}

fn open_volume(job: &mut Job<'_>, from: &Origin) -> Result<Opened> {
    let Origin::Volume { role, id, disk, subpath, shared, size_mb } = from else {
        return Err(Error::new(Cause::VolumeUnavailable, "it is no volume"));
    };
    let (found, unnamed) = match volume::find(job.disks, disk, role, id)? {
        Some(found) => (found, None),
        None if job.plan.create_missing_volumes => make_missing(job, disk, role, id)?,
        None => return Err(volume::unavailable(role, id, disk)),
    };
    let file = found.stat.id;
    job.record.add(Line::Lease { volume: file })?;
    let leases = Leases::open()?;
    let locked = leases.lock(file)?;
    // Whoever destroys it does so under this lock.
    if unnamed.is_none() {
        found.confirm()?;
    }
    let meta = found.meta()?;
    if meta.shared.is_some_and(|recorded| recorded != *shared) {
        let (is, asked) = if *shared { ("exclusive", "shared") } else { ("shared", "exclusive") };
        return Err(Error::new(Cause::SharedDiffers, format!("it was made to be {is}, and is asked for as {asked}"))
            .remedy(if *shared { "drop shared" } else { "ask for it with shared" }));
    }
    let lease = job.holder().lease(role, id, *shared, *size_mb);
    let taken = locked.take(&job.record.name, lease)?;
    drop(locked);
    if let Some(size) = size_mb {
        log::info!("volume {id}: its size of {size} MB is recorded and not enforced");
        // A Mesos agent's volumes have it in the agent's checkpoint, and nothing of ours.
        if meta.version > 0 && meta.size_mb != Some(*size) {
            let sized = Meta { size_mb: Some(*size), ..meta.clone() };
            meta::write(&found.fd, &found.disk, role, id, &sized)?;
        }
    }
    let facts = Facts {
        rule: meta.ownership.unwrap_or(job.plan.ownership),
        user: (job.plan.uid, job.plan.gid),
        namespace: job.live.user_namespace.as_ref(),
        root: &found.stat,
        others: taken.others,
        by_group: job.config.volume_gid_range.is_some(),
    };
    let action = ownership::decide(facts)?;
    check_action(job, &found, action)?;
    let open = |subpath: &ContainerPath| Ok((subpath.relative(), volume::open_subpath(&found.fd, subpath)?));
    let subpath = subpath.as_ref().map(open).transpose()?;
    let stat = subpath.as_ref().map_or(Ok(found.stat), |(_, inside)| stat(inside))?;
    Ok(Opened { what: What::Volume(Box::new(Volume { found, subpath, action, unnamed })), stat, propagates: false })
}

/// Makes a volume that was missing, on the disk that was named, or below `work_dir`. It gets its id last.
fn make_missing(job: &mut Job<'_>, disk: &DiskChoice, role: &Role, id: &VolumeId) -> Result<(Found, Option<Unnamed>)> {
    let name = match disk {
        DiskChoice::Any => ROOT,
        DiskChoice::One(name) => name,
    };
    // One that is not mounted shows nothing, and an empty volume beside the real one would be the end of it.
    job.disks.refuse_empty(disk)?;
    let disk = match job.disks.get(name, Missing::Tell)? {
        Some(disk) if disk.kind() != Kind::Mount => disk,
        _ => return Err(volume::unavailable(role, id, &DiskChoice::One(name.to_owned()))),
    };
    let temporary = job.record.temporary_name();
    let line = Line::MakingVolume { disk: name.to_owned(), role: role.clone(), temporary: temporary.clone() };
    job.record.add(line)?;
    let reachable = job.config.shares_host_filesystem();
    let new = New { mode: None, owner: None, reachable, meta: None };
    let unnamed = make::make(&disk, role, id, temporary, new)?;
    let fd = unnamed.fd.try_clone().because(Cause::AttachFailed, || "out of descriptors".to_owned())?;
    let found = Found::unnamed(disk, role.clone(), id.clone(), stat(&fd)?, fd);
    Ok((found, Some(unnamed)))
}

/// Refuses what an isolator cannot do about a volume's owner, and what would endanger others.
fn check_action(job: &Job<'_>, found: &Found, action: Action) -> Result<()> {
    if action.group
        && let Some(range) = &job.config.volume_gid_range
    {
        let gid = gids::reserve(found, range)?;
        if job.plan.gid != gid && !job.plan.groups.contains(&gid) {
            return Err(Error::new(
                Cause::Ownership,
                format!("the volume's group is {gid}, and the container's user {} is not in it", job.plan.uid),
            )
            .remedy(format!("add it: podman --group-add {gid}, or process.user.additionalGids in config.json")));
        }
        // Before anything is attached: what a kill leaves undone, the next start does.
        gids::give(found, gid)?;
    }
    if !action.idmap {
        return Ok(());
    }
    if job.plan.isolator == Isolator::Posix {
        return Err(Error::new(
            Cause::Ownership,
            "its owner is not the container's user, and the symbolic links of filesystem/posix cannot map ids",
        )
        .remedy("let ownership be mesos, or use filesystem/linux"));
    }
    // Root of the container could leave a setuid file there, which belongs to root of the host, and open the way to it.
    if found.can_be_opened_to_others()? {
        let folder = found.path();
        let folder = folder.parent().unwrap_or(&folder).display().to_string();
        return Err(Error::new(
            Cause::Ownership,
            format!("its ids must be mapped, and only its own mode keeps other users from {}", found.path().display()),
        )
        .remedy(format!(
            "setuid files of the container's root would be theirs to run: chmod 0700 {}, or mount it nosuid",
            shell_word(&folder)
        )));
    }
    Ok(())
}

/// The sandboxes of a container.
struct Sandboxes {
    own: Option<OwnedFd>,
    /// Its pod's.
    parent: Option<OwnedFd>,
    /// To whom that belongs what is made in them.
    user: (u32, u32),
}

impl Sandboxes {
    /// Opens something in one of them. A directory that is missing is made; the pod's containers may all write to one that
    /// they share, as to a Kubernetes emptyDir, and nobody else can reach it.
    fn open(&self, from: &Origin) -> Result<Opened> {
        let missing = || Error::new(Cause::Sandbox, "the plan has no sandbox");
        let own = || self.own.as_ref().ok_or_else(missing);
        match from {
            Origin::Private { path } => open_below(own()?, &path.relative()),
            Origin::InSandbox { path } => self.find_or_make(own()?, path, 0o755),
            Origin::InParent { path } => self.find_or_make(self.parent.as_ref().ok_or_else(missing)?, path, 0o777),
            _ => open_below(own()?, "."),
        }
    }

    fn find_or_make(&self, sandbox: &OwnedFd, path: &ContainerPath, mode: u32) -> Result<Opened> {
        let relative = path.relative();
        let found = match sys::open_path(sandbox, Path::new(&relative), Resolve::BeneathNoLinksNoMounts) {
            Err(error) if error.errno == Errno::ENOENT => None,
            _ => Some(open_below(sandbox, &relative)?),
        };
        let opened = match found {
            Some(found) if !found.stat.is_dir() || found.stat.permissions() != 0 => found,
            // It is missing, or its maker was killed before it was given to anybody.
            _ => {
                let give = |made: &OwnedFd, _: bool| {
                    sys::chown(made, self.user.0, self.user.1)?;
                    sys::chmod(made, mode)
                };
                tree::make(sandbox, &relative, 0, Resolve::BeneathNoLinksNoMounts, give)
                    .because(Cause::Sandbox, || format!("{path} in the sandbox cannot be made"))?;
                open_below(sandbox, &relative)?
            }
        };
        if opened.stat.is_dir() || opened.stat.is_file() {
            return Ok(opened);
        }
        Err(Error::new(Cause::Sandbox, format!("{path} in the sandbox is neither a directory nor a regular file")))
    }
}

fn open_below(sandbox: &OwnedFd, path: &str) -> Result<Opened> {
    let fd = sys::open_path(sandbox, Path::new(path), Resolve::BeneathNoLinksNoMounts)
        .because(Cause::Sandbox, || format!("{path} in the sandbox cannot be opened"))?;
    Opened::new(fd)
}

fn stat(fd: &OwnedFd) -> Result<Stat> {
    sys::stat(fd).because(Cause::AttachFailed, || "it cannot be looked at".to_owned())
}

/// Opens a path of the host below an entry of the configuration; `None` where it is missing and may be made.
fn open_host_path(allowed: &str, below: Option<&ContainerPath>, create: bool) -> Result<Option<Opened>> {
    let entry = open_entry(allowed)?;
    let Some(below) = below else { return Opened::new(entry).map(Some) };
    match sys::open_path(&entry, Path::new(&below.relative()), Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT && create => Ok(None),
        answer => answer
            .because(Cause::HostPathNotAllowed, || format!("{below} below {allowed} cannot be opened"))
            .and_then(Opened::new)
            .map(Some),
    }
}

/// Makes a directory below an entry, with those on the way to it. It stays, also where the container does not start:
/// another may have it by then.
fn make_host_path(allowed: &str, below: Option<&ContainerPath>) -> Result<Opened> {
    let path = below.map_or_else(|| ".".to_owned(), ContainerPath::relative);
    tree::make(open_entry(allowed)?, &path, 0o755, Resolve::BeneathNoLinks, |_, _| Ok(()))
        .because(Cause::HostPathNotAllowed, || format!("{path} below {allowed} cannot be made"))
        .and_then(Opened::new)
}

fn open_entry(allowed: &str) -> Result<OwnedFd> {
    let missing = || Error::new(Cause::HostPathNotAllowed, format!("the host path {allowed} does not exist"));
    trusted::open_place(Path::new(allowed))?.ok_or_else(missing)
}

fn open_secret(job: &Job<'_>, path: &Path) -> Result<Opened> {
    let mount = secret::mount(path, job.user()?, job.home, job.bundle.mount_label.as_deref())?;
    Ok(Opened { stat: stat(&mount)?, what: What::Detached(mount), propagates: false })
}

impl Opened {
    fn new(fd: OwnedFd) -> Result<Opened> {
        Ok(Opened { stat: stat(&fd)?, what: What::Place(fd), propagates: false })
    }

    /// What is attached.
    pub fn fd(&self) -> &OwnedFd {
        match &self.what {
            What::Place(fd) | What::Detached(fd) => fd,
            What::Volume(volume) => volume.subpath.as_ref().map_or(&volume.found.fd, |(_, inside)| inside),
        }
    }

    fn volume(&self) -> Option<&Volume> {
        if let What::Volume(volume) = &self.what { Some(volume) } else { None }
    }

    /// Finds out whether later host mounts can reach it, where that is wanted.
    fn propagating_to(mut self, attachment: &Attachment) -> Result<Opened> {
        // mesos.md HP6.
        if let How::Mount { propagation: Propagation::Bidirectional, .. } = attachment.how
            && !sends(self.fd(), &self.stat)?
        {
            return Err(Error::new(
                Cause::NoPropagation,
                "bidirectional was asked for, and its mount on the host is not shared",
            ));
        }
        if let How::Mount { propagation: Propagation::Slave, named, .. } = attachment.how {
            if self.is_idmapped() && !named {
                log::info!(
                    "{}: its ids are mapped, which host mounts that arrive later would not be: they will not appear",
                    attachment.label
                );
                return Ok(self);
            }
            self.propagates = propagates(self.fd(), &self.stat, named)?;
            if !self.propagates && named {
                return Err(Error::new(
                    Cause::NoPropagation,
                    "slave was asked for, and its mount on the host is private",
                ));
            }
            if !self.propagates && self.volume().is_some() {
                log::info!(
                    "{}: its mount on the host is private, so later host mounts below it will not appear in the container",
                    attachment.label
                );
            }
        }
        Ok(self)
    }

    /// Whether it is a detached mount already.
    pub fn is_mount(&self) -> bool {
        matches!(self.what, What::Detached(_))
    }

    /// Whether later host mounts are to reach it.
    pub fn propagation(&self, how: How) -> Propagation {
        match how {
            How::Mount { propagation, named, .. } if named || !self.is_idmapped() => propagation,
            _ => Propagation::Private,
        }
    }

    /// What the record says of it.
    pub fn attached(&self, plan: &Plan, attachment: &Attachment, proc_fds: &OwnedFd) -> Attached {
        let (propagation, named) = match attachment.how {
            How::Mount { propagation, named, .. } => (propagation, named),
            How::Link => (Propagation::Private, false),
        };
        let slave = propagation == Propagation::Slave && self.propagates;
        Attached {
            label: attachment.label.clone(),
            target: attachment.target.to_string(),
            id: self.stat.id,
            link: attachment.how == How::Link,
            attributes: crate::attach::attributes(attachment.how),
            slave,
            slave_named: slave && named,
            mend: slave && (plan.mend || named),
            bidirectional: propagation == Propagation::Bidirectional,
            source: self.host_path(proc_fds),
            volume: self.volume().map(|volume| VolumeRecord {
                role: volume.found.role.clone(),
                id: volume.found.id.clone(),
                disk: volume.found.disk.name().to_owned(),
                file: volume.found.stat.id,
                shared: matches!(attachment.from, Origin::Volume { shared: true, .. }),
            }),
            subpath: match &attachment.from {
                Origin::Volume { subpath, .. } => subpath.clone(),
                _ => None,
            },
            from: match &attachment.from {
                Origin::Volume { .. } | Origin::Sandbox => None,
                from => Some(from.clone()),
            },
            named: named.then_some(propagation),
        }
    }

    /// Where what is attached lies on the host.
    fn host_path(&self, proc_fds: &OwnedFd) -> String {
        if self.is_mount() {
            return String::new();
        }
        // One that was made for this container had another name when it was opened.
        let path = self.volume_path().or_else(|| sys::path_of(proc_fds, self.fd()).ok().map(PathBuf::from));
        path.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the label is to be changed. What is made for one container has it from the directory in which it is made.
    fn to_relabel(&self, job: &Job<'_>, attachment: &Attachment) -> String {
        let path = match (self.volume(), &attachment.from) {
            (Some(Volume { found, unnamed: Some(_), .. }), _) => found.disk.path().join("volumes"),
            (Some(_), _) | (None, Origin::HostPath { .. }) => return self.host_path(job.proc_fds),
            _ => sandbox::all(&job.config.work_dir),
        };
        path.to_string_lossy().into_owned()
    }

    /// The administrator's directory in which the volume lies. What is below is the user's to arrange.
    pub fn volume_folder(&self) -> Option<PathBuf> {
        self.volume()?.found.path().parent().map(Path::to_owned)
    }

    /// Where the volume will be found, or the subpath in it.
    pub fn volume_path(&self) -> Option<PathBuf> {
        let volume = self.volume()?;
        let path = volume.found.path();
        Some(volume.subpath.as_ref().map_or_else(|| path.clone(), |(subpath, _)| path.join(subpath)))
    }

    /// Whether its ids are mapped by the container's user namespace.
    pub fn is_idmapped(&self) -> bool {
        self.volume().is_some_and(|volume| volume.action.idmap)
    }

    /// The last steps, when it is in its place: gives the volume to the container's user, and its id to one that was
    /// made.
    ///
    /// # Errors
    /// [`Cause::Ownership`], [`Cause::VolumeExists`].
    pub fn finish(&self) -> Result<()> {
        let Some(volume) = self.volume() else { return Ok(()) };
        if let Some((uid, gid)) = volume.action.give {
            sys::chown(&volume.found.fd, uid, gid)
                .because(Cause::Ownership, || format!("its root cannot be given to user {uid}"))?;
        }
        volume.unnamed.as_ref().map_or(Ok(()), Unnamed::publish)
    }
}
