//! `filesystem/linux` with real containers of runc and crun.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::*;
use nix::mount::MsFlags;
use serde_json::json;

const SANDBOX: &str = "/mnt/mesos/sandbox";

#[test]
fn relative_absolute_and_nested_paths_lead_to_the_volume() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        for (path, inside) in
            [("data", "/mnt/mesos/sandbox/data"), ("/srv/data", "/srv/data"), ("a/b/c", "/mnt/mesos/sandbox/a/b/c")]
        {
            let id = path.replace('/', "_");
            let volume = lab.volume(&id);
            let mut container = lab.container(runtime, "c");
            container.ask(&format!("{id}:{path}"));
            let script = format!("echo 1 >> {inside}/n; cat {inside}/n");
            assert_eq!(container.run_shell(&script).ok().lines(), ["1"]);
            assert_eq!(container.run_shell(&script).ok().lines(), ["1", "1"], "the next container finds it");
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), "1\n1\n");
            assert!(!container.rootfs().join("mnt").exists() && !container.rootfs().join("srv").exists());
        }
        lab.assert_clean();
    });
}

// mesos.md B2 and V3: ids may have spaces and most bytes; a role's slashes become spaces.
#[test]
fn odd_ids_and_roles_lie_where_mesos_keeps_them() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let long = "x".repeat(255);
        let ids = ["a b", "test2#es_data#dd018920", "100%", "a:b;c", "it's \"quoted\"", "größe€", long.as_str()];
        let mut container = lab.container(runtime, "c");
        let mut request = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let volume = lab.volume_of("eng/front/end", id);
            assert_eq!(volume.parent().unwrap().file_name().unwrap(), "eng front end");
            let encoded = id.replace('%', "%25").replace(':', "%3A").replace(';', "%3B");
            request.push(format!("{encoded}:v{index}:role=eng/front/end"));
        }
        container.ask(&request.join(";"));
        container.run_shell(&format!("for i in 0 1 2 3 4 5 6; do echo $i > {SANDBOX}/v$i/n; done")).ok();
        for (index, id) in ids.iter().enumerate() {
            let content = fs::read_to_string(lab.volume_path("eng/front/end", id).join("n")).unwrap();
            assert_eq!(content, format!("{index}\n"), "{id}");
        }
        lab.assert_clean();
    });
}

// mesos.md E17
#[test]
fn e17_volumes_lie_in_each_other_in_any_order_of_asking() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let outer = lab.volume("outer");
        lab.volume("inner");
        fs::create_dir(outer.join("sub")).unwrap();
        for request in ["outer:/v;inner:/v/sub", "inner:/v/sub;outer:/v", "outer:o;inner:o/sub", "inner:o/sub;outer:o"]
        {
            let at = if request.contains("/v") { "/v" } else { "/mnt/mesos/sandbox/o" };
            let mut container = lab.container(runtime, "c");
            container.ask(request).run_shell(&format!("echo {at} > {at}/n; echo {at} > {at}/sub/m")).ok();
            assert_eq!(fs::read_to_string(outer.join("n")).unwrap(), format!("{at}\n"));
            assert_eq!(names(&outer), ["n", "sub"]);
            assert!(
                names(&outer.join("sub")).is_empty(),
                "what is written to the inner volume is not in the outer one"
            );
            assert_eq!(fs::read_to_string(lab.volume_path("default", "inner").join("m")).unwrap(), format!("{at}\n"));
        }
        lab.assert_clean();
    });
}

#[test]
fn a_subpath_is_attached_alone_and_never_through_a_link() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::create_dir_all(volume.join("p/q")).unwrap();
        fs::write(volume.join("p/q/f"), "found\n").unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("link")).unwrap();
        let mut container = lab.container(runtime, "c");
        assert_eq!(container.ask("db:/d:subpath=p/q").run_shell("ls /d; cat /d/f").ok().lines(), ["f", "found"]);
        for subpath in ["missing", "link", "p/q/f"] {
            container.ask(&format!("db:/d:subpath={subpath}")).run_shell("true").failed();
            assert!(lab.log("c").contains("[exit 42]"), "{}", lab.log("c"));
            fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
        }
        lab.assert_clean();
    });
}

