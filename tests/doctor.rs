//! `fs-isolator doctor`: faults are planted on a clean host one at a time, and each is found and explained.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/mesos.rs"]
mod mesos;
#[allow(dead_code)]
#[path = "common/podman.rs"]
mod podman;
#[path = "common/selinux.rs"]
mod selinux;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use nix::mount::{MntFlags, MsFlags, umount2};
use serde_json::{Value, json};

const HOOKS: &str = "/usr/share/containers/oci/hooks.d";
const PRESTART_FILE: &str = "50-fs-isolator-prestart.json";
const TOKEN: &str = "0123456789abcdef";

/// A host on which nothing is wrong: the hooks are installed where podman reads them, and of runtimes it has runc and
/// podman. Its directories of hooks and configurations of engines are its own.
struct Clean {
    lab: Lab,
}

impl Clean {
    fn new() -> Clean {
        // On a machine without them nothing need be covered.
        for directory in ["/usr/share/containers", "/etc/containers", "/etc/crio"].map(Path::new) {
            if directory.exists() {
                tmpfs(directory, MsFlags::empty());
                mode(directory, 0o755);
            }
        }
        labs_in_memory();
        make_shared(Path::new("/var/lib/fs-isolator-tests"));
        mode(Path::new("/var/lib/fs-isolator-tests"), 0o755);
        let clean = Clean { lab: Lab::new("filesystem/linux") };
        clean.configure(json!({}));
        fs::create_dir(clean.path("path")).unwrap();
        clean.program("runc");
        clean.program("podman");
        clean.install(&[]);
        clean
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.dir.join(name)
    }

    /// Puts one of the machine's programs on the PATH.
    fn program(&self, name: &str) {
        let real = ["/usr/sbin", "/usr/bin"].map(|directory| Path::new(directory).join(name));
        symlink(real.iter().find(|path| path.exists()).unwrap(), self.path("path").join(name)).unwrap();
    }

    fn configure(&self, more: Value) {
        let mut config = json!({ "isolation": "filesystem/linux", "request_token": TOKEN,
            "managers": { "podman": [self.path("storage")], "cri-o": [] } });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.lab.configure(config);
    }

    fn install(&self, more: &[&str]) {
        let from = Path::new(PRESTART).parent().unwrap().to_str().unwrap();
        let bin = self.path("bin");
        self.lab.cli(&[&["install", "--bin-dir", bin.to_str().unwrap(), "--from", from], more].concat()).ok();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["60", CLI, "--config"]).arg(self.lab.config()).arg("doctor").args(arguments);
        run_with(command.env("PATH", self.path("path")).env_remove("CONTAINERS_CONF"), b"")
    }

    fn findings(&self, arguments: &[&str]) -> Vec<Value> {
        let ran = self.run(&[&["--json"], arguments].concat());
        let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
        let findings = report["findings"].as_array().unwrap().clone();
        assert_eq!(ran.code, if findings.is_empty() { 0 } else { 81 }, "{ran:?}");
        findings
    }

    /// Changes a hooks.d file.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = Path::new(HOOKS).join(file);
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    /// A bundle where podman keeps them.
    fn bundle(&self, id: &str, spec: &Value) {
        let directory = self.path("storage/overlay-containers").join(id).join("userdata");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), spec.to_string()).unwrap();
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_clean_host_has_no_faults() {
    on(Host::Shared, || {
        let clean = Clean::new();
        clean.lab.volume("db");
        let before = manifest(&clean.lab.dir);
        let table = mount_table();
        let ran = clean.run(&[]).ok();
        assert!(ran.out.contains("podman reads /usr/share/containers/oci/hooks.d"), "{ran:?}");
        assert!(ran.out.contains("no faults were found") && !ran.out.contains('\x1b'), "{ran:?}");
        assert!(clean.findings(&["--hooks-dir", HOOKS]).is_empty());
        assert_eq!((manifest(&clean.lab.dir), mount_table()), (before, table), "it only looks");
    });
}

struct Fault {
    /// The check that must find it, and no other may.
    check: &'static str,
    /// What it says must contain these: in where and in the remedy.
    place: &'static str,
    remedy: &'static str,
    plant: fn(&Clean),
}

