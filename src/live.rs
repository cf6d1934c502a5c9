//! Volumes on running containers: attached and detached without a restart, with the grammar, the authorisation, the
//! leases and the record of a start, so that poststop and reconcile know about them.
#![forbid(unsafe_code)]

pub mod find;
mod users;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::attach::{HostRoot, Inside, Phase};
use crate::config::Config;
use crate::container::bundle;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{self, Life, Live};
use crate::intake::{self, Bundle};
use crate::isolator::{self, Job};
use crate::plan::{Missing, Origin, Plan, Sandbox};
use crate::record::{self, Attached, Base, Header, Line, Place, Record, Within};
use crate::request::PREFIX;
use crate::request::container_path::ContainerPath;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sys::{self, Resolve};
use crate::trusted;
use crate::undo;
use crate::volume::Disks;
use crate::{lease, mountpoint};
use find::Running;

/// A running container, opened.
struct Container<'a> {
    running: &'a Running,
    bundle: Bundle,
    live: Live,
    home: OwnedFd,
    proc_fds: OwnedFd,
    runtime: RuntimeDir,
    record: Record,
}

impl Container<'_> {
    fn open<'a>(running: &'a Running, config: &Config) -> Result<Container<'a>> {
        let proc_fds = sys::open_proc_fds().because(Cause::Pid, || "/proc is not mounted".to_owned())?;
        let bundle = Bundle::open(&running.bundle, &proc_fds)?;
        let live = Live::open(running.pid, bundle.config.user_namespace)?;
        let home = init::own_mount_namespace()?;
        let runtime = RuntimeDir::open(&config.runtime_dir)?;
        let name = record::name(&running.id, &running.bundle);
        let record = loop {
            let Some(record) = Record::open(&runtime, &name, Open::Create)? else { continue };
            match &record.header {
                // Of an earlier container with this id and bundle.
                Some(header) if header.life.init != live.init && !header.life.may_last()? => {
                    undo::undo(&runtime, record, config).map_err(|errors| first(errors, "an earlier container"))?;
                }
                _ => break record,
            }
        };
        Ok(Container { running, bundle, live, home, proc_fds, runtime, record })
    }

    fn attachments(&self) -> Vec<Attached> {
        self.record.attachments().map(<[Attached]>::to_vec).unwrap_or_default()
    }

    /// Who it is comes from its bundle, never from whoever runs the command; what is asked for is new.
    fn plan(&self, volumes: &str, config: &Config) -> Result<Plan> {
        let mut annotations: HashMap<String, String> = bundle::annotations(&self.bundle.fd)?;
        let asks = |key: &String| key.strip_prefix(PREFIX).is_some_and(|name| name.starts_with("volumes"));
        annotations.retain(|key, _| !asks(key));
        annotations.insert(format!("{PREFIX}volumes"), volumes.to_owned());
        // The token proves that an administrator asks, and one does.
        if let Some(token) = &config.request_token {
            annotations.insert(format!("{PREFIX}token"), token.clone());
        }
        if let Some(header) = &self.record.header {
            annotations.insert(format!("{PREFIX}isolation"), header.isolator.name().to_owned());
        }
        let plan = intake::plan(&self.running.id, &annotations, &self.bundle.path, &self.bundle.config, config)?;
        plan.ok_or_else(|| Error::new(Cause::ContainerUnknown, "it is a pod's infra container, which gets nothing"))
    }
}

fn first(mut errors: Vec<Error>, what: &str) -> Error {
    let last = errors.pop();
    errors.iter().for_each(|error| log::error!("{error}"));
    last.unwrap_or_else(|| Error::new(Cause::UndoIncomplete, format!("{what} cannot be undone")))
}

