//! What a running container really has, beside what was recorded. Nothing is mended: poststart does that.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::attach::come_back;
use crate::error::{Because, Cause, Result};
use crate::init;
use crate::mountinfo::{self, Mount};
use crate::record::Attached;
use crate::sys::{self, Resolve};

/// One thing that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Difference {
    /// Where, in the container.
    pub target: String,
    /// What is different.
    pub what: String,
}

/// What a mount shows: a directory or file of a filesystem. Mounts are told apart by that where paths cannot be trusted: the
/// container renames directories, and mounts over others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The filesystem, by major and minor number.
    pub device: (u32, u32),
    root: PathBuf,
}

impl Content {
    /// What an attachment shows, by the host's mounts; `None` where it does not lie any more where it was attached from.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`] where that cannot be looked at.
    pub fn of(attached: &Attached, host: &[Mount]) -> Result<Option<Content>> {
        if attached.source.is_empty() {
            // A filesystem of its own, which is mounted nowhere else.
            return Ok(Some(Content { device: attached.id.device(), root: PathBuf::from("/") }));
        }
        let doing = || format!("{} cannot be looked at", attached.source);
        let opened = sys::if_there(sys::open_path(sys::cwd(), Path::new(&attached.source), Resolve::NoLinks));
        let Some(fd) = opened.because(Cause::AttachFailed, doing)? else { return Ok(None) };
        if sys::stat(&fd).because(Cause::AttachFailed, doing)?.id != attached.id {
            return Ok(None);
        }
        let number = sys::mount_number(&fd).because(Cause::AttachFailed, doing)?;
        let mount = host.iter().find(|mount| mount.id == number);
        Ok(mount.and_then(|mount| {
            let below = Path::new(&attached.source).strip_prefix(&mount.mount_point).ok()?;
            Some(Content { device: mount.device, root: mount.root.join(below).components().collect() })
        }))
    }

    /// Whether a mount shows this, or something in it.
    #[must_use]
    pub fn covers(&self, mount: &Mount) -> bool {
        mount.device == self.device && mount.root.starts_with(&self.root)
    }

    fn is(&self, mount: &Mount) -> bool {
        self.covers(mount) && (mount.root == self.root || self.root == Path::new("/"))
    }
}

/// A mount of the container.
#[derive(Debug)]
pub struct Found {
    /// Its root.
    pub fd: OwnedFd,
    /// Its number in the mount table.
    pub number: u64,
}

/// Where something is that was attached.
#[derive(Debug)]
pub enum Place {
    /// Where it was attached.
    There(Found),
    /// The container has moved it, or a directory above it, to here.
    Moved(Found, PathBuf),
    /// The container has mounted something over it.
    Covered,
    /// It is not mounted any more.
    Gone,
}

impl Place {
    /// The mount, if it can be reached.
    #[must_use]
    pub fn found(&self) -> Option<&Found> {
        match self {
            Place::There(found) | Place::Moved(found, _) => Some(found),
            Place::Covered | Place::Gone => None,
        }
    }
}

/// A running container's mounts, at one moment.
#[derive(Debug)]
pub struct Survey {
    /// All that its init's mount namespace has.
    pub mounts: Vec<Mount>,
    /// Where each attachment is, in the order of asking. A link is where the directory is that it leads to.
    pub places: Vec<(Attached, Place)>,
}

impl Survey {
    /// Looks at a mount namespace, for these attachments.
    ///
    /// # Errors
    /// [`Cause::AttachFailed`].
    pub fn of(namespace: &OwnedFd, home: &OwnedFd, proc_fds: &OwnedFd, attachments: &[Attached]) -> Result<Survey> {
        if attachments.is_empty() {
            return Ok(Survey { mounts: Vec::new(), places: Vec::new() });
        }
        let host = table(proc_fds)?;
        let contents = attachments.iter().map(|one| Content::of(one, &host)).collect::<Result<Vec<_>>>()?;
        within(namespace, home, |root| {
            let mounts = table(proc_fds)?;
            let there = attachments.iter().map(|one| open_at(root, one)).collect::<Result<Vec<_>>>()?;
            let known: Vec<u64> = there.iter().flatten().map(|found| found.number).collect();
            let mut places = Vec::with_capacity(attachments.len());
            for ((one, found), content) in attachments.iter().zip(there).zip(contents) {
                let place = match found {
                    Some(found) => Place::There(found),
                    None if one.link => Place::Gone,
                    None => elsewhere(root, content.as_ref(), &mounts, &known)?,
                };
                places.push((one.clone(), place));
            }
            Ok(Survey { mounts, places })
        })
    }

    /// The mount of an attachment, if it can be reached.
    #[must_use]
    pub fn find(&self, one: &Attached) -> Option<&Found> {
        let place = self.places.iter().find(|(other, _)| other == one).map(|(_, place)| place)?;
        place.found()
    }

    /// Where an attachment's mount is, by its real path.
    #[must_use]
    pub fn point_of(&self, one: &Attached) -> Option<&Path> {
        let number = self.find(one).filter(|_| !one.link)?.number;
        self.mounts.iter().find(|mount| mount.id == number).map(|mount| mount.mount_point.as_path())
    }

    /// Numbers of a mount and of all that is mounted in it.
    #[must_use]
    pub fn with_below(&self, number: u64) -> Vec<u64> {
        std::iter::once(number).chain(mountinfo::below(&self.mounts, number).iter().map(|mount| mount.id)).collect()
    }
}

