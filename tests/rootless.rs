//! Rootless podman: an unprivileged user's containers with the user's volumes, and no root anywhere.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/rootless.rs"]
mod rootless;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use rootless::{HOME, RUN, Rootless, UID, text};
use serde_json::json;

/// Runs a test with each runtime, on a host of its own.
fn each(test: fn(&Rootless)) {
    for runtime in RUNTIMES {
        on(Host::Shared, move || {
            let rootless = Rootless::with_hooks(runtime, "filesystem/linux");
            test(&rootless);
        });
    }
}

fn uid(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

// The line of the issue: each run adds one.
#[test]
fn a_volume_of_the_user_in_containers_of_the_user() {
    each(|rootless| {
        rootless.cli(&["volume", "create", "db"]).ok();
        let volume = rootless.work().join("volumes/roles/default/db");
        assert_eq!((uid(&volume), fs::metadata(&volume).unwrap().mode() & 0o7777), (UID, 0o750));
        let script = "echo 1 >> /mnt/mesos/sandbox/data/n; cat /mnt/mesos/sandbox/data/n; id -u";
        let mut lines = 0;
        for (options, inside) in [(&[][..], "0"), (&["--userns=keep-id"], "1234")] {
            for _ in 0..2 {
                lines += 1;
                let ran = rootless.ask(options, "db:data", script).ok();
                let mut expected = vec!["1"; lines];
                expected.push(inside);
                assert_eq!(ran.lines(), expected, "{options:?}");
            }
        }
        assert_eq!(uid(volume.join("n")), UID, "all of it is the user's");
        // Nothing of it is root's, or anywhere else than where the user's things are.
        assert!(leases().is_empty() && !Path::new("/var/lib/fs-isolator").exists());
        assert!(rootless.runtime_dir().join("records").is_dir());
        wait_for("poststop", || names(&rootless.runtime_dir().join("records")).is_empty());
        assert!(names(&Path::new(RUN).join("fs-isolator/leases")).is_empty());
    });
}

// A running container's mounts are its user's root's to change; that one may not follow /proc/PID/map_files.
#[test]
fn a_running_container_of_the_user_gets_a_volume() {
    each(|rootless| {
        for id in ["db", "other"] {
            rootless.cli(&["volume", "create", id]).ok();
        }
        rootless.start("c", &["--annotation", "io.fs-isolator.volumes=db:/d"]);
        let id = rootless.run(&["inspect", "--format", "{{.Id}}", "c"]).ok().out.trim().to_owned();
        let ran = rootless.cli(&["attach", &id, "other:/e"]);
        assert!(ran.code == 2 && ran.err.contains("podman unshare"), "{ran:?}");
        let (program, config) = (rootless.path("bin/fs-isolator"), rootless.lab.config());
        let unshared =
            |words: &[&str]| rootless.unshared(text(&program), &[&["--config", text(&config)], words].concat());
        unshared(&["attach", &id, "other:/e"]).ok();
        rootless.run(&["exec", "c", "sh", "-c", "cp /bin/busybox /d/busybox; echo 1 > /e/f"]).ok();
        unshared(&["detach", &id, "/e"]).ok();
        assert!(rootless.work().join("volumes/roles/default/other/f").exists());
        // Only a mapping uses the volume.
        rootless.run(&["exec", "-d", "c", "/d/busybox", "sleep", "1000"]).ok();
        wait_for("it", || run("pgrep", &["-f", "/d/busybox sleep"]).code == 0);
        let ran = unshared(&["detach", &id, "/d"]);
        assert!(ran.code == 80 && ran.err.contains("(busybox)"), "{ran:?}");
        unshared(&["detach", "--lazy", &id, "/d"]).ok();
        rootless.run(&["rm", "-f", "-t", "0", "c"]).ok();
    });
}

// Without a configuration everything has its place: below the home, and below /run/user.
#[test]
fn without_a_configuration_paths_are_the_users() {
    on(Host::Shared, || {
        let rootless = Rootless::with_hooks(Runtime::Crun, "filesystem/linux");
        let program = rootless.path("bin/fs-isolator");
        let config = rootless.as_user(program.to_str().unwrap(), &["config"]).ok();
        for words in [
            "/home/fsiso/.local/share/fs-isolator",
            "/run/user/1234/fs-isolator",
            "/home/fsiso/.local/share/containers/storage",
        ] {
            assert!(config.out.contains(words), "{words}: {}", config.out);
        }
        let directory = Path::new(HOME).join(".config/fs-isolator");
        rootless.as_user("mkdir", &["-p", directory.to_str().unwrap()]).ok();
        let text = r#"echo '{"isolation": "filesystem/linux"}' > ~/.config/fs-isolator/config.json"#;
        rootless.as_user("sh", &["-c", text]).ok();
        // Hooks as an administrator installs them for all users: without --config.
        for name in names(&rootless.path("hooks.d")) {
            let path = rootless.path("hooks.d").join(name);
            let mut hook: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            hook["hook"]["args"] = json!(["hook"]);
            fs::write(&path, hook.to_string()).unwrap();
        }
        rootless.as_user(program.to_str().unwrap(), &["volume", "create", "db"]).ok();
        assert_eq!(rootless.ask(&[], "db:data", "touch /mnt/mesos/sandbox/data/f && echo ok").ok().out, "ok\n");
        assert!(rootless.work().join("volumes/roles/default/db/f").exists());
    });
}

// What needs root of the host is refused with the reason.
#[test]
fn other_ids_are_refused_with_the_reason() {
    each(|rootless| {
        rootless.cli(&["volume", "create", "db"]).ok();
        let ran = rootless.ask(&["--userns=auto"], "db:data", "echo STARTED");
        assert!(ran.code == 126 && !ran.out.contains("STARTED"), "{ran:?}");
        let log = rootless.runtime_dir().join("log");
        let text = fs::read_to_string(log.join(&names(&log)[0])).unwrap();
        for words in ["[exit 45]", "only root of the host", "--userns=keep-id"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(names(&rootless.runtime_dir().join("records")).is_empty());
        // The volume's owner is who the container runs as, whatever the map.
        rootless.ask(&["--userns=keep-id"], "db:data", "touch /mnt/mesos/sandbox/data/f").ok();
    });
}

// Exclusive for the user too, and another user of the container gets the volume as with root.
#[test]
fn leases_and_owners_are_kept_without_root() {
    each(|rootless| {
        rootless.cli(&["volume", "create", "db"]).ok();
        rootless.start("holder", &["--annotation", "io.fs-isolator.volumes=db:data"]);
        let ran = rootless.ask(&[], "db:data", "echo STARTED");
        assert!(ran.code == 126 && !ran.out.contains("STARTED"), "{ran:?}");
        assert_eq!(rootless.cli(&["volume", "destroy", "--yes", "db"]).code, 71);
        rootless.run(&["rm", "-f", "-t", "0", "holder"]).ok();
        rootless.ask(&["--user", "5"], "db:/d", "touch /d/f").ok();
        let volume = rootless.work().join("volumes/roles/default/db");
        assert_eq!(uid(&volume), rootless::SUBIDS + 4, "user 5 is the fifth of the subordinate ids");
        rootless
            .unshared(
                rootless.path("bin/fs-isolator").to_str().unwrap(),
                &["--config", rootless.lab.config().to_str().unwrap(), "volume", "destroy", "--yes", "db"],
            )
            .ok();
        assert!(!volume.exists());
    });
}

// What other users could change is not trusted, in a user's home no more than anywhere.
#[test]
fn directories_that_others_may_write_to_are_refused() {
    on(Host::Shared, || {
        let rootless = Rootless::with_hooks(Runtime::Runc, "filesystem/linux");
        rootless.cli(&["volume", "create", "db"]).ok();
        rootless.as_user("chmod", &["o+w", rootless.work().to_str().unwrap()]).ok();
        let ran = rootless.ask(&[], "db:data", "echo STARTED");
        assert!(
            ran.code == 126 && ran.err.contains("exit status 21,") && ran.err.contains("writable by others"),
            "{ran:?}"
        );
    });
}
