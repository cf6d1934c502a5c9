//! What `doctor --run` makes: a directory `work_dir/doctor/NAME`, locked while it runs, and a volume of the same name.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::probe;
use crate::config::{self, Config};
use crate::container::Manager;
use crate::error::{Because, Cause, Error, Result};
use crate::lease::Leases;
use crate::me::me;
use crate::report::Report;
use crate::request::names::{Role, VolumeId};
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, MountAttributes, Resolve};
use crate::trusted::{self, Missing};
use crate::volume::make::{self, New};
use crate::volume::{self, Disk, Disks, Found, Meta, destroy};
use crate::{clock, read, tree};

/// Below `work_dir`.
pub const FOLDER: &str = "doctor";

/// Nobody's but the doctor's.
const ROLE: &str = "fs-isolator-doctor";

/// Largest configuration and log that are read, in bytes.
const LARGEST: u64 = 1 << 20;

/// What was made, until it is removed.
pub struct Place<'c> {
    /// Its directory.
    pub path: PathBuf,
    /// Its volume.
    pub volume: Found,
    config: &'c Config,
    name: String,
    /// Held for as long as this lives: who does not get it knows that somebody is at work.
    _lock: OwnedFd,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // For a failure in between; what cannot be removed is found by the next one.
        let _ = remove(self.config, &self.name);
    }
}

impl<'c> Place<'c> {
    /// Makes it.
    pub fn make(file: Option<&Path>, config: &'c Config) -> Result<Place<'c>> {
        let disks = Disks::new(config);
        disks.refuse_agent()?;
        let work_dir = disks.make_work_dir()?;
        let name = format!("probe-{}-{:x}", std::process::id(), clock::now());
        let (role, id) = (Role::parse(ROLE)?, VolumeId::parse(&name)?);
        if !config.may_use(&me().identity(), &role) {
            return Err(Error::new(Cause::NotAuthorized, format!("root may not use role {role} here"))
                .remedy(format!("take the denial of root for {role} out of authorization")));
        }
        let doing = || format!("{FOLDER}/{name} in work_dir cannot be made");
        let folder = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &[FOLDER], Missing::Make(0o700))?
            .ok_or_else(|| Error::new(Cause::Doctor, doing()))?;
        let open = || {
            sys::mkdir_at(&folder, &name, 0o700)?;
            let lock = sys::open_dir(&folder, Path::new(&name), Resolve::BeneathNoLinks)?;
            sys::lock(&lock, false).map(|()| lock)
        };
        let lock = open().because(Cause::Doctor, doing)?;
        let path = work_dir.path().join(FOLDER).join(&name);
        let prepared = prepare(&path, file).and_then(|()| make_volume(&work_dir, &role, &id));
        match prepared {
            Ok(volume) => Ok(Place { path, volume, config, name, _lock: lock }),
            Err(error) => {
                let _ = remove(config, &name);
                Err(error)
            }
        }
    }

    /// The container's root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// This program, where the container has it.
    pub fn program(&self) -> PathBuf {
        self.rootfs().join("fs-isolator")
    }