/// Does something in another mount namespace, whose root directory it is given. Nothing may be logged in there.
///
/// # Errors
/// [`Cause::AttachFailed`], and whatever is done there.
pub fn within<T>(namespace: &OwnedFd, home: &OwnedFd, act: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
    let doing = || "the container's mount namespace cannot be entered".to_owned();
    sys::enter_mount_namespace(namespace).because(Cause::AttachFailed, doing)?;
    let root = sys::open_place(sys::cwd(), Path::new("/"), Resolve::NoMagic).because(Cause::AttachFailed, doing);
    let answer = root.and_then(|root| act(&root));
    come_back(home);
    answer
}

/// The mounts of the namespace that this process is in.
///
/// # Errors
/// [`Cause::AttachFailed`].
pub fn table(proc_fds: &OwnedFd) -> Result<Vec<Mount>> {
    let doing = || "the mount table cannot be read".to_owned();
    let open = sys::open_mount_table(proc_fds).because(Cause::AttachFailed, doing)?;
    mountinfo::read(open).because(Cause::AttachFailed, doing)
}

/// What was attached, if it is at its path still.
fn open_at(root: &OwnedFd, attached: &Attached) -> Result<Option<Found>> {
    let doing = || format!("{} cannot be looked at", attached.target);
    let path = Path::new(attached.target.trim_start_matches('/'));
    // Whatever the container has made of the path: a loop of links, or a file on the way.
    let Ok(fd) = sys::open_path(root, path, Resolve::InRoot) else { return Ok(None) };
    let stat = sys::stat(&fd).because(Cause::AttachFailed, doing)?;
    if stat.id != attached.id || !(stat.mount_root || attached.link) {
        return Ok(None);
    }
    let number = sys::mount_number(&fd).because(Cause::AttachFailed, doing)?;
    Ok(Some(Found { fd, number }))
}

fn elsewhere(root: &OwnedFd, content: Option<&Content>, mounts: &[Mount], known: &[u64]) -> Result<Place> {
    let Some(content) = content else { return Ok(Place::Gone) };
    let mut place = Place::Gone;
    for mount in mounts.iter().filter(|mount| content.is(mount) && !known.contains(&mount.id)) {
        let path = mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point);
        let doing = || format!("{} cannot be looked at", mount.mount_point.display());
        if let Ok(fd) = sys::open_path(root, path, Resolve::BeneathNoLinks) {
            let number = sys::mount_number(&fd).because(Cause::AttachFailed, doing)?;
            if number == mount.id {
                return Ok(Place::Moved(Found { fd, number }, mount.mount_point.clone()));
            }
        }
        place = Place::Covered;
    }
    Ok(place)
}

/// Looks at every attachment of the container with this init.
#[must_use]
pub fn differences(pid: i32, attachments: &[Attached]) -> Vec<Difference> {
    let survey = || -> Result<Survey> {
        let doing = || format!("process {pid} cannot be looked at");
        let namespace = File::open(format!("/proc/{pid}/ns/mnt")).because(Cause::Pid, doing)?.into();
        let proc_fds = sys::open_proc_fds().because(Cause::Pid, doing)?;
        Survey::of(&namespace, &init::own_mount_namespace()?, &proc_fds, attachments)
    };
    let Ok(survey) = survey() else { return Vec::new() };
    let look = |(attached, place): &(Attached, Place)| {
        let what = difference(&survey.mounts, attached, place)?;
        Some(Difference { target: attached.target.clone(), what })
    };
    survey.places.iter().filter_map(look).collect()
}

fn difference(mounts: &[Mount], wanted: &Attached, place: &Place) -> Option<String> {
    let found = match place {
        Place::There(found) => found,
        Place::Moved(_, path) => return Some(format!("the container has moved it to {}", path.display())),
        Place::Covered => return Some("something else is mounted over it".to_owned()),
        Place::Gone => return Some("something else is there: the mount is gone".to_owned()),
    };
    if wanted.link {
        return None;
    }
    let has = sys::filesystem(&found.fd).ok()?.attributes;
    let asked = wanted.attributes;
    for (asked, has, name) in [
        (asked.read_only, has.read_only, "read-only"),
        (asked.nosuid, has.nosuid, "nosuid"),
        (asked.nodev, has.nodev, "nodev"),
        (asked.noexec, has.noexec, "noexec"),
    ] {
        if asked && !has {
            return Some(format!("it is not {name} any more"));
        }
    }
    let mount = mounts.iter().find(|mount| mount.id == found.number)?;
    (wanted.slave && mount.master.is_none()).then(|| "it does not follow the host, and slave was recorded".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_known_by_what_they_show() {
        let table =
            b"1 0 8:1 / / rw - ext4 d rw\n2 1 8:1 /v/db /d rw - ext4 d rw\n3 2 8:1 /v/db/s /d/x rw - ext4 d rw\n\
                      4 1 8:1 /v/db2 /e rw - ext4 d rw\n5 3 0:9 / /d/x/y rw - tmpfs t rw\n";
        let mounts = mountinfo::parse(table);
        let content = Content { device: (8, 1), root: "/v/db".into() };
        let covered: Vec<u64> = mounts.iter().filter(|mount| content.covers(mount)).map(|mount| mount.id).collect();
        assert_eq!(covered, [2, 3]);
        assert_eq!(mounts.iter().filter(|mount| content.is(mount)).count(), 1);
        let survey = Survey { mounts, places: Vec::new() };
        assert_eq!(survey.with_below(2), [2, 3, 5]);
        assert_eq!(survey.with_below(4), [4]);
    }
}
