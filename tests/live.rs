//! Volumes on running containers: attach and detach.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::*;
use nix::mount::MsFlags;
use serde_json::json;

fn attach(lab: &Lab, container: &Container, volumes: &[&str]) -> Ran {
    lab.live(container, "attach", volumes)
}

fn detach(lab: &Lab, container: &Container, path: &[&str]) -> Ran {
    lab.live(container, "detach", path)
}

#[test]
fn a_running_container_gets_a_volume_and_loses_it() {
    each(|runtime| {
        for asked_before in [false, true] {
            let lab = Lab::new("filesystem/linux");
            let (volume, other) = (lab.volume("db"), lab.volume("other"));
            let mut container = lab.container(runtime, "c");
            let rootfs = manifest(&container.rootfs());
            if asked_before {
                container.ask("other:first");
            }
            container.start("sleep 1000");
            let table = container.exec("cat /proc/self/mountinfo").ok().out.lines().count();
            attach(&lab, &container, &["db:/a/b", "db:data:ro"]).ok();
            container
                .exec("echo x > /a/b/f && cat /mnt/mesos/sandbox/data/f && ! touch /mnt/mesos/sandbox/data/g")
                .ok();
            assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "x\n");
            // It is held, as if it had been asked for at the start.
            let mut next = lab.container(runtime, "next");
            assert_ne!(next.ask("db:/d").create().code, 0);
            assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 71);
            // The host sees nothing of it, and the container sees the host's later mounts.
            assert!(!mount_table().contains("/a/b"));
            fs::create_dir(volume.join("later")).unwrap();
            tmpfs(&volume.join("later"), MsFlags::empty());
            fs::write(volume.join("later/marker"), "").unwrap();
            container.exec("test -e /a/b/later/marker && test ! -e /mnt/mesos/sandbox/data/later/marker").ok();
            nix::mount::umount(&volume.join("later")).unwrap();

            detach(&lab, &container, &["/a/b"]).ok();
            container.exec("test ! -e /a && test -e /mnt/mesos/sandbox/data/f").ok();
            assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 71, "attached at another path still");
            detach(&lab, &container, &["data"]).ok();
            container.exec("test ! -e /mnt/mesos/sandbox/data").ok();
            assert_eq!(detach(&lab, &container, &["data"]).code, 79);
            next.ask("db:/d").run_shell("cat /d/f").ok();
            let left = container.exec("cat /proc/self/mountinfo").ok().out.lines().count();
            assert_eq!(left, if asked_before { table } else { table + 1 }, "the sandbox stays");
            if asked_before {
                container.exec("touch /mnt/mesos/sandbox/first/f").ok();
                assert!(other.join("f").exists());
            }
            container.delete();
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            let mut after = manifest(&container.rootfs());
            after.retain(|path, _| rootfs.contains_key(path));
            assert_eq!(after.keys().collect::<Vec<_>>(), rootfs.keys().collect::<Vec<_>>());
            lab.assert_clean();
        }
    });
}

// All or none, and nothing is left of what was begun.
#[test]
fn what_cannot_be_attached_leaves_nothing() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        lab.volume("held");
        let mut holder = lab.container(runtime, "holder");
        holder.ask("held:/d").start("sleep 1000");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/there").start("sleep 1000");
        let look = |container: &Container| {
            let table = container.exec("cat /proc/self/mountinfo").ok().out.lines().count();
            (table, manifest(&container.rootfs()).len(), leases(), lab.runtime_files("mountpoints"))
        };
        let before = look(&container);
        for (volumes, code) in [
            (&["db:/new", "missing:/x"][..], 41),
            (&["db:/new/a/b", "held:/x"], 71),
            (&["db:/new", "db:/new"], 38),
            (&["db:/there"], 38),
            (&["db:/"], 37),
            (&["db:/new", "db:/proc/x"], 37),
            (&["db:/new:role=x"], 41),
            (&["db:/there/missing"], 50),
            (&["db:/dev"], 38),
            (&["db"], 34),
            (&["db:/new", "db:/bin/sh"], 51),
        ] {
            let ran = attach(&lab, &container, volumes);
            assert_eq!(ran.code, code, "{volumes:?}: {ran:?}");
            assert!(ran.err.contains("container c: "), "{ran:?}");
            assert_eq!(look(&container), before, "{volumes:?}");
        }
        attach(&lab, &container, &["db:/new"]).ok();
        container.exec("touch /new/f").ok();
        container.delete();
        holder.delete();
        lab.assert_clean();
    });
}

