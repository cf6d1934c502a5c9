//! Volumes on running containers: attached and detached without a restart, with the grammar, the authorisation, the
//! leases and the record of a start, so that poststop and reconcile know about them.
//!
//! A container does with its mounts and directories what it may: it renames them, mounts over them, and takes copies of all
//! of them into namespaces of its own. So what is attached is looked for by what it shows, and its lease ends when nothing
//! of the container has it any more.
#![forbid(unsafe_code)]

pub mod find;
pub mod look;
mod processes;
mod users;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::attach::{self, HostRoot, Phase};
use crate::config::{Config, Isolator};
use crate::container::bundle;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{self, Life, Live};
use crate::intake::{self, Bundle};
use crate::isolator::{self, Job, Outcome};
use crate::lease;
use crate::me::me;
use crate::mountpoint;
use crate::plan::{self, Attachment, Origin, Plan};
use crate::record::{self, Attached, Base, Header, Line, Place as Made, Record, Within};
use crate::request::container_path::ContainerPath;
use crate::request::{self, PREFIX};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sys::{self, Resolve};
use crate::trusted;
use crate::undo;
use crate::volume::{DiskChoice, Disks};
use find::Running;
use look::{Content, Found, Place, Survey};
use users::Use;

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
    attached.planned.from == Origin::Sandbox
}

