//! Volumes on running containers: attached and detached without a restart, with the grammar, the authorisation, the
//! leases and the record of a start, so that poststop and reconcile know about them.
//!
//! A container does with its mounts and directories what it may: it renames them, mounts over them, and takes copies of all
//! of them into namespaces of its own. So what is attached is looked for by what it shows, and its lease ends when nothing
//! of the container has it any more.
#![forbid(unsafe_code)]

mod attaching;
mod detaching;
pub mod find;
pub mod look;
mod processes;
mod users;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::attach::HostRoot;
use crate::config::{Config, Isolator};
use crate::container::bundle;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{self, Live};
use crate::intake::{self, Bundle};
use crate::me::me;
use crate::mountpoint;
use crate::plan::{Attachment, Origin, Plan};
use crate::record::{self, Attached, Line, Record};
use crate::request::container_path::ContainerPath;
use crate::request::{self, PREFIX};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sys;
use crate::undo;
use crate::volume::DiskChoice;
use find::Running;
use look::{Place, Survey};

/// A running container, opened.
struct Container<'a> {
    running: &'a Running,
    bundle: Bundle,
    live: Live,
    home: OwnedFd,
    proc_fds: OwnedFd,
    runtime: RuntimeDir,
    record: Record,
    /// With the sandbox where this container has it.
    config: Config,
}

/// Attaches volumes to a running container, all or none, and tells what it has now in addition.
///
/// # Errors
/// Those of a start.
pub fn attach(running: &Running, volumes: &str, config: &Config) -> Result<Vec<Attached>> {
    change(running, config, |container| {
        let present = container.present(&container.attachments())?;
        let plan = container.plan(volumes, &present)?;
        container.attach(plan.ok_or_else(|| Error::new(Cause::RequestInvalid, "no volume is named"))?, &[])
    })
}

/// Detaches what is attached at a path of a running container. Its data stays where it is.
///
/// # Errors
/// [`Cause::NotAttached`]; [`Cause::PathInUse`] with what uses it, unless `lazy`: that goes on with it then, new processes do
/// not see it, and the container holds the volume until its end.
pub fn detach(running: &Running, path: &str, lazy: bool, config: &Config) -> Result<Attached> {
    change(running, config, |container| {
        let target = ContainerPath::parse(path)?.below(&container.base()?).to_string();
        let attached = container.attachments().into_iter().find(|attached| attached.target == target);
        let attached = attached
            .ok_or_else(|| Error::new(Cause::NotAttached, format!("{target} of the container is none of ours")))?;
        container.detach(std::slice::from_ref(&attached), lazy)?;
        Ok(attached)
    })
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
    change(running, config, |container| {
        let mut plan = container.plan(volumes, &[])?;
        let wanted = plan.as_ref().map(|plan| plan.attachments.clone()).unwrap_or_default();
        let stays = |attached: &Attached| is_sandbox(attached) || wanted.iter().any(|one| is_same(one, attached));
        let (kept, gone): (Vec<Attached>, Vec<Attached>) = container.attachments().into_iter().partition(stays);
        if let Some(plan) = &mut plan {
            let is_there = |one: &Attachment| {
                kept.iter()
                    .any(|attached| is_same(one, attached) || (one.from == Origin::Sandbox && is_sandbox(attached)))
            };
            plan.attachments.retain(|one| !is_there(one));
            container.check_new(plan, &kept, &gone)?;
        }
        container.check_places(&kept)?;
        container.check_unused(&gone)?;
        let attached = match plan {
            Some(plan) if plan.attachments.iter().any(|attachment| attachment.from != Origin::Sandbox) => {
                container.attach(plan, &gone)?
            }
            _ => Vec::new(),
        };
        container.detach(&gone, true)?;
        Ok(Updated { attached, detached: gone })
    })
}

