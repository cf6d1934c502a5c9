//! The hooks under podman, with runc and with crun.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/podman.rs"]
mod podman;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use nix::mount::{MntFlags, MsFlags, umount2};
use podman::{DB, IMAGE, Podman, text};
use serde_json::{Value, json};

const SANDBOX: &str = "/mnt/mesos/sandbox";

/// Runs a test with each runtime, on a host of its own: podman's storage belongs to one mount namespace.
fn each(isolation: &'static str, test: fn(&Podman)) {
    for runtime in RUNTIMES {
        on(Host::Shared, move || test(&Podman::new(runtime, isolation)));
    }
}

#[test]
fn the_command_of_the_readme_grows_by_a_line_each_time() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        let command = [
            "--annotation",
            DB,
            IMAGE,
            "sh",
            "-c",
            "echo 1 >> /mnt/mesos/sandbox/data/n; cat /mnt/mesos/sandbox/data/n",
        ];
        for count in 1..=3 {
            let ran = podman.run(&[&["run", "--rm"], &command[..]].concat()).ok();
            assert_eq!(ran.out, "1\n".repeat(count), "{ran:?}");
        }
        assert_eq!(volume, podman.lab.work().join("volumes/roles/default/db"));
        assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), "1\n1\n1\n");
        podman.assert_clean();
    });
}

#[test]
fn relative_absolute_and_nested_paths_lead_to_the_volume_and_not_to_the_host() {
    each("filesystem/linux", |podman| {
        for id in ["one", "two", "three"] {
            podman.lab.volume(id);
        }
        let places = ["/mnt/mesos/sandbox/data", "/srv/data", "/mnt/mesos/sandbox/a/b"];
        let look = places.map(|place| format!("cat {place}/n")).join("; ");
        let write = places.map(|place| format!("echo {place} > {place}/n")).join("; ");
        let asked = "one:data;two:/srv/data;three:a/b";
        podman.ask(asked, &write).ok();
        for (id, place) in ["one", "two", "three"].iter().zip(places) {
            let path = podman.lab.volume_path("default", id).join("n");
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{place}\n"));
        }
        // The next container finds it, also on a read-only root, and nothing of the host's.
        let options = ["--read-only", "--annotation", &format!("io.fs-isolator.volumes={asked}")];
        assert_eq!(podman.shell(&options, &look).ok().lines(), places);
        let work = podman.lab.work();
        assert_eq!(podman.ask(asked, &format!("ls {SANDBOX}; ls {}", work.display())).failed().lines(), ["a", "data"]);
        podman.assert_clean();
    });
}

#[test]
fn read_only_covers_submounts() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        tmpfs(&volume, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        tmpfs(&volume.join("sub"), MsFlags::empty());
        let script = "touch /d/x || touch /d/sub/x || grep ' /d' /proc/self/mountinfo";
        let ran = podman.ask("db:/d:ro", script).ok();
        assert!(ran.out.contains(" /d ro,nosuid,nodev,") && ran.out.contains(" /d/sub ro,"), "{ran:?}");
        podman.ask("db:/d", "touch /d/x /d/sub/x").ok();
        assert!(volume.join("x").exists() && volume.join("sub/x").exists());
        // A container that could undo it is refused.
        let ran = podman.shell(&["--cap-add", "SYS_ADMIN", "--annotation", "io.fs-isolator.volumes=db:/d:ro"], "true");
        podman.refused(&ran, 44);
        for path in [volume.join("sub"), volume] {
            umount2(&path, MntFlags::MNT_DETACH).unwrap();
        }
        podman.assert_clean();
    });
}

#[test]
fn mounts_of_the_container_never_reach_the_host() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        fs::create_dir(volume.join("later")).unwrap();
        let source = podman.path("source");
        tmpfs(&source, MsFlags::empty());
        let slave = format!("{}:/source:rslave", source.display());
        // podman writes rootfsPropagation for any slave volume; without it crun makes everything private, and poststart
        // gives slave back.
        for options in [&[][..], &["-v", &slave]] {
            podman.start("c", &[&["--cap-add", "SYS_ADMIN", "--annotation", DB], options].concat());
            podman.exec("c", &format!("cd {SANDBOX}/data; mkdir -p in; mount -t tmpfs none in; touch in/marker")).ok();
            podman.exec("c", &format!("mount -t tmpfs none {SANDBOX}/data/in && ! mount -t tmpfs none /x")).ok();
            assert_eq!(names(&volume.join("in")), [""; 0]);
            podman.assert_host_untouched();
            tmpfs(&volume.join("later"), MsFlags::empty());
            fs::write(volume.join("later/marker"), "").unwrap();
            let seen = podman.exec("c", &format!("ls {SANDBOX}/data/later")).ok().out;
            assert!(seen.contains("marker"), "{:?} {options:?}", podman.runtime);
            umount2(&volume.join("later"), MntFlags::MNT_DETACH).unwrap();
            podman.run(&["rm", "-f", "-t", "0", "c"]).ok();
        }
        podman.assert_clean();
    });
}

