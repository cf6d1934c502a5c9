//! Who may use what: every verb for everybody.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::*;
use serde_json::json;

/// Who asks for which role, and what comes of it: 0, or the exit code.
struct Cell {
    name: &'static str,
    who: Who,
    role: &'static str,
    attach: i32,
    command: i32,
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// A pod of this namespace.
    Namespace(&'static str),
    /// A bundle by hand, or the administrator's command.
    Root,
    /// A bundle by hand that says it is a pod of team-a; a command for what is no namespace.
    Forged,
    /// A bundle that lies nowhere; a command for a namespace that has nothing.
    Unlisted,
}

const CELLS: [Cell; 9] = [
    Cell { name: "own role", who: Who::Namespace("team-a"), role: "team-a", attach: 0, command: 0 },
    Cell { name: "child role", who: Who::Namespace("team-a"), role: "team-a/child", attach: 0, command: 0 },
    Cell { name: "foreign role", who: Who::Namespace("team-a"), role: "team-b", attach: 41, command: 41 },
    Cell { name: "namesake's role", who: Who::Namespace("team-a"), role: "team-ab", attach: 41, command: 41 },
    Cell { name: "granted", who: Who::Namespace("team-a"), role: "common", attach: 0, command: 0 },
    Cell { name: "denied", who: Who::Namespace("team-a"), role: "team-a/secret", attach: 41, command: 41 },
    Cell { name: "root", who: Who::Root, role: "team-b", attach: 0, command: 0 },
    Cell { name: "forged", who: Who::Forged, role: "team-a", attach: 31, command: 2 },
    Cell { name: "unlisted", who: Who::Unlisted, role: "team-a", attach: 30, command: 41 },
];

const VERBS: [&str; 9] =
    ["attach", "attach ro", "attach shared", "plan", "create", "inspect", "list", "destroy", "authorize"];

fn lab() -> Lab {
    let lab = Lab::new("filesystem/linux");
    lab.configure(json!({
        "isolation": "filesystem/linux",
        "managers": { "cri-o": [lab.dir.join("crio")], "local": [lab.dir.join("bundles")] },
        "authorization": {
            "allow": [{ "identity": "namespace:team-a", "roles": ["common", "team-a/secret"] }],
            "deny": [{ "identity": "namespace:team-a", "roles": ["team-a/secret"] }],
        },
    }));
    lab
}

/// A container of whoever it is, that asks for this.
fn container(lab: &Lab, who: Who, volumes: &str) -> Container {
    let mut container = lab.container(Runtime::Runc, "c");
    container.ask(volumes).shell("true");
    let rootfs = container.rootfs();
    let identity = |container: &mut Container, namespace: &str| {
        container.annotate("io.kubernetes.cri-o.SandboxName", &format!("k8s_web_{namespace}_0_0"));
        container.annotate("io.kubernetes.pod.namespace", namespace);
    };
    match who {
        Who::Root => return container,
        Who::Namespace(namespace) => {
            container.annotate("io.container.manager", "cri-o");
            identity(&mut container, namespace);
            container.bundle = lab.dir.join("crio/overlay-containers/c/userdata");
        }
        Who::Forged => identity(&mut container, "team-a"),
        Who::Unlisted => container.bundle = lab.dir.join("nowhere/c"),
    }
    container.spec["root"]["path"] = json!(rootfs);
    fs::create_dir_all(&container.bundle).unwrap();
    container
}

/// Does a verb, and tells the exit code.
fn does(lab: &Lab, verb: &str, cell: &Cell) -> Ran {
    let role = cell.role;
    let attach = |options: &str| {
        let container = container(lab, cell.who, &format!("db:/d{options}:role={role}"));
        container.run()
    };
    let namespace = match cell.who {
        Who::Namespace(name) => Some(name),
        Who::Root => None,
        Who::Forged => Some("*"),
        Who::Unlisted => Some("nobody"),
    };
    let command = |words: &[&str]| {
        let namespace = namespace.map_or(Vec::new(), |name| vec!["--namespace", name]);
        lab.cli(&[words, &["--role", role], &namespace].concat())
    };
    match verb {
        "attach" => attach(""),
        "attach ro" => attach(":ro"),
        "attach shared" => attach(":shared"),
        "plan" => {
            let container = container(lab, cell.who, &format!("db:/d:role={role}"));
            container.write();
            lab.cli(&["plan", "--id", "c", container.bundle.to_str().unwrap()])
        }
        "create" => command(&["volume", "create", "new"]),
        "inspect" => command(&["volume", "inspect", "db"]),
        "list" => command(&["volume", "list", "--json"]),
        "destroy" => command(&["volume", "destroy", "--yes", "db"]),
        "authorize" => command(&["authorize"]),
        other => panic!("{other}"),
    }
}

#[test]
fn every_verb_for_everybody() {
    on(Host::Private, || {
        let mut cells = 0;
        for cell in &CELLS {
            for verb in VERBS {
                let lab = lab();
                let volume = lab.volume_of(cell.role, "db");
                fs::write(volume.join("data"), "precious").unwrap();
                let ran = does(&lab, verb, cell);
                let what = format!("{verb}, {}: {ran:?}", cell.name);
                let hook = verb.starts_with("attach");
                let expected = match verb {
                    "plan" => cell.attach,
                    _ if hook => cell.attach,
                    "authorize" if cell.command == 41 => 77,
                    "list" if cell.command == 41 => 0,
                    _ => cell.command,
                };
                let code = match (hook, expected) {
                    (true, 0) => ran.code == 0,
                    (true, code) => ran.code != 0 && ran.err.contains(&format!("exit status {code},")),
                    (false, code) => ran.code == code,
                };
                assert!(code, "{expected} expected of {what}");
                let allowed = if hook || verb == "plan" { cell.attach == 0 } else { cell.command == 0 };
                assert_eq!(volume.join("data").exists(), verb != "destroy" || !allowed, "{what}");
                assert_eq!(lab.volume_path(cell.role, "new").exists(), verb == "create" && allowed, "{what}");
                if verb == "list" && cell.who != Who::Forged {
                    assert_eq!(ran.out.contains("\"db\""), allowed, "{what}");
                }
                // Nothing tells that it is there.
                assert!(allowed || !ran.err.contains("precious") && !ran.out.contains("0750"), "{what}");
                cells += 1;
            }
        }
        println!("{cells} cells");
        assert_eq!(cells, 81);
    });
}

// What is not yours reads like what is not there, to the last byte.
#[test]
fn not_yours_and_not_there_are_one() {
    on(Host::Private, || {
        for (volumes, role) in [
            ("db:/d:role=team-b", "team-b"),
            ("db:/d:role=team-b:disk=fast", "team-b"),
            ("db:/d:role=team-a/secret", "team-a/secret"),
        ] {
            let lab = lab();
            let ask = || {
                let container = container(&lab, Who::Namespace("team-a"), volumes);
                container.write();
                let state = json!({ "ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": std::process::id(),
                                    "bundle": container.bundle, "annotations": container.spec["annotations"] });
                let command = ["volume", "inspect", "--namespace", "team-a", "--role", role, "db"];
                (hook(PRESTART, &lab.config(), state.to_string().as_bytes()), lab.cli(&command))
            };
            let not_there = ask();
            lab.volume_of(role, "db");
            let not_mine = ask();
            assert_eq!(not_there.0.code, 41, "{:?}", not_there.0);
            assert_eq!((not_there.0.code, &not_there.0.err), (not_mine.0.code, &not_mine.0.err));
            assert_eq!((not_there.1.code, &not_there.1.err), (not_mine.1.code, &not_mine.1.err));
        }
        // And one's own that is not there, as far as the words go.
        let lab = lab();
        let of = |role: &str| lab.cli(&["volume", "inspect", "--namespace", "team-a", "--role", role, "db"]).err;
        assert_eq!(of("team-b").replace("team-b", "team-a"), of("team-a"));
    });
}

// A holder is named only to those who may use the role.
#[test]
fn a_holder_is_not_named_to_others() {
    on(Host::Private, || {
        let lab = lab();
        lab.volume_of("team-b", "db");
        let mut holder = lab.container(Runtime::Runc, "holder");
        holder.ask("db:/d:role=team-b").start("sleep 1000");
        let stranger = container(&lab, Who::Namespace("team-a"), "db:/d:role=team-b");
        let ran = stranger.run();
        assert!(ran.err.contains("exit status 41,") && !ran.err.contains("holder"), "{ran:?}");
        let mine = container(&lab, Who::Namespace("team-b"), "db:/d:role=team-b").run();
        assert!(mine.err.contains("exit status 71,") && mine.err.contains("container holder"), "{mine:?}");
        let told = lab.cli(&["volume", "list", "--json", "--namespace", "team-a"]).ok();
        assert!(!told.out.contains("holder"), "{told:?}");
    });
}

#[test]
fn authorize_says_why() {
    on(Host::Private, || {
        let lab = lab();
        let ask = |role: &str| lab.cli(&["authorize", "--namespace", "team-a", "--role", role]);
        assert!(ask("team-a/db").ok().out.contains("the role of its name and those below it"));
        assert!(ask("common/x").ok().out.contains("allows namespace:team-a the roles common"));
        let denied = ask("team-a/secret");
        assert!(denied.code == 77 && denied.err.contains("denies namespace:team-a"), "{denied:?}");
        let foreign = ask("team-b");
        assert!(foreign.code == 77 && foreign.err.contains(r#""identity": "namespace:team-a", "roles": ["team-b"]"#));
        assert!(lab.cli(&["authorize", "--role", "team-b"]).ok().out.contains("root of this host"));
    });
}
