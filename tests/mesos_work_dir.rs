//! A Mesos agent's `work_dir`, used where it lies: listed, attached and written, and otherwise as it was.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/mesos.rs"]
mod mesos;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use nix::mount::MsFlags;
use serde_json::{Value, json};

fn lab() -> Lab {
    let lab = Lab::new("filesystem/linux");
    mesos::work_dir(&lab.work());
    lab
}

/// Modes, owners, content and times of everything.
fn look(directory: &Path) -> BTreeMap<String, String> {
    let mut all = manifest(directory);
    for (path, told) in &mut all {
        let stat = fs::symlink_metadata(path).unwrap();
        told.push_str(&format!(" {}.{}", stat.mtime(), stat.mtime_nsec()));
    }
    all
}

fn list(lab: &Lab) -> Vec<Value> {
    serde_json::from_str(&lab.cli(&["volume", "list", "--json"]).ok().out).unwrap()
}

#[test]
fn volumes_are_used_where_they_lie_and_all_else_stays() {
    for runtime in RUNTIMES {
        on(Host::Shared, move || {
            let lab = lab();
            let work = lab.work();
            let before = look(&work);
            let listed = list(&lab);
            let text = |volume: &Value, key: &str| volume[key].as_str().unwrap_or_default().to_owned();
            let mut found: Vec<(String, String)> = listed.iter().map(|v| (text(v, "role"), text(v, "id"))).collect();
            found.sort();
            assert_eq!(found, mesos::VOLUMES.map(|(role, id)| (role.to_owned(), id.to_owned())));
            for volume in &listed {
                assert_eq!(
                    (&volume["size_mb"], &volume["principal"], &volume["shared"]),
                    (&json!(64.0), &json!("ops"), &json!(false))
                );
                assert_eq!((&volume["disk"], &volume["mode"]), (&json!("root"), &json!("0755")));
                assert!(volume["notes"][0].as_str().unwrap().contains("other users"), "Mesos makes everything 0755");
            }
            lab.cli(&["volume", "list"]).ok();
            lab.cli(&["adopt"]).ok();
            lab.cli(&["gc"]).ok();
            lab.cli(&["reconcile"]).ok();
            assert_eq!(look(&work), before, "looking changes nothing");

            // As a Mesos framework has it, and in short.
            let resource = json!([{ "name": "disk", "type": "SCALAR", "scalar": { "value": 64 },
                "reservations": [{ "type": "DYNAMIC", "role": "eng", "principal": "ops" },
                                 { "type": "DYNAMIC", "role": "eng/front_end", "principal": "ops" }],
                "disk": { "persistence": { "id": "id1", "principal": "ops" }, "volume": { "container_path": "data", "mode": "RW" } } }]);
            let marathon = format!("{}:data:role=esaas", mesos::MARATHON.replace('%', "%25"));
            let mut written = Vec::new();
            for (volumes, (role, id)) in [
                ("v1:data:role=ads".to_owned(), ("ads", "v1")),
                (resource.to_string(), ("eng/front_end", "id1")),
                (marathon, ("esaas", mesos::MARATHON)),
            ] {
                let mut container = lab.container(runtime, "c");
                let script = "cd /mnt/mesos/sandbox/data && cat data && echo new > new";
                let ran = container.ask(&volumes).run_shell(script).ok();
                assert_eq!(ran.out, format!("{role} {id}"));
                let volume = lab.volume_path(role, id);
                assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "new\n");
                written.extend([volume.display().to_string(), volume.join("new").display().to_string()]);
            }
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            let mut after = look(&work);
            // What containers wrote, and sandboxes of their own.
            let own = |path: &String| written.contains(path) || Path::new(path).starts_with(work.join("sandboxes"));
            after.retain(|path, _| !own(path) && Path::new(path) != work);
            let mut same = before.clone();
            same.retain(|path, _| !own(path) && Path::new(path) != work);
            assert_eq!(after, same);
            lab.assert_clean();
        });
    }
}

