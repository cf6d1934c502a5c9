//! What hooks leave behind when they fail, are killed, come twice, late or never, and what `fs-isolator-poststart`
//! ends: with real containers of runc and crun.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use nix::mount::{MntFlags, MsFlags, umount2};
use serde_json::{Value, json};

const SANDBOX: &str = "/mnt/mesos/sandbox";

/// A root filesystem without its programs.
fn look(rootfs: &Path) -> BTreeMap<String, String> {
    let mut all = manifest(rootfs);
    all.retain(|path, _| !path.contains("/bin/"));
    all
}

/// The log of a container, which then starts over.
fn take_log(lab: &Lab, id: &str) -> String {
    let log = lab.log(id);
    let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
    log
}

/// Kills a container, to the last thread: runc's `start` returns before it has become the container's command.
fn kill(container: &Container) {
    let pid = container.pid();
    container.kill();
    wait_for("its threads to end", || names(Path::new(&format!("/proc/{pid}/task"))).len() < 2);
}

fn poststop(lab: &Lab, state: &Value) -> Ran {
    hook(POSTSTOP, &lab.config(), state.to_string().as_bytes())
}

/// The state that runtimes write at poststop.
fn stopped(container: &Container) -> Value {
    let mut state = container.state(0);
    state["status"] = json!("stopped");
    state
}

/// Runs what would end well by itself, and is ended.
#[track_caller]
fn assert_is_ended(container: &mut Container) {
    container.run_shell("sleep 3").failed();
}

/// Nothing of a container remains anywhere, its sandbox included.
#[track_caller]
fn assert_no_trace(lab: &Lab, container: &Container, rootfs: &BTreeMap<String, String>) {
    lab.assert_clean();
    assert!(lab.sandboxes("local").is_empty(), "{:?}", lab.sandboxes("local"));
    assert_eq!(&look(&container.rootfs()), rootfs);
}

/// On a rootfs that is a bind of `/` a look for leaks would find other tests' files.
#[track_caller]
fn assert_no_records(lab: &Lab) {
    assert_eq!([lab.runtime_files("records"), lab.runtime_files("mountpoints")].concat(), [""; 0]);
}

// A prestart that fails.

/// A file in the rootfs where a mount point is needed, so deep that all other volumes are attached before: parents
/// come first.
fn deep_file(container: &Container) -> &'static str {
    fs::create_dir_all(container.rootfs().join("1/2/3/4/5")).unwrap();
    fs::write(container.rootfs().join("1/2/3/4/5/6"), "").unwrap();
    "/1/2/3/4/5/6"
}

#[test]
fn a_prestart_that_fails_after_some_volumes_leaves_nothing() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volumes = [lab.volume("db"), lab.volume("db2")];
        fs::write(volumes[0].join("data"), "kept").unwrap();
        let before = volumes.each_ref().map(|volume| manifest(volume));
        let mut container = lab.container(runtime, "c");
        let deep = deep_file(&container);
        let rootfs = look(&container.rootfs());
        for (request, code) in [
            (format!("db:/a/b/c;db2:{deep}"), 51),
            ("db:/a/b/c;db2:/a/x;missing:/y".to_owned(), 41),
            (format!("db:x/y;db2:{deep}/below"), 51),
            ("db:x/y;db2:/z:subpath=none".to_owned(), 42),
            ("db:/x;db2:/x/y".to_owned(), 50),
        ] {
            container.ask(&request).run_shell("true").failed();
            let log = take_log(&lab, "c");
            assert!(log.contains(&format!("[exit {code}]")), "{request}: {log}");
            assert_no_trace(&lab, &container, &rootfs);
        }
        assert_eq!(volumes.each_ref().map(|volume| manifest(volume)), before);
        container.ask("db:/a/b/c;db2:/x").run_shell("true").ok();
        assert_no_trace(&lab, &container, &rootfs);
    });
}