#[test]
fn a_volume_in_use_is_not_detached() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.start("while ! [ -e /d/go ]; do sleep 0.02; done; exec 3>>/d/open; echo ready > /d/ready; while :; do echo x >&3; sleep 0.02; done");
        attach(&lab, &container, &["db:/d"]).ok();
        fs::write(volume.join("go"), "").unwrap();
        wait_for("the container to use it", || volume.join("ready").exists());
        let ran = detach(&lab, &container, &["/d"]);
        assert!(ran.code == 80 && ran.err.contains("process ") && ran.err.contains("(sh)"), "{ran:?}");
        container.exec("test -e /d/ready").ok();
        // Whoever has it goes on with it.
        detach(&lab, &container, &["--lazy", "/d"]).ok();
        container.exec("test ! -e /d/ready").ok();
        let size = || fs::metadata(volume.join("open")).unwrap().len();
        let before = size();
        wait_for("the writer to go on", || size() > before);
        container.delete();
        lab.assert_clean();
    });
}

// Exactly what is asked for, and nothing at all where any of it cannot be.
#[test]
fn an_update_is_all_or_nothing() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        for id in ["a", "b", "c"] {
            fs::write(lab.volume(id).join(id), "").unwrap();
        }
        fs::create_dir(lab.volume_path("default", "a").join("sub")).unwrap();
        let mut container = lab.container(runtime, "c");
        let script = "while ! [ -e /a/go ]; do sleep 0.02; done; cd /c; while [ -e /a/go ]; do sleep 0.02; done; cd /; sleep 1000";
        container.ask("a:/a;b:data").start(script);
        let update = |volumes: &[&str]| lab.live(&container, "update", volumes);
        let has = |files: &[&str], not: &[&str]| {
            let yes = files.iter().map(|file| format!("test -e {file}"));
            let no = not.iter().map(|file| format!("test ! -e {file}"));
            container.exec(&yes.chain(no).collect::<Vec<_>>().join(" && ")).ok();
        };
        let (first, second) = ("/a/a", "/mnt/mesos/sandbox/data/b");
        has(&[first, second], &["/c"]);
        assert_eq!(update(&["a:/a", "b:data"]).ok().out, "", "nothing to do");
        let ran = update(&["a:/a", "c:/a/sub", "c:/c"]).ok();
        assert_eq!(ran.lines(), ["attached c:/c at /c", "attached c:/a/sub at /a/sub", "detached b:data"]);
        has(&[first, "/c/c", "/a/sub/c"], &[second]);
        // None of these changes anything.
        for (volumes, code) in [
            (&["a:/a", "missing:/x"][..], 41),
            (&["a:/a", "b:/c"], 38),
            (&["a:/a", "c:/c:ro"], 38),
            (&["a:/a", "c:/c", "b:/proc"], 37),
            (&["c:/c", "c:/a/sub"], 38),
        ] {
            let ran = update(volumes);
            assert_eq!(ran.code, code, "{volumes:?}: {ran:?}");
            has(&[first, "/c/c", "/a/sub/c"], &[second, "/x"]);
        }
        // What is in use stays, and so does everything else.
        let go = lab.volume_path("default", "a").join("go");
        assert_eq!(update(&["a:/a", "c:/c"]).code, 0);
        fs::write(&go, "").unwrap();
        let cwd = || fs::read_link(format!("/proc/{}/cwd", container.pid())).unwrap();
        wait_for("the user", || cwd() == Path::new("/c"));
        let ran = update(&["a:/a", "b:/b"]);
        assert!(ran.code == 80 && ran.err.contains("(sh)"), "{ran:?}");
        has(&["/c/c", "/a/a"], &["/b"]);
        fs::remove_file(go).unwrap();
        wait_for("the user to be gone", || cwd() == Path::new("/"));
        update(&["a:/a", "b:/b"]).ok();
        has(&["/b/b", "/a/a"], &["/c"]);
        update(&[]).ok();
        has(&[], &["/b", "/c", "/a"]);
        container.delete();
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        lab.assert_clean();
    });
}

