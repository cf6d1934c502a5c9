//! `fs-isolator convert`: every field of a definition is used or listed, and what is written means what was meant, to a real
//! shell too.
#![recursion_limit = "512"]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/mesos.rs"]
mod mesos_agent;
#[path = "common/quadlet.rs"]
mod quadlet;
#[allow(dead_code)]
#[path = "common/throw_away.rs"]
mod throw_away;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::*;
use fs_isolator::convert::fields::Leftovers;
use fs_isolator::convert::{Converted, Known, Place, Target, marathon, mesos, write};
use fs_isolator::error::{Cause, Result};
use fs_isolator::request::names::{Role, VolumeId};
use quadlet::{Quadlet, newer_programs};
use serde_json::{Value, json};
use throw_away::{IMAGE, install, seed_image, throw_away_changes};

const TARGETS: [Target; 3] = [Target::Podman, Target::Quadlet, Target::Pod];

fn place(role: &str, id: &str) -> Place {
    Place { role: Some(Role::parse(role).unwrap()), id: VolumeId::parse(id).unwrap(), disk: None }
}

fn known() -> Known {
    Known {
        volumes: vec![
            place("db", "group_app#data#6c5f0b6e-8a3b-11ee"),
            place("db", "group_pod#store#6c5f0b6e-8a3b-11ef"),
            place("a/b", "id1"),
        ],
        sandbox_directory: "/mnt/mesos/sandbox".to_owned(),
        disks: vec![("/mnt/fast".to_owned(), "fast".to_owned())],
        ..Known::default()
    }
}

fn convert(definition: &Value, target: Target, known: &Known) -> Result<Converted> {
    let left = Leftovers::default();
    let is_task = definition.get("id").is_none();
    let definitions = if is_task { mesos::definitions } else { marathon::definitions };
    let read = if is_task { mesos::read } else { marathon::read };
    let workload = read(definitions(definition.clone())?.remove(0), known, &left)?;
    write(&workload, target, known, left)
}

/// An app with everything that Marathon has, and no default.
fn app() -> Value {
    json!({
        "id": "/group/app", "cmd": "run \"$PORT0\"", "args": ["never", "both"], "user": "postgres", "instances": 3,
        "cpus": 1.5, "mem": 64.5, "disk": 10, "gpus": 1, "executor": "custom", "acceptedResourceRoles": ["*"],
        "env": { "A": "b c", "S": { "secret": "s1" }, "N": 5 },
        "secrets": { "s1": { "source": "/db/password" }, "s2": { "source": "x", "more": 1 } },
        "constraints": [["hostname", "UNIQUE"]], "fetch": [{ "uri": "http://x/y.tgz" }], "uris": ["http://x"], "storeUrls": ["u"],
        "backoffSeconds": 1, "backoffFactor": 1.15, "maxLaunchDelaySeconds": 300, "requirePorts": true,
        "container": {
            "type": "OTHER", "linuxInfo": { "seccomp": { "unconfined": true } },
            "docker": {
                "image": "registry/x:1", "forcePullImage": true, "privileged": true, "network": "BRIDGE", "credential": { "principal": "p" },
                "pullConfig": { "secret": "s" },
                "parameters": [{ "key": "ulimit", "value": "nofile=5:5" }, { "key": "annotation", "value": "x=y" }, { "key": "Bad Key", "value": "z" }],
                "portMappings": [{ "containerPort": 80, "hostPort": 8080, "protocol": "udp,tcp", "servicePort": 10000, "name": "web", "labels": { "VIP_0": "x" } }]
            },
            "portMappings": [{ "containerPort": 81, "hostPort": 8081, "protocol": "sctp" }],
            "volumes": [
                { "containerPath": "data", "mode": "RW", "persistent": { "type": "mount", "size": 5, "maxSize": 6, "profileName": "f", "constraints": [["path", "LIKE", "x"]] } },
                { "containerPath": "/var/lib/data", "hostPath": "data", "mode": "RW" },
                { "containerPath": "/etc/x", "hostPath": "/srv/x", "mode": "RO" },
                { "containerPath": "/weird", "hostPath": "/srv/y", "mode": "WO" },
                { "containerPath": "secret", "secret": "s1" },
                { "containerPath": "/ext", "mode": "RW", "external": { "name": "n", "provider": "dvdi", "options": { "dvdi/driver": "rexray" } } },
                "no object"
            ]
        },
        "healthChecks": [
            { "protocol": "COMMAND", "command": { "value": "check me" }, "gracePeriodSeconds": 5, "intervalSeconds": 6, "timeoutSeconds": 7, "maxConsecutiveFailures": 2, "ignoreHttp1xx": true },
            { "protocol": "MESOS_HTTP", "path": "/h", "portIndex": 0 }
        ],
        "readinessChecks": [{ "name": "r" }], "check": { "command": { "command": "x" } },
        "dependencies": ["/other"], "labels": { "l": "v", "io.fs-isolator.volumes": "forged:/x" },
        "networks": [{ "mode": "container", "name": "dcos", "labels": { "a": "b" } }], "ipAddress": { "groups": ["g"] },
        "portDefinitions": [{ "port": 10001, "protocol": "udp", "name": "n", "labels": { "x": "y" } }], "ports": [10001],
        "residency": { "taskLostBehavior": "WAIT_FOREVER" }, "unreachableStrategy": "disabled",
        "upgradeStrategy": { "minimumHealthCapacity": 0.5 }, "killSelection": "YOUNGEST_FIRST", "taskKillGracePeriodSeconds": 33,
        "role": "r", "tty": true, "resourceLimits": { "cpus": 2 }, "version": "2020", "tasksRunning": 1, "nobody knows": { "this/one~": [1, { "x": "y" }] }
    })
}