#[test]
fn a_prestart_that_fails_keeps_the_sandbox_that_was_there() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:data").run_shell(&format!("echo mine > {SANDBOX}/f")).ok();
        container.ask("db:a/b;missing:y").run_shell("true").failed();
        container.ask("db:a/b;db:/bin/sh/x/y/z/1/2").run_shell("true").failed();
        let read = container.ask("db:data").run_shell(&format!("cd {SANDBOX}; ls; cat f")).ok();
        assert_eq!(read.lines(), ["data", "f", "mine"]);
        lab.assert_clean();
    });
}

#[test]
fn a_prestart_that_fails_takes_its_links_back() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        lab.volume("db2");
        let sandbox = PathBuf::from(lab.cli(&["sandbox", "create", "--owner", "0", "s"]).ok().out.trim_end());
        fs::write(sandbox.join("taken"), "mine").unwrap();
        let before = manifest(&sandbox);
        let mut container = lab.host_container(runtime, "c");
        container.cwd(&sandbox).ask("db:a/link;db2:taken").run_shell("true").failed();
        assert!(lab.log("c").contains("[exit 55]"), "{}", lab.log("c"));
        assert_eq!(manifest(&sandbox), before);
        container.ask("db:a/link;db2:other").run_shell("touch a/link/f other/f").ok();
        assert_eq!(manifest(&sandbox), before);
        assert_no_records(&lab);
    });
}

#[test]
fn a_missing_volume_is_made_only_where_the_administrator_says_so() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let kept = lab.volume("kept");
        let new = lab.volume_path("default", "new");
        let mut container = lab.container(runtime, "c");
        let deep = deep_file(&container);
        container.ask("new:/d").run_shell("true").failed();
        let log = take_log(&lab, "c");
        assert!(log.contains("[exit 41]") && log.contains("fs-isolator volume create"), "{log}");
        assert!(!new.exists());

        lab.configure(json!({ "isolation": "filesystem/linux", "create_missing_volumes": true }));
        container.ask(&format!("new:/d;kept:{deep}")).run_shell("true").failed();
        assert!(!new.exists(), "a prestart that fails takes back the volume it made");
        assert!(kept.exists(), "and no other");
        container.ask("new:/d").run_shell("echo 1 > /d/f").ok();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_to_string(new.join("f")).unwrap(), "1\n");
        lab.assert_clean();
    });
}

// A prestart that is done, and then no poststop: crun and podman after a missing command.

/// A start that fails after prestart did its work. crun never runs poststop then, runc does.
#[track_caller]
fn fail_to_start(lab: &Lab, container: &mut Container) {
    container.spec["process"]["args"] = json!(["/no/such/command"]);
    container.run().failed();
    let left = lab.runtime_files("records").iter().any(|name| name.starts_with(&format!("{}.", container.id)));
    assert_eq!(left, container.runtime == Runtime::Crun);
}

#[test]
fn after_a_missing_command_the_same_container_starts() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        container.ask("db:/a/b");
        fail_to_start(&lab, &mut container);
        fail_to_start(&lab, &mut container);
        container.run_shell("echo 1 > /a/b/f").ok();
        assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "1\n");
        assert_no_trace(&lab, &container, &rootfs);
    });
}

#[test]
fn after_a_missing_command_another_container_clears_up() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        container.ask("db:/a/b");
        fail_to_start(&lab, &mut container);
        lab.container(runtime, "other").ask("db:/d").run_shell("true").ok();
        assert_no_trace(&lab, &container, &rootfs);
    });
}

