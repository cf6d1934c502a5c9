//! Disks beside `work_dir`: mesos.md B2.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::*;
use nix::mount::{MsFlags, umount};
use serde_json::{Value, json};

/// A lab with a disk of each kind: `fast` for many volumes, relative to `work_dir`, and `nvme`, which is one.
fn lab(more: Value) -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new("filesystem/linux");
    let (fast, nvme) = (lab.work().join("disks/fast"), lab.dir.join("nvme"));
    fs::create_dir_all(&fast).unwrap();
    tmpfs(&nvme, MsFlags::empty());
    fs::set_permissions(&nvme, PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = json!({
        "isolation": "filesystem/linux",
        "disks": [{ "name": "fast", "type": "PATH", "path": { "root": "disks/fast" } },
                  { "name": "nvme", "type": "MOUNT", "mount": { "root": nvme } }],
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.configure(config);
    (lab, fast, nvme)
}

fn ask(lab: &Lab, volumes: &str, script: &str) -> Ran {
    let mut container = lab.container(Runtime::Runc, "c");
    let ran = container.ask(volumes).run_shell(script);
    let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
    ran
}

#[track_caller]
fn refused(lab: &Lab, volumes: &str, code: i32) -> String {
    let ran = ask(lab, volumes, "true");
    assert!(ran.code != 0 && ran.err.contains(&format!("exit status {code},")), "{code}: {ran:?}");
    ran.err
}

fn resource(source: &Value) -> String {
    json!([{ "name": "disk", "type": "SCALAR", "scalar": { "value": 2048 }, "role": "default",
             "disk": { "persistence": { "id": "db" }, "source": source,
                       "volume": { "container_path": "data", "mode": "RW" } } }])
    .to_string()
}

#[test]
fn volumes_lie_on_the_disk_they_were_made_on() {
    on(Host::Private, || {
        let (lab, fast, _) = lab(json!({}));
        let made = lab.cli(&["volume", "create", "--disk", "fast", "db"]).ok();
        let volume = fast.join("volumes/roles/default/db");
        assert_eq!(Path::new(made.out.trim()), volume);
        // By name, by nothing, and as Mesos knows it: relative to work_dir, or absolute.
        let path = |root: &str| resource(&json!({ "type": "PATH", "path": { "root": root } }));
        let requests =
            ["db:data:disk=fast".to_owned(), "db:data".to_owned(), path("disks/fast"), path(fast.to_str().unwrap())];
        for (count, volumes) in requests.iter().enumerate() {
            ask(&lab, volumes, "echo x >> /mnt/mesos/sandbox/data/n").ok();
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap().lines().count(), count + 1, "{volumes}");
        }
        refused(&lab, "db:data:disk=root", 41);
        refused(&lab, &path("disks/other"), 48);
        assert_eq!(lab.cli(&["volume", "create", "db"]).code, 70, "an id has one disk");
        // Made by hand on another disk as well, nobody knows which is meant.
        fs::create_dir_all(lab.volume_path("default", "db")).unwrap();
        assert!(refused(&lab, "db:data", 59).contains("root and fast"));
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 59);
        lab.cli(&["volume", "destroy", "--yes", "--disk", "fast", "db"]).ok();
        assert!(!volume.exists() && lab.volume_path("default", "db").exists());
        lab.assert_clean();
    });
}

#[test]
fn a_mount_disk_is_the_volume_of_one() {
    on(Host::Private, || {
        let (lab, _, nvme) = lab(json!({}));
        // A Mesos agent's data is there, and stays.
        fs::write(nvme.join("data"), "precious").unwrap();
        let line = refused(&lab, "db:d:disk=nvme", 41);
        assert!(line.contains("volume create --role default --disk nvme db"), "{line}");
        lab.cli(&["volume", "create", "--disk", "nvme", "--shared", "db"]).ok();
        assert_eq!(fs::metadata(&nvme).unwrap().mode_bits(), 0o755, "adopted as it is");
        let mount = resource(&json!({ "type": "MOUNT", "mount": { "root": nvme } }));
        let mount = mount.replacen("\"name\":\"disk\"", "\"name\":\"disk\",\"shared\":{}", 1);
        for volumes in ["db:d:disk=nvme:shared", "db:d:shared", &mount] {
            ask(&lab, volumes, "cd /mnt/mesos/sandbox/d* && grep -q precious data && touch new").ok();
        }
        for volumes in ["other:d:disk=nvme", "db:d:disk=nvme:role=other"] {
            refused(&lab, volumes, 41);
        }
        assert_eq!(lab.cli(&["volume", "create", "--disk", "nvme", "other"]).code, 70);
        let listed: Value = serde_json::from_str(&lab.cli(&["volume", "list", "--json"]).ok().out).unwrap();
        assert_eq!(
            (&listed[0]["id"], &listed[0]["disk"], &listed[0]["shared"]),
            (&json!("db"), &json!("nvme"), &json!(true))
        );
        // Destroyed, the disk keeps its root, and what fsck needs.
        fs::create_dir(nvme.join("lost+found")).unwrap();
        fs::write(nvme.join("lost+found/#1"), "x").unwrap();
        lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        assert_eq!(names(&nvme), ["lost+found"]);
        assert!(names(&nvme.join("lost+found")).is_empty());
        refused(&lab, "db:d:disk=nvme", 41);
        lab.cli(&["volume", "create", "--disk", "nvme", "other"]).ok();
        assert_eq!(fs::metadata(&nvme).unwrap().mode_bits(), 0o750, "a new one");
        ask(&lab, "other:d", "touch /mnt/mesos/sandbox/d/f").ok();
        assert!(nvme.join("f").exists());
        umount(&nvme).unwrap();
        lab.assert_clean();
    });
}

