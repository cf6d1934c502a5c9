//! What hooks say to journald and to syslog: to a real one of each, and to a socket that is read by the letter of the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/rootless.rs"]
mod rootless;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use nix::mount::{MsFlags, mount};
use rootless::Rootless;
use serde_json::{Value, json};

const SOCKET: &str = "/run/systemd/journal/socket";

/// An empty /run.
fn own_run() {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    fs::create_dir_all("/run/systemd/journal").unwrap();
}

/// Somebody who listens where journald would.
fn listen() -> UnixDatagram {
    let _ = fs::remove_file(SOCKET);
    let socket = UnixDatagram::bind(SOCKET).unwrap();
    fs::set_permissions(SOCKET, PermissionsExt::from_mode(0o666)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The fields of every message that has come, as "Native Journal Protocol" of systemd has them.
fn heard(socket: &UnixDatagram) -> Vec<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut datagram = vec![0; 1 << 20];
    while let Ok(count) = socket.recv(&mut datagram) {
        let mut rest = &datagram[..count];
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let line = rest.iter().position(|byte| *byte == b'\n').expect("a field ends");
            let (value, end) = match rest[..line].iter().position(|byte| *byte == b'=') {
                Some(equals) => (&rest[equals + 1..line], line + 1),
                None => {
                    let from = line + 1 + 8;
                    let length = u64::from_le_bytes(rest[line + 1..from].try_into().unwrap()) as usize;
                    assert_eq!(rest[from + length], b'\n');
                    (&rest[from..from + length], from + length + 1)
                }
            };
            let name = rest[..line].split(|byte| *byte == b'=').next().unwrap();
            assert!(name.iter().all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(byte)), "{name:?}");
            fields.push((String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
            rest = &rest[end..];
        }
        all.push(fields);
    }
    all
}

/// The one value of a field.
#[track_caller]
fn field<'f>(fields: &'f [(String, String)], name: &str) -> &'f str {
    let found: Vec<&str> = fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
    assert_eq!(found.len(), 1, "{name} in {fields:?}");
    found[0]
}

fn lab() -> Lab {
    Lab::new("filesystem/linux")
}

/// A state that asks for this, as prestart gets it.
fn asking(lab: &Lab, id: &str, volumes: &str) -> String {
    let mut container = lab.bundle(Runtime::Runc, id);
    container.ask(volumes).write();
    container.state(1).to_string()
}

#[test]
fn a_refusal_has_its_fields() {
    on(Host::Shared, || {
        own_run();
        let socket = listen();
        let lab = lab();
        let id = "0123456789abcdef";
        let mut container = lab.container(Runtime::Crun, id);
        assert_ne!(container.ask("nope:data").run().code, 0);
        let said = heard(&socket);
        // crun runs no poststop then.
        assert_eq!(said.len(), 1, "{said:?}");
        for (name, value) in [
            ("PRIORITY", "3"),
            ("SYSLOG_IDENTIFIER", "fs-isolator-prestart"),
            ("CONTAINER_ID_FULL", id),
            ("CONTAINER_ID", "0123456789ab"),
            ("FS_ISOLATOR_VOLUME", "nope:data"),
            ("FS_ISOLATOR_ROLE", "default"),
            ("FS_ISOLATOR_EXIT_CODE", "41"),
            ("FS_ISOLATOR_CAUSE", "VolumeUnavailable"),
        ] {
            assert_eq!(field(&said[0], name), value);
        }
        assert!(field(&said[0], "MESSAGE").ends_with("[exit 41]"), "{said:?}");
        assert_ne!(field(&said[0], "FS_ISOLATOR_MICROSECONDS"), "0");
        // One that succeeds has nothing to say.
        lab.volume("db");
        container.ask("db:data").start("sleep 1000").delete().ok();
        assert_eq!(heard(&socket), Vec::<Vec<_>>::new());
        lab.assert_clean();
    });
}