#[test]
fn posix_links_on_the_hosts_filesystem() {
    each("filesystem/posix", |podman| {
        let (host, volume) = (podman.path("host"), podman.lab.volume("db"));
        bind(Path::new("/"), &host);
        let before = ["/", "/etc", "/run", "/dev"].map(|directory| names(Path::new(directory)));
        for (user, count) in [("0", 1), ("0", 2), ("1000", 3)] {
            let made = podman.lab.cli(&["sandbox", "create", "--owner", user, &format!("s{count}")]).ok();
            let sandbox = made.out.trim();
            fs::write(Path::new(sandbox).join("mine"), "").unwrap();
            let rootfs = ["--rootfs", text(&host), "sh", "-c", "echo 1 >> data/n; cat data/n; readlink data"];
            let options = ["run", "--rm", "--user", user, "--workdir", sandbox, "--annotation", DB];
            let run = "type=tmpfs,destination=/run,notmpcopyup";
            if user != "0" {
                run_with(Command::new("chown").args(["-R", user, text(&volume)]), b"").ok();
            }
            let ran = podman.run(&[&options[..], &["--mount", run], &rootfs].concat()).ok();
            let expected = [&vec!["1"; count][..], &[text(&volume)]].concat();
            assert_eq!(ran.lines(), expected, "{ran:?}");
            assert_eq!(names(Path::new(sandbox)), ["mine"], "the link is gone");
        }
        assert_eq!(["/", "/etc", "/run", "/dev"].map(|directory| names(Path::new(directory))), before);
        podman.assert_clean();
    });
}

#[test]
fn posix_is_refused_where_the_container_does_not_see_the_volume() {
    each("filesystem/posix", |podman| {
        let volume = podman.lab.volume("db");
        let made = podman.lab.cli(&["sandbox", "create", "--owner", "0", "s"]).ok();
        let sandbox = made.out.trim();
        let options = ["--workdir", sandbox, "--annotation", DB];
        // An overlay of `/`: what is written there is lost.
        let rootfs = ["--mount", "type=tmpfs,destination=/run,notmpcopyup", "--rootfs", "/:O"];
        let script = ["sh", "-c", "echo STARTED > data/n; echo STARTED"];
        let ran = podman.run(&[&["run", "--rm"], &options[..], &rootfs, &script].concat());
        assert!(podman.refused(&ran, 54).contains("filesystem/linux"));
        // An image, at its own working directory and with the sandbox bound in.
        podman.refused(&podman.shell(&options[2..], "echo STARTED"), 53);
        let bound = format!("{sandbox}:{sandbox}");
        let ran = podman.shell(&[&["-v", &bound], &options[..]].concat(), "echo STARTED > data/n; echo STARTED");
        assert!(podman.refused(&ran, 54).contains("filesystem/linux"));
        assert!(names(&volume).is_empty() && names(Path::new(sandbox)).is_empty());
        podman.assert_clean();
    });
}

#[test]
fn without_a_configuration_an_image_is_refused_and_told_the_line_to_write() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        podman.configure(json!({}));
        let log = podman.refused(&podman.shell(&["--annotation", DB], "echo STARTED"), 53);
        let line = log.find('{').map(|start| &log[start..=log.find('}').unwrap()]).unwrap();
        assert_eq!(line, r#"{"isolation": "filesystem/linux"}"#);
        assert_eq!(log.matches(": error: ").count(), 1, "{log}");
        // Whoever writes it has what was asked for.
        podman.configure(serde_json::from_str(line).unwrap());
        podman.ask("db:data", &format!("touch {SANDBOX}/data/n")).ok();
        podman.assert_clean();
    });
}

#[test]
fn a_storage_that_is_not_listed_is_refused_and_told_the_line_to_write() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        podman.configure(json!({ "isolation": "filesystem/linux", "managers": {} }));
        let log = podman.refused(&podman.shell(&["--annotation", DB], "echo STARTED"), 30);
        let line = log.find('{').map(|start| &log[start..=log.rfind('}').unwrap()]).unwrap();
        let mut config: Value = serde_json::from_str(line).unwrap();
        config["isolation"] = json!("filesystem/linux");
        podman.configure(config);
        let ran = podman.ask("db:data", &format!("touch {SANDBOX}/data/n"));
        assert_eq!(ran.code, 0, "{line} is not the line to write: {ran:#?}");
        podman.assert_clean();
    });
}