// What is kept is the very thing that is asked for; what is new lies neither in what goes nor over what stays.
#[test]
fn an_update_is_exact() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        fs::write(lab.volume("db").join("default"), "").unwrap();
        lab.volume_of("other", "db");
        for name in ["sub", "x"] {
            fs::create_dir(lab.volume_path("default", "db").join(name)).unwrap();
        }
        lab.volume("b");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d").start("sleep 1000");
        let update = |words: &[&str]| lab.live(&container, "update", words);
        for other in ["role=other", "subpath=sub", "shared", "private", "slave", "ro"] {
            let ran = update(&[&format!("db:/d:{other}")]);
            assert!(ran.code == 38 && ran.err.contains("in another way"), "{other}: {ran:?}");
        }
        assert_eq!(update(&["db:/d:role=default"]).ok().out, "", "the same in other words");
        for (words, what) in [(&["b:/d/x"][..], "lies in db:/d"), (&["b:/"], "container path")] {
            let ran = update(words);
            assert!(ran.code != 0 && ran.err.contains(what), "{words:?}: {ran:?}");
        }
        container.exec("test -e /d/default && test ! -e /d/x/f").ok();
        for nothing in ["", " ", "[]"] {
            lab.live(&container, "update", &["db:/d"]).ok();
            assert_eq!(lab.live(&container, "attach", &[nothing]).code, 34, "{nothing:?}");
            assert_eq!(update(&[nothing]).ok().out, "detached db:/d\n", "{nothing:?}");
        }
        container.delete();
        lab.assert_clean();
    });
}

// A path of the sandbox is the volume that lies there (MESOS-7770), also where that was there before.
#[test]
fn a_path_of_the_sandbox_is_the_volume_that_is_there() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:data").start("sleep 1000");
        lab.live(&container, "attach", &["sandbox=data:/var/lib/mysql"]).ok();
        container.exec("echo row > /var/lib/mysql/row").ok();
        assert!(db.join("row").exists());
        assert_eq!(lab.live(&container, "update", &["db:data", "sandbox=data:/var/lib/mysql"]).ok().out, "");
        lab.live(&container, "detach", &["data"]).ok();
        assert_eq!(lab.cli(&["volume", "destroy", "--yes", "db"]).code, 71, "it is attached still");
        container.exec("cat /var/lib/mysql/row").ok();
        container.delete();
        lab.assert_clean();
    });
}

// By any name of the directory: a link in the image is one.
#[test]
fn nothing_is_hidden_or_taken_along() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        fs::create_dir(lab.volume("a").join("b")).unwrap();
        fs::write(lab.volume("b").join("f"), "").unwrap();
        let mut container = lab.container(runtime, "c");
        fs::create_dir_all(container.rootfs().join("run")).unwrap();
        fs::create_dir_all(container.rootfs().join("var")).unwrap();
        symlink("../run", container.rootfs().join("var/run")).unwrap();
        container.annotate("io.fs-isolator.sandbox", "true").start("sleep 1000");
        let live = |verb: &str, words: &[&str]| lab.live(&container, verb, words);
        live("attach", &["a:/var/run/a"]).ok();
        live("detach", &["/var/run/a"]).ok();
        assert_eq!(names(&container.rootfs().join("run")), [""; 0], "its mount point is gone");
        live("attach", &["a:/var/run/a"]).ok();
        live("attach", &["b:/run/a/b"]).ok();
        for options in [&["/var/run/a"][..], &["--lazy", "/var/run/a"]] {
            let ran = live("detach", options);
            assert!(ran.code == 38 && ran.err.contains("b:/run/a/b is attached in it"), "{ran:?}");
        }
        let ran = live("update", &["b:/run/a/b"]);
        assert!(ran.code == 38, "{ran:?}");
        live("attach", &["a:/srv/x", "b:data"]).ok();
        for (volumes, what) in [("b:/run", "hide"), ("b:/srv", "hide"), ("b:/mnt/mesos", "hide")] {
            let ran = live("attach", &[volumes]);
            assert!(ran.code == 38 && ran.err.contains(what), "{volumes}: {ran:?}");
        }
        let ran = live("detach", &["--lazy", "/mnt/mesos/sandbox"]);
        assert!(ran.code == 38 && ran.err.contains("b:data"), "{ran:?}");
        container.exec("test -e /run/a/b/f && test -e /mnt/mesos/sandbox/data/f && test -d /srv/x").ok();
        live("update", &[]).ok();
        container.exec("test ! -e /run/a && test ! -e /srv && test -d /mnt/mesos/sandbox").ok();
        container.delete();
        lab.assert_clean();
    });
}

