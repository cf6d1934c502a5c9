//! What Mesos's volume isolators did: host paths, paths of the container's own sandbox and of its pod's, secrets, and
//! default_container_info.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::*;
use nix::mount::{MntFlags, MsFlags, umount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

/// A lab in which root may have everything below `host`, and read below `read`.
fn lab_with_host_paths(more: Value) -> Lab {
    let lab = Lab::new("filesystem/linux");
    let (host, read) = (lab.dir.join("host"), lab.dir.join("read"));
    for directory in [&host, &read] {
        fs::create_dir(directory).unwrap();
    }
    let mut config = json!({ "isolation": "filesystem/linux", "host_paths": [
        { "path": host, "roles": ["default"], "bidirectional": true },
        { "path": read, "roles": ["default"], "mode": "RO" },
        { "path": lab.dir.join("made"), "roles": ["default"], "create": true },
    ] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.configure(config);
    fs::create_dir(lab.dir.join("made")).unwrap();
    lab
}

#[track_caller]
fn refused(lab: &Lab, container: &mut Container, volumes: &str, code: i32) -> String {
    assert_ne!(container.ask(volumes).run_shell("echo STARTED").code, 0, "{volumes}");
    let log = lab.log(&container.id);
    assert!(log.contains(&format!("[exit {code}]")), "{volumes}: not {code}: {log}");
    fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
    lab.assert_clean();
    log
}

// HP3, HP5, HP8: whatever lies there, at a mount point of its own kind, with the owner that it has.
#[test]
fn files_devices_and_sockets_of_the_host() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({}));
        let host = lab.dir.join("host");
        fs::create_dir_all(host.join("dir/sub")).unwrap();
        symlink("dir", host.join("link")).unwrap();
        fs::write(host.join("file"), "of the host\n").unwrap();
        nix::unistd::chown(&host.join("file"), Some(1234.into()), None).unwrap();
        mknod(&host.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
        let _listener = UnixListener::bind(host.join("socket")).unwrap();
        fs::write(lab.dir.join("read/file"), "read\n").unwrap();
        let at = |name: &str, place: &str| format!("host={}/{name}:{place}", host.display());
        let mut container = lab.container(runtime, "c");
        fs::write(container.rootfs().join("etc/there"), "the image's\n").unwrap();
        let before = manifest(&container.rootfs());
        let read = format!("host={}/read/file:/r/file:ro", lab.dir.display());
        let volumes = [
            at("file", "/a/b/f"),
            at("file", "f"),
            at("file", "/etc/there:ro"),
            at("null", "/n"),
            at("socket", "s/s"),
            at("dir", "/d"),
            at("dir", "in/dir"),
            "sandbox=in/dir/sub:/sub".to_owned(),
            read,
        ];
        container.ask(&volumes.join(";"));
        container
            .run_shell(
                "set -e; cd /mnt/mesos/sandbox; test \"$(cat /a/b/f)\" = 'of the host'; test $(stat -c %u f) = 1234
                 echo more >> f; ! touch /etc/there; cat /etc/there; echo x > /n; test -c /n; test -S s/s; touch /d/x /sub/x
                 ! touch /r/file; cat /r/file",
            )
            .ok();
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host\nmore\n");
        assert!(host.join("dir/x").exists() && host.join("dir/sub/x").exists());
        assert_eq!(manifest(&container.rootfs()), before, "mount points that are files are removed too");
        lab.assert_clean();
        for (volumes, code) in [
            (at("file", "/etc"), 51),
            (at("dir", "/etc/there"), 51),
            (at("file", "/etc/there/x"), 51),
            (at("link", "/q"), 43),
            (format!("{};{}", at("file", "/q"), at("dir", "/q/x")), 51),
        ] {
            refused(&lab, &mut container, &volumes, code);
            assert_eq!(manifest(&container.rootfs()), before, "{volumes}");
        }
        // One that the container has written to is the container's.
        container.ask(&at("file", "/kept")).start("sleep 1000");
        umount_in(&container, "/kept");
        fs::write(container.rootfs().join("kept"), "mine").unwrap();
        container.kill();
        container.delete();
        assert_eq!(fs::read_to_string(container.rootfs().join("kept")).unwrap(), "mine");
    });
}