#[test]
fn old_records_are_undone_two_at_a_time_and_live_ones_never() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut live = lab.container(runtime, "live");
        live.ask("db:/d:shared").start("sleep 1000");
        let mut dead: Vec<Container> = (0..5).map(|number| lab.container(runtime, &format!("dead{number}"))).collect();
        for container in &mut dead {
            container.hooks(&lab.config(), &[("prestart", PRESTART)]).ask("db:/a/b:shared").start("sleep 1000");
        }
        dead.iter_mut().for_each(|container| drop((kill(container), container.delete())));
        for left in [5, 3, 1, 0] {
            let records = lab.runtime_files("records");
            assert_eq!(records.iter().filter(|name| name.starts_with("dead")).count(), left, "{records:?}");
            assert_eq!(dead.iter().filter(|container| container.rootfs().join("a/b").exists()).count(), left);
            lab.container(runtime, "next").ask("db:/d:shared").run_shell("true").ok();
        }
        live.exec("touch /d/f").ok();
        assert!(volume.join("f").exists());
        live.delete();
        lab.assert_clean();
    });
}

// A volume that a killed prestart made may be somebody else's by the time that this is undone.
#[test]
fn a_volume_that_another_container_took_is_not_taken_back() {
    each(|runtime| {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "create_missing_volumes": true }));
        let mut first = lab.container(runtime, "first");
        first.ask("new:/d");
        let killer = Killer::of(&lab, PRESTART);
        first.hooks(&lab.config(), &[("prestart", &killer.program)]);
        assert!(killer.kills_at("move_mount", 1, || drop(first.run().failed())));
        let mut second = lab.container(runtime, "second");
        second.ask("new:/d").start("sleep 1000");
        second.exec("touch /d/f").ok();
        assert!(lab.volume_path("default", "new").join("f").exists());
        second.delete();
        lab.container(runtime, "third").ask("new:/d").run_shell("true").ok();
        lab.assert_clean();
    });
}

// prestart and poststop more often, or at other times, than they should come.

#[test]
fn prestart_at_two_stages_attaches_once() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let records = lab.runtime_dir().join("records");
        let list = |name: &str| {
            script(
                &lab,
                name,
                &format!("ls -li {} > {}", records.display(), lab.dir.join(name).with_extension("out").display()),
            )
        };
        let (before, after) = (list("before"), list("after"));
        let hooks =
            [("prestart", PRESTART), ("prestart", &*before), ("createRuntime", PRESTART), ("createRuntime", &*after)];
        container.hooks(&lab.config(), &[&hooks[..], &[("poststart", POSTSTART), ("poststop", POSTSTOP)]].concat());
        container.ask("db:/d;db:x").start("sleep 1000");
        let mounts = container.exec("grep -cE ' (/d|/mnt/mesos/sandbox|/mnt/mesos/sandbox/x) ' /proc/self/mountinfo");
        assert_eq!(mounts.ok().out, "3\n");
        let seen = |script: &str| fs::read_to_string(Path::new(script).with_extension("out")).unwrap();
        assert_eq!(seen(&before), seen(&after), "the second does nothing");
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn prestart_of_the_same_init_is_done_already_and_of_another_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d").start("sleep 1000");
        let records = manifest(&lab.runtime_dir().join("records"));
        let prestart = |pid| hook(PRESTART, &lab.config(), container.state(pid).to_string().as_bytes());
        prestart(container.pid()).ok();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let refused = prestart(other.id() as i32);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(refused.code == 61 && refused.err.contains("[exit 61]"), "{refused:?}");
        assert_eq!(manifest(&lab.runtime_dir().join("records")), records);
        container.exec("grep ' /d ' /proc/self/mountinfo && touch /d/f").ok();
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn poststop_without_prestart_and_twice_is_success() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        container.ask("db:/a/b");
        let state = stopped(&container);
        poststop(&lab, &state).ok();
        assert!(!lab.runtime_dir().exists());
        container.start("sleep 1000");
        kill(&container);
        poststop(&lab, &state).ok();
        assert_no_trace(&lab, &container, &rootfs);
        poststop(&lab, &state).ok();
        container.delete();
        assert_no_trace(&lab, &container, &rootfs);
    });
}

