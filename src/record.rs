//! What hooks did for one container, written down before it is done, so that it can be undone by whoever
//! comes next: poststop, the next prestart of the same container, or a poststop that reaps.
//!
//! A record is a file of JSON lines under `runtime_dir/records`. Its first line says who and where; each
//! change to a filesystem is announced by a line before it happens; the last line says that all is done and
//! what the container must have.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::config::{Isolator, disks};
use crate::container::{Identity, Manager};
use crate::error::{Because, Cause, Error, Result};
use crate::holders::File;
use crate::init::Life;
use crate::plan::{Bind, How, Origin};
use crate::request::Propagation;
use crate::request::container_path::ContainerPath;
use crate::request::names::{Role, VolumeId};
use crate::runtime_dir::{LARGEST, Locked, Open, RuntimeDir, whole_lines};
use crate::steps::Step;
use crate::sys::{self, FileId, MountAttributes};
use crate::volume::DiskChoice;

/// Version of the format; every released one stays readable.
pub const VERSION: u32 = 1;

/// First line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// Container id.
    pub id: String,
    /// Bundle, as the runtime gave it.
    pub bundle: String,
    /// Who made it.
    pub manager: Manager,
    /// On whose behalf.
    pub identity: Identity,
    /// The isolator that did it.
    pub isolator: Isolator,
    /// By what it can be told whether the container lives.
    #[serde(flatten)]
    pub life: Life,
    /// The container's root filesystem on the host.
    pub root: Base,
}

/// A directory on the host below which something was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its path when it was open.
    pub path: String,
    /// What it was.
    pub id: FileId,
}

/// Which directory a place lies below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// The root filesystem.
    Root,
    /// The sandbox.
    Sandbox,
}

/// A name in a directory: where something was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Below what.
    pub within: Within,
    /// Directory below it, empty for itself. No component is a link.
    pub parent: String,
    /// Name in that directory.
    pub name: String,
}

impl Place {
    /// Whether it lies in what is at another place.
    #[must_use]
    pub fn is_below(&self, other: &Place) -> bool {
        let above = Path::new(&other.parent).join(&other.name);
        self.within == other.within && Path::new(&self.parent).starts_with(above)
    }
}

/// A later line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The sandbox is about to be used.
    Sandbox {
        /// Its path on the host.
        path: String,
        /// It is about to be made, so a failure removes it.
        made: bool,
        /// It goes with the container.
        remove_at_stop: bool,
    },
    /// The sandbox of the container's pod is about to be used.
    PodSandbox {
        /// Its path on the host.
        path: String,
        /// It goes with the last container that has it.
        remove_at_stop: bool,
    },
    /// A mount point or link will be made under a temporary name.
    Making {
        /// Where it will be.
        place: Place,
        /// Its name until then.
        temporary: String,
    },
    /// It was made, and is about to get its name.
    Made {
        /// Where.
        place: Place,
        /// Its name until then.
        temporary: String,
        /// What it is.
        file: File,
    },
    /// A mount point or link of another hook is about to be used as well.
    Hold {
        /// Where.
        place: Place,
        /// What it is.
        file: File,
    },
    /// A volume, or the container's own sandbox, is about to be held.
    Lease {
        /// Its directory.
        volume: FileId,
    },
    /// A volume is about to be made, because it was missing. It gets its id when all else is done.
    MakingVolume {
        /// The disk it lies on.
        #[serde(default = "root_disk")]
        disk: String,
        /// Its role.
        role: Role,
        /// Name of its directory until then.
        temporary: String,
    },
    /// A mount point or link is not held any more.
    GivenUp {
        /// What it is.
        file: File,
    },
    /// These are about to be moved into a container that runs: until a `Done` has them, whoever comes next takes them out.
    Attaching {
        /// What is moved.
        attachments: Vec<Attached>,
    },
    /// What is attached there is about to be taken out of a container that runs.
    Detaching {
        /// Its path in the container.
        target: String,
    },
    /// A volume is taken out of a container that runs, of which something uses it still: it is held until the
    /// container's end.
    Lingers {
        /// Its directory.
        volume: FileId,
    },
    /// Everything is done.
    Done {
        /// What the container must have now.
        attachments: Vec<Attached>,
        /// Binds of the bundle's own that should follow the host too.
        #[serde(default)]
        binds: Vec<Bind>,
        /// What prestart's steps took.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<Step>,
    },
}

/// Records of the first version's beginnings knew one disk.
fn root_disk() -> String {
    disks::ROOT.to_owned()
}

