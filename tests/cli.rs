//! `fs-isolator`, the command for people.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::*;
use nix::mount::MsFlags;
use serde_json::{Value, json};

fn json_of(ran: Ran) -> Value {
    serde_json::from_str(&ran.ok().out).unwrap()
}

#[test]
fn volumes_are_created_listed_inspected_and_destroyed() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let path = lab.volume_path("team-a/db", "my data");
        let ran = lab
            .cli(&["volume", "create", "--role", "team-a/db", "--owner", "1000:1001", "--mode", "2770", "my data"])
            .ok();
        assert_eq!(ran.out.trim(), path.to_str().unwrap());
        let stat = fs::metadata(&path).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1000, 1001, 0o2770));
        assert_eq!(
            fs::metadata(lab.work().join("volumes")).unwrap().mode() & 0o7777,
            0o700,
            "no other user may reach a setuid file"
        );
        assert_eq!(lab.cli(&["volume", "create", "--role", "team-a/db", "my data"]).code, 70);
        lab.volume("db");
        assert_eq!(fs::metadata(lab.volume_path("default", "db")).unwrap().mode() & 0o7777, 0o750);

        let listed = json_of(lab.cli(&["volume", "list", "--json"]));
        let found: Vec<&str> = listed.as_array().unwrap().iter().map(|v| v["id"].as_str().unwrap()).collect();
        assert_eq!(found, ["db", "my data"]);
        let table = lab.cli(&["volume", "list", "--role", "team-a/db"]).ok();
        assert_eq!(table.lines().len(), 2);
        assert!(
            table.out.contains("my data") && table.out.contains("1000:1001") && !table.out.contains("default"),
            "{}",
            table.out
        );
        assert_eq!(
            json_of(lab.cli(&["volume", "inspect", "--json", "--role", "team-a/db", "my data"]))["mode"],
            "2770"
        );
        assert_eq!(lab.cli(&["volume", "inspect", "nothing"]).code, 41);

        fs::write(path.join("f"), "x").unwrap();
        let refused = lab.cli(&["volume", "destroy", "--role", "team-a/db", "my data"]);
        assert_eq!(refused.code, 72, "nobody to ask: {refused:?}");
        assert!(path.join("f").exists());
        lab.cli(&["volume", "destroy", "--yes", "--role", "team-a/db", "my data"]).ok();
        assert!(!path.exists() && lab.volume_path("default", "db").exists());
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "--role", "team-a/db", "my data"]).code, 41);
        lab.assert_clean();
    });
}

#[test]
fn where_posix_is_allowed_volumes_can_be_passed_to() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode(&volume), mode(volume.parent().unwrap()), mode(&lab.work().join("volumes"))),
            (0o750, 0o711, 0o711)
        );
    });
}

#[test]
fn a_volume_in_use_is_not_destroyed() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::create_dir(volume.join("sub")).unwrap();
        let mut container = lab.container(Runtime::Runc, "holder");
        container.ask("db:data:subpath=sub").start("sleep 1000");
        let refused = lab.cli(&["volume", "destroy", "--yes", "db"]);
        assert!(refused.code == 71 && refused.err.contains("holder"), "{refused:?}");
        let held = json_of(lab.cli(&["volume", "list", "--json"]))[0]["held_by"].clone();
        assert_eq!((held[0]["container"].as_str(), held.as_array().unwrap().len()), (Some("holder"), 1));
        assert!(volume.join("sub").exists());
        container.kill();
        container.delete();
        lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        lab.assert_clean();
    });
}

// mesos.md E5, E23 and MESOS-9352: deletion never crosses a mount and never follows a link.
#[test]
fn e5_e23_destroying_touches_nothing_else() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let (volume, other) = (lab.volume("db"), lab.volume("other"));
        fs::write(other.join("precious"), "x").unwrap();
        fs::create_dir_all(volume.join("sub/mounted")).unwrap();
        symlink(&other, volume.join("link")).unwrap();
        bind(&other, &volume.join("sub/mounted"));
        let refused = lab.cli(&["volume", "destroy", "--yes", "db"]);
        assert!(refused.code == 74 && refused.err.contains("sub/mounted"), "{refused:?}");
        assert_eq!(names(&volume), ["link", "sub"], "refused before anything is moved");
        nix::mount::umount(&volume.join("sub/mounted")).unwrap();
        lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        assert_eq!(fs::read_to_string(other.join("precious")).unwrap(), "x");
    });
}

