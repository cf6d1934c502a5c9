//! A `work_dir` as a Mesos agent leaves it: mesos.md B1 to B4, with the modes and owners that Mesos gives.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::*;

pub const AGENT: &str = "4a8b5d0e-7a3c-4f0e-9b1d-3c1f2a9e8d77-S0";
pub const FRAMEWORK: &str = "4a8b5d0e-7a3c-4f0e-9b1d-3c1f2a9e8d77-0000";
pub const CONTAINER: &str = "b0c7f6f4-0d49-4a5c-8e0d-5f0f3c2b1a99";

/// Mesos lets ids of tasks and executors have spaces.
pub const EXECUTOR: &str = "my task.1";

/// As Marathon names volumes.
pub const MARATHON: &str = "test2#es_data#dd018920-15e8-11e6-ba9e-56847afe9799";

/// The user of the sandbox's task.
pub const USER: u32 = 1001;

/// A resource with a persistent volume: role, id, type and root of `DiskInfo.source`, and whether it is shared.
#[derive(Debug, Clone, Copy)]
pub struct Persistent<'a> {
    pub role: &'a str,
    pub id: &'a str,
    pub source: Option<(u64, &'a str)>,
    pub shared: bool,
}

/// A volume on the disk of `work_dir`.
pub fn root<'a>(role: &'a str, id: &'a str) -> Persistent<'a> {
    Persistent { role, id, source: None, shared: false }
}

/// What [`work_dir`] has on the disk of `work_dir`.
pub const VOLUMES: [(&str, &str); 3] = [("ads", "v1"), ("eng/front_end", "id1"), ("esaas", MARATHON)];

pub const STATE: &str = "meta/resources/resources_and_operations.state";
pub const TARGET: &str = "meta/resources/resources_and_operations.target";

/// The sandbox of [`CONTAINER`].
pub fn sandbox(work: &Path) -> PathBuf {
    let run = format!("slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/{EXECUTOR}/runs/{CONTAINER}");
    work.join(run)
}

/// Fills a directory as an agent would have that ran a task with a volume, and was ended.
pub fn work_dir(work: &Path) {
    for (role, id) in VOLUMES {
        let volume = work.join("volumes/roles").join(role.replace('/', " ")).join(id);
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("data"), format!("{role} {id}")).unwrap();
    }
    // The one that a task of a user had: its root is that user's, its content is not touched.
    chown(work.join("volumes/roles/ads/v1"), Some(USER), Some(USER)).unwrap();

    let sandbox = sandbox(work);
    fs::create_dir_all(sandbox.join("data")).unwrap();
    for name in ["stdout", "stderr"] {
        fs::write(sandbox.join(name), name).unwrap();
        chown(sandbox.join(name), Some(USER), Some(USER)).unwrap();
    }
    // With filesystem/posix it would be a link.
    symlink(work.join("volumes/roles/ads/v1"), sandbox.join("link")).unwrap();
    fs::set_permissions(&sandbox, PermissionsExt::from_mode(0o750)).unwrap();
    chown(&sandbox, Some(USER), Some(USER)).unwrap();
    symlink(&sandbox, sandbox.parent().unwrap().join("latest")).unwrap();
    symlink(work.join("slaves").join(AGENT), work.join("slaves/latest")).unwrap();

    let meta = work.join("meta");
    let run = meta.join(sandbox.strip_prefix(work).unwrap());
    fs::create_dir_all(run.join("pids")).unwrap();
    fs::write(run.join("pids/forked.pid"), "12345").unwrap();
    symlink(meta.join("slaves").join(AGENT), meta.join("slaves/latest")).unwrap();
    fs::copy("/proc/sys/kernel/random/boot_id", meta.join("boot_id")).unwrap();
    for directory in ["provisioner", "meta/resources", "meta/volume_gid_manager"] {
        fs::create_dir_all(work.join(directory)).unwrap();
    }
    let volumes: Vec<Persistent<'_>> = VOLUMES.iter().map(|(role, id)| root(role, id)).collect();
    checkpoint(work, STATE, &volumes);
    // For a downgrade; it does not count.
    private(&work.join("meta/resources/resources.info"), b"");
}

/// Writes one of the agent's files, with the mode of mkstemp.
pub fn private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// Writes a `ResourceState`.
pub fn checkpoint(work: &Path, file: &str, volumes: &[Persistent<'_>]) {
    let cpus = [string(1, "cpus"), varint(2, 0), string(3, double(4.0))].concat();
    let mut state = string(2, cpus);
    for volume in volumes {
        state.extend(string(2, resource(volume)));
    }
    private(&work.join(file), &record(&state));
}

/// Writes the state of the volume gid manager.
pub fn gids(work: &Path, gids: &[(&Path, u64)]) {
    let info = |(path, gid): &(&Path, u64)| [varint(1, 1), string(2, path.to_str().unwrap()), varint(3, *gid)].concat();
    let infos: Vec<u8> = gids.iter().flat_map(|gid| string(1, info(gid))).collect();
    private(&work.join("meta/volume_gid_manager/volume_gids"), &record(&infos));
}

fn resource(volume: &Persistent<'_>) -> Vec<u8> {
    let persistence = [string(1, volume.id), string(2, "ops")].concat();
    let mut disk = [string(1, persistence), string(2, [varint(3, 1), string(1, "data")].concat())].concat();
    if let Some((kind, root)) = volume.source {
        // PATH and MOUNT have a root, BLOCK and RAW have none.
        let root = if kind < 3 { string(kind as u8 + 1, string(1, root)) } else { Vec::new() };
        disk.extend(string(3, [varint(1, kind), root].concat()));
    }
    let mut resource = [string(1, "disk"), varint(2, 0), string(3, double(64.0)), string(7, disk)].concat();
    if volume.shared {
        resource.extend(string(10, ""));
    }
    // A reservation that was refined, once for each component of the role.
    for (end, _) in volume.role.match_indices('/').chain([(volume.role.len(), "")]) {
        let reservation = [string(1, "ops"), string(3, &volume.role[..end]), varint(4, 2)].concat();
        resource.extend(string(13, reservation));
    }
    resource
}

/// Runs a stand-in for an agent until it is dropped: a script by its name, with these arguments.
pub fn agent(lab: &Lab, name: &str, arguments: &[&str]) -> Agent {
    let script = lab.dir.join(name);
    // The shell must stay the process: its name is the script's.
    fs::write(&script, "#!/bin/sh\necho ready\nread _\ntrue\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&script);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    // A process that another test starts at this moment may still have the script open for writing.
    let mut started = None;
    wait_for("the script to be free", || match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => false,
        answer => started.replace(answer.unwrap()).is_none(),
    });
    let child = started.unwrap();
    let comm = format!("/proc/{}/comm", child.id());
    wait_for("the agent", || fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == name));
    Agent(child)
}

pub struct Agent(Child);

impl Agent {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn varint(field: u8, mut value: u64) -> Vec<u8> {
    let mut bytes = vec![field << 3];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A string or message.
fn string(field: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut bytes = varint(field, value.len() as u64);
    bytes[0] |= 2;
    bytes.extend(value);
    bytes
}

fn double(value: f64) -> Vec<u8> {
    [&[1 << 3 | 1][..], &value.to_le_bytes()].concat()
}

fn record(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_ne_bytes()[..], message].concat()
}
