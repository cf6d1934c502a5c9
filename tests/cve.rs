//! What others got wrong, one test for each kind, named by the CVE that made it known. `docs/security-tests.md` says
//! what each was, and has the same names.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "common/canary.rs"]
mod canary;
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use canary::Canary;
use common::*;
use serde_json::json;

const HOOKS: [(&str, &str); 3] = [("prestart", PRESTART), ("poststart", POSTSTART), ("poststop", POSTSTOP)];

fn lab() -> (Lab, PathBuf, Canary) {
    let lab = Lab::new("filesystem/linux");
    let (volume, canary) = (lab.volume("db"), Canary::new(lab.dir.join("host")));
    (lab, volume, canary)
}

/// Sees that a start was refused with one of these codes, and that its command did not run.
#[track_caller]
fn refused(lab: &Lab, ran: &Ran, codes: &[i32]) {
    let log = lab.log("c");
    let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
    assert!(ran.code != 0 && !ran.out.contains("STARTED"), "{ran:?}\n{log}");
    assert!(codes.iter().any(|code| log.contains(&format!("[exit {code}]"))), "not {codes:?}: {ran:?}\n{log}");
}

/// Asks for volumes, and sees that the start is refused with one of these codes.
#[track_caller]
fn refuses(lab: &Lab, container: &mut Container, volumes: &str, codes: &[i32]) {
    let ran = container.ask(volumes).run_shell("echo STARTED");
    refused(lab, &ran, codes);
}

/// Registers all hooks so that these calls of theirs are traced, and tells where each trace will be.
fn trace(lab: &Lab, container: &mut Container, calls: &str) -> [PathBuf; 3] {
    let wrap = |(stage, program): (&'static str, &str)| {
        let file = lab.dir.join(format!("{stage}.trace"));
        let text = format!("exec strace -f -y -o {} -e trace={calls} {program} \"$@\"", file.display());
        ((stage, script(lab, stage, &text)), file)
    };
    let all = HOOKS.map(wrap);
    let hooks = all.each_ref().map(|((stage, program), _)| (*stage, program.as_str()));
    container.hooks(&lab.config(), &hooks);
    all.map(|(_, file)| file)
}

/// Runs a container, and does something right before prestart's first call of this kind from a moment on, which the
/// words in a trace tell.
fn meanwhile(lab: &Lab, container: &mut Container, call: &str, from: &str, act: impl FnOnce() + Send) -> Ran {
    container.hooks(&lab.config(), &HOOKS).run().ok();
    let [file, ..] = trace(lab, container, "openat2,mkdirat,open_tree,move_mount");
    container.run().ok();
    let text = fs::read_to_string(&file).unwrap();
    let moment = text.lines().position(|line| line.contains(from)).unwrap();
    let is_call = |line: &&str| line.contains(&format!("{call}("));
    let number = text.lines().take(moment).filter(is_call).count() + 1;
    // The tracer is not the hook's parent: when it is killed, the hook goes on.
    let inject = format!("inject={call}:delay_enter=50000000:when={number}");
    let (pid, file) = (lab.dir.join("pid"), lab.dir.join("held.trace"));
    let text = format!(
        "echo $$ >{}\nexec strace -D -o {} -e trace={call} -e {inject} {PRESTART} \"$@\"",
        pid.display(),
        file.display()
    );
    let prestart = script(lab, "held", &text);
    container.hooks(&lab.config(), &[("prestart", &prestart), ("poststart", POSTSTART), ("poststop", POSTSTOP)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let entered = format!("{call}(");
            wait_for(call, || fs::read_to_string(&file).is_ok_and(|text| text.matches(&entered).count() == number));
            act();
            let status = fs::read_to_string(format!("/proc/{}/status", fs::read_to_string(&pid).unwrap().trim()));
            let status = status.unwrap();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap().trim();
            run("kill", &["-KILL", tracer]).ok();
        });
        container.run()
    })
}

/// Puts a link to the canary in the place of a directory.
fn swap(directory: &Path, to: &Path) {
    fs::rename(directory, directory.with_extension("was")).unwrap();
    symlink(to, directory).unwrap();
}

// What a container path leads to.