const POD: &str = "94f06ebb1d5863b315d36d1ce31bdb90b6208b3dbb72329f83e0396181a21d4e";

/// What an image or a user may claim to be.
const FORGED: [(&str, &str); 7] = [
    ("io.container.manager", "cri-o"),
    ("io.kubernetes.pod.namespace", "kube-system"),
    ("io.kubernetes.pod.name", "p"),
    ("io.kubernetes.container.name", "app"),
    ("io.kubernetes.cri-o.SandboxName", "k8s_p_kube-system_u_0"),
    ("io.kubernetes.cri-o.SandboxID", POD),
    ("io.kubernetes.cri-o.ContainerType", "sandbox"),
];

#[test]
fn an_image_cannot_forge_who_it_is() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        podman.lab.volume_of("kube-system", "db");
        let all: Value = FORGED.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let each = FORGED.iter().map(|(key, value)| json!({ *key: value }));
        for mut forged in [all.clone()].into_iter().chain(each) {
            forged["io.fs-isolator.volumes"] = json!("db:data");
            let image = podman.image_with(forged.clone());
            let ran = podman.run(&["run", "--name", "c", &image, "sh", "-c", "echo STARTED"]);
            let log = podman.refused(&ran, 31);
            assert!(FORGED.iter().any(|(key, _)| log.contains(key)) || log.contains(POD), "{forged} {log}");
            // It never ran, and does not by another way either.
            assert_eq!(podman.inspect("c", ".State.Status"), "created", "{forged}");
            podman.run(&["start", "c"]).failed();
            podman.log();
            podman.run(&["rm", "c"]).ok();
        }
        assert_eq!(podman.lab.sandboxes("podman"), [""; 0]);
        // Where it asks for nothing it may claim what it likes.
        let image = podman.image_with(all);
        assert_eq!(podman.run(&["run", "--rm", &image, "echo", "STARTED"]).ok().out, "STARTED\n");
        // The image's request alone is a request; with a token of the administrator's it is none.
        let image = podman.image_with(json!({ "io.fs-isolator.volumes": "db:data" }));
        let token = "0123456789abcdef";
        podman.configure(json!({ "isolation": "filesystem/linux", "request_token": token }));
        podman.refused(&podman.run(&["run", "--rm", &image, "echo", "STARTED"]), 32);
        let token = format!("io.fs-isolator.token={token}");
        podman.run(&["run", "--rm", "--annotation", &token, &image, "touch", &format!("{SANDBOX}/data/n")]).ok();
        podman.assert_clean();
    });
}

// podman of the machine is 4.3.1.
#[test]
fn install_sets_a_token_that_images_do_not_know() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        let (bin, from) = (podman.path("bin"), Path::new(PRESTART).parent().unwrap());
        let install = |hooks: &Path| {
            let places = ["--hooks-dir", text(hooks), "--bin-dir", text(&bin), "--from", text(from)];
            podman.lab.cli(&[&["install"], &places[..]].concat()).ok()
        };
        let image = podman.image_with(json!({ "io.fs-isolator.volumes": "db:data" }));
        let before = fs::read(podman.lab.config()).unwrap();
        // An upgrade: what runs here asks without one.
        let said = install(&podman.path("hooks.d"));
        assert!(said.out.contains("no request_token is set: an upgrade"), "{said:?}");
        assert_eq!(fs::read(podman.lab.config()).unwrap(), before);

        fs::remove_dir_all(podman.path("hooks.d")).unwrap();
        let said = install(&podman.path("hooks.d"));
        assert!(said.out.contains("set request_token in") && said.out.contains("config --token"), "{said:?}");
        assert_eq!(fs::metadata(podman.lab.config()).unwrap().mode() & 0o777, 0o600);
        let token = podman.lab.cli(&["config", "--token"]).ok().out.trim().to_owned();
        assert!(token.len() == 32 && !said.out.contains(&token), "it is in no terminal's history");
        podman.refused(&podman.run(&["run", "--rm", &image, "echo", "STARTED"]), 32);
        podman.refused(&podman.ask("db:data", "echo STARTED"), 32);
        let token = format!("io.fs-isolator.token={token}");
        podman.shell(&["--annotation", &token, "--annotation", DB], &format!("touch {SANDBOX}/data/n")).ok();

        // Once there is one, it stays.
        let before = fs::read(podman.lab.config()).unwrap();
        assert!(!install(&podman.path("other.d")).out.contains("token"));
        assert_eq!(fs::read(podman.lab.config()).unwrap(), before);
        podman.assert_clean();
    });
}