/// One thing a container must have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attached {
    /// The request's words.
    pub label: String,
    /// Where, as an absolute path in the container.
    pub target: String,
    /// What must be found there.
    pub id: FileId,
    /// Found through a symbolic link, not a mount.
    pub link: bool,
    /// Attributes that the mount must have.
    pub attributes: MountAttributes,
    /// Later host mounts below it should appear in the container.
    pub slave: bool,
    /// The volume named that, so it must.
    pub slave_named: bool,
    /// poststart gives slave back where the runtime took it away.
    #[serde(default)]
    pub mend: bool,
    /// Where it lies on the host.
    #[serde(default)]
    pub source: String,
    /// Mounts that the container makes below it appear on the host.
    #[serde(default)]
    pub bidirectional: bool,
    /// The persistent volume behind it.
    pub volume: Option<VolumeRecord>,
    /// Directory of the volume, where it is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<ContainerPath>,
    /// Where it comes from, where that is no persistent volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The propagation that it named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Propagation>,
}

impl Attached {
    /// As the plan had it. What is not asked of a hook that only looks is not written twice.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match (&self.volume, &self.from) {
            (Some(volume), _) => Origin::Volume {
                role: volume.role.clone(),
                id: volume.id.clone(),
                disk: DiskChoice::One(volume.disk.clone()),
                subpath: self.subpath.clone(),
                shared: volume.shared,
                size_mb: None,
            },
            (None, Some(from)) => from.clone(),
            (None, None) => Origin::Sandbox,
        }
    }

    /// As the plan had it.
    #[must_use]
    pub fn how(&self) -> How {
        if self.link {
            return How::Link;
        }
        let unasked = match self.attributes == MountAttributes::default() {
            true => Propagation::Slave,
            false => Propagation::Private,
        };
        let propagation = self.named.unwrap_or(unasked);
        How::Mount { attributes: self.attributes, propagation, named: self.named.is_some() }
    }

    /// A refusal that is about it.
    #[must_use]
    pub fn named(&self, error: Error) -> Error {
        let error = error.volume(&self.label);
        self.volume.iter().fold(error, |error, volume| error.role(&volume.role))
    }
}

/// A persistent volume that a container holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VolumeRecord {
    /// Its role.
    pub role: Role,
    /// Its id.
    pub id: VolumeId,
    /// The disk it lies on.
    #[serde(default = "root_disk")]
    pub disk: String,
    /// Its directory.
    pub file: FileId,
    /// Others may hold it too. An older record does not tell: then they may not.
    #[serde(default)]
    pub shared: bool,
}

/// Whether a volume is shared by all of these that have it, and one has it.
#[must_use]
pub fn is_shared(attachments: &[Attached], volume: FileId) -> bool {
    let volumes = attachments.iter().filter_map(|attached| attached.volume.as_ref());
    let mut having = volumes.filter(|other| other.file == volume).peekable();
    having.peek().is_some() && having.all(|other| other.shared)
}

/// The name of a container's record, sandbox and log: its id and twelve digits that stand for its bundle, since
/// runtimes accept one id at once under two roots. At most 255 bytes.
#[must_use]
pub fn name(id: &str, bundle: &str) -> String {
    // FNV-1a. Nobody who could make two bundles collide is kept out by it: bundles are root's.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for component in bundle.split('/').filter(|component| !component.is_empty()) {
        for byte in [b'/'].iter().chain(component.as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    format!("{id}.{:012x}", hash >> 16)
}

/// An open, locked record.
#[derive(Debug)]
pub struct Record {
    file: Locked,
    /// Its name, by which it holds mount points.
    pub name: String,
    /// First line, once there is one.
    pub header: Option<Header>,
    /// Further lines.
    pub lines: Vec<Line>,
    makings: usize,
    /// The first line until it is written, with the second: before that nothing was done.
    pending: String,
}

/// The mode's bit that marks a record, since the file's name is gone when its end is seen.
const REAPED: u32 = 0o100;

/// Whether a name is one that [`name`] gives.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_hash = |hash: &str| hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once('.').is_some_and(|(id, hash)| !id.is_empty() && is_hash(hash))
}

impl Record {
    /// Opens and locks the record of this name.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`], also for a record of a newer version.
    pub fn open(runtime: &RuntimeDir, name: &str, open: Open) -> Result<Option<Record>> {
        let Some(mut file) = Locked::open(&runtime.records, name, open)? else { return Ok(None) };
        let (header, lines) = parse(name, file.lines()?)?;
        let pending = String::new();
        Ok(Some(Record { file, name: name.to_owned(), header, lines, makings: 0, pending }))
    }