fn umount_in(container: &Container, path: &str) {
    run("nsenter", &["-t", &container.pid().to_string(), "-m", "umount", path]).ok();
}

// HP4, by descriptor: missing directories are made only where the entry says so, and when all else was found.
#[test]
fn missing_host_paths_are_made_where_they_may_be() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({}));
        let made = lab.dir.join("made");
        lab.volume("db");
        symlink("/etc", made.join("link")).unwrap();
        let mut container = lab.container(runtime, "c");
        let at = |name: &str| format!("host={}/{name}:/d", made.display());
        for (volumes, code) in [
            (format!("{};nope:/x", at("a/b")), 41),
            (at("link/b"), 43),
            (format!("host={}/host/missing:/d", lab.dir.display()), 43),
            (format!("host={}/host/../made:/d", lab.dir.display()), 37),
        ] {
            refused(&lab, &mut container, &volumes, code);
            assert_eq!(names(&made), ["link"], "{volumes}");
        }
        assert!(!Path::new("/etc/b").exists());
        container.ask(&at("a/b")).run_shell("echo 1 > /d/f").ok();
        assert_eq!(fs::read_to_string(made.join("a/b/f")).unwrap(), "1\n");
        assert_eq!(fs::metadata(made.join("a")).unwrap().permissions().mode() & 0o7777, 0o755);
        lab.assert_clean();
    });
}