// Whatever pid a runtime writes then: youki's is of a process that is gone, or of any other by now.
#[test]
fn poststop_does_nothing_while_the_init_lives_and_never_believes_a_pid() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        container.ask("db:/a/b").start("sleep 1000").delete();
        // The next attempt of the same id; the first one's poststop may come only now.
        container.start("sleep 1000");
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let pids = [json!(0), json!(null), json!(gone.id()), json!(std::process::id()), json!(container.pid())];
        let records = manifest(&lab.runtime_dir().join("records"));
        let states = pids.map(|pid| {
            let mut state = stopped(&container);
            match pid {
                Value::Null => drop(state.as_object_mut().unwrap().remove("pid")),
                pid => state["pid"] = pid,
            }
            state
        });
        for state in &states {
            poststop(&lab, state).ok();
            assert_eq!(manifest(&lab.runtime_dir().join("records")), records);
            container.exec("echo 1 >> /a/b/f").ok();
        }
        assert_eq!(fs::read_to_string(volume.join("f")).unwrap().lines().count(), states.len());
        container.delete();
        for state in &states {
            container.start("sleep 1000");
            kill(&container);
            poststop(&lab, state).ok();
            assert_no_trace(&lab, &container, &rootfs);
            container.delete();
        }
    });
}

#[test]
fn poststop_needs_neither_bundle_nor_rootfs() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let aside = lab.dir.join("aside");

        let mut container = lab.container(runtime, "bundle");
        let rootfs = lab.dir.join("rootfs");
        make_rootfs(&rootfs);
        let before = look(&rootfs);
        container.spec["root"]["path"] = json!(rootfs);
        container.ask("db:/a/b;db:x").start("sleep 1000");
        kill(&container);
        fs::rename(&container.bundle, &aside).unwrap();
        poststop(&lab, &stopped(&container)).ok();
        fs::rename(&aside, &container.bundle).unwrap();
        assert_eq!(look(&rootfs), before);
        lab.assert_clean();

        let mut container = lab.container(runtime, "rootfs");
        container.ask("db:/a/b").start("sleep 1000");
        kill(&container);
        fs::rename(container.rootfs(), &aside).unwrap();
        poststop(&lab, &stopped(&container)).ok();
        lab.assert_clean();

        // What lies below a mount that is gone has the same names, and is not ours.
        let mut container = lab.container(runtime, "unmounted");
        fs::create_dir_all(container.rootfs().join("a/b")).unwrap();
        let below = look(&container.rootfs());
        let image = lab.dir.join("image");
        make_rootfs(&image);
        bind(&image, &container.rootfs());
        container.ask("db:/a/b").start("sleep 1000");
        kill(&container);
        umount2(&container.rootfs(), MntFlags::empty()).unwrap();
        poststop(&lab, &stopped(&container)).ok();
        assert_eq!(look(&container.rootfs()), below);
        lab.assert_clean();
    });
}

// What cannot be looked at right now is not gone, and what is above it does not go before it.
#[test]
fn poststop_forgets_nothing_that_it_cannot_look_at() {
    each(|runtime| {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        container.hooks(&lab.config(), &[("prestart", PRESTART)]).ask("db:/a/b/c");
        for (path, call) in [(".", "openat2"), ("a/b", "unlinkat")] {
            container.start("sleep 1000");
            kill(&container);
            container.delete();
            let path = container.rootfs().join(path).canonicalize().unwrap();
            let mut poststop = Command::new("strace");
            poststop.args(["-o", "/dev/null", "-P"]).arg(path).args(["-e", &format!("inject={call}:error=EMFILE")]);
            poststop.args([POSTSTOP, "--config"]).arg(lab.config());
            let state = stopped(&container).to_string();
            assert_eq!(run_with(&mut poststop, state.as_bytes()).code, 62, "{call}");
            assert!(container.rootfs().join("a/b").exists(), "{call}");
            hook(POSTSTOP, &lab.config(), state.as_bytes()).ok();
            assert_no_trace(&lab, &container, &rootfs);
        }
    });
}

