//! Whose a volume is: Mesos's rule, idmapped mounts in user namespaces, groups for volumes, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use common::*;
use nix::mount::MsFlags;
use serde_json::json;

/// Ids of the containers' user namespaces on the host.
const FIRST: u32 = 200_000;

/// A container in a user namespace of its own.
fn mapped(lab: &Lab, runtime: Runtime, id: &str, volumes: &str) -> Container {
    let mut container = lab.container(runtime, id);
    container.ask(volumes).map_ids(FIRST);
    container
}

fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn exit(ran: &Ran, lab: &Lab, code: i32) -> String {
    assert_ne!(ran.code, 0, "{ran:?}");
    let log = lab.log("c");
    assert!(log.contains(&format!("[exit {code}]")), "{code}: {ran:?}\n{log}");
    fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
    log
}

#[test]
fn root_of_a_user_namespace_writes_with_the_ids_it_has_inside() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("of-root"), "x").unwrap();
        fs::write(volume.join("of-1000"), "x").unwrap();
        chown(volume.join("of-1000"), Some(1000), Some(1000)).unwrap();
        let before = manifest(&volume);
        let script =
            "stat -c %u:%g /d /d/of-root /d/of-1000 && echo y >> /d/of-root && mkdir /d/new && echo z > /d/new/f";
        let ran = mapped(&lab, runtime, "c", "db:/d").run_shell(script).ok();
        assert_eq!(ran.lines(), ["0:0", "0:0", "1000:1000"]);
        assert_eq!(owner(&volume.join("new/f")), (0, 0), "on disk the id is the id inside");
        fs::remove_dir_all(volume.join("new")).unwrap();
        fs::write(volume.join("of-root"), "x").unwrap();
        assert_eq!(manifest(&volume), before, "nothing on disk was given to anybody");
        // The next one may have other ids: its files are its own all the same.
        let mut other = mapped(&lab, runtime, "c", "db:/d");
        for kind in ["uidMappings", "gidMappings"] {
            other.spec["linux"][kind][0]["hostID"] = json!(FIRST + 65536);
        }
        run("chown", &["-R", "265536:265536", other.rootfs().to_str().unwrap()]).ok();
        assert_eq!(other.run_shell("stat -c %u /d/of-1000; echo y > /d/of-root").ok().lines(), ["1000"]);
        lab.assert_clean();
    });
}

#[test]
fn a_user_of_a_user_namespace_gets_the_root_of_the_volume_and_no_other_file() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("old"), "x").unwrap();
        let mut container = mapped(&lab, runtime, "c", "db:/d;db:data");
        container.user(1000, 100);
        container.run_shell("touch /d/f /mnt/mesos/sandbox/data/g /mnt/mesos/sandbox/s; ! cat /d/old").failed();
        container.run_shell("touch /d/f /mnt/mesos/sandbox/data/g /mnt/mesos/sandbox/s").ok();
        assert_eq!((owner(&volume), owner(&volume.join("f"))), ((1000, 100), (1000, 100)));
        assert_eq!(owner(&volume.join("old")), (0, 0));
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        assert_eq!(owner(&sandbox), (FIRST + 1000, FIRST + 100), "the sandbox is the user's as the host knows it");
        assert_eq!(owner(&sandbox.join("s")), (FIRST + 1000, FIRST + 100));
        lab.assert_clean();
    });
}

#[test]
fn each_rule_does_what_it_says() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let look = "stat -c %u /d; touch /d/f && echo wrote";
        for (rule, owned, inside, writes, on_disk) in [
            ("auto", 0, "0", true, 0),
            ("auto", FIRST, "0", true, FIRST),
            ("idmap", 0, "0", true, 0),
            ("mesos", 0, "0", true, FIRST),
            ("never", 0, "65534", false, 0),
            // The ids inside begin anew: what belongs to the namespace's root on disk is nobody's through the map.
            ("idmap", FIRST, "65534", false, FIRST),
        ] {
            let volume = lab.volume_path("default", "db");
            let arguments =
                ["volume", "create", "--ownership", rule, "--owner", &owned.to_string(), "--mode", "755", "db"];
            lab.cli(&arguments).ok();
            let ran = mapped(&lab, runtime, "c", "db:/d").run_shell(look);
            assert_eq!(ran.lines()[0], inside, "{rule} {owned}: {ran:?}");
            assert_eq!(ran.out.contains("wrote"), writes, "{rule} {owned}");
            assert_eq!(owner(&volume).0, on_disk, "{rule} {owned}");
            lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
        }
        lab.assert_clean();
    });
}

