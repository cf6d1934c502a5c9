//! The files of the examples. Their commands are run by documents.rs.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/documents.rs"]
mod documents;
#[path = "common/quadlet.rs"]
mod quadlet;
#[path = "common/schema.rs"]
mod schema;
#[path = "common/throw_away.rs"]
mod throw_away;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use documents::project;
use quadlet::{Quadlet, newer_programs};
use serde_json::{Value, json};
use throw_away::{IMAGE, install, seed_image, throw_away_changes};

/// Documents of a YAML, TOML or JSON file.
fn documents_of(file: &Path) -> Vec<Value> {
    let program = "import json, sys, tomllib, yaml\n\
                   name = sys.argv[1]\n\
                   file = open(name, 'rb')\n\
                   print(json.dumps([tomllib.load(file)] if name.endswith(('.toml', '.conf')) else list(yaml.safe_load_all(file))))";
    let ran = run("python3", &["-c", program, file.to_str().unwrap()]).ok();
    serde_json::from_str(&ran.out).unwrap()
}

fn example(name: &str) -> PathBuf {
    project().join("examples").join(name)
}

fn against(name: &str, documents: &[Value]) -> Vec<Option<String>> {
    let text = fs::read_to_string(project().join("tests/fixtures").join(name)).unwrap();
    schema::against(&serde_json::from_str(&text).unwrap(), documents)
}

/// Each value below a document, by its path, replaced by one of another type.
fn broken(document: &Value) -> Vec<(String, Value)> {
    fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(map) => {
                map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
            }
            Value::Array(items) => {
                items.iter().enumerate().map(|(number, value)| (number.to_string(), value)).collect()
            }
            _ => Vec::new(),
        };
        for (key, value) in inner {
            let path = format!("{at}/{key}");
            paths(value, &path, all);
            all.push(path);
        }
    }
    let mut all = Vec::new();
    paths(document, "", &mut all);
    let replaced = all.into_iter().map(|path| {
        let mut copy = document.clone();
        let place = copy.pointer_mut(&path).unwrap();
        *place = if place.is_null() { json!(1) } else { Value::Null };
        (path, copy)
    });
    replaced.collect()
}

// Facts of the API references are in the schemas. They know only the fields that are used, and these strictly: a value of
// another type is found wherever it stands, and so is a field that nobody knows.
#[test]
fn files_for_what_does_not_run_here_follow_their_schemas() {
    for (file, schema, count) in [
        ("kubernetes/node-setup.yaml", "kubernetes.schema.json", 3),
        ("kubernetes/statefulset.yaml", "kubernetes.schema.json", 3),
        ("kubernetes/user-namespace.yaml", "kubernetes.schema.json", 1),
        ("cri-o/pod.yaml", "kubernetes.schema.json", 1),
        ("quadlet/kube.yaml", "kubernetes.schema.json", 1),
        ("nomad/files.nomad.json", "nomad.schema.json", 1),
        ("docker/hooks.json", "oci-add-hooks.schema.json", 1),
        ("docker/daemon.json", "docker-daemon.schema.json", 1),
        ("containerd/config.toml", "containerd.schema.json", 1),
    ] {
        let documents = documents_of(&example(file));
        assert_eq!(documents.len(), count, "{file}");
        let (mut names, mut all) = (vec![String::new(); count], documents.clone());
        for document in documents {
            let mut unknown = document.clone();
            unknown["unknown"] = json!({});
            for (path, copy) in broken(&document).into_iter().chain([("unknown".to_owned(), unknown)]) {
                names.push(path);
                all.push(copy);
            }
        }
        let answers = against(schema, &all);
        assert_eq!(answers[..count], vec![None; count], "{file}");
        let passed: Vec<&String> = names
            .iter()
            .zip(&answers)
            .skip(count)
            .filter(|(_, answer)| answer.is_none())
            .map(|(name, _)| name)
            .collect();
        assert!(passed.is_empty(), "{file}: {passed:?}");
    }
}

// What the schema asks of the pod that touches nodes.
#[test]
fn the_daemonset_with_any_privilege_more_is_refused() {
    let document = documents_of(&example("kubernetes/node-setup.yaml")).pop().unwrap();
    let install = "/spec/template/spec/initContainers/0/securityContext";
    for (path, value) in [
        (format!("{install}/privileged"), json!(true)),
        (format!("{install}/allowPrivilegeEscalation"), json!(true)),
        (format!("{install}/readOnlyRootFilesystem"), json!(false)),
        (format!("{install}/capabilities"), json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] })),
        (format!("{install}/seccompProfile/type"), json!("Unconfined")),
        ("/spec/template/spec/automountServiceAccountToken".to_owned(), json!(true)),
        ("/spec/template/spec/containers/0/securityContext".to_owned(), json!({})),
    ] {
        let mut more = document.clone();
        *more.pointer_mut(&path).unwrap() = value;
        assert!(against("kubernetes.schema.json", &[more])[0].is_some(), "{path}");
    }
    let mut namespaces = document.clone();
    namespaces["spec"]["template"]["spec"]["hostPID"] = json!(true);
    assert!(against("kubernetes.schema.json", &[namespaces])[0].is_some());
}