fn pod() -> Value {
    json!({
        "id": "/group/pod", "labels": { "l": "v" }, "environment": { "E": "common", "S": { "secret": "s1" } }, "user": "1000:1001",
        "secrets": { "s1": { "source": "db/p" } }, "version": "x", "executorResources": { "cpus": 0.1 },
        "networks": [{ "mode": "container/bridge" }], "scaling": { "kind": "fixed", "instances": 2, "maxInstances": 3 },
        "scheduling": { "placement": { "constraints": [{ "fieldName": "hostname", "operator": "UNIQUE" }] } },
        "volumes": [
            { "name": "store", "persistent": { "size": 5 } }, { "name": "h", "host": "/srv/h" }, { "name": "rel", "host": "rel/x" },
            { "name": "eph" }, { "name": "s", "secret": "s1" }, { "name": "what", "other": 1 }
        ],
        "containers": [
            {
                "name": "web", "resources": { "cpus": 0.5, "mem": 32, "disk": 5, "gpus": 2 },
                "image": { "kind": "APPC", "id": "img:1", "forcePull": true, "labels": { "x": "y" }, "pullConfig": { "secret": "q" } },
                "exec": { "command": { "argv": ["serve", "--x y"] }, "overrideEntrypoint": false },
                "endpoints": [{ "name": "http", "containerPort": 80, "hostPort": 8080, "protocol": ["tcp", "odd"], "labels": { "v": "w" } }],
                "environment": { "F": "own" }, "labels": { "c": "d" }, "artifacts": [{ "uri": "u" }],
                "healthCheck": { "http": { "path": "/x", "scheme": "HTTP", "endpoint": "http" }, "gracePeriodSeconds": 1, "intervalSeconds": 2, "timeoutSeconds": 3, "maxConsecutiveFailures": 4, "delaySeconds": 5 },
                "lifecycle": { "killGracePeriodSeconds": 9 },
                "volumeMounts": [
                    { "name": "store", "mountPath": "data" }, { "name": "h", "mountPath": "/h", "readOnly": true }, { "name": "rel", "mountPath": "/rel" },
                    { "name": "eph", "mountPath": "/eph" }, { "name": "s", "mountPath": "/run/s" }, { "name": "what", "mountPath": "/what" }
                ]
            },
            { "name": "side", "image": { "kind": "DOCKER", "id": "img:2" }, "exec": { "command": { "shell": "echo \"$E\"" } },
              "user": "root", "healthCheck": { "exec": { "command": { "shell": "true" } } }, "volumeMounts": [{ "name": "store", "mountPath": "/s" }] }
        ]
    })
}