const FAULTS: &[Fault] = &[
    Fault {
        check: "hooks-not-installed",
        place: HOOKS,
        remedy: "fs-isolator install",
        plant: |_| fs::remove_dir_all(HOOKS).unwrap(),
    },
    Fault {
        check: "hooks-incomplete",
        place: HOOKS,
        remedy: "fs-isolator install",
        plant: |_| fs::remove_file(Path::new(HOOKS).join("50-fs-isolator-poststop.json")).unwrap(),
    },
    Fault {
        check: "hook-masked",
        place: "/etc/containers/oci/hooks.d/50-fs-isolator-prestart.json",
        remedy: "rm /etc/containers/oci/hooks.d/50-fs-isolator-prestart.json",
        plant: |_| {
            let directory = Path::new("/etc/containers/oci/hooks.d");
            fs::create_dir_all(directory).unwrap();
            let other =
                json!({ "version": "1.0.0", "hook": { "path": "/bin/true" }, "when": {}, "stages": ["prestart"] });
            fs::write(directory.join(PRESTART_FILE), other.to_string()).unwrap();
            let conf = format!("[engine]\nhooks_dir = [\n  \"{HOOKS}\",\n  '/etc/containers/oci/hooks.d', # ours\n]\n");
            fs::write("/etc/containers/containers.conf", conf).unwrap();
        },
    },
    Fault {
        check: "hooks-not-installed",
        place: "/srv/hooks",
        remedy: "fs-isolator install --hooks-dir /srv/hooks",
        plant: |_| {
            fs::remove_dir_all(HOOKS).unwrap();
            fs::create_dir_all("/etc/containers/containers.conf.d").unwrap();
            fs::write("/etc/containers/containers.conf", "[engine]\nhooks_dir = [\"/srv/first\"]\n").unwrap();
            fs::write("/etc/containers/containers.conf.d/1.conf", "[engine]\nhooks_dir = [\"/srv/hooks\"]\n").unwrap();
        },
    },
    Fault {
        check: "hook-executable-missing",
        place: "bin/fs-isolator-poststart",
        remedy: "fs-isolator install",
        plant: |clean| fs::remove_file(clean.path("bin/fs-isolator-poststart")).unwrap(),
    },
    Fault {
        check: "hook-executable-missing",
        place: "/usr/libexec/fs-isolator-prestrat",
        remedy: "fs-isolator install",
        plant: |clean| {
            clean.edit(PRESTART_FILE, |file| file["hook"]["path"] = json!("/usr/libexec/fs-isolator-prestrat"))
        },
    },
    Fault {
        check: "hook-executable-mode",
        place: "bin/fs-isolator-prestart",
        remedy: "chmod 755",
        plant: |clean| mode(&clean.path("bin/fs-isolator-prestart"), 0o644),
    },
    Fault {
        check: "hook-executable-unsafe",
        place: "bin/fs-isolator-prestart",
        remedy: "chown root",
        plant: |clean| chown(clean.path("bin/fs-isolator-prestart"), Some(1000), None).unwrap(),
    },
    Fault {
        check: "hooks-dir-unsafe",
        place: "/hooks.d",
        remedy: "chmod go-w",
        plant: |clean| {
            // What is in it is not at fault, and is reached through another way.
            let elsewhere = clean.path("hooks.d");
            fs::create_dir(&elsewhere).unwrap();
            mode(&elsewhere, 0o777);
            fs::write("/etc/containers/containers.conf", format!("[engine]\nhooks_dir = [{elsewhere:?}, {HOOKS:?}]\n"))
                .unwrap();
        },
    },
    Fault {
        check: "hook-file-unsafe",
        place: PRESTART_FILE,
        remedy: "chmod go-w",
        plant: |_| mode(&Path::new(HOOKS).join(PRESTART_FILE), 0o666),
    },
    Fault {
        check: "hook-file-invalid",
        place: "/usr/share/containers/oci/hooks.d/99-other.json",
        remedy: "rm /usr/share/containers/oci/hooks.d/99-other.json",
        plant: |_| fs::write(Path::new(HOOKS).join("99-other.json"), "{\"version\": \"1.0.0\",").unwrap(),
    },
    Fault {
        check: "hook-file-invalid",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["version"] = json!("0.1.0")),
    },
    Fault {
        check: "hook-file-invalid",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["stages"] = json!(["preStart"])),
    },
    Fault {
        check: "hook-file-invalid",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["when"] = json!({ "annotations": { "^io(": "" } })),
    },
    Fault {
        check: "hook-never-called",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| {
            clean.edit(PRESTART_FILE, |file| file["when"] = json!({ "annotations": { "^io\\.fs-isolater\\.": "" } }));
        },
    },
    Fault {
        check: "hook-not-always-called",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| {
            clean.edit(PRESTART_FILE, |file| {
                file["when"] = json!({ "annotations": { "^io\\.fs-isolator\\.": "^.*$" } })
            });
        },
    },
    Fault {
        check: "hook-unanchored",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| {
            clean.edit(PRESTART_FILE, |file| file["when"] = json!({ "annotations": { "io.fs-isolator.": "" } }));
        },
    },
    Fault {
        check: "hook-condition",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["when"]["hasBindMounts"] = json!(true)),
    },
    Fault {
        check: "hook-not-for-all",
        place: "50-fs-isolator-",
        remedy: "fs-isolator install",
        plant: |clean| {
            let volume = json!({ "container_path": "/tmp", "mode": "RW", "host_path": "tmp" });
            clean.configure(json!({ "default_container_info": { "type": "MESOS", "volumes": [volume] } }));
        },
    },
    Fault {
        check: "hook-stage",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["stages"] = json!(["createContainer"])),
    },
    Fault {
        check: "hook-stage-twice",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["stages"] = json!(["prestart", "createRuntime"])),
    },
    Fault {
        check: "hook-twice",
        place: "60-again.json",
        remedy: "rm /usr/share/containers/oci/hooks.d/60-again.json",
        plant: |_| {
            let directory = Path::new(HOOKS);
            fs::copy(directory.join(PRESTART_FILE), directory.join("60-again.json")).unwrap();
        },
    },
    Fault {
        check: "hook-environment",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| {
            clean.edit(PRESTART_FILE, |file| drop(file["hook"].as_object_mut().unwrap().remove("env")));
        },
    },
    Fault {
        check: "hook-timeout",
        place: PRESTART_FILE,
        remedy: "fs-isolator install",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["hook"]["timeout"] = json!(0)),
    },
    Fault {
        check: "hook-configuration",
        place: "50-fs-isolator-",
        remedy: "other.json doctor",
        plant: |clean| {
            let other = clean.path("other.json");
            fs::copy(clean.lab.config(), &other).unwrap();
            for file in names(Path::new(HOOKS)) {
                clean.edit(&file, |file| file["hook"]["args"][2] = json!(other));
            }
        },
    },
    Fault {
        check: "hook-configuration-missing",
        place: PRESTART_FILE,
        remedy: "install again",
        plant: |clean| clean.edit(PRESTART_FILE, |file| file["hook"]["args"][2] = json!("/nonexistent.json")),
    },
    Fault {
        check: "hooks-unread",
        place: "/etc/containers/oci/hooks.d",
        remedy: "hooks_dir under [engine]",
        plant: |clean| clean.install(&["--hooks-dir", "/etc/containers/oci/hooks.d"]),
    },
    Fault {
        check: "podman-image-annotations",
        place: "path/podman",
        remedy: "request_token",
        plant: |clean| clean.configure(json!({ "request_token": null })),
    },
    Fault {
        check: "crun-timeout",
        place: "50-fs-isolator-",
        remedy: "take \"timeout\" out",
        plant: |clean| clean.program("crun"),
    },
    Fault {
        check: "no-runtime",
        place: "PATH",
        remedy: "install one",
        plant: |clean| {
            for name in ["runc", "podman"] {
                fs::remove_file(clean.path("path").join(name)).unwrap();
            }
        },
    },
    Fault {
        check: "configuration",
        place: "config.json",
        remedy: "did you mean \"work_dir\"?",
        plant: |clean| clean.configure(json!({ "work_dirr": "/x" })),
    },
    Fault {
        check: "configuration",
        place: "config.json",
        remedy: "chmod go-w",
        plant: |clean| mode(&clean.lab.config(), 0o666),
    },
    Fault {
        check: "unsafe-directory",
        place: "/work",
        remedy: "chown root",
        plant: |clean| chown(clean.lab.work(), Some(1000), None).unwrap(),
    },
    Fault {
        check: "unsafe-directory",
        place: "runtime_dir",
        remedy: "chmod go-w",
        plant: |clean| {
            fs::create_dir(clean.lab.runtime_dir()).unwrap();
            mode(&clean.lab.runtime_dir(), 0o777);
        },
    },
    Fault {
        check: "unsafe-directory",
        place: "/run/fs-isolator/leases",
        remedy: "chown root",
        plant: |_| {
            fs::create_dir("/run/fs-isolator/leases").unwrap();
            chown("/run/fs-isolator/leases", Some(1000), None).unwrap();
        },
    },
    Fault {
        check: "manager-directory",
        place: "/storage",
        remedy: "chown root",
        plant: |clean| {
            fs::create_dir(clean.path("storage")).unwrap();
            mode(&clean.path("storage"), 0o777);
        },
    },
    Fault {
        check: "kernel-idmap",
        place: "/work",
        remedy: "\"ownership\": \"never\"",
        plant: |clean| {
            let none = None::<&str>;
            nix::mount::mount(Some("ramfs"), &clean.lab.work(), Some("ramfs"), MsFlags::empty(), none).unwrap();
            make_shared(&clean.lab.work());
        },
    },
    Fault {
        check: "engine-configuration",
        place: "/etc/containers/containers.conf",
        remedy: "correct /etc/containers/containers.conf",
        plant: |clean| {
            fs::write("/etc/containers/containers.conf", "[engine\n").unwrap();
            // podman itself would not even tell its version.
            let path = script(&clean.lab, "other", "echo podman version 4.9.0");
            fs::rename(path, clean.path("path/podman")).unwrap();
        },
    },
    Fault {
        check: "runtime-version",
        place: "path/crun",
        remedy: "--version",
        plant: |clean| {
            let path = script(&clean.lab, "silent", "exit 1");
            fs::rename(path, clean.path("path/crun")).unwrap();
        },
    },
    Fault {
        check: "volume",
        place: "disks",
        remedy: "",
        plant: |clean| {
            clean.lab.volume("db");
            fs::write(clean.lab.work().join("volumes/roles/default/file"), "").unwrap();
        },
    },
    Fault {
        check: "mesos-leftover",
        place: "/runs/",
        remedy: "fs-isolator adopt --detach",
        plant: |clean| {
            let sandbox = clean.lab.work().join(
                "slaves/f3b1a0de-5c8e-4a6a-9b1c-8e2d7a6c5b40-S0/frameworks/f3b1a0de-5c8e-4a6a-9b1c-8e2d7a6c5b40-0000/\
                 executors/web/runs/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/data",
            );
            let volume = clean.lab.volume("db");
            bind(&volume, &sandbox);
        },
    },
    Fault {
        check: "record",
        place: "records/web.0123456789ab",
        remedy: "",
        plant: |clean| {
            fs::create_dir_all(clean.lab.runtime_dir().join("records")).unwrap();
            mode(&clean.lab.runtime_dir(), 0o700);
            fs::write(clean.lab.runtime_dir().join("records/web.0123456789ab"), "{\"header\":{\"version\":99}}\n")
                .unwrap();
        },
    },
    Fault {
        check: "lease",
        place: "leases",
        remedy: "",
        plant: |_| {
            fs::create_dir_all("/run/fs-isolator/leases/1-2/web.0123456789ab").unwrap();
            mode(Path::new("/run/fs-isolator/leases"), 0o700);
        },
    },
    Fault {
        check: "run-leftover",
        place: "doctor/probe-1-2",
        remedy: "fs-isolator reconcile",
        plant: |clean| {
            fs::create_dir_all(clean.lab.work().join("doctor/probe-1-2")).unwrap();
            mode(&clean.lab.work().join("doctor"), 0o700);
        },
    },
    Fault {
        check: "host-path",
        place: "/nonexistent",
        remedy: "take /nonexistent out",
        plant: |clean| clean.configure(json!({ "host_paths": [{ "path": "/nonexistent", "roles": ["a"] }] })),
    },
    Fault {
        check: "secret",
        place: "secrets db",
        remedy: "chmod 0400",
        plant: |clean| {
            let path = clean.path("secret");
            fs::write(&path, "x").unwrap();
            mode(&path, 0o644);
            clean.configure(json!({ "secrets": [{ "name": "db", "path": path, "roles": ["a"] }] }));
        },
    },
    Fault {
        check: "disk",
        place: "/nvme",
        remedy: "mount it first",
        plant: |clean| {
            let root = clean.path("nvme");
            fs::create_dir(&root).unwrap();
            clean.configure(json!({ "disks": [{ "name": "nvme", "type": "MOUNT", "mount": { "root": root } }] }));
        },
    },
    Fault {
        check: "disk",
        place: "/ssd",
        remedy: "mount the disk",
        plant: |clean| {
            let root = clean.path("ssd");
            clean.configure(json!({ "disks": [{ "name": "ssd", "type": "PATH", "path": { "root": root } }] }));
        },
    },
    Fault {
        check: "private-mount",
        place: "/work",
        remedy: "fs-isolator host, before",
        plant: |clean| {
            tmpfs(&clean.lab.work(), MsFlags::empty());
            make_private(&clean.lab.work());
            mode(&clean.lab.work(), 0o755);
        },
    },
    Fault {
        check: "volume-reachable",
        place: "volumes/roles/default/db",
        remedy: "chmod o-rwx",
        plant: |clean| {
            let volume = clean.lab.volume("db");
            mode(&volume, 0o755);
            mode(volume.parent().unwrap(), 0o755);
            mode(&clean.lab.work().join("volumes/roles"), 0o755);
            mode(&clean.lab.work().join("volumes"), 0o755);
        },
    },
    Fault {
        check: "volume-label",
        place: "volumes/roles/default/db",
        remedy: "chcon -R -t container_file_t -l s0 /",
        plant: |clean| {
            selinux::turn_on("1");
            for (volume, label) in
                [("db", "var_lib_t:s0"), ("a", "container_file_t:s0:c8,c9"), ("b", "container_ro_file_t")]
            {
                selinux::label(&clean.lab.volume(volume), &format!("system_u:object_r:{label}"));
            }
        },
    },
    Fault {
        check: "apparmor-profile",
        place: "0123456789abcdef/userdata/config.json",
        remedy: "apparmor_parser -r",
        plant: |clean| {
            tmpfs(Path::new("/sys/kernel/security"), MsFlags::empty());
            fs::create_dir("/sys/kernel/security/apparmor").unwrap();
            fs::write("/sys/kernel/security/apparmor/profiles", "web (enforce)\n").unwrap();
            for (id, profile) in [("0123456789abcdef", "wep"), ("1123456789abcdef", "web")] {
                let mut spec = spec();
                spec["annotations"] = json!({ "io.fs-isolator.volumes": "db:data" });
                spec["hooks"] = json!({ "prestart": [{ "path": "/usr/libexec/oci/hooks.d/fs-isolator-prestart" }] });
                spec["process"]["apparmorProfile"] = json!(profile);
                clean.bundle(id, &spec);
            }
        },
    },
    Fault {
        check: "container-without-hook",
        place: "0123456789abcdef/userdata/config.json",
        remedy: "podman restart",
        plant: |clean| {
            let mut spec = spec();
            spec["annotations"] = json!({ "io.fs-isolator.volumes": "db:data" });
            spec["hooks"] = json!({ "prestart": [{ "path": "/usr/bin/other" }] });
            clean.bundle("0123456789abcdef", &spec);
        },
    },
    Fault {
        check: "stale-record",
        place: "records/gone.",
        remedy: "fs-isolator reconcile",
        plant: |clean| gone(clean, "sandbox=a:/a"),
    },
    Fault {
        check: "void-lease",
        place: "volume db (default)",
        remedy: "fs-isolator reconcile",
        plant: |clean| {
            clean.lab.volume("db");
            gone(clean, "db:/srv");
            fs::remove_dir_all(clean.lab.runtime_dir().join("records")).unwrap();
        },
    },
];

