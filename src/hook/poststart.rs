//! poststart: compares what the container really has with what it asked for, and ends it where that differs.
//!
//! The runtime goes on changing mounts after prestart; crun makes everything private then, which is mended in place
//! ([`mend`]). What cannot be mended is logged, and ends the container where the volume named `slave`.
#![forbid(unsafe_code)]

mod gone;
mod mend;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::aside::Aside;
use crate::config::Config;
use crate::container::State;
use crate::error::{Because, Cause, Error, Result};
use crate::intake::{self, Bundle};
use crate::mountinfo::{self, Mount};
use crate::plan::Bind;
use crate::record::{Attached, Header, Record};
use crate::request::Propagation;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::steps;
use crate::sys::{self, MountAttributes, Named, Resolve, Stat};
use gone::About;
use mend::{Namespaces, Wanted};

/// Runs the hook.
///
/// # Errors
/// [`Cause::NotAsAsked`], after the container was ended.
pub fn run(state: &State, config: &Config, name: &str) -> Result<()> {
    let record = match RuntimeDir::open_existing(&config.runtime_dir)? {
        None => None,
        Some(runtime) => Record::open(&runtime, name, Open::Existing)?,
    };
    let served = record.as_ref().and_then(|record| Some((record.header.as_ref()?, record.attachments()?)));
    let Some((header, attachments)) = served else {
        return without_prestart(state, config);
    };
    // A record may be of an earlier container of this id and bundle, whose poststop never came.
    let pidfd = match header.life.init.find()? {
        Some(pidfd) if state.pid == Some(header.life.init.pid) => pidfd,
        _ => return without_prestart(state, config),
    };
    steps::done("record");
    let answer = Container::open(header).and_then(|container| {
        let namespaces = container.namespaces();
        container.check_all(attachments, &namespaces)?;
        container.follow_binds(record.as_ref().map_or(&[][..], Record::binds), &namespaces);
        Ok(())
    });
    steps::done("check");
    match answer {
        Ok(()) => Ok(()),
        Err(error) if has_ended(&pidfd) => {
            log::info!("the container ended while it was looked at ({error})");
            Ok(())
        }
        Err(error) => {
            end(&pidfd);
            Err(error)
        }
    }
}

/// No prestart hook has served this container. If it asks for something it must not run: a hooks.d file whose
/// executable is missing is passed over in silence by podman and CRI-O.
fn without_prestart(state: &State, config: &Config) -> Result<()> {
    let proc_fds = sys::open_proc_fds().because(Cause::Pid, || "/proc is not mounted".to_owned())?;
    let plan = Bundle::open(&state.bundle, &proc_fds)
        .and_then(|bundle| intake::plan(&state.id, &state.annotations, &bundle.path, &bundle.config, config));
    if matches!(plan, Ok(None)) {
        return Ok(());
    }
    if !end_unchecked(state) {
        log::info!("the container has ended already");
        return Ok(());
    }
    Err(Error::new(Cause::NotAsAsked, "it asks for volumes, and no prestart hook has served it")
        .remedy("see whether fs-isolator-prestart is installed and registered beside fs-isolator-poststart"))
}

/// Ends the container that the state is about, since nobody can tell whether it has what it asked for. `false` where
/// it has ended already.
pub fn end_unchecked(state: &State) -> bool {
    match state.init_pid().ok().and_then(|pid| sys::pidfd_open(pid).ok()) {
        Some(pidfd) if !has_ended(&pidfd) => {
            end(&pidfd);
            true
        }
        _ => false,
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    sys::has_ended(pidfd).unwrap_or(false)
}

fn end(pidfd: &OwnedFd) {
    if let Err(error) = sys::kill(pidfd) {
        log::error!("the container cannot be ended: {error}");
    }
}

/// A container that runs, seen from the host.
struct Container<'a> {
    /// Whose it is.
    header: &'a Header,
    /// Its root directory.
    root: OwnedFd,
    /// Its mounts.
    mounts: Vec<Mount>,
    /// Its mount namespace.
    namespace: OwnedFd,
    /// This process's own.
    home: OwnedFd,
    /// `/proc/self/fd`.
    proc_fds: OwnedFd,
}

