//! poststart: compares what the container really has with what it asked for, and ends it where that differs.
//!
//! The runtime goes on changing mounts after prestart; crun makes everything private then. Mending that is not
//! part of this version: it is logged, and ends the container only where the volume named `slave`.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::config::Config;
use crate::container::State;
use crate::error::{Because, Cause, Error, Result};
use crate::intake::{self, Bundle};
use crate::mountinfo::{self, Mount};
use crate::record::{Attached, Record};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sys::{self, Named, Resolve};

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
    let pid = header.life.init.pid;
    let answer = check_all(pid, attachments);
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

fn check_all(pid: i32, attachments: &[Attached]) -> Result<()> {
    let doing = || format!("the root directory of process {pid} cannot be opened");
    // The container's own root, through our own /proc: magic links are what is wanted here.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty())
        .named("open", "")
        .because(Cause::NotAsAsked, doing)?;
    let table = std::fs::read(format!("/proc/{pid}/mountinfo")).because(Cause::NotAsAsked, doing)?;
    let mounts = mountinfo::parse(&table);
    for attachment in attachments {
        check(&root, &mounts, attachment).map_err(|error| error.volume(&attachment.label))?;
    }
    Ok(())
}

fn check(root: &OwnedFd, mounts: &[Mount], wanted: &Attached) -> Result<()> {
    let differs = |what: &str| Err(Error::new(Cause::NotAsAsked, format!("{} {what}", wanted.target)));
    let path = Path::new(wanted.target.trim_start_matches('/'));
    let found = match sys::open_place(root, path, Resolve::InRoot) {
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
    let Some(mount) = mounts.iter().find(|mount| mount.id == stat.mount) else {
        return differs("lies on a mount that the container does not have");
    };
    if let Some(group) = mount.shared
        && is_host_group(group)?
    {
        return differs("is shared with the host, which would see the container's mounts");
    }
    if wanted.slave && mount.master.is_none() {
        let what = "does not follow the host: the runtime made it private after the hooks (crun does unless \
                    linux.rootfsPropagation is set)";
        if wanted.slave_named {
            return differs(what);
        }
        log::warn!("{}: {} {what}", wanted.label, wanted.target);
    }
    Ok(())
}

/// Whether a mount of the host has this peer group. A container's mount that is shared is rare, and only then the
/// host's table is read.
fn is_host_group(group: u64) -> Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo").because(Cause::NotAsAsked, || "the mount table".to_owned())?;
    Ok(mountinfo::parse(&table).iter().any(|mount| mount.shared == Some(group)))
}