/// A hook that is killed as it enters the Nth call of one kind.
struct Killer {
    program: String,
    /// The script reads here what to trace.
    order: PathBuf,
    trace: PathBuf,
}

impl Killer {
    fn of(lab: &Lab, program: &str) -> Killer {
        let (order, trace) = (lab.dir.join("order"), lab.dir.join("trace"));
        let text = format!(
            "read call number < {0}\n\
             exec strace -f -o {1} -e trace=$call -e inject=$call:signal=KILL:when=$number {program} \"$@\"",
            order.display(),
            trace.display()
        );
        Killer { program: script(lab, "killer", &text), order, trace }
    }

    /// Whether the hook was killed in what this does.
    fn kills_at(&self, call: &str, number: usize, act: impl FnOnce()) -> bool {
        fs::write(&self.order, format!("{call} {number}\n")).unwrap();
        act();
        fs::read_to_string(&self.trace).unwrap().contains("killed by SIGKILL")
    }
}

// Sandboxes.

#[test]
fn without_retention_the_sandbox_goes_with_the_container_and_nothing_outside_does() {
    each(|runtime| {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        let volume = lab.volume("db");
        fs::write(volume.join("data"), "kept").unwrap();
        let outside = lab.dir.join("outside");
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("canary"), "kept").unwrap();
        let before = [manifest(&outside), manifest(&volume)];
        let mut container = lab.container(runtime, "c");
        container.ask("db:data").start("sleep 1000");
        let links =
            format!("ln -s {0} to; ln -s {0}/canary dir/sub/file; ln -s ../../../outside up", outside.display());
        container.exec(&format!("cd {SANDBOX} && mkdir -p dir/sub && echo x > dir/f && {links}")).ok();
        kill(&container);
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        symlink(&outside, sandbox.join("dir/from-the-host")).unwrap();
        // What is mounted there stays, is reported, and the next poststop goes on.
        tmpfs(&sandbox.join("dir/mounted"), MsFlags::empty());
        fs::write(sandbox.join("dir/mounted/canary"), "").unwrap();
        let refused = poststop(&lab, &stopped(&container));
        assert!(refused.code == 62 && sandbox.join("dir/mounted/canary").exists(), "{refused:?}");
        assert_eq!(lab.runtime_files("records").len(), 1);
        umount2(&sandbox.join("dir/mounted"), MntFlags::empty()).unwrap();
        container.delete();
        assert!(lab.sandboxes("local").is_empty());
        assert_eq!([manifest(&outside), manifest(&volume)], before);
        lab.assert_clean();
    });
}

#[test]
fn a_sandbox_is_found_again_by_the_same_id_and_bundle() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:data").run_shell(&format!("echo 1 >> {SANDBOX}/f")).ok();
        assert_eq!(container.run_shell(&format!("echo 2 >> {SANDBOX}/f; cat {SANDBOX}/f")).ok().lines(), ["1", "2"]);
        assert_eq!(lab.sandboxes("local").len(), 1);
        let moved = lab.dir.join("bundles/moved");
        fs::rename(&container.bundle, &moved).unwrap();
        container.bundle = moved;
        container.run_shell(&format!("test ! -e {SANDBOX}/f")).ok();
        assert_eq!(lab.sandboxes("local").len(), 2);
        lab.assert_clean();
    });
}

// poststart.

