//! Rootless podman: a user that exists only in the test's mount namespace, with a home, a runtime directory, subordinate
//! ids, a storage of its own, an image, and hooks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::*;

/// A busybox.
pub const IMAGE: &str = "localhost/busybox";

pub const USER: &str = "fsiso";
pub const UID: u32 = 1234;
pub const HOME: &str = "/home/fsiso";
/// `XDG_RUNTIME_DIR`.
pub const RUN: &str = "/run/user/1234";
/// First of 65536 subordinate ids: 1 in podman's user namespace, where 0 is the user.
pub const SUBIDS: u32 = 300_000;

/// What the user's line in each file is. Copies with that line are bound over the originals.
const ACCOUNT: [(&str, &str); 4] = [
    ("passwd", "fsiso:x:1234:1234::/home/fsiso:/bin/sh"),
    ("group", "fsiso:x:1234:"),
    ("subuid", "fsiso:300000:65536"),
    ("subgid", "fsiso:300000:65536"),
];

pub struct Rootless {
    pub runtime: Runtime,
    pub lab: Lab,
}

impl Rootless {
    /// podman of the user, with [`IMAGE`] and without hooks. At most one at a time in a test's mount namespace.
    pub fn new(runtime: Runtime) -> Rootless {
        make_user();
        let rootless = Rootless { runtime, lab: Lab::with(json!({})) };
        // The machine may lack CAP_SYS_RESOURCE, and locks in /dev/shm would be those of every podman of this uid.
        let conf = format!(
            "[containers]\nnetns = \"none\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\nhooks_dir = [{:?}]\nlock_type = \"file\"\nevents_logger = \"file\"\n\
             cgroup_manager = \"cgroupfs\"\n",
            rootless.path("hooks.d")
        );
        fs::write(rootless.conf(), conf).unwrap();
        make_rootfs(&rootless.path("rootfs"));
        let (rootfs, tar) = (rootless.path("rootfs"), rootless.path("image.tar"));
        run("tar", &["-C", text(&rootfs), "-cf", text(&tar), "."]).ok();
        rootless.run(&["import", "-q", text(&tar), IMAGE]).ok();
        rootless
    }

    /// The same with the project's hooks, as the administrator installs them for every user.
    pub fn with_hooks(runtime: Runtime, isolation: &str) -> Rootless {
        let rootless = Rootless::new(runtime);
        rootless.configure(json!({ "isolation": isolation }));
        let from = Path::new(PRESTART).parent().unwrap();
        let (hooks, bin) = (rootless.path("hooks.d"), rootless.path("bin"));
        let directories =
            ["--hooks-dir", text(&hooks), "--bin-dir", text(&bin), "--from", text(from), "--no-request-token"];
        rootless.lab.cli(&[&["install"], &directories[..]].concat()).ok();
        if runtime == Runtime::Crun {
            without_time_outs(&hooks);
        }
        // The build's directory may lie below one of root's that the user cannot enter.
        fs::copy(CLI, bin.join("fs-isolator")).unwrap();
        rootless
    }

    /// Writes the configuration anew, with directories of the user's.
    pub fn configure(&self, mut config: Value) {
        let default = json!({
            "work_dir": self.work(), "runtime_dir": self.runtime_dir(), "managers": { "podman": [self.storage()] },
        });
        for (key, value) in default.as_object().unwrap() {
            config.as_object_mut().unwrap().entry(key.clone()).or_insert(value.clone());
        }
        self.lab.configure(config);
    }

    /// Below the lab: root's, and readable by the user.
    pub fn path(&self, name: &str) -> PathBuf {
        self.lab.dir.join(name)
    }

    /// podman's graph root, below which bundles lie.
    pub fn storage(&self) -> PathBuf {
        Path::new(HOME).join(".local/share/containers/storage")
    }

    pub fn work(&self) -> PathBuf {
        Path::new(HOME).join(".local/share/fs-isolator")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        Path::new(RUN).join("fs-isolator")
    }

    fn conf(&self) -> PathBuf {
        self.path("containers.conf")
    }

    /// Runs a program as the user, with nothing else in its environment than a login would give.
    pub fn as_user(&self, program: &str, arguments: &[&str]) -> Ran {
        let id = UID.to_string();
        let mut command = Command::new("timeout");
        command.args(["60", "setpriv", "--reuid", &id, "--regid", &id, "--init-groups", program]).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("USER", USER).env("HOME", HOME);
        command.env("XDG_RUNTIME_DIR", RUN).env("CONTAINERS_CONF", self.conf());
        // podman changes to its working directory, which may be one of root's.
        run_with(command.current_dir("/"), b"")
    }