// What is written to an unmounted disk's root lands on the disk below it.
#[test]
fn a_disk_that_is_not_mounted_is_refused() {
    on(Host::Private, || {
        let (lab, _, nvme) = lab(json!({ "create_missing_volumes": true }));
        lab.cli(&["volume", "create", "--disk", "nvme", "db"]).ok();
        umount(&nvme).unwrap();
        let before = manifest(&lab.work());
        // Nor does a new and empty one come into being elsewhere.
        for volumes in ["db:d:disk=nvme", "db:d"] {
            refused(&lab, volumes, 49);
        }
        assert_eq!(lab.cli(&["volume", "create", "--disk", "nvme", "x"]).code, 49);
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 49);
        assert!(lab.cli(&["volume", "list"]).ok().err.contains("is not a mount point right now"));
        lab.cli(&["gc"]).ok();
        assert_eq!(manifest(&lab.work()), before);
        assert!(names(&nvme).is_empty());
        lab.assert_clean();
    });
}

// ramfs has no extended attributes.
#[test]
fn what_was_decided_is_kept_where_there_are_no_attributes() {
    on(Host::Private, || {
        let (lab, _, nvme) = lab(json!({}));
        umount(&nvme).unwrap();
        nix::mount::mount(Some("ramfs"), &nvme, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
        lab.cli(&["volume", "create", "--disk", "nvme", "--exclusive", "--size", "512", "db"]).ok();
        let file = lab.work().join("meta/fs-isolator/volumes/nvme/.mount");
        assert!(fs::read_to_string(&file).unwrap().contains("\"shared\":false"));
        ask(&lab, "db:d", "touch /mnt/mesos/sandbox/d/f").ok();
        refused(&lab, "db:d:shared", 47);
        refused(&lab, "other:d:disk=nvme", 41);
        assert!(lab.cli(&["volume", "inspect", "db"]).ok().out.contains("512 MB (not enforced)"));
        lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        assert!(!file.exists() && names(&nvme).is_empty());
        umount(&nvme).unwrap();
        lab.assert_clean();
    });
}

#[test]
fn what_a_later_version_wrote_is_left_alone() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let text = r#"{"version":2,"shared":"sometimes"}"#;
        run(
            "python3",
            &[
                "-c",
                "import os, sys; os.setxattr(sys.argv[1], 'trusted.fs-isolator', sys.argv[2].encode())",
                volume.to_str().unwrap(),
                text,
            ],
        )
        .ok();
        assert_ne!(ask(&lab, "db:d", "true").code, 0);
        for verb in [&["volume", "inspect", "db"][..], &["volume", "destroy", "--yes", "db"]] {
            assert!(lab.cli(verb).code == 41 && volume.exists(), "{verb:?}");
        }
    });
}

// The size of a Resource is recorded, shown, and said not to be enforced.
#[test]
fn a_size_is_shown_and_not_enforced() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "c");
        let root = resource(&Value::Null);
        container.ask(&root).start("sleep 1000");
        assert!(lab.log("c").contains("2048 MB is recorded and not enforced"), "{}", lab.log("c"));
        let listed: Value = serde_json::from_str(&lab.cli(&["volume", "list", "--json"]).ok().out).unwrap();
        assert_eq!(listed[0]["size_mb"], json!(2048.0));
        assert!(lab.cli(&["volume", "list"]).ok().out.contains("2048 MB"));
    });
}

// An empty disk may be one that is not mounted, on which the volume is.
#[test]
fn a_missing_volume_is_not_made_while_it_may_be_on_a_disk_that_is_not_there() {
    on(Host::Private, || {
        let (lab, fast, nvme) = lab(json!({}));
        umount(&nvme).unwrap();
        let disks = json!([{ "name": "fast", "type": "PATH", "path": { "root": "disks/fast" } }]);
        lab.configure(json!({ "isolation": "filesystem/linux", "create_missing_volumes": true, "disks": disks }));
        for volumes in ["db:d", "db:d:disk=fast"] {
            let line = refused(&lab, volumes, 49);
            assert!(line.contains("mkdir -m 700") && line.contains("disks/fast/volumes"), "{line}");
        }
        assert!(!lab.volume_path("default", "db").exists() && names(&fast).is_empty());
        fs::create_dir(fast.join("volumes")).unwrap();
        ask(&lab, "db:d:disk=fast", "true").ok();
        assert!(fast.join("volumes/roles/default/db").exists());
        lab.assert_clean();
    });
}

// What was decided beside a volume is about that volume, not about what has its place now.
#[test]
fn another_filesystem_at_a_disks_root_is_another_disk() {
    on(Host::Private, || {
        let (lab, _, nvme) = lab(json!({}));
        umount(&nvme).unwrap();
        let ramfs = || nix::mount::mount(Some("ramfs"), &nvme, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
        ramfs();
        lab.cli(&["volume", "create", "--disk", "nvme", "db"]).ok();
        let file = lab.work().join("meta/fs-isolator/volumes/nvme/.mount");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"destroying\":false", "\"destroying\":true")).unwrap();
        umount(&nvme).unwrap();
        ramfs();
        fs::write(nvme.join("precious"), "x").unwrap();
        lab.cli(&["gc"]).ok();
        assert!(nvme.join("precious").exists());
        refused(&lab, "db:d:disk=nvme", 41);
        umount(&nvme).unwrap();
        lab.assert_clean();
    });
}

trait ModeBits {
    fn mode_bits(&self) -> u32;
}

impl ModeBits for fs::Metadata {
    fn mode_bits(&self) -> u32 {
        self.permissions().mode() & 0o7777
    }
}