impl<'a> Container<'a> {
    fn open(header: &'a Header) -> Result<Container<'a>> {
        let (pid, root_id) = (header.life.init.pid, header.root.id);
        let doing = || format!("the mount namespace of process {pid} cannot be looked at");
        let namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/mnt")).because(Cause::NotAsAsked, doing)?);
        let home = crate::init::own_mount_namespace()?;
        let proc_fds = sys::open_proc_fds().because(Cause::NotAsAsked, || "/proc is not mounted".to_owned())?;
        let of_host = sys::stat_through(sys::cwd(), Path::new("/")).because(Cause::NotAsAsked, doing)?.mount;
        sys::enter_mount_namespace(&namespace).because(Cause::NotAsAsked, doing)?;
        let inside = look_inside(&proc_fds);
        crate::attach::come_back(&home);
        let (root, stat, table) = inside.because(Cause::NotAsAsked, doing)?;
        // Not where the runtime has left the namespace's root alone, and only its processes have another.
        let (root, table) = match stat.id == root_id && stat.mount != of_host {
            true => (root, table),
            false => of_process(pid)?,
        };
        let mounts = mountinfo::read(table).because(Cause::NotAsAsked, doing)?;
        Ok(Container { header, root, mounts, namespace, home, proc_fds })
    }

    fn check_all(&self, attachments: &[Attached], namespaces: &Namespaces<'_>) -> Result<()> {
        let mut mounts = Vec::with_capacity(attachments.len());
        // What lies in another comes first, so that it is known when that one is mended.
        for attachment in attachments.iter().rev() {
            self.check(attachment, namespaces, &mut mounts).map_err(|error| attachment.named(error))?;
        }
        Ok(())
    }

    fn check(&self, wanted: &Attached, namespaces: &Namespaces<'_>, others: &mut Vec<u64>) -> Result<()> {
        let differs = |what: &str| Err(Error::new(Cause::NotAsAsked, format!("{} {what}", wanted.target)));
        let path = Path::new(wanted.target.trim_start_matches('/'));
        let found = match sys::open_path(&self.root, path, Resolve::InRoot) {
            Ok(found) => found,
            Err(error) => return differs(&format!("cannot be opened in the container: {error}")),
        };
        let stat = sys::stat(&found).because(Cause::NotAsAsked, || wanted.target.clone())?;
        if stat.id != wanted.id {
            return differs("is not the volume: its mount is missing, or covered");
        }
        let has = sys::filesystem(&found).because(Cause::NotAsAsked, || wanted.target.clone())?.attributes;
        if wanted.link {
            return if has.read_only { differs("is read-only in the container") } else { Ok(()) };
        }
        for (asked, has, what) in [
            (wanted.attributes.read_only, has.read_only, "is writable, and read-only was asked for"),
            (wanted.attributes.nosuid, has.nosuid, "lacks nosuid"),
            (wanted.attributes.nodev, has.nodev, "lacks nodev"),
            (wanted.attributes.noexec, has.noexec, "lacks noexec"),
        ] {
            if asked && !has {
                return differs(what);
            }
        }
        let number = sys::mount_number(&found).because(Cause::NotAsAsked, || wanted.target.clone())?;
        others.push(number);
        let Some(mount) = self.mounts.iter().find(|mount| mount.id == number) else {
            return differs("lies on a mount that the container does not have");
        };
        let with_host = mount.shared.map_or(Ok(false), |group| is_host_group(group, &wanted.source))?;
        if wanted.bidirectional {
            return if with_host {
                Ok(())
            } else {
                self.mend(wanted, &found, Propagation::Bidirectional, namespaces).map(drop)
            };
        }
        if with_host {
            return differs("is shared with the host, which would see the container's mounts");
        }
        if wanted.slave && wanted.mend && mount.master.is_none() {
            let on_host = self.mend(wanted, &found, Propagation::Slave, namespaces)?;
            if let Some(on_host) = &on_host {
                let (target, found, mounts, header) = (&wanted.target, &found, &self.mounts, self.header);
                gone::detach(&About { target, found, number, mounts, on_host, others, header }, namespaces);
            }
        }
        Ok(())
    }

    /// Gives propagation back, and tells where the host has mounts below. Without it a container goes on, unless its volume must
    /// have it.
    fn mend(
        &self,
        wanted: &Attached,
        found: &OwnedFd,
        propagation: Propagation,
        namespaces: &Namespaces<'_>,
    ) -> Result<Option<Vec<PathBuf>>> {
        let source = Path::new(&wanted.source);
        let mount = Wanted { found, id: wanted.id, source, attributes: wanted.attributes, propagation, alone: false };
        match mend::mend(&mount, namespaces) {
            Ok(on_host) => Ok(Some(on_host)),
            Err(error) if wanted.slave_named || wanted.bidirectional => Err(Error::new(
                Cause::NotAsAsked,
                format!("{} does not follow the host: {}", wanted.target, error.what()),
            )),
            Err(error) => {
                log::warn!("{}: {} does not follow the host: {error}", wanted.label, wanted.target);
                Ok(None)
            }
        }
    }

    /// Lets binds of the bundle's own follow the host; the bundle did not ask for that, so that nothing ends for it.
    fn follow_binds(&self, binds: &[Bind], namespaces: &Namespaces<'_>) {
        for Bind(source, destination, alone) in binds {
            let path = Path::new(destination.trim_start_matches('/'));
            let Ok(found) = sys::open_path(&self.root, path, Resolve::InRoot) else { continue };
            let (Ok(stat), Ok(number)) = (sys::stat(&found), sys::mount_number(&found)) else { continue };
            let follows = self.mounts.iter().any(|mount| mount.id == number && mount.master.is_some());
            if !stat.mount_root || follows {
                continue;
            }
            let source = Path::new(source);
            let (attributes, propagation) = (MountAttributes::default(), Propagation::Slave);
            let mount = Wanted { found: &found, id: stat.id, source, attributes, propagation, alone: *alone };
            if let Err(error) = mend::mend(&mount, namespaces) {
                log::info!("the bundle's bind at {destination} does not follow the host: {error}");
            }
        }
    }

    fn namespaces(&self) -> Namespaces<'_> {
        let (theirs, home, proc_fds) = (&self.namespace, &self.home, &self.proc_fds);
        Namespaces { theirs, home, proc_fds, aside: Aside::of(theirs, home, proc_fds) }
    }
}