fn task() -> Value {
    json!({
        "name": "my task", "task_id": { "value": "t.1", "x": 1 }, "agent_id": { "value": "S0" }, "data": "c2VjcmV0",
        "resources": [
            { "name": "cpus", "type": "SCALAR", "scalar": { "value": 0.25 }, "role": "*" },
            { "name": "mem", "type": "SCALAR", "scalar": { "value": 32 }, "role": "r", "allocation_info": { "role": "r" } },
            { "name": "disk", "type": "SCALAR", "scalar": { "value": 5 } }, { "name": "gpus", "type": "SCALAR", "scalar": { "value": 1 } },
            { "name": "ports", "type": "RANGES", "ranges": { "range": [{ "begin": 1, "end": 2 }] } },
            { "name": "disk", "type": "SCALAR", "scalar": { "value": 64 },
              "reservations": [{ "type": "STATIC", "role": "a" }, { "type": "DYNAMIC", "role": "a/b", "principal": "p" }],
              "disk": { "persistence": { "id": "id1", "principal": "p" }, "volume": { "container_path": "data", "mode": "RW", "more": 1 } }, "shared": {} },
            { "name": "disk", "role": "q", "disk": { "persistence": { "id": "id2" }, "source": { "type": "PATH", "path": { "root": "/mnt/fast" }, "profile": "p" }, "volume": { "container_path": "d2", "mode": "RO" } } }
        ],
        "command": { "shell": false, "value": "/bin/prog", "arguments": ["argv0", "-x", "a b"], "user": "nobody",
                     "uris": [{ "value": "http://x" }],
                     "environment": { "variables": [{ "name": "A", "value": "1", "type": "ODD" },
                         { "name": "B", "type": "SECRET", "secret": { "type": "REFERENCE", "reference": { "name": "n", "key": "k" } } },
                         { "name": "C", "type": "SECRET", "secret": { "type": "VALUE", "value": { "data": "aHVudGVyMg==" } } }] } },
        "container": {
            "type": "X", "hostname": "h", "network_infos": [{ "name": "n" }], "linux_info": { "share_pid_namespace": true }, "rlimit_info": {}, "tty_info": {},
            "docker": { "image": "first", "network": "BRIDGE", "privileged": true, "force_pull_image": true, "port_mappings": [{ "host_port": 1, "container_port": 2, "protocol": "udp" }],
                        "parameters": [{ "key": "shm-size", "value": "1m" }] },
            "mesos": { "image": { "type": "APPC", "docker": { "name": "second", "credential": {} }, "cached": false } },
            "volumes": [
                { "container_path": "/a", "mode": "RO", "source": { "type": "HOST_PATH", "host_path": { "path": "/srv/a", "mount_propagation": { "mode": "BIDIRECTIONAL" } } } },
                { "container_path": "/tmp", "mode": "RW", "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": "SELF", "path": "tmp" } } },
                { "container_path": "par", "mode": "RW", "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": "PARENT", "path": "p" } } },
                { "container_path": "sec", "mode": "RO", "source": { "type": "SECRET", "secret": { "type": "REFERENCE", "reference": { "name": "s", "key": "k" } } } },
                { "container_path": "dv", "mode": "RW", "source": { "type": "DOCKER_VOLUME", "docker_volume": { "driver": "rexray", "name": "v" } } },
                { "container_path": "im", "mode": "RW", "image": { "type": "DOCKER", "docker": { "name": "alpine" } } },
                { "container_path": "/old", "mode": "RW", "host_path": "rel" }
            ]
        },
        "health_check": { "type": "HTTP", "http": { "port": 80, "path": "/h", "scheme": "https", "statuses": [200] }, "interval_seconds": 2.0, "timeout_seconds": 3.0, "consecutive_failures": 4, "grace_period_seconds": 5.0, "delay_seconds": 1.0 },
        "labels": { "labels": [{ "key": "k", "value": "v" }] }, "kill_policy": { "grace_period": { "nanoseconds": 1500000000 } },
        "discovery": { "visibility": "CLUSTER" }, "limits": { "cpus": { "value": 1.0 } }, "max_completion_time": { "nanoseconds": 5 }
    })
}

/// JSON pointers of everything in a value that has nothing in it.
fn leaves(value: &Value, at: &str, all: &mut Vec<String>) {
    let key = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(object) if !object.is_empty() => {
            object.iter().for_each(|(name, value)| leaves(value, &format!("{at}/{}", key(name)), all));
        }
        Value::Array(values) if !values.is_empty() => {
            values.iter().enumerate().for_each(|(n, value)| leaves(value, &format!("{at}/{n}"), all));
        }
        _ => all.push(at.to_owned()),
    }
}

/// Takes out what a pointer points to.
fn without(value: &Value, at: &str) -> Value {
    let mut value = value.clone();
    let (parent, name) = at.rsplit_once('/').unwrap();
    match value.pointer_mut(parent).unwrap() {
        Value::Object(object) => drop(object.remove(&name.replace("~1", "/").replace("~0", "~"))),
        Value::Array(values) => drop(values.remove(name.parse().unwrap())),
        _ => unreachable!(),
    }
    value
}

/// What a conversion tells, all in all.
fn told(converted: &Result<Converted>) -> String {
    match converted {
        Ok(converted) => serde_json::to_string(converted).unwrap(),
        Err(error) => error.to_string(),
    }
}