// mesos.md E2 and E3: recursive, and without stripping what the source has.
#[test]
fn e2_e3_read_only_covers_submounts_and_keeps_other_flags() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        tmpfs(&volume, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        tmpfs(&volume.join("sub"), MsFlags::empty());
        let mut container = lab.container(runtime, "c");
        let out = container
            .ask("db:/d:ro")
            .run_shell("touch /d/x; echo $?; touch /d/sub/x; echo $?; grep ' /d ' /proc/self/mountinfo")
            .ok();
        let lines = out.lines();
        assert_eq!(lines[..2], ["1", "1"], "{out:?}");
        assert!(lines[2].contains(" ro,nosuid,nodev,noexec"), "{}", lines[2]);
        // The source itself is as it was.
        assert!(fs::write(volume.join("x"), "").is_ok() && fs::write(volume.join("sub/x"), "").is_ok());
        assert!(container.ask("db:/d").run_shell("touch /d/sub/y").ok().err.is_empty());
    });
}

#[test]
fn each_flag_is_kept() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        for flag in ["nosuid", "nodev", "noexec", "ro"] {
            let out = container.ask(&format!("db:/d:{flag}")).run_shell("grep ' /d ' /proc/self/mountinfo").ok();
            let options = out.out.split(' ').nth(5).unwrap().to_owned();
            assert!(options.split(',').any(|option| option == flag), "{flag}: {options}");
        }
        lab.assert_clean();
    });
}

// mesos.md E1: a container that could remount is refused.
#[test]
fn e1_read_only_is_refused_where_it_could_be_undone() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        container.ask("db:/d:ro").run_shell("true").failed();
        assert!(lab.log("c").contains("[exit 44]"), "{}", lab.log("c"));
        lab.configure(json!({ "isolation": "filesystem/linux", "allow_remountable_ro": true }));
        container.run().ok();
        lab.assert_clean();
    });
}

#[test]
fn a_read_only_root_still_gets_its_mount_points() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.spec["root"]["readonly"] = json!(true);
        let out = container
            .ask("db:/new/place;db2:x".split(';').next().unwrap())
            .run_shell("touch /new/place/f && ! touch /f")
            .ok();
        assert!(out.err.contains("Read-only"), "{out:?}");
        assert!(!container.rootfs().join("new").exists());
        lab.assert_clean();
    });
}

#[test]
fn a_user_can_use_its_sandbox_and_its_volume() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.user(1000, 1001).ask("db:a/data");
        container.spec["process"]["capabilities"] = json!({});
        container.run_shell(&format!("cd {SANDBOX} && touch mine a/beside a/data/f && id -u")).ok();
        let stat = fs::metadata(&volume).unwrap();
        assert_eq!(
            (stat.uid(), stat.gid(), stat.mode() & 0o7777),
            (1000, 1001, 0o750),
            "mesos.md P9: the root, and only it"
        );
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        assert_eq!(fs::metadata(&sandbox).unwrap().mode() & 0o7777, 0o750);
        assert!(sandbox.join("mine").exists() && sandbox.join("a/beside").exists());
        assert!(!sandbox.join("a/data").exists(), "the mount point is gone");
        lab.configure(json!({ "isolation": "filesystem/linux", "ownership": "never" }));
        container.user(1002, 1002).run_shell("true").ok();
        assert_eq!(fs::metadata(&volume).unwrap().uid(), 1000);
    });
}

// Propagation: what follows the host, and what never reaches it.