// The sandbox is where the container has it, whatever the configuration says by now.
#[test]
fn a_sandbox_stays_where_it_is() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        lab.volume("v");
        let mut container = lab.container(runtime, "c");
        container.annotate("io.fs-isolator.sandbox", "true").ask("v:/v").start("sleep 1000");
        lab.configure(json!({ "isolation": "filesystem/linux", "sandbox_directory": "/elsewhere" }));
        assert_eq!(lab.live(&container, "update", &["v:/v"]).ok().out, "");
        lab.live(&container, "attach", &["db:data"]).ok();
        container.exec("test -d /mnt/mesos/sandbox/data && test ! -e /elsewhere").ok();
        lab.live(&container, "detach", &["data"]).ok();
        container.delete();
        lab.assert_clean();
    });
}

// However many times something is attached, the record stays one that can be read.
#[test]
fn a_record_does_not_grow_with_each_command() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("v");
        let mut container = lab.container(runtime, "c");
        container.start("sleep 1000");
        let size = || {
            let records = lab.runtime_dir().join("records");
            fs::metadata(records.join(&lab.runtime_files("records")[0])).unwrap().len()
        };
        lab.live(&container, "attach", &["v:/a"]).ok();
        let one = size();
        for path in ["b", "c", "d", "e", "f"] {
            lab.live(&container, "attach", &[&format!("v:/{path}")]).ok();
        }
        assert!(size() < 6 * one, "{} after {one}", size());
        container.delete();
        lab.assert_clean();
    });
}

// A container is named by its id, by the beginning of it, or by its process.
#[test]
fn containers_are_found() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut one = lab.container(Runtime::Runc, "web-1");
        one.start("sleep 1000");
        let mut two = lab.container(Runtime::Runc, "web-10");
        two.start("sleep 1000");
        let root = one.root.to_str().unwrap().to_owned();
        let at = |words: &[&str]| lab.cli(&[&["attach", "--runtime-root", &root], words].concat());
        let ran = at(&["web", "db:/d"]);
        assert!(
            ran.code == 78 && ran.err.contains("web-1 or web-10") || ran.err.contains("web-10 or web-1"),
            "{ran:?}"
        );
        assert_eq!(at(&["other", "db:/d"]).code, 78);
        at(&["web-1", "db:/d"]).ok();
        one.exec("test -d /d").ok();
        let pid = two.pid().to_string();
        one.kill();
        let ran = at(&["web-1", "db:/d"]);
        assert!(ran.code == 78 && ran.err.contains("does not run"), "never one whose id only begins so: {ran:?}");
        two.exec("test ! -e /d").ok();
        at(&["web-10", "db:/d"]).ok();
        lab.cli(&["detach", "--runtime-root", &root, "--pid", &pid, "/d"]).ok();
        assert_eq!(lab.cli(&["detach", "--runtime-root", &root, "--pid", "1", "/d"]).code, 78);
        one.delete();
        two.delete();
        lab.assert_clean();
    });
}

