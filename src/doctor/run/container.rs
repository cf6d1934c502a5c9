//! The throw-away container under a runtime or by podman: its bundle, its command, and what is left of it when it failed.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::super::hooks_d::{Hook, STAGES};
use super::super::runtimes::Program;
use super::place::Place;
use super::probe;
use super::talk::{Signals, Talk};
use crate::config::{Config, Isolator};
use crate::error::{Because, Cause, Result};
use crate::hook::stage::Stage;
use crate::request;

/// Where `fs-isolator install` puts executables.
const EXECUTABLES: &str = "/usr/libexec/oci/hooks.d";

/// It may mount: what it mounts must stay its own.
const CAPABILITIES: [&str; 4] = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_KILL"];

/// A container that can be started.
pub struct Container<'a> {
    /// Its id, or its name where podman gives the id.
    pub id: String,
    program: &'a Program,
    place: &'a Place<'a>,
    annotations: Vec<(String, String)>,
    hooks_dirs: &'a [PathBuf],
    spec: Value,
}

impl<'a> Container<'a> {
    /// Prepares it.
    pub fn new(
        place: &'a Place<'a>,
        program: &'a Program,
        config: &Config,
        hooks: &[Hook],
        hooks_dirs: &'a [PathBuf],
    ) -> Container<'a> {
        let volume = &place.volume;
        let key = |name: &str| format!("{}{name}", request::PREFIX);
        let request = format!("{}:{}:role={}", volume.id, probe::VOLUME, volume.role);
        let mut annotations = vec![(key("volumes"), request)];
        if config.isolation != Isolator::Linux {
            annotations.push((key("isolation"), Isolator::Linux.name().to_owned()));
        }
        annotations.extend(config.request_token.iter().map(|token| (key("token"), token.clone())));
        let id = format!("fs-isolator-doctor-{}-{}", volume.id, program.name);
        let mut container = Container { id, program, place, annotations, hooks_dirs, spec: Value::Null };
        container.spec = container.spec(hooks);
        container
    }

    /// Who runs it.
    pub fn name(&self) -> &'static str {
        self.program.name
    }

    fn is_podman(&self) -> bool {
        self.program.name == "podman"
    }

    fn file(&self, what: &str) -> PathBuf {
        self.place.path.join(format!("{}.{what}", self.program.name))
    }

    fn bundle(&self) -> PathBuf {
        self.file("bundle")
    }

    /// The executables that hooks.d names, or those that are installed where nobody reads hooks.d. Each is timed.
    fn hooks(&self, hooks: &[Hook]) -> Value {
        let mut all = json!({});
        for stage in STAGES {
            let registered = hooks.iter().find(|hook| hook.stage == stage);
            let installed = Path::new(EXECUTABLES).join(stage.program());
            let path = match registered {
                Some(hook) => hook.path.clone(),
                None if hooks.is_empty() && installed.exists() => installed,
                None => continue,
            };
            let mut hook = json!({
                "path": self.place.program(),
                "args": ["fs-isolator", "time-hook", self.file(name(stage)), "--", path, "--config", self.place.config_file()],
                "env": [],
            });
            if let Some(timeout) = registered.and_then(|hook| hook.timeout) {
                hook["timeout"] = timeout.into();
            }
            all[name(stage)] = json!([hook]);
        }
        all
    }

    fn spec(&self, hooks: &[Hook]) -> Value {
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": [],
                "env": [],
                "cwd": "/",
                "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
                "noNewPrivileges": true
            },
            "root": { "path": self.place.rootfs() },
            "hostname": "fs-isolator-doctor",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536"] }
            ],
            "hooks": self.hooks(hooks),
            "annotations": annotations,
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] }
        })
    }

    /// Starts it.
    pub fn start<'s>(&self, nonce: &str, signals: &'s Signals) -> Result<Talk<'s>> {
        let doing = || format!("the container of {} cannot be prepared", self.program.name);
        let errors = File::create(self.file("errors")).because(Cause::Doctor, doing)?;
        let words = ["/fs-isolator", "probe", nonce];
        let mut command = self.base();
        if self.is_podman() {
            for directory in self.hooks_dirs {
                command.arg("--hooks-dir").arg(directory);
            }
            command.args(["run", "--rm", "--interactive", "--name", &self.id, "--network", "none", "--no-hosts"]);
            command.args(["--userns", "host", "--cap-add", "SYS_ADMIN", "--log-driver", "none"]);
            command.arg("--cidfile").arg(self.file("id"));
            // Its root filesystem has no label, and no profile of an engine lets a container mount.
            command.args(["--security-opt", "label=disable", "--security-opt", "apparmor=unconfined"]);
            for (key, value) in &self.annotations {
                command.arg("--annotation").arg(format!("{key}={value}"));
            }
            command.arg("--rootfs").arg(self.place.rootfs()).args(words);
        } else {
            let mut spec = self.spec.clone();
            spec["process"]["args"] = json!(words);
            std::fs::create_dir_all(self.bundle())
                .and_then(|()| std::fs::write(self.bundle().join("config.json"), spec.to_string()))
                .because(Cause::Doctor, doing)?;
            command.args(["run", "--bundle"]).arg(self.bundle()).arg(&self.id);
        }
        Talk::start(command.stderr(errors), signals)
    }

    fn base(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        if !self.is_podman() {
            command.arg("--root").arg(self.file("state"));
        }
        command
    }

    /// Removes what a runtime that was killed, or that failed, has left of it.
    pub fn force_removal(&self) {
        let mut command = self.base();
        if self.is_podman() {
            command.args(["rm", "--force", "--ignore", "--time", "0", &self.id]);
        } else {
            command.args(["delete", "--force", &self.id]);
        }
        // That there is nothing to remove is how it should be.
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// Microseconds that each hook took.
    pub fn times(&self) -> [Option<u64>; 3] {
        STAGES.map(|stage| std::fs::read_to_string(self.file(name(stage))).ok()?.trim().parse().ok())
    }

    /// The id that podman gave it.
    pub fn id_of_podman(&self) -> Option<String> {
        std::fs::read_to_string(self.file("id")).ok().map(|id| id.trim().to_owned())
    }

    /// What the runtime said, and what its hooks did.
    pub fn why_it_failed(&self, why: &str, logs: &[String]) -> String {
        let text = std::fs::read_to_string(self.file("errors")).unwrap_or_default();
        let said = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let logged = logs.iter().find(|line| line.contains(": error: ")).map(String::as_str);
        let all: Vec<&str> = [Some(why), said, logged].into_iter().flatten().collect();
        format!("the container did not run: {}", all.join("; "))
    }
}

/// The stage as config.json has it.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prestart => "prestart",
        Stage::Poststart => "poststart",
        Stage::Poststop => "poststop",
    }
}