/// Starts a container with a volume, mounts on the host below it and in the container below it, and tells whether the
/// container sees the first and the host the second.
fn follows_and_leaks(lab: &Lab, container: &mut Container, volume: &Path) -> (bool, bool) {
    fs::create_dir_all(volume.join("later")).unwrap();
    fs::create_dir_all(volume.join("inside")).unwrap();
    container.spec["process"]["capabilities"] =
        json!({ "bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"] });
    container.start("sleep 1000");
    tmpfs(&volume.join("later"), MsFlags::empty());
    fs::write(volume.join("later/marker"), "").unwrap();
    let follows = container.exec("ls /d/later").ok().out.contains("marker");
    container.exec("mount -t tmpfs none /d/inside && touch /d/inside/marker").ok();
    let leaks = volume.join("inside/marker").exists();
    let on_host = mount_table().contains("/d/inside") || mount_table().matches(volume.to_str().unwrap()).count() > 2;
    container.delete();
    assert!(!on_host || leaks);
    nix::mount::umount2(&volume.join("later"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    let _ = lab;
    (follows, leaks)
}

// On crun's default the runtime makes everything private after the hooks, and poststart mends it; runc does not. Mesos's
// recipe (setns, rslave, bind) loses slave on runc from 1.1.15 where the volume lies on the rootfs's own mount, as here.
#[test]
fn later_host_mounts_appear_and_container_mounts_do_not() {
    on_both(|host| {
        for (runtime, propagation, expected) in [
            (Runtime::Runc, None, true),
            (Runtime::Runc, Some("rslave"), true),
            (Runtime::Runc, Some("private"), true),
            (Runtime::Crun, None, true),
            (Runtime::Crun, Some("rprivate"), false),
            (Runtime::Crun, Some("rslave"), true),
            (Runtime::Crun, Some("slave"), true),
            (Runtime::Crun, Some("private"), true),
        ] {
            let lab = Lab::new("filesystem/linux");
            let volume = lab.volume("db");
            let mut container = lab.container(runtime, "c");
            if let Some(propagation) = propagation {
                container.spec["linux"]["rootfsPropagation"] = json!(propagation);
            }
            container.ask("db:/d");
            let (follows, leaks) = follows_and_leaks(&lab, &mut container, &volume);
            let expected = expected && host == Host::Shared;
            assert_eq!((follows, leaks), (expected, false), "{host:?} {runtime:?} {propagation:?}");
            lab.assert_clean();
        }
    });
}

#[test]
fn private_is_private() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.spec["linux"]["rootfsPropagation"] = json!("rslave");
        container.ask("db:/d:private");
        assert_eq!(follows_and_leaks(&lab, &mut container, &volume), (false, false));
    });
}

#[test]
fn slave_by_name_is_kept_or_refused() {
    // A private host cannot give it: refused before the start.
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "c");
        container.ask("db:/d:slave").run_shell("true").failed();
        assert!(lab.log("c").contains("[exit 56]"), "{}", lab.log("c"));
        lab.assert_clean();
    });
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        // crun takes it away, and poststart gives it back, also where the bundle asks for private.
        for (runtime, propagation) in [(Runtime::Runc, None), (Runtime::Crun, None), (Runtime::Crun, Some("rprivate"))]
        {
            let mut container = lab.container(runtime, "c");
            container.spec["linux"]["rootfsPropagation"] = json!(propagation);
            if propagation.is_none() {
                container.spec["linux"].as_object_mut().unwrap().remove("rootfsPropagation");
            }
            container.ask("db:/d:slave").start("sleep 1000");
            assert!(container.exec("grep ' /d ' /proc/self/mountinfo").ok().out.contains("master:"), "{runtime:?}");
            container.delete();
        }
        lab.assert_clean();
    });
}

// A kernel before 5.15 cannot give slave back: a volume that named it ends its container, another is logged.
#[test]
fn slave_that_cannot_be_given_back_is_told() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        for (volumes, runs) in [("db:/d", true), ("db:/d:slave", false)] {
            let mut container = lab.container(Runtime::Crun, "c");
            container.hooks(
                &lab.config(),
                &[("prestart", PRESTART), ("poststart", "/usr/bin/strace"), ("poststop", POSTSTOP)],
            );
            // The only move_mount of poststart, when nothing is to be brought in.
            container.spec["hooks"]["poststart"][0]["args"] = json!([
                "strace",
                "-o",
                "/dev/null",
                "-e",
                "inject=move_mount:error=EINVAL",
                POSTSTART,
                "--config",
                lab.config()
            ]);
            container.ask(volumes).shell("sleep 1000").create().ok();
            let pid = container.pid();
            run("crun", &["--root", container.root.to_str().unwrap(), "start", "c"]);
            if runs {
                wait_for("the log", || lab.log("c").contains("does not follow the host"));
                assert!(lab.log("c").contains("rootfsPropagation") && container.is_running());
            } else {
                wait_for("the container to be ended", || !is_alive(pid));
                assert!(lab.log("c").contains("[exit 58]"), "{}", lab.log("c"));
            }
            container.delete();
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
        }
        lab.assert_clean();
    });
}

