//! What the tests stand on: a host of either kind in a mount namespace of its own, a lab with a configuration
//! and a `work_dir`, real containers of real runtimes, and a look for leaks.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

pub const PRESTART: &str = env!("CARGO_BIN_EXE_fs-isolator-prestart");
pub const POSTSTART: &str = env!("CARGO_BIN_EXE_fs-isolator-poststart");
pub const POSTSTOP: &str = env!("CARGO_BIN_EXE_fs-isolator-poststop");
pub const CLI: &str = env!("CARGO_BIN_EXE_fs-isolator");

/// Both kinds of host occur: `/` shared, as under systemd, and `/` private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Shared,
    Private,
}

pub const HOSTS: [Host; 2] = [Host::Shared, Host::Private];

/// Where root's leases lie.
const RUN: &str = "/run/fs-isolator";

/// Volumes that somebody holds, or that have a directory for holders.
pub fn leases() -> Vec<String> {
    names(&Path::new(RUN).join("leases"))
}

/// Runs a test with each runtime, on a shared host.
pub fn each(test: impl Fn(Runtime) + Copy + Send + 'static) {
    for runtime in RUNTIMES {
        on(Host::Shared, move || test(runtime));
    }
}

/// Runs a test on a host of its own: a mount namespace from which nothing reaches the machine.
pub fn on<F: FnOnce() + Send + 'static>(host: Host, test: F) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("the tests need root (CAP_SYS_ADMIN)");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // crun refuses a host with both kinds of cgroups. Runtimes make directories there all the same.
        let unified = "/sys/fs/cgroup/unified";
        if umount2(unified, MntFlags::MNT_DETACH).is_ok() {
            mount(Some("tmpfs"), unified, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        }
        // Leases lie there whatever the configuration says: each test has its own, and the machine keeps its.
        fs::create_dir_all(RUN).unwrap();
        mount(Some("tmpfs"), RUN, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        // Tests have nothing to tell the machine's own journal.
        if Path::new("/run/systemd/journal").exists() {
            mount(Some("tmpfs"), "/run/systemd/journal", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        }
        if host == Host::Shared {
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).unwrap();
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test on both kinds of host.
pub fn on_both(test: fn(Host)) {
    for host in HOSTS {
        on(host, move || test(host));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Crun,
}

pub const RUNTIMES: [Runtime; 2] = [Runtime::Runc, Runtime::Crun];

impl Runtime {
    pub fn program(self) -> &'static str {
        match self {
            Runtime::Runc => "runc",
            Runtime::Crun => "crun",
        }
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn failed(self) -> Ran {
        assert_ne!(self.code, 0, "{self:#?}");
        self
    }

    pub fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }
}

/// What a pipe takes at once, in bytes (pipe(7)).
const PIPE: usize = 64 << 10;

/// Runs a command with this on its standard input, for at most a minute.
pub fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    // What fits into a pipe needs nobody to wait until it is read.
    let writer = if input.len() <= PIPE {
        let _ = stdin.write_all(input);
        drop(stdin);
        None
    } else {
        let input = input.to_vec();
        Some(std::thread::spawn(move || drop(stdin.write_all(&input))))
    };
    let output = child.wait_with_output().unwrap();
    if let Some(writer) = writer {
        writer.join().unwrap();
    }
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn run(program: &str, arguments: &[&str]) -> Ran {
    run_with(Command::new("timeout").arg("60").arg(program).args(arguments), b"")
}

pub fn cli(arguments: &[&str]) -> Ran {
    run(CLI, arguments)
}

/// The mount table of this test's host. (`/proc/self` would be another thread's.)
pub fn mount_table() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

pub fn tmpfs(at: &Path, flags: MsFlags) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, None::<&str>).unwrap();
}

pub fn bind(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

pub fn make_shared(at: &Path) {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
}

pub fn make_private(at: &Path) {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// Folder of all labs: below root's own directories, since a sticky /tmp is not trusted.
const LABS: &str = "/var/lib/fs-isolator-tests";

/// Keeps this test's labs in memory, where waiting for a disk to write takes no time.
pub fn labs_in_memory() {
    tmpfs(Path::new(LABS), MsFlags::empty());
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A configuration, a `work_dir`, a `runtime_dir` and room for bundles; gone when it is dropped.
pub struct Lab {
    pub dir: PathBuf,
    table: String,
}

impl Lab {
    /// A lab with this isolation.
    pub fn new(isolation: &str) -> Lab {
        Lab::with(json!({ "isolation": isolation }))
    }

    /// A lab with more in its configuration; paths are filled in.
    pub fn with(config: Value) -> Lab {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(LABS).join(format!("{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("work")).unwrap();
        fs::set_permissions(LABS, PermissionsExt::from_mode(0o755)).unwrap();
        let lab = Lab { dir, table: mount_table() };
        lab.configure(config);
        lab
    }

    /// Writes the configuration anew.
    pub fn configure(&self, mut config: Value) {
        let given = config.as_object_mut().unwrap();
        let default = json!({
            "work_dir": self.work(), "runtime_dir": self.runtime_dir(),
            "managers": { "local": [self.dir.join("bundles")] },
        });
        for (key, value) in default.as_object().unwrap() {
            given.entry(key.clone()).or_insert(value.clone());
        }
        fs::write(self.config(), config.to_string()).unwrap();
        fs::set_permissions(self.config(), PermissionsExt::from_mode(0o644)).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Path of a volume of the default role, made with the command for people.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.volume_of("default", id)
    }

    pub fn volume_of(&self, role: &str, id: &str) -> PathBuf {
        self.cli(&["volume", "create", "--role", role, id]).ok();
        self.volume_path(role, id)
    }

    pub fn volume_path(&self, role: &str, id: &str) -> PathBuf {
        self.work().join("volumes/roles").join(role.replace('/', " ")).join(id)
    }

    /// The command for people, with this lab's configuration.
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let config = self.config();
        let mut all = vec!["--config", config.to_str().unwrap()];
        all.extend(arguments);
        cli(&all)
    }

    /// A command for people on a running container of this lab.
    pub fn live(&self, container: &Container, verb: &str, words: &[&str]) -> Ran {
        let root = container.root.to_str().unwrap();
        self.cli(&[&[verb, "--runtime-root", root, &container.id], words].concat())
    }

    /// A container with an image of its own: a busybox.
    pub fn container(&self, runtime: Runtime, id: &str) -> Container {
        let container = Container::new(self, runtime, id);
        make_rootfs(&container.rootfs());
        container
    }

    /// A bundle without a root filesystem.
    pub fn bundle(&self, runtime: Runtime, id: &str) -> Container {
        Container::new(self, runtime, id)
    }

    /// A container on the host's filesystem: its rootfs is a bind of `/`, with /proc and /dev of its own.
    pub fn host_container(&self, runtime: Runtime, id: &str) -> Container {
        let container = Container::new(self, runtime, id);
        bind(Path::new("/"), &container.rootfs());
        container
    }

    /// Names under `runtime_dir/KIND`.
    pub fn runtime_files(&self, kind: &str) -> Vec<String> {
        names(&self.runtime_dir().join(kind))
    }

    /// Sandboxes that hooks made for containers of this manager.
    pub fn sandboxes(&self, manager: &str) -> Vec<String> {
        names(&self.work().join("sandboxes").join(manager))
    }

    /// The log of a container, by the beginning of its name.
    pub fn log(&self, id: &str) -> String {
        let directory = self.runtime_dir().join("log");
        names(&directory)
            .iter()
            .filter(|name| name.starts_with(&format!("{id}.")))
            .map(|name| fs::read_to_string(directory.join(name)).unwrap())
            .collect()
    }

    /// Everything that hooks should have removed and did not: records, mount point lists, temporary names, mounts.
    pub fn leaks(&self) -> Vec<String> {
        let mut leaks: Vec<String> = Vec::new();
        for kind in ["records", "mountpoints"] {
            leaks.extend(self.runtime_files(kind).iter().map(|name| format!("{kind}/{name}")));
        }
        leaks.extend(leases().iter().map(|name| format!("leases/{name}")));
        // Not through mounts of the test itself: a bind of / would lead to the labs of other tests.
        let mounted = mount_points_below(&self.dir);
        let mut todo = vec![self.dir.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with(".fs-isolator.") {
                    leaks.push(path.display().to_string());
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !mounted.iter().any(|at| Path::new(at) == path)
                {
                    todo.push(path);
                }
            }
        }
        if mount_table_without(&self.dir) != mount_table_of(&self.table, &self.dir) {
            leaks.push(format!("mounts on the host:\n{}", mount_table()));
        }
        leaks
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "left behind: {leaks:#?}");
    }
}

fn mount_points_below(directory: &Path) -> Vec<String> {
    let plain = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    let point = |line: &str| line.split(' ').nth(4).map(plain);
    mount_table().lines().filter_map(point).filter(|point| Path::new(point).starts_with(directory)).collect()
}

/// Mounts that the test itself makes below its lab are its own business.
fn mount_table_of(table: &str, without: &Path) -> Vec<String> {
    let inside = format!(" {}", without.display());
    table.lines().filter(|line| !line.contains(&inside)).map(strip_ids).collect()
}

fn mount_table_without(without: &Path) -> Vec<String> {
    mount_table_of(&mount_table(), without)
}

/// Without mount ids and peer groups, which differ between looks.
pub fn strip_ids(line: &str) -> String {
    line.split(' ')
        .skip(2)
        .filter(|field| !field.starts_with("shared:") && !field.starts_with("master:"))
        .collect::<Vec<_>>()
        .join(" ")
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Mounts of the test go with its namespace; those that are still there must not be deleted through.
        for point in mount_points_below(&self.dir).iter().rev() {
            let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
        }
        let _ = run("rm", &["-rf", "--one-file-system", self.dir.to_str().unwrap()]);
    }
}

/// Files below a directory that have a text in them.
pub fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let ran = run("grep", &["-rl", "--devices=skip", text, directory.to_str().unwrap()]);
    ran.out.lines().map(PathBuf::from).collect()
}

pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect(),
        Err(_) => Vec::new(),
    };
    names.sort();
    names
}