/// It may mount.
fn with_sys_admin(container: &mut Container) -> &mut Container {
    for set in ["bounding", "effective", "permitted"] {
        container.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
    container
}

// Whatever the runtime does to mounts after the hooks. What the container mounts is the host's afterwards, as it asked;
// nothing of ours is.
#[test]
fn bidirectional_goes_both_ways_and_ours_stays_out() {
    each(|runtime| {
        for propagation in [None, Some("rprivate"), Some("rslave"), Some("rshared")] {
            let lab = lab_with_host_paths(json!({ "allow_remountable_ro": true }));
            lab.volume("db");
            let host = lab.dir.join("host");
            for directory in ["there", "later", "theirs", "mounted"] {
                fs::create_dir(host.join(directory)).unwrap();
            }
            tmpfs(&host.join("there"), MsFlags::empty());
            fs::write(host.join("there/file"), "1\n").unwrap();
            let mut container = lab.container(runtime, "c");
            if let Some(propagation) = propagation {
                container.spec["linux"]["rootfsPropagation"] = json!(propagation);
            }
            let ask = format!("host={}:/h:bidirectional", host.display());
            refused(&lab, lab.container(runtime, "mapped").map_ids(200_000), &ask, 24);
            with_sys_admin(&mut container).ask(&format!("{ask};db:/d")).start("sleep 1000");
            container.exec("cat /h/there/file && mount -t tmpfs theirs /h/theirs && touch /h/theirs/x").ok();
            assert!(host.join("theirs/x").exists(), "{propagation:?}");
            tmpfs(&host.join("later"), MsFlags::empty());
            fs::write(host.join("later/x"), "").unwrap();
            container.exec("test -e /h/later/x").ok();
            // What lies below it is the host's, and a mount of ours there would be too.
            let ran = lab.live(&container, "attach", &["db:/h/mounted"]);
            assert!([24, 50].contains(&ran.code), "{ran:?}");
            let ran = lab.live(&container, "attach", &["db:/h/there"]);
            assert!(ran.code != 0 && !mount_table().contains("/there/"), "{ran:?}");
            // Detaching it takes no mount of the host with it.
            if propagation == Some("rslave") {
                lab.live(&container, "detach", &["/h"]).ok();
                container.exec("test ! -e /h").ok();
                lab.live(&container, "attach", &[&ask]).ok();
                container.exec("test -e /h/later/x && mount -t tmpfs again /h/mounted").ok();
                assert!(mount_table().contains(&format!("{}/mounted", host.display())));
                umount(&host.join("mounted")).unwrap();
            }
            container.kill();
            container.delete();
            for directory in ["there/file", "theirs/x", "later/x"] {
                assert!(host.join(directory).exists(), "{propagation:?} {directory}");
            }
            let table = mount_table();
            assert!(!table.contains("/rootfs/"), "{table}");
            for directory in ["there", "theirs", "later"] {
                umount2(&host.join(directory), MntFlags::empty()).unwrap();
            }
            lab.assert_clean();
        }
    });
}

// Between prestart and poststart crun has made private what is to go both ways.
#[test]
fn what_the_host_mounts_before_a_bidirectional_container_starts_is_there_once() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({}));
        let host = lab.dir.join("host");
        fs::create_dir_all(host.join("early")).unwrap();
        tmpfs(&host.join("early"), MsFlags::empty());
        fs::create_dir(host.join("early/below")).unwrap();
        let mut container = lab.container(runtime, "c");
        with_sys_admin(&mut container).ask(&format!("host={}:/h:bidirectional", host.display())).shell("sleep 1000");
        container.create().ok();
        for directory in ["late", "early/below", "late/deep"] {
            tmpfs(&host.join(directory), MsFlags::empty());
            fs::write(host.join(directory).join("x"), "").unwrap();
        }
        let before = mounted_below(&host);
        container.go();
        container.exec("test -e /h/late/x && test -e /h/early/below/x && test -e /h/late/deep/x").ok();
        assert_eq!(mounted_below(&host), before, "none is mounted on the host again");
        container.exec("mkdir /h/late/new && mount -t tmpfs new /h/late/new && touch /h/late/new/x").ok();
        assert!(host.join("late/new/x").exists());
        for directory in ["late/new", "late/deep"] {
            umount(&host.join(directory)).unwrap();
        }
        container.exec("test ! -e /h/late/deep/x").ok();
        container.kill();
        container.delete();
        for directory in ["late", "early/below", "early"] {
            umount(&host.join(directory)).unwrap();
        }
        lab.assert_clean();
    });
}

// After prestart the host's mount is shared no more, so that nothing can go both ways: such a container does not run.
#[test]
fn a_bidirectional_container_that_cannot_be_mended_is_ended() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({}));
        let host = lab.dir.join("host");
        tmpfs(&host, MsFlags::empty());
        fs::set_permissions(&host, PermissionsExt::from_mode(0o755)).unwrap();
        let unshare = script(&lab, "unshare", &format!("exec mount --make-private {}", host.display()));
        let mut container = lab.container(runtime, "c");
        let hooks = [("prestart", PRESTART), ("prestart", &unshare), ("poststart", POSTSTART), ("poststop", POSTSTOP)];
        container.hooks(&lab.config(), &hooks);
        with_sys_admin(&mut container).ask(&format!("host={}:/h:bidirectional", host.display())).shell("sleep 1000");
        // runc calls poststart before it starts anything, and crun tells nobody what it answered.
        if container.create().code == 0 {
            let pid = container.pid();
            let _ = container.try_to_go();
            wait_for("its end", || !is_alive(pid));
            container.delete();
        }
        wait_for("the refusal", || lab.log("c").contains("[exit 58]"));
        umount(&host).unwrap();
        lab.assert_clean();
    });
}

fn mounted_below(directory: &Path) -> Vec<String> {
    let below = format!("{}/", directory.display());
    let point = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    mount_table().lines().filter_map(point).filter(|point| point.starts_with(&below)).collect()
}

const WORD: &str = "swordfish-0451";