// libc makes do without statx(2), and does not know mounts then.
#[test]
fn a_kernel_without_statx_is_refused() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "c");
        container.hooks(&lab.config(), &[("prestart", "/usr/bin/strace")]).ask("db:/d");
        container.spec["hooks"]["prestart"][0]["args"] =
            json!(["strace", "-o", "/dev/null", "-e", "inject=statx:error=ENOSYS", PRESTART, "--config", lab.config()]);
        let ran = container.run_shell("true").failed();
        assert!(ran.err.contains("[exit 64]"), "{ran:?}");
        lab.assert_clean();
    });
}

// What was mounted on the host when the container started, between its hooks, and later: all of it is there.
#[test]
fn host_mounts_of_every_moment_are_there() {
    each(|runtime| {
        for (attributes, names) in
            [("slave", ["before", "between", "later"]), ("slave:ro:nosuid", ["before", "between", "later"])]
        {
            let lab = Lab::new("filesystem/linux");
            let volume = lab.volume("db");
            for name in names {
                fs::create_dir_all(volume.join(name).join("x")).unwrap();
            }
            let mount = |name: &str| {
                tmpfs(&volume.join(name), MsFlags::empty());
                fs::write(volume.join(name).join("marker"), "").unwrap();
            };
            mount("before");
            tmpfs(&volume.join("before/deep"), MsFlags::empty());
            let mut container = lab.container(runtime, "c");
            container.ask(&format!("db:/d:{attributes}")).shell("sleep 1000").create().ok();
            mount("between");
            tmpfs(&volume.join("between/deep"), MsFlags::empty());
            container.go();
            mount("later");
            tmpfs(&volume.join("before/deep/later"), MsFlags::empty());
            let script = "ls /d/before/marker /d/between/marker /d/later/marker; grep -cE ' /d(/| )' /proc/self/mountinfo; \
                          grep -E ' /d(/| )' /proc/self/mountinfo | grep -vc master:; touch /d/before/t 2>&1; touch /d/between/t 2>&1";
            let ran = container.exec(script);
            let expected = ["/d/before/marker", "/d/between/marker", "/d/later/marker", "7", "0"];
            assert_eq!(ran.lines()[..5], expected, "{runtime:?} {attributes}: {ran:?}\n{}", lab.log("c"));
            // What arrives by itself has none of the volume's attributes; what poststart brings in has.
            let read_only = match (attributes.contains("ro"), runtime) {
                (false, _) => 0,
                (true, Runtime::Runc) => 1,
                (true, Runtime::Crun) => 2,
            };
            assert_eq!(ran.out.matches("Read-only").count(), read_only, "{ran:?}");
            // What the host unmounts goes as well.
            nix::mount::umount(&volume.join("between/deep")).unwrap();
            assert_eq!(container.exec("grep -cE ' /d(/| )' /proc/self/mountinfo").ok().out.trim(), "6");
            container.delete();
            for point in ["before/deep/later", "before/deep", "before", "between", "later"] {
                nix::mount::umount(&volume.join(point)).unwrap();
            }
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            lab.assert_clean();
        }
    });
}