    /// Runs a program as podman's hooks run: root of its user namespace.
    pub fn unshared(&self, program: &str, arguments: &[&str]) -> Ran {
        self.run(&[&["unshare", program], arguments].concat())
    }

    /// The command for people, as the user.
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let (program, config) = (self.path("bin/fs-isolator"), self.lab.config());
        self.as_user(text(&program), &[&["--config", text(&config)], arguments].concat())
    }

    /// Runs a podman command. (`--storage-driver` keeps it from looking for fuse-overlayfs.)
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let options = ["--runtime", self.runtime.program(), "--storage-driver", "overlay"];
        self.as_user("podman", &[&options[..], arguments].concat())
    }

    /// `podman run --rm` of a script in the image.
    pub fn shell(&self, options: &[&str], script: &str) -> Ran {
        self.run(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat())
    }

    /// The same with volumes.
    pub fn ask(&self, options: &[&str], volumes: &str, script: &str) -> Ran {
        let annotation = format!("io.fs-isolator.volumes={volumes}");
        self.shell(&[options, &["--annotation", &annotation]].concat(), script)
    }

    /// A container that stays.
    pub fn start(&self, name: &str, options: &[&str]) {
        self.run(&[&["run", "-d", "--name", name], options, &[IMAGE, "sleep", "1000"]].concat()).ok();
    }

    /// Makes podman forget its namespaces: the next command begins new ones, which see what is mounted by then.
    pub fn forget_namespaces(&self) {
        for process in self.processes().iter().filter(|process| process.is_pause()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            wait_for("the pause process to end", || !is_alive(process.pid));
        }
    }

    /// This podman, its pause process and its conmons: their environment names this lab. (Users of other tests that run
    /// at once have the same id, and containers and their hooks may have no environment.)
    fn processes(&self) -> Vec<Process> {
        let conf = format!("CONTAINERS_CONF={}", self.conf().display()).into_bytes();
        let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        let environment = |pid| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        pids.map(|pid| Process { pid, environment: environment(pid) }).filter(|process| process.has(&conf)).collect()
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        self.run(&["pod", "rm", "-fa", "-t", "0"]);
        self.run(&["rm", "-fa", "-t", "0"]);
        // It would hold this mount namespace's mounts for ever.
        self.forget_namespaces();
        if !std::thread::panicking() {
            wait_for("podman to leave", || self.processes().is_empty());
        }
        remove_user();
    }
}

struct Process {
    pid: i32,
    environment: Vec<u8>,
}

impl Process {
    fn has(&self, variable: &[u8]) -> bool {
        self.environment.split(|byte| *byte == 0).any(|other| other == variable)
    }

    /// It holds podman's user and mount namespace from one command to the next. (It is `podman` or `catatonit`; a pid
    /// file names it, but not after `podman system migrate`.)
    fn is_pause(&self) -> bool {
        self.has(b"_PODMAN_PAUSE=1")
    }
}

/// Makes the user, whose home lies below directories that are root's.
fn make_user() {
    tmpfs_of("/home", "mode=755");
    tmpfs_of("/run/user", "mode=755");
    fs::create_dir(RUN).unwrap();
    tmpfs_of(RUN, &format!("mode=700,uid={UID},gid={UID}"));
    owned_by_user(Path::new(HOME), 0o700);
    let copies = Path::new("/run/user/etc");
    fs::create_dir(copies).unwrap();
    for (name, line) in ACCOUNT {
        let (original, copy) = (Path::new("/etc").join(name), copies.join(name));
        let mut all = fs::read_to_string(&original).unwrap();
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        fs::write(&copy, format!("{all}{line}\n")).unwrap();
        // Not `bind`, which makes directories.
        mount(Some(&copy), &original, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

fn remove_user() {
    let files = ACCOUNT.iter().map(|(name, _)| format!("/etc/{name}"));
    for point in files.chain([RUN, "/run/user", "/home"].map(str::to_owned)) {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
}

fn tmpfs_of(at: &str, options: &str) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options)).unwrap();
}

fn owned_by_user(path: &Path, mode: u32) {
    fs::create_dir_all(path).unwrap();
    chown(path, Some(UID), Some(UID)).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// crun 1.8.1 with one can lose a hook's end, and waits for all of it: most of all in a user namespace, whose helpers end too.
fn without_time_outs(hooks: &Path) {
    for name in names(hooks) {
        let path = hooks.join(name);
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file["hook"].as_object_mut().unwrap().remove("timeout");
        fs::write(&path, file.to_string()).unwrap();
    }
}