// mesos.md P9: root gets nothing, and nobody while another uses it.
#[test]
fn mesos_rule_without_a_user_namespace() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("old"), "x").unwrap();
        let user = |id: &str, uid: u32| {
            let mut container = lab.container(runtime, id);
            container.ask("db:/d:shared").user(uid, uid);
            container
        };
        user("c", 0).run_shell("true").ok();
        assert_eq!(owner(&volume), (0, 0));
        let mut first = user("first", 1000);
        first.start("sleep 1000");
        assert_eq!((owner(&volume), owner(&volume.join("old"))), ((1000, 1000), (0, 0)));
        user("second", 1001).run_shell("true").ok();
        assert_eq!(owner(&volume), (1000, 1000), "another holder uses it");
        first.delete();
        user("second", 1001).run_shell("true").ok();
        assert_eq!(owner(&volume), (1001, 1001));
        lab.configure(json!({ "isolation": "filesystem/linux", "ownership": "never" }));
        user("third", 1002).run_shell("true").ok();
        assert_eq!(owner(&volume), (1001, 1001));
        lab.assert_clean();
    });
}

/// Runs a program as a user. Not by setpriv itself, which has root's capabilities until then.
fn run_as(uid: &str, program: &Path) -> Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "sh", "-c", "exec \"$0\" id"]).arg(program);
    run_with(&mut command, b"")
}

// CVE-2021-41091, 41103: a setuid file that root of a container leaves is root's on the host.
#[test]
fn a_setuid_file_in_a_volume_is_nobodys_to_run() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        mapped(&lab, runtime, "c", "db:/d").run_shell("cat /bin/busybox > /d/su && chmod 4755 /d/su").ok();
        let su = volume.join("su");
        let stat = fs::metadata(&su).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o4755), "it is there, and root's");
        // Another user of the host, and the namesake of the volume's owner.
        for uid in ["1000", "65534"] {
            let ran = run_as(uid, &su);
            assert!(ran.code != 0 && ran.err.contains("Permission denied"), "{ran:?}");
        }
        // Given to a user, the volume is still closed to the host's user of that number.
        let mut container = mapped(&lab, runtime, "c", "db:/d");
        container.user(1000, 1000).run_shell("true").ok();
        assert_eq!(owner(&volume), (1000, 1000));
        assert!(run_as("1000", &su).err.contains("Permission denied"));
        lab.assert_clean();
    });
}

// Root of the container owns the root of the volume, and could open it to the host's users: what keeps them out must lie
// above it.
#[test]
fn where_others_could_reach_it_a_volume_is_not_idmapped() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        // As where posix is allowed, and as Mesos makes everything.
        lab.configure(
            json!({ "isolation": "filesystem/linux", "allowed_isolation": ["filesystem/linux", "filesystem/posix"] }),
        );
        let volume = lab.volume("db");
        let mut container = mapped(&lab, runtime, "c", "db:/d");
        let script = "cat /bin/busybox > /d/su && chmod 4755 /d/su && chmod 755 /d";
        for mode in [0o750, 0o700, 0o755] {
            fs::set_permissions(&volume, PermissionsExt::from_mode(mode)).unwrap();
            for user in [0, 1000] {
                container.user(user, user);
                let log = exit(&container.run_shell(script), &lab, 45);
                assert!(log.contains("keeps other users from") && log.contains("chmod 0700"), "{log}");
            }
        }
        assert!(names(&volume).is_empty() && owner(&volume) == (0, 0));
        fs::set_permissions(volume.parent().unwrap(), PermissionsExt::from_mode(0o700)).unwrap();
        container.user(0, 0).run_shell(script).ok();
        assert!(run_as("65534", &volume.join("su")).err.contains("Permission denied"));
        // Where setuid means nothing anybody may come.
        fs::set_permissions(volume.parent().unwrap(), PermissionsExt::from_mode(0o711)).unwrap();
        lab.volume("other");
        tmpfs(&lab.volume_path("default", "other"), MsFlags::MS_NOSUID);
        container.ask("other:/d").run_shell(script).ok();
        nix::mount::umount(&lab.volume_path("default", "other")).unwrap();
        lab.assert_clean();
    });
}

