//! `filesystem/shared` with real containers of runc and crun, on the host's filesystem.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use nix::mount::MsFlags;
use serde_json::json;

/// A directory of the host, below the lab, with a file in it.
fn directory(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.dir.join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("of-the-host"), "").unwrap();
    path
}

/// The container is refused with this code, does not start, and has no sandbox.
#[track_caller]
fn refused(lab: &Lab, container: &mut Container, code: u8) -> String {
    let ran = container.run_shell("echo started").failed();
    assert!(!ran.out.contains("started"), "{ran:?}");
    let log = lab.log(&container.id);
    assert!(log.contains(&format!("[exit {code}]")), "{code}: {log}");
    assert!(lab.sandboxes("local").is_empty());
    lab.assert_clean();
    fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
    log
}

fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.mode() & 0o7777, stat.uid(), stat.gid())
}

/// The sandbox of the one container there is.
fn sandbox(lab: &Lab) -> PathBuf {
    let names = lab.sandboxes("local");
    assert_eq!(names.len(), 1, "{names:?}");
    lab.work().join("sandboxes/local").join(&names[0])
}

// mesos.md E13: Mesos had none here.
#[test]
fn e13_a_persistent_volume_lies_at_an_existing_absolute_path() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let (volume, at) = (lab.volume("db"), directory(&lab, "srv/data"));
        let script = format!("ls {0}; echo 1 >> {0}/n; cat {1}/n; ls {1}", at.display(), volume.display());
        for (id, expected) in [("first", vec!["1", "n"]), ("next", vec!["n", "1", "1", "n"])] {
            let mut container = lab.host_container(runtime, id);
            let out = container.ask(&format!("db:{}", at.display())).run_shell(&script).ok();
            assert_eq!(out.lines(), expected, "and the rest is the host's");
        }
        assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), "1\n1\n");
        assert_eq!(names(&at), ["of-the-host"], "it was covered, and nothing else");
        assert!(lab.sandboxes("local").is_empty(), "none is needed");
        lab.assert_clean();
    });
}

#[test]
fn a_user_can_write_to_its_volume_and_its_private_folder() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let (volume, at) = (lab.volume("db"), directory(&lab, "at"));
        let mut container = lab.host_container(runtime, "c");
        container.user(1000, 1001).ask(&format!("db:{};sandbox=tmp:/tmp", at.display()));
        container.spec["process"]["capabilities"] = json!({});
        container.run_shell(&format!("touch {}/f /tmp/g", at.display())).ok();
        assert_eq!(mode_and_owner(&volume), (0o750, 1000, 1001), "mesos.md P9");
        let sandbox = sandbox(&lab);
        assert_eq!(mode_and_owner(&sandbox), (0o750, 1000, 1001));
        assert!(volume.join("f").exists() && sandbox.join("tmp/g").exists());
        lab.assert_clean();
    });
}

#[test]
fn each_container_has_a_tmp_of_its_own() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let json = r#"[{"container_path":"/tmp","mode":"RW","host_path":".private/tmp"}]"#;
        let [mut one, mut two] = [("one", "sandbox=tmp:/tmp"), ("two", json)].map(|(id, request)| {
            let mut container = lab.host_container(runtime, id);
            container.ask(request).start("sleep 1000");
            container
        });
        let mine = format!("mine-{}", lab.dir.file_name().unwrap().display());
        for container in [&one, &two] {
            let out = container.exec(&format!("ls -A /tmp; stat -c '%a %u %g' /tmp; touch /tmp/{mine}")).ok();
            assert_eq!(out.lines(), ["1777 0 0"], "neither the host's files nor the other's");
            assert!(!Path::new("/tmp").join(&mine).exists());
        }
        one.exec(&format!("rm /tmp/{mine}")).ok();
        assert_eq!(two.exec("ls -A /tmp").ok().lines(), [&mine]);
        one.delete();
        two.delete();
        let sandboxes = lab.sandboxes("local");
        let find = |id: &str| sandboxes.iter().find(|name| name.contains(id)).unwrap();
        let base = lab.work().join("sandboxes/local");
        assert!(names(&base.join(find("one")).join("tmp")).is_empty());
        let tmp = base.join(find("two")).join(".private/tmp");
        assert_eq!(names(&tmp), [mine], "it stays for the sandbox's retention");
        assert_eq!(mode_and_owner(&tmp), (0o1777, 0, 0));
        assert_eq!(mode_and_owner(tmp.parent().unwrap()), (0o755, 0, 0), "only the folder itself");
        lab.assert_clean();
    });
}