// The runtime's state outlives the container, and its pid may be another's by then.
#[test]
fn a_process_that_only_has_the_number_is_not_the_container() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.start("sleep 1000");
        let file = container.root.join("c").join(if runtime == Runtime::Runc { "state.json" } else { "status" });
        let text = fs::read_to_string(&file).unwrap();
        let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
        let key = if runtime == Runtime::Runc { "init_process_start" } else { "process-start-time" };
        state[key] = json!(state[key].as_u64().unwrap() - 1);
        fs::write(&file, state.to_string()).unwrap();
        let ran = attach(&lab, &container, &["db:/d"]);
        assert!(ran.code == 78 && ran.err.contains("another has its number"), "{ran:?}");
        fs::write(&file, text).unwrap();
        attach(&lab, &container, &["db:/d"]).ok();
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn ids_are_mapped_in_a_user_namespace() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.map_ids(200_000).start("sleep 1000");
        attach(&lab, &container, &["db:/d"]).ok();
        container.exec("touch /d/f && test $(stat -c %u /d/f) = 0").ok();
        assert_eq!(fs::metadata(volume.join("f")).unwrap().uid(), 0);
        detach(&lab, &container, &["/d"]).ok();
        container.delete();
        lab.assert_clean();
    });
}

// Authorised as the container, not as whoever runs the command.
#[test]
fn a_pods_container_gets_no_more_than_its_pod() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.configure(json!({ "isolation": "filesystem/linux", "managers": { "cri-o": [lab.dir.join("crio")] } }));
        let mut container = lab.container(Runtime::Crun, "app");
        let bundle = lab.dir.join("crio/overlay-containers/app/userdata");
        fs::create_dir_all(&bundle).unwrap();
        container.spec["root"]["path"] = json!(container.rootfs());
        container.bundle = bundle;
        for (key, value) in [
            ("io.container.manager", "cri-o"),
            ("io.kubernetes.cri-o.SandboxName", "k8s_web_team-a_0_0"),
            ("io.kubernetes.pod.namespace", "team-a"),
            ("io.kubernetes.container.name", "app"),
        ] {
            container.annotate(key, value);
        }
        container.start("sleep 1000");
        lab.volume_of("team-a", "db");
        lab.volume_of("team-b", "db");
        let refused = attach(&lab, &container, &["db:/d:role=team-b"]);
        assert_eq!(refused.code, 41, "{refused:?}");
        attach(&lab, &container, &["db:/d"]).ok();
        container.exec("touch /d/f").ok();
        assert!(lab.volume_path("team-a", "db").join("f").exists());
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn posix_containers_get_links() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = lab.cli(&["sandbox", "create", "--owner", "1000:1000", "s"]).ok().out.trim().to_owned();
        let mut container = lab.host_container(runtime, "c");
        container.user(1000, 1000).cwd(Path::new(&sandbox));
        container.spec["process"]["capabilities"] = json!({});
        container.start("while ! [ -e data/f ]; do touch data/f; sleep 0.02; done; sleep 1000");
        attach(&lab, &container, &["db:data"]).ok();
        wait_for("the container to write", || volume.join("f").exists());
        detach(&lab, &container, &["data"]).ok();
        assert!(!Path::new(&sandbox).join("data").exists());
        container.delete();
        lab.assert_clean();
    });
}

// Again and again, beside a process that syncs what it writes to another volume: nothing leaks, and nothing is missed.
#[test]
fn a_thousand_times_leave_nothing() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let other = lab.volume("other");
        let mut container = lab.container(runtime, "c");
        let script = "i=0; while :; do i=$((i+1)); echo $i | dd of=/other/n oflag=append conv=notrunc,fsync 2>/dev/null || echo $i >> /other/errors; done";
        container.ask("other:/other").start(script);
        let table = container.exec("cat /proc/self/mountinfo").ok().out.lines().count();
        let (records, held) = (lab.runtime_files("records"), leases());
        for _ in 0..1000 {
            attach(&lab, &container, &["db:/d"]).ok();
            detach(&lab, &container, &["/d"]).ok();
        }
        assert_eq!(container.exec("cat /proc/self/mountinfo").ok().out.lines().count(), table);
        assert_eq!((lab.runtime_files("records"), leases()), (records, held));
        container.kill();
        container.delete();
        let numbers = fs::read_to_string(other.join("n")).unwrap();
        assert!(numbers.lines().enumerate().all(|(index, line)| line == (index + 1).to_string()), "a gap");
        assert!(!other.join("errors").exists() && numbers.lines().count() > 10);
        lab.assert_clean();
    });
}