// Nothing is mounted on the kernel's own filesystems, however they are reached, and nothing is taken for them.
#[test]
fn cve_2019_16884() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let mut container = lab.container(runtime, "c");
        for path in ["/proc", "/proc/x", "/proc/self/attr", "//proc/./sys", "/sys", "/sys/fs/cgroup"] {
            refuses(&lab, &mut container, &format!("db:{path}"), &[37]);
        }
        let rootfs = container.rootfs();
        fs::create_dir(rootfs.join("k")).unwrap();
        for (link, to) in [("p", "/proc"), ("k/p", "../proc"), ("s", "p/sys"), ("me", "/proc/self")] {
            symlink(to, rootfs.join(link)).unwrap();
            refuses(&lab, &mut container, &format!("db:/{link}"), &[51]);
            refuses(&lab, &mut container, &format!("db:/{link}/sys"), &[50, 51]);
        }
        // An image's VOLUME over /proc is no way to get there either.
        let mounts = container.spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/proc/tty", "type": "tmpfs", "source": "tmpfs" }));
        for path in ["/p/tty", "/p/tty/x", "/k/p/tty"] {
            let ran = container.ask(&format!("db:{path}")).run_shell("echo STARTED");
            assert!(ran.code != 0 && !ran.out.contains("STARTED"), "{path}: {ran:?}");
        }
        assert!(names(&volume).is_empty());
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// The same once more in another shape is where runc was wrong again: every kind of link to /proc.
#[test]
fn cve_2023_28642() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        let mut container = lab.container(runtime, "c");
        let rootfs = container.rootfs();
        fs::create_dir_all(rootfs.join("a/b")).unwrap();
        let mut before = "/proc".to_owned();
        for (name, to) in [
            ("one", "/proc"),
            ("two", "../../../../../../proc"),
            ("three", "a/b/../../proc"),
            ("a/four", "../one"),
            ("five", "a/four/."),
            ("six", "/one/self/root/proc"),
            ("seven", "proc/self/cwd/proc"),
            ("eight", "/proc/self/fd"),
            ("nine", "/proc/1/root"),
            ("ten", &"/.".repeat(40).replacen("/.", "/proc/.", 1)),
        ] {
            symlink(to, rootfs.join(name)).unwrap();
            refuses(&lab, &mut container, &format!("db:/{name}"), &[51]);
        }
        // More links than the kernel follows.
        for number in 0..45 {
            symlink(&before, rootfs.join(format!("chain{number}"))).unwrap();
            before = format!("/chain{number}");
        }
        refuses(&lab, &mut container, "db:/chain20", &[51]);
        refuses(&lab, &mut container, "db:/chain44", &[51]);
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// An image whose /dev is a link: whatever the runtime makes of it, the volume is in the container or nowhere.
#[test]
fn cve_2026_41579() {
    each(|runtime| {
        // runc before its mend makes these outside, without any hook.
        let by_runtime = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            ["x", "fd", "ptmx", "stderr", "stdin", "stdout"].contains(&name)
        };
        for link in ["host", "up", "real"] {
            let (lab, volume, canary) = lab();
            let mut container = lab.container(runtime, "c");
            let rootfs = container.rootfs();
            // A link of which the runtime makes nothing: what it leads to in the image is what counts.
            let beside = Canary::new(lab.dir.join("beside"));
            symlink(beside.dir.join("x"), rootfs.join("link")).unwrap();
            fs::create_dir_all(rootfs.join(beside.dir.strip_prefix("/").unwrap()).join("x/empty")).unwrap();
            container.ask("db:/link/empty").run_shell("touch /link/empty/f").ok();
            assert!(volume.join("f").exists(), "{link}");
            fs::remove_file(volume.join("f")).unwrap();
            beside.assert_untouched();
            fs::remove_dir(rootfs.join("dev")).unwrap();
            fs::create_dir(rootfs.join("real")).unwrap();
            let to = match link {
                "host" => canary.dir.join("x"),
                "up" => Path::new("../../../../../..").join(canary.dir.join("x").strip_prefix("/").unwrap()),
                _ => PathBuf::from("real"),
            };
            symlink(&to, rootfs.join("dev")).unwrap();
            for path in ["/dev/empty", "/dev/new/deep"] {
                let ran = container.ask(&format!("db:{path}")).run_shell(&format!("echo STARTED; touch {path}/f"));
                assert_eq!(ran.out.contains("STARTED"), volume.join("f").exists(), "{link} {path}: {ran:?}");
                let _ = fs::remove_file(volume.join("f"));
                let mut changes = canary.changes();
                changes.retain(|path, _| !by_runtime(path));
                assert!(changes.is_empty(), "{link} {path}: {changes:#?}");
            }
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            lab.assert_clean();
        }
    });
}