// mesos.md S5
#[test]
fn a_private_folder_has_the_mode_and_owner_of_what_it_covers() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        for (name, mode, owner) in [("odd", 0o2731, 1234), ("closed", 0o700, 0), ("open", 0o777, 1000)] {
            let at = directory(&lab, name);
            chown(&at, Some(owner), Some(owner + 1)).unwrap();
            fs::set_permissions(&at, PermissionsExt::from_mode(mode)).unwrap();
            let before = manifest(&at);
            let mut container = lab.host_container(runtime, name);
            let script = format!("stat -c '%a %u %g' {0}; ls -A {0}; touch {0}/again", at.display());
            let first = format!("{mode:o} {owner} {}", owner + 1);
            container.ask(&format!("sandbox=x/{name}:{}", at.display()));
            assert_eq!(container.run_shell(&script).ok().lines(), [&first]);
            // Under the same id and bundle it comes back to what it left.
            assert_eq!(container.run_shell(&script).ok().lines(), [&first, "again"]);
            assert_eq!(manifest(&at), before);
        }
        lab.assert_clean();
    });
}

// mesos.md E12: by component, so that one path does not allow its namesakes.
#[test]
fn e12_a_host_path_is_allowed_by_the_configuration_alone() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let [data, at] = ["data", "at"].map(|name| directory(&lab, name));
        for name in ["data/sub", "data2", "readable", "nobodys"] {
            directory(&lab, name);
        }
        symlink("/etc", data.join("link")).unwrap();
        let entry = |name: &str, more: serde_json::Value| {
            let mut entry = json!({ "path": lab.dir.join(name), "roles": ["default"] });
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            entry
        };
        lab.configure(json!({ "isolation": "filesystem/shared", "host_paths": [
            entry("data", json!({})), entry("readable", json!({ "mode": "RO" })), entry("nobodys", json!({ "roles": [] })),
        ] }));
        let mut container = lab.host_container(runtime, "c");
        let request = |host: &str, more: &str| format!("host={}:{}{more}", lab.dir.join(host).display(), at.display());
        let legacy = |host: &str, mode: &str| {
            json!([{ "container_path": at, "host_path": lab.dir.join(host), "mode": mode }]).to_string()
        };
        let source = |host: &str, mode: &str| {
            let source = json!({ "type": "HOST_PATH", "host_path": { "path": lab.dir.join(host) } });
            json!([{ "container_path": at, "source": source, "mode": mode }]).to_string()
        };
        for (host, asked) in [
            ("data", request("data", "")),
            ("data/sub", request("data/sub", "")),
            ("data", legacy("data", "RW")),
            ("data/sub", source("data/sub", "RW")),
        ] {
            let out = container.ask(&asked).run_shell(&format!("echo 1 > {0}/n && cat {0}/n", at.display())).ok();
            assert_eq!(out.lines(), ["1"], "{asked}");
            fs::remove_file(lab.dir.join(host).join("n")).unwrap();
        }
        for asked in [request("readable", ":ro"), legacy("readable", "RO"), source("data", "RO")] {
            let out = container.ask(&asked).run_shell(&format!("ls {0} && ! touch {0}/n", at.display())).ok();
            assert!(out.out.contains("of-the-host"), "{out:?}");
        }
        for asked in [
            request("data2", ""),
            request("", ""),
            request("readable", ""),
            legacy("readable", "RW"),
            source("data2", "RO"),
            request("nobodys", ""),
            request("nobodys", ":ro"),
            request("data/missing", ""),
            request("data/link", ":ro"),
            "host=/etc:/srv:ro".to_owned(),
        ] {
            let log = refused(&lab, container.ask(&asked), 43);
            assert!(log.contains("host_paths"), "{asked}: {log}");
        }
        assert_eq!(names(&at), ["of-the-host"]);
    });
}

