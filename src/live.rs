//! Volumes on running containers: attached and detached without a restart, with the grammar, the authorisation, the
//! leases and the record of a start, so that poststop and reconcile know about them.
#![forbid(unsafe_code)]

pub mod find;
pub mod look;
mod users;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::attach::{self, HostRoot, Inside, Phase};
use crate::config::{Config, Isolator};
use crate::container::bundle;
use crate::error::{Because, Cause, Error, Result, shell_word};
use crate::init::{self, Life, Live};
use crate::intake::{self, Bundle};
use crate::isolator::{self, Job, Outcome};
use crate::mountpoint::Missing;
use crate::plan::{Attachment, Origin, Plan};
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
        if live.init.start != running.start {
            return Err(Error::new(
                Cause::ContainerUnknown,
                format!("process {} of container {} has ended, and another has its number", running.pid, running.id),
            ));
        }
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
        let mut container = Container { running, bundle, live, home, proc_fds, runtime, record };
        container.undo_unfinished(config)?;
        Ok(container)
    }

    /// Undoes what a command has begun that was killed, before it is forgotten.
    fn undo_unfinished(&mut self, config: &Config) -> Result<()> {
        let is_done = |line: &Line| matches!(line, Line::Done { .. });
        let from = self.record.lines.iter().rposition(is_done).map_or(0, |done| done + 1);
        if from == self.record.lines.len() {
            return Ok(());
        }
        let left = undo::undo_from(&self.runtime, &mut self.record, from, config);
        if !left.is_empty() {
            return Err(first(left, "a command that was killed"));
        }
        self.record.compact(&self.runtime)
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
    let plan = container.plan(volumes, config)?;
    container.attach(plan, config)
}

/// Detaches what is attached at a path of a running container. Its data stays where it is.
///
/// # Errors
/// [`Cause::NotAttached`]; [`Cause::PathInUse`] with the processes that use it, unless `lazy`: they go on with it then, and
/// new ones do not see it.
pub fn detach(running: &Running, path: &str, lazy: bool, config: &Config) -> Result<Attached> {
    let mut container = Container::open(running, config)?;
    let target = ContainerPath::parse(path)?.below(&container.base(config)?);
    let had = container.attachments();
    let attached = had.into_iter().find(|attached| attached.target == target.to_string());
    let attached =
        attached.ok_or_else(|| Error::new(Cause::NotAttached, format!("{target} of the container is none of ours")))?;
    container.detach(std::slice::from_ref(&attached), lazy, config)?;
    Ok(attached)
}

/// What an update has done.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Updated {
    /// What is attached in addition.
    pub attached: Vec<Attached>,
    /// What is not attached any more.
    pub detached: Vec<Attached>,
}

/// Gives a running container exactly these volumes: attaches what is new, and detaches what is not asked for any more.
/// What is to go is looked at before anything is done, and taken away when all that is new is there.
///
/// # Errors
/// Those of [`attach`] and [`detach`]; [`Cause::PathConflict`] where something else is asked for at a path that has a
/// volume.
pub fn update(running: &Running, volumes: &str, config: &Config) -> Result<Updated> {
    let mut container = Container::open(running, config)?;
    let sandbox = config.sandbox_directory.to_string();
    let mut plan = if volumes.is_empty() { None } else { Some(container.plan(volumes, config)?) };
    let wanted = plan.as_ref().map(|plan| plan.attachments.clone()).unwrap_or_default();
    let had = container.attachments();
    let is_same = |attachment: &Attachment, attached: &Attached| {
        attachment.label == attached.label
            && attachment.target.to_string() == attached.target
            && attach::attributes(attachment.how) == attached.attributes
    };
    let (kept, gone): (Vec<Attached>, Vec<Attached>) = had.into_iter().partition(|attached| {
        attached.target == sandbox || wanted.iter().any(|attachment| is_same(attachment, attached))
    });
    if let Some(plan) = &mut plan {
        plan.attachments.retain(|attachment| !kept.iter().any(|attached| is_same(attachment, attached)));
        let changed =
            |attachment: &&Attachment| gone.iter().any(|attached| attached.target == attachment.target.to_string());
        if let Some(attachment) = plan.attachments.iter().find(changed) {
            return Err(attachment.named(
                Error::new(
                    Cause::PathConflict,
                    format!("{} has a volume, in another way than is asked for now", attachment.target),
                )
                .remedy("detach that first, or ask for another path; nothing was changed"),
            ));
        }
    }
    container.check_unused(&gone)?;
    let attached = match plan {
        Some(plan) if plan.attachments.iter().any(|attachment| attachment.from != Origin::Sandbox) => {
            container.attach(plan, config)?
        }
        _ => Vec::new(),
    };
    container.detach(&gone, true, config)?;
    Ok(Updated { attached, detached: gone })
}