/// Attaches volumes to a running container, all or none, and tells what it has now in addition.
///
/// # Errors
/// Those of a start.
pub fn attach(running: &Running, volumes: &str, config: &Config) -> Result<Vec<Attached>> {
    let mut container = Container::open(running, config)?;
    let had = container.attachments();
    let mut plan = container.plan(volumes, config)?;
    let sandbox = take_sandbox(&mut plan, &had, config);
    check_against(&mut plan, &had, config)?;
    let host_root = HostRoot::find(&container.bundle.fd, &container.bundle.path, &container.bundle.config.root)?;
    let disks = Disks::new(config);
    disks.make_work_dir()?;
    disks.refuse_agent()?;
    let life = Life::of(&container.live.init, plan.own_pid_namespace);
    if container.record.header.is_none() {
        container.record.begin(Header {
            version: record::VERSION,
            id: running.id.clone(),
            bundle: running.bundle.clone(),
            manager: plan.manager,
            identity: plan.identity.clone(),
            isolator: plan.isolator,
            life: life.clone(),
            root: Base { path: host_root.path.to_string_lossy().into_owned(), id: host_root.id },
        })?;
        container.record.add(Line::Done { attachments: Vec::new(), binds: Vec::new() })?;
    }
    let from = container.record.lines.len();
    let mut job = Job {
        plan: &plan,
        config,
        live: &container.live,
        home: &container.home,
        host_root: &host_root,
        disks: &disks,
        life: &life,
        container: (&running.id, &running.bundle),
        runtime: &container.runtime,
        record: &mut container.record,
        phase: Phase::Running,
        sandbox,
        proc_fds: &container.proc_fds,
    };
    match isolator::attach(&mut job) {
        Ok(new) => {
            let attachments = had.into_iter().chain(new.iter().cloned()).collect();
            let binds = container.record.binds().to_vec();
            container.record.add(Line::Done { attachments, binds })?;
            Ok(new)
        }
        Err(error) => {
            let left = undo::undo_from(&container.runtime, &mut container.record, from, config);
            left.iter().for_each(|left| log::error!("{left}"));
            container.record.compact(&container.runtime)?;
            Err(error)
        }
    }
}

/// A container that has its sandbox already gets no second one.
fn take_sandbox(plan: &mut Plan, had: &[Attached], config: &Config) -> Option<(ContainerPath, sys::FileId)> {
    let there = had.iter().find(|attached| attached.target == config.sandbox_directory.to_string())?;
    plan.attachments.retain(|attachment| attachment.from != Origin::Sandbox);
    if plan.sandbox == Sandbox::Own {
        plan.sandbox = Sandbox::None;
    }
    Some((config.sandbox_directory.clone(), there.id))
}

/// Holds the plan against what the container has.
fn check_against(plan: &mut Plan, had: &[Attached], config: &Config) -> Result<()> {
    for attachment in &mut plan.attachments {
        for other in had.iter().filter(|other| other.target != config.sandbox_directory.to_string()) {
            let there = ContainerPath::parse(&other.target)?;
            if there.within(&attachment.target).is_some() {
                return Err(Error::new(
                    Cause::PathConflict,
                    format!("{} would hide {}, which is attached at {there}", attachment.target, other.label),
                )
                .volume(&attachment.label));
            }
            if let Some(rest) = attachment.target.within(&there) {
                let source = Path::new(&other.source).join(rest.join("/"));
                attachment.missing = Missing::Refuse {
                    inside: format!("volume {}", other.label),
                    command: format!("mkdir -p {}", crate::plan::shell_word(&source.to_string_lossy())),
                };
            }
        }
    }
    Ok(())
}

/// Detaches what is attached at a path of a running container. Its data stays where it is.
///
/// # Errors
/// [`Cause::NotAttached`]; [`Cause::PathInUse`] with the processes that use it, unless `lazy`: they go on with it then, and
/// new ones do not see it.
pub fn detach(running: &Running, path: &str, lazy: bool, config: &Config) -> Result<Attached> {
    let mut container = Container::open(running, config)?;
    let had = container.attachments();
    let asked = ContainerPath::parse(path)?;
    let base = match &container.record.header {
        Some(header) if header.isolator == crate::config::Isolator::Posix => {
            ContainerPath::parse(&container.bundle.config.cwd)?
        }
        _ => config.sandbox_directory.clone(),
    };
    let target = asked.below(&base);
    let Some(attached) = had.iter().find(|attached| attached.target == target.to_string()).cloned() else {
        return Err(Error::new(Cause::NotAttached, format!("{target} of the container is none of ours")));
    };
    let is_below = |other: &&Attached| {
        ContainerPath::parse(&other.target)
            .is_ok_and(|other| other.within(&target).is_some_and(|rest| !rest.is_empty()))
    };
    if let Some(other) = had.iter().find(is_below) {
        return Err(Error::new(Cause::PathConflict, format!("{} is attached below it", other.label))
            .volume(&attached.label)
            .remedy(format!("detach {} first", other.target)));
    }
    let host_root = HostRoot::find(&container.bundle.fd, &container.bundle.path, &container.bundle.config.root)?;
    if !attached.link {
        let enter = || Inside::enter(&container.live, &container.home, &host_root, Phase::Running, &container.proc_fds);
        let named = |error: Error| error.volume(&attached.label);
        let found = enter().and_then(|inside| find_mount(&inside, &attached, &target)).map_err(named)?;
        // Who uses it is asked on the host, whose /proc shows all processes.
        if !lazy {
            refuse_users(&found, &container.live, &target).map_err(named)?;
        }
        let inside = enter().map_err(named)?;
        let detached = sys::detach_mount(found);
        drop(inside);
        detached.because(Cause::AttachFailed, || format!("{target} cannot be detached")).map_err(named)?;
    }
    let left: Vec<Attached> = had.iter().filter(|other| **other != attached).cloned().collect();
    release(&mut container, &host_root, &base, &attached, &left)?;
    let binds = container.record.binds().to_vec();
    container.record.add(Line::Done { attachments: left, binds })?;
    container.record.compact(&container.runtime)?;
    Ok(attached)
}