#[test]
fn a_container_without_what_it_asked_for_is_ended() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let other = lab.volume("other");
        for (number, (request, at, tamper)) in [
            ("db:/d", "d", "umount $D"),
            ("db:/d", "d", "mount -t tmpfs none $D"),
            ("db:/d", "d", "umount $D && mount --bind $OTHER $D"),
            ("other:/o;db:/d", "d", "mount --move $D ${D%d}tmp"),
            ("db:x", "mnt/mesos/sandbox/x", "umount $D"),
            ("db:x", "mnt/mesos/sandbox", "umount -R $D"),
            ("db:/d:ro", "d", "mount -o remount,bind,rw $D"),
            ("db:/d:nosuid", "d", "mount -o remount,bind,suid $D"),
            ("db:/d:nodev", "d", "mount -o remount,bind,dev $D"),
            ("db:/d:noexec", "d", "mount -o remount,bind,exec $D"),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("c{number}");
            let mut container = lab.container(runtime, &id);
            let text = format!(
                "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')\n\
                 export D={}/{at} OTHER={}\n\
                 exec nsenter -m -t \"$pid\" sh -c '{tamper}'",
                container.rootfs().display(),
                other.display()
            );
            let tamper = script(&lab, &id, &text);
            let hooks = [("prestart", PRESTART), ("createRuntime", &*tamper), ("poststart", POSTSTART)];
            container.hooks(&lab.config(), &[&hooks[..], &[("poststop", POSTSTOP)]].concat());
            assert_is_ended(container.ask(request));
            assert!(lab.log(&id).contains("[exit 58]"), "{text}: {}", lab.log(&id));
            lab.assert_clean();
        }
    });
}

// crun lets the command run before poststart, and some change their root at once: that of the mount namespace counts.
#[test]
fn a_container_whose_command_has_changed_its_root_is_looked_at_all_the_same() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.hooks(&lab.config(), &[("prestart", PRESTART), ("poststop", POSTSTOP)]).ask("db:/d");
        for set in ["bounding", "effective", "permitted"] {
            container.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_CHROOT"));
        }
        make_rootfs(&container.rootfs().join("new"));
        container.spec["process"]["args"] = json!(["/bin/busybox", "chroot", "/new", "/bin/sleep", "1000"]);
        container.create().ok();
        container.go();
        let root = PathBuf::from(format!("/proc/{}/root", container.pid()));
        wait_for("its other root", || fs::read_link(&root).is_ok_and(|root| root.ends_with("new")));
        let state = container.state(container.pid()).to_string();
        hook(POSTSTART, &lab.config(), state.as_bytes()).ok();
        assert!(container.is_running());
        let follows = |line: &str| line.contains(" /d ") && line.contains("master:");
        assert!(container.exec("cat /proc/self/mountinfo").ok().out.lines().any(follows));
        container.kill();
        container.delete();
        lab.assert_clean();
    });
}

// The runtime then moves the root filesystem over the namespace's root, or only changes the processes' own.
#[test]
fn a_container_that_was_not_pivoted_has_what_it_asked_for() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d:slave").shell("sleep 0.2; echo x > /d/f; grep ' /d ' /proc/self/mountinfo").write();
        let ran = run_with(&mut container.command("run", &["--no-pivot", "c"]), b"").ok();
        assert!(volume.join("f").exists() && ran.out.contains("master:"), "{ran:?}");
        lab.assert_clean();
    });
}

#[test]
fn a_container_that_no_prestart_served_is_ended() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        for (id, request) in [("good", "db:/d"), ("bad", "nonsense"), ("missing", "missing:/d")] {
            let mut container = lab.container(runtime, id);
            container.hooks(&lab.config(), &[("poststart", POSTSTART), ("poststop", POSTSTOP)]);
            assert_is_ended(container.ask(request));
            assert!(lab.log(id).contains("[exit 58]"), "{}", lab.log(id));
        }
        lab.assert_clean();
    });
}

#[test]
fn a_container_that_cannot_be_checked_is_ended() {
    each(|runtime| {
        for broken in ["{", "{\"work_dir\": 1}", ""] {
            let lab = Lab::new("filesystem/linux");
            lab.volume("db");
            let mut container = lab.container(runtime, "c");
            container.hooks(&lab.config(), &[("poststart", POSTSTART)]);
            match broken {
                "" => fs::remove_file(lab.config()).unwrap(),
                broken => fs::write(lab.config(), broken).unwrap(),
            }
            assert_is_ended(container.ask("db:/d"));
        }
    });
}