// mesos.md E1 (and E2: below as well): Mesos ignored it here.
#[test]
fn e1_read_only_is_kept() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let host = directory(&lab, "host");
        let paths = json!([{ "path": host, "roles": ["default"] }]);
        lab.configure(json!({ "isolation": "filesystem/shared", "host_paths": paths }));
        let volume = lab.volume("db");
        for source in [&volume, &host] {
            tmpfs(&source.join("sub"), MsFlags::empty());
        }
        let [a, b, c] = ["a", "b", "c"].map(|name| directory(&lab, name).display().to_string());
        let mut container = lab.host_container(runtime, "c");
        container.ask(&format!("db:{a}:ro;host={}:{b}:ro;sandbox=c:{c}:ro", host.display()));
        let script = format!("for d in {a} {a}/sub {b} {b}/sub {c}; do touch $d/x 2>/dev/null; echo $?; done");
        assert_eq!(container.run_shell(&script).ok().lines(), ["1"; 5]);
        // What they come from is as it was.
        for place in [&volume, &host] {
            assert!(fs::write(place.join("x"), "").is_ok() && fs::write(place.join("sub/x"), "").is_ok());
        }
        container.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        fs::remove_dir_all(sandbox(&lab)).unwrap();
        refused(&lab, &mut container, 44);
    });
}

// mesos.md E12: they share a beginning and nothing else.
#[test]
fn e12_tmp_and_tmpfoo_are_not_in_conflict() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let volume = lab.volume("db");
        let [tmp, tmpfoo] = ["tmp", "tmpfoo"].map(|name| directory(&lab, name).display().to_string());
        let one = format!("sandbox=t:{tmp}");
        let two = format!("db:{tmpfoo}");
        let mut container = lab.host_container(runtime, "c");
        for request in [format!("{one};{two}"), format!("{two};{one}")] {
            container.ask(&request).run_shell(&format!("echo 1 > {tmp}/f; echo 2 > {tmpfoo}/f")).ok();
            assert_eq!(fs::read_to_string(sandbox(&lab).join("t/f")).unwrap(), "1\n");
            assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "2\n");
            fs::remove_dir_all(sandbox(&lab)).unwrap();
        }
        refused(&lab, container.ask(&format!("{one};db:{tmp}")), 38);
    });
}

#[test]
fn what_it_does_not_have_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let volume = lab.volume("db");
        let at = directory(&lab, "at");
        let (file, missing) = (at.join("of-the-host"), at.join("missing"));
        let inner = format!("db:{0};sandbox=x:{0}/inner", at.display());
        let before = manifest(&at);
        let mut container = lab.host_container(runtime, "c");
        for (request, code) in [
            (format!("db:{}", missing.display()), 50),
            (format!("sandbox=x:{}", missing.display()), 50),
            // The first is attached by then, and its folder is made.
            (format!("sandbox=x:{};db:{}/deeper", at.display(), missing.display()), 50),
            (inner, 50),
            (format!("db:{}", file.display()), 51),
            ("db:data".to_owned(), 37),
            ("sandbox=x:data".to_owned(), 37),
            (format!("sandbox=../x:{}", at.display()), 37),
            (format!("sandbox=/x:{}", at.display()), 37),
            ("db:/proc/sys".to_owned(), 37),
            (format!("no:{}", at.display()), 41),
            (format!("parent=x:{}", at.display()), 40),
            (format!("secret=x:{}", at.display()), 40),
        ] {
            let log = refused(&lab, container.ask(&request), code);
            assert!(code != 50 || log.contains("mkdir -p") || log.contains("must exist"), "{log}");
            assert_eq!(manifest(&at), before, "{request}");
            assert!(names(&volume).is_empty());
        }
    });
}

#[test]
fn a_container_with_an_image_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        for request in ["db:/tmp", "sandbox=tmp:/tmp"] {
            let log = refused(&lab, container.ask(request), 54);
            assert!(log.contains("filesystem/linux"), "{log}");
        }
    });
}