// The bundle's own binds follow only where the administrator says so, and only plain ones.
#[test]
fn propagation_all_is_for_plain_binds_too() {
    each(|runtime| {
        for all in [false, true] {
            let lab = Lab::new("filesystem/linux");
            lab.configure(
                json!({ "isolation": "filesystem/linux", "propagation": if all { "all" } else { "volumes" } }),
            );
            lab.volume("db");
            let mut container = lab.container(runtime, "c");
            for (name, options) in
                [("plain", &["rbind"][..]), ("ro", &["rbind", "ro"]), ("private", &["rbind", "rprivate"])]
            {
                let source = lab.dir.join(name);
                fs::create_dir_all(source.join("later")).unwrap();
                container.bind(&source, &format!("/{name}"), options);
            }
            container.ask("db:/d").start("sleep 1000");
            for name in ["plain", "ro", "private"] {
                tmpfs(&lab.dir.join(name).join("later"), MsFlags::empty());
                fs::write(lab.dir.join(name).join("later/marker"), "").unwrap();
            }
            let seen = |name: &str| container.exec(&format!("ls /{name}/later")).out.contains("marker");
            if runtime == Runtime::Crun {
                assert_eq!(["plain", "ro", "private"].map(seen), [all, false, false]);
            } else {
                assert!(seen("plain") && !seen("private"));
            }
            container.delete();
            for name in ["plain", "ro", "private"] {
                nix::mount::umount(&lab.dir.join(name).join("later")).unwrap();
            }
            lab.assert_clean();
        }
    });
}

// A bind that is not recursive shows what comes later, and nothing of what was there.
#[test]
fn propagation_all_brings_nothing_into_a_bind_that_is_not_recursive() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.configure(json!({ "isolation": "filesystem/linux", "propagation": "all" }));
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        for option in ["bind", "rbind"] {
            let source = lab.dir.join(option);
            fs::create_dir_all(source.join("later")).unwrap();
            tmpfs(&source.join("there"), MsFlags::empty());
            fs::write(source.join("there/marker"), "").unwrap();
            container.bind(&source, &format!("/{option}"), &[option]);
        }
        container.ask("db:/d").start("sleep 1000");
        for option in ["bind", "rbind"] {
            tmpfs(&lab.dir.join(option).join("later"), MsFlags::empty());
            fs::write(lab.dir.join(option).join("later/marker"), "").unwrap();
        }
        let seen = |place: &str| container.exec(&format!("ls /{place}")).out.contains("marker");
        let all = ["bind/there", "bind/later", "rbind/there", "rbind/later"];
        assert_eq!(all.map(seen), [false, true, true, true], "{runtime:?}");
        container.delete();
        for (option, place) in [("bind", "there"), ("bind", "later"), ("rbind", "there"), ("rbind", "later")] {
            nix::mount::umount(&lab.dir.join(option).join(place)).unwrap();
        }
        lab.assert_clean();
    });
}

