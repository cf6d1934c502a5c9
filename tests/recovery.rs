//! After kills, reboots and time: reconcile and gc, and that no volume ever loses anything by them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::*;
use fs_isolator::sandbox;
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;

/// A volume with something in it.
fn fill(volume: &Path) {
    for name in ["a/b/c", "d"] {
        fs::create_dir_all(volume.join(name)).unwrap();
    }
    for name in ["f", "a/f", "a/b/f", "a/b/c/f"] {
        fs::write(volume.join(name), name).unwrap();
    }
}

fn content(volume: &Path) -> BTreeMap<String, String> {
    let mut all = manifest(volume);
    // Inode numbers differ between one filling and the next.
    all.values_mut().for_each(|value| {
        *value = value.split(' ').enumerate().filter(|(i, _)| *i != 2).map(|(_, w)| w).collect::<Vec<_>>().join(" ")
    });
    all
}

/// Makes something look as if nobody had touched it for so long.
fn age(path: &Path, ago: &str) {
    run("touch", &["-d", ago, path.to_str().unwrap()]).ok();
}

/// A container with a sandbox that ran, and the sandbox.
fn ran_once(lab: &Lab, runtime: Runtime, id: &str) -> PathBuf {
    let before = lab.sandboxes("local");
    lab.container(runtime, id)
        .ask("db:data")
        .run_shell("echo x > /mnt/mesos/sandbox/f; echo y >> /mnt/mesos/sandbox/data/n")
        .ok();
    let new = lab.sandboxes("local").into_iter().find(|name| !before.contains(name)).unwrap();
    lab.work().join("sandboxes/local").join(new)
}

// mesos.md GC1 and GC2.
#[test]
fn old_sandboxes_are_collected_and_nothing_else() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let (old, young) = (ran_once(&lab, runtime, "old"), ran_once(&lab, runtime, "young"));
        let mut live = lab.container(runtime, "live");
        live.ask("db:data").start("sleep 1000");
        let living = lab.sandboxes("local").into_iter().find(|name| name.starts_with("live")).unwrap();
        let living = lab.work().join("sandboxes/local").join(living);
        let by_hand = PathBuf::from(lab.cli(&["sandbox", "create", "--owner", "1000", "alice"]).ok().out.trim());
        let data = manifest(&volume);
        for sandbox in [&old, &living, &by_hand] {
            age(sandbox, "8 days ago");
        }
        age(&young, "1 day ago");
        let report = lab.cli(&["gc"]).ok();
        assert!(report.out.contains("removed the sandbox old."), "{report:?}");
        assert_eq!([old, young, living, by_hand].map(|sandbox| sandbox.exists()), [false, true, true, true]);
        assert_eq!(manifest(&volume), data);
        live.exec("cat /mnt/mesos/sandbox/data/n").ok();
        live.delete();
        assert_eq!(lab.cli(&["gc"]).ok().out, "", "nothing to do is nothing said");
        lab.assert_clean();
    });
}

#[test]
fn the_fuller_the_disk_the_sooner_sandboxes_go() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let work = lab.dir.join("small");
        fs::create_dir_all(&work).unwrap();
        mount(Some("tmpfs"), &work, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=1m")).unwrap();
        lab.configure(json!({ "isolation": "filesystem/linux", "work_dir": work }));
        lab.volume("db");
        lab.container(Runtime::Runc, "c").ask("db:data").run_shell("true").ok();
        let sandboxes = work.join("sandboxes/local");
        let sandbox = sandboxes.join(&names(&sandboxes)[0]);
        age(&sandbox, "24 hours ago");
        lab.cli(&["gc"]).ok();
        assert!(sandbox.exists());
        // 168 h times what is left of 90 %: some eight hours.
        fs::write(work.join("full"), vec![0; 870 << 10]).unwrap();
        lab.cli(&["gc"]).ok();
        assert!(!sandbox.exists());
        umount(&work).unwrap();
        lab.assert_clean();
    });
}