// Races, one moment each; tests/races.rs has all others.

/// While the hook makes this call, a link to what is not the container's takes the place of the directory with its target.
fn a_link_instead_of_the_target(call: &'static str) {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let mut container = lab.container(runtime, "c");
        let a = container.rootfs().join("a");
        // There is something where the link leads in the container: only a comparison tells that it is not the volume.
        let led_to = container.rootfs().join(canary.dir.strip_prefix("/").unwrap());
        for directory in [&a, &led_to] {
            fs::create_dir_all(directory.join("x")).unwrap();
        }
        let table = mount_table();
        container.ask("db:/a/x").shell("echo STARTED");
        let ran = meanwhile(&lab, &mut container, call, "move_mount(", || swap(&a, &canary.dir));
        refused(&lab, &ran, &[38]);
        canary.assert_untouched();
        assert_eq!((mount_table(), names(&volume).len()), (table, 0));
        lab.assert_clean();
    });
}

// The target becomes a link between the look and the mount.
#[test]
fn cve_2021_30465() {
    a_link_instead_of_the_target("move_mount");
}

// A parent becomes a link while directories are made below it.
#[test]
fn cve_2024_45310() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        let mut container = lab.container(runtime, "c");
        let a = container.rootfs().join("a");
        fs::create_dir_all(a.join("x")).unwrap();
        container.ask("db:/a/x/new/deep").shell("echo STARTED");
        let ran = meanwhile(&lab, &mut container, "mkdirat", ".fs-isolator.", || swap(&a, &canary.dir));
        assert!(ran.code != 0 && !ran.out.contains("STARTED"), "{ran:?}");
        canary.assert_untouched();
        let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        for kind in ["records", "mountpoints"] {
            assert_eq!(lab.runtime_files(kind), [""; 0]);
        }
    });
}

// A link takes the place of the target after the mount: what was moved is compared with what the path leads to.
#[test]
fn cve_2024_0132() {
    a_link_instead_of_the_target("openat2");
}

// A directory in the volume becomes a link before it is mounted, or is one.
#[test]
fn cve_2017_1002101() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        fs::create_dir_all(volume.join("s/x")).unwrap();
        fs::write(volume.join("s/x/mine"), "").unwrap();
        let mut container = lab.container(runtime, "c");
        container.ask("db:/d:subpath=s/x").shell("echo STARTED; ls /d");
        let s = volume.join("s");
        let ran = meanwhile(&lab, &mut container, "open_tree", "open_tree(", || swap(&s, &canary.dir)).ok();
        assert_eq!(ran.out, "STARTED\nmine\n", "what was opened is what is mounted");
        container.hooks(&lab.config(), &HOOKS);
        symlink(&canary.dir, volume.join("out")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink("s.was", volume.join("in")).unwrap();
        for subpath in ["s/x", "out", "out/x", "up", "up/db", "in/x"] {
            refuses(&lab, &mut container, &format!("db:/d:subpath={subpath}"), &[42]);
        }
        for subpath in ["../x", "/etc", "a/../../x", "."] {
            refuses(&lab, &mut container, &format!("db:/d:subpath={subpath}"), &[34, 37, 42]);
        }
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// The directory above a mount point that a hook made is a link when the mount point is to be removed.
#[test]
fn cve_2024_23652() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        for way in ["parent", "mount point", "another"] {
            let mut container = lab.container(runtime, "c");
            let rootfs = container.rootfs();
            fs::create_dir_all(rootfs.join("a")).unwrap();
            container.ask("db:/a/empty").start("sleep 1000");
            let point = rootfs.join("a/empty");
            match way {
                "parent" => swap(&rootfs.join("a"), &canary.dir.join("x")),
                "mount point" => swap(&point, &canary.dir.join("x/empty")),
                _ => {
                    fs::rename(&point, rootfs.join("a/moved")).unwrap();
                    fs::create_dir(&point).unwrap();
                }
            }
            container.delete();
            canary.assert_untouched();
            assert!(fs::symlink_metadata(&point).is_ok(), "{way}: what is not the hook's was removed");
            lab.assert_clean();
            fs::remove_dir_all(&container.bundle).unwrap();
        }
    });
}

