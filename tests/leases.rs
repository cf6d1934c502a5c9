//! Leases: who holds a volume, whatever becomes of the holder.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn lab() -> (Lab, PathBuf) {
    let lab = Lab::new("filesystem/linux");
    let volume = lab.volume("db");
    (lab, volume)
}

fn asking(lab: &Lab, runtime: Runtime, id: &str, volumes: &str) -> Container {
    let mut container = lab.container(runtime, id);
    container.ask(volumes).shell("sleep 1000");
    container
}

/// That a container is refused because another holds the volume, and says which.
#[track_caller]
fn refused(lab: &Lab, container: &mut Container, holder: &str) {
    let ran = container.create();
    assert_ne!(ran.code, 0, "{ran:?}");
    let log = lab.log(&container.id);
    assert!(
        log.contains("[exit 71]") && log.contains(&format!("container {holder}")) && log.contains(" since 20"),
        "{log}"
    );
    let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
}

/// The one lease there is.
fn lease() -> PathBuf {
    let all = Path::new("/run/fs-isolator/leases");
    let volume = all.join(&leases()[0]);
    let holders = names(&volume);
    assert_eq!(holders.len(), 1, "{holders:?}");
    volume.join(&holders[0])
}

fn edit_lease(edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(lease()).unwrap()).unwrap();
    edit(&mut value);
    fs::write(lease(), value.to_string()).unwrap();
}

fn signal(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn an_exclusive_volume_has_one_holder_and_a_shared_one_many() {
    each(|runtime| {
        let (lab, _) = lab();
        let mut first = asking(&lab, runtime, "first", "db:/d");
        first.create().ok();
        for volumes in ["db:/d", "db:/x/y:ro", "db:data:shared"] {
            refused(&lab, &mut asking(&lab, runtime, "second", volumes), "first");
        }
        first.delete();
        let mut shared = asking(&lab, runtime, "one", "db:/d:shared");
        shared.create().ok();
        asking(&lab, runtime, "two", "db:/d:shared").create().ok();
        refused(&lab, &mut asking(&lab, runtime, "three", "db:/d"), "one");
        shared.delete();
        lab.cli(&["reconcile"]).ok();
        lab.assert_clean();
    });
}

// One container may have a volume twice; it is exclusive if it asks for that once.
#[test]
fn twice_in_one_container_is_one_holder() {
    each(|runtime| {
        let (lab, volume) = lab();
        fs::create_dir(volume.join("sub")).unwrap();
        let mut first = asking(&lab, runtime, "first", "db:/a:shared;db:/b:subpath=sub;db:/c:shared");
        first.create().ok();
        refused(&lab, &mut asking(&lab, runtime, "second", "db:/d:shared"), "first");
        first.delete();
        lab.assert_clean();
    });
}

/// Creates so many at once, and tells which could be.
fn at_once(containers: &mut [Container]) -> Vec<usize> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = containers.iter_mut().map(|one| scope.spawn(|| one.create().code == 0)).collect();
        let created: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        created.iter().enumerate().filter(|(_, created)| **created).map(|(index, _)| index).collect()
    })
}