/// The root directory of the mount namespace that this process is in, and its mount table. The container's command may have
/// another root by now: crun lets it run before poststart.
fn look_inside(proc_fds: &OwnedFd) -> sys::Result<(OwnedFd, Stat, OwnedFd)> {
    let root = sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoLinks)?;
    let stat = sys::stat(&root)?;
    Ok((root, stat, sys::open_mount_table(proc_fds)?))
}

/// The same as the process has it, through our own /proc: a magic link is what is wanted here.
fn of_process(pid: i32) -> Result<(OwnedFd, OwnedFd)> {
    let doing = || format!("the root directory of process {pid} cannot be opened");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty())
        .named("open", "")
        .because(Cause::NotAsAsked, doing)?;
    let table = File::open(format!("/proc/{pid}/mountinfo")).because(Cause::NotAsAsked, doing)?;
    Ok((root, table.into()))
}

/// Whether this peer group of a container's mount is the host's. A runtime makes new groups; the host's own it can only have from
/// what was cloned, so that the source's mount tells. Where the kernel cannot say that alone, the host's table is read.
fn is_host_group(group: u64, source: &str) -> Result<bool> {
    let source = sys::open_path(sys::cwd(), Path::new(source), Resolve::NoLinks).and_then(sys::stat);
    if let Some(propagation) = source.ok().and_then(|stat| sys::propagation_of(stat.mount)) {
        return Ok(propagation.group == Some(group));
    }
    let table = File::open("/proc/self/mountinfo").because(Cause::NotAsAsked, || "the mount table".to_owned())?;
    let mounts = mountinfo::read(table).because(Cause::NotAsAsked, || "the mount table".to_owned())?;
    Ok(mounts.iter().any(|mount| mount.shared == Some(group)))
}