// Whatever it was that failed, on the way to the volume or at its mount point.
#[test]
fn each_refusal_about_a_volume_has_its_role() {
    on(Host::Shared, || {
        own_run();
        let socket = listen();
        let lab = lab();
        let refused = |name: &str, words: &str, cause: &str| {
            let mut container = lab.container(Runtime::Runc, name);
            assert_ne!(container.ask(words).run().code, 0, "{words}");
            let said = heard(&socket);
            let first = said.iter().find(|entry| field(entry, "PRIORITY") == "3").unwrap();
            assert_eq!(
                (field(first, "FS_ISOLATOR_CAUSE"), field(first, "FS_ISOLATOR_ROLE")),
                (cause, "a/b"),
                "{words}"
            );
        };
        // There is no work_dir yet.
        refused("a", "db:data:role=a/b:disk=root", "VolumeUnavailable");
        lab.volume_of("a/b", "db");
        fs::write(lab.volume_path("a/b", "db").join("file"), "x").unwrap();
        refused("b", "db:data:role=a/b:subpath=nothing", "Subpath");
        refused("c", "db:/etc/passwd/x:role=a/b", "MountPointUnsafe");
        refused("d", "db:data:role=a/b;db:data:role=a/b", "PathConflict");
        refused("e", "db:data:role=a/b:disk=x", "DiskUnknown");
        let mut holder = lab.container(Runtime::Runc, "holder");
        holder.ask("db:data:role=a/b").start("sleep 1000");
        refused("f", "db:data:role=a/b", "VolumeInUse");
    });
}

#[test]
fn no_request_makes_fields_of_its_own() {
    on(Host::Private, || {
        own_run();
        let socket = listen();
        let lab = lab();
        let id = format!("a\nPRIORITY=0\nCONTAINER_ID_FULL=other{}", "y".repeat(20_000));
        let volume = json!({ "container_path": "x", "mode": "RW" });
        let words = json!([{ "name": "disk", "disk": { "persistence": { "id": id }, "volume": volume } }]).to_string();
        let ran = hook(PRESTART, &lab.config(), asking(&lab, "web", &words).as_bytes());
        assert_eq!(ran.code, 35, "{ran:?}");
        let said = heard(&socket);
        assert_eq!((field(&said[0], "PRIORITY"), field(&said[0], "CONTAINER_ID_FULL")), ("3", "web"));
        assert!(field(&said[0], "FS_ISOLATOR_VOLUME").starts_with("a\nPRIORITY=0\n"), "{said:?}");
        assert!(said[0].iter().all(|(_, value)| value.len() <= 8 << 10), "{said:?}");
    });
}

// A journald that is stuck delays and fails nobody.
#[test]
fn a_reader_that_does_not_read_is_not_waited_for() {
    on(Host::Private, || {
        own_run();
        let socket = listen();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let full = (0..1 << 20).any(|_| sender.send_to(b"MESSAGE=x\n", SOCKET).is_err());
        assert!(full);
        let lab = lab();
        let ran = hook(PRESTART, &lab.config(), asking(&lab, "web", "nope:data").as_bytes());
        assert!(ran.code == 15 || ran.code == 41, "{ran:?}");
        assert!(lab.log("web").contains("[exit "), "{}", lab.log("web"));
        let said = heard(&socket);
        assert!(!said.is_empty() && said.iter().all(|fields| fields.len() == 1));
    });
}

#[test]
fn nobody_listens_or_nobody_is_to_be_told() {
    on(Host::Private, || {
        own_run();
        let lab = lab();
        let state = asking(&lab, "web", "a//b:/x");
        let refused = || {
            let ran = hook(PRESTART, &lab.config(), state.as_bytes());
            assert!(ran.code == 35 && ran.err.contains("[exit 35]"), "{ran:?}");
        };
        refused();
        let socket = listen();
        refused();
        assert_eq!(heard(&socket).len(), 1);
        // A socket whose listener is gone.
        drop(socket);
        refused();
        let socket = listen();
        lab.configure(json!({ "isolation": "filesystem/linux", "journal": false }));
        refused();
        assert!(heard(&socket).is_empty());
        lab.configure(json!({ "isolation": "filesystem/linux", "log_level": "off" }));
        assert_eq!(hook(PRESTART, &lab.config(), state.as_bytes()).code, 35);
        assert!(heard(&socket).is_empty());
    });
}