    /// Gives it its first line, which is written with the next one.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn begin(&mut self, header: Header) -> Result<()> {
        self.file.clear()?;
        self.lines.clear();
        self.pending = to_json(&header)? + "\n";
        self.header = Some(header);
        Ok(())
    }

    /// Writes another line.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn add(&mut self, line: Line) -> Result<()> {
        let text = format!("{}{}\n", self.pending, to_json(&line)?);
        // What others have written counts: one that is larger is read by nobody.
        if self.file.size() + text.len() as u64 > LARGEST {
            return Err(Error::new(Cause::RuntimeDir, "the container's record would become larger than 4 MiB")
                .remedy("ask for fewer volumes, or for shorter paths"));
        }
        self.file.append(&text)?;
        self.pending.clear();
        self.lines.push(line);
        Ok(())
    }

    /// A name that nothing else in any directory has.
    pub fn temporary_name(&mut self) -> String {
        self.makings += 1;
        let init = self.header.as_ref().map_or((0, 0), |header| (header.life.init.pid, header.life.init.start));
        format!(".fs-isolator.{}.{:x}.{}", init.0, init.1, self.makings)
    }

    /// Whether it holds, or made, this mount point or link.
    #[must_use]
    pub fn holds(&self, file: File) -> bool {
        let last = self.lines.iter().rev().find_map(|line| match line {
            Line::Made { file: held, .. } | Line::Hold { file: held, .. } if *held == file => Some(true),
            Line::GivenUp { file: held } if *held == file => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }

    /// What was made or held, and where.
    #[must_use]
    pub fn held(&self) -> Vec<(Place, File)> {
        let held = |line: &Line| match line {
            Line::Made { place, file, .. } | Line::Hold { place, file } => Some((place.clone(), *file)),
            _ => None,
        };
        self.lines.iter().filter_map(held).collect()
    }

    /// Writes the record anew, up to this line: all that comes after it is undone.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn forget_from(&mut self, runtime: &RuntimeDir, from: usize) -> Result<()> {
        self.lines.truncate(from);
        self.compact(runtime)
    }

    /// Leaves out that a volume is held; [`Record::compact`] writes that down.
    pub fn forget_lease(&mut self, ended: FileId) {
        self.lines.retain(|line| !matches!(line, Line::Lease { volume } if *volume == ended));
    }

    /// What the container must have, if its prestart came to its end.
    #[must_use]
    pub fn attachments(&self) -> Option<&[Attached]> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Done { attachments, .. } => Some(attachments.as_slice()),
            _ => None,
        })
    }

    /// Whether a volume is held until the container's end, since something used it when it was taken out.
    #[must_use]
    pub fn lingers(&self, file: FileId) -> bool {
        self.lines.contains(&Line::Lingers { volume: file })
    }

    /// Binds of the bundle's own that should follow the host, if its prestart came to its end.
    #[must_use]
    pub fn binds(&self) -> &[Bind] {
        let done = self.lines.iter().rev().find_map(|line| match line {
            Line::Done { binds, .. } => Some(binds.as_slice()),
            _ => None,
        });
        done.unwrap_or_default()
    }

    /// What prestart's steps took, if it came to its end.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        steps_of(&self.lines)
    }

    /// Whether undoing it deletes a sandbox that a container has used.
    #[must_use]
    pub fn removes_sandbox(&self) -> bool {
        let goes = |line: &Line| {
            matches!(line, Line::Sandbox { remove_at_stop: true, .. } | Line::PodSandbox { remove_at_stop: true, .. })
        };
        self.attachments().is_some() && self.lines.iter().any(goes)
    }

    /// Writes the record anew, without what was given up. Volumes come and go in a container that runs for long.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn compact(&mut self, runtime: &RuntimeDir) -> Result<()> {
        let Some(header) = &self.header else { return Ok(()) };
        let mut lines: Vec<Line> = Vec::new();
        for line in &self.lines {
            let counts = match line {
                Line::Made { file, .. } | Line::Hold { file, .. } => self.holds(*file),
                Line::Lease { .. } | Line::Sandbox { .. } | Line::PodSandbox { .. } | Line::Lingers { .. } => true,
                Line::Making { .. }
                | Line::MakingVolume { .. }
                | Line::GivenUp { .. }
                | Line::Attaching { .. }
                | Line::Detaching { .. }
                | Line::Done { .. } => false,
            };
            if counts && !lines.contains(line) {
                lines.push(line.clone());
            }
        }
        let done = self.lines.iter().rev().find(|line| matches!(line, Line::Done { .. }));
        lines.extend(done.cloned());
        let mut text = to_json(header)? + "\n";
        for line in &lines {
            text.push_str(&to_json(line)?);
            text.push('\n');
        }
        self.file.replace(runtime, &text)?;
        self.pending.clear();
        self.lines = lines;
        Ok(())
    }

    /// Lets those who watch see that it is not the container's own hooks that undo it.
    pub fn mark_reaped(&self) {
        // Nothing but what is told depends on it.
        let _ = sys::chmod(self.file.fd(), 0o600 | REAPED);
    }

    /// Removes the record: nothing is left to undo.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`].
    pub fn remove(self, runtime: &RuntimeDir) -> Result<()> {
        self.file.remove_replacement(runtime)?;
        self.file.remove(&runtime.records)
    }
}