/// Makes something else of what a pointer points to.
fn changed(value: &Value, at: &str) -> Value {
    let mut value = value.clone();
    let found = value.pointer_mut(at).unwrap();
    *found = match found.take() {
        Value::String(text) => json!(format!("{text}-changed")),
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) => json!(number.as_f64().unwrap() + 1.0),
        other => json!({ "changed": other }),
    };
    value
}

// The promise: nothing is dropped in silence. Whatever is taken out of a definition, or changed where it is the default, is seen
// in what is written or listed.
#[test]
fn whatever_a_definition_says_is_used_or_listed() {
    for (name, definition) in [("app", app()), ("pod", pod()), ("task", task())] {
        let mut all = Vec::new();
        leaves(&definition, "", &mut all);
        assert!(all.len() > 60, "{name}: {}", all.len());
        for target in TARGETS {
            let whole = convert(&definition, target, &known());
            let whole = told(&Ok(whole.unwrap_or_else(|error| panic!("{name} {target:?}: {error}"))));
            let same = |other: Value| told(&convert(&other, target, &known())) == whole;
            let silent: Vec<&String> =
                all.iter().filter(|at| same(without(&definition, at)) && same(changed(&definition, at))).collect();
            assert!(silent.is_empty(), "{name} {target:?}: nobody would miss {silent:#?}");
        }
    }
}

// Nor is what nobody has ever heard of, wherever it stands.
#[test]
fn what_nobody_knows_is_listed_wherever_it_stands() {
    fn objects(value: &Value, at: &str, all: &mut Vec<String>) {
        if let Value::Object(object) = value {
            all.push(at.to_owned());
            object.iter().for_each(|(name, value)| {
                objects(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), all)
            });
        } else if let Value::Array(values) = value {
            values.iter().enumerate().for_each(|(n, value)| objects(value, &format!("{at}/{n}"), all));
        }
    }
    for definition in [app(), pod(), task()] {
        let mut all = Vec::new();
        objects(&definition, "", &mut all);
        for at in all {
            for target in TARGETS {
                let mut more = definition.clone();
                more.pointer_mut(&at).unwrap()["nobody"] = json!("knows-this");
                let converted = convert(&more, target, &known());
                assert!(told(&converted).contains("nobody"), "{at} {target:?}");
            }
        }
    }
}

#[test]
fn secrets_are_not_repeated() {
    for target in TARGETS {
        assert!(!told(&convert(&task(), target, &known())).contains("aHVudGVyMg"));
    }
}

/// What a shell makes of the commands: each call of podman, with its words.
fn words_of(script: &str) -> Vec<Vec<String>> {
    let stub = "podman() { for word; do printf '%s\\0' \"$word\"; done; printf '\\1\\0'; }\n";
    let mut command = Command::new("/bin/sh");
    let output = command.args(["-euc", &format!("{stub}{script}")]).env_clear().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut calls = vec![Vec::new()];
    for word in text.split_terminator('\0') {
        match word {
            "\u{1}" => calls.push(Vec::new()),
            word => calls.last_mut().unwrap().push(word.to_owned()),
        }
    }
    calls.pop();
    calls
}

const HOSTILE: [&str; 16] = [
    "$(touch /tmp/evil)",
    "`id`",
    "'; rm -rf / #",
    "\"\\\"",
    "a\nb",
    "-x",
    "%n %% %h",
    "$HOME ${HOME} $$",
    "a b\tc",
    "\\",
    "*",
    "~",
    "!x",
    "ü €",
    "",
    "a;b,c",
];

#[test]
fn a_shell_gets_the_words_that_were_meant() {
    for text in HOSTILE {
        let app = json!({ "id": "/x", "cmd": text, "user": format!("u{text}"), "env": { "V": text }, "labels": { "l": text },
                          "container": { "docker": { "image": "i" } } });
        let converted = convert(&app, Target::Podman, &known()).unwrap();
        let calls = words_of(&converted.units[0].content);
        let has = |one: &str, two: &str| calls[0].windows(2).any(|pair| pair == [one.to_owned(), two.to_owned()]);
        assert!(
            calls.len() == 1 && has("--env", &format!("V={text}")) && has("--label", &format!("l={text}")),
            "{text:?} {calls:?}"
        );
        assert!(has("--user", &format!("u{text}")), "{text:?} {calls:?}");
        if !text.is_empty() {
            assert_eq!(calls[0][calls[0].len() - 3..], ["i".to_owned(), "-c".to_owned(), text.to_owned()]);
        }
    }
}