// mesos.md E12: id1 is not id10, and a/b is not "a b" or ab.
#[test]
fn e12_destroying_id1_leaves_id10() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        for id in ["id1", "id10", "id1.x"] {
            fs::write(lab.volume(id).join("f"), id).unwrap();
        }
        lab.cli(&["volume", "destroy", "--yes", "id1"]).ok();
        assert_eq!(names(&lab.work().join("volumes/roles/default")), ["id1.x", "id10"]);
        assert!(lab.volume_path("default", "id10").join("f").exists());
    });
}

#[test]
fn a_volume_that_is_a_link_or_a_mount_point_is_not_destroyed() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let target = lab.dir.join("target");
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("f"), "x").unwrap();
        let volume = lab.volume("db");
        fs::remove_dir(&volume).unwrap();
        symlink(&target, &volume).unwrap();
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 41);
        assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "x");
        let mounted = lab.volume("mounted");
        tmpfs(&mounted, MsFlags::empty());
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "mounted"]).code, 74);
    });
}

#[test]
fn sandboxes_are_made_for_their_user() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/posix");
        let path = lab.cli(&["sandbox", "create", "--owner", "1000:1001", "alice"]).ok().out.trim().to_owned();
        assert_eq!(Path::new(&path), lab.work().join("sandboxes/posix/alice"));
        let stat = fs::metadata(&path).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1000, 1001, 0o750));
        assert_eq!(fs::metadata(lab.work().join("sandboxes")).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(lab.cli(&["sandbox", "create", "--owner", "1000", "alice"]).code, 63);
        assert_eq!(lab.cli(&["sandbox", "create", "--owner", "1000", "../x"]).code, 63);
        let first = lab.cli(&["sandbox", "create", "--owner", "1000"]).ok().out;
        assert_ne!(first, lab.cli(&["sandbox", "create", "--owner", "1000"]).ok().out);
        assert_eq!(lab.cli(&["sandbox", "create", "--owner", "no such user"]).code, 2);
        lab.assert_clean();
    });
}

#[test]
fn plan_tells_and_does_nothing() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "web");
        container.ask("db:data;missing:/srv/x:ro:nosuid").write();
        let before = manifest(&lab.dir);
        let bundle = container.bundle.to_str().unwrap();
        let text = lab.cli(&["plan", "--id", "web", bundle]).ok().out;
        for words in [
            "container web of local (root of this host), as user 0:0",
            "mount db:data at /mnt/mesos/sandbox/data (rw, slave)",
            "mount missing:/srv/x at /srv/x (ro, nosuid, private)",
            "WHICH DOES NOT EXIST",
            "role default: the default of root of this host",
        ] {
            assert!(text.contains(words), "{words:?} in:\n{text}");
        }
        let plan = json_of(lab.cli(&["plan", "--json", bundle]));
        assert_eq!(plan["attachments"][2]["target"], "/mnt/mesos/sandbox/data");
        assert_eq!(manifest(&lab.dir), before);
        let refused = lab.cli(&["plan", "--annotation", "io.fs-isolator.volumes=db:..", bundle]);
        assert_eq!(refused.code, 37, "{refused:?}");
    });
}

#[test]
fn config_prints_what_counts_and_hides_the_token() {
    on(Host::Private, || {
        let lab = Lab::with(
            json!({ "isolation": "filesystem/linux", "request_token": "a secret of many bytes", "sandbox_retention": "2h" }),
        );
        let ran = lab.cli(&["config"]).ok();
        assert!(!ran.out.contains("a secret"));
        let shown: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(
            (&shown["isolation"], &shown["sandbox_retention_seconds"]),
            (&json!("filesystem/linux"), &json!(7200))
        );
        assert_eq!(cli(&["--config", "/nonexistent/x.json", "config"]).code, 20);
    });
}

#[test]
fn every_exit_code_is_explained_here_and_in_the_documents() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exit-codes.md")).unwrap();
    for cause in fs_isolator::error::Cause::ALL {
        let code = cause.code().to_string();
        let ran = cli(&["explain", &code]).ok();
        assert!(ran.out.contains(cause.title()) && ran.out.contains(cause.remedy()));
        assert!(
            page.contains(&format!("| {code} | {} |", cause.title())),
            "docs/exit-codes.md lacks {code} {}",
            cause.title()
        );
    }
    assert_eq!(cli(&["explain", "99"]).code, 2);
    assert_eq!(json_of(cli(&["explain", "--json", "41"]))["code"], 41);
}