#[test]
fn a_hundred_at_once_for_one_exclusive_volume() {
    const ROUNDS: usize = 20;
    each(|runtime| {
        let (lab, _) = lab();
        let rootfs = lab.dir.join("rootfs");
        make_rootfs(&rootfs);
        let mut containers: Vec<Container> = (0..100)
            .map(|number| {
                let mut container = lab.bundle(runtime, &format!("c{number}"));
                container.spec["root"]["path"] = json!(rootfs);
                container.ask("db:/d").shell("sleep 1000");
                container
            })
            .collect();
        for round in 0..ROUNDS {
            let created = at_once(&mut containers);
            assert_eq!(created.len(), 1, "round {round}: {created:?}");
            containers[created[0]].delete();
        }
        // crun never runs poststop for those that were refused, and they left nothing.
        assert_eq!(leases(), Vec::<String>::new());
        for container in &mut containers {
            container.ask("db:/d:shared");
        }
        assert_eq!(at_once(&mut containers).len(), 100);
        containers.iter_mut().for_each(|container| drop(container.delete()));
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

// A holder that was killed and that nobody has reaped holds nothing any more.
#[test]
fn a_zombie_frees_its_volume_at_once() {
    each(|runtime| {
        let (lab, _) = lab();
        let mut dead = asking(&lab, runtime, "dead", "db:/d");
        let mut parent = dead.create_unreaped("sleep 1000");
        dead.go();
        let pid = dead.pid();
        refused(&lab, &mut asking(&lab, runtime, "early", "db:/d"), "dead");
        signal(pid);
        let killed = Instant::now();
        let is_zombie = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
        };
        wait_for("the init to be a zombie", is_zombie);
        let mut next = asking(&lab, runtime, "next", "db:/d");
        next.create().ok();
        while killed.elapsed() < Duration::from_secs(5) {
            assert!(is_zombie(), "it is to be nobody's for 5 s");
            std::thread::sleep(Duration::from_millis(50));
        }
        next.delete();
        parent.kill().unwrap();
        parent.wait().unwrap();
        dead.delete();
        lab.cli(&["reconcile"]).ok();
        lab.assert_clean();
    });
}

// Without a pid namespace of its own a container's processes outlive its init: they still write.
#[test]
fn a_holder_with_the_hosts_pids_lives_as_long_as_its_last_process() {
    each(|runtime| {
        let (lab, volume) = lab();
        let mut holder = asking(&lab, runtime, "holder", "db:/d");
        holder.spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
        holder.start("(while :; do echo x >> /d/f; sleep 0.05; done) & echo $! > /d/pid; sleep 1000");
        wait_for("the writer", || volume.join("f").exists());
        signal(holder.pid());
        let size = || fs::metadata(volume.join("f")).unwrap().len();
        let before = size();
        wait_for("the writer to go on without its init", || size() > before);
        refused(&lab, &mut asking(&lab, runtime, "next", "db:/d"), "holder");
        // /proc of the container shows the host's pids.
        let writer = fs::read_to_string(volume.join("pid")).unwrap().trim().parse().unwrap();
        signal(writer);
        wait_for("the writer to end", || !is_alive(writer));
        // Its last sleep goes by itself.
        wait_for("the volume to be free", || {
            let mut next = asking(&lab, runtime, "next", "db:/d");
            let created = next.create().code == 0;
            created && next.delete().code == 0
        });
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        holder.delete();
        lab.cli(&["reconcile"]).ok();
        lab.assert_clean();
    });
}

#[test]
fn without_pid_namespace_and_cgroup_nobody_has_a_volume_alone() {
    on(Host::Shared, || {
        let (lab, _) = lab();
        let mut container = asking(&lab, Runtime::Crun, "c", "db:/d");
        container.options = vec!["--cgroup-manager=disabled"];
        container.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
        assert_ne!(container.create().code, 0);
        assert!(lab.log("c").contains("[exit 46]"), "{}", lab.log("c"));
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

// The pid is that of another process now, or the machine was restarted and everything has the same number again.
#[test]
fn a_reused_pid_and_a_reboot_end_a_lease() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 2] = [
        ("reused", |lease| lease["init"]["start"] = json!(lease["init"]["start"].as_u64().unwrap() + 1)),
        ("rebooted", |lease| lease["init"]["boot"] = json!("00000000-0000-0000-0000-000000000000")),
    ];
    for (what, edit) in edits {
        on(Host::Private, move || {
            let (lab, _) = lab();
            let mut holder = asking(&lab, Runtime::Runc, "holder", "db:/d");
            holder.create().ok();
            refused(&lab, &mut asking(&lab, Runtime::Runc, "next", "db:/d"), "holder");
            edit_lease(edit);
            let mut next = asking(&lab, Runtime::Runc, "next", "db:/d");
            assert_eq!(next.create().code, 0, "{what}");
            next.delete();
            holder.delete();
            lab.assert_clean();
        });
    }
}

// A lease that this version does not understand counts; one that was never whole does not.
#[test]
fn leases_that_cannot_be_read() {
    on(Host::Private, || {
        let (lab, _) = lab();
        let mut holder = asking(&lab, Runtime::Runc, "holder", "db:/d");
        holder.create().ok();
        let whole = fs::read(lease()).unwrap();
        edit_lease(|lease| lease["version"] = json!(2));
        let mut next = asking(&lab, Runtime::Runc, "next", "db:/d");
        assert_ne!(next.create().code, 0);
        assert!(lab.log("next").contains("cannot be understood"), "{}", lab.log("next"));
        fs::write(lease(), &whole[..whole.len() / 2]).unwrap();
        let mut next = asking(&lab, Runtime::Runc, "next", "db:/d");
        next.create().ok();
        next.delete();
        holder.delete();
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

#[test]
fn two_configurations_and_two_roots_exclude_each_other() {
    each(|runtime| {
        let (lab, _) = lab();
        let mut first = asking(&lab, runtime, "same", "db:/d");
        first.create().ok();
        // Another runtime_dir, and another way to the same volumes.
        let other = lab.dir.join("other");
        bind(&lab.work(), &other);
        let config = lab.dir.join("other.json");
        let text = json!({ "isolation": "filesystem/linux", "work_dir": other, "runtime_dir": lab.dir.join("run2"),
                           "managers": { "local": [lab.dir.join("bundles")] } });
        fs::write(&config, text.to_string()).unwrap();
        let mut second = asking(&lab, runtime, "second", "db:/d");
        second.hooks(&config, &[("prestart", PRESTART), ("poststop", POSTSTOP)]);
        assert_ne!(second.create().code, 0);
        let log = lab.dir.join("run2/log");
        let text = fs::read_to_string(log.join(&names(&log)[0])).unwrap();
        assert!(text.contains("container same") && text.contains("[exit 71]"), "{text}");
        // The same id under another --root.
        let mut same = asking(&lab, runtime, "same", "db:/d");
        same.bundle = lab.dir.join("bundles/elsewhere");
        make_rootfs(&same.rootfs());
        same.root = lab.dir.join("runtimes/elsewhere");
        refused(&lab, &mut same, "same");
        first.delete();
        same.create().ok();
        same.delete();
        lab.assert_clean();
    });
}

/// A container of a pod that asks for the volume.
fn in_pod(lab: &Lab, runtime: Runtime, id: &str, pod: &str) -> Container {
    let mut container = lab.container(runtime, id).in_pod(lab, pod);
    container.ask("db:/d").shell("sleep 1000");
    container
}

#[test]
fn the_containers_of_one_pod_hold_a_volume_together() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.configure(json!({ "isolation": "filesystem/linux", "managers": { "cri-o": [lab.dir.join("crio")] } }));
        lab.volume_of("team-a", "db");
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        // An init container comes first, and its poststop much later.
        let mut init = in_pod(&lab, runtime, "init", &one);
        init.start("echo init >> /d/log");
        wait_for("the init container to end", || !init.is_running());
        let mut app = in_pod(&lab, runtime, "app", &one);
        let mut sidecar = in_pod(&lab, runtime, "sidecar", &one);
        app.start("sleep 1000");
        sidecar.start("sleep 1000");
        app.exec("cat /d/log && echo app >> /d/log").ok();
        sidecar.exec("echo sidecar >> /d/log").ok();
        let mut stranger = in_pod(&lab, runtime, "stranger", &other);
        refused(&lab, &mut stranger, "");
        init.delete();
        // The next attempt of a container starts before the poststop of the last.
        app.kill();
        let mut again = in_pod(&lab, runtime, "again", &one);
        again.start("sleep 1000");
        app.delete();
        refused(&lab, &mut stranger, "");
        sidecar.delete();
        refused(&lab, &mut stranger, "again");
        again.delete();
        stranger.create().ok();
        let log = fs::read_to_string(lab.volume_path("team-a", "db").join("log")).unwrap();
        assert_eq!(log, "init\napp\nsidecar\n");
        stranger.delete();
        lab.assert_clean();
    });
}

#[test]
fn a_pod_that_is_only_claimed_is_refused() {
    on(Host::Private, || {
        let (lab, _) = lab();
        let mut container = asking(&lab, Runtime::Runc, "c", "db:/d");
        container.annotate("io.kubernetes.cri-o.SandboxID", &"a".repeat(64));
        assert!(container.create().err.contains("exit status 31"));
        lab.assert_clean();
    });
}

// What volume create decided counts, and a request that differs is refused.
#[test]
fn what_was_recorded_about_sharing_decides() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.cli(&["volume", "create", "--shared", "many"]).ok();
        lab.cli(&["volume", "create", "--exclusive", "one"]).ok();
        for (volumes, code) in [("many:/d", 47), ("one:/d:shared", 47), ("many:/d:shared", 0), ("one:/d", 0)] {
            let mut container = asking(&lab, Runtime::Runc, "c", volumes);
            let ran = container.create();
            let told = ran.code == 0 || ran.err.contains(&format!("exit status {code}"));
            assert!((ran.code == 0) == (code == 0) && told, "{volumes}: {ran:?}");
            container.delete();
        }
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

// Nobody but hooks waits for leases, and a container cannot make them wait: it can lock the volume, not its leases.
#[test]
fn a_container_that_locks_the_volume_stops_nobody() {
    on(Host::Private, || {
        let (lab, volume) = lab();
        let locked = fs::File::open(&volume).unwrap();
        locked.lock().unwrap();
        let start = Instant::now();
        asking(&lab, Runtime::Runc, "c", "db:/d").create().ok();
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

// A toolbox that has the host's files and pids of its own sees no holder, and must not take that for an end.
#[test]
fn who_cannot_see_the_holder_does_not_take_it_for_dead() {
    each(|runtime| {
        let (lab, volume) = lab();
        fs::write(volume.join("precious"), "x").unwrap();
        let mut holder = asking(&lab, runtime, "holder", "db:data");
        holder.start("sleep 1000");
        let config = lab.config();
        for verb in [&["volume", "destroy", "--yes", "db"][..], &["reconcile"], &["gc"]] {
            let inside = ["--pid", "--fork", "--mount-proc", CLI, "--config", config.to_str().unwrap()];
            run("unshare", &[&inside[..], verb].concat());
            holder.exec("cat /mnt/mesos/sandbox/data/precious").ok();
        }
        refused(&lab, &mut asking(&lab, runtime, "next", "db:/d"), "holder");
        holder.delete();
        lab.assert_clean();
    });
}

// Out of descriptors a hook knows less, and must not take that for knowledge.
#[test]
fn without_descriptors_nobody_looks_dead() {
    on(Host::Private, || {
        let (lab, _) = lab();
        let mut holder = asking(&lab, Runtime::Runc, "holder", "db:/d");
        holder.create().ok();
        let whole = fs::read(lease()).unwrap();
        for most in 4..40 {
            let mut next = asking(&lab, Runtime::Runc, "next", "db:/d");
            next.hooks(&lab.config(), &[("prestart", "/bin/sh"), ("poststop", POSTSTOP)]);
            let script = format!("ulimit -n {most}; exec {PRESTART} --config {}", lab.config().display());
            next.spec["hooks"]["prestart"][0]["args"] = json!(["sh", "-c", script]);
            assert_ne!(next.create().code, 0, "{most}");
            assert_eq!(fs::read(lease()).unwrap(), whole, "{most}");
        }
        holder.delete();
        lab.cli(&["reconcile"]).ok();
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

// One id and bundle under two configurations: the second would end the first's lease by its name.
#[test]
fn one_bundle_under_two_configurations_is_refused() {
    on(Host::Private, || {
        let (lab, _) = lab();
        let mut first = asking(&lab, Runtime::Runc, "same", "db:/d:shared");
        first.create().ok();
        let config = lab.dir.join("other.json");
        let text = json!({ "isolation": "filesystem/linux", "work_dir": lab.work(), "runtime_dir": lab.dir.join("run2"),
                           "managers": { "local": [lab.dir.join("bundles")] } });
        fs::write(&config, text.to_string()).unwrap();
        let mut second = asking(&lab, Runtime::Runc, "same", "db:/d:shared");
        second.root = lab.dir.join("runtimes/elsewhere");
        second.hooks(&config, &[("prestart", PRESTART), ("poststop", POSTSTOP)]);
        let ran = second.create();
        assert!(ran.code != 0 && ran.err.contains("exit status 61,"), "{ran:?}");
        assert_eq!(names(&Path::new("/run/fs-isolator/leases").join(&leases()[0])).len(), 1);
        first.delete();
        lab.assert_clean();
    });
}