#[test]
fn a_manifest_says_what_was_meant() {
    for text in HOSTILE {
        let app = json!({ "id": "/x", "args": [text], "env": { "V": text, "W": "$(V)" }, "container": { "docker": { "image": "i" } } });
        let converted = convert(&app, Target::Pod, &known()).unwrap();
        let content = &converted.units[0].content;
        let json: String = content.lines().skip_while(|line| line.starts_with('#')).collect();
        let pod: Value = serde_json::from_str(&json).unwrap();
        let container = &pod["spec"]["containers"][0];
        let literal = text.replace("$(", "$$(");
        assert_eq!(
            (container["args"][0].as_str(), container["env"][0]["value"].as_str()),
            (Some(&*literal), Some(&*literal))
        );
        assert_eq!(container["env"][1]["value"], "$$(V)");
    }
}

// No value of a definition begins a line of its own, or moves the cursor of a terminal.
#[test]
fn a_value_never_leaves_its_place() {
    let evil = "x\n[Service]\nExecStartPre=/bin/evil\n\x1b[2J\u{9b}2J\r\\";
    let app = json!({ "id": format!("/{evil}"), "cmd": "ok", "env": { "V": evil, evil: "v" }, "labels": { "l": evil, evil: "x" }, "other": evil, evil: evil,
                      "container": { "docker": { "image": "i" } } });
    for target in TARGETS {
        let converted = convert(&app, target, &known()).unwrap();
        for line in converted.units[0].content.lines() {
            assert!(!line.starts_with("[Service") || line == "[Service]", "{line}");
            assert!(!line.starts_with("ExecStartPre") && !line.chars().any(char::is_control), "{target:?} {line:?}");
            assert!(!(line.starts_with('#') && line.ends_with('\\')), "{target:?} {line:?}");
        }
        assert_eq!(converted.units[0].content.matches("\n[Service]").count(), usize::from(target == Target::Quadlet));
        assert!(converted.left.iter().any(|left| left.at.contains("/other")), "{:?}", converted.left);
    }
    for at in ["cmd", "user"] {
        let mut app = json!({ "id": "/x", "container": { "docker": { "image": "i" } } });
        app[at] = json!("\x1b[2J");
        assert_eq!(convert(&app, Target::Quadlet, &known()).unwrap_err().cause(), Cause::Convert);
        assert_eq!(convert(&app, Target::Podman, &known()).unwrap_err().cause(), Cause::Convert);
    }
    for image in ["-v/:/x", "i\nUser=root", "i $HOME", "", "a b"] {
        let app = json!({ "id": "/x", "container": { "docker": { "image": image } } });
        for target in TARGETS {
            assert_eq!(convert(&app, target, &known()).unwrap_err().cause(), Cause::Convert, "{image:?}");
        }
    }
}

#[test]
fn volumes_are_found_by_what_marathon_calls_them() {
    let app = |path: &str| json!({ "id": "/group/app", "container": { "docker": { "image": "i" }, "volumes": [{ "containerPath": path, "mode": "RW", "persistent": { "size": 1 } }] } });
    let annotation = |known: &Known, path: &str| {
        let converted = convert(&app(path), Target::Podman, known).map_err(|error| error.to_string())?;
        let calls = words_of(&converted.units[0].content);
        Ok::<_, String>(
            calls[0].iter().find_map(|word| word.strip_prefix("io.fs-isolator.volumes=")).unwrap().to_owned(),
        )
    };
    assert_eq!(annotation(&known(), "data").unwrap(), "group_app#data#6c5f0b6e-8a3b-11ee:data:role=db");
    assert!(annotation(&known(), "dat").unwrap_err().contains("--volume-id dat=ID"));
    // Two instances had one each, and another app's name begins alike.
    let mut several = known();
    several.volumes.push(place("db", "group_app#data#second"));
    several.volumes.push(place("db", "group_app#data2#x"));
    let refused = annotation(&several, "data").unwrap_err();
    assert!(refused.contains("group_app#data#second (db)") && !refused.contains("data2"), "{refused}");
    several.ids = vec![("data".to_owned(), "group_app#data#second".to_owned())];
    assert_eq!(annotation(&several, "data").unwrap(), "group_app#data#second:data:role=db");
    several.ids = vec![("data".to_owned(), "a:b;c%,\"d".to_owned())];
    assert_eq!(annotation(&several, "data").unwrap(), "a%3Ab%3Bc%25%2C%22d:data");
    let mut roles = known();
    roles.volumes.push(place("other", "group_app#data#6c5f0b6e-8a3b-11ee"));
    assert!(annotation(&roles, "data").is_err());
    roles.role = Some(Role::parse("other").unwrap());
    assert_eq!(annotation(&roles, "data").unwrap(), "group_app#data#6c5f0b6e-8a3b-11ee:data:role=other");
    // What a hook would refuse is refused now.
    for path in ["..", "a/../b", "/proc/x"] {
        let mut known = known();
        known.ids = vec![(path.to_owned(), "id1".to_owned())];
        assert!(annotation(&known, path).is_err(), "{path}");
    }
}

