//! `fs-isolator host`: `work_dir` as a shared mount of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use common::*;
use nix::mount::{MntFlags, umount2};

/// The peer groups of the mounts at a path, and of the mount it lies on.
fn groups(path: &Path) -> (Vec<Option<u64>>, Option<u64>) {
    let table = fs_isolator::mountinfo::parse(mount_table().as_bytes());
    let at = |path: &Path| table.iter().filter(|mount| mount.mount_point == path).map(|mount| mount.shared).collect();
    let parent = table.iter().filter(|mount| path.starts_with(&mount.mount_point) && mount.mount_point != path);
    (at(path), parent.max_by_key(|mount| mount.mount_point.as_os_str().len()).and_then(|mount| mount.shared))
}

#[test]
fn work_dir_becomes_a_shared_mount_of_its_own_once() {
    on_both(|host| {
        let lab = Lab::new("filesystem/linux");
        assert_eq!(groups(&lab.work()).0, []);
        let said = lab.cli(&["host"]).ok().out;
        assert!(said.contains("is a shared mount of its own now"), "{said}");
        let (own, parent) = groups(&lab.work());
        assert!(matches!(own[..], [Some(_)]) && own[0] != parent, "{host:?}: {own:?} {parent:?}");
        assert!(lab.cli(&["host"]).ok().out.contains("already"));
        assert_eq!(groups(&lab.work()).0, own);

        make_private(&lab.work());
        assert!(lab.cli(&["host"]).ok().out.contains("is shared now"));
        assert!(matches!(groups(&lab.work()).0[..], [Some(_)]));

        // What it is for: a mount that the host makes later appears in a container that names slave.
        let volume = lab.volume("db");
        std::fs::create_dir(volume.join("later")).unwrap();
        for runtime in RUNTIMES {
            let mut container = lab.container(runtime, "c");
            container.ask("db:data:slave").start("sleep 1000");
            tmpfs(&volume.join("later"), nix::mount::MsFlags::empty());
            std::fs::write(volume.join("later/f"), "x").unwrap();
            let seen = container.exec("cat /mnt/mesos/sandbox/data/later/f");
            assert_eq!(seen.ok().out, "x", "{runtime:?} on {host:?}");
            umount2(&volume.join("later"), MntFlags::MNT_DETACH).unwrap();
            container.kill();
            container.delete();
        }
        umount2(&lab.work(), MntFlags::MNT_DETACH).unwrap();
        lab.assert_clean();
    });
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.cli(&["host", "--unit-dir", lab.dir.to_str().unwrap()]).ok();
        assert_eq!(groups(&lab.work()).0, [], "nothing is mounted");
        let escaped = run("systemd-escape", &["-p", "--suffix=mount", lab.work().to_str().unwrap()]).ok().out;
        let unit = lab.dir.join(escaped.trim());
        let verified = run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]);
        assert!(verified.code == 0 && verified.err.is_empty(), "{verified:?}");
    });
}