/// Checks that other tests plant faults for: the kernel is made to fail, or containers have to run. kernel-statmount alone
/// is planted nowhere: strace is older than that call and cannot make it fail.
const ELSEWHERE: [&str; 11] = [
    "kernel",
    "kernel-memory-filesystem",
    "kernel-set-group",
    "kernel-statmount",
    "crun-cgroups",
    "mesos-agent-running",
    "run-failed",
    "run-no-volume",
    "run-no-slave",
    "run-leak",
    "run-not-freed",
];

#[test]
fn every_check_has_a_fault_that_is_planted() {
    let planted: std::collections::BTreeSet<&str> = FAULTS.iter().map(|fault| fault.check).chain(ELSEWHERE).collect();
    let all: std::collections::BTreeSet<&str> =
        fs_isolator::doctor::Check::ALL.iter().map(|check| check.name()).collect();
    assert_eq!(planted, all);
}

/// A container whose hooks at its end never came.
fn gone(clean: &Clean, volumes: &str) {
    let config = clean.lab.config();
    let text = fs::read(&config).unwrap();
    let bundles = json!({ "local": [clean.path("bundles")], "podman": [], "cri-o": [] });
    clean.configure(json!({ "managers": bundles }));
    let mut container = clean.lab.container(Runtime::Runc, "gone");
    let token = TOKEN;
    container.annotate("io.fs-isolator.token", token).hooks(&config, &[("prestart", PRESTART)]);
    container.ask(volumes).start("sleep 1000");
    container.kill();
    container.delete();
    fs::write(config, text).unwrap();
}