#[test]
fn what_is_written_for_the_whole_app() {
    let known = known();
    let podman = convert(&app(), Target::Podman, &known).unwrap();
    let words = words_of(&podman.units[0].content).remove(0);
    let volumes = "group_app#data#6c5f0b6e-8a3b-11ee:data:role=db;sandbox=data:/var/lib/data;host=/srv/x:/etc/x:ro;host=/srv/y:/weird:ro;secret=db/password:secret";
    for wanted in [
        &format!("io.fs-isolator.volumes={volumes}"),
        "8080:80/udp",
        "8080:80/tcp",
        "1.5",
        "66048k",
        "33",
        "--privileged",
        "always",
        "db-password,type=env,target=S",
        "--ulimit=nofile=5:5",
        "[\"/bin/sh\",\"-c\",\"check me\"]",
        "MESOS_SANDBOX=/mnt/mesos/sandbox",
    ] {
        assert!(words.iter().any(|word| word == wanted), "{wanted}: {words:#?}");
    }
    assert!(!words.iter().any(|word| word.contains("annotation=")), "{words:?}");
    let pod = convert(&app(), Target::Pod, &known).unwrap();
    assert!(
        !pod.units[0].content.contains("forged:/x\",")
            && pod.left.iter().any(|left| left.at.contains("io.fs-isolator.volumes"))
    );
    let quadlet = convert(&self::pod(), Target::Quadlet, &known).unwrap();
    let names: Vec<&str> = quadlet.units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(names, ["group-pod.pod", "group-pod-web.container", "group-pod-side.container"]);
}

#[test]
fn groups_arrays_and_answers_are_read() {
    let app = |id: &str| json!({ "id": id, "cmd": "x" });
    for (value, ids) in [
        (app("/a"), vec!["/a"]),
        (json!([app("/a"), [app("/b")]]), vec!["/a", "/b"]),
        (json!({ "apps": [app("/a")] }), vec!["/a"]),
        (json!({ "app": app("/a") }), vec!["/a"]),
        (
            json!({ "id": "/", "apps": [app("/a")], "groups": [{ "id": "/g", "apps": [], "pods": [app("/g/p")] }] }),
            vec!["/a", "/g/p"],
        ),
    ] {
        let found = marathon::definitions(value).unwrap();
        let found: Vec<&str> = found.iter().map(|app| app["id"].as_str().unwrap()).collect();
        assert_eq!(found, ids);
    }
    let group = json!({ "id": "/", "apps": [app("/a")], "dependencies": ["/x"] });
    assert!(marathon::definitions(group).unwrap()[0]["(group)"]["dependencies"].is_array());
    for bad in [json!(1), json!([]), json!({ "apps": [] }), json!({ "apps": 1 })] {
        assert_eq!(marathon::definitions(bad).unwrap_err().cause(), Cause::Convert);
    }
}

#[test]
fn the_command_finds_volumes_in_the_agents_checkpoint() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        mesos_agent::work_dir(&lab.work());
        let file = lab.dir.join("app.json");
        let app = json!({ "id": "/test2", "cmd": "true", "constraints": [["hostname", "UNIQUE"]], "container": { "type": "MESOS", "docker": { "image": "i" },
            "volumes": [{ "containerPath": "es_data", "mode": "RW", "persistent": { "size": 1 } }] } });
        fs::write(&file, app.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let before = manifest(&lab.work());
        for to in ["podman", "quadlet", "pod"] {
            let ran = lab.cli(&["convert", "marathon", "--to", to, file]).ok();
            assert!(ran.out.contains(&format!("{}:es_data:role=esaas", mesos_agent::MARATHON)), "{ran:?}");
            assert!(
                ran.err.contains("not carried over: /constraints = ")
                    && ran.out.contains("# not carried over: /constraints = "),
                "{ran:?}"
            );
            let ran = lab.cli(&["convert", "marathon", "--json", "--to", to, file]).ok();
            let told: Value = serde_json::from_str(&ran.out).unwrap();
            assert!(told[0]["left"].as_array().unwrap().iter().any(|left| left["at"] == "/constraints"), "{told:#}");
        }
        assert_eq!(manifest(&lab.work()), before);
        let ran = run_with(
            Command::new(CLI).arg("--config").arg(lab.config()).args(["convert", "mesos", "--image", "i", "-"]),
            br#"{"name": "t", "command": {"value": "x"}}"#,
        );
        assert!(ran.ok().out.contains("podman run"));
        for bad in [
            &["convert", "marathon", "/nothing"][..],
            &["convert", "mesos", file],
            &["convert", "marathon", "--volume-id", "x", file],
        ] {
            let ran = lab.cli(bad);
            assert!(ran.code == 90 || ran.code == 2, "{ran:?}");
        }
    });
}

