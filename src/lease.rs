//! Who holds which volume: a lease is a file in a directory named by the volume's device and inode, under that
//! directory's lock. (Not by its birth: overlayfs has another after the first change.)
//!
//! There is no daemon that could end a lease: it is void when its holder has ended, which anybody can see. Leases lie
//! where every configuration looks, so that two configurations exclude each other too. The lock is not on the volume's
//! own directory: whoever may read that could take it, and let all others wait.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::config::lease_directory;
use crate::container::{Identity, Manager};
use crate::error::{Because, Cause, Error, Result};
use crate::holders::Holders;
use crate::init::{Init, Life};
use crate::me::me;
use crate::report::Report;
use crate::request::names::{Role, VolumeId};
use crate::sys::FileId;
use crate::trusted::{self, Missing};
use crate::{clock, read, sys, tree};

/// Version of the format; every released one stays readable.
const VERSION: u32 = 1;

/// Largest lease, in bytes.
const LARGEST: u64 = 64 << 10;

/// One holder of one volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// [`VERSION`].
    version: u32,
    /// Container id.
    pub id: String,
    /// Its bundle.
    pub bundle: String,
    /// Who made that.
    pub manager: Manager,
    /// On whose behalf.
    pub identity: Identity,
    /// The pod, whose containers share what they hold.
    pub pod: Option<String>,
    /// By what its end is seen.
    #[serde(flatten)]
    pub life: Life,
    /// Others may hold it too, if they also say so.
    pub shared: bool,
    /// Seconds since the epoch at which it was taken.
    pub since: u64,
    /// The volume's role.
    pub role: Role,
    /// The volume's id.
    pub volume: VolumeId,
    /// Size of the Mesos resource that asked for it, in MB. Not enforced.
    pub size_mb: Option<f64>,
}

/// Who a container is, for its leases.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// Container id.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a str,
    /// Who made that.
    pub manager: Manager,
    /// On whose behalf.
    pub identity: &'a Identity,
    /// Its pod, if it is in one for certain.
    pub pod: Option<&'a str>,
    /// By what its end is seen.
    pub life: &'a Life,
}

impl Holder<'_> {
    /// A lease of this holder's, from now.
    #[must_use]
    pub fn lease(&self, role: &Role, volume: &VolumeId, shared: bool, size_mb: Option<f64>) -> Lease {
        Lease {
            version: VERSION,
            id: self.id.to_owned(),
            bundle: self.bundle.to_owned(),
            manager: self.manager,
            identity: self.identity.clone(),
            pod: self.pod.map(str::to_owned),
            life: self.life.clone(),
            shared,
            since: clock::now(),
            role: role.clone(),
            volume: volume.clone(),
            size_mb,
        }
    }
}

impl Lease {
    /// Whether two holders can have the volume at once: both share it, or they are of one pod.
    fn goes_with(&self, other: &Lease) -> bool {
        let one_pod = self.pod.is_some() && self.pod == other.pod && self.manager == other.manager;
        one_pod || (self.shared && other.shared)
    }

    /// The holder, for people who may know.
    #[must_use]
    pub fn describe(&self) -> String {
        let pod = self.pod.as_ref().map_or_else(String::new, |pod| format!(" of pod {pod}"));
        let how = if self.shared { "shared" } else { "exclusively" };
        format!("container {}{pod} ({}) holds it {how} since {}", self.id, self.manager, clock::utc(self.since))
    }
}

/// The name of a volume's leases.
fn name_of(volume: FileId) -> String {
    format!("{:x}-{:x}", volume.dev, volume.ino)
}

/// All leases of this host.
#[derive(Debug)]
pub struct Leases {
    directory: trusted::Directory,
}

/// What was found beside a lease that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Others hold the volume too.
    pub others: bool,
}

impl Leases {
    /// Opens the leases, making their directory if it is missing: it is gone after a reboot.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`] where others could change it; [`Cause::RuntimeDir`].
    pub fn open() -> Result<Leases> {
        let path = lease_directory(me());
        let directory = trusted::open_dir(&path, Missing::Make(0o700))?;
        let directory =
            directory.ok_or_else(|| Error::new(Cause::RuntimeDir, format!("{} cannot be made", path.display())))?;
        Ok(Leases { directory })
    }

