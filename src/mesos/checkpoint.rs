//! The volumes that a Mesos agent has written down below `<work_dir>/meta` (mesos.md A9, AG5, B4).
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::wire::{self, Garbled, Part, Value};
use crate::error::{Because, Cause, Error, Result};
use crate::read;
use crate::request::names::{Role, VolumeId};
use crate::sys::{self, Resolve};

/// What an agent has written down.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checkpoint {
    /// The file that counts, below `work_dir`.
    pub source: String,
    /// Its volumes, in its order.
    pub volumes: Vec<Volume>,
    /// What the agent was about to do when it ended.
    pub pending: Option<Pending>,
    /// Volumes in these files that cannot be ones, each with the reason.
    pub faults: Vec<String>,
}

/// A change that the agent had decided on and may have carried out in part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pending {
    /// The file that says so, below `work_dir`.
    pub source: String,
    /// Volumes that it would make.
    pub created: Vec<Volume>,
    /// Volumes that it would delete, with all data.
    pub destroyed: Vec<Volume>,
}

/// A persistent volume, as the agent knows it.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Volume {
    /// Its role.
    pub role: Role,
    /// Its id.
    pub id: VolumeId,
    /// Where it lies.
    pub disk: Disk,
    /// Its size in MiB, which the agent may not have enforced.
    pub size_mb: Option<f64>,
    /// Whether several tasks may have it at once.
    pub shared: bool,
    /// Who made it.
    pub principal: Option<String>,
}

/// The disk on which a volume lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Disk {
    /// `work_dir`'s own.
    Root,
    /// Below this directory, which is relative to `work_dir` if it is not absolute.
    Path(String),
    /// This mount point itself, whatever the volume's role and id.
    Mount(String),
    /// One that only Mesos can reach, and why.
    Foreign(String),
}

impl Volume {
    /// Whether both are one directory.
    #[must_use]
    pub fn is(&self, other: &Volume) -> bool {
        (&self.role, &self.id, &self.disk) == (&other.role, &other.id, &other.disk)
    }
}

/// Larger files are no checkpoints: protobuf itself ends at 64 MiB.
const LARGEST: u64 = 64 << 20;

/// How resources lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// One record, `ResourceState`, since Mesos 1.7.
    State,
    /// One record for each `Resource`; agents since 1.7 write it too, so that older ones can take over.
    Sequence,
}

/// Both formats with the file that counts and the one of a pending change, the one that wins first.
const FILES: [(Format, &str, &str); 2] = [
    (Format::State, "meta/resources/resources_and_operations.state", "meta/resources/resources_and_operations.target"),
    (Format::Sequence, "meta/resources/resources.info", "meta/resources/resources.target"),
];

/// Reads the checkpoint below an open `work_dir`; `None` where no agent has written one. As an agent does at its
/// start: a target without the file that it is to replace means nothing.
///
/// # Errors
/// [`Cause::MesosCheckpoint`] with the file and the place in it.
pub fn read(work_dir: &OwnedFd) -> Result<Option<Checkpoint>> {
    for (format, source, target) in FILES {
        let Some(bytes) = content(work_dir, source)? else { continue };
        let mut faults = Vec::new();
        let volumes = volumes(&bytes, format, source, &mut faults)?;
        let pending = match content(work_dir, target)? {
            // What a reboot left of a file. In a sequence it is no resource at all, and the agent would act on it.
            Some(bytes) if bytes.is_empty() && format == Format::State => None,
            Some(bytes) => {
                let wanted = self::volumes(&bytes, format, target, &mut faults)?;
                Some(Pending {
                    source: target.to_owned(),
                    created: without(&wanted, &volumes),
                    destroyed: without(&volumes, &wanted),
                })
            }
            None => None,
        };
        return Ok(Some(Checkpoint { source: source.to_owned(), volumes, pending, faults }));
    }
    Ok(None)
}

/// The group ids that the agent's volume gid manager has given to directories, sandboxes' included.
///
/// # Errors
/// [`Cause::MesosCheckpoint`] with the file and the place in it.
pub fn gids(work_dir: &OwnedFd) -> Result<Vec<(PathBuf, u32)>> {
    const SOURCE: &str = "meta/volume_gid_manager/volume_gids";
    let bytes = content(work_dir, SOURCE)?.unwrap_or_default();
    read_gids(&bytes).map_err(|garbled| refused(SOURCE, garbled))
}