fn lab_with_secrets() -> Lab {
    let lab = Lab::new("filesystem/linux");
    let secrets = lab.dir.join("secrets");
    fs::create_dir(&secrets).unwrap();
    for (name, mode) in [("db", 0o400), ("open", 0o444)] {
        fs::write(secrets.join(name), WORD).unwrap();
        fs::set_permissions(secrets.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    symlink("db", secrets.join("link")).unwrap();
    let secret =
        |name: &str, file: &str, role: &str| json!({ "name": name, "path": secrets.join(file), "roles": [role] });
    let deny = json!({ "deny": [{ "identity": "root", "roles": ["team-b"] }] });
    lab.configure(json!({ "isolation": "filesystem/linux,volume/secret", "authorization": deny, "secrets": [
        secret("db/password", "db", "default"), secret("db", "db", "default"), secret("theirs", "db", "team-b"),
        secret("open", "open", "default"), secret("linked", "link", "default"), secret("gone", "gone", "default"),
        secret("folder", "", "default"), { "name": "unit", "credential": "fs-isolator-test.service/db", "roles": ["default"] },
    ] }));
    lab
}

#[test]
fn a_secret_is_the_containers_alone() {
    each(|runtime| {
        for mapped in [false, true] {
            let lab = lab_with_secrets();
            let mut container = lab.container(runtime, "c");
            let before = manifest(&container.rootfs());
            if mapped {
                container.map_ids(200_000);
            }
            container.user(1000, 1000).ask("secret=db/password:/run/s;secret=db:s/db").start("sleep 1000");
            let look = "cd /mnt/mesos/sandbox; stat -c '%a %u %g' /run/s s/db; cat /run/s; ! echo x > /run/s; ! touch /run/s; \
                        stat -f -c %T /run/s; grep -c 'ro,nosuid,nodev,noexec.* - tmpfs' /proc/self/mountinfo";
            let ran = container.exec(look).ok();
            assert_eq!(ran.out, format!("400 1000 1000\n400 1000 1000\n{WORD}tmpfs\n2\n"));
            // Nobody else of the container, without root's capabilities.
            lab.live(&container, "attach", &["secret=db:/later"]).ok();
            container.exec(&format!("test \"$(cat /later)\" = {WORD}")).ok();
            for directory in [lab.work(), lab.runtime_dir(), container.bundle.clone(), "/run/fs-isolator".into()] {
                assert!(files_with(&directory, WORD).is_empty(), "{directory:?}");
            }
            assert!(!mount_table().contains("noswap"), "{}", mount_table());
            lab.live(&container, "detach", &["/later"]).ok();
            container.exec("test ! -e /later").ok();
            container.kill();
            container.delete();
            for directory in [lab.work(), lab.runtime_dir(), container.bundle.clone()] {
                assert!(files_with(&directory, WORD).is_empty(), "{directory:?}");
            }
            let mut after = manifest(&container.rootfs());
            after.retain(|path, _| before.contains_key(path));
            assert_eq!(after.len(), before.len());
            assert!(!container.rootfs().join("run").exists(), "mount points and the directories for them are gone");
            lab.assert_clean();
        }
    });
}

#[test]
fn a_secret_that_cannot_be_had_reads_alike_and_is_told_where_it_may() {
    on(Host::Shared, || {
        let lab = lab_with_secrets();
        let mut container = lab.container(Runtime::Crun, "c");
        let theirs = refused(&lab, &mut container, "secret=theirs:/s", 65);
        let nobodys = refused(&lab, &mut container, "secret=nobody:/s", 65);
        let message = |log: &str, name: &str| {
            let line = log.lines().find(|line| line.contains(": error: ")).unwrap();
            line.split("there is no secret").last().unwrap().replace(name, "NAME")
        };
        assert_eq!(message(&theirs, "theirs"), message(&nobodys, "nobody"));
        for (name, code, words) in [
            ("open", 21, "can be read by others (mode 0444)"),
            ("linked", 21, "without following links"),
            ("gone", 65, "does not exist"),
            ("folder", 65, "no regular file"),
            ("unit", 65, "/run/credentials/fs-isolator-test.service/db does not exist"),
        ] {
            let log = refused(&lab, &mut container, &format!("secret={name}:/s"), code);
            assert!(log.contains(words) && !log.contains(WORD), "{name}: {log}");
        }
        // A file has nothing below it, and no propagation.
        lab.volume("db");
        refused(&lab, &mut container, "secret=db:/s;db:/s/x", 38);
        refused(&lab, &mut container, "secret=db:s;sandbox=s/x:/y", 38);
        refused(&lab, &mut container, "secret=db:/s:slave", 24);
        // The way of MESOS-7770, with a secret.
        container.ask("secret=db:s;sandbox=s:/etc/word");
        assert_eq!(container.run_shell("cat /etc/word").ok().out, WORD);
        lab.assert_clean();
    });
}

// A unit's credentials are files of root's in memory (systemd.exec(5)).
#[test]
fn a_secret_from_a_credential_of_systemd() {
    on(Host::Shared, || {
        let lab = lab_with_secrets();
        let credentials = Path::new("/run/credentials");
        let made = !credentials.exists();
        tmpfs(credentials, MsFlags::empty());
        fs::set_permissions(credentials, PermissionsExt::from_mode(0o755)).unwrap();
        let unit = credentials.join("fs-isolator-test.service");
        fs::create_dir(&unit).unwrap();
        fs::set_permissions(&unit, PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(unit.join("db"), WORD).unwrap();
        fs::set_permissions(unit.join("db"), PermissionsExt::from_mode(0o400)).unwrap();
        let mut container = lab.container(Runtime::Crun, "c");
        assert_eq!(container.ask("secret=unit:/s").run_shell("cat /s").ok().out, WORD);
        umount2(credentials, MntFlags::MNT_DETACH).unwrap();
        if made {
            fs::remove_dir(credentials).unwrap();
        }
        lab.assert_clean();
    });
}

// SP2, SP5: what is there already stays as it is; files too, and nothing else.
#[test]
fn files_of_the_sandbox() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.container(runtime, "c");
        container.annotate("io.fs-isolator.sandbox", "true");
        container
            .run_shell("cd /mnt/mesos/sandbox; echo 1 > file; mkdir -m 700 dir; ln -s /etc link; ln -s file inner; dd if=/dev/zero of=dir/x count=0")
            .ok();
        let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
        run("mkfifo", &[sandbox.join("fifo").to_str().unwrap()]).ok();
        // As one leaves it that was killed while it made them.
        fs::create_dir_all(sandbox.join("half/made")).unwrap();
        for name in ["half", "half/made"] {
            fs::set_permissions(sandbox.join(name), PermissionsExt::from_mode(0o000)).unwrap();
        }
        container.user(1000, 1000).ask("sandbox=half/made:/h").run_shell("touch /h/x").ok();
        assert!(sandbox.join("half/made/x").exists());
        container.user(0, 0);
        container.ask("sandbox=file:/etc/f:ro;sandbox=dir:/d;sandbox=new/er:/n");
        container.run_shell("cat /etc/f && ! touch /etc/f && test $(stat -c %a /d) = 700 && touch /n/x").ok();
        assert!(sandbox.join("new/er/x").exists());
        for path in ["fifo", "link", "link/passwd", "inner", "file/x"] {
            refused(&lab, &mut container, &format!("sandbox={path}:/y"), 63);
        }
        lab.assert_clean();
    });
}