// The records are no longer to be believed by the time that poststart comes.
#[test]
fn a_container_whose_record_cannot_be_read_is_ended() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let open = script(&lab, "open", &format!("chmod 777 {}", lab.runtime_dir().display()));
        let hooks = [("prestart", PRESTART), ("createRuntime", &*open), ("poststart", POSTSTART)];
        assert_is_ended(container.hooks(&lab.config(), &hooks).ask("db:/d"));
        fs::set_permissions(lab.runtime_dir(), PermissionsExt::from_mode(0o700)).unwrap();
        poststop(&lab, &stopped(&container)).ok();
        lab.assert_clean();
    });
}

#[test]
fn an_init_that_has_ended_is_success() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d");
        for _ in 0..5 {
            container.run_shell("true").ok();
        }
        container.start("sleep 1000");
        let state = container.state(container.pid());
        kill(&container);
        hook(POSTSTART, &lab.config(), state.to_string().as_bytes()).ok();
        container.delete();
        hook(POSTSTART, &lab.config(), state.to_string().as_bytes()).ok();
        lab.assert_clean();
    });
}

// What hooks do not rely on.

#[test]
fn a_container_without_keys_is_never_touched_whatever_the_configuration() {
    each(|runtime| {
        for broken in ["{", "{\"isolation\": \"none\"}", ""] {
            let lab = Lab::new("filesystem/linux");
            let mut container = lab.container(runtime, "c");
            let mark = lab.dir.join("mark");
            let last = script(&lab, "last", &format!("cat > {}", mark.display()));
            let hooks = [("prestart", PRESTART), ("createRuntime", PRESTART), ("poststart", POSTSTART)];
            container.hooks(&lab.config(), &[&hooks[..], &[("poststop", POSTSTOP), ("poststop", &last)]].concat());
            fs::write(lab.config(), broken).unwrap();
            container.annotate("io.other", "x").annotate("io.fs-isolatorx.volumes", "db:/d").start("sleep 1000");
            assert!(container.is_running());
            container.delete();
            // runc does not go on after a poststop that fails: another vendor's hook would not run.
            assert!(mark.exists(), "{broken:?}");
            assert!(!lab.runtime_dir().exists());
        }
    });
}

#[test]
fn what_a_runtime_leaves_set_or_open_or_writes_besides_does_not_matter() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let rootfs = look(&container.rootfs());
        let wrap = |name: &str, program: &str| {
            let text = format!(
                "exec 5</dev/null 6>{0}/open 9</\n\
                 mkdir {0}/cwd-{name} && cd {0}/cwd-{name} && rmdir {0}/cwd-{name}\n\
                 export RUST_LOG=trace RUST_BACKTRACE=1 HOME=/none TMPDIR=/none LANG=xx TZ=:/none\n\
                 umask 0777\n\
                 sed 's/\"status\": *\"[a-z]*\"/\"status\":\"hibernating\",\"new\":{{\"x\":[1]}},\"root\":\"\\/none\"/' |\n\
                 env --block-signal {program} \"$@\" >&- 2>&-",
                lab.dir.display()
            );
            script(&lab, name, &text)
        };
        let [prestart, poststart, poststop] =
            [("1", PRESTART), ("2", POSTSTART), ("3", POSTSTOP)].map(|(name, program)| wrap(name, program));
        container.hooks(&lab.config(), &[("prestart", &prestart), ("poststart", &poststart), ("poststop", &poststop)]);
        container.ask("db:/a/b;db:x/y").start("sleep 1000");
        assert_eq!(container.exec("touch /a/b/f; stat -c %a /a").ok().out, "755\n");
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!([mode(&sandbox), mode(&sandbox.join("x")), mode(&lab.runtime_dir())], [0o750, 0o755, 0o700]);
        assert!(volume.join("f").exists() && lab.log("c").contains("hibernating"), "{}", lab.log("c"));
        container.delete();
        lab.assert_clean();
        assert_eq!(look(&container.rootfs()), rootfs);
    });
}