// What cannot be mapped is named with what can be done instead, and nothing is done silently.
#[test]
fn filesystems_that_cannot_be_idmapped_are_named() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        for (kind, options) in [("overlay", Some("lowerdir=L,upperdir=U,workdir=W")), ("ramfs", None)] {
            for below in [false, true] {
                let volume = lab.volume("db");
                let point = if below { volume.join("sub/mount") } else { volume.clone() };
                fs::create_dir_all(&point).unwrap();
                let upper = lab.dir.join("upper");
                tmpfs(&upper, MsFlags::empty());
                for name in ["L", "U", "W"] {
                    fs::create_dir_all(upper.join(name)).unwrap();
                }
                let text = options.map(|text| {
                    ["L", "U", "W"].iter().fold(text.to_owned(), |text, name| {
                        text.replace(&format!("={name}"), &format!("={}", upper.join(name).display()))
                    })
                });
                nix::mount::mount(Some(kind), &point, Some(kind), MsFlags::empty(), text.as_deref()).unwrap();
                let ran = mapped(&lab, runtime, "c", "db:/d").run_shell("true");
                let log = exit(&ran, &lab, 45);
                let named = format!("{kind} at {} cannot be idmapped", point.display());
                assert!(log.contains(&named) && log.contains("--ownership mesos"), "{log}");
                // Without the map it can be had by those who say so.
                lab.configure(json!({ "isolation": "filesystem/linux", "ownership": "mesos" }));
                mapped(&lab, runtime, "c", "db:/d").run_shell("touch /d/f").ok();
                lab.configure(json!({ "isolation": "filesystem/linux" }));
                nix::mount::umount(&point).unwrap();
                nix::mount::umount(&upper).unwrap();
                lab.cli(&["volume", "destroy", "--yes", "db"]).ok();
            }
        }
        lab.assert_clean();
    });
}

// mesos.md K8 and K2: a read-only volume in a user namespace, with its submounts.
#[test]
fn k8_k2_read_only_in_a_user_namespace_covers_submounts() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        tmpfs(&volume.join("sub"), flags);
        fs::set_permissions(volume.join("sub"), PermissionsExt::from_mode(0o777)).unwrap();
        let script = "for f in /d/f /d/sub/f; do touch $f 2>&1; done; grep -c ' /d.* ro,' /proc/self/mountinfo; grep ' /d/sub ' /proc/self/mountinfo";
        let ran = mapped(&lab, runtime, "c", "db:/d:ro").run_shell(script).ok();
        assert_eq!(ran.out.matches("Read-only file system").count(), 2, "{ran:?}");
        assert!(ran.lines().contains(&"2") && ran.out.contains("ro,nosuid,nodev"), "flags of the source stay: {ran:?}");
        nix::mount::umount(&volume.join("sub")).unwrap();
        lab.assert_clean();
    });
}

// A hard link to a file of the host in a volume never changes hands.
#[test]
fn a_hard_link_is_not_chowned() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let precious = lab.dir.join("precious");
        fs::write(&precious, "x").unwrap();
        fs::set_permissions(&precious, PermissionsExt::from_mode(0o600)).unwrap();
        fs::hard_link(&precious, volume.join("link")).unwrap();
        let before = (owner(&precious), fs::metadata(&precious).unwrap().mode());
        let mut container = lab.container(Runtime::Runc, "c");
        container.ask("db:/d").user(1000, 1000).run_shell("! cat /d/link").ok();
        assert_eq!(owner(&volume), (1000, 1000));
        mapped(&lab, Runtime::Runc, "m", "db:/d").run_shell("true").ok();
        lab.configure(json!({ "isolation": "filesystem/linux", "volume_gid_range": "[30000-30010]" }));
        container.spec["process"]["user"]["additionalGids"] = json!([30000]);
        container.run_shell("true").ok();
        assert_eq!(owner(&volume).1, 30000);
        assert_eq!((owner(&precious), fs::metadata(&precious).unwrap().mode()), before);
        lab.assert_clean();
    });
}

/// A lab whose volumes get groups.
fn with_groups() -> Lab {
    Lab::with(json!({ "isolation": "filesystem/linux", "volume_gid_range": "[30000-30002]" }))
}