#[test]
fn a_user_cannot_forge_who_it_is() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        for (key, value) in FORGED {
            let forged = format!("{key}={value}");
            podman.refused(&podman.shell(&["--annotation", &forged, "--annotation", DB], "echo STARTED"), 31);
            assert_eq!(podman.shell(&["--annotation", &forged], "echo STARTED").ok().out, "STARTED\n");
        }
        // Outside of CRI-O no container has a name by which a key could address it.
        let ran = podman.shell(&["--annotation", "io.fs-isolator.volumes/app=db:data"], "echo STARTED");
        podman.refused(&ran, 33);
        podman.assert_clean();
    });
}

#[test]
fn stop_start_restart_and_kill_keep_data_and_sandbox() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        podman.start("c", &["--annotation", DB]);
        let mut expected = String::new();
        for verb in [&["stop", "-t", "0"][..], &["restart", "-t", "0"], &["kill"], &["exec"], &["rm", "-f", "-t", "0"]]
        {
            podman.exec("c", &format!("cd {SANDBOX}; echo {} >> mine; cat mine > data/n", verb[0])).ok();
            expected.push_str(&format!("{}\n", verb[0]));
            assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), expected, "{verb:?}");
            assert_eq!(podman.records(), 1);
            podman.assert_host_untouched();
            if verb == ["exec"] {
                // Not podman, but the kernel or its operator.
                let pid: i32 = podman.inspect("c", ".State.Pid").parse().unwrap();
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
            } else {
                podman.run(&[verb, &["c"]].concat()).ok();
            }
            if verb != ["restart", "-t", "0"] {
                podman.settled();
                assert_eq!(names(&podman.sandbox()), ["mine"], "{verb:?}");
            }
            if !["restart", "rm"].contains(&verb[0]) {
                podman.run(&["start", "c"]).ok();
            }
        }
        assert_eq!(fs::read_to_string(podman.sandbox().join("mine")).unwrap(), expected);
        podman.assert_clean();
        // One that was created and never started, and one whose sandbox is not kept.
        podman.configure(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
        podman.run(&["create", "--name", "d", "--annotation", DB, IMAGE, "true"]).ok();
        podman.run(&["init", "d"]).ok();
        assert_eq!((podman.records(), podman.lab.sandboxes("podman").len()), (1, 2));
        podman.run(&["rm", "-f", "-t", "0", "d"]).ok();
        podman.assert_clean();
        assert_eq!(podman.lab.sandboxes("podman").len(), 1, "the one of before");
    });
}

// With the flag --hooks-dir podman 4.3 restarts containers without their hooks; with hooks_dir it does not.
#[test]
fn a_container_that_podman_restarts_has_its_volume_each_time() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        let script = format!("grep -c {SANDBOX}/data /proc/self/mountinfo >> {SANDBOX}/data/n; exit 1");
        let options = ["run", "-d", "--name", "c", "--restart", "on-failure:2", "--annotation", DB];
        podman.run(&[&options[..], &[IMAGE, "sh", "-c", &script]].concat()).ok();
        wait_for("the last restart", || {
            podman.inspect("c", ".State.Status") == "exited" && podman.inspect("c", ".RestartCount") == "2"
        });
        let lines = fs::read_to_string(volume.join("n")).unwrap();
        assert!(lines.lines().count() >= 3 && lines.lines().all(|line| line == "1"), "{lines:?}");
        podman.assert_clean();
    });
}

#[test]
fn a_command_that_does_not_exist_is_in_nobodys_way() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        let rootfs = podman.path("rootfs");
        let before = names(&rootfs);
        // podman never runs poststop then: not at once, nor at rm.
        let options = ["--annotation", DB, "--annotation", "io.fs-isolator.sandbox=true"];
        for command in [["run", "--name", "c"], ["run", "--name", "d"]] {
            let ran = podman.run(&[&command[..], &options, &["--rootfs", text(&rootfs), "/missing"]].concat());
            assert_eq!(ran.code, 127, "{ran:?}");
        }
        podman.run(&["rm", "d"]).ok();
        assert!(podman.records() > 0 && rootfs.join("mnt").exists(), "this test is of no use any more");
        let again = podman.run(&["start", "c"]).failed();
        assert!(again.err.contains("/missing"), "it is not in its own way: {again:?}");
        podman.assert_host_untouched();
        // The next container of anything with the same volume, and with another rootfs.
        podman.ask("db:data", &format!("touch {SANDBOX}/data/n")).ok();
        podman.settled();
        assert!(volume.join("n").exists() && names(&volume) == ["n"]);
        let mut after = names(&rootfs);
        after.retain(|name| before.contains(name) || name == "mnt");
        assert_eq!(after, before, "runtimes make /run and such, and /mnt is gone");
        podman.run(&["rm", "c"]).ok();
        podman.assert_clean();
    });
}