    /// The configuration that lets bundles lie here.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// Writes a file into the volume.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        write(&self.volume.fd, name, text)
    }

    /// Reads a file of the volume.
    pub fn read(&self, name: &str) -> Option<String> {
        let file = sys::open_below(&self.volume.fd, Path::new(name), OFlag::O_RDONLY, Resolve::BeneathNoLinks).ok()?;
        String::from_utf8(read::at_most(file.into(), LARGEST).ok()?).ok()
    }

    /// Mounts something below the volume, as a host does with a disk.
    pub fn mount(&self) -> Result<()> {
        let doing = || "nothing can be mounted below the volume".to_owned();
        let tree = sys::memory_filesystem(MountAttributes::default(), None).because(Cause::Doctor, doing)?;
        write(&tree, probe::FROM_HOST, "")?;
        sys::open_place(&self.volume.fd, Path::new(probe::LATER), Resolve::BeneathNoLinks)
            .and_then(|place| sys::move_mount(&tree, place))
            .because(Cause::Doctor, doing)
    }

    /// Takes it away again.
    pub fn unmount(&self) -> Result<()> {
        unmount(&self.volume)
    }

    /// Lines in the logs of a container's hooks.
    pub fn logs(&self, ids: &[String], config: &Config) -> Vec<String> {
        let Ok(Some((log, names))) = logs(ids, config) else { return Vec::new() };
        let read = |name: &String| {
            let file = sys::open_file_at(&log, name, OFlag::O_RDONLY, 0).ok()?;
            let text = read::at_most(file.into(), LARGEST).ok()?;
            Some(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect::<Vec<_>>())
        };
        names.iter().filter_map(read).flatten().collect()
    }

    /// Removes these logs: what they say was told.
    pub fn forget_logs(&self, ids: &[String], config: &Config) -> Result<()> {
        let Some((log, names)) = logs(ids, config)? else { return Ok(()) };
        for name in names {
            sys::unlink_at(&log, OsStr::new(&name), false).because(Cause::Doctor, || format!("log {name}"))?;
        }
        Ok(())
    }

    /// Removes everything.
    pub fn remove(self) -> Result<()> {
        remove(self.config, &self.name)
    }
}

/// Logs of these containers.
fn logs(ids: &[String], config: &Config) -> Result<Option<(OwnedFd, Vec<String>)>> {
    let doing = || "logs cannot be read".to_owned();
    let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? else { return Ok(None) };
    let Some(log) = sys::if_there(sys::open_dir(&runtime.root, Path::new("log"), Resolve::BeneathNoLinks))
        .because(Cause::RuntimeDir, doing)?
    else {
        return Ok(None);
    };
    let names = tree::names(&log).because(Cause::RuntimeDir, doing)?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(Some((log, names.filter(|name| super::is_of(name, ids)).collect())))
}

/// Makes what the containers are made of.
fn prepare(path: &Path, file: Option<&Path>) -> Result<()> {
    let doing = || format!("{} cannot be filled", path.display());
    let rootfs = path.join("rootfs");
    for name in ["proc", "dev", "sys", "run", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(name)).because(Cause::Doctor, doing)?;
    }
    fs::copy("/proc/self/exe", rootfs.join("fs-isolator")).because(Cause::Doctor, doing)?;
    let configuration = copy_of(file, path)?.to_string();
    let mut options = fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o600).open(path.join("config.json"));
    written.and_then(|mut file| file.write_all(configuration.as_bytes())).because(Cause::Doctor, doing)
}

/// The configuration as it is written, with this directory among those of bundles made by hand.
fn copy_of(file: Option<&Path>, path: &Path) -> Result<Value> {
    let file = file.map_or_else(|| config::default_path(me()), Path::to_owned);
    let doing = || format!("{} cannot be copied", file.display());
    let text = match trusted::open_file(&file)? {
        Some((open, _)) => read::at_most(open.into(), LARGEST).because(Cause::Doctor, doing)?,
        None => b"{}".to_vec(),
    };
    let mut value: Value =
        serde_json::from_slice(&text).map_err(|error| Error::new(Cause::Doctor, format!("{}: {error}", doing())))?;
    let local = &mut value["managers"][Manager::Local.name()];
    match local.as_array_mut() {
        Some(directories) => directories.push(json!(path)),
        None => *local = json!([path]),
    }
    Ok(value)
}

fn make_volume(work_dir: &Rc<Disk>, role: &Role, id: &VolumeId) -> Result<Found> {
    let new = New { mode: None, owner: None, reachable: false, meta: Some(Meta::new(role, id)) };
    make::create(work_dir, role, id, new)?;
    let found = volume::find_on(work_dir, role, id)?
        .ok_or_else(|| Error::new(Cause::Doctor, format!("volume {id} was removed a moment ago")))?;
    for name in [probe::LATER, probe::INSIDE] {
        sys::mkdir_at(&found.fd, name, 0o755).because(Cause::Doctor, || name.to_owned())?;
    }
    Ok(found)
}