/// What prestart's steps took, by a record's lines.
#[must_use]
pub fn steps_of(lines: &[Line]) -> &[Step] {
    let done = lines.iter().rev().find_map(|line| match line {
        Line::Done { steps, .. } => Some(steps.as_slice()),
        _ => None,
    });
    done.unwrap_or_default()
}

/// Whether [`Record::mark_reaped`] has marked it.
#[must_use]
pub fn is_reaped(file: impl AsFd) -> bool {
    sys::stat(file).is_ok_and(|stat| stat.permissions() & REAPED != 0)
}

/// A record's first line, if it has one, and the others.
fn parse(name: &str, lines: Vec<String>) -> Result<(Option<Header>, Vec<Line>)> {
    let wrong = |what: String| Error::new(Cause::RuntimeDir, format!("record {name}: {what}"));
    let mut lines = lines.into_iter();
    let header = match lines.next() {
        None => None,
        Some(line) => {
            #[derive(Deserialize)]
            struct Versioned {
                version: u32,
            }
            let version = serde_json::from_str::<Versioned>(&line).map_err(|error| wrong(error.to_string()))?.version;
            if version > VERSION {
                return Err(wrong(format!("it has version {version}, and this program knows {VERSION}"))
                    .remedy("use the newer fs-isolator that wrote it"));
            }
            Some(serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?)
        }
    };
    let lines = lines
        .map(|line| serde_json::from_str(&line).map_err(|error| wrong(error.to_string())))
        .collect::<Result<Vec<Line>>>()?;
    Ok((header, lines))
}

/// Looks at a record that is not this process's. No lock is taken: nobody waits for somebody who is looking. `None` where
/// there is none, or nothing is written in it yet.
///
/// # Errors
/// [`Cause::RuntimeDir`], also for a record of a newer version.
pub fn look(records: &OwnedFd, name: &str) -> Result<Option<(Header, Vec<Line>)>> {
    let doing = || format!("record {name} cannot be read");
    let opened = sys::if_there(sys::open_file_at(records, name, OFlag::O_RDONLY, 0));
    let Some(fd) = opened.because(Cause::RuntimeDir, doing)? else { return Ok(None) };
    look_in(&mut fd.into(), name)
}

/// The same in one that is open, and that may have lost its name.
///
/// # Errors
/// As [`look`].
pub fn look_in(file: &mut fs::File, name: &str) -> Result<Option<(Header, Vec<Line>)>> {
    let mut text = Vec::new();
    file.rewind()
        .and_then(|()| file.take(LARGEST).read_to_end(&mut text))
        .because(Cause::RuntimeDir, || format!("record {name} cannot be read"))?;
    let (header, lines) = parse(name, whole_lines(&text))?;
    Ok(header.map(|header| (header, lines)))
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(Cause::RuntimeDir, format!("a record cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_bundles_apart() {
        let longest = name(&"x".repeat(242), "/b");
        assert_eq!(longest.len(), 255);
        assert_ne!(name("a", "/b/1"), name("a", "/b/2"));
        assert_ne!(name("a", "/b/c"), name("a", "/bc"));
        assert_eq!(name("a", "/b/1/"), name("a", "//b/1"));
        assert!(is_name(&longest) && is_name(&name("a.b", "/b")));
        assert!(!is_name("web") && !is_name("web.1") && !is_name(".0123456789ab") && !is_name("web.0123456789xy"));
    }
}
