//! Commands of podman for a shell, and the words that Quadlet files share with them.
#![forbid(unsafe_code)]

use super::fields::Leftovers;
use super::words::{is_text, texts};
use super::{Container, Env, Health, Known, Probe, Unit, Workload, refused};
use crate::error::Result;

/// Writes a script.
pub fn write(workload: &Workload, known: &Known, left: &Leftovers, needs: &mut Vec<String>) -> Result<Vec<Unit>> {
    let mut script = String::new();
    if workload.is_pod {
        let mut words = vec!["podman".to_owned(), "pod".to_owned(), "create".to_owned()];
        words.extend(["--name".to_owned(), workload.name.clone()]);
        words.extend(shared(workload, workload.containers.iter()));
        push(&mut script, &words)?;
    }
    for container in &workload.containers {
        let mut words = vec!["podman".to_owned(), "run".to_owned(), "--detach".to_owned()];
        if workload.is_pod {
            words.extend(["--pod".to_owned(), workload.name.clone()]);
            words.extend(["--name".to_owned(), format!("{}-{}", workload.name, container.name)]);
        } else {
            words.extend(["--name".to_owned(), container.name.clone()]);
            words.extend(shared(workload, std::iter::once(container)));
        }
        for (key, value) in environment(container, left) {
            words.extend(["--env".to_owned(), format!("{key}={value}")]);
        }
        for (key, value) in annotations(container) {
            words.extend(["--annotation".to_owned(), format!("{key}={value}")]);
        }
        for (key, value) in labels(workload, container, left) {
            words.extend(["--label".to_owned(), format!("{key}={value}")]);
        }
        words.extend(options(workload, container, left, needs)?);
        words.push(image(container, known)?);
        words.extend(container.arguments.iter().cloned());
        push(&mut script, &words)?;
    }
    Ok(vec![Unit { name: format!("{}.sh", workload.name), content: script }])
}

/// One command, an option on each line.
fn push(script: &mut String, words: &[String]) -> Result<()> {
    for (index, word) in words.iter().enumerate() {
        if !is_text(word) {
            return Err(refused(format!("{word:?} has control characters, which no command line can show")));
        }
        let quoted = shlex::try_quote(word).map_err(|_| refused(format!("{word:?} has a zero byte")))?;
        let separator = match index {
            0 => "",
            _ if word.starts_with("--") && !quoted.contains('\n') => " \\\n    ",
            _ => " ",
        };
        script.push_str(separator);
        script.push_str(&quoted);
    }
    script.push('\n');
    Ok(())
}

/// What the containers of a pod have in common: network, ports and name.
pub fn shared<'c>(workload: &Workload, containers: impl Iterator<Item = &'c Container>) -> Vec<String> {
    let mut words = Vec::new();
    if workload.host_network {
        words.extend(["--network".to_owned(), "host".to_owned()]);
    }
    for port in containers.flat_map(|container| &container.ports) {
        words.extend(["--publish".to_owned(), published(port)]);
    }
    if let Some(name) = &workload.hostname {
        words.extend(["--hostname".to_owned(), name.clone()]);
    }
    words
}

/// A port as `--publish` has it.
pub fn published(port: &super::Port) -> String {
    let host = port.host.map(|host| format!("{host}:")).unwrap_or_default();
    format!("{host}{}/{}", port.container, port.protocol)
}

/// The image.
pub fn image(container: &Container, known: &Known) -> Result<String> {
    let image = known.image.as_ref().or(container.image.as_ref()).ok_or_else(|| {
        refused(format!("{}: it has no image: it ran on the agent's own files", container.name))
            .remedy("name an image that has what it needs: --image IMAGE")
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    if image.is_empty() || image.starts_with('-') || !image.chars().all(plain) {
        return Err(refused(format!("{image:?} is not the name of an image")));
    }
    Ok(image.clone())
}

/// What the hooks are asked for. A sandbox, as every task of Mesos has one.
pub fn annotations(container: &Container) -> Vec<(String, String)> {
    let mut annotations = vec![
        ("io.fs-isolator.isolation".to_owned(), "filesystem/linux".to_owned()),
        ("io.fs-isolator.sandbox".to_owned(), "true".to_owned()),
    ];
    let volumes = container.annotation();
    if !volumes.is_empty() {
        annotations.push(("io.fs-isolator.volumes".to_owned(), volumes));
    }
    annotations
}

/// Environment variables that have a value here.
pub fn environment(container: &Container, left: &Leftovers) -> Vec<(String, String)> {
    let named = container.env.iter().filter_map(|(name, value)| match value {
        Env::Text(text) => Some((name, text)),
        Env::Secret(_) => None,
    });
    texts(&format!("{}/env", container.at), named, left)
}

/// Labels of the whole and of the container.
pub fn labels(workload: &Workload, container: &Container, left: &Leftovers) -> Vec<(String, String)> {
    let named = workload.labels.iter().chain(&container.labels).map(|(key, value)| (key, value));
    texts(&format!("{}/labels", container.at), named, left)
}

/// Options of `podman run` for which a Quadlet has no key, or not in every version.
pub fn options(
    workload: &Workload,
    container: &Container,
    left: &Leftovers,
    needs: &mut Vec<String>,
) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    if let Some(user) = &container.user {
        option("user", user.clone());
    }
    if let Some(cpus) = container.cpus.filter(|cpus| *cpus > 0.0) {
        option("cpus", cpus.to_string());
    }
    if let Some(memory) = container.mem_mb.filter(|memory| *memory > 0.0) {
        option("memory", format!("{}k", (memory * 1024.0).ceil()));
    }
    if let Some(grace) = workload.grace_seconds {
        option("stop-timeout", grace.to_string());
    }
    if container.pull_always {
        option("pull", "always".to_owned());
    }
    for (name, value) in &container.env {
        if let Env::Secret(secret) = value {
            let plain = secret_name(secret);
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if is_name {
                option("secret", format!("{plain},type=env,target={name}"));
                needs.push(format!("podman secret create {plain} FILE, with the value of the secret {secret}"));
            } else {
                left.add(format!("{}/env {name:?}", container.at), None, "it cannot be a name here");
            }
        }
    }
    if let Some(entrypoint) = &container.entrypoint {
        option("entrypoint", serde_json::json!([entrypoint]).to_string());
    }
    if let Some(health) = &container.health {
        health_options(health, left, &mut option);
    }
    if container.privileged {
        words.push("--privileged".to_owned());
    }
    for (key, value) in &container.options {
        words.push(format!("--{key}={value}"));
    }
    Ok(words)
}

/// A name that podman and Kubernetes take for a secret.
pub fn secret_name(secret: &str) -> String {
    super::plain_name(secret)
}

fn health_options(health: &Health, left: &Leftovers, option: &mut impl FnMut(&str, String)) {
    let Probe::Command(words) = &health.probe else {
        left.add(
            &health.at,
            serde_json::to_value(health).ok(),
            "podman checks with commands only: ask with one that the image has (--health-cmd)",
        );
        return;
    };
    // As JSON, the words are not for a shell.
    option("health-cmd", serde_json::json!(words).to_string());
    for (name, seconds) in [
        ("health-start-period", health.grace),
        ("health-interval", health.interval),
        ("health-timeout", health.timeout),
    ] {
        if let Some(seconds) = seconds {
            option(name, format!("{seconds}s"));
        }
    }
    if let Some(failures) = health.failures {
        option("health-retries", failures.to_string());
    }
}