/// Larger files are told apart by size and time.
const LARGE: u64 = 64 << 10;

/// Everything below a directory with its type, mode, owner and content: to see that nothing changed.
pub fn manifest(directory: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if stat.len() > LARGE {
            format!("{} bytes of {}.{}", stat.len(), stat.mtime(), stat.mtime_nsec())
        } else {
            fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        all.insert(
            path.display().to_string(),
            format!("{:o} {}:{} {} {content}", stat.mode(), stat.uid(), stat.gid(), stat.ino()),
        );
    }
    all
}

const APPLETS: [&str; 20] = [
    "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "touch", "mount", "umount", "grep", "mkdir", "rmdir",
    "stat", "dd", "ln", "sync", "readlink", "mv",
];

/// A root filesystem with a busybox in it.
pub fn make_rootfs(at: &Path) {
    for directory in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        let _ = symlink("busybox", at.join("bin").join(applet));
    }
    fs::write(at.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::set_permissions(at.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
}

/// A bundle, and the container that a runtime makes of it.
pub struct Container {
    pub runtime: Runtime,
    pub id: String,
    pub bundle: PathBuf,
    /// config.json, written before each start.
    pub spec: Value,
    /// Options of the runtime, before its verb.
    pub options: Vec<&'static str>,
    /// Where the runtime keeps its state.
    pub root: PathBuf,
    created: bool,
}

impl Container {
    fn new(lab: &Lab, runtime: Runtime, id: &str) -> Container {
        let bundle = lab.dir.join("bundles").join(format!("{}-{id}", runtime.program()));
        fs::create_dir_all(&bundle).unwrap();
        let mut container = Container {
            runtime,
            id: id.to_owned(),
            bundle,
            spec: spec(),
            options: Vec::new(),
            root: lab.dir.join("runtimes").join(runtime.program()),
            created: false,
        };
        // Runtimes kill a container by its cgroup: tests that run at once must not share one.
        let lab_name = lab.dir.file_name().unwrap().to_string_lossy();
        container.spec["linux"]["cgroupsPath"] =
            json!(format!("/fs-isolator-tests-{lab_name}-{}-{id}", runtime.program()));
        container.hooks(&lab.config(), &[("prestart", PRESTART), ("poststart", POSTSTART), ("poststop", POSTSTOP)]);
        container
    }

    pub fn rootfs(&self) -> PathBuf {
        match Path::new(self.spec["root"]["path"].as_str().unwrap()) {
            absolute if absolute.is_absolute() => absolute.to_owned(),
            relative => self.bundle.join(relative),
        }
    }

    /// Registers exactly these hooks, by OCI stage and executable.
    pub fn hooks(&mut self, config: &Path, hooks: &[(&str, &str)]) -> &mut Container {
        let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (stage, path) in hooks {
            let mut hook =
                json!({ "path": path, "args": ["hook", "--config", config], "env": ["PATH=/bin"], "timeout": 30 });
            if self.runtime == Runtime::Crun {
                // 1.8.1 with a time-out waits for a SIGCHLD of the hook's own: one that arrives together with that of
                // init, or of crun's helpers for a user namespace, is lost, and so are the hook's 30 s.
                hook.as_object_mut().unwrap().remove("timeout");
            }
            all.entry(stage).or_default().push(hook);
        }
        self.spec["hooks"] = json!(all);
        self
    }

    /// Asks for volumes.
    pub fn ask(&mut self, volumes: &str) -> &mut Container {
        self.annotate("io.fs-isolator.volumes", volumes)
    }

    pub fn annotate(&mut self, key: &str, value: &str) -> &mut Container {
        self.spec["annotations"][key] = json!(value);
        self
    }

    /// The command, for the container's shell.
    pub fn shell(&mut self, script: &str) -> &mut Container {
        self.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        self
    }

    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Container {
        self.spec["process"]["user"] = json!({ "uid": uid, "gid": gid });
        self
    }

    pub fn cwd(&mut self, cwd: &Path) -> &mut Container {
        self.spec["process"]["cwd"] = json!(cwd);
        self
    }

    /// Gives it a user namespace with 65536 ids from this one of the host on, and its root filesystem to its root, which
    /// makes what it lacks there.
    pub fn map_ids(&mut self, first: u32) -> &mut Container {
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": first, "size": 65536 }]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        run("chown", &["-R", &format!("{first}:{first}"), self.rootfs().to_str().unwrap()]).ok();
        self
    }

    /// Makes it one of a pod as CRI-O does: the bundle where CRI-O keeps them, below the lab's `crio`, and its annotations.
    pub fn in_pod(mut self, lab: &Lab, pod: &str) -> Container {
        let bundle = lab.dir.join("crio/overlay-containers").join(&self.id).join("userdata");
        fs::create_dir_all(&bundle).unwrap();
        self.spec["root"]["path"] = json!(self.rootfs());
        self.bundle = bundle;
        let name = self.id.clone();
        for (key, value) in [
            ("io.container.manager", "cri-o"),
            ("io.kubernetes.cri-o.SandboxID", pod),
            ("io.kubernetes.cri-o.SandboxName", "k8s_web_team-a_0_0"),
            ("io.kubernetes.pod.namespace", "team-a"),
            ("io.kubernetes.container.name", &name),
        ] {
            self.annotate(key, value);
        }
        self
    }

    /// Adds a bind mount of the bundle's own.
    pub fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) -> &mut Container {
        let mount = json!({ "destination": destination, "type": "bind", "source": source, "options": options });
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn write(&self) {
        fs::write(self.bundle.join("config.json"), self.spec.to_string()).unwrap();
    }

    /// A command of the runtime for it, below timeout(1).
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["60", self.runtime.program(), "--root"]).arg(&self.root).args(&self.options);
        command.arg(verb).args(arguments);
        command.current_dir(&self.bundle);
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Ran {
        self.write();
        run_with(&mut self.command("run", &[&self.id]), b"")
    }

    /// Runs a script to its end.
    pub fn run_shell(&mut self, script: &str) -> Ran {
        self.shell(script).run()
    }

    /// Creates it without starting it. Its output goes to a file, since a pipe would be kept open.
    pub fn create(&mut self) -> Ran {
        self.write();
        let out = self.bundle.join("out");
        let file = fs::File::create(&out).unwrap();
        let mut command = self.command("create", &[&self.id]);
        let status = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        self.created = status.success();
        let text = fs::read_to_string(out).unwrap();
        Ran { code: status.code().unwrap_or(-1), out: text.clone(), err: text }
    }

    /// Starts it after it was created.
    #[track_caller]
    pub fn go(&self) {
        self.try_to_go().ok();
    }

    /// Starts it after it was created, if its hooks let it.
    pub fn try_to_go(&self) -> Ran {
        run_with(&mut self.command("start", &[&self.id]), b"")
    }

    /// Creates it as a child of a process that never asks how its children ended: they stay zombies until that ends.
    #[track_caller]
    pub fn create_unreaped(&mut self, script: &str) -> Child {
        self.shell(script).write();
        let out = fs::File::create(self.bundle.join("out")).unwrap();
        let program = "import ctypes, subprocess, sys, time\n\
                       ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n\
                       subprocess.check_call(sys.argv[1:], stdin=subprocess.DEVNULL)\n\
                       print('ready', flush=True)\ntime.sleep(60)";
        let mut command = Command::new("python3");
        command.args(["-c", program, self.runtime.program(), "--root"]).arg(&self.root);
        command.args(["create", &self.id]).current_dir(&self.bundle).stdin(Stdio::null());
        let parent = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        wait_for("the container to be created", || self.output().contains("ready"));
        self.created = true;
        parent
    }

    /// Creates and starts it, running this script.
    #[track_caller]
    pub fn start(&mut self, script: &str) -> &mut Container {
        self.shell(script);
        self.create().ok();
        run_with(&mut self.command("start", &[&self.id]), b"").ok();
        self
    }

    pub fn exec(&self, script: &str) -> Ran {
        run_with(&mut self.command("exec", &[&self.id, "/bin/sh", "-c", script]), b"")
    }

    pub fn pid(&self) -> i32 {
        let state = run_with(&mut self.command("state", &[&self.id]), b"").ok();
        serde_json::from_str::<Value>(&state.out).unwrap()["pid"].as_i64().unwrap() as i32
    }

    /// The OCI state that the runtime would write.
    pub fn state(&self, pid: i32) -> Value {
        json!({ "ociVersion": "1.0.2", "id": self.id, "status": "creating", "pid": pid, "bundle": self.bundle,
                "annotations": self.spec["annotations"] })
    }

    /// What it wrote since it was created.
    pub fn output(&self) -> String {
        fs::read_to_string(self.bundle.join("out")).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        let state = run_with(&mut self.command("state", &[&self.id]), b"");
        state.code == 0 && serde_json::from_str::<Value>(&state.out).unwrap()["status"] == "running"
    }

    /// Kills its init and waits until that has ended.
    pub fn kill(&self) {
        let pid = self.pid();
        run_with(&mut self.command("kill", &[&self.id, "KILL"]), b"");
        wait_for("the init to end", || !is_alive(pid));
    }

    /// Deletes it, which is when runtimes run poststop.
    pub fn delete(&mut self) -> Ran {
        self.created = false;
        run_with(&mut self.command("delete", &["-f", &self.id]), b"")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.created {
            self.delete();
        }
    }
}