    /// Opens the leases, if there ever were any.
    ///
    /// # Errors
    /// As [`Leases::open`].
    pub fn open_existing() -> Result<Option<Leases>> {
        Ok(trusted::open_dir(&lease_directory(me()), Missing::Tell)?.map(|directory| Leases { directory }))
    }

    /// Locks a volume's leases.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn lock(&self, volume: FileId) -> Result<Locked<'_>> {
        Ok(Locked { holders: Holders::create(&self.directory, &name_of(volume))?, all: self })
    }

    /// Ends this holder's lease.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn release(&self, volume: FileId, record: &str, init: &Init) -> Result<()> {
        let Some(holders) = Holders::open(&self.directory, &name_of(volume))? else { return Ok(()) };
        let locked = Locked { holders, all: self };
        // A lease of a later attempt under the same name is not this one's to end.
        if locked.read(record)?.is_none_or(|found| found.is_of(init)) {
            locked.holders.take_out(record)?;
        }
        locked.tidy()
    }

    /// Lets others hold a volume too, as all that this holder has left of it does.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn share(&self, volume: FileId, record: &str, init: &Init) -> Result<()> {
        let Some(holders) = Holders::open(&self.directory, &name_of(volume))? else { return Ok(()) };
        let locked = Locked { holders, all: self };
        match locked.read(record)? {
            Some(Found::Whole(lease)) if lease.life.init == *init && !lease.shared => {
                locked.write(record, &Lease { shared: true, ..*lease }, true)
            }
            _ => Ok(()),
        }
    }

    /// Who holds a volume now. No lock is taken: nobody waits for somebody who is looking.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`]; [`Cause::VolumeInUse`] for a lease that cannot be understood.
    pub fn holders_of(&self, volume: FileId) -> Result<Vec<Lease>> {
        let doing = || "leases cannot be read".to_owned();
        let name = name_of(volume);
        let directory = match sys::open_dir(&self.directory, name.as_ref(), sys::Resolve::BeneathNoLinks) {
            Err(error) if error.errno == Errno::ENOENT => return Ok(Vec::new()),
            answer => answer.because(Cause::RuntimeDir, doing)?,
        };
        let mut live = Vec::new();
        for name in tree::names(&directory).because(Cause::RuntimeDir, doing)? {
            if let Some(Found::Whole(lease)) = read_in(&directory, &name.to_string_lossy())?
                && lease.life.may_last()?
            {
                live.push(*lease);
            }
        }
        Ok(live)
    }

    /// Removes every void lease, and tells of which container and volume.
    pub fn remove_void(&self, report: &mut Report) {
        match tree::names(&self.directory).because(Cause::RuntimeDir, || "leases cannot be read".to_owned()) {
            Err(fault) => report.faults.push(fault),
            Ok(names) => names.iter().for_each(|name| report.add(self.remove_void_of(&name.to_string_lossy()))),
        }
    }

    /// Every lease, void ones too. Nothing is removed, and no lock is taken.
    ///
    /// # Errors
    /// As [`Leases::holders_of`].
    pub fn all(&self) -> Result<Vec<Lease>> {
        let doing = || "leases cannot be read".to_owned();
        let mut all = Vec::new();
        for volume in tree::names(&self.directory).because(Cause::RuntimeDir, doing)? {
            let directory = match sys::open_dir(&self.directory, volume.as_ref(), sys::Resolve::BeneathNoLinks) {
                Err(error) if error.errno == Errno::ENOENT => continue,
                answer => answer.because(Cause::RuntimeDir, doing)?,
            };
            for name in tree::names(&directory).because(Cause::RuntimeDir, doing)? {
                if let Some(Found::Whole(lease)) = read_in(&directory, &name.to_string_lossy())? {
                    all.push(*lease);
                }
            }
        }
        Ok(all)
    }

    fn remove_void_of(&self, name: &str) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let Some(holders) = Holders::open(&self.directory, name)? else { return Ok(removed) };
        let locked = Locked { holders, all: self };
        let mut tell = |void: &Lease| {
            removed.push(format!("ended the lease of container {} on {} ({})", void.id, void.volume, void.role));
        };
        locked.live_among(locked.holders.names()?, None, &mut tell)?;
        locked.tidy()?;
        Ok(removed)
    }
}