#[test]
fn in_a_pod_the_container_that_asks_has_the_volume() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        let infra = ["--infra-image", IMAGE, "--infra-command", "sleep 1000", "--infra-name", "infra"];
        podman.run(&[&["pod", "create", "--name", "p"], &infra[..]].concat()).ok();
        podman.start("one", &["--pod", "p", "--annotation", DB]);
        podman.start("two", &["--pod", "p"]);
        podman.exec("one", &format!("echo 1 > {SANDBOX}/data/n")).ok();
        assert_eq!(fs::read_to_string(volume.join("n")).unwrap(), "1\n");
        for name in ["two", "infra"] {
            podman.exec(name, "ls /mnt").failed();
            let table = format!("/proc/{}/mountinfo", podman.inspect(name, ".State.Pid"));
            assert!(!fs::read_to_string(table).unwrap().contains(text(&podman.lab.work())), "{name}");
        }
        assert_eq!(podman.records(), 1);
        podman.run(&["pod", "stop", "-t", "0", "p"]).ok();
        podman.settled();
        podman.run(&["pod", "start", "p"]).ok();
        podman.exec("one", &format!("cat {SANDBOX}/data/n")).ok();
        podman.exec("two", "ls /mnt").failed();
        podman.run(&["pod", "rm", "-f", "-t", "0", "p"]).ok();
        podman.assert_clean();
        // Where the pod's containers share nothing, nothing but an annotation says that they are in one.
        podman.run(&["pod", "create", "--name", "q", "--infra=false"]).ok();
        podman.refused(&podman.shell(&["--pod", "q", "--annotation", DB], "echo STARTED"), 31);
        podman.assert_clean();
    });
}

#[test]
fn mount_points_in_a_users_rootfs_go_with_its_last_container() {
    each("filesystem/linux", |podman| {
        let (one, two) = (podman.lab.volume("one"), podman.lab.volume("two"));
        let rootfs = podman.path("rootfs");
        fs::create_dir_all(rootfs.join("srv/mine")).unwrap();
        for name in ["one", "two"] {
            let asked = format!("io.fs-isolator.volumes={name}:data;{name}:/srv/new/place;{name}:/srv/mine");
            let options = ["run", "-d", "--name", name, "--annotation", &asked, "--rootfs", text(&rootfs)];
            podman.run(&[&options[..], &["sleep", "1000"]].concat()).ok();
        }
        let before = fs::metadata(rootfs.join("srv/new/place")).unwrap().ino();
        podman.run(&["rm", "-f", "-t", "0", "one"]).ok();
        wait_for("poststop", || podman.records() == 1);
        assert_eq!(fs::metadata(rootfs.join("srv/new/place")).unwrap().ino(), before);
        podman.exec("two", &format!("touch {SANDBOX}/data/a /srv/new/place/b /srv/mine/c")).ok();
        assert_eq!((names(&one).len(), names(&two)), (0, ["a", "b", "c"].map(str::to_owned).to_vec()));
        podman.run(&["rm", "-f", "-t", "0", "two"]).ok();
        podman.settled();
        assert_eq!(names(&rootfs.join("srv")), ["mine"]);
        assert!(!rootfs.join("mnt").exists() && names(&rootfs.join("srv/mine")).is_empty());
        podman.assert_clean();
    });
}

// podman passes over a hooks.d file whose executable is missing, in silence.
#[test]
fn without_the_prestart_executable_a_container_does_not_go_on() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        fs::remove_file(podman.path("bin/fs-isolator-prestart")).unwrap();
        // runc fails it, crun 1.8.1 starts it and it is killed.
        let ran = podman.run(&["run", "-d", "--name", "c", "--annotation", DB, IMAGE, "sleep", "1000"]);
        assert_eq!(ran.code, if podman.runtime == Runtime::Runc { 126 } else { 0 }, "{ran:?}");
        wait_for("the container to be ended", || podman.inspect("c", ".State.Running") == "false");
        let log = podman.log();
        assert!(log.contains("[exit 58]") && log.contains("no prestart hook has served it"), "{log}");
        podman.shell(&["--annotation", DB], "sleep 1000").failed();
        assert!(podman.log().contains("[exit 58]"));
        podman.shell(&[], "true").ok();
        podman.install();
        podman.run(&["start", "c"]).ok();
        podman.exec("c", &format!("touch {SANDBOX}/data/n")).ok();
        assert_eq!(names(&volume), ["n"]);
        podman.run(&["rm", "-f", "-t", "0", "c"]).ok();
        podman.assert_clean();
    });
}

