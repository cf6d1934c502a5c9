//! `filesystem/posix` with real containers of runc and crun, on the host's filesystem.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use common::*;
use nix::mount::{MsFlags, mount};
use serde_json::json;

/// Waits in the container until the test has put a file into its sandbox: `crun exec` has neither the container's user
/// nor its working directory.
const WAIT: &str = "while ! [ -e go ]; do sleep 0.02; done";

/// A sandbox, made with the command for people.
fn sandbox(lab: &Lab, uid: u32, name: &str) -> PathBuf {
    lab.cli(&["sandbox", "create", "--owner", &format!("{uid}:{uid}"), name]).ok();
    lab.work().join("sandboxes/posix").join(name)
}

/// A container of this user on the host's filesystem, with this sandbox.
fn container(lab: &Lab, runtime: Runtime, id: &str, uid: u32, sandbox: &Path) -> Container {
    let mut container = lab.host_container(runtime, id);
    container.user(uid, uid).cwd(sandbox);
    if uid != 0 {
        container.spec["process"]["capabilities"] = json!({});
    }
    container
}

/// The container is refused with this code, does not start, and nothing in `work_dir` is other than before.
#[track_caller]
fn refused(lab: &Lab, container: &mut Container, code: u8) -> String {
    let before = manifest(&lab.work());
    let ran = container.run_shell("echo started").failed();
    assert!(!ran.out.contains("started"), "{ran:?}");
    let log = lab.log(&container.id);
    assert!(log.contains(&format!("[exit {code}]")), "{code}: {log}");
    assert_eq!(manifest(&lab.work()), before);
    lab.assert_clean();
    fs::remove_dir_all(lab.runtime_dir().join("log")).unwrap();
    log
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|stat| stat.is_symlink())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

// mesos.md E8 and E26: Mesos skipped a volume at `a/b` with a warning.
#[test]
fn e8_a_link_in_the_sandbox_leads_to_the_volume() {
    each(|runtime| {
        for (uid, path) in [(0, "data"), (0, "a/b"), (1000, "data"), (1000, "a/b/c")] {
            let lab = Lab::new("filesystem/posix");
            let volume = lab.volume("my data");
            let sandbox = sandbox(&lab, uid, "s");
            let mut first = container(&lab, runtime, "first", uid, &sandbox);
            first.ask(&format!("my data:{path}"));
            let script =
                format!("echo 1 >> {path}/n; cat {path}/n; readlink {path}; grep -c roles /proc/self/mountinfo");
            let ran = first.run_shell(&script);
            assert_eq!(ran.lines(), ["1", volume.to_str().unwrap(), "0"], "{ran:?}");
            assert!(names(&sandbox).is_empty(), "the link is gone, and the directories above it");
            let mut next = container(&lab, runtime, "next", uid, &sandbox);
            let out = next.ask(&format!("my data:{path}")).run_shell(&format!("cat {path}/n; echo 2 > {path}/n")).ok();
            assert_eq!(out.lines(), ["1"], "the next container finds it");
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), "2\n");
            let stat = fs::metadata(&volume).unwrap();
            assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (uid, uid, 0o750), "mesos.md P9");
            lab.assert_clean();
        }
    });
}

#[test]
fn several_volumes_and_a_subpath_have_a_link_each() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let (one, two) = (lab.volume("one"), lab.volume("two"));
        fs::create_dir(two.join("p")).unwrap();
        let sandbox = sandbox(&lab, 0, "s");
        let mut container = container(&lab, runtime, "c", 0, &sandbox);
        container.ask("one:x;two:d/y;two:d/z:subpath=p");
        container.run_shell("echo 1 > x/f; echo 2 > d/y/f; echo 3 > d/z/f; echo 4 > beside").ok();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(
            (read(one.join("f")), read(two.join("f")), read(two.join("p/f"))),
            ("1\n".into(), "2\n".into(), "3\n".into())
        );
        assert_eq!(names(&sandbox), ["beside"], "what the container wrote stays in its sandbox");
        lab.assert_clean();
    });
}

#[test]
fn a_sandbox_may_lie_where_the_administrator_says() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let home = lab.dir.join("homes/me/run");
        lab.configure(json!({ "isolation": "filesystem/posix", "posix_sandboxes": [lab.dir.join("homes")] }));
        fs::create_dir_all(&home).unwrap();
        chown(&home, Some(1000), None).unwrap();
        let volume = lab.volume("db");
        container(&lab, runtime, "c", 1000, &home).ask("db:data").run_shell("touch data/f").ok();
        assert!(volume.join("f").exists());
        let mut outside = container(&lab, runtime, "d", 1000, &sandbox(&lab, 1000, "s"));
        refused(&lab, outside.ask("db:data"), 53);
    });
}