/// The leases of one volume, locked for as long as this lives.
#[derive(Debug)]
pub struct Locked<'a> {
    holders: Holders,
    all: &'a Leases,
}

/// A lease as it was found.
enum Found {
    Whole(Box<Lease>),
    /// Its writer was killed before it was whole: nobody has the volume by it.
    Torn,
}

impl Found {
    fn is_of(&self, init: &Init) -> bool {
        match self {
            Found::Whole(lease) => lease.life.init == *init,
            Found::Torn => true,
        }
    }
}

impl Locked<'_> {
    /// Takes the volume for a holder whose record has this name, if everybody who has it now allows it.
    ///
    /// # Errors
    /// [`Cause::VolumeInUse`], with who holds it; [`Cause::EndUnknown`]; [`Cause::RuntimeDir`].
    pub fn take(&self, record: &str, mut wanted: Lease) -> Result<Taken> {
        if !wanted.shared && !wanted.life.has_an_end() {
            return Err(Error::new(
                Cause::EndUnknown,
                "the container has neither a pid namespace nor a cgroup of its own, so nobody could tell when the volume is free again",
            ));
        }
        let names = self.holders.names()?;
        let mine = if names.iter().any(|name| name == record) { self.read(record)? } else { None };
        let mine = match mine {
            Some(Found::Whole(lease)) if lease.life.init == wanted.life.init => Some(lease),
            // Its own hooks would end it by this name, and take this one for theirs.
            Some(Found::Whole(lease)) if lease.life.may_last()? => {
                return Err(Error::new(
                    Cause::RecordConflict,
                    format!("container {} of the same bundle holds it, by another configuration", lease.id),
                ));
            }
            _ => None,
        };
        // The same volume twice in one container: exclusive if any of the two is.
        wanted.shared &= mine.as_ref().is_none_or(|mine| mine.shared);
        let others = self.live_among(names, mine.as_ref().map(|_| record), |_| {})?;
        if let Some(other) = others.iter().find(|other| !other.goes_with(&wanted)) {
            return Err(Error::new(Cause::VolumeInUse, other.describe()).remedy(
                "stop it first; or, if several may write at once, let every container ask for the volume as shared",
            ));
        }
        self.write(record, &wanted, mine.is_some())?;
        Ok(Taken { others: !others.is_empty() })
    }

    /// Writes a lease. Over one that counts it is written in one step, filled up with blanks: whoever is killed there has
    /// the volume still.
    fn write(&self, record: &str, lease: &Lease, counts: bool) -> Result<()> {
        let doing = || "a lease cannot be written".to_owned();
        let mut text = serde_json::to_string(lease)
            .map_err(|error| Error::new(Cause::RuntimeDir, format!("{}: {error}", doing())))?;
        let empty = if counts { OFlag::empty() } else { OFlag::O_TRUNC };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | empty;
        let fd = sys::open_file_at(self.holders.directory(), record, flags, 0o600).because(Cause::RuntimeDir, doing)?;
        if counts {
            let size = usize::try_from(sys::stat(&fd).because(Cause::RuntimeDir, doing)?.size).unwrap_or(0);
            text.extend(std::iter::repeat_n(' ', size.saturating_sub(text.len())));
        }
        std::io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes()).because(Cause::RuntimeDir, doing)
    }

    /// Who holds the volume now. Void leases are removed.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn live(&self) -> Result<Vec<Lease>> {
        self.live_among(self.holders.names()?, None, |_| {})
    }

    fn live_among(&self, names: Vec<OsString>, mine: Option<&str>, mut void: impl FnMut(&Lease)) -> Result<Vec<Lease>> {
        let mut live = Vec::new();
        for name in names {
            let name = name.to_string_lossy();
            if mine == Some(name.as_ref()) {
                continue;
            }
            match self.read(&name)? {
                Some(Found::Whole(lease)) if lease.life.may_last()? => live.push(*lease),
                Some(Found::Whole(lease)) => {
                    void(&lease);
                    self.holders.take_out(&name)?;
                }
                Some(Found::Torn) => self.holders.take_out(&name)?,
                None => {}
            }
        }
        Ok(live)
    }

    fn read(&self, name: &str) -> Result<Option<Found>> {
        read_in(self.holders.directory(), name)
    }

    /// Removes the directory if nobody is left.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn tidy(self) -> Result<()> {
        if self.holders.names()?.is_empty() {
            return self.holders.remove(&self.all.directory);
        }
        Ok(())
    }
}