#[test]
fn install_puts_executables_first_and_uninstall_takes_them_last() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let (hooks, bins) = (lab.dir.join("hooks.d"), lab.dir.join("bin"));
        let from = Path::new(PRESTART).parent().unwrap();
        let arguments = [
            "--hooks-dir",
            hooks.to_str().unwrap(),
            "--bin-dir",
            bins.to_str().unwrap(),
            "--from",
            from.to_str().unwrap(),
        ];
        let install = |verb: &str| lab.cli(&[&[verb], &arguments[..]].concat());
        for _ in 0..2 {
            install("install").ok();
            for stage in ["prestart", "poststart", "poststop"] {
                let file: Value =
                    serde_json::from_slice(&fs::read(hooks.join(format!("50-fs-isolator-{stage}.json"))).unwrap())
                        .unwrap();
                let path = Path::new(file["hook"]["path"].as_str().unwrap());
                assert_eq!(file["hook"]["args"][2], lab.config().to_str().unwrap());
                assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o755);
                assert!(fs::read(path).unwrap() == fs::read(from.join(format!("fs-isolator-{stage}"))).unwrap());
            }
            assert_eq!((names(&hooks).len(), names(&bins).len()), (3, 3));
        }
        let order = strace_order(
            &[&["--config", lab.config().to_str().unwrap(), "install"], &arguments[..]].concat(),
            "rename",
        );
        assert!(order.iter().position(|name| name.ends_with(".json")) >= Some(3), "{order:?}");
        let order = strace_order(&[&["uninstall"], &arguments[..]].concat(), "unlink");
        assert!(order.len() == 6 && order[..3].iter().all(|name| name.ends_with(".json")), "{order:?}");
        assert!(names(&hooks).is_empty() && names(&bins).is_empty());
        install("uninstall").ok();
    });
}

#[test]
fn install_sets_a_token_only_where_podman_takes_annotations_from_images() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let (path, from) = (lab.dir.join("path"), Path::new(PRESTART).parent().unwrap());
        fs::create_dir(&path).unwrap();
        let install = |config: Value, version: Option<&str>, more: &[&str]| {
            let _ = fs::remove_dir_all(lab.dir.join("hooks.d"));
            fs::write(lab.config(), config.to_string()).unwrap();
            fs::set_permissions(lab.config(), PermissionsExt::from_mode(0o644)).unwrap();
            let _ = fs::remove_file(path.join("podman"));
            if let Some(version) = version {
                fs::write(path.join("podman"), format!("#!/bin/sh\necho podman version {version}\n")).unwrap();
                fs::set_permissions(path.join("podman"), PermissionsExt::from_mode(0o755)).unwrap();
            }
            let mut command = std::process::Command::new(CLI);
            command.arg("--config").arg(lab.config()).arg("install").arg("--from").arg(from);
            command.arg("--hooks-dir").arg(lab.dir.join("hooks.d")).arg("--bin-dir").arg(lab.dir.join("bin"));
            let ran = run_with(command.args(more).env("PATH", &path), b"").ok();
            let after: Value = serde_json::from_slice(&fs::read(lab.config()).unwrap()).unwrap();
            let mode = fs::metadata(lab.config()).unwrap().mode() & 0o777;
            (ran.out, after, mode)
        };
        let plain = json!({ "isolation": "filesystem/linux", "metrics": true });
        for (config, version, more) in [
            (plain.clone(), None, &[][..]),
            (plain.clone(), Some("4.6.0"), &[]),
            (plain.clone(), Some("5.2.1"), &[]),
            (plain.clone(), Some("4.3.1"), &["--no-request-token"]),
            (json!({ "request_token": null }), Some("4.3.1"), &[]),
            (json!({ "request_token": "a token of mine and long" }), Some("4.3.1"), &[]),
        ] {
            let (said, after, mode) = install(config.clone(), version, more);
            assert_eq!((&after, mode), (&config, 0o644), "{version:?} {more:?}");
            assert!(!said.contains("token"), "{said}");
        }
        for version in ["4.5.9", "3.4.4"] {
            let (said, mut after, mode) = install(plain.clone(), Some(version), &[]);
            let token = after.as_object_mut().unwrap().remove("request_token").unwrap();
            assert_eq!((&after, mode, token.as_str().unwrap().len()), (&plain, 0o600, 32), "the rest stays");
            assert!(said.contains(&format!("podman {version} takes annotations")), "{said}");
        }
        let (said, after, _) = install(plain, Some("4.3.1"), &["--json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["request_token"], json!(lab.config()));
        assert_eq!(json!(lab.cli(&["config", "--token"]).ok().out.trim()), after["request_token"]);
        lab.configure(json!({ "isolation": "filesystem/linux" }));
        assert_eq!(lab.cli(&["config", "--token"]).code, 2);
    });
}