// What the container put in the place of its link is its own, and the volume stays whole.
#[test]
fn what_a_container_puts_in_the_place_of_its_link_stays() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = sandbox(&lab, 1000, "s");
        let mut container = container(&lab, runtime, "c", 1000, &sandbox);
        // The kernel likes to give a new file the inode of the one that was removed last.
        for (script, left) in [
            ("touch data/f; rm data; echo mine > data", "data"),
            ("rm data; ln -s / data", "data"),
            ("rm data; mkdir data", "data"),
            ("rm data; mkdir data; touch data/g", "data"),
            ("mv data moved; touch data", "data moved"),
        ] {
            // Earlier, poststart would miss the link, and end the container.
            container.ask("db:data").start(&format!("{WAIT}; {script}"));
            fs::write(sandbox.join("go"), "").unwrap();
            wait_for("it to end", || !container.is_running());
            container.delete();
            fs::remove_file(sandbox.join("go")).unwrap();
            assert_eq!(names(&sandbox).join(" "), left, "{script}");
            assert_eq!(names(&volume), ["f"]);
            lab.assert_clean();
            run("sh", &["-c", &format!("rm -r {}/*", sandbox.display())]).ok();
        }
    });
}

#[test]
fn a_container_with_an_image_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = sandbox(&lab, 0, "s");
        let mut container = lab.container(runtime, "c");
        let log = refused(&lab, container.cwd(&sandbox).ask("db:data"), 54);
        assert!(log.contains("filesystem/linux"), "{log}");
        // Nor do directories of the same names help, the sandbox's own included.
        for path in [&volume, &sandbox] {
            fs::create_dir_all(container.rootfs().join(path.strip_prefix("/").unwrap())).unwrap();
        }
        refused(&lab, &mut container, 54);
        container.bind(&sandbox, sandbox.to_str().unwrap(), &["bind"]);
        assert!(refused(&lab, &mut container, 54).contains("volumes/roles"), "only the volume is another");
    });
}

// It has every path of the host, and what is written there is lost.
#[test]
fn an_overlay_of_the_host_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        let sandbox = sandbox(&lab, 0, "s");
        // On one filesystem with the lower layer an overlay shows its inodes, and only the device differs.
        let layers = lab.dir.join("layers");
        for name in ["upper", "work"] {
            fs::create_dir_all(layers.join(name)).unwrap();
        }
        let mut container = lab.container(runtime, "c");
        let options = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", layers.display());
        let overlay = Some("overlay");
        mount(overlay, &container.rootfs(), overlay, MsFlags::empty(), Some(options.as_str())).unwrap();
        refused(&lab, container.cwd(&sandbox).ask("db:data"), 54);
    });
}

#[test]
fn a_filesystem_that_the_container_does_not_see_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let (volume, sandbox) = (lab.volume("db"), sandbox(&lab, 0, "s"));
        for hidden in [&volume, &sandbox] {
            tmpfs(hidden, MsFlags::empty());
            chmod(hidden, 0o750);
            let mut container = container(&lab, runtime, "c", 0, &sandbox);
            let log = refused(&lab, container.ask("db:data"), 54);
            assert!(log.contains(hidden.to_str().unwrap()), "{log}");
            // Bound in, it is the same.
            container.bind(hidden, hidden.to_str().unwrap(), &["bind"]).run_shell("echo 1 > data/f").ok();
            assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "1\n");
            for at in [&container.rootfs(), hidden] {
                nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        }
        lab.assert_clean();
    });
}

// mesos.md E1: Mesos gave it read-write, with a warning. mesos.md E8: Mesos left it out.
#[test]
fn e1_e8_e26_what_a_link_cannot_keep_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        lab.volume("two");
        let sandbox = sandbox(&lab, 0, "s");
        let inside = format!("db:{}", sandbox.join("data").display());
        let mut container = container(&lab, runtime, "c", 0, &sandbox);
        for (request, code) in [
            ("db:data:ro", 44),
            ("db:/data", 37),
            (&inside, 37),
            ("db:../data", 37),
            ("db:data:nosuid", 24),
            ("db:data:nodev", 24),
            ("db:data:noexec", 24),
            ("db:data:slave", 24),
            ("db:data:private", 24),
            ("host=/etc:data", 40),
            ("sandbox=tmp:data", 40),
            ("db:data;two:data", 38),
            ("db:data;two:data/inner", 38),
            ("db:data;missing:other", 41),
        ] {
            refused(&lab, container.ask(request), code);
        }
    });
}

