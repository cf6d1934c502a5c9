//! Live commands on containers that rename, cover and copy their mounts, and commands that are killed: a volume is free when
//! nothing of the container has it any more, and not before.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::*;
use serde_json::json;

/// The way home from the container's mount namespace when all was moved, and when something was taken out. (strace kills
/// before the call.)
const MOVED: &str = "setns:signal=KILL:when=6";
const HOME_AGAIN: &str = "setns:signal=KILL:when=8";

fn is_held(lab: &Lab, id: &str) -> bool {
    let ran = lab.cli(&["volume", "destroy", id]);
    ran.code == 71
}

/// `verb` on a container, killed at a system call.
fn killed(lab: &Lab, container: &Container, inject: &str, verb: &str, words: &[&str]) {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("inject={inject}"), CLI, "--config"]).arg(lab.config());
    command.args([verb, "--runtime-root", container.root.to_str().unwrap(), &container.id]).args(words);
    run_with(&mut command, b"").failed();
}

fn with_capability<'c>(container: &'c mut Container, name: &str) -> &'c mut Container {
    for set in ["bounding", "effective", "permitted"] {
        container.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!(name));
    }
    container
}

/// Sees that a volume that the container uses cannot be detached, and that it is held until the container's end where it was
/// detached all the same.
fn stays_held(lab: &Lab, container: &mut Container, path: &str, what: &str) {
    let ran = lab.live(container, "detach", &[path]);
    assert!(ran.code == 80 && ran.err.contains(what), "not {what}: {ran:?}");
    assert!(is_held(lab, "db"));
    lab.live(container, "detach", &["--lazy", path]).ok();
    assert!(is_held(lab, "db"), "in use still");
    // A command later, too, and where it is attached once more.
    lab.live(container, "attach", &["db:/again"]).ok();
    lab.live(container, "detach", &["/again", "--lazy"]).ok();
    assert!(is_held(lab, "db"));
    container.delete();
    assert!(!is_held(lab, "db"));
    lab.assert_clean();
}

// In a user namespace of its own making it could make its mounts writable, without any capability at its start.
#[test]
fn nothing_is_attached_in_a_namespace_of_the_containers_own_making() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        fs::set_permissions(&db, PermissionsExt::from_mode(0o777)).unwrap();
        let mut container = lab.container(runtime, "c");
        fs::create_dir(container.rootfs().join("d")).unwrap();
        container.user(1000, 1000);
        container.spec["process"]["capabilities"] = json!({});
        let script =
            "touch /tmp/in; while ! mount -o remount,bind,rw /d; do sleep 0.05; done; echo x > /d/written; sleep 1000";
        fs::set_permissions(container.rootfs().join("tmp"), PermissionsExt::from_mode(0o777)).unwrap();
        container.spec["process"]["args"] = json!(["/bin/busybox", "unshare", "-Urm", "/bin/sh", "-c", script]);
        container.create().ok();
        container.go();
        wait_for("its namespace", || container.rootfs().join("tmp/in").exists());
        let ran = lab.live(&container, "attach", &["db:/d:ro"]);
        assert!(ran.code != 0 && ran.err.contains("namespaces of its own making"), "{ran:?}");
        assert_eq!(names(&db), [""; 0]);
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn a_renamed_directory_above_it() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.ask("db:/srv/d").start("until [ -e /go ]; do sleep 0.02; done; mv /srv /srv.old; mkdir -p /srv/d; touch /srv.old/d/moved; sleep 1000");
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("the move", || db.join("moved").exists());
        let status = lab.cli(&["inspect", "c"]).ok();
        assert!(status.out.contains("moved it to /srv.old/d"), "{status:?}");
        assert!(is_held(&lab, "db"));
        // There it is taken out.
        lab.live(&container, "detach", &["/srv/d"]).ok();
        container.exec("test ! -e /srv.old/d/moved && ! grep -q srv.old /proc/self/mountinfo").ok();
        assert!(!is_held(&lab, "db"));
        container.delete();
    });
}

#[test]
fn a_mount_over_it() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        lab.volume("other");
        let mut container = lab.container(runtime, "c");
        with_capability(&mut container, "CAP_SYS_ADMIN");
        container.ask("db:/d").start("mkdir /free; touch /d/here; until [ -e /go ]; do sleep 0.02; done; mount -t tmpfs over /d; touch /d/over; sleep 1000");
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("the mount", || container.exec("test -e /d/over").code == 0);
        for options in [&["/d"][..], &["--lazy", "/d"]] {
            let ran = lab.live(&container, "detach", options);
            assert!(ran.code == 80 && ran.err.contains("mounted something over"), "{ran:?}");
        }
        let ran = lab.live(&container, "update", &["db:/d", "other:/free"]);
        assert!(ran.code == 38 && ran.err.contains("mounted something over"), "{ran:?}");
        assert!(is_held(&lab, "db") && !is_held(&lab, "other"));
        container.exec("umount /d").ok();
        lab.live(&container, "detach", &["/d"]).ok();
        assert!(!is_held(&lab, "db") && db.join("here").exists());
        container.delete();
        lab.assert_clean();
    });
}