// With log_level debug each hook tells what it took, and the steps are all there.
#[test]
fn hooks_that_succeed_tell_what_they_took_on_request() {
    on(Host::Shared, || {
        own_run();
        let socket = listen();
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "log_level": "debug" }));
        lab.volume("db");
        lab.container(Runtime::Runc, "web").ask("db:data").run().ok();
        let said = heard(&socket);
        let done: Vec<(&str, &str)> = said
            .iter()
            .map(|fields| (field(fields, "SYSLOG_IDENTIFIER"), field(fields, "MESSAGE")))
            .filter(|(_, message)| message.starts_with("done in "))
            .collect();
        assert_eq!(done.len(), 3, "{said:?}");
        for ((program, message), (hook, steps)) in done.iter().zip([
            ("fs-isolator-prestart", "read config plan record open attach"),
            ("fs-isolator-poststart", "read config record check"),
            ("fs-isolator-poststop", "read config record undo others"),
        ]) {
            let (_, each) = message.split_once(": ").unwrap();
            let names: Vec<&str> = each.split(", ").map(|step| step.split(' ').next().unwrap()).collect();
            assert_eq!((*program, names.join(" ").as_str()), (hook, steps), "{message}");
        }
        // The container's own log went with it.
        assert_eq!(lab.log("web"), "");
        lab.assert_clean();
    });
}

// A user's hooks tell the host's journal too, by what they see of it from podman's namespaces.
#[test]
fn a_users_refusal_has_its_fields() {
    on(Host::Shared, || {
        own_run();
        let socket = listen();
        let rootless = Rootless::with_hooks(Runtime::Crun, "filesystem/linux");
        rootless.ask(&[], "nope:data", "true").failed();
        let said = heard(&socket);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(field(&said[0], "FS_ISOLATOR_VOLUME"), "nope:data");
        assert_eq!(field(&said[0], "FS_ISOLATOR_EXIT_CODE"), "41");
    });
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_journald_has_the_fields() {
    let program = "/lib/systemd/systemd-journald";
    if !Path::new(program).exists() {
        println!("skipped: {program} is not here");
        return;
    }
    on(Host::Shared, move || {
        own_run();
        tmpfs(Path::new("/var/log"), MsFlags::empty());
        fs::create_dir_all("/run/log/journal").unwrap();
        let mut command = Command::new(program);
        let journald = Ends(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("journald to listen", || Path::new(SOCKET).exists());
        let lab = lab();
        let mut container = lab.container(Runtime::Crun, "web");
        assert_ne!(container.ask("nope:data").run().code, 0);
        let words = ["-D", "/run/log/journal", "-o", "json", "--no-pager", "CONTAINER_ID_FULL=web"];
        wait_for("the journal to have it", || run("journalctl", &words).out.contains("MESSAGE"));
        let entry: Value = serde_json::from_str(run("journalctl", &words).ok().out.trim()).unwrap();
        for (name, value) in [
            ("_TRANSPORT", "journal"),
            ("SYSLOG_IDENTIFIER", "fs-isolator-prestart"),
            ("FS_ISOLATOR_VOLUME", "nope:data"),
            ("FS_ISOLATOR_ROLE", "default"),
            ("FS_ISOLATOR_EXIT_CODE", "41"),
            ("FS_ISOLATOR_CAUSE", "VolumeUnavailable"),
        ] {
            assert_eq!(entry[name], value, "{entry}");
        }
        drop(journald);
    });
}

/// A /dev whose names are this test's.
fn own_dev(lab: &Lab) {
    let dev = lab.dir.join("dev");
    tmpfs(&dev, MsFlags::empty());
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        fs::write(dev.join(name), "").unwrap();
        let from = Path::new("/dev").join(name);
        mount(Some(&from), &dev.join(name), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name)).unwrap();
    }
    mount(Some(&dev), "/dev", None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
}

#[test]
fn a_real_syslogd_is_told_where_there_is_no_journald() {
    on(Host::Private, || {
        own_run();
        // Whoever listened there has gone.
        drop(listen());
        let lab = lab();
        own_dev(&lab);
        let messages = lab.dir.join("messages");
        let mut command = Command::new("/bin/busybox");
        command.args(["syslogd", "-n", "-O"]).arg(&messages);
        let syslogd = Ends(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("syslogd to listen", || Path::new("/dev/log").exists());
        assert_eq!(hook(PRESTART, &lab.config(), asking(&lab, "web", "a//b:/x").as_bytes()).code, 35);
        let text = || fs::read_to_string(&messages).unwrap_or_default();
        wait_for("syslogd to write it", || text().contains("[exit 35]"));
        let line = text().lines().find(|line| line.contains("[exit 35]")).unwrap().to_owned();
        assert!(line.contains(" daemon.err fs-isolator-prestart[") && line.contains("container web: "), "{line}");
        drop(syslogd);
    });
}
