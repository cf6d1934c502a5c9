//! Moving volumes into a running container, beside what it has.
#![forbid(unsafe_code)]

use super::look::{Place, Survey};
use super::{Container, ended, is_sandbox};
use crate::attach::Phase;
use crate::error::{Cause, Error, Result};
use crate::init::Life;
use crate::isolator::{self, Job, Outcome};
use crate::plan::{self, Origin, Plan};
use crate::record::{self, Attached, Base, Header, Line};
use crate::sys;
use crate::volume::Disks;

impl Container<'_> {
    /// Holds what an update brings against what is there: it must neither hide anything nor lie in what goes.
    pub(super) fn check_new(&self, plan: &Plan, kept: &[Attached], gone: &[Attached]) -> Result<()> {
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
    pub(super) fn check_places(&self, attached: &[Attached]) -> Result<()> {
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
    pub(super) fn attach(&mut self, mut plan: Plan, gone: &[Attached]) -> Result<Vec<Attached>> {
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
}