#[test]
fn a_copy_in_another_mount_namespace() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        fs::set_permissions(&db, PermissionsExt::from_mode(0o777)).unwrap();
        let mut container = lab.container(runtime, "c");
        container.user(1000, 1000);
        container.spec["process"]["capabilities"] = json!({});
        container.ask("db:/d").start("until [ -e /go ]; do sleep 0.02; done; busybox unshare -Urm sh -c 'touch /d/there; exec sleep 1000' & sleep 1000");
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("the copy", || db.join("there").exists());
        stays_held(&lab, &mut container, "/d", "in a mount namespace of its own");
    });
}

#[test]
fn a_bind_of_a_directory_in_it() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        fs::create_dir(db.join("sub")).unwrap();
        let mut container = lab.container(runtime, "c");
        with_capability(&mut container, "CAP_SYS_ADMIN");
        container.ask("db:/d").start(
            "until [ -e /go ]; do sleep 0.02; done; mkdir /o; mount -o bind /d/sub /o; touch /o/bound; sleep 1000",
        );
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("the bind", || db.join("sub/bound").exists());
        stays_held(&lab, &mut container, "/d", "a mount at /o");
    });
}

// Its own view of the mounts is not everything, then.
#[test]
fn an_init_that_has_changed_its_root() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        with_capability(&mut container, "CAP_SYS_CHROOT");
        make_rootfs(&container.rootfs().join("new"));
        let script = "while ! [ -e /go ]; do sleep 0.02; done; exec 3>/d/log; exec /bin/busybox chroot /new /bin/sh -c 'echo x >&3; sleep 1000'";
        container.ask("db:/d").start(script);
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("the change", || fs::metadata(db.join("log")).is_ok_and(|log| log.len() > 0));
        let inspected = lab.cli(&["inspect", "c"]).ok();
        assert!(!inspected.out.contains("DIFFERS"), "{inspected:?}");
        stays_held(&lab, &mut container, "/d", "process ");
    });
}

// Threads have files of their own, and outlive their leader.
#[test]
fn threads() {
    let write = "def w():\n  f=open('/d/log','a')\n  f.write('x'); f.flush(); time.sleep(1000)\n";
    let own_files = format!(
        "import ctypes,threading,time\n{}threading.Thread(target=w).start()\ntime.sleep(1000)",
        write.replace("  f=", "  ctypes.CDLL(None).unshare(0x400)\n  f=")
    );
    let no_leader = format!(
        "import ctypes,threading,time\n{write}threading.Thread(target=w).start()\nctypes.CDLL(None).syscall(60,0)"
    );
    for program in [own_files, no_leader] {
        on(Host::Shared, move || {
            let lab = Lab::new("filesystem/linux");
            let db = lab.volume("db");
            let mut container = lab.host_container(Runtime::Runc, "c");
            container.ask("db:/d").start(&format!("python3 -c \"{program}\" & sleep 1000"));
            wait_for("the thread", || fs::metadata(db.join("log")).is_ok_and(|log| log.len() > 0));
            stays_held(&lab, &mut container, "/d", "(python3)");
        });
    }
}

#[test]
fn a_link_that_is_used() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        lab.volume("other");
        let sandbox = lab.cli(&["sandbox", "create", "--owner", "1000:1000", "s"]).ok().out.trim().to_owned();
        let mut container = lab.host_container(runtime, "c");
        container.user(1000, 1000).cwd(Path::new(&sandbox));
        container.spec["process"]["capabilities"] = json!({});
        container.ask("db:data;other:more").start("exec 3>data/f; sleep 1000");
        wait_for("the file", || volume.join("f").exists());
        lab.live(&container, "detach", &["more"]).ok();
        let ran = lab.live(&container, "detach", &["data"]);
        assert!(ran.code == 80 && ran.err.contains("(sleep)"), "{ran:?}");
        assert!(Path::new(&sandbox).join("data").exists());
        lab.live(&container, "detach", &["--lazy", "data"]).ok();
        assert!(is_held(&lab, "db") && !Path::new(&sandbox).join("data").exists());
        container.delete();
        assert!(!is_held(&lab, "db"));
        lab.assert_clean();
    });
}