#[test]
fn each_fault_is_found_and_explained() {
    let (sender, wrong) = std::sync::mpsc::channel();
    for (index, fault) in FAULTS.iter().enumerate() {
        let sender = sender.clone();
        on(Host::Shared, move || {
            let clean = Clean::new();
            (fault.plant)(&clean);
            let findings = clean.findings(&[]);
            let is_explained = |finding: &Value| {
                let has = |key: &str, text: &str| finding[key].as_str().unwrap().contains(text);
                finding["check"] == fault.check
                    && has("where", fault.place)
                    && has("remedy", fault.remedy)
                    && ["what", "why"].iter().all(|key| finding[key].as_str().unwrap().len() > 10)
            };
            if findings.is_empty() || !findings.iter().all(is_explained) {
                sender.send(format!("fault {index}, {}: {}", fault.check, json!(findings))).unwrap();
            }
        });
    }
    drop(sender);
    let wrong: Vec<String> = wrong.iter().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A host whose podman can run containers, and which has crun too.
fn can_run() -> Clean {
    for directory in ["/var/lib/containers", "/run/containers", "/run/libpod"] {
        tmpfs(Path::new(directory), MsFlags::empty());
        mode(Path::new(directory), 0o755);
    }
    let clean = Clean::new();
    clean.configure(json!({ "managers": { "podman": ["/var/lib/containers/storage"] } }));
    clean.program("crun");
    // The machine may lack CAP_SYS_RESOURCE, and locks in /dev/shm would be those of every podman here.
    let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                [engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
    fs::write("/etc/containers/containers.conf", conf).unwrap();
    // Its directories are there before, and the command makes none.
    clean.lab.volume("db");
    podman_names(&clean);
    for directory in ["records", "mountpoints", "log"] {
        fs::create_dir_all(clean.lab.runtime_dir().join(directory)).unwrap();
    }
    mode(&clean.lab.runtime_dir(), 0o700);
    clean
}

/// Containers that podman has.
fn podman_names(clean: &Clean) -> String {
    let mut command = Command::new("podman");
    run_with(command.args(["ps", "-aq"]).env("PATH", clean.path("path")), b"").ok().out
}

/// What `doctor --run` says, and sees that it left nothing behind.
fn prove(clean: &Clean) -> Value {
    // A refusal is counted, whoever was refused.
    let files = || {
        let mut files = manifest(&clean.lab.dir);
        files.remove(clean.lab.runtime_dir().join("counters").to_str().unwrap());
        files
    };
    let before = (files(), mount_table());
    let ran = clean.run(&["--json", "--run"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!((files(), mount_table()), before, "{report:#}");
    assert_eq!((podman_names(clean), leases()), (String::new(), Vec::new()), "{report:#}");
    report
}

/// Names of the findings that came of running; others are not the business of these tests.
fn of_running(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|one| text(&one["check"]).starts_with("run-"))
        .map(|one| (text(&one["check"]), text(&one["where"])))
        .collect()
}

fn proof(report: &Value, by: &str) -> Value {
    report["proofs"].as_array().unwrap().iter().find(|proof| proof["by"] == by).unwrap().clone()
}

#[test]
fn run_proves_the_whole_chain() {
    on(Host::Shared, || {
        let clean = can_run();
        let report = prove(&clean);
        assert_eq!(of_running(&report), [], "{report:#}");
        for by in ["runc", "crun", "podman"] {
            let proof = proof(&report, by);
            for seen in ["volume", "slave", "contained", "freed"] {
                assert_eq!(proof[seen], true, "{report:#}");
            }
            assert!(proof["start_ms"].as_u64().unwrap() > 0, "{report:#}");
            for hook in ["prestart_us", "poststart_us", "poststop_us"] {
                assert_eq!(proof[hook].as_u64().is_some_and(|us| us > 0), by != "podman", "{report:#}");
            }
        }
        let table = clean.run(&["--run"]);
        assert!(
            table.out.contains("PRESTART")
                && table
                    .out
                    .lines()
                    .take_while(|line| !line.contains("crun-timeout"))
                    .all(|line| line.chars().count() <= 80),
            "{}",
            table.out
        );
    });
}

/// What running tells of each fault that is planted, and where.
#[test]
fn run_tells_what_is_wrong() {
    type Plant = fn(&Clean);
    const ALL: [&str; 3] = ["runc", "crun", "podman"];
    let faults: [(Plant, Vec<(&str, &str)>); 6] = [
        // podman passes over what is not there; poststart ends what prestart has not served.
        (
            |clean| fs::remove_file(clean.path("bin/fs-isolator-prestart")).unwrap(),
            ALL.map(|by| ("run-failed", by)).to_vec(),
        ),
        (
            |clean| {
                for name in ["prestart", "poststart"] {
                    fs::remove_file(clean.path("bin").join(format!("fs-isolator-{name}"))).unwrap();
                }
            },
            vec![("run-failed", "runc"), ("run-failed", "crun"), ("run-no-volume", "podman")],
        ),
        (|_| fs::remove_dir_all(HOOKS).unwrap(), ALL.map(|by| ("run-no-volume", by)).to_vec()),
        (
            |clean| {
                tmpfs(&clean.lab.work(), MsFlags::empty());
                make_private(&clean.lab.work());
                mode(&clean.lab.work(), 0o755);
                clean.lab.volume("db");
            },
            ALL.map(|by| ("run-no-slave", by)).to_vec(),
        ),
        (
            |_| fs::remove_file(Path::new(HOOKS).join("50-fs-isolator-poststop.json")).unwrap(),
            ALL.map(|by| ("run-not-freed", by)).to_vec(),
        ),
        // A runtime that gives the container the host's own mount.
        (
            |clean| {
                fs::remove_file(clean.path("path/runc")).unwrap();
                // runc makes the mount on which a root filesystem lies private; volumes lie on another.
                let volumes = clean.lab.work().join("volumes");
                bind(&volumes, &volumes);
                make_shared(&volumes);
                let edit = "import json, os, sys\n\
                    if '--bundle' in sys.argv:\n \
                    path = sys.argv[sys.argv.index('--bundle') + 1] + '/config.json'\n \
                    spec = json.load(open(path))\n \
                    del spec['hooks']\n \
                    id = spec['annotations'].pop('io.fs-isolator.volumes').split(':')[0]\n \
                    source = path.split('/doctor/')[0] + '/volumes/roles/fs-isolator-doctor/' + id\n \
                    bind = {'destination': '/volume', 'type': 'bind', 'source': source, 'options': ['rbind', 'rshared']}\n \
                    spec['mounts'].append(bind)\n \
                    spec['linux']['rootfsPropagation'] = 'shared'\n \
                    json.dump(spec, open(path, 'w'))\n\
                    os.execv('/usr/sbin/runc', ['runc'] + sys.argv[1:])\n";
                fs::write(clean.path("leaky.py"), edit).unwrap();
                let path =
                    script(&clean.lab, "leaky", &format!("exec python3 {} \"$@\"", clean.path("leaky.py").display()));
                fs::rename(path, clean.path("path/runc")).unwrap();
            },
            vec![("run-leak", "runc")],
        ),
    ];
    for (plant, wanted) in faults {
        on(Host::Shared, move || {
            let clean = can_run();
            plant(&clean);
            let report = prove(&clean);
            let wanted: Vec<_> = wanted.iter().map(|(check, by)| ((*check).to_owned(), (*by).to_owned())).collect();
            assert_eq!(of_running(&report), wanted, "{report:#}");
        });
    }
}

// crun takes propagation away after prestart, and nothing gives it back.
#[test]
fn run_sees_that_poststart_is_needed_with_crun() {
    on(Host::Shared, || {
        let clean = can_run();
        fs::remove_file(Path::new(HOOKS).join("50-fs-isolator-poststart.json")).unwrap();
        let report = prove(&clean);
        assert_eq!((&proof(&report, "runc")["slave"], &proof(&report, "crun")["slave"]), (&json!(true), &json!(false)));
        assert!(of_running(&report).contains(&("run-no-slave".to_owned(), "crun".to_owned())), "{report:#}");
    });
}

/// Starts `doctor --run` and waits until the host has its mount below the volume.
fn running(clean: &Clean) -> std::process::Child {
    let mut command = Command::new(CLI);
    command.arg("--config").arg(clean.lab.config()).args(["doctor", "--run"]).env("PATH", clean.path("path"));
    let doctor = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for("the mount", || mount_table().contains("/later "));
    doctor
}

#[test]
fn nothing_is_left_of_a_run_that_is_interrupted() {
    on(Host::Shared, || {
        let clean = can_run();
        // The mount stays for seconds where it never arrives.
        make_private(Path::new("/var/lib/fs-isolator-tests"));
        let before = (manifest(&clean.lab.dir), mount_table());
        for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
            let doctor = running(&clean);
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(doctor.id() as i32), signal).unwrap();
            let output = doctor.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(81) && said.contains("interrupted"), "{output:?}");
            assert_eq!((manifest(&clean.lab.dir), mount_table()), before);
            assert_eq!(leases(), [""; 0]);
        }
        // Killed, it leaves a directory, a volume and a mount; the container goes with it.
        let mut doctor = running(&clean);
        doctor.kill().unwrap();
        doctor.wait().unwrap();
        wait_for("the container to end", || clean.lab.runtime_files("records").is_empty());
        let left = |report: &[Value]| report.iter().filter(|one| one["check"] == "run-leftover").count();
        assert_eq!(left(&clean.findings(&[])), 1);
        let done = clean.lab.cli(&["reconcile"]).ok();
        assert!(done.out.contains("which a doctor left"), "{done:?}");
        assert_eq!((manifest(&clean.lab.dir), mount_table()), before);
        assert_eq!(left(&clean.findings(&[])), 0);
        // One that is at work is left alone.
        let doctor = running(&clean);
        assert_eq!(left(&clean.findings(&[])), 0);
        assert_eq!(clean.lab.cli(&["reconcile"]).ok().out, "");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(doctor.id() as i32), nix::sys::signal::SIGINT).unwrap();
        doctor.wait_with_output().unwrap();
        assert_eq!((manifest(&clean.lab.dir), mount_table()), before);
    });
}