// A hook has no start of std's, which would see to both.
#[test]
fn standard_streams_that_are_closed_or_broken() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.container(Runtime::Crun, "c");
        container.ask("missing:/d").write();
        let mut state = container.state(1);
        state["status"] = json!("hibernating");
        let (config, trace) = (lab.config(), lab.dir.join("trace"));
        for program in [PRESTART, POSTSTART, POSTSTOP] {
            let of_closed = format!(
                "exec strace -f -y -e trace=write -o {} sh -c 'exec {program} --config {} >&- 2>&-'",
                trace.display(),
                config.display()
            );
            let code = run_with(Command::new("sh").args(["-c", &of_closed]), state.to_string().as_bytes()).code;
            let lines = fs::read_to_string(&trace).unwrap();
            let said: Vec<&str> = lines.lines().filter(|line| line.contains("write(2<")).collect();
            assert!(
                !said.is_empty() && said.iter().all(|line| line.contains("write(2</dev/null")),
                "{program}: {lines}"
            );
            assert!(!lines.contains("write(1<"), "{program}: {lines}");

            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut broken = Command::new(program);
            broken.arg("--config").arg(&config).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(writer);
            let mut child = broken.spawn().unwrap();
            child.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code), "{program}");
        }
    });
}

/// Runs a hook and writes this to it; its exit code, and whether it took all.
fn feed(program: &str, arguments: &[&str], text: &str) -> (i32, bool) {
    let mut command = Command::new(program);
    let silent = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = silent.spawn().unwrap();
    let taken = child.stdin.take().unwrap().write_all(text.as_bytes()).is_ok();
    (child.wait().unwrap().code().unwrap(), taken)
}

// `crun delete` dies of SIGPIPE otherwise.
#[test]
fn a_large_state_is_read_to_its_end_even_if_the_hook_fails_early() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.container(Runtime::Crun, "c");
        container.annotate("large", &"x".repeat(1 << 20)).ask("missing:/d").write();
        let state = container.state(1);
        let mut bad_id = state.clone();
        bad_id["id"] = json!("..");
        let mut unasked = state.clone();
        unasked["annotations"].as_object_mut().unwrap().remove("io.fs-isolator.volumes");
        let config = lab.config();
        let config = config.to_str().unwrap();
        let broken = lab.dir.join("broken.json");
        fs::write(&broken, "{").unwrap();
        fs::set_permissions(&broken, PermissionsExt::from_mode(0o644)).unwrap();
        let broken = broken.to_str().unwrap();
        let [state, bad_id, unasked] = [state, bad_id, unasked].map(|state| state.to_string());
        let no_json = "x".repeat(1 << 20);
        for (program, arguments, text, code) in [
            (PRESTART, &["--config", config][..], &state, 15),
            (PRESTART, &["--config", broken], &state, 20),
            (PRESTART, &["--config", "/no/such/file"], &state, 20),
            (PRESTART, &["--config", config], &bad_id, 12),
            (PRESTART, &["--config", config], &no_json, 11),
            (PRESTART, &["--config", broken], &unasked, 0),
            (POSTSTART, &["--config", broken], &state, 20),
            (POSTSTOP, &["--config", broken], &state, 20),
            (POSTSTOP, &["--config", config], &unasked, 0),
            (PRESTART, &["--config"], &state, 2),
            (POSTSTOP, &["--no-such-option"], &state, 2),
        ] {
            assert_eq!(feed(program, arguments, text), (code, true), "{program} {arguments:?}");
        }
        container.run_shell("true").failed();
        lab.volume("missing");
        container.run_shell("true").ok();
        lab.assert_clean();
    });
}