// CRI-O's pods: SP4, and design.md's rule who the parent is.
#[test]
fn the_containers_of_a_pod_share_its_sandbox() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let configure = |retention: &str| {
            lab.configure(json!({ "isolation": "filesystem/linux", "sandbox_retention": retention,
                                  "managers": { "cri-o": [lab.dir.join("crio")] } }));
        };
        configure("7days");
        let (pod, other) = ("a".repeat(64), "b".repeat(64));
        let ask = "parent=x/y:/shared";
        let mut app = lab.container(runtime, "app").in_pod(&lab, &pod);
        let mut sidecar = lab.container(runtime, "sidecar").in_pod(&lab, &pod);
        let mut stranger = lab.container(runtime, "stranger").in_pod(&lab, &other);
        app.user(1000, 1000).ask(ask).start("sleep 1000");
        sidecar.user(2000, 2000).ask("parent=x:/s:ro;parent=x/y:/shared").start("sleep 1000");
        stranger.ask(ask).start("sleep 1000");
        app.exec("echo app > /shared/f && test $(stat -c %u /shared) = 1000").ok();
        sidecar.exec("cat /shared/f && ! touch /s/no && echo sidecar > /shared/g").ok();
        app.exec("cat /shared/g").ok();
        stranger.exec("test ! -e /shared/f").ok();
        let folder = lab.work().join("sandboxes/cri-o");
        let shared: Vec<String> = lab.sandboxes("cri-o").into_iter().filter(|name| name.starts_with(&pod)).collect();
        assert_eq!(shared.len(), 1);
        let stat = fs::metadata(folder.join(&shared[0])).unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, 0o750, "nobody else of the host reaches it");
        // Nothing is made in what other containers have too.
        lab.volume_of("team-a", "db");
        let mut third = lab.container(runtime, "third").in_pod(&lab, &pod);
        assert_ne!(third.ask("parent=x:/s;db:/s/new").create().code, 0);
        assert!(lab.log("third").contains("[exit 50]"), "{}", lab.log("third"));
        // It lasts as long as one of them, and then as long as any sandbox.
        app.delete();
        sidecar.exec("cat /shared/f").ok();
        configure("0");
        third.ask("parent=x:in;sandbox=in/y:/shared").start("sleep 1000");
        sidecar.delete();
        third.exec("cat /shared/f").ok();
        // Neither one whose sandbox is not kept takes it from the others, nor gc.
        app.start("sleep 1000").delete();
        lab.cli(&["gc"]).ok();
        third.exec("cat /shared/f").ok();
        third.delete();
        assert!(!folder.join(&shared[0]).exists(), "the last one whose sandbox is not kept");
        stranger.delete();
        assert_eq!(lab.sandboxes("cri-o").len(), 1, "that one's was to be kept");
        lab.assert_clean();
    });
}

