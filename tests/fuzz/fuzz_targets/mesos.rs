//! What a Mesos agent has written down, in each of its formats, read through the filesystem as it always is.
#![no_main]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fs_isolator::mesos::checkpoint::{self, Checkpoint, Disk, Volume};
use fs_isolator::mesos::wire::Part;
use libfuzzer_sys::fuzz_target;

const STATE: &str = "meta/resources/resources_and_operations.state";
const STATE_TARGET: &str = "meta/resources/resources_and_operations.target";
const INFO: &str = "meta/resources/resources.info";
const INFO_TARGET: &str = "meta/resources/resources.target";
const GIDS: &str = "meta/volume_gid_manager/volume_gids";

static WORK_DIR: LazyLock<(PathBuf, OwnedFd)> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("fs-isolator-fuzz-{}", std::process::id()));
    for file in [STATE, GIDS] {
        fs::create_dir_all(path.join(file).parent().unwrap_or(Path::new("/"))).expect("a place for the files");
    }
    let directory = File::open(&path).expect("the place can be opened");
    (path, directory.into())
});

/// What is read of these files.
fn read(files: &[(&str, &[u8])]) -> Result<Option<Checkpoint>, String> {
    let (path, directory) = &*WORK_DIR;
    files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).expect("it is written"));
    let checkpoint = checkpoint::read(directory).map_err(|error| error.to_string());
    files.iter().for_each(|(name, _)| fs::remove_file(path.join(name)).expect("it is removed"));
    checkpoint
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn field(field: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&[field << 3 | 2][..], &varint(value.len() as u64), value].concat()
}

fn record(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_ne_bytes()[..], message].concat()
}

/// A `Resource`, as Mesos would write it; `None` where it was not read whole.
fn resource(volume: &Volume) -> Option<Vec<u8>> {
    let source = |kind: u8, root: &str| field(3, [number(1, kind.into()), field(kind + 1, field(1, root))].concat());
    let source = match &volume.disk {
        Disk::Root => Vec::new(),
        Disk::Path(root) => source(1, root),
        Disk::Mount(root) => source(2, root),
        Disk::Foreign(_) => return None,
    };
    let principal = volume.principal.iter().flat_map(|principal| field(2, principal)).collect();
    let persistence = [field(1, volume.id.as_str()), principal].concat();
    let size = volume.size_mb.map(|size| field(3, [&[1 << 3 | 1][..], &size.to_le_bytes()].concat()));
    Some(
        [
            field(1, "disk"),
            size.unwrap_or_default(),
            field(7, [field(1, persistence), source].concat()),
            if volume.shared { field(10, "") } else { Vec::new() },
            field(13, field(3, volume.role.as_str())),
        ]
        .concat(),
    )
}

fuzz_target!(|bytes: &[u8]| {
    for (file, target) in [(STATE, STATE_TARGET), (INFO, INFO_TARGET)] {
        let Ok(read_once) = read(&[(file, bytes)]) else { continue };
        let read_once = read_once.expect("the file is there");
        let both = read(&[(file, bytes), (target, bytes)]).ok().flatten().expect("the file and its like");
        assert_eq!(both.volumes, read_once.volumes);
        if let Some(pending) = both.pending {
            assert!(pending.created.is_empty() && pending.destroyed.is_empty(), "a change to what is there");
        }
        let (volumes, resources): (Vec<Volume>, Vec<Vec<u8>>) =
            read_once.volumes.iter().filter_map(|volume| Some((volume.clone(), resource(volume)?))).unzip();
        let state: Vec<u8> = resources.iter().flat_map(|resource| field(2, resource)).collect();
        let sequence: Vec<u8> = resources.iter().flat_map(|resource| record(resource)).collect();
        for (file, bytes) in [(STATE, record(&state)), (INFO, sequence)] {
            let again = read(&[(file, &bytes)]).ok().flatten().expect("what was written is read");
            assert_eq!((&again.volumes, again.faults.len()), (&volumes, 0));
        }
    }
    let (path, directory) = &*WORK_DIR;
    fs::write(path.join(GIDS), bytes).expect("it is written");
    let _ = checkpoint::gids(directory);

    let mut part = Part::file(bytes);
    let mut at = 0;
    while let Ok(Some(_)) = part.field() {
        assert!(part.at() > at && part.at() + part.bytes().len() == bytes.len(), "it always moves on");
        at = part.at();
    }
});
