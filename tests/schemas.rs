//! The JSON schemas of the configuration and of what verbs print with `--json`, against what they really read and print.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/mesos.rs"]
mod mesos;
#[path = "common/schema.rs"]
mod schema;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use schema::against;
use serde_json::{Value, json};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn published() -> PathBuf {
    project().join("docs/schemas")
}

fn schema_of(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(published().join(file)).unwrap()).unwrap()
}

#[test]
fn the_published_schemas_are_those_that_the_command_writes() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let made = lab.dir.join("schemas");
        lab.cli(&["generate", "schemas", made.to_str().unwrap()]).ok();
        if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
            for name in names(&published()).iter().filter(|name| !names(&made).contains(name)) {
                fs::remove_file(published().join(name)).unwrap();
            }
            lab.cli(&["generate", "schemas", published().to_str().unwrap()]).ok();
        }
        assert_eq!(names(&published()), names(&made));
        for name in names(&made) {
            let text = |directory: &Path| fs::read_to_string(directory.join(&name)).unwrap();
            assert!(text(&published()) == text(&made), "{name} is not what the types say; BLESS=1 writes it anew");
        }
    });
}

/// Readers pass over keys that they do not know, and so does the schema. Here no key may be unknown.
fn close(schema: &mut Value, of_an_object: bool) {
    match schema {
        Value::Object(map) => {
            let is_object = map.contains_key("properties");
            if is_object && !of_an_object && !map.contains_key("additionalProperties") {
                map.insert("unevaluatedProperties".to_owned(), json!(false));
            }
            for (key, value) in map {
                close(value, is_object && matches!(key.as_str(), "allOf" | "anyOf" | "oneOf"));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| close(one, of_an_object)),
        _ => {}
    }
}

/// What verbs printed, by the files of their schemas.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<Value>>);

impl Seen {
    #[track_caller]
    fn add(&mut self, verb: &str, text: &str) -> &Value {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{verb}: {error}: {text:?}"));
        let of = self.0.entry(format!("{}.json", verb.replace(' ', "-"))).or_default();
        of.push(value);
        &of[of.len() - 1]
    }
}

/// Each document without one of the keys of its object, or of the first in its list, and with one that no verb prints.
fn broken(document: &Value) -> Vec<Value> {
    let place = if document.is_array() { "/0" } else { "" };
    let Some(Value::Object(map)) = document.pointer(place) else { return Vec::new() };
    let mut all = Vec::new();
    for key in map.keys() {
        let mut copy = document.clone();
        copy.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(key);
        all.push(copy);
    }
    let mut copy = document.clone();
    copy.pointer_mut(place).unwrap()["surplus"] = json!(1);
    all.push(copy);
    all
}

#[test]
fn what_each_verb_prints_matches_its_schema() {
    on(Host::Shared, || {
        let mut seen = Seen::default();
        let lab = Lab::new("filesystem/linux");
        let disks = json!([{ "name": "nvme", "type": "PATH", "path": { "root": lab.dir.join("nvme") } }]);
        let work = lab.dir.join("volumes-of-the-host");
        fs::create_dir(&work).unwrap();
        lab.configure(json!({
            "isolation": "filesystem/linux", "work_dir": work, "disks": disks, "metrics": true,
            "request_token": "0123456789abcdef", "volume_gid_range": "[70000-70009]",
            "host_paths": [{ "path": "/srv", "roles": ["default"], "mode": "RO" }],
            "secrets": [{ "name": "key", "path": "/etc/key", "roles": ["default"] }],
            "authorization": { "allow": [{ "identity": "namespace:team-a", "roles": ["default"] }] },
            "default_container_info": { "type": "MESOS", "volumes": [] },
        }));
        seen.add("verb config", &lab.cli(&["config", "--json"]).ok().out);
        lab.configure(json!({
            "isolation": "filesystem/linux", "work_dir": work, "disks": disks, "metrics": true,
            "authorization": { "allow": [{ "identity": "namespace:team-a", "roles": ["default"] }] },
        }));
        seen.add("verb config", &lab.cli(&["config", "--json"]).ok().out);
        let said = |arguments: &[&str]| lab.cli(&[arguments, &["--json"]].concat());
        seen.add("host", &said(&["host"]).ok().out);
        let units = lab.dir.join("units");
        seen.add("host", &said(&["host", "--unit-dir", units.to_str().unwrap()]).ok().out);

        seen.add("volume create", &said(&["volume", "create", "--size", "64", "--shared", "db"]).ok().out);
        seen.add(
            "volume create",
            &said(&["volume", "create", "--disk", "nvme", "--ownership", "mesos", "on"]).ok().out,
        );
        let mut web = lab.container(Runtime::Crun, "web");
        web.ask("db:/srv/db:shared;on:data:ro").write();
        let bundle = web.bundle.to_str().unwrap().to_owned();
        seen.add("plan", &said(&["plan", &bundle]).ok().out);
        let empty = lab.container(Runtime::Crun, "empty");
        empty.write();
        assert!(seen.add("plan", &said(&["plan", empty.bundle.to_str().unwrap()]).ok().out).is_null());
        web.start("sleep 1000");
        assert_eq!(seen.add("status", &said(&["status"]).ok().out)[0]["state"], "running");

        // Until it has told what there is: from then on it sees everything.
        let mut watch = Command::new(CLI);
        let config = lab.config();
        watch.args(["--config", config.to_str().unwrap(), "watch", "--present", "--json"]).stdout(Stdio::piped());
        let mut watch = watch.spawn().unwrap();
        let mut lines = String::new();
        let mut out = watch.stdout.take().unwrap();
        while lines.lines().count() < 2 || !lines.ends_with('\n') {
            let mut some = [0; 4096];
            let length = out.read(&mut some).unwrap();
            assert_ne!(length, 0, "{lines}");
            lines.push_str(std::str::from_utf8(&some[..length]).unwrap());
        }
        said(&["volume", "create", "other"]).ok();
        let live = |verb: &str, words: &[&str]| lab.live(&web, verb, &[words, &["--json"]].concat()).ok().out;
        seen.add("attach", &live("attach", &["other:/srv/other"]));
        seen.add("detach", &live("detach", &["/srv/other"]));
        seen.add("update", &live("update", &["db:/srv/db:shared", "other:/srv/again"]));
        let mut refused = lab.container(Runtime::Crun, "refused");
        refused.ask("missing:/srv/x").create().failed();
        let mut second = lab.container(Runtime::Crun, "second");
        second.ask("db:/srv/db:shared").start("sleep 1000");

        seen.add("status", &said(&["status"]).ok().out);
        for name in ["web", "db"] {
            seen.add("inspect", &said(&["inspect", "--usage", name]).ok().out);
        }
        nsenter(&web, &["umount", "/srv/db"]);
        let differs = seen.add("inspect", &said(&["inspect", "web"]).ok().out);
        assert!(differs["containers"][0]["differences"][0].is_object(), "{differs:#}");
        seen.add("logs", &said(&["logs"]).ok().out);
        seen.add("logs", &said(&["logs", "web"]).ok().out);
        seen.add("logs", &said(&["logs", "refused"]).ok().out);
        seen.add("metrics", &said(&["metrics"]).ok().out);
        let held = seen.add("volume list", &said(&["volume", "list", "--usage"]).ok().out);
        assert!(held.as_array().unwrap().iter().any(|one| !one["held_by"][0].is_null()), "{held:#}");
        seen.add("volume inspect", &said(&["volume", "inspect", "--usage", "db"]).ok().out);
        seen.add("volume inspect", &said(&["volume", "inspect", "on"]).ok().out);
        seen.add("authorize", &said(&["authorize", "--namespace", "team-a", "--role", "default"]).ok().out);
        seen.add("authorize", &said(&["authorize", "--namespace", "team-b", "--role", "default"]).failed().out);
        seen.add("authorize", &said(&["authorize", "--role", "default"]).ok().out);
        seen.add("explain", &said(&["explain"]).ok().out);
        seen.add("explain", &said(&["explain", "41"]).ok().out);
        seen.add("explain", &said(&["explain", "hook-masked"]).ok().out);
        let hooks = lab.dir.join("hooks.d");
        let report = seen.add("doctor", &said(&["doctor", "--hooks-dir", hooks.to_str().unwrap()]).failed().out);
        assert!(report["findings"][0].is_object() && report["programs"][0].is_object(), "{report:#}");

        let archive = lab.dir.join("archive.tar");
        let file = |open: fn(&Path) -> std::io::Result<fs::File>| Stdio::from(open(&archive).unwrap());
        let carry = |verb: &[&str], stdin: Stdio, stdout: Stdio| {
            let mut command = Command::new(CLI);
            command.arg("--config").arg(lab.config()).args(verb).arg("--json");
            let output = command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output
        };
        let told = carry(&["volume", "export", "on"], Stdio::null(), file(|path| fs::File::create(path))).stderr;
        seen.add("volume export", &String::from_utf8(told).unwrap());
        let told = carry(&["volume", "import", "copy"], file(|path| fs::File::open(path)), Stdio::piped()).stdout;
        seen.add("volume import", &String::from_utf8(told).unwrap());
        seen.add("volume destroy", &said(&["volume", "destroy", "--yes", "copy"]).ok().out);
        seen.add("sandbox create", &said(&["sandbox", "create", "--owner", "1000:1000"]).ok().out);

        // Its hooks do not come: what it held is left to reconcile.
        second.spec["hooks"] = json!({});
        kill(Pid::from_raw(second.pid()), Signal::SIGKILL).unwrap();
        wait_for("the container's end", || !is_alive(second.pid()));
        let done = seen.add("reconcile", &said(&["reconcile"]).ok().out);
        assert!(done["done"][0].is_string(), "{done:#}");
        seen.add("gc", &said(&["gc"]).ok().out);
        web.kill();
        web.delete().ok();
        second.delete();
        kill(Pid::from_raw(watch.id().cast_signed()), Signal::SIGTERM).unwrap();
        out.read_to_string(&mut lines).unwrap();
        watch.wait().unwrap();
        for line in lines.lines() {
            seen.add("watch", line);
        }
        for event in ["present", "attached", "detached", "refused", "released", "reconciled"] {
            assert!(seen.0["watch.json"].iter().any(|one| one["event"] == event), "{event}: {lines}");
        }

        let path = |name: &str| lab.dir.join(name).to_str().unwrap().to_owned();
        let (bin, hooks, from) = (path("bin"), path("hooks.d"), Path::new(CLI).parent().unwrap());
        let places = ["--bin-dir", &bin, "--hooks-dir", &hooks];
        let from = ["install", "--from", from.to_str().unwrap()];
        seen.add("install", &said(&[&from[..], &places].concat()).ok().out);
        seen.add("uninstall", &said(&[&["uninstall"][..], &places].concat()).ok().out);
        seen.add("generate man", &said(&["generate", "man", &path("man")]).ok().out);
        seen.add("generate schemas", &said(&["generate", "schemas", &path("schemas")]).ok().out);
        seen.add("generate completions", &said(&["generate", "completions", "bash"]).ok().out);

        mesos::work_dir(&lab.work());
        lab.configure(json!({ "isolation": "filesystem/linux" }));
        let report = seen.add("adopt", &said(&["adopt"]).ok().out);
        assert!(report["volumes"][0].is_object(), "{report:#}");
        let app = json!({
            "id": "/app", "cmd": "true", "constraints": [["hostname", "UNIQUE"]],
            "container": { "type": "MESOS", "docker": { "image": "i" }, "volumes": [] },
        });
        let task = json!({ "name": "t", "command": { "value": "true" }, "container": { "type": "MESOS" } });
        for (verb, definition) in [("marathon", app), ("mesos", task)] {
            fs::write(path("definition"), definition.to_string()).unwrap();
            let ran = said(&["convert", verb, "--image", "i", &path("definition")]).ok();
            let converted = seen.add(&format!("convert {verb}"), &ran.out);
            assert!(converted[0]["units"][0].is_object(), "{converted:#}");
        }

        let mut files = names(&published());
        files.retain(|name| name != "config.json");
        assert_eq!(files, seen.0.keys().cloned().collect::<Vec<_>>(), "each schema is of a verb that was run");
        for (file, documents) in &seen.0 {
            let published = schema_of(file);
            let mut closed = published.clone();
            close(&mut closed, false);
            for (number, fault) in against(&closed, documents).into_iter().enumerate() {
                assert_eq!(fault, None, "{file} against {:#}", documents[number]);
            }
            let broken: Vec<Value> = documents.iter().flat_map(broken).collect();
            for (number, fault) in against(&closed, &broken).into_iter().enumerate() {
                assert!(fault.is_some(), "{file} has nothing against {:#}", broken[number]);
            }
        }
    });
}

fn nsenter(container: &Container, words: &[&str]) {
    run("nsenter", &[&["-t", &container.pid().to_string(), "-m"], words].concat()).ok();
}

#[test]
fn configurations_are_refused_by_schema_and_command_alike() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let mut all: Vec<(Value, bool)> = Vec::new();
        for example in names(&project().join("examples")) {
            let file = project().join("examples").join(example).join("config.json");
            if let Ok(text) = fs::read_to_string(file) {
                all.push((serde_json::from_str(&text).unwrap(), true));
            }
        }
        assert!(all.len() >= 6, "{} examples", all.len());
        let rule = json!({ "identity": "*", "roles": ["a"] });
        all.extend([
            (json!({}), true),
            (json!({ "log_level": "Debug", "propagation": "all", "ownership": null, "disks": null }), true),
            (json!({ "secrets": [{ "name": "a", "path": "/a", "credential": null, "roles": [] }] }), true),
            (json!({ "host_paths": [{ "path": "/a", "roles": [], "mode": null, "bidirectional": true }] }), true),
            (json!({ "authorization": { "allow": [rule], "deny": [] }, "managers": { "local": ["/a"] } }), true),
            (json!({ "disks": [{ "name": "a", "type": "MOUNT", "mount": { "root": "a" } }] }), true),
            (json!({ "default_container_info": { "type": "MESOS", "volumes": null } }), true),
            (json!([]), false),
            (json!({ "work_dri": "/a" }), false),
            (json!({ "work_dir": 1 }), false),
            (json!({ "work_dir": "a" }), false),
            (json!({ "runtime_dir": "run" }), false),
            (json!({ "sandbox_directory": "a" }), false),
            (json!({ "isolation": ["filesystem/linux"] }), false),
            (json!({ "allowed_isolation": ["filesystem/windows"] }), false),
            (json!({ "allowed_isolation": "filesystem/linux" }), false),
            (json!({ "journal": "yes" }), false),
            (json!({ "log_level": "loud" }), false),
            (json!({ "propagation": "none" }), false),
            (json!({ "ownership": "root" }), false),
            (json!({ "sandbox_retention": 60 }), false),
            (json!({ "managers": { "docker": ["/a"] } }), false),
            (json!({ "managers": { "local": "/a" } }), false),
            (json!({ "host_paths": [{ "path": "/a", "roles": [], "mode": "rw" }] }), false),
            (json!({ "host_paths": [{ "path": "/a", "roles": [], "create": null }] }), false),
            (json!({ "host_paths": [{ "path": "/a" }] }), false),
            (json!({ "host_paths": [{ "path": "/a", "roles": [], "more": 1 }] }), false),
            (json!({ "secrets": [{ "name": "a", "path": "/a", "roles": [], "mode": "RO" }] }), false),
            (json!({ "secrets": { "name": "a" } }), false),
            (json!({ "authorization": { "grant": [] } }), false),
            (json!({ "authorization": { "allow": [{ "identity": "*", "roles": [] }] } }), false),
            (json!({ "authorization": { "allow": [{ "identity": "*", "role": "a" }] } }), false),
            (json!({ "disks": [{ "name": "a", "type": "BLOCK" }] }), false),
            (json!({ "disks": [{ "name": "a", "type": "PATH", "path": "/a" }] }), false),
            (json!({ "disks": [{ "name": "a", "type": "PATH", "path": { "root": "/a", "more": 1 } }] }), false),
            (json!({ "default_container_info": { "type": "DOCKER" } }), false),
            (json!({ "default_container_info": { "volumes": [] } }), false),
            (json!({ "default_container_info": { "type": "MESOS", "volumes": "a:b" } }), false),
            (json!({ "default_container_info": { "type": "MESOS", "docker": {} } }), false),
        ]);
        let documents: Vec<Value> = all.iter().map(|(config, _)| config.clone()).collect();
        for ((config, is_good), fault) in all.iter().zip(against(&schema_of("config.json"), &documents)) {
            fs::write(lab.config(), config.to_string()).unwrap();
            let ran = lab.cli(&["config"]);
            assert_eq!(ran.code == 0, *is_good, "{config}: {ran:?}");
            assert_eq!(fault.is_none(), *is_good, "{config}: {fault:?}");
        }
    });
}