/// A container whose volumes were mounted while the host had filesystems at `db/gone`, with something below, and at `db/kept`.
/// The first went before the container started.
fn with_a_host_mount_that_went(runtime: Runtime, volumes: &str, prepare: impl Fn(&mut Container)) -> (Ran, String) {
    let lab = Lab::new("filesystem/linux");
    let volume = lab.volume("db");
    lab.volume("other");
    for place in ["gone", "gone/below", "kept"] {
        tmpfs(&volume.join(place), MsFlags::empty());
        fs::create_dir(volume.join(place).join("place")).unwrap();
        fs::write(volume.join(place).join("marker"), "").unwrap();
    }
    for place in ["hidden", "place"] {
        fs::create_dir(volume.join(place)).unwrap();
    }
    let mut container = lab.container(runtime, "c");
    prepare(&mut container);
    container.ask(volumes).shell("sleep 1000").create().ok();
    nix::mount::umount2(&volume.join("gone"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    container.go();
    let ran = container.exec("ls /d/gone; while read _ _ _ _ at _; do echo $at; done < /proc/self/mountinfo");
    let log = lab.log("c");
    container.delete();
    nix::mount::umount(&volume.join("kept")).unwrap();
    (ran, log)
}

#[test]
fn host_mounts_that_went_before_the_start_are_gone() {
    each(|runtime| {
        let (ran, log) = with_a_host_mount_that_went(runtime, "db:/d;other:/d/place", |_| ());
        let mut below: Vec<&str> = ran.lines().into_iter().filter(|line| line.starts_with("/d/")).collect();
        below.sort_unstable();
        assert_eq!(below, ["/d/kept", "/d/place"], "{runtime:?}: {ran:?} {log}");
        assert!(!ran.out.contains("marker"), "{runtime:?}: {ran:?}");
    });
}

// What somebody else may have mounted there stays, and the log says so.
#[test]
fn mounts_that_may_be_somebody_elses_stay() {
    on(Host::Shared, || {
        let sys_admin = |container: &mut Container| {
            container.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        };
        let masked = |container: &mut Container| container.spec["linux"]["maskedPaths"] = json!(["/d/hidden"]);
        let read_only = |container: &mut Container| container.spec["linux"]["readonlyPaths"] = json!(["/d/hidden"]);
        let hooked = |container: &mut Container| {
            let other = json!({ "path": "/bin/true", "args": ["true"] });
            container.spec["hooks"]["createContainer"] = json!([other]);
        };
        let cases: [&dyn Fn(&mut Container); 4] = [&sys_admin, &masked, &read_only, &hooked];
        for (number, prepare) in cases.into_iter().enumerate() {
            let (ran, log) = with_a_host_mount_that_went(Runtime::Crun, "db:/d", prepare);
            assert!(ran.out.contains("/d/gone/below"), "{number}: {ran:?} {log}");
            assert!([1, 2].contains(&number) == ran.out.contains("/d/hidden"), "{number}: {ran:?}");
            assert!(log.contains("/d/gone") && log.contains("stays"), "{number}: {log}");
        }
        // A volume that lies in it would go with it.
        let (ran, log) = with_a_host_mount_that_went(Runtime::Crun, "db:/d;other:/d/gone/place", |_| ());
        assert!(ran.out.contains("/d/gone/place") && log.contains("stays"), "{ran:?} {log}");
    });
}

#[test]
fn an_image_container_does_not_see_the_host() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let work = lab.work();
        let out = container.ask("db:data").run_shell(&format!("ls {} ; ls /var; ls {SANDBOX}", work.display()));
        assert_eq!(out.lines(), ["data"], "{out:?}");
    });
}

#[test]
fn a_container_in_the_hosts_mount_namespace_is_refused() {
    on_both(|_| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        // Never with a real runtime on this: they damage the host's mounts. The hook's standard input is enough.
        let mut container = lab.container(Runtime::Crun, "c");
        container.ask("db:data").write();
        let config = lab.config();
        let refused = hook(PRESTART, &config, container.state(std::process::id() as i32).to_string().as_bytes());
        assert!([15, 52].contains(&refused.code), "{refused:?}");
        container.spec["linux"]["namespaces"] = json!([{ "type": "pid" }]);
        container.write();
        let refused = hook(PRESTART, &config, container.state(std::process::id() as i32).to_string().as_bytes());
        assert_eq!(refused.code, 52, "{refused:?}");
        lab.assert_clean();
    });
}

#[test]
fn bundle_binds_and_volumes_keep_their_own_mount_points() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let outer = lab.volume("outer");
        let host = lab.dir.join("host");
        fs::create_dir_all(host.join("there")).unwrap();
        let mut container = lab.container(runtime, "c");
        container.bind(&host, "/host", &["rbind"]);
        container.ask("db:/host/there").run_shell("touch /host/there/f").ok();
        assert!(lab.volume_path("default", "db").join("f").exists() && !host.join("there/f").exists());
        for (request, made) in
            [("db:/host/missing", host.join("missing")), ("outer:/o;db:/o/missing", outer.join("missing"))]
        {
            container.ask(request).run_shell("true").failed();
            let log = lab.log("c");
            assert!(log.contains("[exit 50]") && log.contains(&format!("run: mkdir -p {}", made.display())), "{log}");
            assert!(!made.exists());
            fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
        }
        assert!(host.join("there").exists());
        lab.assert_clean();
    });
}

#[test]
fn what_the_rootfs_has_stays() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        let mine = container.rootfs().join("srv/mine");
        fs::create_dir_all(&mine).unwrap();
        fs::set_permissions(&mine, PermissionsExt::from_mode(0o700)).unwrap();
        let before = manifest(&container.rootfs());
        container.ask("db:/srv/mine").run_shell("touch /srv/mine/f").ok();
        container.ask("db:/srv/other").run_shell("touch /srv/other/f").ok();
        let mut after = manifest(&container.rootfs());
        // The runtime itself makes mount points and such.
        after.retain(|path, _| before.contains_key(path));
        assert_eq!(after, before);
        assert_eq!(names(&container.rootfs().join("srv")), ["mine"]);
        lab.assert_clean();
    });
}