// MESOS-7366, 8830, 9352: what is mounted in a sandbox is never deleted with it.
#[test]
fn mesos_7366_8830_9352_gc_never_deletes_through_a_mount() {
    on(Host::Private, || {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "1h" }));
        let volume = lab.volume("db");
        fill(&volume);
        let kept = manifest(&volume);
        let sandbox = ran_once_named(&lab, "c d.0123456789ab");
        bind(&volume, &sandbox.join("a b/data"));
        age(&sandbox, "2 hours ago");
        let ran = lab.cli(&["gc"]);
        assert_eq!(ran.code, 62, "{ran:?}");
        assert_eq!(manifest(&volume), kept);
        // It waits under another name, so that no container comes back to half of it.
        let folder = sandbox.parent().unwrap();
        let left = names(folder);
        assert!(left.len() == 1 && left[0].starts_with(".fs-isolator.gone."), "{left:?}");
        umount(&folder.join(&left[0]).join("a b/data")).unwrap();
        lab.cli(&["gc"]).ok();
        assert!(manifest(&volume) == kept && names(folder).is_empty());
        lab.assert_clean();
    });
}

/// A sandbox whose path has a space.
fn ran_once_named(lab: &Lab, name: &str) -> PathBuf {
    let sandbox = lab.work().join("sandboxes/local").join(name);
    fs::create_dir_all(&sandbox).unwrap();
    sandbox
}

#[test]
fn reconcile_undoes_what_is_dead_and_nothing_else() {
    each(|runtime| {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        let volume = lab.volume("db");
        lab.volume("other");
        let mut live = lab.container(runtime, "live");
        live.ask("other:data;other:/e").start("sleep 1000");
        let mut dead = lab.container(runtime, "dead");
        dead.hooks(&lab.config(), &[("prestart", PRESTART)])
            .ask("db:data;db:/a/b")
            .start("echo x > /a/b/f; sleep 1000");
        wait_for("a write", || fs::read(volume.join("f")).is_ok_and(|text| text == b"x\n"));
        dead.kill();
        dead.delete();
        assert!(dead.rootfs().join("a/b").exists() && leases().len() == 4);
        let report = lab.cli(&["reconcile"]).ok();
        assert!(report.out.contains("undid what was left of container record dead."), "{report:?}");
        assert!(!dead.rootfs().join("a").exists() && leases().len() == 2 && lab.sandboxes("local").len() == 1);
        assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "x\n");
        assert_eq!(lab.cli(&["reconcile"]).ok().out, "");
        live.exec("touch /e/g").ok();
        live.delete();
        lab.assert_clean();
    });
}