// mesos.md A9: a group of its own for each volume, from its first use until it is destroyed.
#[test]
fn volumes_have_groups_of_their_own() {
    on(Host::Private, || {
        let lab = with_groups();
        let ask = |volume: &str, groups: &[u32], uid: u32| {
            let mut container = lab.container(Runtime::Runc, "c");
            container.ask(&format!("{volume}:/d")).user(uid, uid);
            container.spec["process"]["user"]["additionalGids"] = json!(groups);
            container
        };
        let (one, two) = (lab.volume("one"), lab.volume("two"));
        fs::create_dir_all(one.join("a/b")).unwrap();
        fs::write(one.join("a/b/f"), "x").unwrap();
        std::os::unix::fs::symlink("f", one.join("a/b/l")).unwrap();
        // Who is not in the group is told of it; the group stays the volume's.
        for _ in 0..2 {
            let log = exit(&ask("one", &[], 1000).run_shell("true"), &lab, 45);
            assert!(log.contains("group is 30000") && log.contains("--group-add 30000"), "{log}");
        }
        assert_eq!(owner(&one), (0, 0), "not walked for who cannot use it");
        // Not for root.
        ask("one", &[], 0).run_shell("true").ok();
        assert_eq!(owner(&one), (0, 0));
        ask("one", &[30000], 1000).run_shell("touch /d/new /d/a/b/new && echo y > /d/a/b/x").ok();
        for (path, mode) in [("", 0o2770), ("a", 0o2775), ("a/b", 0o2775)] {
            let stat = fs::metadata(one.join(path)).unwrap();
            assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (0, 30000, mode), "{path:?}");
        }
        assert_eq!((owner(&one.join("a/b/f")), owner(&one.join("a/b/l"))), ((0, 30000), (0, 30000)));
        assert_eq!(fs::metadata(one.join("a/b/f")).unwrap().mode() & 0o7777, 0o644, "files keep their modes");
        // Another user in the group; another volume has another group.
        ask("one", &[30000], 1001).run_shell("touch /d/other").ok();
        ask("two", &[30001], 1000).run_shell("touch /d/f").ok();
        assert_eq!(owner(&two).1, 30001);
        lab.volume("three");
        ask("three", &[30002], 1000).run_shell("true").ok();
        lab.volume("four");
        let log = exit(&ask("four", &[30003], 1000).run_shell("true"), &lab, 45);
        assert!(log.contains("no group of volume_gid_range [30000-30002] is free"), "{log}");
        // A destroyed volume's group is free again.
        lab.cli(&["volume", "destroy", "--yes", "two"]).ok();
        ask("four", &[30001], 1000).run_shell("true").ok();
        lab.assert_clean();
    });
}

// A walk that was killed is walked to its end by the next start: the root gets the group last.
#[test]
fn a_killed_walk_is_finished() {
    on(Host::Private, || {
        let lab = with_groups();
        let volume = lab.volume("db");
        for number in 0..40 {
            fs::create_dir(volume.join(format!("d{number}"))).unwrap();
            fs::write(volume.join(format!("d{number}/f")), "x").unwrap();
        }
        let mut container = lab.container(Runtime::Runc, "c");
        container.ask("db:/d").user(1000, 1000);
        container.spec["process"]["user"]["additionalGids"] = json!([30000]);
        let mut half = 0;
        // Each start goes on where the last was killed: 81 are to be given in all.
        for nth in [1, 7, 20, 25] {
            container.hooks(&lab.config(), &[("prestart", "/usr/bin/strace")]);
            container.spec["hooks"]["prestart"][0]["args"] = json!([
                "strace",
                "-o",
                "/dev/null",
                "-e",
                format!("inject=fchownat:signal=KILL:when={nth}"),
                PRESTART,
                "--config",
                lab.config()
            ]);
            container.run_shell("true").failed();
            let done = (0..40).filter(|number| owner(&volume.join(format!("d{number}/f"))).1 == 30000).count();
            half += usize::from(done > 0 && done < 40);
            assert_eq!(owner(&volume).1, 0, "killed at {nth}: it does not look done");
        }
        assert!(half > 0, "some were killed halfway");
        lab.cli(&["reconcile"]).ok();
        container.hooks(&lab.config(), &[("prestart", PRESTART), ("poststop", POSTSTOP)]);
        container.run_shell("touch /d/d39/new").ok();
        assert_eq!(owner(&volume).1, 30000);
        assert!((0..40).all(|number| owner(&volume.join(format!("d{number}/f"))).1 == 30000));
        lab.assert_clean();
    });
}

// A range that has a volume's group already does not make it that volume's: two never have one.
#[test]
fn two_volumes_never_have_one_group() {
    on(Host::Private, || {
        let lab = with_groups();
        let ask = |volume: &str, gid: u32| {
            let mut container = lab.container(Runtime::Runc, "c");
            container.ask(&format!("{volume}:/d")).user(1000, 1000);
            container.spec["process"]["user"]["additionalGids"] = json!([gid]);
            container.run_shell("true")
        };
        for id in ["one", "two"] {
            chown(lab.volume(id), None, Some(30001)).unwrap();
        }
        ask("one", 30001).ok();
        let log = exit(&ask("two", 30001), &lab, 45);
        assert!(log.contains("is that of volume one of role default"), "{log}");
        chown(lab.volume_path("default", "two"), None, Some(0)).unwrap();
        ask("two", 30000).ok();
        lab.assert_clean();
    });
}