#[test]
fn requests_survive_the_way_podman_reads_annotations() {
    each("filesystem/linux", |podman| {
        for id in ["a b", "größe €", "100%;c:d", r#"e,f"g"#, "it's"] {
            podman.lab.volume_of("eng/front", id);
        }
        let script = format!("cd {SANDBOX}; for i in *; do echo \"$i\" > \"$i/n\"; done; touch d/x || echo *");
        let asked = "a b:a dir:nosuid;größe €:ö;100%25%3Bc%3Ad:c%3Ad:nodev:noexec;e%2Cf%22g:d:ro;it's:s";
        let options = |asked: &str| format!("io.fs-isolator.volumes={asked}");
        let ran = podman
            .shell(&["--annotation", &options(asked), "--annotation", "io.fs-isolator.role=eng/front"], &script)
            .ok();
        assert_eq!(ran.out, "a dir c:d d s ö\n", "{ran:?}");
        for (id, path) in [("a b", "a dir"), ("größe €", "ö"), ("100%;c:d", "c:d"), ("it's", "s")] {
            let file = podman.lab.volume_path("eng/front", id).join("n");
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{path}\n"), "{id}");
        }
        assert!(names(&podman.lab.volume_path("eng/front", r#"e,f"g"#)).is_empty(), "read-only");
        // JSON has quotes and commas, which podman 4 does not let through as they are.
        let resources = json!([{
            "name": "disk", "type": "SCALAR", "scalar": { "value": 64 },
            "reservations": [{ "type": "DYNAMIC", "role": "eng/front" }],
            "disk": { "persistence": { "id": r#"e,f"g"# }, "volume": { "container_path": "data", "mode": "RW" } }
        }])
        .to_string();
        let encoded = run_with(Command::new("base64").arg("-w0"), resources.as_bytes()).ok().out;
        let base64 = format!("io.fs-isolator.volumes.base64={encoded}");
        podman.shell(&["--annotation", &base64], &format!("echo json > {SANDBOX}/data/n")).ok();
        let file = podman.lab.volume_path("eng/front", r#"e,f"g"#).join("n");
        assert_eq!(fs::read_to_string(file).unwrap(), "json\n");
        assert_eq!(podman.shell(&["--annotation", &options(&resources)], "echo STARTED").code, 125);
        podman.assert_clean();
    });
}

#[test]
fn a_container_that_asks_for_nothing_is_left_alone() {
    each("filesystem/linux", |podman| {
        podman.lab.volume("db");
        fs::write(podman.lab.config(), "{ this is no configuration").unwrap();
        assert_eq!(podman.shell(&[], "echo STARTED; ls /mnt").failed().out, "STARTED\n");
        podman.shell(&["--annotation", "io.fs-isolatorx.volumes=db:data"], "true").ok();
        podman.shell(&["--annotation", "x.io.fs-isolator.volumes=db:data", "--label", DB], "true").ok();
        // One that asks is refused, also with a value that podman gives as nothing.
        for annotation in [DB, "io.fs-isolator.volumes=", "io.fs-isolator.role=x"] {
            podman.not_started(&podman.shell(&["--annotation", annotation], "echo STARTED"), 20);
        }
        podman.configure(json!({ "isolation": "filesystem/linux" }));
        podman.assert_clean();
    });
}

// podman maps ids for a container; what is on disk keeps its own.
#[test]
fn user_namespaces_of_podman() {
    each("filesystem/linux", |podman| {
        // For --userns=auto podman takes the ids of this user.
        for file in ["/etc/subuid", "/etc/subgid"] {
            let copy = podman.path(file.rsplit('/').next().unwrap());
            let text = fs::read_to_string(file).unwrap_or_default();
            fs::write(&copy, format!("{}\ncontainers:1000000:1000000\n", text.trim_end())).unwrap();
            let none = None::<&str>;
            nix::mount::mount(Some(&copy), file, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        }
        let volume = podman.lab.volume("db");
        fs::write(volume.join("of-1000"), "x").unwrap();
        chown(volume.join("of-1000"), Some(1000), Some(1000)).unwrap();
        let map = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
        for options in [&["--userns=auto"][..], &map] {
            for user in ["0", "1000"] {
                let options = [options, &["--user", user, "--annotation", DB]].concat();
                let script = format!(
                    "cd {SANDBOX}/data && touch f-{user} && stat -c %u f-{user} of-1000 && id -u && touch ../s"
                );
                assert_eq!(podman.shell(&options, &script).ok().lines(), [user, "1000", user], "{options:?}");
                let made = volume.join(format!("f-{user}"));
                assert_eq!(fs::metadata(&made).unwrap().uid().to_string(), user, "on disk as inside");
                fs::remove_file(made).unwrap();
            }
        }
        podman.assert_clean();
    });
}

/// Makes pods. The usual infra image comes from a registry, or from a program that need not be here.
fn make_pods(podman: &Podman) {
    for pod in ["web", "other"] {
        let infra = ["--infra-image", IMAGE, "--infra-command", "/bin/sleep 1000"];
        podman.run(&[&["pod", "create", "--name", pod, "--share", "ipc,uts"], &infra[..]].concat()).ok();
    }
}

// The containers of a pod hold an exclusive volume together, and nobody else does.
#[test]
fn a_pod_of_podman_is_one_holder() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        make_pods(podman);
        for name in ["app", "sidecar"] {
            podman.start(name, &["--pod", "web", "--annotation", DB]);
            podman.exec(name, &format!("echo {name} >> {SANDBOX}/data/log")).ok();
        }
        assert_eq!(fs::read_to_string(volume.join("log")).unwrap(), "app\nsidecar\n");
        let log = podman.refused(&podman.shell(&["--pod", "other", "--annotation", DB], "echo STARTED"), 71);
        assert!(log.contains("container ") && log.contains("since 20"), "{log}");
        podman.refused(&podman.ask("db:data", "echo STARTED"), 71);
        podman.run(&["rm", "-f", "-t", "0", "app"]).ok();
        podman.refused(&podman.ask("db:data", "echo STARTED"), 71);
        podman.run(&["rm", "-f", "-t", "0", "sidecar"]).ok();
        podman.ask("db:data", "true").ok();
        podman.assert_clean();
    });
}

// Mesos's parent is the pod: its containers exchange files, and who only says that it is in the pod does not.
#[test]
fn the_containers_of_a_pod_exchange_files_through_their_parent() {
    each("filesystem/linux", |podman| {
        make_pods(podman);
        let ask = "io.fs-isolator.volumes=parent=exchange:/exchange";
        for name in ["app", "sidecar"] {
            podman.start(name, &["--pod", "web", "--annotation", ask]);
        }
        podman.exec("app", "echo of the app > /exchange/f").ok();
        assert_eq!(podman.exec("sidecar", "cat /exchange/f && echo back > /exchange/g").ok().out, "of the app\n");
        podman.exec("app", "cat /exchange/g").ok();
        podman.start("stranger", &["--pod", "other", "--annotation", ask]);
        podman.exec("stranger", "test ! -e /exchange/f").ok();
        let pod = podman.run(&["pod", "inspect", "--format", "{{.Id}}", "web"]).ok().out.trim().to_owned();
        let forged = format!("io.kubernetes.cri-o.SandboxID={pod}");
        let ran = podman.shell(&["--annotation", &forged, "--annotation", ask], "echo STARTED");
        podman.refused(&ran, 31);
        let ran = podman.shell(&["--pod", "other", "--annotation", &forged, "--annotation", ask], "ls /exchange");
        assert!(!ran.out.contains('f') && !ran.out.contains('g'), "podman's own word for the pod wins: {ran:?}");
        podman.log();
        podman.refused(&podman.shell(&["--annotation", ask], "echo STARTED"), 66);
        podman.run(&["rm", "-f", "-t", "0", "app", "sidecar", "stranger"]).ok();
        podman.assert_clean();
    });
}

// Neither while it runs nor after, not even in an image that is made of it.
#[test]
fn a_secret_is_in_no_file_of_podman() {
    const WORD: &str = "swordfish-0452";
    each("filesystem/linux", |podman| {
        let file = podman.path("secret");
        fs::write(&file, WORD).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o400)).unwrap();
        let secrets = json!([{ "name": "db", "path": file, "roles": ["default"] }]);
        podman.configure(json!({ "isolation": "filesystem/linux", "secrets": secrets }));
        let found = || {
            let mut found = files_with(&podman.lab.dir, WORD);
            found.extend(
                ["/run/fs-isolator", "/var/lib/containers"].iter().flat_map(|dir| files_with(dir.as_ref(), WORD)),
            );
            found.retain(|path| *path != file);
            found
        };
        let ask = "io.fs-isolator.volumes=secret=db:/run/secrets/db;secret=db:db;secret=db:/etc/passwd";
        podman.start("app", &["--annotation", ask]);
        let look = format!("cat /run/secrets/db {SANDBOX}/db /etc/passwd");
        assert_eq!(podman.exec("app", &look).ok().out, WORD.repeat(3));
        assert_eq!(found(), [""; 0].map(PathBuf::from), "while it runs");
        podman.run(&["commit", "-q", "app", "localhost/of-app"]).ok();
        podman.run(&["stop", "-t", "0", "app"]).ok();
        podman.settled();
        assert_eq!(found(), [""; 0].map(PathBuf::from), "after it");
        // What the container copies is found: the search would have found the rest.
        podman.run(&["start", "app"]).ok();
        podman.exec("app", "cp /run/secrets/db /copy").ok();
        assert!(found().iter().any(|path| path.ends_with("diff/copy")), "{:?}", found());
        podman.run(&["rm", "-f", "-t", "0", "app"]).ok();
        assert_eq!(found(), [""; 0].map(PathBuf::from));
        podman.assert_clean();
    });
}

// What containers get that ask for nothing: install has the hooks called for all of them.
#[test]
fn default_container_info_reaches_every_container_of_podman() {
    each("filesystem/linux", |podman| {
        let volumes = json!([{ "container_path": "/var/scratch", "mode": "RW", "host_path": "scratch" }]);
        let info = json!({ "type": "MESOS", "volumes": volumes });
        podman.configure(json!({ "isolation": "filesystem/linux", "default_container_info": info }));
        podman.install();
        podman.shell(&[], "touch /var/scratch/x && grep -q ' /var/scratch ' /proc/self/mountinfo").ok();
        podman.settled();
        // Nothing tells a hook that a container of podman is a pod's infra container: it asks for nothing, too.
        make_pods(podman);
        podman.start("app", &["--pod", "web"]);
        podman.exec("app", "touch /var/scratch/x").ok();
        assert_eq!(podman.records(), 2);
        podman.run(&["pod", "rm", "-fa", "-t", "0"]).ok();
        podman.assert_clean();
    });
}

// A running container of podman gets a volume without a restart, and loses it with its end as any other.
#[test]
fn a_running_container_of_podman_gets_a_volume() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        // As any administrator's: podman tells neither runtime another --root.
        tmpfs(&Path::new("/run").join(podman.runtime.program()), MsFlags::empty());
        for options in [&[][..], &["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]] {
            podman.start("web", options);
            let id = podman.inspect("web", ".Id");
            podman.lab.cli(&["attach", &id[..12], "db:/d", "db:data:ro"]).ok();
            podman.exec("web", &format!("echo 1 >> /d/n && cat {SANDBOX}/data/n && ! touch {SANDBOX}/data/x")).ok();
            assert_eq!(fs::metadata(volume.join("n")).unwrap().uid(), 0, "{options:?}");
            podman.refused(&podman.ask("db:data", "echo STARTED"), 71);
            podman.lab.cli(&["detach", &id[..12], "data"]).ok();
            podman.exec("web", &format!("test ! -e {SANDBOX}/data && test -e /d/n")).ok();
            podman.run(&["rm", "-f", "-t", "0", "web"]).ok();
            // podman had no hook to run for a container that asked for nothing at its start.
            podman.lab.cli(&["reconcile"]).ok();
            podman.ask("db:data", "true").ok();
        }
        umount2(&Path::new("/run").join(podman.runtime.program()), MntFlags::MNT_DETACH).unwrap();
        podman.assert_clean();
    });
}

