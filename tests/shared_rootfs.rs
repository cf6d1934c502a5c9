//! Invariant 11: containers that share a root filesystem, or a volume with mount points in it, never take each
//! other's mounts away, and leave nothing behind.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::*;
use serde_json::json;

/// A root filesystem without its programs.
fn look(rootfs: &Path) -> BTreeMap<String, String> {
    let mut all = manifest(rootfs);
    all.retain(|path, _| !path.contains("/bin/"));
    all
}

fn rootfs(lab: &Lab) -> PathBuf {
    let rootfs = lab.dir.join("rootfs");
    make_rootfs(&rootfs);
    rootfs
}

/// A container on this root filesystem, asking for this.
fn container(lab: &Lab, runtime: Runtime, id: &str, rootfs: &Path, request: &str) -> Container {
    let mut container = lab.container(runtime, id);
    container.spec["root"]["path"] = json!(rootfs);
    container.ask(request);
    container
}

/// A loop of writes, each by a path of its own and synced.
fn writes(file: &str, count: &str) -> String {
    format!(
        "i=0; while [ $i -lt {count} ]; do i=$((i+1)); \
         dd if=/dev/zero of={file} bs=1 count=1 oflag=append conv=notrunc,fsync 2>/dev/null || exit 1; done"
    )
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |stat| stat.len())
}

/// Stops one of two containers that write all the time, and looks where the other's next 1,000 writes go.
#[track_caller]
fn stop_one(containers: &mut [Container; 2], stopped: usize, at: &str, volumes: &[PathBuf; 2]) {
    for container in containers.iter_mut() {
        container.start(&writes(&format!("{at}/always"), "1000000"));
    }
    wait_for("both to write", || volumes.iter().all(|volume| volume.join("always").exists()));
    containers[stopped].kill();
    containers[stopped].delete();
    let (survivor, volume) = (&containers[1 - stopped], &volumes[1 - stopped]);
    let before = size(&volume.join("always"));
    survivor.exec(&writes(&format!("{at}/f"), "1000")).ok();
    assert_eq!(size(&volume.join("f")), 1000);
    assert!(size(&volume.join("always")) > before && survivor.is_running());
    assert_eq!(names(&volumes[stopped]), ["always"]);
}

#[test]
fn the_other_container_at_the_same_path_keeps_its_volume() {
    each(|runtime| {
        for (stopped, there) in [(0, false), (1, false), (0, true)] {
            let lab = Lab::new("filesystem/linux");
            let rootfs = rootfs(&lab);
            if there {
                fs::create_dir(rootfs.join("d")).unwrap();
            }
            let before = look(&rootfs);
            let volumes = [lab.volume("one"), lab.volume("two")];
            let mut containers = ["one", "two"].map(|id| container(&lab, runtime, id, &rootfs, &format!("{id}:/d")));
            stop_one(&mut containers, stopped, "/d", &volumes);
            assert!(rootfs.join("d").is_dir() && names(&rootfs.join("d")).is_empty(), "a write went to the rootfs");
            containers.iter_mut().for_each(|container| drop(container.delete()));
            assert_eq!(look(&rootfs), before);
            lab.assert_clean();
        }
    });
}

#[test]
fn the_other_container_below_a_shared_parent_keeps_its_volume() {
    each(|runtime| {
        for stopped in [0, 1] {
            let lab = Lab::new("filesystem/linux");
            let rootfs = rootfs(&lab);
            let before = look(&rootfs);
            let volumes = [lab.volume("one"), lab.volume("two")];
            let parent = lab.volume("parent");
            fs::create_dir(parent.join("child")).unwrap();
            let parent_before = manifest(&parent);
            let mut containers = ["one", "two"]
                .map(|id| container(&lab, runtime, id, &rootfs, &format!("parent:/p:shared;{id}:/p/child")));
            stop_one(&mut containers, stopped, "/p/child", &volumes);
            assert_eq!(manifest(&parent), parent_before, "a write went to the parent volume");
            containers.iter_mut().for_each(|container| drop(container.delete()));
            assert_eq!([manifest(&parent), look(&rootfs)], [parent_before, before]);
            lab.assert_clean();
        }
    });
}

#[test]
fn mount_points_go_with_the_last_container_and_not_before() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let rootfs = rootfs(&lab);
        fs::create_dir_all(rootfs.join("srv/there")).unwrap();
        fs::set_permissions(rootfs.join("srv/there"), PermissionsExt::from_mode(0o700)).unwrap();
        let before = look(&rootfs);
        let paths = ["a/b/c", "a/other", "a", "srv/there", "srv/new/x", "a/b/c"];
        for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 4, 5, 3, 1]] {
            let mut containers: Vec<Container> = Vec::new();
            for (number, path) in paths.iter().enumerate() {
                let mut container =
                    container(&lab, runtime, &number.to_string(), &rootfs, &format!("db:/{path}:shared"));
                container.start("sleep 1000");
                containers.push(container);
            }
            let mut left = vec![true; paths.len()];
            for number in order {
                containers[number].delete();
                left[number] = false;
                for number in (0..paths.len()).filter(|number| left[*number]) {
                    containers[number].exec(&format!("grep -q ' /{} ' /proc/self/mountinfo", paths[number])).ok();
                }
            }
            assert_eq!(look(&rootfs), before, "{order:?}");
            lab.assert_clean();
        }
    });
}