#[test]
fn a_working_directory_that_cannot_be_a_sandbox_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        let of = |uid, name: &str, mode| {
            let path = sandbox(&lab, uid, name);
            chmod(&path, mode);
            path
        };
        let elsewhere = lab.dir.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        chown(&elsewhere, Some(1000), Some(1000)).unwrap();
        let good = of(1000, "good", 0o750);
        symlink(&elsewhere, good.with_file_name("link")).unwrap();
        let mut container = container(&lab, runtime, "c", 1000, &good);
        container.ask("db:data");
        for cwd in [
            Path::new("/"),
            &elsewhere,
            &lab.work(),
            &lab.work().join("sandboxes"),
            &lab.work().join("sandboxes-not"),
            &good.join("../../../../elsewhere"),
            &good.with_file_name("link"),
            &of(0, "of root", 0o755),
            &of(1001, "of another", 0o755),
            &of(1000, "group", 0o770),
            &of(1000, "others", 0o757),
            &of(1000, "sticky", 0o1777),
        ] {
            let log = refused(&lab, container.cwd(cwd), 53);
            assert!(log.contains("sandbox create --owner") || log.contains("chmod go-w"), "{log}");
        }
        // Root is as bound to its own as anybody.
        refused(&lab, container.user(0, 0).cwd(&good), 53);
        container.user(1000, 1000).run_shell("touch data/f").ok();
    });
}

#[test]
fn a_link_that_leads_to_the_volume_already_stays() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = sandbox(&lab, 1000, "s");
        fs::create_dir(sandbox.join("a")).unwrap();
        symlink(&volume, sandbox.join("a/b")).unwrap();
        let before = manifest(&sandbox);
        let mut container = container(&lab, runtime, "c", 1000, &sandbox);
        for lines in ["1\n", "1\n1\n"] {
            container.ask("db:a/b").run_shell("echo 1 >> a/b/n").ok();
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), lines);
            assert_eq!(manifest(&sandbox), before);
        }
        lab.assert_clean();
    });
}

#[test]
fn anything_else_in_the_links_place_is_refused_and_untouched() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let sandbox = sandbox(&lab, 1000, "s");
        let (_, other) = (lab.volume("db"), lab.volume("other"));
        fs::create_dir(sandbox.join("directory")).unwrap();
        fs::write(sandbox.join("directory/f"), "mine").unwrap();
        fs::write(sandbox.join("file"), "mine").unwrap();
        symlink(&other, sandbox.join("link")).unwrap();
        symlink("/nowhere", sandbox.join("dangling")).unwrap();
        let mut container = container(&lab, runtime, "c", 1000, &sandbox);
        for (path, code) in [
            ("directory", 55),
            ("file", 55),
            ("link", 55),
            ("dangling", 55),
            // On the way: the user could lead the hook anywhere.
            ("link/data", 51),
            ("dangling/data", 51),
            ("file/data", 51),
        ] {
            // The first is attached by then, and taken back.
            refused(&lab, container.ask(&format!("other:a;db:{path}")), code);
        }
    });
}

// mesos.md P9's counterpart to 0750: a link to what the user cannot reach is no use.
#[test]
fn a_volume_that_the_user_cannot_reach_is_refused() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        chmod(&lab.work().join("volumes"), 0o700);
        let mut user = container(&lab, runtime, "c", 1000, &sandbox(&lab, 1000, "s"));
        let log = refused(&lab, user.ask("db:data"), 45);
        assert!(log.contains("chmod o+x"), "{log}");
        container(&lab, runtime, "d", 0, &sandbox(&lab, 0, "r")).ask("db:data").run_shell("touch data/f").ok();
    });
}

#[test]
fn the_last_container_of_a_sandbox_takes_the_link_away() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = sandbox(&lab, 1000, "s");
        let [mut first, mut second] = ["first", "second"].map(|id| container(&lab, runtime, id, 1000, &sandbox));
        for path in ["data", "a/b"] {
            let request = format!("db:{path}:shared");
            first.ask(&request).start("sleep 1000");
            second.ask(&request).start(&format!("{WAIT}; echo {path} > {path}/n; rm go; sleep 1000"));
            first.delete();
            assert!(is_link(&sandbox.join(path)));
            fs::write(sandbox.join("go"), "").unwrap();
            wait_for("the second to have written", || !sandbox.join("go").exists());
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), format!("{path}\n"));
            second.delete();
            assert!(names(&sandbox).is_empty());
        }
        lab.assert_clean();
    });
}