// The machine goes down with containers running: nothing in memory is left, and every number means something else.
#[test]
fn after_a_reboot_leases_are_free_sandboxes_collected_and_volumes_whole() {
    each(|runtime| {
        for keeps_memory in [false, true] {
            let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
            let volume = lab.volume("db");
            let mut container = lab.container(runtime, "c");
            container.hooks(&lab.config(), &[("prestart", PRESTART)]).ask("db:data");
            container.start("echo x > /mnt/mesos/sandbox/data/f; sleep 1000");
            wait_for("a write", || fs::read(volume.join("f")).is_ok_and(|text| text == b"x\n"));
            let data = manifest(&volume);
            container.kill();
            container.delete();
            // A kernel has one id for each boot.
            let boot = lab.dir.join("boot_id");
            fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
            let kernel = "/proc/sys/kernel/random/boot_id";
            mount(Some(&boot), kernel, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            if !keeps_memory {
                fs::remove_dir_all(lab.runtime_dir()).unwrap();
            }
            // Before anything was cleaned up, as in a race with the boot's own reconcile.
            let mut next = lab.container(runtime, "next");
            next.ask("db:/d").run_shell("cat /d/f").ok();
            lab.cli(&["reconcile"]).ok();
            assert_eq!(leases(), Vec::<String>::new());
            lab.cli(&["gc"]).ok();
            assert!(lab.sandboxes("local").is_empty(), "{:?}", lab.sandboxes("local"));
            assert_eq!(manifest(&volume), data);
            umount(kernel).unwrap();
            lab.assert_clean();
        }
    });
}

// Another configuration's container has its sandbox below the same work_dir.
#[test]
fn gc_leaves_what_another_configurations_container_has_and_what_no_hook_made() {
    each(|runtime| {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        let other = lab.dir.join("other.json");
        let text = json!({ "isolation": "filesystem/linux", "work_dir": lab.work(), "runtime_dir": lab.dir.join("run2"),
                           "managers": { "local": [lab.dir.join("bundles")] } });
        fs::write(&other, text.to_string()).unwrap();
        let mut container = lab.container(runtime, "c");
        container.annotate("io.fs-isolator.sandbox", "true");
        container.hooks(&other, &[("prestart", PRESTART), ("poststop", POSTSTOP)]).start("sleep 1000");
        let by_hand = lab.work().join("sandboxes/local/web");
        fs::create_dir_all(&by_hand).unwrap();
        lab.cli(&["gc"]).ok();
        container.exec("touch /mnt/mesos/sandbox/f").ok();
        assert!(by_hand.exists());
        container.delete();
        assert_eq!(lab.sandboxes("local").len(), 2);
        lab.cli(&["gc"]).ok();
        assert_eq!(lab.sandboxes("local"), ["web"]);
        lab.assert_clean();
    });
}

// One container's files cannot keep gc from the others', nor its sandbox from ever being old.
#[test]
fn nobody_can_stop_gc() {
    on(Host::Private, || {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "1h" }));
        let sandboxes = lab.work().join("sandboxes/local");
        let (a, b, c) =
            (sandboxes.join("a.0123456789ab"), sandboxes.join("b.0123456789ab"), sandboxes.join("c.0123456789ab"));
        for sandbox in [&a, &b, &c] {
            fill(sandbox);
        }
        tmpfs(&a.join("mounted"), MsFlags::empty());
        for sandbox in [&a, &b, &c] {
            age(sandbox, "2 hours ago");
        }
        let ran = lab.cli(&["gc"]);
        assert_eq!(ran.code, 62, "{ran:?}");
        assert!(!b.exists() && !c.exists());
        let left = names(&sandboxes);
        assert_eq!(left.len(), 1, "{left:?}");
        umount(&sandboxes.join(&left[0]).join("mounted")).unwrap();
        lab.cli(&["gc"]).ok();
        assert!(names(&sandboxes).is_empty());
        // A time in the future is none.
        fill(&a);
        age(&a, "2100-01-01");
        lab.configure(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        lab.cli(&["gc"]).ok();
        assert!(names(&sandboxes).is_empty());
        lab.assert_clean();
    });
}

// Something took a volume's place in the moment in which it was moved, and then the kill came: that was never destroyed.
#[test]
fn what_only_has_the_name_of_a_remainder_is_not_deleted() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fill(&volume);
        let whole = content(&volume);
        let inode = fs::metadata(&volume).unwrap().ino();
        let remainder = |number: &str| volume.with_file_name(format!(".fs-isolator.destroyed.{number}"));
        for number in [format!("1.{:x}", inode + 1), format!("1.{inode:x}x"), "1".to_owned()] {
            fs::rename(&volume, remainder(&number)).unwrap();
            let ran = lab.cli(&["gc"]);
            assert!(ran.code == 62 && ran.err.contains("is not what was to be destroyed"), "{number}: {ran:?}");
            fs::rename(remainder(&number), &volume).unwrap();
            assert_eq!(content(&volume), whole, "{number}");
        }
        fs::rename(&volume, remainder(&format!("1.{inode:x}"))).unwrap();
        lab.cli(&["gc"]).ok();
        assert!(names(volume.parent().unwrap()).is_empty());
        lab.assert_clean();
    });
}

/// Takes the lock under which a volume's leases change, as somebody has it who is about to destroy the volume.
fn lock_leases(volume: &Path) -> fs::File {
    let stat = fs::metadata(volume).unwrap();
    let directory = Path::new("/run/fs-isolator/leases").join(format!("{:x}-{:x}", stat.dev(), stat.ino()));
    fs::create_dir_all(&directory).unwrap();
    let lock = fs::File::open(directory).unwrap();
    lock.lock().unwrap();
    lock
}