fn read_in(directory: &OwnedFd, name: &str) -> Result<Option<Found>> {
    let doing = || format!("the lease {name} cannot be read");
    let fd = match sys::open_file_at(directory, name, OFlag::O_RDONLY, 0) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        answer => answer.because(Cause::RuntimeDir, doing)?,
    };
    let text = read::at_most(fd.into(), LARGEST).because(Cause::RuntimeDir, doing)?;
    parse(&text).map(Some).ok_or_else(|| {
        Error::new(Cause::VolumeInUse, format!("the lease of {name} cannot be understood, so it counts"))
            .remedy("use the fs-isolator that wrote it; nothing was changed")
    })
}

/// `None` for a lease that is whole and not understood: one of a later version.
fn parse(text: &[u8]) -> Option<Found> {
    match serde_json::from_slice::<Lease>(text) {
        Ok(lease) if lease.version <= VERSION => Some(Found::Whole(Box::new(lease))),
        _ if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() => None,
        _ => Some(Found::Torn),
    }
}

/// Ends the lease that a record speaks of.
///
/// # Errors
/// As [`Leases::release`].
pub fn release(volume: FileId, record: &str, init: &Init) -> Result<()> {
    match Leases::open_existing()? {
        None => Ok(()),
        Some(leases) => leases.release(volume, record, init),
    }
}

/// Lets others hold what this holder's record speaks of too.
///
/// # Errors
/// As [`Leases::share`].
pub fn share(volume: FileId, record: &str, init: &Init) -> Result<()> {
    match Leases::open_existing()? {
        None => Ok(()),
        Some(leases) => leases.share(volume, record, init),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str, pod: Option<&str>, shared: bool) -> Lease {
        let init = Init { pid: 1, start: 1, boot: "b".into(), namespace: 0 };
        let life = Life { init, own_pid_namespace: true, cgroup: None };
        let (role, volume) = (Role::parse("r").unwrap(), VolumeId::parse("v").unwrap());
        let holder = Holder { id, bundle: "/b", manager: Manager::CriO, identity: &Identity::Root, pod, life: &life };
        holder.lease(&role, &volume, shared, None)
    }

    #[test]
    fn exclusive_unless_all_share_or_one_pod() {
        let (alone, shared, other_shared) = (lease("a", None, false), lease("b", None, true), lease("c", None, true));
        assert!(!alone.goes_with(&shared) && !shared.goes_with(&alone) && shared.goes_with(&other_shared));
        let (first, second) = (lease("a", Some("p"), false), lease("b", Some("p"), false));
        assert!(first.goes_with(&second) && !first.goes_with(&lease("c", Some("q"), false)));
        assert!(!lease("a", None, false).goes_with(&lease("b", None, false)), "no pod is no common pod");
        let podman = Lease { manager: Manager::Podman, ..second };
        assert!(!first.goes_with(&podman));
    }

    #[test]
    fn a_lease_is_whole_torn_or_too_new() {
        let text = serde_json::to_string(&lease("a", None, true)).unwrap();
        assert!(matches!(parse(text.as_bytes()), Some(Found::Whole(_))));
        assert!(matches!(parse(b""), Some(Found::Torn)) && matches!(parse(&text.as_bytes()[..40]), Some(Found::Torn)));
        assert!(parse(text.replace("\"version\":1", "\"version\":2").as_bytes()).is_none());
        assert!(parse(br#"{"version":9,"everything":"else"}"#).is_none());
    }
}