/// The container's record.
fn record_of(lab: &Lab) -> std::path::PathBuf {
    lab.runtime_dir().join("records").join(&lab.runtime_files("records")[0])
}

// The kernel writes what fits. Whoever writes on behind that would make one line of two, which nobody can read.
#[test]
fn a_full_runtime_dir_leaves_a_record_that_can_be_read() {
    const ROOM: usize = 24;
    each(|runtime| {
        let mut length = 1;
        for is_measured in [false, true] {
            let lab = Lab::new("filesystem/linux");
            lab.volume("db");
            lab.volume("v");
            let run = lab.runtime_dir();
            fs::create_dir_all(&run).unwrap();
            nix::mount::mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), Some("size=256k,mode=755"))
                .unwrap();
            let mut container = lab.container(runtime, "c");
            // A record that ends just before a page does: of the next line some goes in, and the rest has no room.
            let path: String = (0..length).map(|index| if index % 200 == 0 { '/' } else { 'a' }).collect();
            fs::create_dir_all(container.rootfs().join(format!("x{path}"))).unwrap();
            fs::create_dir_all(container.rootfs().join("m")).unwrap();
            container.start("sleep 1000");
            attach(&lab, &container, &[&format!("db:/x{path}")]).ok();
            lab.live(&container, "update", &[&format!("db:/x{path}")]).ok();
            let size = fs::read(record_of(&lab)).unwrap().len();
            if !is_measured {
                length += (4096 - ROOM - size) / 2;
                container.delete();
                continue;
            }
            assert!((4096 - 2 * ROOM..4096 - ROOM / 2).contains(&size), "{size}");
            let filler = run.join("filler");
            let mut file = fs::File::create(&filler).unwrap();
            while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
            drop(file);
            let ran = attach(&lab, &container, &["v:/m"]);
            assert_eq!(ran.code, 60, "{ran:?}");
            let text = fs::read(record_of(&lab)).unwrap();
            assert!(text.len() <= 4096 && text.ends_with(b"\n"), "{}", String::from_utf8_lossy(&text));
            fs::remove_file(&filler).unwrap();
            attach(&lab, &container, &["v:/m"]).ok();
            detach(&lab, &container, &["/m"]).ok();
            container.delete();
            lab.assert_clean();
        }
    });
}

// Of a writer that was killed in the middle of a line.
#[test]
fn a_torn_line_is_cut_before_anything_is_written() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        lab.volume("other");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d").start("sleep 1000");
        let mut text = fs::read_to_string(record_of(&lab)).unwrap();
        text.push_str("{\"making\":{\"pl");
        fs::write(record_of(&lab), text).unwrap();
        attach(&lab, &container, &["other:/e"]).ok();
        detach(&lab, &container, &["/e"]).ok();
        container.delete();
        lab.assert_clean();
    });
}

// One that is too large to be read would be of no use to anybody.
#[test]
fn a_record_never_outgrows_its_readers() {
    const LARGEST: usize = 4 << 20;
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        lab.volume("other");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d").start("sleep 1000");
        // As after many commands, with room for nothing more.
        let text = fs::read_to_string(record_of(&lab)).unwrap();
        let (before, done) = text.trim_end().rsplit_once('\n').unwrap();
        let mut text = before.to_owned() + "\n";
        let line = "{\"given_up\":{\"file\":{\"id\":{\"dev\":1,\"ino\":1},\"born\":1}}}\n";
        while text.len() + line.len() + done.len() < LARGEST - 16 {
            text.push_str(line);
        }
        fs::write(record_of(&lab), text + done + "\n").unwrap();
        let ran = attach(&lab, &container, &["other:/e"]);
        assert!(ran.code == 0 || ran.code == 60 && ran.err.contains("larger than 4 MiB"), "{ran:?}");
        assert!(fs::metadata(record_of(&lab)).unwrap().len() <= LARGEST as u64);
        if ran.code != 0 {
            attach(&lab, &container, &["other:/e"]).ok();
        }
        detach(&lab, &container, &["/e"]).ok();
        container.delete();
        lab.assert_clean();
    });
}