// Who began it may not be there any more; what others of the pod have put into it since is theirs, and kept as long.
#[test]
fn a_start_that_failed_does_not_take_its_pods_sandbox_with_it() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.configure(json!({ "isolation": "filesystem/linux", "managers": { "cri-o": [lab.dir.join("crio")] } }));
        let pod = "a".repeat(64);
        let mut killed = lab.container(runtime, "killed").in_pod(&lab, &pod);
        killed.ask("parent=x:/shared").hooks(&lab.config(), &[]).start("sleep 1000");
        let (config, state) = (lab.config(), killed.state(killed.pid()).to_string());
        let kill = ["-o", "/dev/null", "-e", "inject=open_tree:signal=KILL:when=1", PRESTART, "--config"];
        run_with(std::process::Command::new("strace").args(kill).arg(config), state.as_bytes()).failed();
        let mut app = lab.container(runtime, "app").in_pod(&lab, &pod);
        app.ask("parent=x:/shared").run_shell("echo kept > /shared/f").ok();
        killed.delete();
        lab.cli(&["reconcile"]).ok();
        let sandboxes = lab.sandboxes("cri-o");
        assert_eq!(sandboxes.len(), 1);
        let file = lab.work().join("sandboxes/cri-o").join(&sandboxes[0]).join("x/f");
        assert_eq!(fs::read_to_string(file).unwrap(), "kept\n");
        lab.assert_clean();
    });
}