// What pins the pod: each part names the next.
#[test]
fn the_statefulset_is_pinned_to_the_node_of_its_volume() {
    let documents = documents_of(&example("kubernetes/statefulset.yaml"));
    let [class, volume, set] = &documents[..] else { panic!("{documents:#?}") };
    let template = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(class["metadata"]["name"], volume["spec"]["storageClassName"]);
    assert_eq!(class["metadata"]["name"], template["spec"]["storageClassName"]);
    let name = |value: &Value| value["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(volume["spec"]["claimRef"]["name"], json!(format!("{}-{}-0", name(template), name(set))));
    assert_eq!(volume["spec"]["claimRef"]["namespace"], set["metadata"]["namespace"]);
    assert_eq!(volume["spec"]["accessModes"], template["spec"]["accessModes"]);
    assert_eq!(volume["spec"]["capacity"], template["spec"]["resources"]["requests"]);
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
}

// The annotation of each file is a request, of a namespace that may use the role, for a container that is there.
#[test]
fn requests_of_the_examples_are_understood() {
    let mut seen = 0;
    for file in ["kubernetes/statefulset.yaml", "kubernetes/user-namespace.yaml", "cri-o/pod.yaml", "quadlet/kube.yaml"]
    {
        for document in documents_of(&example(file)) {
            let pod = document.pointer("/spec/template").unwrap_or(&document);
            let Some(annotations) = pod["metadata"]["annotations"].as_object() else { continue };
            let containers = pod["spec"]["containers"].as_array().unwrap();
            for (key, value) in annotations {
                let asked = fs_isolator::request::volumes(value.as_str().unwrap()).unwrap();
                assert_eq!(asked.len(), 1, "{file}");
                let name = key.strip_prefix("io.fs-isolator.volumes").unwrap().strip_prefix('/');
                assert!(name.is_none_or(|name| containers.iter().any(|container| container["name"] == name)), "{file}");
                let role = value.as_str().unwrap().rsplit_once("role=").map(|(_, role)| role);
                assert!(role.is_none_or(|role| role == "team-a" || role.starts_with("team-a/")), "{file}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn configurations_of_the_examples_are_valid() {
    for name in ["cri-o", "podman", "runc", "crun", "docker", "containerd"] {
        let config = fs::read(example(name).join("config.json")).unwrap();
        fs_isolator::config::Config::parse(&config).unwrap();
    }
    let crio = documents_of(&example("cri-o/10-fs-isolator.conf"));
    assert_eq!(crio[0]["crio"]["runtime"]["hooks_dir"], json!(["/usr/share/containers/oci/hooks.d"]));
    for name in names(&project().join("hooks")) {
        let text = fs::read_to_string(project().join("hooks").join(&name)).unwrap();
        let broken = text.replace("\"timeout\"", "\"timeouts\"");
        let both = [&text, &broken].map(|text| serde_json::from_str(text).unwrap());
        assert!(matches!(against("hooks.d.schema.json", &both)[..], [None, Some(_)]), "{name}");
    }
}

// The DaemonSet's pod as it is, by podman, on a machine without this project: it may do nothing but install.
#[test]
fn the_daemonsets_pod_installs_with_no_capability() {
    on(Host::Shared, || {
        throw_away_changes();
        let _images = seed_image();
        fs::remove_file("/usr/bin/fs-isolator").unwrap();
        let executables = Path::new(PRESTART).parent().unwrap().to_str().unwrap();
        let file = example("kubernetes/Containerfile");
        let image = "localhost/fs-isolator:0.1.0";
        run("podman", &["build", "-q", "-t", image, "-f", file.to_str().unwrap(), executables]).ok();
        let mut documents = documents_of(&example("kubernetes/node-setup.yaml"));
        let template = documents.pop().unwrap()["spec"]["template"].clone();
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!("fs-isolator");
        // Otherwise podman 4.3 removes it while it still ends.
        metadata["annotations"] = json!({ "io.podman.annotations.init.container.type": "always" });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] });
        // podman of Debian 12 knows no namespaces and no DaemonSet.
        let play = format!("{}\n---\n{pod}\n", documents[1]);
        fs::write("/dev/shm/play.yaml", play).unwrap();
        run("podman", &["play", "kube", "--network", "none", "/dev/shm/play.yaml"]).ok();
        for (name, from) in [("prestart", PRESTART), ("poststart", POSTSTART), ("poststop", POSTSTOP)] {
            let installed = format!("/usr/libexec/oci/hooks.d/fs-isolator-{name}");
            assert!(fs::read(installed).unwrap() == fs::read(from).unwrap(), "{name}");
        }
        // What is installed serves a container of the node.
        fs::copy(CLI, "/usr/bin/fs-isolator").unwrap();
        run("fs-isolator", &["volume", "create", "db"]).ok();
        let ask = "io.fs-isolator.volumes=db:/data";
        run("podman", &["run", "--rm", "--annotation", ask, IMAGE, "sh", "-c", "echo here > /data/note"]).ok();
        assert_eq!(fs::read_to_string("/var/lib/fs-isolator/volumes/roles/default/db/note").unwrap(), "here\n");
        run("podman", &["play", "kube", "--down", "/dev/shm/play.yaml"]).ok();
    });
}

// What oci-add-hooks makes of a bundle of Docker's: the file's hooks before those that are there.
#[test]
fn the_hooks_for_docker_serve_a_bundle_of_its() {
    on(Host::Shared, || {
        throw_away_changes();
        install();
        fs::copy(example("docker/config.json"), "/etc/fs-isolator/config.json").unwrap();
        run("fs-isolator", &["volume", "create", "db"]).ok();
        let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task/moby/0123");
        fs::create_dir_all(bundle).unwrap();
        make_rootfs(&bundle.join("rootfs"));
        let mut spec = spec();
        spec["hooks"] = documents_of(&example("docker/hooks.json"))[0]["hooks"].clone();
        spec["annotations"] = json!({ "io.fs-isolator.volumes": "db:/data" });
        spec["process"]["args"] = json!(["/bin/sh", "-c", "echo here > /data/note"]);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        run(
            "runc",
            &["--root", "/run/runc-of-docker", "run", "--bundle", bundle.to_str().unwrap(), "fs-isolator-docker"],
        )
        .ok();
        assert_eq!(fs::read_to_string("/var/lib/fs-isolator/volumes/roles/default/db/note").unwrap(), "here\n");
    });
}

// The command of Nomad's task, with another program for the container.
#[test]
fn the_task_for_nomad_has_its_volume() {
    on(Host::Shared, || {
        throw_away_changes();
        let _images = seed_image();
        install();
        run("fs-isolator", &["volume", "create", "files"]).ok();
        let job = documents_of(&example("nomad/files.nomad.json")).remove(0);
        let config = &job["Job"]["TaskGroups"][0]["Tasks"][0]["Config"];
        let words: Vec<&str> = config["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let (options, _) = words.split_at(words.iter().position(|word| *word == "httpd").unwrap());
        let command = ["touch", "/srv/files/here"];
        run(config["command"].as_str().unwrap(), &[options, &command].concat()).ok();
        assert!(Path::new("/var/lib/fs-isolator/volumes/roles/default/files/here").exists());
    });
}

#[test]
fn quadlet_makes_a_unit_that_asks_for_the_volume() {
    let Some(usr) = newer_programs() else {
        println!("skipped: quadlet is not here, a podman from 4.4 has it; tests/run --long fetches one");
        return;
    };
    on(Host::Private, move || {
        let quadlet = Quadlet::of(&usr);
        let file = fs::read_to_string(example("quadlet/files.container")).unwrap();
        let ran = quadlet.translate([("files.container", file.as_str())]).ok();
        let start = ran.out.lines().find(|line| line.starts_with("ExecStart=")).unwrap_or_else(|| panic!("{ran:#?}"));
        assert!(start.contains("--annotation io.fs-isolator.volumes=files:/srv/files"), "{start}");
        let services = quadlet.services(&ran);
        assert!(matches!(&services[..], [(name, _)] if name == "files.service"), "{services:?}");
        // A mistake is told.
        quadlet.translate([("files.container", file.replace("Annotation=", "Annotations=").as_str())]).failed();
    });
}

// In a namespace of its own: quickstart compares the mount table it finds.
#[test]
fn quickstart_runs() {
    on(Host::Shared, || {
        let script = project().join("examples/quickstart");
        let ran = run_with(&mut Command::new(script), b"").ok();
        assert_eq!(ran.out.matches("the second reads: hello from the first").count(), 3, "{ran:#?}");
        assert!(ran.out.ends_with("The host's mount table and /run are as before.\n"), "{ran:#?}");
    });
}

// systemd need not run for its files to be wrong.
#[test]
fn units_are_understood_by_systemd() {
    let folder = project().join("examples/systemd");
    if run("systemd-analyze", &["--version"]).code != 0 {
        println!("skipped: systemd-analyze is not here");
        return;
    }
    on(Host::Private, move || {
        throw_away_changes();
        let units: Vec<String> = names(&folder).into_iter().filter(|name| name.starts_with("fs-isolator-")).collect();
        assert_eq!(units.len(), 5, "{units:?}");
        for unit in units {
            let ran = run("systemd-analyze", &["verify", "--man=no", folder.join(&unit).to_str().unwrap()]);
            assert!(ran.code == 0 && !ran.err.contains("fs-isolator"), "{unit}: {ran:?}");
        }
        fs::create_dir_all("/var/lib/prometheus/node-exporter").unwrap();
        for verb in ["reconcile", "gc", "metrics"] {
            let text = fs::read_to_string(folder.join(format!("fs-isolator-{verb}.service"))).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            run(words[0], &words[1..]).ok();
        }
        assert_eq!(names(Path::new("/var/lib/prometheus/node-exporter")), ["fs_isolator.prom"]);
    });
}