#[test]
fn what_it_says_is_for_people() {
    on(Host::Shared, || {
        let clean = Clean::new();
        fs::remove_dir_all(HOOKS).unwrap();
        let ran = clean.run(&[]);
        assert_eq!(ran.code, 81);
        for text in [
            "hooks-not-installed podman finds none",
            "  where   /usr/share",
            "  why     ",
            "  remedy  fs-isolator install\n",
        ] {
            assert!(ran.out.contains(text), "{text:?} in {}", ran.out);
        }
        assert!(ran.err.contains("1 fault was found") && ran.err.contains("[exit 81]"), "{ran:?}");
    });
}

#[test]
fn a_mesos_agent_on_work_dir_is_found() {
    on(Host::Shared, || {
        let clean = Clean::new();
        fs::create_dir_all(clean.lab.work().join("meta/slaves")).unwrap();
        let flag = format!("--work_dir={}", clean.lab.work().display());
        let agent = mesos::agent(&clean.lab, "mesos-agent", &[&flag]);
        let findings = clean.findings(&[]);
        assert!(findings.len() == 1 && findings[0]["check"] == "mesos-agent-running", "{findings:?}");
        assert!(findings[0]["what"].as_str().unwrap().contains(&agent.pid().to_string()), "{findings:?}");
        drop(agent);
        assert_eq!(clean.findings(&[]), [] as [Value; 0]);
    });
}