fn find_mount(inside: &Inside<'_>, attached: &Attached, target: &ContainerPath) -> Result<OwnedFd> {
    let doing = || format!("{target} cannot be looked at");
    let found = sys::open_place(&inside.root, Path::new(&target.relative()), Resolve::InRoot)
        .because(Cause::NotAttached, doing)?;
    let stat = sys::stat(&found).because(Cause::NotAttached, doing)?;
    if !stat.mount_root || stat.id != attached.id {
        return Err(Error::new(Cause::NotAttached, format!("{target} in the container is not the volume any more")));
    }
    Ok(found)
}

/// A process that came between this look and the detaching goes on with the volume: nothing it writes is lost.
fn refuse_users(found: &OwnedFd, live: &Live, target: &ContainerPath) -> Result<()> {
    let users = users::of(found, live)?;
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::new(Cause::PathInUse, format!("{target} is in use by {}", users.join(", "))))
}

/// Gives up the mount point or link, and the lease unless the volume is attached elsewhere in the container too.
fn release(
    container: &mut Container<'_>,
    host_root: &HostRoot,
    sandbox_directory: &ContainerPath,
    attached: &Attached,
    left: &[Attached],
) -> Result<()> {
    let sandbox = container.record.lines.iter().find_map(|line| match line {
        Line::Sandbox { path, .. } => Some(PathBuf::from(path)),
        _ => None,
    });
    let in_root = sys::open_place(sys::cwd(), &host_root.path, Resolve::NoMagic).ok();
    let in_sandbox = sandbox.and_then(|path| trusted_place(&path));
    // Its mount point, and what was made on the way to it and to nothing else that is left. The deepest first.
    let is_needed = |place: &Place, by: &Attached| {
        let base = match place.within {
            Within::Root => PathBuf::from("/"),
            Within::Sandbox => PathBuf::from(sandbox_directory.to_string()),
        };
        Path::new(&by.target).starts_with(base.join(&place.parent).join(&place.name))
    };
    for (place, file) in container.record.held_from(0).into_iter().rev() {
        let others = left.iter().any(|other| is_needed(&place, other));
        if others || !is_needed(&place, attached) || !container.record.holds(file) {
            continue;
        }
        let base = match place.within {
            Within::Root => in_root.as_ref(),
            Within::Sandbox => in_sandbox.as_ref(),
        };
        mountpoint::release(&container.runtime, base, &container.record.name, &place, file)?;
        container.record.add(Line::GivenUp { file })?;
    }
    if let Some(volume) = &attached.volume
        && !left.iter().any(|other| other.volume.as_ref().is_some_and(|other| other.file == volume.file))
    {
        lease::release(volume.file, &container.record.name, &container.live.init)?;
        container.record.forget_lease(volume.file, 0);
    }
    Ok(())
}

fn trusted_place(path: &Path) -> Option<OwnedFd> {
    let parent = trusted::open_dir(path.parent()?, trusted::Missing::Tell).ok()??;
    sys::open_place(parent, Path::new(path.file_name()?), Resolve::BeneathNoLinks).ok()
}