// Killed when all was moved and nothing written down: whoever comes next takes it out before the lease ends.
#[test]
fn an_attach_that_was_killed() {
    each(|runtime| {
        for next in ["attach", "detach", "update"] {
            let lab = Lab::new("filesystem/linux");
            lab.volume("db");
            lab.volume("other");
            let mut container = lab.container(runtime, "c");
            // It is not made by a hook, so that nothing but the mount itself goes.
            fs::create_dir_all(container.rootfs().join("srv/d")).unwrap();
            container.ask("other:/other").start("sleep 1000");
            killed(&lab, &container, MOVED, "attach", &["db:/srv/d"]);
            container.exec("grep -q ' /srv/d ' /proc/self/mountinfo").ok();
            assert!(is_held(&lab, "db"));
            match next {
                "attach" => lab.live(&container, next, &["other:/o"]).ok(),
                "detach" => lab.live(&container, next, &["/other"]).ok(),
                _ => lab.live(&container, next, &["other:/other"]).ok(),
            };
            container.exec("! grep ' /srv/d ' /proc/self/mountinfo").ok();
            assert!(!is_held(&lab, "db"), "{next}");
            container.delete();
            lab.assert_clean();
        }
    });
}

// Killed when it was taken out and nothing written down.
#[test]
fn a_detach_that_was_killed() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        fs::create_dir_all(container.rootfs().join("d")).unwrap();
        container.ask("db:/d").start("sleep 1000");
        killed(&lab, &container, HOME_AGAIN, "detach", &["/d"]);
        container.exec("! grep ' /d ' /proc/self/mountinfo").ok();
        assert_eq!(lab.live(&container, "update", &["db:/d"]).ok().out, "attached db:/d at /d\n");
        container.exec("touch /d/f").ok();
        assert!(db.join("f").exists());
        killed(&lab, &container, HOME_AGAIN, "detach", &["/d"]);
        assert_eq!(lab.live(&container, "detach", &["/d"]).code, 79);
        assert!(!is_held(&lab, "db"));
        container.delete();
        lab.assert_clean();
    });
}

// What the container itself has taken out it may have open still, which nobody can see.
#[test]
fn a_volume_that_the_container_has_taken_out() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut container = lab.container(runtime, "c");
        with_capability(&mut container, "CAP_SYS_ADMIN");
        container
            .ask("db:/d")
            .start("until [ -e /go ]; do sleep 0.02; done; exec 3>/d/open; umount -l /d; touch /out; while :; do echo x >&3; sleep 0.02; done");
        fs::write(container.rootfs().join("go"), "").unwrap();
        wait_for("its end", || container.rootfs().join("out").exists());
        lab.live(&container, "update", &[]).ok();
        assert!(is_held(&lab, "db"));
        assert_eq!(lab.live(&container, "update", &["db:/d"]).ok().out, "attached db:/d at /d\n");
        let size = || fs::metadata(db.join("open")).unwrap().len();
        let before = size();
        wait_for("the writer to go on", || size() > before);
        container.delete();
        assert!(!is_held(&lab, "db"));
        lab.assert_clean();
    });
}

// The container's end is seen after the record is locked: poststop, which waits for nobody then, will not come again.
#[test]
fn a_container_that_ends_before_anything_is_attached() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.start("sleep 1000");
        let (config, root) = (lab.config(), container.root.clone());
        let late = std::thread::spawn(move || {
            let mut command = Command::new("strace");
            command.args(["-f", "-o", "/dev/null", "-e", "inject=flock:delay_enter=1500000:when=1", CLI, "--config"]);
            command.arg(config).args(["attach", "--runtime-root", root.to_str().unwrap(), "c", "db:/srv/d"]);
            run_with(&mut command, b"")
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        container.kill();
        container.delete();
        let ran = late.join().unwrap();
        assert!(ran.code == 78 && ran.err.contains("has ended"), "{ran:?}");
        assert!(lab.runtime_files("records").is_empty() && !container.rootfs().join("srv").exists());
        lab.assert_clean();
    });
}

// Directories that lead somewhere else each moment: whatever is attached where, it is held as long as it is there.
#[test]
fn directories_that_change_all_the_time() {
    each(|runtime| {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(runtime, "c");
        container.start("while :; do mkdir -p /a/x /b/x; mv /a /t; mv /b /a; mv /t /b; rmdir /a/x; ln -s /tmp /a/x; mv /a/x /a/y 2>/dev/null; done");
        let before = mount_table();
        for _ in 0..40 {
            lab.live(&container, "attach", &["db:/a/x"]);
            lab.live(&container, "detach", &["--lazy", "/a/x"]);
            let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
            assert!(!table.contains("/roles/default/db") || !leases().is_empty(), "{table}");
        }
        assert_eq!(mount_table(), before);
        container.kill();
        container.delete();
        lab.assert_clean();
    });
}
