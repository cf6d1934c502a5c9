//! `fs-isolator adopt`, on what a Mesos agent leaves.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/mesos.rs"]
mod mesos;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::*;
use fs_isolator::mesos::leftovers::{Leftover, detach};
use fs_isolator::sys;
use nix::mount::MsFlags;
use serde_json::{Value, json};

fn lab() -> Lab {
    let lab = Lab::new("filesystem/linux");
    mesos::work_dir(&lab.work());
    lab
}

fn adopt(lab: &Lab) -> Value {
    serde_json::from_str(&lab.cli(&["adopt", "--json"]).ok().out).unwrap()
}

/// What stands in the way, of one kind: what it is on and what it is, sorted.
fn found(report: &Value, kind: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found: Vec<(String, String)> = report["in_the_way"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["kind"] == kind)
        .map(|finding| (text(&finding["on"]), text(&finding["what"])))
        .collect();
    found.sort();
    found
}

fn on_what(report: &Value, kind: &str) -> Vec<String> {
    found(report, kind).into_iter().map(|(on, _)| on).collect()
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn close(path: PathBuf) {
    fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn what_an_agent_leaves_is_reported_and_not_touched() {
    on(Host::Private, || {
        let lab = lab();
        let before = manifest(&lab.work());
        let report = adopt(&lab);
        assert_eq!(report["checkpoint"], mesos::STATE);
        let volumes = report["volumes"].as_array().unwrap();
        let mut names: Vec<(&str, &str)> =
            volumes.iter().map(|v| (v["role"].as_str().unwrap(), v["id"].as_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(names, mesos::VOLUMES);
        assert_eq!((&volumes[0]["disk"], &volumes[0]["size_mb"]), (&json!("root"), &json!(64.0)));
        let mut paths: Vec<String> = mesos::VOLUMES.iter().map(|(role, id)| shown(lab.volume_path(role, id))).collect();
        paths.sort();
        assert_eq!(on_what(&report, "reachable"), paths, "Mesos makes everything 0755");
        assert_eq!(report["in_the_way"].as_array().unwrap().len(), 3, "{report:#}");
        let text = lab.cli(&["adopt"]).ok().out;
        assert!(
            text.contains("3 volumes in") && text.contains(mesos::MARATHON) && text.contains("mode 0755"),
            "{text}"
        );
        lab.cli(&["adopt", "--detach"]).ok();
        assert_eq!(manifest(&lab.work()), before);
        assert!(!lab.runtime_dir().exists());

        // Each of the directories above closes the way, and so does the volume's own mode.
        for closed in ["volumes/roles/esaas", "volumes/roles/ads/v1"] {
            close(lab.work().join(closed));
        }
        // Not for the namesake of its owner, who could run what root of a container left there.
        let others = [shown(lab.volume_path("ads", "v1")), shown(lab.volume_path("eng/front_end", "id1"))];
        assert_eq!(on_what(&adopt(&lab), "reachable"), others);
        close(lab.work().join("volumes"));
        assert_eq!(adopt(&lab)["in_the_way"], json!([]));
        assert!(lab.cli(&["adopt"]).ok().out.contains("nothing stands in the way"));
        lab.assert_clean();
    });
}

#[test]
fn leftover_mounts_are_detached_and_the_volume_survives() {
    on_both(|_| {
        let lab = lab();
        let (sandbox, volume) = (mesos::sandbox(&lab.work()), lab.volume_path("ads", "v1"));
        let data = sandbox.join("data");
        // What is mounted elsewhere is none of this.
        tmpfs(&lab.work().join("provisioner"), MsFlags::empty());
        let (before, table) = (manifest(&volume), mount_table());
        bind(&volume, &data);
        // One on top of it, one in it, and one that another covers.
        tmpfs(&data, MsFlags::empty());
        tmpfs(&data.join("sub\tdir"), MsFlags::empty());
        tmpfs(&sandbox.join("a/b"), MsFlags::empty());
        tmpfs(&sandbox.join("a"), MsFlags::empty());
        let expected: Vec<String> =
            [data.join("sub\tdir"), sandbox.join("a/b"), data.clone(), data.clone(), sandbox.join("a")]
                .iter()
                .map(shown)
                .collect();
        let mut sorted = expected.clone();
        sorted.sort();
        assert_eq!(on_what(&adopt(&lab), "mount"), sorted);

        let detached: Value = serde_json::from_str(&lab.cli(&["adopt", "--json", "--detach"]).ok().out).unwrap();
        assert_eq!(on_what(&detached, "mount"), Vec::<String>::new());
        // The covered one is last.
        let order = [0, 4, 2, 3, 1].map(|index| expected[index].as_str());
        assert_eq!(detached["detached"], json!(order));
        assert_eq!(mount_table(), table);
        assert_eq!(manifest(&volume), before);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "the mount point stays");
        assert_eq!(on_what(&adopt(&lab), "mount"), Vec::<String>::new());
    });
}

// mesos.md E7: the kernel's table has real paths, whatever path something was mounted by.
#[test]
fn a_mount_made_through_a_link_is_found() {
    on(Host::Private, || {
        let lab = lab();
        let link = lab.dir.join("link");
        symlink(lab.work(), &link).unwrap();
        bind(&lab.volume_path("ads", "v1"), &mesos::sandbox(&link).join("data"));
        assert_eq!(on_what(&adopt(&lab), "mount"), [shown(mesos::sandbox(&lab.work()).join("data"))]);
        // The directory of the same agent by another name that is none of a link.
        let other = lab.dir.join("other");
        bind(&lab.work(), &other);
        lab.configure(json!({ "work_dir": other }));
        assert_eq!(on_what(&adopt(&lab), "mount"), Vec::<String>::new(), "not bound along");
        lab.configure(json!({ "work_dir": link }));
        assert_eq!(lab.cli(&["adopt"]).code, 21, "a link is not trusted");
    });
}

#[test]
fn what_is_not_the_mount_that_was_found_stays() {
    on(Host::Private, || {
        let lab = lab();
        let point = lab.dir.join("point");
        tmpfs(&point, MsFlags::empty());
        fs::create_dir(point.join("below")).unwrap();
        let id = sys::mount_number(File::open(&point).unwrap()).unwrap();
        let table = mount_table();
        for (mount_point, id) in [(point.clone(), id + 100_000), (point.join("below"), id)] {
            let error = detach(&Leftover { mount_point, id }).unwrap_err();
            assert!(error.to_string().contains("is not the mount"), "{error}");
            assert_eq!(mount_table(), table);
        }
        detach(&Leftover { mount_point: point, id }).unwrap();
        assert_ne!(mount_table(), table);
    });
}

#[test]
fn a_mount_that_cannot_be_detached_is_reported_and_fails() {
    on(Host::Private, || {
        let lab = lab();
        let sandbox = mesos::sandbox(&lab.work());
        bind(&lab.volume_path("ads", "v1"), &sandbox.join("data"));
        // A file can be a mount point too.
        let none = None::<&str>;
        nix::mount::mount(Some("/etc/passwd"), &sandbox.join("stdout"), none, MsFlags::MS_BIND, none).unwrap();
        let ran = lab.cli(&["adopt", "--json", "--detach"]);
        assert_eq!(ran.code, 51, "{ran:?}");
        let report: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(report["detached"], json!([shown(sandbox.join("data"))]));
        assert_eq!(on_what(&report, "mount"), [shown(sandbox.join("stdout"))]);
        assert!(ran.err.contains("umount it by hand"), "{ran:?}");
    });
}

#[test]
fn a_running_agent_is_told_and_nothing_else() {
    on(Host::Private, || {
        let lab = lab();
        bind(&lab.volume_path("ads", "v1"), &mesos::sandbox(&lab.work()).join("data"));
        let link = lab.dir.join("link");
        symlink(lab.work(), &link).unwrap();
        let table = mount_table();
        for (name, path) in [("mesos-agent", lab.work()), ("mesos-slave", link)] {
            let agent = mesos::agent(&lab, name, &[&format!("--work_dir={}", path.display())]);
            let refused = lab.cli(&["adopt", "--detach"]);
            assert_eq!((refused.code, refused.out.as_str()), (76, ""), "{refused:?}");
            assert!(refused.err.contains(&format!("process {} ", agent.pid())), "{refused:?}");
            assert_eq!(mount_table(), table);
        }
        let _elsewhere = mesos::agent(&lab, "mesos-agent", &[&format!("--work_dir={}", lab.dir.display())]);
        lab.cli(&["adopt", "--detach"]).ok();
        assert_ne!(mount_table(), table);
    });
}

#[test]
fn a_checkpoint_that_does_not_fit_the_directories_is_told() {
    on(Host::Private, || {
        let lab = lab();
        let work = lab.work();
        close(work.join("volumes"));
        let (disk, mounted) = (lab.dir.join("disk"), lab.dir.join("mounted"));
        fs::create_dir_all(disk.join("volumes/roles/a b/here")).unwrap();
        tmpfs(&mounted, MsFlags::empty());
        let (disk, mounted) = (shown(disk), shown(mounted));
        let on =
            |id, kind, root| mesos::Persistent { source: Some((kind, root)), shared: true, ..mesos::root("a/b", id) };
        let volumes = [
            mesos::root("ads", "v1"),
            mesos::root("ads", "gone"),
            mesos::root("ads", ".."),
            on("here", 1, &disk),
            on("there", 1, &disk),
            on("m1", 2, &mounted),
            on("m2", 2, &disk),
            on("relative", 2, "volumes"),
            on("block", 3, "x"),
        ];
        mesos::checkpoint(&work, mesos::STATE, &volumes);
        mesos::checkpoint(&work, mesos::TARGET, &[&volumes[1..], &[mesos::root("new", "n")]].concat());
        mesos::gids(&work, &[(&lab.volume_path("ads", "v1"), 10_000)]);
        let before = manifest(&work);
        let report = adopt(&lab);
        let pair = |on: &str, what: &str| (on.to_owned(), what.to_owned());
        let gone = "there is no such directory";
        let mut missing = vec![
            pair("a/b block", "its disk is of type BLOCK"),
            pair(&disk, "nothing is mounted there"),
            pair(&format!("{disk}/volumes/roles/a b/there"), gone),
            pair(&shown(lab.volume_path("ads", "gone")), gone),
            pair(&shown(work.join("volumes")), "nothing is mounted there"),
        ];
        missing.sort();
        assert_eq!(found(&report, "missing"), missing);
        let mut unlisted: Vec<String> =
            mesos::VOLUMES[1..].iter().map(|(role, id)| shown(lab.volume_path(role, id))).collect();
        unlisted.sort();
        assert_eq!(on_what(&report, "unlisted"), unlisted);
        let faults = found(&report, "fault");
        assert_eq!(faults.len(), 2, "in the file that counts and in its target: {faults:?}");
        assert!(faults[0].1.contains("persistence id \"..\" is a relative directory"), "{faults:?}");
        let pending = found(&report, "pending");
        assert_eq!(pending.len(), 3, "{pending:?}");
        assert!(pending.contains(&pair(&shown(lab.volume_path("ads", "v1")), "is to be deleted")), "{pending:?}");
        assert!(pending.contains(&pair(&shown(lab.volume_path("new", "n")), "is to be made")), "{pending:?}");
        assert!(pending.contains(&pair(mesos::TARGET, "the agent has not finished this change")), "{pending:?}");
        let gid = pair(&shown(lab.volume_path("ads", "v1")), "the agent has given it the group id 10000");
        assert_eq!(found(&report, "gid"), [gid]);
        assert_eq!(manifest(&work), before);
    });
}

#[test]
fn a_checkpoint_that_cannot_be_read_does_not_hide_the_rest() {
    on(Host::Private, || {
        let lab = lab();
        let state = lab.work().join(mesos::STATE);
        let whole = fs::read(&state).unwrap();
        mesos::private(&state, &whole[..whole.len() / 2]);
        let data = mesos::sandbox(&lab.work()).join("data");
        bind(&lab.volume_path("ads", "v1"), &data);
        let ran = lab.cli(&["adopt"]);
        assert_eq!(ran.code, 75, "{ran:?}");
        assert!(ran.err.contains(&format!("{} at byte 0: ", mesos::STATE)), "{ran:?}");
        assert!(ran.out.contains(&shown(&data)) && ran.out.contains("reachable"), "{ran:?}");
        assert!(!ran.out.contains("unlisted"), "what cannot be read does not say that: {ran:?}");
    });
}

#[test]
fn a_work_dir_of_no_agent_has_nothing_in_the_way() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        assert_eq!(adopt(&lab)["in_the_way"], json!([]));
        assert!(lab.cli(&["adopt"]).ok().out.contains("no checkpoint of a Mesos agent"));
        lab.configure(json!({ "work_dir": lab.dir.join("nothing") }));
        assert_eq!(lab.cli(&["adopt"]).code, 20);
        assert!(!lab.dir.join("nothing").exists());
    });
}