#[test]
fn where_checkpoint_and_directories_disagree_is_told() {
    on(Host::Private, || {
        let lab = lab();
        let disk = lab.dir.join("disk");
        fs::create_dir_all(disk.join("volumes/roles/a b/here")).unwrap();
        let root = disk.to_str().unwrap().to_owned();
        let on_disk = |id| mesos::Persistent { source: Some((1, &root)), shared: true, ..mesos::root("a/b", id) };
        let volumes = [mesos::root("ads", "v1"), mesos::root("ads", "gone"), on_disk("here"), on_disk("there")];
        mesos::checkpoint(&lab.work(), mesos::STATE, &volumes);
        mesos::checkpoint(&lab.work(), mesos::TARGET, &volumes[1..]);
        lab.configure(json!({ "isolation": "filesystem/linux",
                              "disks": [{ "name": "d", "type": "PATH", "path": { "root": disk } }] }));
        let listed = list(&lab);
        let notes = |id: &str| {
            let found: Vec<&Value> = listed.iter().filter(|volume| volume["id"] == id).collect();
            assert_eq!(found.len(), 1, "{id}: {listed:#?}");
            found[0]["notes"].to_string()
        };
        assert!(notes("gone").contains("there is no such directory"), "{}", notes("gone"));
        assert!(notes("there").contains("there is no such directory"));
        assert!(notes("id1").contains("not in the Mesos agent's checkpoint"));
        assert!(notes("v1").contains("was about to delete it"));
        assert!(!notes("here").contains("checkpoint"), "{}", notes("here"));
        let here = listed.iter().find(|volume| volume["id"] == "here").unwrap();
        assert_eq!((&here["disk"], &here["shared"]), (&json!("d"), &json!(true)));
        // A checkpoint that cannot be read hides no volume.
        mesos::private(&lab.work().join(mesos::STATE), b"\x09garbage");
        let ran = lab.cli(&["volume", "list"]).ok();
        assert!(ran.err.contains("[exit 75]") && ran.out.contains("v1"), "{ran:?}");
    });
}

// While an agent runs there, everything that would change something is refused; looking is not.
#[test]
fn nothing_is_changed_under_a_running_agent() {
    on(Host::Private, || {
        let lab = lab();
        let before = look(&lab.work());
        let agent = mesos::agent(&lab, "mesos-agent", &[&format!("--work_dir={}", lab.work().display())]);
        let mut container = lab.container(Runtime::Runc, "c");
        let ran = container.ask("v1:data:role=ads").run_shell("true");
        let told = format!("process {} uses", agent.pid());
        assert!(ran.code != 0 && ran.err.contains("exit status 76,") && ran.err.contains(&told), "{ran:?}");
        for (verb, code) in [
            (&["volume", "create", "x"][..], 76),
            (&["volume", "destroy", "--yes", "--role", "ads", "v1"], 76),
            (&["gc"], 62),
            (&["volume", "list"], 0),
            (&["volume", "inspect", "--role", "ads", "v1"], 0),
        ] {
            let ran = lab.cli(verb);
            assert_eq!(ran.code, code, "{verb:?} {ran:?}");
        }
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        assert_eq!(look(&lab.work()), before);
        drop(agent);
        container.run_shell("true").ok();
        lab.assert_clean();
    });
}

// mesos.md B5: groups that the agent gave are not given again, and stay with their volumes.
#[test]
fn groups_of_the_agents_volumes_are_kept() {
    on(Host::Private, || {
        let lab = lab();
        lab.configure(json!({ "isolation": "filesystem/linux", "volume_gid_range": "[30000-30010]" }));
        let elsewhere = lab.volume_path("ads", "not there any more");
        mesos::gids(&lab.work(), &[(&elsewhere, 30000), (&lab.volume_path("ads", "v1"), 30002)]);
        let ask = |volume: &str, gid: u32| {
            let mut container = lab.container(Runtime::Runc, "c");
            container.ask(volume).user(1000, 1000);
            container.spec["process"]["user"]["additionalGids"] = json!([gid]);
            container.run_shell("touch /d/f").ok();
        };
        ask("v1:/d:role=ads", 30002);
        assert_eq!(fs::metadata(lab.volume_path("ads", "v1")).unwrap().gid(), 30002);
        // The lowest that neither the agent nor this has given.
        ask("id1:/d:role=eng/front_end", 30001);
        ask(&format!("{}:/d:role=esaas", mesos::MARATHON), 30003);
    });
}

// A leftover of the agent's: the volume is mounted in a sandbox, and destroying or collecting passes it by.
#[test]
fn leftover_mounts_lose_nothing() {
    on(Host::Shared, || {
        let lab = lab();
        let volume = lab.volume_path("ads", "v1");
        let kept = manifest(&volume);
        let data = mesos::sandbox(&lab.work()).join("data");
        bind(&volume, &data);
        tmpfs(&volume.join("below"), MsFlags::empty());
        let refused = lab.cli(&["volume", "destroy", "--yes", "--role", "ads", "v1"]);
        assert!(refused.code == 74 && refused.err.contains("below"), "{refused:?}");
        nix::mount::umount(&volume.join("below")).unwrap();
        fs::remove_dir(volume.join("below")).unwrap();
        lab.cli(&["gc"]).ok();
        assert_eq!(manifest(&volume), kept);
        lab.cli(&["adopt", "--detach"]).ok();
        assert_eq!(manifest(&volume), kept);
        lab.cli(&["volume", "destroy", "--yes", "--role", "ads", "v1"]).ok();
        assert!(lab.volume_path("eng/front_end", "id1").exists() && lab.volume_path("esaas", mesos::MARATHON).exists());
    });
}