// Never with a real runtime: in this set-up they damage the host's mounts. The hook's standard input is enough.
#[test]
fn a_container_in_the_hosts_mount_namespace_is_refused() {
    on_both(|_| {
        let lab = Lab::new("filesystem/shared");
        lab.volume("db");
        let at = directory(&lab, "at");
        let mut container = lab.host_container(Runtime::Crun, "c");
        container.ask(&format!("db:{}", at.display()));
        let before = mount_table();
        let mut init = Command::new("sleep").arg("1000").spawn().unwrap();
        let state = container.state(init.id() as i32).to_string();
        let codes = [json!([{ "type": "pid" }]), json!([{ "type": "pid" }, { "type": "mount" }])].map(|namespaces| {
            container.spec["linux"]["namespaces"] = namespaces;
            container.write();
            hook(PRESTART, &lab.config(), state.as_bytes()).code
        });
        init.kill().unwrap();
        init.wait().unwrap();
        // The second says that it has one: then this is not its init.
        assert_eq!(codes, [52, 15]);
        assert_eq!(mount_table(), before);
        lab.assert_clean();
    });
}

// mesos.md E13, MESOS-6563: on a host whose `/` is shared Mesos's private parts became the host's.
#[test]
fn e13_nothing_leaks_to_the_host() {
    on_both(|host| {
        // "slave" and "private" leave the mounts below `/` shared.
        let propagations = [None, Some("rslave"), Some("rprivate"), Some("slave"), Some("private")];
        for (runtime, propagation) in RUNTIMES.into_iter().flat_map(|runtime| propagations.map(|p| (runtime, p))) {
            let lab = Lab::new("filesystem/shared");
            let (volume, at, inside) = (lab.volume("db"), directory(&lab, "at"), directory(&lab, "host/inside"));
            fs::create_dir(volume.join("inside")).unwrap();
            lab.configure(json!({ "isolation": "filesystem/shared",
                "host_paths": [{ "path": lab.dir.join("host"), "roles": ["default"] }] }));
            let other = directory(&lab, "other");
            let mut container = lab.host_container(runtime, "c");
            container.spec["process"]["capabilities"] = json!({ "bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"] });
            if let Some(propagation) = propagation {
                container.spec["linux"]["rootfsPropagation"] = json!(propagation);
            }
            let host_path = inside.parent().unwrap().display();
            container.ask(&format!("db:{};host={host_path}:{};sandbox=tmp:/tmp", at.display(), other.display()));
            let before = mount_table();
            container.start("sleep 1000");
            assert_eq!(mount_table(), before, "{host:?} {runtime:?} {propagation:?}");
            let [at, other] = [at, other].map(|path| path.display().to_string());
            let script = format!(
                "mkdir /tmp/inside; for d in {at} {other} /tmp; do mount -t tmpfs none $d/inside && echo > $d/inside/f; done"
            );
            let ran = container.exec(&script).ok();
            assert!(ran.err.is_empty(), "{ran:?}");
            assert_eq!(mount_table(), before, "{host:?} {runtime:?} {propagation:?}");
            for path in [&volume.join("inside"), &inside, &sandbox(&lab).join("tmp/inside")] {
                assert!(path.exists() && !path.join("f").exists(), "{}", path.display());
            }
            container.delete();
            lab.assert_clean();
        }
    });
}

#[test]
fn it_is_deprecated_and_makes_nothing_at_sandbox_directory() {
    each(|runtime| {
        let lab = Lab::new("filesystem/shared");
        let place = lab.dir.join("mnt/sandbox");
        lab.configure(json!({ "isolation": "filesystem/shared", "sandbox_directory": place }));
        let (_, at) = (lab.volume("db"), directory(&lab, "at"));
        let mut container = lab.host_container(runtime, "c");
        container.annotate("io.fs-isolator.sandbox", "true").ask(&format!("db:{};sandbox=tmp:/tmp", at.display()));
        container.start("sleep 1000");
        let log = lab.log("c");
        assert!(log.contains("filesystem/shared is deprecated: use filesystem/linux"), "{log}");
        let own = sandbox(&lab);
        let script = format!("ls -d {0} {0}/tmp; ls {1}", own.display(), place.parent().unwrap().display());
        let ran = container.exec(&script).failed();
        assert_eq!(ran.lines().len(), 2, "the sandbox is where it is on the host: {ran:?}");
        assert!(!place.parent().unwrap().exists());
        container.delete();
        assert!(!place.parent().unwrap().exists());
        lab.assert_clean();
    });
}