/// Waits until somebody else waits for a lock.
fn wait_for_waiter(lock: &fs::File) {
    let stat = lock.metadata().unwrap();
    let (major, minor) = (nix::sys::stat::major(stat.dev()), nix::sys::stat::minor(stat.dev()));
    let file = format!(" {major:02x}:{minor:02x}:{} ", stat.ino());
    let waits = |line: &str| line.contains("->") && line.contains(&file);
    wait_for("somebody to wait", || fs::read_to_string("/proc/locks").unwrap().lines().any(waits));
}

// Two containers of a pod end at once, and a third one starts: what it has is not what was to be removed.
#[test]
fn a_sandbox_that_is_another_one_meanwhile_is_not_removed() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.container(runtime, "c");
        container.annotate("io.fs-isolator.sandbox", "true").run_shell("true").ok();
        let sandboxes = lab.work().join("sandboxes/local");
        let name = names(&sandboxes).remove(0);
        let folder = fs::File::open(&sandboxes).unwrap().into();
        let leases = fs_isolator::lease::Leases::open().unwrap();
        let lock = lock_leases(&sandboxes.join(&name));
        let free = std::thread::scope(|scope| {
            let removing = scope.spawn(|| sandbox::remove_unheld(&folder, &name, &leases, &mut |_| {}));
            wait_for_waiter(&lock);
            fs::rename(sandboxes.join(&name), lab.dir.join("removed")).unwrap();
            container.start("sleep 1000").exec("touch /mnt/mesos/sandbox/f").ok();
            drop(lock);
            removing.join().unwrap()
        });
        assert!(free.is_ok(), "{free:?}");
        container.exec("test -e /mnt/mesos/sandbox/f").ok();
        assert_eq!(names(&sandboxes), [name]);
        container.delete();
        lab.assert_clean();
    });
}

// Whoever was found before the lock was had may be gone when it is.
#[test]
fn a_volume_that_is_destroyed_meanwhile_is_not_attached() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fill(&volume);
        let inode = fs::metadata(&volume).unwrap().ino();
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d").shell("sleep 1000");
        let lock = lock_leases(&volume);
        let ran = std::thread::scope(|scope| {
            let created = scope.spawn(|| container.create());
            wait_for_waiter(&lock);
            fs::rename(&volume, volume.with_file_name(format!(".fs-isolator.destroyed.1.{inode:x}"))).unwrap();
            drop(lock);
            created.join().unwrap()
        });
        assert!(ran.code != 0 && lab.log("c").contains("[exit 41]"), "{ran:?} {}", lab.log("c"));
        lab.cli(&["gc"]).ok();
        assert!(names(volume.parent().unwrap()).is_empty());
        lab.assert_clean();
    });
}

// A MOUNT disk that is another's by then keeps the other's data.
#[test]
fn a_mount_disk_that_is_anothers_meanwhile_is_not_emptied() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let nvme = lab.dir.join("nvme");
        tmpfs(&nvme, MsFlags::empty());
        lab.configure(json!({ "isolation": "filesystem/linux",
                              "disks": [{ "name": "nvme", "type": "MOUNT", "mount": { "root": nvme } }] }));
        lab.cli(&["volume", "create", "--disk", "nvme", "db"]).ok();
        let lock = lock_leases(&nvme);
        let ran = std::thread::scope(|scope| {
            let destroyed = scope.spawn(|| lab.cli(&["volume", "destroy", "--yes", "db"]));
            wait_for_waiter(&lock);
            let rename = "import os, sys; at = sys.argv[1], 'trusted.fs-isolator'\n\
                          os.setxattr(*at, os.getxattr(*at).replace(b'\"db\"', b'\"other\"'))";
            run("python3", &["-c", rename, nvme.to_str().unwrap()]).ok();
            fill(&nvme);
            drop(lock);
            destroyed.join().unwrap()
        });
        assert_eq!(ran.code, 41, "{ran:?}");
        assert_eq!(fs::read_to_string(nvme.join("a/b/c/f")).unwrap(), "a/b/c/f");
        lab.cli(&["volume", "inspect", "other"]).ok();
        umount(&nvme).unwrap();
        lab.assert_clean();
    });
}