impl Container<'_> {
    /// What relative container paths are relative to.
    fn base(&self, config: &Config) -> Result<ContainerPath> {
        match &self.record.header {
            Some(header) if header.isolator == Isolator::Posix => ContainerPath::parse(&self.bundle.config.cwd),
            _ => Ok(config.sandbox_directory.clone()),
        }
    }

    fn host_root(&self) -> Result<HostRoot> {
        HostRoot::find(&self.bundle.fd, &self.bundle.path, &self.bundle.config.root)
    }

    /// Attaches all or none.
    fn attach(&mut self, mut plan: Plan, config: &Config) -> Result<Vec<Attached>> {
        let had = self.attachments();
        let sandbox = take_sandbox(&mut plan, &had, config);
        check_against(&mut plan, &had, config)?;
        let host_root = self.host_root()?;
        let disks = Disks::new(config);
        disks.make_work_dir()?;
        disks.refuse_agent()?;
        let life = Life::of(&self.live.init, plan.own_pid_namespace);
        if self.record.header.is_none() {
            self.record.begin(Header {
                version: record::VERSION,
                id: self.running.id.clone(),
                bundle: self.running.bundle.clone(),
                manager: plan.manager,
                identity: plan.identity.clone(),
                isolator: plan.isolator,
                life: life.clone(),
                root: Base { path: host_root.path.to_string_lossy().into_owned(), id: host_root.id },
            })?;
            self.record.add(Line::Done { attachments: Vec::new(), binds: Vec::new(), steps: Vec::new() })?;
        }
        let from = self.record.lines.len();
        let mut job = Job {
            plan: &plan,
            config,
            live: &self.live,
            home: &self.home,
            host_root: &host_root,
            disks: &disks,
            life: &life,
            container: (&self.running.id, &self.running.bundle),
            runtime: &self.runtime,
            record: &mut self.record,
            phase: Phase::Running,
            sandbox,
            bundle: &self.bundle.config,
            proc_fds: &self.proc_fds,
        };
        match isolator::attach(&mut job) {
            Ok(Outcome { attached: new, .. }) => {
                let written = self.write_down(had.into_iter().chain(new.iter().cloned()).collect());
                if let Err(error) = written {
                    // What nobody knows of cannot stay. The deepest were attached last.
                    for one in new.iter().rev().filter(|one| !one.link) {
                        self.take_out(one, &host_root).unwrap_or_else(|left| log::error!("{left}"));
                    }
                    self.undo_unfinished(config)?;
                    return Err(error);
                }
                Ok(new)
            }
            Err(error) => {
                let left = undo::undo_from(&self.runtime, &mut self.record, from, config);
                left.iter().for_each(|left| log::error!("{left}"));
                self.record.compact(&self.runtime)?;
                Err(error)
            }
        }
    }

    fn write_down(&mut self, attachments: Vec<Attached>) -> Result<()> {
        let (binds, steps) = (self.record.binds().to_vec(), self.record.steps().to_vec());
        self.record.add(Line::Done { attachments, binds, steps })
    }

    /// Refuses where a process uses one of these, or something is attached below one that is not among them.
    fn check_unused(&self, attached: &[Attached]) -> Result<()> {
        let had = self.attachments();
        for one in attached {
            let target = ContainerPath::parse(&one.target)?;
            let is_below = |other: &&Attached| {
                let path = ContainerPath::parse(&other.target);
                path.is_ok_and(|path| path.within(&target).is_some_and(|rest| !rest.is_empty()))
            };
            if let Some(other) = had.iter().filter(|other| !attached.contains(other)).find(is_below) {
                return Err(one.named(
                    Error::new(Cause::PathConflict, format!("{} is attached below it", other.label))
                        .remedy(format!("detach {} first", other.target)),
                ));
            }
        }
        let host_root = self.host_root()?;
        for one in attached.iter().filter(|one| !one.link) {
            let named = |error: Error| one.named(error);
            if let Some(found) = self.find_mount(one, &host_root).map_err(named)? {
                self.refuse_users(&found, one).map_err(named)?;
            }
        }
        Ok(())
    }

    /// Detaches these, children before parents.
    fn detach(&mut self, attached: &[Attached], lazy: bool, config: &Config) -> Result<()> {
        if !lazy {
            self.check_unused(attached)?;
        }
        let host_root = self.host_root()?;
        let base = self.base(config)?;
        let mut order: Vec<&Attached> = attached.iter().collect();
        order.sort_by_key(|one| std::cmp::Reverse(one.target.matches('/').count()));
        for one in order {
            let named = |error: Error| one.named(error);
            if !one.link {
                self.take_out(one, &host_root).map_err(named)?;
            }
            let left: Vec<Attached> = self.attachments().into_iter().filter(|other| other != one).collect();
            self.release(&host_root, &base, one, &left).map_err(named)?;
            self.write_down(left)?;
        }
        self.record.compact(&self.runtime)
    }

    fn enter(&self, host_root: &HostRoot) -> Result<Inside<'_>> {
        Inside::enter(&self.live, &self.home, host_root, Phase::Running)
    }

    fn take_out(&self, attached: &Attached, host_root: &HostRoot) -> Result<()> {
        let Some(found) = self.find_mount(attached, host_root)? else { return Ok(()) };
        let inside = self.enter(host_root)?;
        let detached = attach::detach(&found, &self.proc_fds);
        drop(inside);
        detached.because(Cause::AttachFailed, || format!("{} cannot be detached", attached.target))
    }

    /// `None` where the volume is not there any more: a command that was killed, or the container, has taken it out.
    fn find_mount(&self, attached: &Attached, host_root: &HostRoot) -> Result<Option<OwnedFd>> {
        let doing = || format!("{} cannot be looked at", attached.target);
        let inside = self.enter(host_root)?;
        let relative = attached.target.trim_start_matches('/');
        let found = sys::if_there(sys::open_path(&inside.root, Path::new(relative), Resolve::InRoot));
        let Some(found) = found.because(Cause::AttachFailed, doing)? else { return Ok(None) };
        let stat = sys::stat(&found).because(Cause::AttachFailed, doing)?;
        Ok((stat.mount_root && stat.id == attached.id).then_some(found))
    }

    /// On the host, whose /proc shows all processes. One that comes between this look and the detaching goes on with the
    /// volume: nothing it writes is lost.
    fn refuse_users(&self, found: &OwnedFd, attached: &Attached) -> Result<()> {
        let users = users::of(found, &self.live)?;
        if users.is_empty() {
            return Ok(());
        }
        Err(Error::new(Cause::PathInUse, format!("{} is in use by {}", attached.target, users.join(", "))))
    }

    /// Gives up the mount point or link, and the lease unless the volume is attached elsewhere in the container too.
    fn release(
        &mut self,
        host_root: &HostRoot,
        base: &ContainerPath,
        attached: &Attached,
        left: &[Attached],
    ) -> Result<()> {
        let sandbox = self.record.lines.iter().find_map(|line| match line {
            Line::Sandbox { path, .. } => Some(PathBuf::from(path)),
            _ => None,
        });
        // What cannot be looked at now is not gone.
        let in_root = sys::if_there(sys::open_place(sys::cwd(), &host_root.path, Resolve::NoMagic))
            .because(Cause::UndoIncomplete, || host_root.path.display().to_string())?;
        let in_sandbox = sandbox.map_or(Ok(None), |path| trusted_place(&path))?;
        // Its mount point, and what was made on the way to it and to nothing else that is left. The deepest first.
        let is_needed = |place: &Place, by: &Attached| {
            let above = match place.within {
                Within::Root => PathBuf::from("/"),
                Within::Sandbox => PathBuf::from(base.to_string()),
            };
            Path::new(&by.target).starts_with(above.join(&place.parent).join(&place.name))
        };
        for (place, file) in self.record.held_from(0).into_iter().rev() {
            let others = left.iter().any(|other| is_needed(&place, other));
            if others || !is_needed(&place, attached) || !self.record.holds(file) {
                continue;
            }
            let base = match place.within {
                Within::Root => in_root.as_ref(),
                Within::Sandbox => in_sandbox.as_ref(),
            };
            mountpoint::release(&self.runtime, base, &self.record.name, &place, file)?;
            self.record.add(Line::GivenUp { file })?;
        }
        if let Some(volume) = &attached.volume
            && !left.iter().any(|other| other.volume.as_ref().is_some_and(|other| other.file == volume.file))
        {
            lease::release(volume.file, &self.record.name, &self.live.init)?;
            self.record.forget_lease(volume.file, 0);
        }
        Ok(())
    }
}

