//! Taking volumes out of a running container, and what keeps them there.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::look::{self, Content, Found, Place, Survey};
use super::users::{self, Use};
use super::{Container, is_sandbox, processes, volume_of};
use crate::error::{Because, Cause, Error, Result};
use crate::init::Life;
use crate::record::{self, Attached, Line, Place as Made, Within};
use crate::sys::{self, Resolve};
use crate::{attach, lease, mountpoint, trusted};

impl Container<'_> {
    /// Refuses where something uses one of these, or something is attached in one that is not among them.
    pub(super) fn check_unused(&self, attached: &[Attached]) -> Result<()> {
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
    pub(super) fn detach(&mut self, attached: &[Attached], lazy: bool) -> Result<()> {
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

    pub(super) fn take_out(&self, attached: &Attached, place: &Place) -> Result<()> {
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
    pub(super) fn forget(&mut self, attached: &Attached, lingers: bool, survey: &Survey) -> Result<()> {
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