// Each row of mesos.md A5-A7 that names an error; rows about DEBUG containers have nothing here that they are about.
#[test]
fn the_errors_of_mesos_rules() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({ "allowed_isolation": ["filesystem/posix", "filesystem/shared"] }));
        lab.volume("db");
        let host = lab.dir.join("host");
        tmpfs(&lab.dir.join("host/private"), MsFlags::empty());
        nix::mount::mount(None::<&str>, &host.join("private"), None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .unwrap();
        let volume = |source: Value| json!([{ "container_path": "/x", "mode": "RW", "source": source }]).to_string();
        let host_path = |path: &str| volume(json!({ "type": "HOST_PATH", "host_path": { "path": path } }));
        let sandbox_path = |kind: Value, path: &str| {
            volume(json!({ "type": "SANDBOX_PATH", "sandbox_path": { "type": kind, "path": path } }))
        };
        let secret = |secret: Value| volume(json!({ "type": "SECRET", "secret": secret }));
        let relative = json!([{ "container_path": "y", "mode": "RW", "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": "SELF", "path": "x" } } }]);
        let both = json!([{ "container_path": "/x", "mode": "RW", "host_path": "/y", "source": { "type": "HOST_PATH", "host_path": { "path": "/y" } } }]);
        let below = |name: &str| host.join(name).display().to_string();
        for (rule, isolation, volumes, code) in [
            ("HP2, V1", "linux", both.to_string(), 34),
            ("HP2, V1", "linux", volume(json!({ "type": "HOST_PATH" })), 34),
            ("HP3", "linux", host_path("relative"), 34),
            ("HP4", "linux", host_path(&below("missing")), 43),
            ("HP4", "linux", host_path("/srv/not-listed"), 43),
            ("HP4", "linux", host_path(&format!("{}2", host.display())), 43),
            ("HP4", "linux", host_path("/../../etc"), 37),
            ("HP5", "shared", host_path(&below("private")), 54),
            ("HP6", "linux", format!("host={}:/x:bidirectional", below("private")), 56),
            ("HP6", "linux", format!("host={}/made:/x:bidirectional", lab.dir.display()), 43),
            ("HP7", "linux", format!("host={}/read:/x", lab.dir.display()), 43),
            ("SP1", "posix", "sandbox=x:y".to_owned(), 53),
            ("SP2", "linux", sandbox_path(json!("SELF"), "/absolute"), 37),
            ("SP2", "linux", sandbox_path(Value::Null, "x"), 34),
            ("SP3", "linux", relative.to_string(), 37),
            ("SP4", "linux", sandbox_path(json!("PARENT"), "x"), 66),
            ("SP6", "linux", sandbox_path(json!("SELF"), "a/../../x"), 37),
            ("SE1", "shared", "secret=x:/x".to_owned(), 40),
            ("SE4", "linux", volume(json!({ "type": "SECRET" })), 34),
            ("SE4", "linux", secret(json!({ "type": "REFERENCE", "reference": { "name": "x" } })), 65),
            ("SE4", "linux", secret(json!({ "type": "REFERENCE" })), 34),
            ("SE4", "linux", secret(json!({ "type": "VALUE", "value": { "data": "eA==" } })), 39),
        ] {
            let mut container = lab.container(runtime, "c");
            let before = (manifest(&container.rootfs()), names(&host));
            container.annotate("io.fs-isolator.isolation", &format!("filesystem/{isolation}"));
            refused(&lab, &mut container, &volumes, code);
            assert_eq!((manifest(&container.rootfs()), names(&host)), before, "{rule} {volumes}");
            assert!(lab.sandboxes("local").is_empty(), "{rule} {volumes}");
        }
        umount(&host.join("private")).unwrap();
    });
}