/// What the doctor finds on a podman's host.
fn checks(podman: &podman::Podman) -> Vec<String> {
    let mut command = Command::new(CLI);
    command.args(["--json", "doctor", "--config"]).arg(podman.lab.config());
    let ran = run_with(command.env("CONTAINERS_CONF", podman.path("containers.conf")), b"");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let all = report["findings"].as_array().unwrap().clone();
    all.into_iter().map(|one| one["check"].as_str().unwrap().to_owned()).collect()
}

fn has(found: &[String], check: &str) -> bool {
    found.iter().any(|one| one == check)
}

/// Tells whether a container that asks for a volume ran without it.
const OR_WITHOUT: &str = "test -d /data && echo with || echo without";

// podman passes over a hook whose executable is missing: the container runs, and nobody says so. The remedies help.
#[test]
fn a_container_that_podman_made_without_hooks_is_found() {
    on(Host::Shared, || {
        let podman = podman::Podman::new(Runtime::Runc, "filesystem/linux");
        podman.lab.volume("db");
        for name in ["prestart", "poststart"] {
            fs::remove_file(podman.path(&format!("bin/fs-isolator-{name}"))).unwrap();
        }
        assert_eq!(podman.ask("db:/data", OR_WITHOUT).ok().out, "without\n");
        podman.start("web", &["--annotation", podman::DB]);
        let found = checks(&podman);
        assert!(has(&found, "hook-executable-missing") && has(&found, "container-without-hook"), "{found:?}");
        let status = podman.lab.cli(&["status", "--json"]).ok().out;
        assert!(!status.contains(&podman.inspect("web", ".Id")), "{status}");
        podman.install();
        assert!(has(&checks(&podman), "container-without-hook"));
        podman.run(&["restart", "-t", "0", "web"]).ok();
        let found = checks(&podman);
        assert!(!has(&found, "hook-executable-missing") && !has(&found, "container-without-hook"), "{found:?}");
        let status = podman.lab.cli(&["status", "--json"]).ok().out;
        assert!(status.contains(&podman.inspect("web", ".Id")), "{status}");
    });
}