#[test]
fn mount_points_beside_and_below_each_other_go_with_their_container() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        for id in ["one", "two", "three"] {
            lab.volume(id);
        }
        let rootfs = rootfs(&lab);
        let before = look(&rootfs);
        let mut other = container(&lab, runtime, "other", &rootfs, "one:/a/b/c:shared");
        for request in [
            "one:/a/b:shared;two:/a/c",
            "one:/a/b/c:shared;two:/a/b/d;three:/a/e/f",
            "one:/a/b/c/d:shared;two:/a/b/d",
            "one:x/y:shared;two:x/z",
        ] {
            container(&lab, runtime, "c", &rootfs, request).run_shell("true").ok();
            assert_eq!(look(&rootfs), before, "{request}");
            lab.assert_clean();
            other.start("sleep 1000");
            container(&lab, runtime, "c", &rootfs, request).run_shell("true").ok();
            other.delete();
            assert_eq!(look(&rootfs), before, "{request} beside another container");
            lab.assert_clean();
        }
        for sandbox in lab.sandboxes("local") {
            assert!(names(&lab.work().join("sandboxes/local").join(sandbox)).is_empty());
        }
    });
}

/// A container that is killed and whose poststop never comes.
fn die(lab: &Lab, mut container: Container) {
    container.hooks(&lab.config(), &[("prestart", PRESTART)]).start("sleep 1000").kill();
    container.delete();
}

#[test]
fn a_container_that_died_unnoticed_does_not_keep_its_mount_point() {
    each(|runtime| {
        for path in ["/a/b", "/a", "/other"] {
            let lab = Lab::new("filesystem/linux");
            let rootfs = rootfs(&lab);
            let before = look(&rootfs);
            let volume = lab.volume("db");
            die(&lab, container(&lab, runtime, "dead", &rootfs, "db:/a/b"));
            assert!(rootfs.join("a/b").is_dir());
            let mut next = container(&lab, runtime, "next", &rootfs, &format!("db:{path}"));
            next.start("sleep 1000");
            next.exec(&writes(&format!("{path}/f"), "100")).ok();
            assert_eq!(size(&volume.join("f")), 100);
            // Its end undoes the old one as well: a start is not the time for that.
            next.delete();
            assert_eq!(look(&rootfs), before, "{path}");
            lab.assert_clean();
        }
    });
}

#[test]
fn crun_without_poststop_does_not_keep_its_mount_point() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let rootfs = rootfs(&lab);
        let before = look(&rootfs);
        lab.volume("db");
        let mut live = container(&lab, Runtime::Crun, "live", &rootfs, "db:/a/b:shared");
        live.start("sleep 1000");
        for number in 0..3 {
            let mut failing = container(&lab, Runtime::Crun, &format!("failing{number}"), &rootfs, "db:/a/b:shared");
            failing.spec["process"]["args"] = json!(["/no/such/command"]);
            failing.run().failed();
        }
        live.exec("touch /a/b/f && grep -q ' /a/b ' /proc/self/mountinfo").ok();
        live.delete();
        for _ in 0..2 {
            container(&lab, Runtime::Crun, "next", &rootfs, "db:/d").run_shell("true").ok();
        }
        assert_eq!(look(&rootfs), before);
        lab.assert_clean();
    });
}

// The list of a mount point outlives it where its rootfs is deleted and unpacked anew; inode numbers come back.
#[test]
fn a_directory_that_only_has_the_number_of_a_mount_point_stays() {
    each(|runtime| {
        for next in ["dead", "next"] {
            let lab = Lab::new("filesystem/linux");
            let rootfs = rootfs(&lab);
            lab.volume("db");
            die(&lab, container(&lab, runtime, "dead", &rootfs, "db:/d"));
            let mount_point = rootfs.join("d");
            let inode = fs::metadata(&mount_point).unwrap().ino();
            fs::remove_dir(&mount_point).unwrap();
            let others: Vec<PathBuf> = (0..100).map(|number| rootfs.join(format!("tmp/{number}"))).collect();
            let same = others.iter().find(|other| {
                fs::create_dir(other).unwrap();
                fs::metadata(other).unwrap().ino() == inode
            });
            let Some(same) = same else {
                lab.cli(&["reconcile"]).ok();
                continue;
            };
            fs::rename(same, &mount_point).unwrap();
            container(&lab, runtime, next, &rootfs, "db:/d").run_shell("true").ok();
            assert!(mount_point.is_dir(), "a directory of the image's own was removed");
            lab.assert_clean();
        }
    });
}

#[test]
fn many_at_once_on_one_rootfs_keep_their_volumes_and_leave_nothing() {
    const CONTAINERS: usize = 8;
    const ROUNDS: usize = 10;
    const WRITES: usize = 5;
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let rootfs = rootfs(&lab);
        let before = look(&rootfs);
        let volumes: Vec<PathBuf> = (0..CONTAINERS).map(|number| lab.volume(&format!("v{number}"))).collect();
        let mut containers: Vec<Container> = (0..CONTAINERS)
            .map(|number| container(&lab, runtime, &format!("c{number}"), &rootfs, &format!("v{number}:/a/d")))
            .collect();
        for round in 1..=ROUNDS {
            std::thread::scope(|scope| {
                for container in &mut containers {
                    scope.spawn(|| container.run_shell(&writes("/a/d/f", &WRITES.to_string())).ok());
                }
            });
            assert_eq!(look(&rootfs), before, "round {round}");
            lab.assert_clean();
            for volume in &volumes {
                assert_eq!(size(&volume.join("f")) as usize, round * WRITES, "{}", volume.display());
            }
        }
    });
}