/// A container that has its sandbox already gets no second one.
fn take_sandbox(plan: &mut Plan, had: &[Attached], config: &Config) -> Option<(ContainerPath, sys::FileId)> {
    let there = had.iter().find(|attached| attached.target == config.sandbox_directory.to_string())?;
    plan.attachments.retain(|attachment| attachment.from != Origin::Sandbox);
    Some((config.sandbox_directory.clone(), there.id))
}

/// Holds the plan against what the container has.
fn check_against(plan: &mut Plan, had: &[Attached], config: &Config) -> Result<()> {
    for attachment in &mut plan.attachments {
        for other in had.iter().filter(|other| other.target != config.sandbox_directory.to_string()) {
            let there = ContainerPath::parse(&other.target)?;
            if there.within(&attachment.target).is_some() {
                return Err(attachment.named(Error::new(
                    Cause::PathConflict,
                    format!("{} would hide {}, which is attached at {there}", attachment.target, other.label),
                )));
            }
            if let Some(rest) = attachment.target.within(&there) {
                let source = Path::new(&other.source).join(rest.join("/"));
                attachment.missing = Missing::Refuse {
                    inside: format!("volume {}", other.label),
                    command: format!("mkdir -p {}", shell_word(&source.to_string_lossy())),
                };
            }
        }
    }
    Ok(())
}

fn trusted_place(path: &Path) -> Result<Option<OwnedFd>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(parent) = trusted::open_dir(parent, trusted::Missing::Tell)? else { return Ok(None) };
    sys::if_there(sys::open_place(parent, Path::new(name), Resolve::BeneathNoLinks))
        .because(Cause::UndoIncomplete, || path.display().to_string())
}