// Whoever can write to a root filesystem can take a mount point from a container that runs; no hook does, and none is
// confused by it.
#[test]
fn mount_points_removed_under_a_live_container() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let other = lab.volume("other");
        let rootfs = lab.dir.join("rootfs");
        make_rootfs(&rootfs);
        let start = |id: &str, volumes: &str| {
            let mut container = lab.container(runtime, id);
            container.spec["root"]["path"] = json!(rootfs);
            container.ask(volumes).start("sleep 1000");
            container
        };
        let (mut one, mut two) = (start("one", "db:/d/e"), start("two", "other:/d/e"));
        two.delete();
        one.exec("touch /d/e/f").ok();
        assert_eq!((names(&volume), names(&other)), (vec!["f".to_owned()], Vec::new()));
        // Somebody else does: the kernel takes the mount away, and what is there then is not the hooks' to remove.
        fs::remove_dir(rootfs.join("d/e")).unwrap();
        one.exec("touch /d/e/g").failed();
        fs::create_dir(rootfs.join("d/e")).unwrap();
        symlink(&canary.dir, rootfs.join("d/e/out")).unwrap();
        one.delete();
        assert_eq!(names(&rootfs.join("d/e")), ["out"]);
        let mut next = start("next", "db:/d/e");
        assert_eq!(next.exec("ls /d/e").ok().out, "f\n");
        next.delete();
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// What is attached.

// A source that is no directory of its own.
#[test]
fn cve_2025_31133() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let folder = volume.parent().unwrap().to_owned();
        symlink(&canary.dir, folder.join("link")).unwrap();
        symlink("db", folder.join("near")).unwrap();
        symlink("/dev/null", folder.join("null")).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        run("mkfifo", &[folder.join("fifo").to_str().unwrap()]).ok();
        run("mknod", &[folder.join("node").to_str().unwrap(), "c", "1", "3"]).ok();
        let mut container = lab.container(runtime, "c");
        for id in ["link", "near", "null", "file", "fifo", "node"] {
            refuses(&lab, &mut container, &format!("{id}:/d"), &[41]);
        }
        // Inside a volume it is the container that may put them there.
        for name in ["link", "fifo", "node", "file"] {
            fs::rename(folder.join(name), volume.join(name)).unwrap();
            refuses(&lab, &mut container, &format!("db:/d:subpath={name}"), &[42]);
        }
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// A word about propagation that is passed on, and a source that is a link.
#[test]
fn cve_2024_1753() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let mut container = lab.container(runtime, "c");
        for option in
            ["propagation=slave,exec,dev", "slave,exec", "shared,rshared", "rshared", "rslave", "bind", "exec"]
        {
            refuses(&lab, &mut container, &format!("db:/d:{option}"), &[34]);
        }
        let host = lab.dir.join("listed");
        fs::create_dir(&host).unwrap();
        symlink(&canary.dir, host.join("out")).unwrap();
        lab.configure(json!({
            "isolation": "filesystem/linux",
            "host_paths": [{ "path": host, "roles": ["default"], "mode": "RW" }],
        }));
        for path in [host.join("out"), host.join("out/x"), canary.dir.clone()] {
            refuses(&lab, &mut container, &format!("host={}:/d", path.display()), &[43]);
        }
        assert!(names(&volume).is_empty());
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// Whoever owns the root of a volume, nothing in it changes hands, and nothing that it leads to.
#[test]
fn cve_2024_9341() {
    each(|runtime| {
        let (lab, volume, mut canary) = lab();
        symlink(&canary.dir, volume.join("link")).unwrap();
        fs::create_dir(volume.join("sub")).unwrap();
        symlink("../../../../../host/x/file", volume.join("sub/file")).unwrap();
        fs::hard_link(canary.dir.join("x/file"), volume.join("sub/hard")).unwrap();
        canary.look_again();
        let mut container = lab.container(runtime, "c");
        let rootfs = container.rootfs();
        symlink(&canary.dir, rootfs.join("work")).unwrap();
        fs::create_dir_all(rootfs.join(canary.dir.strip_prefix("/").unwrap())).unwrap();
        container.ask("db:/d;db:/work/new;db:in").user(1000, 1000).run_shell("true").ok();
        canary.assert_untouched();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        assert_eq!([owner(&volume), owner(&volume.join("sub")), owner(&volume.join("link"))], [1000, 0, 0]);
        lab.configure(json!({ "isolation": "filesystem/linux", "volume_gid_range": "[30000-30010]" }));
        container.spec["process"]["user"]["additionalGids"] = json!([30000]);
        container.run().ok();
        assert_eq!(fs::metadata(&volume).unwrap().gid(), 30000);
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// A setuid file that a container's root leaves in a volume is not for other users of the host.
#[test]
fn cve_2021_41091() {
    each(|runtime| {
        let (lab, volume, _) = lab();
        let mut container = lab.container(runtime, "c");
        let script = "cat /bin/busybox > /d/su && chmod 4755 /d/su && cat /bin/busybox > in/su && chmod 4755 in/su";
        container.cwd(Path::new("/mnt/mesos/sandbox")).ask("db:/d;db:in").run_shell(script).ok();
        for id in ["1000", "65534"] {
            for name in ["su", "./su"] {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", id, "--regid", id, "--clear-groups", "sh", "-c", "exec \"$0\" id"]);
                let ran = run_with(command.arg(volume.join(name)), b"");
                assert!(ran.code != 0 && ran.err.contains("Permission denied"), "{ran:?}");
            }
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&volume.join("su")), mode(&volume)), (0o4755, 0o750));
        lab.assert_clean();
    });
}