/// What an app with these ports is told, and what is listed.
fn ports_told(app: Value) -> (Vec<String>, String) {
    let converted = convert(&app, Target::Podman, &known()).unwrap();
    let words = words_of(&converted.units[0].content).remove(0);
    let mut told: Vec<String> = words.into_iter().filter(|word| word.starts_with("PORT")).collect();
    told.sort();
    (told, serde_json::to_string(&converted.left).unwrap())
}

#[test]
fn what_marathon_tells_of_ports_is_told_or_listed() {
    let app = |networks: Value, mappings: Value| {
        json!({ "id": "/x", "cmd": "serve $PORT0", "env": { "PORT_MINE": "7" }, "networks": networks,
                "container": { "docker": { "image": "i" }, "portMappings": mappings } })
    };
    let bridge = json!([{ "mode": "container/bridge" }]);
    let two = json!([{ "containerPort": 80, "hostPort": 8080, "protocol": "tcp,udp", "name": "web" }, { "containerPort": 81, "hostPort": 8081 }]);
    let (told, left) = ports_told(app(bridge.clone(), two));
    let all = [
        "PORT0=8080",
        "PORT1=8081",
        "PORT=8080",
        "PORTS=8080,8081",
        "PORT_80=8080",
        "PORT_81=8081",
        "PORT_MINE=7",
        "PORT_WEB=8080",
    ];
    assert_eq!(told, all);
    assert!(!left.contains("PORT0"), "{left}");

    // Chosen by Marathon at each start: nobody knows it here.
    for mapping in [json!({ "containerPort": 80 }), json!({ "containerPort": 80, "hostPort": 0 })] {
        let (told, left) = ports_told(app(bridge.clone(), json!([{ "containerPort": 1, "hostPort": 1 }, mapping])));
        assert_eq!(told, ["PORT0=1", "PORT=1", "PORT_1=1", "PORT_MINE=7"]);
        assert!(left.contains("/container/portMappings/1\"") && left.contains("PORT1 told the app"), "{left}");
    }
    // On a network of its own it is the container's.
    let (told, _) = ports_told(app(json!([{ "mode": "container", "name": "n" }]), json!([{ "containerPort": 80 }])));
    assert_eq!(told, ["PORT0=80", "PORT=80", "PORTS=80", "PORT_80=80", "PORT_MINE=7"]);
    // The older form, and what the app says itself.
    let mut older = json!({ "id": "/x", "cmd": "serve", "env": { "PORT0": "5" }, "container": { "docker": { "image": "i",
        "network": "BRIDGE", "portMappings": [{ "containerPort": 80, "hostPort": 8080 }] } } });
    assert_eq!(ports_told(older.clone()).0, ["PORT0=5", "PORT=8080", "PORTS=8080", "PORT_80=8080"]);
    // With the host's network.
    older["container"] = json!({ "docker": { "image": "i", "network": "HOST" } });
    older["portDefinitions"] = json!([{ "port": 9000 }, { "port": 0 }]);
    let (told, left) = ports_told(older.clone());
    assert_eq!(told, ["PORT0=5", "PORT=9000", "PORT_9000=9000"]);
    assert!(left.contains("/portDefinitions/1") && left.contains("PORT1 told the app"), "{left}");
    let object = older.as_object_mut().unwrap();
    object.remove("portDefinitions");
    object.insert("ports".to_owned(), json!([0, 9001]));
    let (told, left) = ports_told(older);
    assert_eq!(told, ["PORT0=5", "PORT1=9001", "PORT_9001=9001"]);
    assert!(left.contains("/ports/0") && left.contains("PORT0 told the app"), "{left}");
}