// CT15: for those who have none of their own; not merged, and refused to nobody.
#[test]
fn default_container_info_is_for_those_who_ask_for_nothing() {
    each(|runtime| {
        let lab = lab_with_secrets();
        let volumes = json!([
            { "container_path": "/var/cache", "mode": "RW", "host_path": "cache" },
            { "container_path": "/d", "mode": "RO", "source": { "type": "HOST_PATH", "host_path": { "path": lab.dir.join("host") } } },
        ]);
        let configure = |volumes: &Value, token: Option<&str>| {
            lab.configure(json!({ "isolation": "filesystem/linux", "request_token": token,
                "host_paths": [{ "path": lab.dir.join("host"), "roles": ["default"], "mode": "RO" }],
                "managers": { "local": [lab.dir.join("bundles")], "cri-o": [lab.dir.join("crio")] },
                "default_container_info": { "type": "MESOS", "volumes": volumes } }));
        };
        lab.volume("db");
        fs::create_dir(lab.dir.join("host")).unwrap();
        fs::write(lab.dir.join("host/f"), "1\n").unwrap();
        let look = "cat /d/f && touch /var/cache/x && ! touch /d/x";
        for token in [None, Some("0123456789abcdef")] {
            configure(&volumes, token);
            let mut container = lab.container(runtime, "c");
            container.run_shell(look).ok();
            lab.assert_clean();
            assert!(!container.rootfs().join("var").exists());
            // Not merged with what a container asks for itself.
            container.ask("db:/mine");
            if let Some(token) = token {
                container.annotate("io.fs-isolator.token", token);
            }
            container.run_shell("touch /mine/x && test ! -e /d").ok();
            lab.assert_clean();
        }
        // A container whose maker is unknown is left in peace, and so is a pod's infra container.
        configure(&volumes, None);
        let mut other = lab.container(runtime, "other");
        let bundle = lab.dir.join("elsewhere");
        fs::create_dir(&bundle).unwrap();
        other.spec["root"]["path"] = json!(other.rootfs());
        other.bundle = bundle;
        other.run_shell("test ! -e /d").ok();
        let mut infra = lab.container(runtime, "infra").in_pod(&lab, &"a".repeat(64));
        infra
            .annotate("io.kubernetes.cri-o.ContainerType", "sandbox")
            .annotate("io.kubernetes.cri-o.ContainerID", "infra");
        infra.run_shell("test ! -e /d").ok();
        // A default that cannot be had is no default.
        configure(&json!([{ "container_path": "/d", "mode": "RW", "host_path": "/srv/not-listed" }]), None);
        assert_ne!(lab.container(runtime, "c").run_shell("echo STARTED").code, 0);
        assert!(lab.log("c").contains("[exit 43]"), "{}", lab.log("c"));
        lab.assert_clean();
    });
}

// update speaks JSON too, and what is attached to a running container obeys the same rules.
#[test]
fn a_running_container_has_them_all() {
    each(|runtime| {
        let lab = lab_with_host_paths(json!({}));
        lab.volume("db");
        fs::write(lab.dir.join("host/file"), "1\n").unwrap();
        let mut container = lab.container(runtime, "c");
        let before = manifest(&container.rootfs()).len();
        container.start("sleep 1000");
        let file = lab.dir.join("host/file");
        let request = json!([
            { "container_path": "/f", "mode": "RO", "host_path": file },
            { "container_path": "/s", "mode": "RW", "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": "SELF", "path": "s" } } },
            { "name": "disk", "role": "default", "disk": { "persistence": { "id": "db" }, "volume": { "container_path": "/db", "mode": "RW" } } },
        ]);
        lab.live(&container, "update", &[&request.to_string()]).ok();
        container.exec("cat /f && ! touch /f && touch /s/x /db/x && test -e /mnt/mesos/sandbox/s/x").ok();
        lab.live(&container, "update", &[&json!([request[0]]).to_string()]).ok();
        container.exec("cat /f && test ! -e /db && test ! -e /s").ok();
        lab.live(&container, "detach", &["/f"]).ok();
        container.exec("test ! -e /f").ok();
        container.kill();
        container.delete();
        assert_eq!(manifest(&container.rootfs()).len(), before);
        lab.assert_clean();
    });
}