// A path of the host, any part of whose way somebody else could change.
#[test]
fn kubernetes_host_path() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        let host = lab.dir.join("one/two/three");
        fs::create_dir_all(&host).unwrap();
        lab.configure(json!({
            "isolation": "filesystem/linux",
            "host_paths": [{ "path": host, "roles": ["default"], "mode": "RW" }],
        }));
        let mut container = lab.container(runtime, "c");
        let ask = format!("host={}:/d", host.display());
        for part in ["one", "one/two", "one/two/three"] {
            let part = lab.dir.join(part);
            for mode in [0o777, 0o1777, 0o775] {
                fs::set_permissions(&part, PermissionsExt::from_mode(mode)).unwrap();
                refuses(&lab, &mut container, &ask, &[21]);
            }
            fs::set_permissions(&part, PermissionsExt::from_mode(0o755)).unwrap();
            chown(&part, Some(1000), None).unwrap();
            refuses(&lab, &mut container, &ask, &[21]);
            chown(&part, Some(0), None).unwrap();
            let aside = part.with_extension("aside");
            fs::rename(&part, &aside).unwrap();
            symlink(&aside, &part).unwrap();
            refuses(&lab, &mut container, &ask, &[21]);
            fs::remove_file(&part).unwrap();
            fs::rename(&aside, &part).unwrap();
        }
        container.ask(&ask).run_shell("touch /d/f").ok();
        assert_eq!(names(&host), ["f"]);
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// What a hook is, and does.