#[test]
fn quadlet_makes_a_unit_of_each_conversion() {
    let Some(usr) = newer_programs() else {
        println!("skipped: quadlet is not here, a podman from 4.4 has it; tests/run --long fetches one");
        return;
    };
    on(Host::Private, move || {
        let quadlet = Quadlet::of(&usr);
        let hostile = HOSTILE.iter().filter(|text| !text.is_empty()).map(|text| {
            json!({ "id": "/x", "args": [text], "env": { "V": text }, "labels": { "l": text }, "container": { "docker": { "image": "i" } } })
        });
        for definition in [app(), pod(), task()].into_iter().chain(hostile) {
            let converted = match convert(&definition, Target::Quadlet, &known()) {
                Ok(converted) => converted,
                Err(error) => panic!("{definition}: {error}"),
            };
            let files = converted.units.iter().map(|unit| (unit.name.as_str(), unit.content.as_str()));
            let ran = quadlet.translate(files).ok();
            assert!(!ran.err.contains("unsupported"), "{ran:?}");
            let services = quadlet.services(&ran);
            for unit in &converted.units {
                let (name, kind) = unit.name.rsplit_once('.').unwrap();
                let service = format!("{name}{}.service", if kind == "pod" { "-pod" } else { "" });
                let (_, text) =
                    services.iter().find(|(found, _)| *found == service).unwrap_or_else(|| panic!("{ran:#?}"));
                let asks = |line: &&str| line.starts_with("Annotation=");
                let start = text.lines().filter(|line| line.starts_with("ExecStart=")).collect::<String>();
                for asked in unit.content.lines().filter(asks) {
                    let words = asked.trim_start_matches("Annotation=").trim_matches('"');
                    assert!(
                        start.contains(&format!("--annotation {words}"))
                            || start.contains(&format!("--annotation \"{words}\"")),
                        "{words} in {start}"
                    );
                }
            }
        }
        // A word that quadlet does not know is found.
        let converted = convert(&app(), Target::Quadlet, &known()).unwrap();
        let unit = &converted.units[0];
        quadlet.translate([(unit.name.as_str(), unit.content.replace("\nExec=", "\nExecs=").as_str())]).failed();
    });
}

#[test]
fn a_converted_app_runs_by_kube_play_on_the_directory_that_it_had() {
    on(Host::Shared, || {
        throw_away_changes();
        let _images = seed_image();
        install();
        run("fs-isolator", &["volume", "create", "--role", "db", "group_app#data#6c5f0b6e"]).ok();
        let volume = Path::new("/var/lib/fs-isolator/volumes/roles/db/group_app#data#6c5f0b6e");
        fs::write(volume.join("note"), "from Mesos\n").unwrap();
        let script = "cp \"$MESOS_SANDBOX/data/note\" \"$MESOS_SANDBOX/data/again\"; exec sleep 1000";
        let app = json!({ "id": "/group/app", "cmd": script, "instances": 1, "env": { "E": "x y" },
            "container": { "type": "MESOS", "docker": { "image": IMAGE }, "volumes": [
                { "containerPath": "data", "mode": "RW", "persistent": { "size": 5 } }, { "containerPath": "/scratch", "hostPath": "scratch", "mode": "RW" }] } });
        fs::write("/dev/shm/app.json", app.to_string()).unwrap();
        let manifest = run("fs-isolator", &["convert", "marathon", "--to", "pod", "/dev/shm/app.json"]).ok().out;
        fs::write("/dev/shm/app.yaml", manifest).unwrap();
        run("podman", &["play", "kube", "--network", "none", "/dev/shm/app.yaml"]).ok();
        let inside = |words: &[&str]| run("podman", &[&["exec", "group-app-group-app"], words].concat()).ok().out;
        wait_for("the app to read its data", || volume.join("again").exists());
        let there = fs::metadata(volume).unwrap();
        assert_eq!(
            inside(&["stat", "-c", "%d:%i", "/mnt/mesos/sandbox/data"]).trim(),
            format!("{}:{}", there.dev(), there.ino())
        );
        assert_eq!(inside(&["cat", "/mnt/mesos/sandbox/data/again"]), "from Mesos\n");
        assert_eq!(inside(&["sh", "-c", "echo \"$E\"; touch /scratch/x; ls /mnt/mesos/sandbox/scratch"]), "x y\nx\n");
        let held = run("fs-isolator", &["status", "--json"]).ok().out;
        assert!(held.contains("\"group_app#data#6c5f0b6e:data\"") && held.contains("\"exclusive\""), "{held}");
        run("podman", &["play", "kube", "--down", "/dev/shm/app.yaml"]).ok();
        assert_eq!(fs::read_to_string(volume.join("note")).unwrap(), "from Mesos\n");
    });
}