/// Attaches with this fault of the kernel's.
fn attach_with(lab: &Lab, container: &Container, inject: &str, volumes: &[&str]) -> Ran {
    let trace = lab.dir.join("trace");
    let mut command = std::process::Command::new("timeout");
    command.args(["60", "strace", "-f", "-o"]).arg(&trace).args(["-e", inject, CLI, "--config"]).arg(lab.config());
    command.args(["attach", "--runtime-root"]).arg(&container.root).arg(&container.id).args(volumes);
    run_with(&mut command, b"")
}

// A volume is shared for as long as all say so that have it, and no longer exclusive than for whom it must be.
#[test]
fn a_shared_volume_is_shared_again() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        // Made without the command, it may be either.
        fs::create_dir_all(lab.volume_path("default", "v")).unwrap();
        let mut container = lab.container(runtime, "c");
        container.ask("v:/d:shared").start("sleep 1000");
        let can_share = || {
            let mut next = lab.container(runtime, "next");
            let code = next.ask("v:/d:shared").shell("true").run().code;
            next.delete();
            code == 0
        };
        assert!(can_share());
        assert_eq!(attach(&lab, &container, &["v:/e", "missing:/x"]).code, 41);
        assert!(can_share(), "after an attach that failed");
        // Killed when it has the volume, and the next command undoes what it did.
        let ran = attach_with(&lab, &container, "inject=move_mount:signal=KILL:when=1", &["v:/e"]);
        assert_ne!(ran.code, 0, "{ran:?}");
        assert!(!can_share(), "it was exclusive when its command was killed");
        assert_eq!(attach(&lab, &container, &["missing:/x"]).code, 41);
        assert!(can_share(), "after an attach that was killed");
        attach(&lab, &container, &["v:/e"]).ok();
        attach(&lab, &container, &["v:/f"]).ok();
        assert!(!can_share(), "one is exclusive");
        detach(&lab, &container, &["/e"]).ok();
        assert!(!can_share(), "another is exclusive still");
        detach(&lab, &container, &["/f"]).ok();
        assert!(can_share(), "after the exclusive ones were detached");
        attach(&lab, &container, &["v:/e:shared"]).ok();
        detach(&lab, &container, &["/d"]).ok();
        assert!(can_share(), "what is left shares it");
        detach(&lab, &container, &["/e"]).ok();
        assert!(leases().is_empty(), "{:?}", leases());
        container.delete();
        lab.assert_clean();
    });
}

// The container's mount of its root filesystem is read-only, and what lies below it is not.
#[test]
fn a_read_only_root_filesystem_gets_mount_points() {
    each(|runtime| {
        for has_user_namespace in [false, true] {
            let lab = Lab::new("filesystem/linux");
            let volume = lab.volume("db");
            let other = lab.dir.join("other");
            fs::create_dir_all(&other).unwrap();
            let mut container = lab.container(runtime, "c");
            container.bind(&other, "/tmp", &["rbind", "ro"]);
            container.spec["root"]["readonly"] = json!(true);
            if has_user_namespace {
                container.map_ids(200_000);
            }
            let rootfs = manifest(&container.rootfs());
            container.start("sleep 1000");
            let table = container.exec("cat /proc/self/mountinfo").ok().out;
            attach(&lab, &container, &["db:/a/b", "db:data"]).ok();
            container.exec("echo x > /a/b/f && cat /mnt/mesos/sandbox/data/f").ok();
            assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "x\n");
            // It never was writable, and is not now.
            container.exec("! mkdir /y 2>&1 && ! touch /a/y && ! touch /etc/y && ! touch /mnt/y").ok();
            let ran = attach(&lab, &container, &["db:/tmp/new"]);
            assert!(ran.code == 50 && ran.err.contains(&format!("mkdir -p {}/new", other.display())), "{ran:?}");
            detach(&lab, &container, &["/a/b"]).ok();
            container.exec("test ! -e /a && test -e /mnt/mesos/sandbox/data/f").ok();
            detach(&lab, &container, &["data"]).ok();
            attach(&lab, &container, &["db:/c/d"]).ok();
            // All or none.
            assert_eq!(attach(&lab, &container, &["db:/new", "db:/bin/sh"]).code, 51);
            container.exec("test ! -e /new && test -e /c/d/f").ok();
            let mounts = |table: &str| table.lines().filter(|line| !line.contains(" /mnt/mesos/sandbox ")).count();
            let now = container.exec("cat /proc/self/mountinfo").ok().out;
            assert_eq!(mounts(&now), mounts(&table) + 1, "{now}");
            container.delete();
            let after = manifest(&container.rootfs());
            assert_eq!(after.keys().collect::<Vec<_>>(), rootfs.keys().collect::<Vec<_>>());
            lab.assert_clean();
        }
    });
}