// mesos.md E11: what the image ships never leads outside it.
#[test]
fn e11_links_in_the_image_stay_in_the_image() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let outside = lab.dir.join("outside");
        fs::create_dir_all(outside.join("x")).unwrap();
        let before = manifest(&outside);
        let mut container = lab.container(runtime, "c");
        let rootfs = container.rootfs();
        fs::create_dir_all(rootfs.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", rootfs.join("good")).unwrap();
        std::os::unix::fs::symlink(&outside, rootfs.join("out")).unwrap();
        std::os::unix::fs::symlink(format!("../../../../../..{}", outside.display()), rootfs.join("up")).unwrap();
        std::os::unix::fs::symlink("/proc", rootfs.join("p")).unwrap();
        fs::write(rootfs.join("file"), "").unwrap();
        container.ask("db:/good").run_shell("touch /real/f").ok();
        assert!(volume.join("f").exists());
        for (path, code) in [("/p/sys", 51), ("/file", 51), ("/file/x", 51), ("/out/x", 0), ("/up/x", 0), ("/out", 51)]
        {
            let ran = container.ask(&format!("db:{path}")).run_shell("true");
            let log = lab.log("c");
            if ran.code == 0 {
                assert_eq!(code, 0, "{path}");
            } else {
                assert!(
                    code != 0 && log.contains(&format!("[exit {code}]")) || log.contains("[exit 51]"),
                    "{path}: {log}"
                );
            }
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            assert_eq!(manifest(&outside), before, "{path}");
        }
        lab.assert_clean();
    });
}

// Below a mount that the bundle shares with the host (Kubernetes: Bidirectional) a volume would appear on the host.
#[test]
fn a_volume_below_a_shared_mount_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let host = lab.dir.join("host");
        tmpfs(&host, MsFlags::empty());
        make_shared(&host);
        fs::create_dir(host.join("sub")).unwrap();
        let table = mount_table().lines().count();
        let mut container = lab.container(runtime, "c");
        container.bind(&host, "/h", &["rbind", "rshared"]).ask("db:/h/sub");
        container.spec["linux"]["rootfsPropagation"] = json!("rshared");
        container.run_shell("touch /h/sub/f").failed();
        assert!(lab.log("c").contains("[exit 24]"), "{}", lab.log("c"));
        assert_eq!((mount_table().lines().count(), names(&host.join("sub")).len()), (table, 0));
        lab.assert_clean();
    });
}

// Volume isolators on top of filesystem/linux.

// MESOS-7770: Marathon's way to have a volume at an absolute path, in either order.
#[test]
fn mesos_7770_a_path_of_the_sandbox_is_the_volume_that_lies_there() {
    each(|runtime| {
        for volumes in
            ["db:mysqldata;sandbox=mysqldata:/var/lib/mysql", "sandbox=mysqldata:/var/lib/mysql;db:mysqldata"]
        {
            let lab = Lab::new("filesystem/linux");
            let volume = lab.volume("db");
            let mut container = lab.container(runtime, "c");
            let script = "echo x > /var/lib/mysql/f && cat /mnt/mesos/sandbox/mysqldata/f";
            assert_eq!(container.ask(volumes).run_shell(script).ok().out, "x\n");
            assert!(volume.join("f").exists());
            for read_only in
                ["db:mysqldata:ro;sandbox=mysqldata:/var/lib/mysql", "db:mysqldata;sandbox=mysqldata:/var/lib/mysql:ro"]
            {
                let ran = container.ask(read_only).run_shell("cat /var/lib/mysql/f && touch /var/lib/mysql/g");
                assert!(ran.out == "x\n" && ran.err.contains("Read-only"), "{ran:?}");
            }
            // As Marathon writes it.
            let json = r#"[{"name": "disk", "role": "default", "disk": {"persistence": {"id": "db"},
                              "volume": {"container_path": "mysqldata", "mode": "RW"}}},
                           {"container_path": "/var/lib/mysql", "host_path": "mysqldata", "mode": "RW"}]"#;
            assert_eq!(container.ask(json).run_shell("cat /var/lib/mysql/f").ok().out, "x\n");
            lab.assert_clean();
        }
    });
}