// NVIDIAScape: 2 runtimes, 3 stages, with and without an `env` of the hook's own, a program with libraries and ours. A
// program with libraries shows where there was something to be had.
#[test]
fn cve_2025_23266() {
    on(Host::Shared, || {
        let version = run("runc", &["--version"]).out;
        let mut cells = 0;
        for runtime in RUNTIMES {
            let (lab, _, _) = lab();
            let owned = lab.dir.join("owned");
            let (poc, dynamic) = (lab.dir.join("poc.so"), lab.dir.join("dynamic"));
            let library = format!(
                "#include <fcntl.h>\n__attribute__((constructor)) static void own(void) {{ open(\"{}\", O_CREAT, 0600); }}",
                owned.display()
            );
            // A runtime that cannot write the state to its end fails by itself.
            let reader =
                "#include <unistd.h>\nint main() { char b[4096]; while (read(0, b, sizeof b) > 0); return 0; }";
            for (source, options) in [(library.as_str(), "-shared -fPIC -o poc.so"), (reader, "-o dynamic")] {
                let mut cc = Command::new("cc");
                cc.args(options.split(' ')).args(["-xc", "-"]).current_dir(&lab.dir);
                run_with(&mut cc, source.as_bytes()).ok();
            }
            // That it works at all.
            run_with(Command::new(&dynamic).env("LD_PRELOAD", &poc), b"").ok();
            fs::remove_file(&owned).unwrap();
            for stage in ["prestart", "createRuntime", "createContainer"] {
                for env in [true, false] {
                    for program in [dynamic.to_str().unwrap(), PRESTART] {
                        let mut container = lab.container(runtime, "c");
                        fs::copy(&poc, container.rootfs().join("poc.so")).unwrap();
                        let preload = json!(["PATH=/bin", "LD_PRELOAD=/proc/self/cwd/poc.so"]);
                        container.spec["process"]["env"] = preload;
                        container.ask("db:/d").shell("true").hooks(&lab.config(), &[(stage, program)]);
                        if !env {
                            container.spec["hooks"][stage][0].as_object_mut().unwrap().remove("env");
                        }
                        let ran = container.run();
                        let cell = format!("{runtime:?} {stage} env {env} {program}");
                        let old = runtime == Runtime::Runc && version.contains("runc version 1.1.");
                        let expected = old && stage == "createContainer" && !env && program != PRESTART;
                        assert_eq!(fs::remove_file(&owned).is_ok(), expected, "{cell}: {ran:?}");
                        if stage != "createContainer" {
                            ran.ok();
                        }
                        lab.cli(&["reconcile"]).ok();
                        cells += 1;
                    }
                }
            }
        }
        assert_eq!(cells, 24);
    });
}