// What the administrator of the host has made read-only stays so.
#[test]
fn a_root_filesystem_that_is_read_only_on_the_host_gets_none() {
    each(|runtime| {
        for is_superblock in [false, true] {
            let lab = Lab::new("filesystem/linux");
            lab.volume("db");
            let mut container = lab.container(runtime, "c");
            let rootfs = container.rootfs();
            let none = None::<&str>;
            fs::create_dir_all(rootfs.join("there")).unwrap();
            if is_superblock {
                let image = lab.dir.join("image");
                fs::rename(&rootfs, &image).unwrap();
                tmpfs(&rootfs, MsFlags::empty());
                run("cp", &["-a", &format!("{}/.", image.display()), rootfs.to_str().unwrap()]).ok();
                nix::mount::mount(none, &rootfs, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
            } else {
                bind(&rootfs, &rootfs);
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                nix::mount::mount(none, &rootfs, none, flags, none).unwrap();
            }
            container.spec["root"]["readonly"] = json!(true);
            container.start("sleep 1000");
            let ran = attach(&lab, &container, &["db:/new"]);
            assert!(ran.code == 50 && ran.err.contains("read-only") && ran.err.contains("in the image"), "{ran:?}");
            assert!(!rootfs.join("new").exists());
            attach(&lab, &container, &["db:/there"]).ok();
            container.exec("touch /there/f").ok();
            detach(&lab, &container, &["/there"]).ok();
            container.delete();
            lab.assert_clean();
        }
    });
}

// The kernel says no once to each thing that is to be removed again: who comes next removes it.
#[test]
fn what_could_not_be_undone_is_not_forgotten() {
    each(|runtime| {
        for by_command in [false, true] {
            let mut hits = 0;
            for nth in 1.. {
                let lab = Lab::new("filesystem/linux");
                lab.volume("db");
                let mut container = lab.container(runtime, "c");
                let rootfs = manifest(&container.rootfs());
                container.start("sleep 1000");
                let inject = format!("inject=unlinkat:error=EIO:when={nth}");
                let ran = attach_with(&lab, &container, &inject, &["db:/new/a", "db:/bin/sh/x/y"]);
                assert_eq!(ran.code, 51, "{ran:?}");
                let is_hit = fs::read_to_string(lab.dir.join("trace")).unwrap().contains("(INJECTED)");
                hits += usize::from(is_hit);
                if by_command {
                    attach(&lab, &container, &["db:/e"]).ok();
                    detach(&lab, &container, &["/e"]).ok();
                    assert_eq!(leases(), Vec::<String>::new(), "{nth}");
                    assert_eq!(lab.runtime_files("mountpoints"), Vec::<String>::new(), "{nth}");
                }
                container.delete();
                lab.assert_clean();
                let after = manifest(&container.rootfs());
                assert_eq!(after.keys().collect::<Vec<_>>(), rootfs.keys().collect::<Vec<_>>(), "{nth}");
                if !is_hit {
                    break;
                }
            }
            assert!(hits > 3, "{hits}");
        }
    });
}