#[test]
fn directories_of_the_sandbox_are_mounted_where_they_are_wanted() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.user(1000, 1000).ask("sandbox=tmp/own:/tmp;sandbox=logs:/var/log:ro;db:data");
        let script = "echo x > /tmp/f && cat /mnt/mesos/sandbox/tmp/own/f && echo y > /mnt/mesos/sandbox/logs/l && cat /var/log/l; \
                      touch /var/log/x 2>&1; grep -c ' /tmp ' /proc/self/mountinfo";
        let ran = container.run_shell(script).ok();
        assert_eq!(ran.lines(), ["x", "y", "touch: /var/log/x: Read-only file system", "1"], "{ran:?}");
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        for made in ["tmp", "tmp/own", "logs"] {
            assert_eq!(fs::metadata(sandbox.join(made)).unwrap().uid(), 1000, "{made}");
        }
        // What the container puts there instead is never followed.
        fs::remove_dir_all(sandbox.join("logs")).unwrap();
        std::os::unix::fs::symlink("/etc", sandbox.join("logs")).unwrap();
        container.run_shell("true").failed();
        assert!(lab.log("c").contains("[exit 63]"), "{}", lab.log("c"));
        fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
        lab.assert_clean();
    });
}

#[test]
fn host_paths_are_mounted_for_who_may_have_them() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let (listed, other) = (lab.dir.join("listed"), lab.dir.join("listed2"));
        for directory in [listed.join("sub"), other.clone()] {
            fs::create_dir_all(directory).unwrap();
        }
        std::os::unix::fs::symlink("/etc", listed.join("link")).unwrap();
        tmpfs(&listed.join("sub/mount"), MsFlags::empty());
        let ask = |config: serde_json::Value, volumes: &str, script: &str| {
            lab.configure(json!({ "isolation": "filesystem/linux", "host_paths": [config] }));
            let mut container = lab.container(runtime, "c");
            let ran = container.ask(volumes).run_shell(script);
            let log = lab.log("c");
            let _ = fs::remove_dir_all(lab.runtime_dir().join("log"));
            (ran, log)
        };
        let entry = |mode: &str, role: &str| json!({ "path": listed, "roles": [role], "mode": mode });
        let shown = listed.display();
        ask(entry("RW", "default"), &format!("host={shown}:/h;host={shown}/sub:/s"), "touch /h/f /s/mount/g").0.ok();
        assert!(listed.join("f").exists() && listed.join("sub/mount/g").exists());
        let script = "touch /h/x 2>&1; touch /h/sub/mount/x 2>&1; true";
        let ran = ask(entry("RO", "default"), &format!("host={shown}:/h:ro"), script).0.ok();
        assert_eq!(ran.out.matches("Read-only").count(), 2, "{ran:?}");
        for (config, volumes, code) in [
            (entry("RO", "default"), format!("host={shown}:/h"), 43),
            (entry("RW", "default"), format!("host={}:/h", other.display()), 43),
            (entry("RW", "default"), format!("host={shown}/link:/h"), 43),
            (entry("RW", "default"), format!("host={shown}/missing:/h"), 43),
            (json!({ "path": "/nonexistent/x", "roles": ["default"] }), "host=/nonexistent/x:/h".to_owned(), 43),
            (entry("RW", "default"), format!("host={shown}:/h;host={shown}/sub:/h/missing"), 50),
        ] {
            let (ran, log) = ask(config, &volumes, "true");
            assert!(ran.code != 0 && log.contains(&format!("[exit {code}]")), "{code} {volumes}: {ran:?} {log}");
        }
        nix::mount::umount(&listed.join("sub/mount")).unwrap();
        lab.assert_clean();
    });
}