/// `VolumeGidInfos`: infos = 1. `VolumeGidInfo`: type = 1, path = 2, gid = 3.
fn read_gids(bytes: &[u8]) -> wire::Result<Vec<(PathBuf, u32)>> {
    let mut all = Vec::new();
    let Some(mut infos) = single(bytes)? else { return Ok(all) };
    while let Some((number, value)) = infos.field()? {
        let (1, Value::Bytes(info)) = (number, value) else { continue };
        let (mut path, mut gid) = (None, None);
        let mut fields = info;
        while let Some(field) = fields.field()? {
            match field {
                (2, Value::Bytes(value)) => path = Some(PathBuf::from(OsStr::from_bytes(value.bytes()))),
                (3, Value::Varint(value)) => gid = u32::try_from(value).ok(),
                _ => {}
            }
        }
        all.push((path.ok_or(info.garbled("no path"))?, gid.ok_or(info.garbled("no gid, or no gid_t"))?));
    }
    Ok(all)
}

fn refused(source: &str, garbled: Garbled) -> Error {
    Error::new(Cause::MesosCheckpoint, format!("{source} at byte {}: {}", garbled.at, garbled.what))
}

/// A file below `work_dir`, if it exists.
fn content(work_dir: &OwnedFd, path: &str) -> Result<Option<Vec<u8>>> {
    // Whatever lies there must not make this wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = match sys::open_below(work_dir, Path::new(path), flags, Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        answer => answer.because(Cause::MesosCheckpoint, || path.to_owned())?,
    };
    read::at_most(fd.into(), LARGEST).because(Cause::MesosCheckpoint, || path.to_owned()).map(Some)
}

/// The only record of a file; `None` if that is empty, as a reboot can leave it.
fn single(bytes: &[u8]) -> wire::Result<Option<Part<'_>>> {
    let mut file = Part::file(bytes);
    let record = file.record()?;
    if file.bytes().is_empty() { Ok(record) } else { Err(file.garbled("more than the one record that belongs here")) }
}

/// Volumes of a file, each once; those that cannot be volumes become faults.
fn volumes(bytes: &[u8], format: Format, source: &str, faults: &mut Vec<String>) -> Result<Vec<Volume>> {
    let mut volumes: Vec<Volume> = Vec::new();
    for (at, resource) in resources(bytes, format).map_err(|garbled| refused(source, garbled))? {
        match resource.volume() {
            Ok(Some(volume)) if !volumes.iter().any(|other| other.is(&volume)) => volumes.push(volume),
            Ok(_) => {}
            Err(what) => faults.push(format!("{source} at byte {at}: {what}")),
        }
    }
    Ok(volumes)
}

/// Resources of a file, with their places.
fn resources(bytes: &[u8], format: Format) -> wire::Result<Vec<(usize, Resource<'_>)>> {
    let mut all = Vec::new();
    match format {
        Format::Sequence => {
            let mut file = Part::file(bytes);
            while let Some(record) = file.record()? {
                all.push((record.at(), Resource::read(record)?));
            }
        }
        // ResourceState: operations = 1, resources = 2.
        Format::State => {
            let Some(mut state) = single(bytes)? else { return Ok(all) };
            while let Some((number, value)) = state.field()? {
                if let (2, Value::Bytes(resource)) = (number, value) {
                    all.push((resource.at(), Resource::read(resource)?));
                }
            }
        }
    }
    Ok(all)
}

fn without(volumes: &[Volume], others: &[Volume]) -> Vec<Volume> {
    volumes.iter().filter(|volume| !others.iter().any(|other| other.is(volume))).cloned().collect()
}

/// What is of use in a `Resource`. A message that comes in pieces is put together, as protobuf does.
#[derive(Debug, Default)]
struct Resource<'a> {
    /// 6; before reservations could be refined.
    role: Option<Part<'a>>,
    /// 13, field 3, of the last entry, if there is any.
    reservation: Option<Option<Part<'a>>>,
    /// 3, field 1.
    size: Option<f64>,
    /// 7.
    disk: DiskInfo<'a>,
    /// Whether there is a 10.
    shared: bool,
    /// Whether there is a 12.
    provider: bool,
}

/// `Resource.DiskInfo`.
#[derive(Debug, Default)]
struct DiskInfo<'a> {
    /// Whether there is a 1: whether this is a persistent volume.
    persistent: bool,
    /// 1, field 1.
    id: Option<Part<'a>>,
    /// 1, field 2.
    principal: Option<Part<'a>>,
    /// 3.
    source: Option<Source<'a>>,
}