/// An executable script. Registered in place of a hook, its `"$@"` are the hook's arguments.
pub fn script(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.dir.join(name);
    // Not by this process: a child of another test would inherit the descriptor, and the file would be "busy".
    let write = format!("cat > '{0}' && chmod 755 '{0}'", path.display());
    let text = format!("#!/bin/sh\nPATH=/usr/bin:/bin:/usr/sbin:/sbin\n{text}\n");
    run_with(Command::new("sh").args(["-c", &write]), text.as_bytes()).ok();
    path.to_str().unwrap().to_owned()
}

/// Whether a process runs; a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Where main begins in a trace of a static program: behind the last call of std's start, or with the first of a hook, which
/// has none.
pub fn main_begins(calls: &[&str]) -> usize {
    let std_ends = calls.iter().rposition(|line| line.starts_with("rt_sigaction(SIGBUS, {"));
    std_ends.map_or_else(|| calls.iter().position(|line| line.starts_with("umask(")).unwrap(), |last| last + 1)
}

#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a hook by hand.
pub fn hook(program: &str, config: &Path, state: &[u8]) -> Ran {
    run_with(Command::new("timeout").args(["30", program, "--config"]).arg(config), state)
}

pub fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"], "env": ["PATH=/bin:/usr/bin"], "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"],
                "effective": ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"],
                "permitted": ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]
            },
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }
        ],
        "annotations": {},
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] }
    })
}