// Descriptors that a runtime leaks are closed before anything else is done, and no container sees them.
#[test]
fn cve_2024_21626() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        let open: String = (3..=20).map(|fd| format!("exec {fd}<{}\n", canary.dir.display())).collect();
        let open = format!(
            "{}cd {}\n",
            open.replace("exec 1", "eval exec 1").replace("exec 20", "eval exec 20"),
            canary.dir.display()
        );
        let wrapped = HOOKS.map(|(stage, program)| {
            let bash = format!("exec bash -c '{}exec {program} \"$@\"' sh \"$@\"", open.replace("eval ", ""));
            (stage, script(&lab, stage, &bash))
        });
        for (_, program) in &wrapped {
            let mut command = Command::new(program);
            let mut child = command.arg("--config").arg(lab.config()).stdin(Stdio::piped()).spawn().unwrap();
            let process = PathBuf::from(format!("/proc/{}", child.id()));
            // It waits for its state now.
            wait_for("the hook to run", || {
                fs::read_link(process.join("exe")).is_ok_and(|exe| exe.to_string_lossy().contains("fs-isolator"))
                    && names(&process.join("fd")).len() < 18
            });
            let stdio = |name: &String| matches!(name.as_str(), "0" | "1" | "2");
            wait_for("descriptors to be closed", || {
                let fds = names(&process.join("fd"));
                fds.iter().all(|fd| {
                    stdio(fd) || fs::read_link(process.join("fd").join(fd)).is_ok_and(|to| !to.starts_with("/"))
                })
            });
            drop(child.stdin.take());
            assert!(!child.wait().unwrap().success(), "an empty state");
        }
        let mut container = lab.container(runtime, "c");
        let hooks = wrapped.each_ref().map(|(stage, program)| (*stage, program.as_str()));
        container.hooks(&lab.config(), &hooks).ask("db:/d").start("sleep 1000");
        let process = PathBuf::from(format!("/proc/{}", container.pid()));
        for fd in names(&process.join("fd")) {
            let to = fs::read_link(process.join("fd").join(fd)).unwrap();
            assert!(!to.starts_with(&canary.dir), "{to:?}");
        }
        container.delete();
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// What hooks open to write is theirs, and never a file of /proc.
#[test]
fn cve_2025_52881() {
    each(|runtime| {
        let (lab, _, canary) = lab();
        let mut container = lab.container(runtime, "c");
        let traces = trace(&lab, &mut container, "open,openat,openat2,creat");
        container.ask("db:/d/new;db:in").user(1000, 1000).run_shell("touch /d/new/f").ok();
        let mut written = BTreeSet::new();
        for trace in traces {
            let text = fs::read_to_string(trace).unwrap();
            let writes = |line: &&str| ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
            for line in text.lines().filter(writes) {
                // 12345 openat2(5</run/x>, "name", {flags=...
                let directory =
                    line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
                let name = line.split('"').nth(1).unwrap();
                written.insert(Path::new(directory).join(name));
            }
        }
        assert!(written.len() > 4, "{written:?}");
        let own = [lab.runtime_dir(), PathBuf::from("/run/fs-isolator")];
        for path in written {
            assert!(own.iter().any(|own| path.starts_with(own)), "{path:?} was opened to write");
        }
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// Hooks run no other program, of the container's or of the host's, and are one process.
#[test]
fn cve_2025_23267() {
    each(|runtime| {
        let (lab, _, _) = lab();
        let mut container = lab.container(runtime, "c");
        let traces = trace(&lab, &mut container, "execve,execveat,fork,vfork,clone,clone3");
        container.ask("db:/d/new;db:in").run_shell("touch /d/new/f").ok();
        for trace in traces {
            let text = fs::read_to_string(trace).unwrap();
            // strace shows calls that it does not know, whatever it is asked for.
            let known = |line: &&str| line.contains('(') && !line.contains(" syscall_0x");
            let calls: Vec<&str> = text.lines().filter(known).collect();
            assert!(calls.len() == 1 && calls[0].contains("execve(\""), "{text}");
        }
        lab.assert_clean();
    });
}

// The fourth of a kind in one project: what changes a filesystem by a path is called nowhere but in `sys`.
#[test]
fn cve_2026_24260() {
    const CALLS: [&str; 19] = [
        "fs::create_dir",
        "fs::remove",
        "fs::rename",
        "fs::write",
        "fs::copy",
        "fs::hard_link",
        "fs::set_permissions",
        "fs::symlink",
        "unix::fs::chown",
        "File::create",
        "mount::mount(",
        "umount(",
        "umount2(",
        "unistd::chown",
        "unistd::mkdir(",
        "set_current_dir",
        "process::Command",
        "process::{Command",
        "process::{Child",
    ];
    // The doctor makes a throw-away container of its own in a directory that only root can enter, and asks runtimes for their
    // versions. No hook links that.
    const OF_THE_DOCTOR: [&str; 2] = ["/src/doctor/", "/src/cli/probe.rs"];
    let mut todo = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.ends_with("src/sys.rs") || OF_THE_DOCTOR.iter().any(|place| path.to_string_lossy().contains(place)) {
            continue;
        }
        files += 1;
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let call = CALLS.iter().find(|call| line.contains(**call));
            assert!(call.is_none(), "{}: {line}", path.display());
        }
    }
    assert!(files > 40);
}

// Who asks, and how.

// What an annotation says never becomes more than it says.
#[test]
fn cve_2022_0811() {
    each(|runtime| {
        let (lab, volume, canary) = lab();
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let mut container = lab.container(runtime, "c");
        for volumes in [
            "db:/d:ro,suid",
            "db:/d:ro+kernel.core_pattern=|/x",
            "db:/d:ro\nrw",
            "db:/d\n;db:/e",
            "db:/d\u{0}x",
            "db:/d:upperdir=/etc",
            "db:/d:role=a:role=b",
            "db:/d:role=a,b\n",
            "db:/d:subpath=x\ny",
            "db:/d::ro",
            "db:/d:idmap=0-0-1",
            "db\u{7f}:/d",
            "db:/d\u{85}",
            "db:../../../etc",
            "../db:/d",
        ] {
            // crun hands over what is before it, which is a request like any other.
            if runtime == Runtime::Runc || !volumes.contains('\0') {
                refuses(&lab, &mut container, volumes, &[34, 35, 36, 37]);
            }
        }
        let long = format!("db:/{}", "x/".repeat(4096));
        refuses(&lab, &mut container, &long, &[34, 37]);
        // What is only odd is a name like any other.
        let odd = "/a+kernel.core_pattern=x,rw,suid/--privileged/$(id)";
        container
            .ask(&format!("db:{odd}:ro"))
            .run_shell("grep -F 'pattern=x,rw,suid/--privileged/$(id) ro' /proc/self/mountinfo")
            .ok();
        assert!(names(&volume).is_empty());
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
        canary.assert_untouched();
        lab.assert_clean();
    });
}

// Annotations that claim an identity, rights or a state are not believed.
#[test]
fn cve_2024_3154() {
    each(|runtime| {
        let (lab, _, _) = lab();
        let theirs = lab.volume_of("kube-system", "db");
        fs::write(theirs.join("secret"), "").unwrap();
        for (key, value, codes) in [
            ("io.container.manager", "cri-o", &[31][..]),
            ("io.kubernetes.pod.namespace", "kube-system", &[31]),
            ("io.kubernetes.cri-o.SandboxName", "k8s_p_kube-system_u_0", &[31]),
            ("io.kubernetes.cri-o.ContainerType", "sandbox", &[31]),
            ("io.kubernetes.cri-o.SandboxID", "0123", &[31]),
            ("io.fs-isolator.identity", "root", &[33]),
            ("io.fs-isolator.volumes/app", "db:/e", &[33]),
            ("io.fs-isolator.config", "/tmp/config.json", &[33]),
            ("io.fs-isolator.isolation", "filesystem/posix", &[23]),
            ("io.fs-isolator.role", "../kube-system", &[36]),
            ("io.fs-isolator.sandbox", "/etc", &[34]),
            ("io.fs-isolator.token", "x", &[32, 34]),
        ] {
            let mut container = lab.container(runtime, "c");
            container.annotate(key, value);
            let ran = container.ask("db:/d").run_shell("echo STARTED; ls /d");
            if key == "io.fs-isolator.token" && ran.code == 0 {
                continue;
            }
            refused(&lab, &ran, codes);
        }
        // A runtime's own keys, with which systemd's properties and checkpoints were forged, mean nothing here.
        let mut container = lab.container(runtime, "c");
        container.annotate("io.kubernetes.cri-o.annotations.checkpoint.name", "x");
        container.annotate("org.systemd.property.ExecStartPre", "'/bin/true'");
        assert_eq!(container.ask("db:/d").run_shell("ls /d").ok().out, "");
        lab.assert_clean();
    });
}

// A namespace that destroys or looks at what is another's, and names that lead elsewhere.
#[test]
fn cve_2026_7474() {
    on(Host::Private, || {
        let (lab, _, canary) = lab();
        let volume = lab.volume_of("team-a", "db");
        fs::write(volume.join("data"), "kept").unwrap();
        let before = manifest(&volume);
        for verb in [&["destroy", "--yes"][..], &["inspect"]] {
            let ran = lab.cli(&[&["volume"], verb, &["--role", "team-a", "--namespace", "team-b", "db"]].concat());
            assert_eq!(ran.code, 41, "{ran:?}");
            for (role, id, code) in
                [("team-a/../team-a", "db", 36), ("..", "x", 36), ("team-a", "../team-a/db", 35), ("team-a", "..", 35)]
            {
                let ran = lab.cli(&[&["volume"], verb, &["--role", role, id]].concat());
                assert_eq!(ran.code, code, "{ran:?}");
            }
        }
        assert_eq!(manifest(&volume), before);
        canary.assert_untouched();
    });
}

// The table.

#[test]
fn the_table_has_these_tests() {
    let table = include_str!("../docs/security-tests.md");
    let quoted = |word: &str| word.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows =
        table.lines().filter(|line| line.starts_with('|')).flat_map(|line| quoted(line.rsplit('|').nth(1).unwrap()));
    let told: BTreeSet<String> = rows.collect();
    let tests = |text: &str, prefix: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let is_test = |pair: &&[&str]| pair[0] == "#[test]";
        let name =
            |pair: &[&str]| format!("{prefix}{}", pair[1].strip_prefix("fn ").unwrap().split('(').next().unwrap());
        lines.windows(2).filter(is_test).map(name).collect::<Vec<_>>()
    };
    let mut all: BTreeSet<String> = tests(include_str!("cve.rs"), "").into_iter().collect();
    all.remove("the_table_has_these_tests");
    all.extend(tests(include_str!("races.rs"), "races::"));
    assert_eq!(told, all);
}