/// The names in the order in which a run of the command renames or unlinks them.
fn strace_order(arguments: &[&str], call: &str) -> Vec<String> {
    let filter = format!("trace=/^{call}");
    let all = [&["-f", "-e", &filter, CLI], arguments].concat();
    let ran = run("strace", &all).ok();
    ran.err
        .lines()
        .filter(|line| line.contains("fs-isolator") && line.contains("= 0"))
        .filter_map(|line| line.split('"').rev().nth(1).map(str::to_owned))
        .collect()
}

// RUSTFLAGS in the environment, or a build from another folder, drop the project's flags in silence.
#[test]
fn install_refuses_a_hook_that_is_not_static() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let from = lab.dir.join("from");
        fs::create_dir(&from).unwrap();
        for stage in ["prestart", "poststart", "poststop"] {
            fs::copy("/bin/sh", from.join(format!("fs-isolator-{stage}"))).unwrap();
        }
        let (hooks, bins) = (lab.dir.join("hooks.d"), lab.dir.join("bin"));
        let arguments = [
            "install",
            "--hooks-dir",
            hooks.to_str().unwrap(),
            "--bin-dir",
            bins.to_str().unwrap(),
            "--from",
            from.to_str().unwrap(),
        ];
        let refused = lab.cli(&arguments);
        assert!(refused.code == 73 && refused.err.contains("interpreter"), "{refused:?}");
        fs::remove_file(from.join("fs-isolator-poststop")).unwrap();
        assert_eq!(lab.cli(&arguments).code, 73);
        assert!(names(&hooks).is_empty() && names(&bins).is_empty());
        fs::create_dir(&hooks).unwrap();
        fs::set_permissions(&hooks, PermissionsExt::from_mode(0o777)).unwrap();
        let from = Path::new(PRESTART).parent().unwrap().to_str().unwrap();
        assert_eq!(
            lab.cli(&[
                "install",
                "--hooks-dir",
                hooks.to_str().unwrap(),
                "--bin-dir",
                bins.to_str().unwrap(),
                "--from",
                from
            ])
            .code,
            21
        );
        assert!(names(&hooks).is_empty());
    });
}

// A check for leaks first finds a planted leak.
#[test]
fn the_look_for_leaks_finds_them() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.assert_clean();
        let record = lab.runtime_dir().join("records/x");
        fs::create_dir_all(record.parent().unwrap()).unwrap();
        fs::write(&record, "").unwrap();
        assert_eq!(lab.leaks(), ["records/x"]);
        fs::remove_file(record).unwrap();
        let temporary = lab.dir.join(".fs-isolator.1.2.3");
        fs::create_dir(&temporary).unwrap();
        assert_eq!(lab.leaks(), [temporary.to_str().unwrap()]);
        fs::remove_dir(temporary).unwrap();
        let elsewhere = Path::new("/mnt");
        tmpfs(elsewhere, MsFlags::empty());
        assert!(lab.leaks()[0].contains("mounts on the host"));
        nix::mount::umount(elsewhere).unwrap();
        lab.assert_clean();
    });
}

// On crun it is the only place that says why.
#[test]
fn logs_tell_why_a_container_did_not_start() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        assert_eq!(lab.cli(&["logs"]).ok().out, "");
        let mut container = lab.container(Runtime::Crun, "web");
        assert_ne!(container.ask("nope:data").run().code, 0);
        let ran = lab.cli(&["logs", "we"]).ok();
        assert!(ran.out.contains("volume nope:data") && ran.out.contains("[exit 41]"), "{ran:?}");
        assert_eq!(lab.cli(&["logs"]).ok().out, "web\n");
        assert_eq!(json_of(lab.cli(&["logs", "--json", "web"]))["container"], "web");
        assert_eq!(lab.cli(&["logs", "x"]).code, 78);
    });
}