// The root filesystem that podman has on the host is writable, and the container's mount of it is not.
#[test]
fn a_read_only_container_of_podman_gets_a_volume() {
    each("filesystem/linux", |podman| {
        let volume = podman.lab.volume("db");
        tmpfs(&Path::new("/run").join(podman.runtime.program()), MsFlags::empty());
        podman.start("web", &["--read-only"]);
        let id = podman.inspect("web", ".Id");
        let merged = PathBuf::from(podman.run(&["mount", "web"]).ok().out.trim());
        podman.lab.cli(&["attach", &id[..12], "db:/d", "db:data"]).ok();
        podman.exec("web", &format!("echo x > /d/f && cat {SANDBOX}/data/f && ! touch /f && ! touch /etc/f")).ok();
        assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "x\n");
        podman.lab.cli(&["detach", &id[..12], "/d"]).ok();
        podman.exec("web", &format!("test ! -e /d && test -e {SANDBOX}/data/f")).ok();
        assert!(!merged.join("d").exists());
        podman.lab.cli(&["attach", &id[..12], "db:/e"]).ok();
        assert!(merged.join("e").exists());
        podman.run(&["rm", "-f", "-t", "0", "web"]).ok();
        podman.lab.cli(&["reconcile"]).ok();
        umount2(&Path::new("/run").join(podman.runtime.program()), MntFlags::MNT_DETACH).unwrap();
        podman.assert_clean();
    });
}