#[test]
fn users_cannot_enter_each_others_sandboxes_and_volumes_nor_list_their_parents() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volumes = [lab.volume("one"), lab.volume_of("eng/back", "two")];
        let sandboxes = [sandbox(&lab, 1000, "one"), sandbox(&lab, 1001, "two")];
        let requests = ["one:data", "two:data:role=eng/back"];
        let mut containers = [0, 1].map(|me| {
            // Every place, with what this user can do there.
            let mut places = Vec::new();
            for pair in [&volumes, &sandboxes] {
                places.push((pair[me].as_path(), "entered\nlisted\nsecret\nwritten\n"));
                places.push((pair[1 - me].as_path(), ""));
                let parents = pair.iter().flat_map(|path| path.ancestors().skip(1));
                places.extend(parents.filter(|path| path.starts_with(lab.work()) && *path != lab.work()).map(|path| (path, "entered\n")));
            }
            let (mut script, mut expected) = (format!("echo secret > f; echo secret > data/f; {WAIT};"), String::new());
            for (path, can) in places {
                let path = path.display();
                script.push_str(&format!("echo '{path}'; (cd '{path}' && echo entered; ls '{path}' >/dev/null && echo listed; cat '{path}/f'; touch '{path}/g' && echo written) 2>/dev/null;"));
                expected.push_str(&format!("{path}\n{can}"));
            }
            let mut container = container(&lab, runtime, ["one", "two"][me], 1000 + me as u32, &sandboxes[me]);
            container.ask(requests[me]).start(&format!("{script} echo done; sleep 1000"));
            (container, expected + "done\n")
        });
        let written = |path: &PathBuf| fs::metadata(path.join("f")).is_ok_and(|stat| stat.len() > 0);
        wait_for("both to have written", || volumes.iter().chain(&sandboxes).all(written));
        for (index, (container, expected)) in containers.iter_mut().enumerate() {
            fs::write(sandboxes[index].join("go"), "").unwrap();
            wait_for("it to have tried", || container.output().ends_with("done\n"));
            assert_eq!(container.output(), *expected);
            container.delete();
        }
        lab.assert_clean();
    });
}

#[test]
fn a_container_of_root_is_warned_of() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.volume("db");
        for uid in [0, 1000] {
            let id = format!("of-{uid}");
            let mut container = container(&lab, runtime, &id, uid, &sandbox(&lab, uid, &id));
            container.ask("db:data").start("sleep 1000");
            assert_eq!(lab.log(&id).contains("runs as root on the host's filesystem"), uid == 0, "{}", lab.log(&id));
            container.delete();
        }
        lab.assert_clean();
    });
}

/// A process in the test's own mount namespace; it ends with the test.
struct Sleep(Child);

impl Drop for Sleep {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

// Never with a real runtime: in this set-up they damage the host's mounts. The hooks' standard input is enough.
#[test]
fn a_container_without_a_mount_namespace_is_served() {
    on_both(|_| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        let sandbox = sandbox(&lab, 1000, "s");
        let mut container = lab.container(Runtime::Crun, "c");
        container.user(1000, 1000).cwd(&sandbox).ask("db:a/data");
        container.spec["linux"]["namespaces"] = json!([{ "type": "pid" }]);
        let init = Sleep(Command::new("sleep").arg("1000").spawn().unwrap());
        let state = container.state(init.0.id() as i32).to_string();
        let call = |program| hook(program, &lab.config(), state.as_bytes());
        // An image does not have the volume, whatever its namespace.
        container.write();
        assert_eq!(call(PRESTART).code, 54);
        lab.assert_clean();
        container.spec["root"]["path"] = json!("/");
        container.write();
        let before = mount_table();
        call(PRESTART).ok();
        assert_eq!(fs::canonicalize(sandbox.join("a/data")).unwrap(), volume);
        call(POSTSTART).ok();
        call(POSTSTOP).ok();
        assert!(is_link(&sandbox.join("a/data")), "its init lives");
        drop(init);
        call(POSTSTOP).ok();
        assert!(names(&sandbox).is_empty());
        assert_eq!(mount_table(), before);
        lab.assert_clean();
    });
}

// The link is made before the volume has its id, and must lead to where it will be.
#[test]
fn a_missing_volume_is_made_and_linked_by_its_name() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        lab.configure(json!({ "isolation": "filesystem/posix", "create_missing_volumes": true }));
        let sandbox = sandbox(&lab, 1000, "s");
        let mut first = container(&lab, runtime, "first", 1000, &sandbox);
        let ran = first.ask("new:data").run_shell("readlink data && echo 1 > data/n").ok();
        assert_eq!(Path::new(ran.out.trim()), lab.volume_path("default", "new"));
        assert!(lab.volume_path("default", "new").join("n").exists());
        lab.assert_clean();
    });
}

// What lies inside a volume is its user's, and the way through it is none of the administrator's.
#[test]
fn a_subpath_below_the_users_own_directory_is_linked() {
    each(|runtime| {
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        chown(&volume, Some(1000), Some(1000)).unwrap();
        chmod(&volume, 0o700);
        fs::create_dir(volume.join("sub")).unwrap();
        chown(volume.join("sub"), Some(1000), Some(1000)).unwrap();
        let sandbox = sandbox(&lab, 1000, "s");
        let mut first = container(&lab, runtime, "first", 1000, &sandbox);
        first.ask("db:data:subpath=sub").run_shell("touch data/f").ok();
        assert!(volume.join("sub/f").exists());
        lab.assert_clean();
    });
}
