//! podman below a lab: a storage of its own, an image, and the project's hooks as `fs-isolator install` puts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::*;

/// A busybox.
pub const IMAGE: &str = "localhost/busybox";

/// A volume in the sandbox, as in the README.
pub const DB: &str = "io.fs-isolator.volumes=db:data";

pub struct Podman {
    pub runtime: Runtime,
    pub lab: Lab,
}

impl Podman {
    /// podman with hooks of this isolation, and with [`IMAGE`].
    pub fn new(runtime: Runtime, isolation: &str) -> Podman {
        // podman keeps a cache of layers there, whatever its --root.
        tmpfs(Path::new("/var/lib/containers"), nix::mount::MsFlags::empty());
        let podman = Podman { runtime, lab: Lab::new(isolation) };
        podman.configure(json!({ "isolation": isolation }));
        // The machine may lack CAP_SYS_RESOURCE, and locks in /dev/shm would be those of every podman here.
        let conf = format!(
            "[containers]\nnetns = \"none\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\nhooks_dir = [{:?}]\nlock_type = \"file\"\n",
            podman.path("hooks.d")
        );
        fs::write(podman.path("containers.conf"), conf).unwrap();
        podman.install();
        make_rootfs(&podman.path("rootfs"));
        let tar = podman.tar();
        podman.run(&["import", "-q", tar.to_str().unwrap(), IMAGE]).ok();
        podman
    }

    /// Writes the configuration anew; podman's bundles lie in the lab's storage.
    pub fn configure(&self, mut config: Value) {
        if config.get("managers").is_none() {
            config["managers"] = json!({ "podman": [self.path("storage")] });
        }
        self.lab.configure(config);
    }

    pub fn install(&self) {
        let from = Path::new(PRESTART).parent().unwrap();
        let (hooks, bin) = (self.path("hooks.d"), self.path("bin"));
        let directories =
            ["--hooks-dir", text(&hooks), "--bin-dir", text(&bin), "--from", text(from), "--no-request-token"];
        self.lab.cli(&[&["install"], &directories[..]].concat()).ok();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.lab.dir.join(name)
    }

    /// Runs a podman command.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["60", "podman", "--runtime", self.runtime.program(), "--storage-driver", "overlay"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        for (flag, name) in [("root", "storage"), ("runroot", "runroot"), ("tmpdir", "tmp"), ("volumepath", "volumes")]
        {
            command.arg(format!("--{flag}")).arg(self.path(name));
        }
        run_with(command.env("CONTAINERS_CONF", self.path("containers.conf")).args(arguments), b"")
    }

    /// `podman run --rm` of a script in the image.
    pub fn shell(&self, options: &[&str], script: &str) -> Ran {
        self.run(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat())
    }

    /// The same with volumes.
    pub fn ask(&self, volumes: &str, script: &str) -> Ran {
        self.shell(&["--annotation", &format!("io.fs-isolator.volumes={volumes}")], script)
    }

    /// A container that stays.
    pub fn start(&self, name: &str, options: &[&str]) {
        self.run(&[&["run", "-d", "--name", name], options, &[IMAGE, "sleep", "1000"]].concat()).ok();
    }

    pub fn exec(&self, name: &str, script: &str) -> Ran {
        self.run(&["exec", name, "sh", "-c", script])
    }

    /// One field of `podman inspect`.
    pub fn inspect(&self, name: &str, field: &str) -> String {
        self.run(&["inspect", "--format", &format!("{{{{{field}}}}}"), name]).ok().out.trim().to_owned()
    }

    /// Sees that a command failed with this exit code of a hook, and that no container started (its script says
    /// STARTED).
    #[track_caller]
    pub fn not_started(&self, ran: &Ran, code: u8) {
        let shown = match self.runtime {
            Runtime::Runc => format!("exit status {code},"),
            Runtime::Crun => format!("(exit code: {code})"),
        };
        assert!(ran.code == 126 && ran.err.contains(&shown) && !ran.out.contains("STARTED"), "not {code}: {ran:#?}");
    }

    /// The same, with the log that says so, which is new after that.
    #[track_caller]
    pub fn refused(&self, ran: &Ran, code: u8) -> String {
        self.not_started(ran, code);
        let log = self.log();
        assert!(log.contains(&format!("[exit {code}]")), "{log}");
        log
    }

    /// All logs; they are new after that.
    pub fn log(&self) -> String {
        let directory = self.lab.runtime_dir().join("log");
        let read = |name: &String| {
            let text = fs::read_to_string(directory.join(name)).unwrap();
            fs::remove_file(directory.join(name)).unwrap();
            text
        };
        names(&directory).iter().map(read).collect()
    }

    /// An image that carries annotations. podman has no command for that: an OCI layout, written by hand.
    pub fn image_with(&self, annotations: Value) -> String {
        let layout = self.path("layout");
        let _ = fs::remove_dir_all(&layout);
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let blob = |kind: &str, bytes: &[u8]| {
            let sum = run_with(&mut Command::new("sha256sum"), bytes).ok().out[..64].to_owned();
            fs::write(layout.join("blobs/sha256").join(&sum), bytes).unwrap();
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": format!("sha256:{sum}"), "size": bytes.len() })
        };
        let layer = blob("layer.v1.tar", &fs::read(self.tar()).unwrap());
        let config = json!({ "architecture": "amd64", "os": "linux", "author": annotations.to_string(),
                             "config": {}, "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] } });
        let config = blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer], "annotations": annotations });
        let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        self.run(&["pull", "-q", &format!("oci:{}", layout.display())]).ok().out.trim().to_owned()
    }

    fn tar(&self) -> PathBuf {
        let tar = self.path("image.tar");
        if !tar.exists() {
            run("tar", &["-C", text(&self.path("rootfs")), "-cf", text(&tar), "."]).ok();
        }
        tar
    }

    /// The only sandbox there is.
    pub fn sandbox(&self) -> PathBuf {
        let sandboxes = self.lab.sandboxes("podman");
        assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
        self.lab.work().join("sandboxes/podman").join(&sandboxes[0])
    }

    pub fn records(&self) -> usize {
        self.lab.runtime_files("records").len()
    }

    /// Waits until poststop is through: podman runs it from a process that conmon starts.
    #[track_caller]
    pub fn settled(&self) {
        wait_for("poststop", || self.records() == 0 && self.lab.runtime_files("mountpoints").is_empty());
        self.assert_host_untouched();
    }

    /// No volume and no sandbox is mounted on the host, whatever runs. (Lab's own look leaves out the lab.)
    #[track_caller]
    pub fn assert_host_untouched(&self) {
        let table = mount_table();
        assert!(!table.contains(self.lab.work().to_str().unwrap()), "{table}");
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        self.settled();
        self.lab.assert_clean();
    }

    /// Whether any process of this podman is there: conmon, or what it started.
    fn is_busy(&self) -> bool {
        let dir = self.lab.dir.to_str().unwrap().as_bytes();
        names(Path::new("/proc")).iter().any(|name| {
            let line = fs::read(Path::new("/proc").join(name).join("cmdline")).unwrap_or_default();
            line.windows(dir.len()).any(|window| window == dir)
        })
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["pod", "rm", "-fa", "-t", "0"]);
        self.run(&["rm", "-fa", "-t", "0"]);
        if !std::thread::panicking() {
            wait_for("podman to leave", || !self.is_busy());
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