fn write(directory: &OwnedFd, name: &str, text: &str) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    sys::open_file_at(directory, name, flags, 0o644)
        .because(Cause::Doctor, || name.to_owned())
        .and_then(|file| fs::File::from(file).write_all(text.as_bytes()).because(Cause::Doctor, || name.to_owned()))
}

/// Takes away what the host mounted, and what a container's mount left on the host where that happened.
fn unmount(volume: &Found) -> Result<()> {
    unmount_one(volume, probe::LATER).and(unmount_one(volume, probe::INSIDE))
}

fn unmount_one(volume: &Found, name: &str) -> Result<()> {
    let doing = || format!("the mount at {}/{name} cannot be taken away", volume.path().display());
    let place = sys::if_there(sys::open_place(&volume.fd, Path::new(name), Resolve::BeneathNoLinks));
    let Some(place) = place.because(Cause::Doctor, doing)? else { return Ok(()) };
    if sys::stat(&place).because(Cause::Doctor, doing)?.mount_root {
        let proc_fds = sys::open_proc_fds().because(Cause::Doctor, doing)?;
        sys::detach_mount(proc_fds, place).because(Cause::Doctor, doing)?;
    }
    Ok(())
}

/// Removes all of one. Whatever is not there is gone already.
fn remove(config: &Config, name: &str) -> Result<()> {
    let disks = Disks::new(config);
    let Some(work_dir) = disks.work_dir(Missing::Tell)? else { return Ok(()) };
    let (role, id) = (Role::parse(ROLE)?, VolumeId::parse(name)?);
    if let Some(volume) = volume::find_on(&work_dir, &role, &id)? {
        unmount(&volume)?;
        destroy::destroy(&volume, &Leases::open()?, &mut |_| {})?;
    }
    let doing = || format!("{FOLDER}/{name} in work_dir cannot be removed");
    // The role's directory, if that was its last volume.
    if let Some(roles) = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &["volumes", "roles"], Missing::Tell)?
    {
        gone(sys::unlink_at(&roles, OsStr::new(&role.directory()), true)).because(Cause::Doctor, doing)?;
    }
    if let Some(folder) = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &[FOLDER], Missing::Tell)? {
        tree::remove(&folder, OsStr::new(name)).because(Cause::Doctor, doing)?;
        gone(sys::unlink_at(work_dir.fd(), OsStr::new(FOLDER), true)).because(Cause::Doctor, doing)?;
    }
    Ok(())
}

/// A directory that others use stays.
fn gone(answer: sys::Result<()>) -> sys::Result<()> {
    match answer {
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTEMPTY) => Ok(()),
        answer => answer,
    }
}

/// What killed ones have left, by name: nobody holds its lock.
///
/// # Errors
/// [`Cause::ConfigUnsafe`], [`Cause::Doctor`].
pub fn leftovers(config: &Config) -> Result<Vec<String>> {
    let doing = || format!("{FOLDER} in work_dir cannot be read");
    let disks = Disks::new(config);
    let Some(work_dir) = disks.work_dir(Missing::Tell)? else { return Ok(Vec::new()) };
    let Some(folder) = trusted::open_dir_below(work_dir.fd(), work_dir.path(), &[FOLDER], Missing::Tell)? else {
        return Ok(Vec::new());
    };
    let is_left = |name: &String| {
        let open = sys::open_dir(&folder, Path::new(name), Resolve::BeneathNoLinks);
        open.is_ok_and(|open| sys::lock(&open, false).is_ok())
    };
    let names = tree::names(&folder).because(Cause::Doctor, doing)?;
    let ours = names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("probe-"));
    Ok(ours.filter(is_left).collect())
}

/// Removes what killed ones have left.
#[must_use]
pub fn clean(config: &Config) -> Report {
    let mut report = Report::default();
    match leftovers(config) {
        Err(fault) => report.faults.push(fault),
        Ok(names) => names.iter().for_each(|name| {
            report.add(remove(config, name).map(|()| vec![format!("removed {name}, which a doctor left")]));
        }),
    }
    report
}