/// Opens a container and changes what it has. What was opened for nothing leaves no record.
fn change<T>(running: &Running, config: &Config, act: impl FnOnce(&mut Container<'_>) -> Result<T>) -> Result<T> {
    if me().user.is_some() && !me().in_namespace {
        return Err(Error::new(Cause::Usage, "only root of the container's user namespace can change its mounts")
            .remedy("run it in there: podman unshare fs-isolator …"));
    }
    let mut container = Container::open(running, config)?;
    let answer = container.settle().and_then(|()| act(&mut container));
    let Container { record, runtime, .. } = container;
    if record.header.is_none() {
        record.remove(&runtime)?;
    }
    answer
}

fn ended(running: &Running) -> Error {
    Error::new(Cause::ContainerUnknown, format!("container {} has ended", running.id))
}

fn is_sandbox(attached: &Attached) -> bool {
    attached.origin() == Origin::Sandbox
}

/// Whether a plan has the very thing that is attached.
fn is_same(one: &Attachment, attached: &Attached) -> bool {
    let mut from = one.from.clone();
    if let (Origin::Volume { disk, size_mb, .. }, Some(had)) = (&mut from, &attached.volume) {
        // It is on the disk on which it was found, and a size is told and not enforced.
        if *disk == DiskChoice::Any {
            *disk = DiskChoice::One(had.disk.clone());
        }
        *size_mb = None;
    }
    from == attached.origin() && one.how == attached.how() && one.target.to_string() == attached.target
}

fn first(mut errors: Vec<Error>, what: &str) -> Error {
    let last = errors.pop();
    errors.iter().for_each(|error| log::error!("{error}"));
    last.unwrap_or_else(|| Error::new(Cause::UndoIncomplete, format!("{what} cannot be undone")))
}

fn volume_of(attached: &Attached) -> Option<sys::FileId> {
    attached.volume.as_ref().map(|volume| volume.file)
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
        if bundle.config.mount_namespace {
            live.check_home(bundle.config.user_namespace)?;
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
        let mut config = config.clone();
        let had = record.attachments().unwrap_or_default();
        if let Some(sandbox) = had.iter().find(|attached| is_sandbox(attached)) {
            config.sandbox_directory = ContainerPath::parse(&sandbox.target)?;
        }
        Ok(Container { running, bundle, live, home, proc_fds, runtime, record, config })
    }

    /// Sees what there is to change: undoes what a command has begun that was killed, and forgets what the container itself
    /// has taken out.
    fn settle(&mut self) -> Result<()> {
        self.check_alive()?;
        self.undo_unfinished()?;
        let survey = self.survey(&self.attachments())?;
        let mut changed = false;
        for (one, place) in &survey.places {
            if !one.link && matches!(place, Place::Gone) {
                // What it has open of it nobody can see any more.
                self.forget(one, true, &survey)?;
                changed = true;
            }
        }
        if changed { self.record.compact(&self.runtime) } else { Ok(()) }
    }

    /// poststop does nothing while init lives, and waits for this record's lock afterwards: it undoes what was done till then.
    fn check_alive(&self) -> Result<()> {
        if sys::has_ended(&self.live.pidfd).because(Cause::Pid, || self.running.id.clone())? {
            return Err(ended(self.running));
        }
        Ok(())
    }

    /// Takes out again what was moved by a command that did not come to its end, and only then gives up what was made and
    /// held for it; and ends what was begun to be detached.
    fn undo_unfinished(&mut self) -> Result<()> {
        let is_done = |line: &Line| matches!(line, Line::Done { .. });
        let from = self.record.lines.iter().rposition(is_done).map_or(0, |done| done + 1);
        if from == self.record.lines.len() {
            return Ok(());
        }
        let mut all = self.attachments();
        let had = all.len();
        let (mut detaching, mut lingering) = (Vec::new(), Vec::new());
        for line in &self.record.lines[from..] {
            match line {
                Line::Lingers { volume } => lingering.push(*volume),
                Line::Attaching { attachments } => all.extend(attachments.iter().filter(|one| !one.link).cloned()),
                Line::Detaching { target } => detaching.push(target.clone()),
                _ => {}
            }
        }
        let survey = self.survey(&all)?;
        for (one, place) in survey.places[had..].iter().rev() {
            self.take_out(one, place).map_err(|error| one.named(error))?;
        }
        let left = undo::undo_from(&self.runtime, &mut self.record, from, &self.config);
        if !left.is_empty() {
            return Err(first(left, "a command that was killed"));
        }
        for (one, place) in &survey.places[..had] {
            if detaching.contains(&one.target) && (one.link || matches!(place, Place::Gone)) {
                let lingers = volume_of(one).is_some_and(|volume| lingering.contains(&volume));
                self.forget(one, lingers, &survey)?;
            }
        }
        self.record.compact(&self.runtime)
    }

    fn attachments(&self) -> Vec<Attached> {
        self.record.attachments().map(<[Attached]>::to_vec).unwrap_or_default()
    }

    /// What it has, as a plan has it.
    fn present(&self, had: &[Attached]) -> Result<Vec<Attachment>> {
        let attachment = |attached: &Attached| {
            let target = ContainerPath::parse(&attached.target)?;
            let below = target.within(&self.config.sandbox_directory).filter(|rest| !rest.is_empty());
            let in_sandbox = below.map(|rest| ContainerPath::parse_relative(&rest.join("/"))).transpose()?;
            Ok(Attachment {
                label: attached.label.clone(),
                from: attached.origin(),
                in_sandbox,
                target,
                how: attached.how(),
                missing: mountpoint::Missing::Make,
                why: Vec::new(),
            })
        };
        had.iter().map(attachment).collect()
    }

    /// Who it is comes from its bundle, never from whoever runs the command; what is asked for is new. `None` where that is
    /// nothing.
    fn plan(&self, volumes: &str, present: &[Attachment]) -> Result<Option<Plan>> {
        if volumes.trim().is_empty() || request::volumes(volumes)?.is_empty() {
            return Ok(None);
        }
        let mut annotations: HashMap<String, String> = bundle::annotations(&self.bundle.fd)?;
        let asks = |key: &String| key.strip_prefix(PREFIX).is_some_and(|name| name.starts_with("volumes"));
        annotations.retain(|key, _| !asks(key));
        annotations.insert(format!("{PREFIX}volumes"), volumes.to_owned());
        // The token proves that an administrator asks, and one does.
        if let Some(token) = &self.config.request_token {
            annotations.insert(format!("{PREFIX}token"), token.clone());
        }
        if let Some(header) = &self.record.header {
            annotations.insert(format!("{PREFIX}isolation"), header.isolator.name().to_owned());
        }
        let bundle = &self.bundle;
        let id = &self.running.id;
        let plan = intake::plan_beside(present, id, &annotations, &bundle.path, &bundle.config, &self.config)?;
        let infra = || Error::new(Cause::ContainerUnknown, "it is a pod's infra container, which gets nothing");
        plan.ok_or_else(infra).map(Some)
    }

    /// What relative container paths are relative to.
    fn base(&self) -> Result<ContainerPath> {
        match &self.record.header {
            Some(header) if header.isolator == Isolator::Posix => ContainerPath::parse(&self.bundle.config.cwd),
            _ => Ok(self.config.sandbox_directory.clone()),
        }
    }

    fn host_root(&self) -> Result<HostRoot> {
        HostRoot::find(&self.bundle.fd, &self.bundle.path, &self.bundle.config.root)
    }

    /// Where these are now.
    fn survey(&self, attachments: &[Attached]) -> Result<Survey> {
        Survey::of(&self.live.namespace, &self.home, &self.proc_fds, attachments)
    }

    fn write_down(&mut self, attachments: Vec<Attached>) -> Result<()> {
        let (binds, steps) = (self.record.binds().to_vec(), self.record.steps().to_vec());
        self.record.add(Line::Done { attachments, binds, steps })
    }
}