/// `Resource.DiskInfo.Source`.
#[derive(Debug, Default)]
struct Source<'a> {
    /// 1.
    kind: u64,
    /// 2, field 1.
    path: Option<Part<'a>>,
    /// 3, field 1.
    mount: Option<Part<'a>>,
    /// Whether there is a 4: a volume of CSI.
    csi: bool,
}

impl<'a> Resource<'a> {
    fn read(mut part: Part<'a>) -> wire::Result<Resource<'a>> {
        let mut resource = Resource::default();
        while let Some(field) = part.field()? {
            match field {
                (3, Value::Bytes(mut scalar)) => {
                    while let Some(field) = scalar.field()? {
                        if let (1, Value::Fixed64(bits)) = field {
                            resource.size = Some(f64::from_bits(bits));
                        }
                    }
                }
                (6, Value::Bytes(role)) => resource.role = Some(role),
                (7, Value::Bytes(disk)) => resource.disk.read(disk)?,
                (10, Value::Bytes(_)) => resource.shared = true,
                (12, Value::Bytes(_)) => resource.provider = true,
                (13, Value::Bytes(reservation)) => resource.reservation = Some(string_in(reservation, 3)?),
                _ => {}
            }
        }
        Ok(resource)
    }

    /// The volume that it is, if it is one.
    fn volume(&self) -> std::result::Result<Option<Volume>, String> {
        if !self.disk.persistent {
            return Ok(None);
        }
        let role = match self.reservation {
            Some(role) => text(role.ok_or("the last reservation has no role")?, "the role")?,
            // Protobuf's default.
            None => self.role.map_or(Ok("*".to_owned()), |role| text(role, "the role"))?,
        };
        let id = text(self.disk.id.ok_or("a persistent volume without an id")?, "the persistence id")?;
        let why = |error: Error| error.what().to_owned();
        let disk = if self.provider {
            Disk::Foreign("it belongs to a resource provider".to_owned())
        } else {
            self.disk.source.as_ref().map_or(Ok(Disk::Root), Source::disk)?
        };
        Ok(Some(Volume {
            role: Role::parse(&role).map_err(why)?,
            id: VolumeId::parse(&id).map_err(why)?,
            disk,
            size_mb: self.size.filter(|size| size.is_finite()),
            shared: self.shared,
            principal: self.disk.principal.map(|principal| String::from_utf8_lossy(principal.bytes()).into_owned()),
        }))
    }
}

impl<'a> DiskInfo<'a> {
    fn read(&mut self, mut part: Part<'a>) -> wire::Result<()> {
        while let Some(field) = part.field()? {
            match field {
                (1, Value::Bytes(mut persistence)) => {
                    self.persistent = true;
                    while let Some(field) = persistence.field()? {
                        match field {
                            (1, Value::Bytes(id)) => self.id = Some(id),
                            (2, Value::Bytes(principal)) => self.principal = Some(principal),
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(source)) => self.source.get_or_insert_default().read(source)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> Source<'a> {
    fn read(&mut self, mut part: Part<'a>) -> wire::Result<()> {
        while let Some(field) = part.field()? {
            match field {
                (1, Value::Varint(kind)) => self.kind = kind,
                (2, Value::Bytes(path)) => self.path = string_in(path, 1)?.or(self.path),
                (3, Value::Bytes(mount)) => self.mount = string_in(mount, 1)?.or(self.mount),
                (4, Value::Bytes(_)) => self.csi = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn disk(&self) -> std::result::Result<Disk, String> {
        let root = |root: Option<Part<'a>>| root.map(|root| text(root, "the disk's root")).transpose();
        let foreign = |what: &str| Ok(Disk::Foreign(what.to_owned()));
        match (self.kind, self.csi) {
            (_, true) => foreign("it belongs to a storage plugin (CSI)"),
            (1, _) => {
                root(self.path)?.map_or_else(|| foreign("its PATH disk has no root"), |root| Ok(Disk::Path(root)))
            }
            (2, _) => {
                root(self.mount)?.map_or_else(|| foreign("its MOUNT disk has no root"), |root| Ok(Disk::Mount(root)))
            }
            (3, _) => foreign("its disk is of type BLOCK"),
            (4, _) => foreign("its disk is of type RAW"),
            _ => foreign("its disk is of an unknown type"),
        }
    }
}

/// The string that is this field of a message.
fn string_in(mut part: Part<'_>, wanted: u64) -> wire::Result<Option<Part<'_>>> {
    let mut found = None;
    while let Some((number, value)) = part.field()? {
        if let (true, Value::Bytes(string)) = (number == wanted, value) {
            found = Some(string);
        }
    }
    Ok(found)
}

fn text(part: Part<'_>, what: &str) -> std::result::Result<String, String> {
    String::from_utf8(part.bytes().to_vec()).map_err(|_| format!("{what} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::super::wire::write::{bytes, double, number, record};
    use super::*;
    use std::fs;

    const STATE: &str = FILES[0].1;
    const STATE_TARGET: &str = FILES[0].2;
    const INFO: &str = FILES[1].1;
    const INFO_TARGET: &str = FILES[1].2;

    struct Work {
        path: PathBuf,
        fd: OwnedFd,
    }

    impl Work {
        fn new(name: &str) -> Work {
            let path = std::env::temp_dir().join(format!("fs-isolator-checkpoint-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("meta/resources")).unwrap();
            fs::create_dir_all(path.join("meta/volume_gid_manager")).unwrap();
            let fd = sys::open_place(sys::cwd(), &path, Resolve::NoMagic).unwrap();
            Work { path, fd }
        }

        fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> &Work {
            fs::write(self.path.join(file), bytes).unwrap();
            self
        }

        fn read(&self) -> Checkpoint {
            read(&self.fd).unwrap().unwrap()
        }
    }

    impl Drop for Work {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    /// A disk resource with all that Mesos writes around it, without role and `disk`.
    fn scalar() -> Vec<u8> {
        [bytes(1, "disk"), number(2, 0), bytes(3, double(1, 2048.0))].concat()
    }

    fn disk(id: &str, source: &[u8]) -> Vec<u8> {
        let persistence = [bytes(1, id), bytes(2, "ops")].concat();
        let volume = [number(3, 1), bytes(1, "data")].concat();
        bytes(7, [bytes(1, persistence), bytes(2, volume), source.to_vec()].concat())
    }

    /// Before reservations could be refined, as in resources.info.
    fn before(role: &str, id: &str) -> Vec<u8> {
        [scalar(), bytes(6, role), disk(id, b""), bytes(8, bytes(1, "ops"))].concat()
    }

    /// With reservations, the last of which counts.
    fn after(roles: &[&str], id: &str, source: &[u8]) -> Vec<u8> {
        let reservations = roles.iter().flat_map(|role| bytes(13, [number(4, 2), bytes(3, role)].concat()));
        let allocated = bytes(11, bytes(1, "another"));
        [scalar(), allocated, disk(id, source), reservations.collect()].concat()
    }

    /// `DiskInfo.source` of this type with a root.
    fn source(kind: u64, root: &str) -> Vec<u8> {
        bytes(3, [number(1, kind), bytes(kind as u8 + 1, bytes(1, root))].concat())
    }

    fn state(resources: &[Vec<u8>]) -> Vec<u8> {
        let operation = bytes(1, [bytes(3, "an operation"), number(9, 1)].concat());
        record([operation, resources.iter().flat_map(|resource| bytes(2, resource)).collect()].concat())
    }

    fn sequence(resources: &[Vec<u8>]) -> Vec<u8> {
        resources.iter().flat_map(record).collect()
    }

    fn names(volumes: &[Volume]) -> Vec<String> {
        volumes.iter().map(|volume| format!("{} {}", volume.role, volume.id)).collect()
    }

    #[test]
    fn both_formats_are_read_and_the_newer_one_wins() {
        let work = Work::new("formats");
        assert_eq!(read(&work.fd).unwrap(), None);
        let cpus = [bytes(1, "cpus"), number(2, 0), bytes(3, double(1, 4.0))].concat();
        work.write(INFO, sequence(&[cpus.clone(), before("ads", "old#1")]));
        let read = work.read();
        assert_eq!((read.source.as_str(), names(&read.volumes)), (INFO, vec!["ads old#1".to_owned()]));
        assert_eq!((read.pending, read.faults), (None, vec![]));
        work.write(STATE, state(&[cpus, after(&["eng", "eng/front_end"], "id1", b"")]));
        let read = work.read();
        assert_eq!((read.source.as_str(), names(&read.volumes)), (STATE, vec!["eng/front_end id1".to_owned()]));
        let volume = &read.volumes[0];
        assert_eq!((volume.size_mb, volume.shared, volume.principal.as_deref()), (Some(2048.0), false, Some("ops")));
        assert_eq!(volume.disk, Disk::Root);
    }

    #[test]
    fn disks_and_sharing_are_told_apart() {
        let work = Work::new("disks");
        let role: &[&str] = &["ads"];
        let shared = [after(role, "shared", b""), bytes(10, "")].concat();
        let csi = bytes(3, [number(1, 2), bytes(3, bytes(1, "/csi")), bytes(4, "vol-1")].concat());
        work.write(
            STATE,
            state(&[
                after(role, "path", &source(1, "/mnt/raid")),
                after(role, "mount", &source(2, "disks/one")),
                shared.clone(),
                shared,
                after(role, "block", &bytes(3, number(1, 3))),
                after(role, "raw", &bytes(3, number(1, 4))),
                after(role, "unknown", &bytes(3, number(1, 99))),
                after(role, "csi", &csi),
                after(role, "rootless", &bytes(3, number(1, 1))),
                [after(role, "provider", b""), bytes(12, bytes(1, "p"))].concat(),
            ]),
        );
        let read = work.read();
        assert_eq!(read.faults, Vec::<String>::new());
        let disk = |id: &str| &read.volumes.iter().find(|volume| volume.id.as_str() == id).unwrap().disk;
        assert_eq!(disk("path"), &Disk::Path("/mnt/raid".to_owned()));
        assert_eq!(disk("mount"), &Disk::Mount("disks/one".to_owned()));
        for (id, part) in [
            ("block", "BLOCK"),
            ("raw", "RAW"),
            ("unknown", "unknown"),
            ("csi", "CSI"),
            ("rootless", "no root"),
            ("provider", "provider"),
        ] {
            assert!(matches!(disk(id), Disk::Foreign(why) if why.contains(part)), "{id}: {:?}", disk(id));
        }
        assert_eq!(read.volumes.iter().filter(|volume| volume.shared).count(), 1, "copies of one are one");
        let json = serde_json::to_value(&read.volumes[1]).unwrap();
        assert_eq!((&json["disk"]["mount"], &json["role"]), (&"disks/one".into(), &"ads".into()));
    }

    // mesos.md AG5
    #[test]
    fn a_pending_change_is_told() {
        let work = Work::new("pending");
        let (keep, gone, new) = (before("a", "keep"), before("a", "gone"), before("a/b", "new"));
        work.write(INFO, sequence(&[keep.clone(), gone.clone()]));
        work.write(INFO_TARGET, sequence(&[keep.clone(), new.clone()]));
        let pending = work.read().pending.unwrap();
        assert_eq!(pending.source, INFO_TARGET);
        assert_eq!(
            (names(&pending.created), names(&pending.destroyed)),
            (vec!["a/b new".into()], vec!["a gone".into()])
        );
        // The files of one format only; a volume that grew is the same.
        work.write(STATE, state(std::slice::from_ref(&keep)));
        assert_eq!(work.read().pending, None);
        let grown = [keep, bytes(3, double(1, 4096.0))].concat();
        work.write(STATE_TARGET, state(&[grown]));
        let pending = work.read().pending.unwrap();
        assert_eq!((pending.created, pending.destroyed), (vec![], vec![]));
    }

    // mesos.md B4: what a reboot leaves of a file that was not on disk yet.
    #[test]
    fn empty_files_mean_nothing() {
        let work = Work::new("empty");
        work.write(STATE_TARGET, state(&[before("a", "new")]));
        assert_eq!(read(&work.fd).unwrap(), None, "a target alone is not read by the agent either");
        work.write(STATE, "").write(STATE_TARGET, "").write("meta/volume_gid_manager/volume_gids", "");
        let read = work.read();
        assert_eq!((read.volumes, read.pending, read.faults), (vec![], None, vec![]));
        assert_eq!(gids(&work.fd).unwrap(), vec![]);
        fs::remove_file(work.path.join(STATE)).unwrap();
        work.write(INFO, "");
        assert_eq!(work.read().volumes, vec![]);
        // An empty sequence cannot be told from one that says that nothing is to be left, and the agent obeys it.
        work.write(INFO, sequence(&[before("a", "db")])).write(INFO_TARGET, "");
        assert_eq!(names(&work.read().pending.unwrap().destroyed), ["a db"]);
    }

    #[test]
    fn volumes_that_cannot_be_are_told_one_by_one() {
        let work = Work::new("faults");
        let nameless = [scalar(), bytes(6, "a"), bytes(7, bytes(1, ""))].concat();
        let unreserved = [scalar(), disk("x", b"")].concat();
        let bare = [scalar(), disk("x", b""), bytes(13, number(4, 1))].concat();
        let resources = [
            before("a", "good"),
            before("a", "../.."),
            before("-a", "x"),
            nameless,
            unreserved,
            bare,
            before("a", "b"),
        ];
        work.write(INFO, sequence(&resources));
        let read = work.read();
        assert_eq!(names(&read.volumes), ["a good", "a b"]);
        assert_eq!(read.faults.len(), 5, "{:#?}", read.faults);
        let second = 4 + resources[0].len() + 4;
        assert!(read.faults[0].starts_with(&format!("{INFO} at byte {second}: persistence id \"../..\" ")), "{read:?}");
        assert!(read.faults[3].contains("role \"*\""), "{read:?}");
        let binary = [scalar(), bytes(6, b"\xff"), disk("x", b"")].concat();
        work.write(INFO, sequence(&[binary]));
        assert!(work.read().faults[0].contains("the role is not UTF-8"));
    }

    #[test]
    fn what_is_cut_short_is_refused_with_file_and_place() {
        let work = Work::new("cut");
        let whole = state(&[before("a", "b"), after(&["a"], "c", &source(1, "/x"))]);
        for end in 1..whole.len() {
            work.write(STATE, &whole[..end]);
            let error = read(&work.fd).unwrap_err();
            assert_eq!(error.cause(), Cause::MesosCheckpoint);
            assert!(error.to_string().contains(&format!("{STATE} at byte 0: ")), "{end}: {error}");
        }
        work.write(STATE, [&whole[..], b"x"].concat());
        assert!(read(&work.fd).unwrap_err().to_string().contains(&format!("at byte {}: more than", whole.len())));
        work.write(STATE, record(bytes(2, [0x0b])));
        assert!(read(&work.fd).unwrap_err().to_string().contains("at byte 6: a group"));
        fs::remove_file(work.path.join(STATE)).unwrap();
        let (first, second) = (record(before("a", "b")), record(before("a", "c")));
        for end in 1..second.len() {
            work.write(INFO, [&first[..], &second[..end]].concat());
            let error = read(&work.fd).unwrap_err().to_string();
            assert!(error.contains(&format!("{INFO} at byte {}: ", first.len())), "{end}: {error}");
        }
        work.write(INFO, &first).write(INFO_TARGET, &second[..9]);
        assert!(read(&work.fd).unwrap_err().to_string().contains(INFO_TARGET));
    }

    #[test]
    fn only_regular_files_that_no_link_leads_to_are_read() {
        let work = Work::new("links");
        fs::write(work.path.join("elsewhere"), "").unwrap();
        std::os::unix::fs::symlink("../../elsewhere", work.path.join(INFO)).unwrap();
        assert_eq!(read(&work.fd).unwrap_err().cause(), Cause::MesosCheckpoint);
        fs::remove_file(work.path.join(INFO)).unwrap();
        nix::unistd::mkfifo(&work.path.join(INFO), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&work.fd).unwrap_err().cause(), Cause::MesosCheckpoint);
    }

    // mesos.md G6
    #[test]
    fn gids_of_volumes_are_read() {
        const GIDS: &str = "meta/volume_gid_manager/volume_gids";
        let work = Work::new("gids");
        assert_eq!(gids(&work.fd).unwrap(), vec![]);
        let info = |path: &str, gid| bytes(1, [number(1, 1), bytes(2, path), number(3, gid)].concat());
        work.write(GIDS, record([info("/w/volumes/roles/a b/c d", 10000), info("/w/x", 10001)].concat()));
        let expected = vec![(PathBuf::from("/w/volumes/roles/a b/c d"), 10000), (PathBuf::from("/w/x"), 10001)];
        assert_eq!(gids(&work.fd).unwrap(), expected);
        for bad in [info("/w", 1 << 32), bytes(1, number(3, 1)), bytes(1, bytes(2, "/w")), vec![0x0a, 9]] {
            work.write(GIDS, record(&bad));
            let error = gids(&work.fd).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{GIDS} at byte ")), "{error}");
        }
    }
}