/// Whether a plan has the very thing that is attached.
fn is_same(one: &Attachment, attached: &Attached) -> bool {
    let same_origin = match (&one.from, &attached.planned.from) {
        // A size is told and not enforced.
        (
            Origin::Volume { role, id, disk, subpath, shared, .. },
            Origin::Volume { subpath: had_subpath, shared: had_shared, .. },
        ) => {
            let is_volume = attached.volume.as_ref().is_some_and(|had| {
                let on_disk = match disk {
                    DiskChoice::Any => true,
                    DiskChoice::One(disk) => *disk == had.disk,
                };
                on_disk && had.role == *role && had.id == *id
            });
            is_volume && subpath == had_subpath && shared == had_shared
        }
        (from, had) => from == had,
    };
    same_origin && one.how == attached.planned.how && one.target.to_string() == attached.target
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
                from: attached.planned.from.clone(),
                in_sandbox,
                target,
                how: attached.planned.how,
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

    /// Holds what an update brings against what is there: it must neither hide anything nor lie in what goes.
    fn check_new(&self, plan: &Plan, kept: &[Attached], gone: &[Attached]) -> Result<()> {
        let (kept, gone) = (self.present(kept)?, self.present(gone)?);
        for new in &plan.attachments {
            for old in &gone {
                let conflict = |what: String| {
                    let error = Error::new(Cause::PathConflict, what);
                    Err(new.named(error.remedy("detach that first, or ask for another path; nothing was changed")))
                };
                if old.target == new.target {
                    return conflict(format!("{} has a volume, in another way than is asked for now", new.target));
                }
                if new.target.within(&old.target).is_some() {
                    return conflict(format!("{} lies in {}, which is not asked for any more", new.target, old.label));
                }
            }
            kept.iter().chain(&gone).try_for_each(|old| plan::check_beside(new, old, plan.isolator))?;
        }
        Ok(())
    }

    /// Sees that these are where they were attached.
    fn check_places(&self, attached: &[Attached]) -> Result<()> {
        for (one, place) in self.survey(attached)?.places {
            let what = match place {
                Place::There(_) => continue,
                Place::Gone if one.link => continue,
                Place::Moved(_, path) => format!("the container has moved it to {}", path.display()),
                Place::Covered | Place::Gone => "the container has mounted something over it".to_owned(),
            };
            return Err(one.named(
                Error::new(Cause::PathConflict, format!("{}: {what}", one.target))
                    .remedy("undo that in the container; nothing was changed"),
            ));
        }
        Ok(())
    }

    /// Attaches all or none; what is in `gone` will be detached.
    fn attach(&mut self, mut plan: Plan, gone: &[Attached]) -> Result<Vec<Attached>> {
        let had = self.attachments();
        let before = self.survey(&had)?;
        let sandbox = match had.iter().find(|attached| is_sandbox(attached)) {
            None => None,
            Some(sandbox) => {
                plan.attachments.retain(|attachment| attachment.from != Origin::Sandbox);
                Some((self.config.sandbox_directory.clone(), sandbox.id))
            }
        };
        let host_root = self.host_root()?;
        let config = self.config.clone();
        let disks = Disks::new(&config);
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
        let mut job = Job {
            plan: &plan,
            config: &config,
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
        let new = isolator::attach(&mut job).map(|Outcome { attached, .. }| attached);
        let done = new.and_then(|new| {
            self.check_after(&had, &before, &new, gone)?;
            self.write_down(had.iter().chain(&new).cloned().collect())?;
            Ok(new)
        });
        match done {
            Ok(new) => {
                // It only becomes shorter.
                self.record.compact(&self.runtime).unwrap_or_else(|error| log::warn!("{error}"));
                if sys::has_ended(&self.live.pidfd).unwrap_or(false) {
                    return Err(ended(self.running));
                }
                Ok(new)
            }
            Err(error) => {
                // What nobody knows of cannot stay.
                let undone = self.undo_unfinished().and_then(|()| self.record.compact(&self.runtime));
                undone.unwrap_or_else(|left| log::error!("{left}"));
                Err(error)
            }
        }
    }

    /// Sees, by what is really mounted on what, that nothing new hides what was there, nor lies in what goes: the image may
    /// have other names for the same directory.
    fn check_after(&self, had: &[Attached], before: &Survey, new: &[Attached], gone: &[Attached]) -> Result<()> {
        if had.is_empty() {
            return Ok(());
        }
        let all: Vec<Attached> = had.iter().chain(new).cloned().collect();
        let after = self.survey(&all)?;
        for ((one, place), (_, was)) in after.places.iter().zip(&before.places) {
            if matches!((was, place), (Place::There(_), Place::Moved(..) | Place::Covered | Place::Gone)) {
                return Err(Error::new(Cause::PathConflict, format!("it would hide {} at {}", one.label, one.target)));
            }
            let Place::There(old) = place else { continue };
            let below = after.with_below(old.number);
            for (other, place) in &after.places[had.len()..] {
                if gone.contains(one) && matches!(place, Place::There(found) if below.contains(&found.number)) {
                    return Err(other.named(Error::new(
                        Cause::PathConflict,
                        format!("{} lies in {}, which is not asked for any more", other.target, one.label),
                    )));
                }
            }
        }
        Ok(())
    }

    fn write_down(&mut self, attachments: Vec<Attached>) -> Result<()> {
        let (binds, steps) = (self.record.binds().to_vec(), self.record.steps().to_vec());
        self.record.add(Line::Done { attachments, binds, steps })
    }

    /// Refuses where something uses one of these, or something is attached in one that is not among them.
    fn check_unused(&self, attached: &[Attached]) -> Result<()> {
        let survey = self.survey(&self.attachments())?;
        check_alone(attached, &survey)?;
        for one in attached {
            let users = self.users(one, &survey).map_err(|error| one.named(error))?;
            if !users.is_empty() {
                let what = format!("{} is in use by {}", one.target, users.join(", "));
                return Err(one.named(Error::new(Cause::PathInUse, what)));
            }
        }
        Ok(())
    }

    /// What uses something that is attached: processes, and mounts of it that the container has made. On the host, whose
    /// /proc shows all processes. One that comes between this look and the detaching goes on with the volume: nothing it
    /// writes is lost.
    fn users(&self, one: &Attached, survey: &Survey) -> Result<Vec<String>> {
        let life = self.record.header.as_ref().map_or_else(
            || Life::of(&self.live.init, self.bundle.config.own_pid_namespace),
            |header| header.life.clone(),
        );
        let pids = processes::of(&self.live, &life)?;
        if one.link {
            return users::of(&Use::Below(Path::new(&one.source), &pids));
        }
        let numbers = survey.find(one).map(|own| survey.with_below(own.number)).unwrap_or_default();
        let mounts = || survey.mounts.iter().filter(|mount| numbers.contains(&mount.id));
        let device = mounts().next().map_or((0, 0), |mount| mount.device);
        let points = mounts().map(|mount| mount.mount_point.clone()).collect();
        let mut found = users::of(&Use::Mounts { numbers: numbers.clone(), device, points })?;
        let Some(content) = Content::of(one, &look::table(&self.proc_fds)?)? else {
            found
                .push(format!("whoever has mounted it elsewhere, since {} on the host is another one now", one.source));
            return Ok(found);
        };
        let known = survey.places.iter().filter_map(|(_, place)| place.found());
        let known: Vec<u64> = known.flat_map(|found| survey.with_below(found.number)).collect();
        let copies = survey.mounts.iter().filter(|mount| content.covers(mount) && !known.contains(&mount.id));
        found.extend(copies.map(|mount| format!("a mount at {}", mount.mount_point.display())));
        for (pid, namespace) in processes::other_namespaces(&pids, &self.live, &self.home) {
            let table = look::within(&namespace, &self.home, |_| look::table(&self.proc_fds));
            // What cannot be looked at may have it.
            if table.map_or(true, |mounts| mounts.iter().any(|mount| content.covers(mount))) {
                found.push(format!("{} in a mount namespace of its own", processes::describe(pid)));
            }
        }
        Ok(found)
    }

    /// Detaches these, children before parents. Of what is in use still, which only `lazy` lets pass, the volume is held until
    /// the container's end.
    fn detach(&mut self, attached: &[Attached], lazy: bool) -> Result<()> {
        if !lazy {
            self.check_unused(attached)?;
        }
        let survey = self.survey(&self.attachments())?;
        check_alone(attached, &survey)?;
        let mut order: Vec<&(Attached, Place)> =
            survey.places.iter().filter(|(one, _)| attached.contains(one)).collect();
        let depth = |one: &Attached| survey.point_of(one).map_or(0, |point| point.components().count());
        order.sort_by_key(|(one, _)| std::cmp::Reverse(depth(one)));
        for (one, place) in order {
            let named = |error: Error| one.named(error);
            let lingers = lazy && !self.users(one, &survey).map_err(named)?.is_empty();
            self.record.add(Line::Detaching { target: one.target.clone() })?;
            if let (true, Some(volume)) = (lingers, volume_of(one)) {
                self.record.add(Line::Lingers { volume })?;
            }
            if !one.link {
                self.take_out(one, place).map_err(named)?;
            }
            self.forget(one, lingers, &survey).map_err(named)?;
        }
        self.record.compact(&self.runtime)
    }

    fn take_out(&self, attached: &Attached, place: &Place) -> Result<()> {
        let Found { fd, .. } = match place {
            Place::Gone => return Ok(()),
            Place::There(found) | Place::Moved(found, _) => found,
            Place::Covered => return Err(covered(attached)),
        };
        let doing = || format!("{} cannot be detached", attached.target);
        let detach = |_: &OwnedFd| attach::detach(fd, &self.proc_fds).because(Cause::AttachFailed, doing);
        look::within(&self.live.namespace, &self.home, detach)
    }

    /// Gives up the mount point or link, and the lease unless the volume is attached elsewhere in the container too, or
    /// lingers; and writes down what is left.
    fn forget(&mut self, attached: &Attached, lingers: bool, survey: &Survey) -> Result<()> {
        let left: Vec<Attached> = self.attachments().into_iter().filter(|other| other != attached).collect();
        if let (true, Some(volume)) = (lingers, volume_of(attached))
            && !self.record.lingers(volume)
        {
            self.record.add(Line::Lingers { volume })?;
        }
        self.release(attached, &left, survey)?;
        self.write_down(left)
    }

    fn release(&mut self, attached: &Attached, left: &[Attached], survey: &Survey) -> Result<()> {
        let host_root = self.host_root()?;
        let base = PathBuf::from(self.base()?.to_string());
        // Mount points are written down by their real paths, and the image may have other names for these.
        let real = |one: &Attached| survey.point_of(one).map_or_else(|| PathBuf::from(&one.target), Path::to_owned);
        let sandbox = survey.places.iter().find(|(one, _)| is_sandbox(one));
        let base = sandbox.map_or(base, |(sandbox, _)| real(sandbox));
        let sandbox = self.record.lines.iter().find_map(|line| match line {
            Line::Sandbox { path, .. } => Some(PathBuf::from(path)),
            _ => None,
        });
        // What cannot be looked at now is not gone.
        let in_root = sys::if_there(sys::open_place(sys::cwd(), &host_root.path, Resolve::NoMagic))
            .because(Cause::UndoIncomplete, || host_root.path.display().to_string())?;
        let in_sandbox = sandbox.map_or(Ok(None), |path| trusted_place(&path))?;
        // Its mount point, and what was made on the way to it and to nothing else that is left. The deepest first.
        let is_needed = |place: &Made, by: &Attached| {
            let above = match place.within {
                Within::Root => Path::new("/"),
                Within::Sandbox => &base,
            };
            real(by).starts_with(above.join(&place.parent).join(&place.name))
        };
        for (place, file) in self.record.held().into_iter().rev() {
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
        // Something may use it still.
        if let Some(volume) = volume_of(attached)
            && !self.record.lingers(volume)
        {
            if !left.iter().any(|other| volume_of(other) == Some(volume)) {
                lease::release(volume, &self.record.name, &self.live.init)?;
                self.record.forget_lease(volume);
            } else if record::is_shared(left, volume) {
                // What is left shares it, also if this did not.
                lease::share(volume, &self.record.name, &self.live.init)?;
            }
        }
        Ok(())
    }
}

/// Refuses where something is attached in one of these that would go with it, or one cannot be reached.
fn check_alone(attached: &[Attached], survey: &Survey) -> Result<()> {
    for (one, place) in survey.places.iter().filter(|(one, _)| attached.contains(one) && !one.link) {
        if matches!(place, Place::Covered) {
            return Err(one.named(covered(one)));
        }
        let Some(found) = place.found() else { continue };
        let below = survey.with_below(found.number);
        let is_in_it = |(other, place): &&(Attached, Place)| {
            !attached.contains(other) && place.found().is_some_and(|found| below.contains(&found.number))
        };
        if let Some((other, _)) = survey.places.iter().find(is_in_it) {
            return Err(one.named(
                Error::new(Cause::PathConflict, format!("{} is attached in it", other.label))
                    .remedy(format!("detach {} first", other.target)),
            ));
        }
    }
    Ok(())
}

fn covered(one: &Attached) -> Error {
    Error::new(Cause::PathInUse, format!("the container has mounted something over {}", one.target))
        .remedy("unmount that in the container first")
}

fn trusted_place(path: &Path) -> Result<Option<OwnedFd>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(parent) = trusted::open_dir(parent, trusted::Missing::Tell)? else { return Ok(None) };
    sys::if_there(sys::open_place(parent, Path::new(name), Resolve::BeneathNoLinks))
        .because(Cause::UndoIncomplete, || path.display().to_string())
}
