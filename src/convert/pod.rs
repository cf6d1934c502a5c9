//! A manifest of Kubernetes, for nodes with CRI-O: JSON, which is YAML.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::fields::Leftovers;
use super::podman::{annotations, environment, image, secret_name};
use super::{Container, Env, Health, Known, Probe, Unit, Workload, refused};
use crate::error::{Cause, Error, Result};

/// Writes a manifest.
pub fn write(workload: &Workload, known: &Known, left: &Leftovers, needs: &mut Vec<String>) -> Result<Vec<Unit>> {
    let mut notes = Map::new();
    for (key, value) in &workload.labels {
        // An annotation of ours would ask for something.
        if is_key(key) && !key.starts_with(crate::request::PREFIX) {
            notes.insert(key.clone(), json!(value));
        } else {
            left.add(format!("/labels/{key}"), Some(json!(value)), "it cannot be the name of an annotation");
        }
    }
    let mut containers = Vec::new();
    for container in &workload.containers {
        for (key, value) in annotations(container) {
            // For podman, which gives hooks no name of a container, the plain key; of several it is all of them that it reaches.
            let is_one = workload.containers.len() == 1;
            notes.insert(if is_one { key } else { format!("{key}/{}", container.name) }, json!(value));
        }
        containers.push(self::container(container, known, left, needs)?);
    }
    if containers
        .iter()
        .enumerate()
        .any(|(at, one)| containers.iter().take(at).any(|other| other["name"] == one["name"]))
    {
        return Err(refused(format!("two containers of {} have one name", workload.origin)));
    }
    needs.push("spec.nodeName names the node that has the volumes: fill it in, or use a node selector".to_owned());
    let mut spec = json!({ "containers": containers, "restartPolicy": "Always", "nodeName": "NODE" });
    if workload.host_network {
        spec["hostNetwork"] = json!(true);
    }
    if let Some(name) = &workload.hostname {
        spec["hostname"] = json!(name);
    }
    if let Some(grace) = workload.grace_seconds {
        spec["terminationGracePeriodSeconds"] = json!(grace);
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": workload.name, "annotations": notes },
        "spec": spec,
    });
    let text = serde_json::to_string_pretty(&pod).map_err(|error| Error::new(Cause::Convert, error.to_string()))?;
    // YAML forbids a few characters that JSON lets stand.
    let text: String = text.chars().map(|c| if is_printable(c) { c.to_string() } else { escaped(c) }).collect();
    Ok(vec![Unit { name: format!("{}.yaml", workload.name), content: format!("{text}\n") }])
}

/// What may stand in YAML (1.2, `c-printable`), line breaks of its own aside.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
}

fn escaped(c: char) -> String {
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// Whether a text can be the name of an annotation: with a domain before a slash, or without.
fn is_key(text: &str) -> bool {
    let is_name = |name: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        name.len() <= 63
            && edge(name.chars().next())
            && edge(name.chars().last())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_domain = |name: &str| {
        name.split('.').all(|part| is_name(part) && !part.contains('_')) && name == name.to_ascii_lowercase()
    };
    match text.split_once('/') {
        None => is_name(text),
        Some((domain, name)) => is_domain(domain) && is_name(name),
    }
}

/// Kubernetes expands `$(NAME)` in commands and variables.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn container(container: &Container, known: &Known, left: &Leftovers, needs: &mut Vec<String>) -> Result<Value> {
    let mut spec = json!({ "name": container.name, "image": image(container, known)? });
    if container.pull_always {
        spec["imagePullPolicy"] = json!("Always");
    }
    if let Some(entrypoint) = &container.entrypoint {
        spec["command"] = json!([literal(entrypoint)]);
    }
    if !container.arguments.is_empty() {
        spec["args"] = container.arguments.iter().map(|argument| literal(argument)).collect();
    }
    let mut env: Vec<Value> = environment(container, left)
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": literal(&value) }))
        .collect();
    for (name, value) in &container.env {
        if let Env::Secret(secret) = value {
            let plain = secret_name(secret);
            needs.push(format!("a Secret {plain} with the key value, for the secret {secret}"));
            env.push(json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": plain, "key": "value" } } }));
        }
    }
    spec["env"] = json!(env);
    let mut resources = Map::new();
    if let Some(cpus) = container.cpus.filter(|cpus| *cpus > 0.0) {
        resources.insert("cpu".to_owned(), json!(format!("{}m", (cpus * 1000.0).ceil())));
    }
    if let Some(memory) = container.mem_mb.filter(|memory| *memory > 0.0) {
        resources.insert("memory".to_owned(), json!(format!("{}Ki", (memory * 1024.0).ceil())));
    }
    if !resources.is_empty() {
        spec["resources"] = json!({ "limits": resources, "requests": resources });
    }
    if !container.ports.is_empty() {
        let port = |port: &super::Port| {
            let mut value = json!({ "containerPort": port.container, "protocol": port.protocol.to_uppercase() });
            if let Some(host) = port.host {
                value["hostPort"] = json!(host);
            }
            value
        };
        spec["ports"] = container.ports.iter().map(port).collect();
    }
    let mut security = Map::new();
    if container.privileged {
        security.insert("privileged".to_owned(), json!(true));
    }
    match container.user.as_deref().map(|user| (user, numbers(user))) {
        None => {}
        Some(("root", _)) => drop(security.insert("runAsUser".to_owned(), json!(0))),
        Some((_, Some((uid, gid)))) => {
            security.insert("runAsUser".to_owned(), json!(uid));
            if let Some(gid) = gid {
                security.insert("runAsGroup".to_owned(), json!(gid));
            }
        }
        Some((user, None)) => {
            let why =
                "Kubernetes takes numbers only: give securityContext.runAsUser the number of that user in the image";
            left.add(format!("{}/user", container.at), Some(json!(user)), why);
        }
    }
    if !security.is_empty() {
        spec["securityContext"] = json!(security);
    }
    if let Some(health) = &container.health {
        spec["livenessProbe"] = probe(health);
    }
    for (key, value) in &container.options {
        left.add(
            format!("{}/docker/parameters/{key}", container.at),
            Some(json!(value)),
            "an option of docker's command line",
        );
    }
    if !container.labels.is_empty() {
        let labels: Map<String, Value> =
            container.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        left.add(
            format!("{}/labels", container.at),
            Some(json!(labels)),
            "containers of Kubernetes have no labels of their own",
        );
    }
    Ok(spec)
}

fn numbers(user: &str) -> Option<(u32, Option<u32>)> {
    match user.split_once(':') {
        None => Some((user.parse().ok()?, None)),
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
    }
}

fn probe(health: &Health) -> Value {
    let mut probe = match &health.probe {
        Probe::Command(words) => {
            json!({ "exec": { "command": words.iter().map(|word| literal(word)).collect::<Vec<_>>() } })
        }
        Probe::Http { scheme, path, port } => {
            json!({ "httpGet": { "scheme": scheme.to_uppercase(), "path": path, "port": port } })
        }
        Probe::Tcp(port) => json!({ "tcpSocket": { "port": port } }),
    };
    for (key, number) in [
        ("initialDelaySeconds", health.grace),
        ("periodSeconds", health.interval),
        ("timeoutSeconds", health.timeout),
        ("failureThreshold", health.failures),
    ] {
        if let Some(number) = number {
            probe[key] = json!(number.max(u64::from(key != "initialDelaySeconds")));
        }
    }
    probe
}