// A condition with a slip in it never matches, and nobody says so.
#[test]
fn a_condition_that_never_matches_is_found() {
    on(Host::Shared, || {
        let podman = podman::Podman::new(Runtime::Runc, "filesystem/linux");
        podman.lab.volume("db");
        for file in names(&podman.path("hooks.d")) {
            let path = podman.path("hooks.d").join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("fs-isolator\\\\.", "fs-isolater\\\\.")).unwrap();
        }
        assert_eq!(podman.ask("db:/data", OR_WITHOUT).ok().out, "without\n");
        podman.start("web", &["--annotation", podman::DB]);
        let found = checks(&podman);
        assert!(has(&found, "hook-never-called") && has(&found, "container-without-hook"), "{found:?}");
        podman.install();
        assert_eq!(podman.ask("db:/data", OR_WITHOUT).ok().out, "with\n");
        assert!(!has(&checks(&podman), "hook-never-called"));
    });
}

// crun throws away what a hook says: `logs` has it, and podman's own error the code to ask for.
#[test]
fn what_crun_throws_away_is_kept() {
    on(Host::Shared, || {
        let podman = podman::Podman::new(Runtime::Crun, "filesystem/linux");
        let ran = podman.ask("bd:/data", "echo STARTED");
        podman.not_started(&ran, 41);
        assert!(!ran.err.contains("bd"), "{ran:?}");
        let log = names(&podman.lab.runtime_dir().join("log"));
        let said = podman.lab.cli(&["logs", &log[0][..12]]).ok().out;
        assert!(said.contains("bd:/data") && said.contains("fs-isolator volume create"), "{said}");
        assert!(podman.lab.cli(&["explain", "41"]).ok().out.contains("volume"), "{ran:?}");
    });
}

