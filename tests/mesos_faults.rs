//! Mesos's known faults, by the number under which they are listed, as far as no other file has them: e1, e2, e3, e8,
//! e11, e12, e17 and e18 are in the tests of the isolators and of the plan, e16 in those of the life cycle.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::*;
use nix::mount::MsFlags;
use serde_json::json;

// MESOS-7366, 8830, 9352: a volume that is still mounted in a sandbox was deleted with the sandbox.
#[test]
fn mesos_7366_8830_9352_a_sandbox_is_never_deleted_through_a_mount() {
    on(Host::Private, || {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        let volume = lab.volume("db");
        fs::write(volume.join("precious"), "x").unwrap();
        let mut container = lab.container(Runtime::Runc, "c");
        container.ask("db:data").start("sleep 1000");
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        // As Mesos had it, and as somebody might leave it: mounted on the host as well.
        bind(&volume, &sandbox.join("stale"));
        container.kill();
        container.delete();
        assert_eq!(fs::read_to_string(volume.join("precious")).unwrap(), "x");
        assert!(lab.log("c").contains("[exit 62]"), "{}", lab.log("c"));
        // It is tried again, and succeeds when the mount is gone.
        nix::mount::umount(&sandbox.join("stale")).unwrap();
        hook(POSTSTOP, &lab.config(), container.state(0).to_string().as_bytes()).ok();
        assert!(!sandbox.exists());
        assert_eq!(fs::read_to_string(volume.join("precious")).unwrap(), "x");
        lab.assert_clean();
    });
}

// mesos.md E6 and K4: a space in a path, and the volume under the sandbox was deleted.
#[test]
fn k4_paths_with_spaces_are_paths_like_any_other() {
    for runtime in RUNTIMES {
        on(Host::Shared, move || {
            let lab = Lab::new("filesystem/linux");
            let (work, state) = (lab.dir.join("a work\tdir"), lab.dir.join("a \\040 run dir"));
            fs::create_dir(&work).unwrap();
            lab.configure(json!({ "isolation": "filesystem/linux", "work_dir": lab.dir.join("a work  dir"), "runtime_dir": state }));
            fs::rename(&work, lab.dir.join("a work  dir")).unwrap();
            lab.cli(&["volume", "create", "a b"]).ok();
            let volume = lab.dir.join("a work  dir/volumes/roles/default/a b");
            tmpfs(&volume, MsFlags::empty());
            let mut container = lab.container(runtime, "c");
            container.ask("a b:da ta").run_shell("echo x > '/mnt/mesos/sandbox/da ta/f'").ok();
            assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "x\n");
            let refused = lab.cli(&["volume", "destroy", "--yes", "a b"]);
            assert_eq!(refused.code, 74, "the mount is seen: {refused:?}");
            assert_eq!(names(&state.join("records")), Vec::<String>::new());
        });
    }
}

// mesos.md E7 and K5: the guard compared real paths with configured ones, and the volume's data was gone.
#[test]
fn k5_a_symlinked_work_dir_is_refused() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("precious"), "x").unwrap();
        symlink(lab.work(), lab.dir.join("link")).unwrap();
        lab.configure(json!({ "isolation": "filesystem/linux", "work_dir": lab.dir.join("link") }));
        let mut container = lab.container(Runtime::Runc, "c");
        let refused = container.ask("db:data").run_shell("true").failed();
        assert!(refused.err.contains("[exit 21]"), "{refused:?}");
        for verb in [&["gc"][..], &["reconcile"], &["volume", "destroy", "--yes", "db"]] {
            lab.cli(verb);
            assert_eq!(fs::read_to_string(volume.join("precious")).unwrap(), "x", "{verb:?}");
        }
        lab.assert_clean();
    });
}

// mesos.md E8 and K6: a container path of .. was mounted over the folder of all sandboxes, on the host.
#[test]
fn k6_a_container_path_never_leads_upwards() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("precious"), "x").unwrap();
        let (before, table) = (manifest(&lab.work()), mount_table());
        for path in ["..", "../..", "a/../..", ".", "/..", "/a/../../b"] {
            let mut container = lab.container(Runtime::Runc, "c");
            container.ask(&format!("db:{path}")).run_shell("true").failed();
            assert!(lab.log("c").contains("[exit 37]"), "{path}: {}", lab.log("c"));
            fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
        }
        assert_eq!((manifest(&lab.work()), mount_table()), (before, table));
        lab.assert_clean();
    });
}

// mesos.md E12: "/a:" in a list of allowed paths stood for / as well.
#[test]
fn e12_an_empty_element_of_a_list_allows_nothing() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/shared");
        for (key, value) in [
            ("host_paths", json!([{ "path": "", "roles": ["default"] }])),
            ("host_paths", json!([{ "path": "/srv", "roles": [""] }])),
            ("posix_sandboxes", json!([""])),
            ("managers", json!({ "local": [""] })),
            ("disks", json!([{ "name": "d", "type": "PATH", "path": { "root": "" } }])),
            ("authorization", json!({ "allow": [{ "identity": "namespace:a", "roles": [""] }] })),
            ("authorization", json!({ "allow": [{ "identity": "", "roles": ["a"] }] })),
        ] {
            lab.configure(json!({ "isolation": "filesystem/shared", (key): value }));
            assert_eq!(lab.cli(&["config"]).code, 20, "{key} {value}");
        }
        lab.configure(json!({ "isolation": "filesystem/shared", "host_paths": [{ "path": "/srv", "roles": [] }] }));
        let container = lab.host_container(Runtime::Runc, "c");
        let state = json!({ "ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": std::process::id(), "bundle": container.bundle,
                            "annotations": { "io.fs-isolator.volumes": "host=/srv:/srv" } });
        container.write();
        assert_eq!(hook(PRESTART, &lab.config(), state.to_string().as_bytes()).code, 43);
    });
}

/// System calls of a prestart that attaches one volume.
fn calls(lab: &Lab, id: &str) -> usize {
    let mut container = lab.container(Runtime::Runc, id);
    container.ask("db:/srv");
    fs::create_dir_all(container.rootfs().join("srv")).unwrap();
    let trace = lab.dir.join(format!("{id}.trace"));
    container.spec["hooks"]["prestart"][0]["path"] = json!("/usr/bin/strace");
    container.spec["hooks"]["prestart"][0]["args"] = json!(["strace", "-o", trace, PRESTART, "--config", lab.config()]);
    container.run_shell("true").ok();
    fs::read_to_string(trace).unwrap().lines().count()
}

#[test]
fn e14_work_does_not_grow_with_mounts_records_or_volumes() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        calls(&lab, "first");
        let few = calls(&lab, "few");
        for number in 0..300 {
            lab.volume(&format!("other{number}"));
            tmpfs(&lab.dir.join(format!("mounts/{number}")), MsFlags::empty());
        }
        // Records of containers that live: this test's own process.
        let template = {
            let mut container = lab.container(Runtime::Runc, "t");
            container.ask("db:/srv").start("sleep 1000");
            let name = lab.runtime_files("records").remove(0);
            let text = fs::read_to_string(lab.runtime_dir().join("records").join(name)).unwrap();
            container.kill();
            container.delete();
            let start = fs::read_to_string("/proc/self/stat").unwrap();
            let start: u64 = start.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let mut header: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            header["init"]["pid"] = json!(std::process::id());
            header["init"]["start"] = json!(start);
            lines[0] = header.to_string();
            lines.join("\n") + "\n"
        };
        for number in 0..300 {
            fs::write(lab.runtime_dir().join(format!("records/r{number}.000000000000")), &template).unwrap();
        }
        // And what 300 others hold.
        for number in 0..300 {
            let lease = Path::new("/run/fs-isolator/leases").join(format!("1-{number:x}-1"));
            fs::create_dir_all(&lease).unwrap();
            fs::write(lease.join("c.000000000000"), "{}").unwrap();
        }
        let many = calls(&lab, "many");
        println!("{few} calls with few, {many} with 300 mounts, volumes, records and leases");
        // It looks at four other records at the most, whether there are four or 300.
        assert!(many <= few + 4 * 30, "{few} {many}");
        for number in 0..300 {
            fs::remove_file(lab.runtime_dir().join(format!("records/r{number}.000000000000"))).unwrap();
        }
        fs::remove_dir_all("/run/fs-isolator/leases").unwrap();
        lab.assert_clean();
    });
}

#[test]
fn e15_the_host_has_no_mount_while_the_container_runs() {
    for runtime in RUNTIMES {
        on(Host::Shared, move || {
            let lab = Lab::new("filesystem/linux");
            lab.volume("db");
            lab.volume("b");
            let count = || mount_table().lines().count();
            let before = count();
            let mut container = lab.container(runtime, "c");
            container.ask("db:data;b:/srv").start("sleep 1000");
            assert_eq!(count(), before);
            assert_eq!(container.exec("grep -c -e ' /srv ' -e /mnt/mesos /proc/self/mountinfo").ok().out.trim(), "3");
        });
    }
}

// A volume is on disk when its command returns, and a new one of an old name has nothing of the old.
#[test]
fn e22_volumes_are_durable_and_new_ones_are_empty() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let config = lab.config();
        let mut command = Command::new("strace");
        command
            .args(["-y", "-e", "trace=fsync,renameat2", CLI, "--config"])
            .arg(&config)
            .args(["volume", "create", "db"]);
        let trace = run_with(&mut command, b"").ok().err;
        let order: Vec<&str> = trace.lines().filter_map(|line| line.split_once('(').map(|(call, _)| call)).collect();
        // The folders above it first, where they were made.
        assert!(order.ends_with(&["fsync", "fsync", "fsync", "renameat2", "fsync"]), "{trace}");
        let volume = lab.volume_path("default", "db");
        fs::write(volume.join("old"), "x").unwrap();
        lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        lab.volume("db");
        assert_eq!(names(&volume), Vec::<String>::new());
        assert!(!Path::new(&lab.work().join("volumes/roles/default/.fs-isolator.new")).exists());
        lab.assert_clean();
    });
}