// What the kernel lacks is found by trying it: strace makes it fail.
#[test]
fn what_the_kernel_lacks_is_found() {
    on(Host::Shared, || {
        let clean = Clean::new();
        for (call, check) in [
            ("mount_setattr:error=ENOSYS", "kernel"),
            ("open_tree:error=ENOSYS", "kernel"),
            ("move_mount:error=EINVAL:when=4", "kernel-set-group"),
            ("fsopen:error=ENOSYS", "kernel-memory-filesystem"),
        ] {
            let inject = format!("inject={call}");
            let mut command = Command::new("/usr/bin/strace");
            command.args(["-f", "-o", "/dev/null", "-e", &inject, CLI, "--config"]).arg(clean.lab.config());
            let ran = run_with(command.args(["--json", "doctor"]).env("PATH", clean.path("path")), b"");
            let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
            let checks: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["check"]).collect();
            assert!(checks.iter().any(|one| *one == check), "{call}: {report:#}");
        }
    });
}

// The machine has both kinds of cgroups where the harness has not covered one.
#[test]
fn cgroups_that_crun_refuses_are_found() {
    on(Host::Shared, || {
        let clean = Clean::new();
        clean.program("crun");
        for file in names(Path::new(HOOKS)) {
            clean.edit(&file, |file| drop(file["hook"].as_object_mut().unwrap().remove("timeout")));
        }
        assert_eq!(clean.findings(&[]), [] as [Value; 0], "without timeouts crun 1.8.1 is well");
        let unified = Path::new("/sys/fs/cgroup/unified");
        if !unified.exists() {
            return;
        }
        nix::mount::mount(Some("cgroup2"), unified, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        let findings = clean.findings(&[]);
        assert_eq!(findings[0]["check"], "crun-cgroups", "{findings:?}");
        assert_eq!(findings.len(), 1);
        umount2(unified, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn status_tells_who_has_what() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        assert!(lab.cli(&["status"]).ok().out.contains("no container has anything"));
        let (db, logs) = (lab.volume("db"), lab.volume("logs"));
        let mut container = lab.container(Runtime::Runc, "web");
        container.ask("db:data;logs:/var/log/a/directory/with/a/long/name:ro:shared").start("sleep 1000");
        let shown = |lab: &Lab| serde_json::from_str::<Value>(&lab.cli(&["status", "--json"]).ok().out).unwrap();
        let all = shown(&lab);
        let web = &all[0];
        assert_eq!(all.as_array().unwrap().len(), 1, "{all:#}");
        assert_eq!(
            (&web["container"], &web["manager"], &web["state"]),
            (&json!("web"), &json!("local"), &json!("running"))
        );
        assert_eq!((&web["isolator"], &web["pid"]), (&json!("filesystem/linux"), &json!(container.pid())));
        assert!(web["sandbox"].as_str().unwrap().contains("/sandboxes/local/web."), "{web:#}");
        let volume = |at: &str| {
            let all = web["volumes"].as_array().unwrap();
            all.iter().find(|volume| volume["target"].as_str().unwrap().starts_with(at)).unwrap().clone()
        };
        let (first, second) = (volume("/mnt/mesos/sandbox/data"), volume("/var/log"));
        assert_eq!(
            (&first["mode"], &first["propagation"], &first["held"]),
            (&json!("rw"), &json!("slave"), &json!("exclusive"))
        );
        assert_eq!(
            (&second["mode"], &second["propagation"], &second["held"]),
            (&json!("ro"), &json!("private"), &json!("shared"))
        );
        assert_eq!((&first["source"], &second["source"]), (&json!(db), &json!(logs)));
        let table = lab.cli(&["status"]).ok();
        assert!(table.lines().iter().all(|line| line.chars().count() <= 80), "{}", table.out);
        assert!(table.out.contains("web") && table.out.contains("exclusive"), "{}", table.out);
        // Another configuration sees whose lease it is, and no more.
        let other = Lab::new("filesystem/linux");
        let seen = shown(&other);
        assert_eq!((&seen[0]["container"], &seen[0]["isolator"]), (&json!("web"), &Value::Null), "{seen:#}");
        let labels: Vec<&str> =
            seen[0]["volumes"].as_array().unwrap().iter().map(|volume| volume["label"].as_str().unwrap()).collect();
        assert!(labels.contains(&"db (default)") && labels.contains(&"logs (default)"), "{seen:#}");
        container.kill();
        assert_eq!(shown(&lab)[0]["state"], "ended");
        container.delete();
        assert_eq!(shown(&lab), json!([]));
    });
}
