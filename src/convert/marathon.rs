//! Marathon's apps and pods (mesos.md C4).
#![forbid(unsafe_code)]

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::fields::{Fields, Leftovers};
use super::words::{command, health_times, number_of_port};
use super::{Container, Env, Health, Known, Port, Probe, Source, Volume, Workload, plain_name, refused};
use crate::error::Result;

/// Apps and pods of a definition: one, an array of them, a group with groups in it, or what Marathon answers for a list.
///
/// # Errors
/// [`Cause::Convert`](crate::error::Cause::Convert) for what is none of these.
pub fn definitions(value: Value) -> Result<Vec<Map<String, Value>>> {
    let mut all = Vec::new();
    collect(value, &mut all)?;
    if all.is_empty() { Err(refused("there is no app and no pod in it")) } else { Ok(all) }
}

fn collect(value: Value, all: &mut Vec<Map<String, Value>>) -> Result<()> {
    match value {
        Value::Array(values) => values.into_iter().try_for_each(|value| collect(value, all)),
        Value::Object(mut object) => {
            let is_group = object.contains_key("apps") || object.contains_key("groups") || object.contains_key("pods");
            if !is_group {
                // GET /v2/apps/ID answers so.
                return match (object.remove("app"), object.len()) {
                    (Some(app), 0) => collect(app, all),
                    (Some(app), _) => {
                        object.insert("app".to_owned(), app);
                        all.push(object);
                        Ok(())
                    }
                    (None, _) => {
                        all.push(object);
                        Ok(())
                    }
                };
            }
            let before = all.len();
            for key in ["apps", "pods", "groups"] {
                match object.remove(key) {
                    None | Some(Value::Null) => {}
                    Some(Value::Array(values)) => values.into_iter().try_for_each(|value| collect(value, all))?,
                    Some(_) => return Err(refused(format!("{key:?} of a group is not an array"))),
                }
            }
            // What is left is the group's own, and listed with its first app.
            object.retain(|key, value| !(key == "id" || value.is_null()));
            if let (Some(first), false) = (all.get_mut(before), object.is_empty()) {
                first.insert("(group)".to_owned(), Value::Object(object));
            }
            Ok(())
        }
        _ => Err(refused("it is neither an app nor a pod, nor an array or group of them")),
    }
}

/// Reads an app or a pod.
///
/// # Errors
/// [`Cause::Convert`](crate::error::Cause::Convert) where it has no id, or a volume cannot be found.
pub fn read(definition: Map<String, Value>, known: &Known, left: &Leftovers) -> Result<Workload> {
    let mut fields = Fields::new("", definition, left);
    let id = fields.string("id").filter(|id| !id.trim_matches('/').is_empty());
    let id = id.ok_or_else(|| refused("the app or pod has no \"id\""))?;
    let is_pod = fields.has("containers");
    let mut workload = Workload { name: plain_name(&id), origin: id, is_pod, ..Workload::default() };
    if is_pod {
        pod(&mut fields, &mut workload, known)?;
    } else {
        app(&mut fields, &mut workload, known)?;
    }
    Ok(workload)
}

/// How an app reaches the network.
#[derive(PartialEq)]
enum Network {
    Host,
    Bridge,
    Other,
}

fn networks(fields: &mut Fields<'_>) -> Option<Network> {
    if !fields.has("networks") {
        return None;
    }
    let mut found = None;
    for mut network in fields.objects("networks") {
        let kind = match network.string("mode").as_deref() {
            Some("host") => Network::Host,
            Some("container/bridge") => Network::Bridge,
            Some(other) => {
                network.leftovers().add(
                    network.place("mode"),
                    Some(json!(other)),
                    "a network of the cluster's: make one with podman or Kubernetes; here it is a bridge",
                );
                Network::Other
            }
            None => Network::Other,
        };
        found.get_or_insert(kind);
    }
    found
}

fn app(fields: &mut Fields<'_>, workload: &mut Workload, known: &Known) -> Result<()> {
    let mut container = Container { name: workload.name.clone(), at: String::new(), ..Container::default() };
    let secrets = secrets(fields);
    container.user = fields.string("user");
    container.cpus = fields.number("cpus");
    container.mem_mb = fields.number("mem");
    fields.pass_over("disk", &[json!(0), json!(0.0)]);
    fields.pass_over("gpus", &[json!(0), json!(0.0)]);
    fields.pass_over("instances", &[json!(0), json!(1)]);
    fields.leave("instances", "this is one of them: convert once for each, with --volume-id and a name of its own");
    // No executor is Marathon's own word for the default.
    fields.pass_over("executor", &[json!(""), json!("//cmd")]);
    for key in ["args", "cmd"] {
        fields.pass_over(key, &[json!([]), json!("")]);
    }
    environment(fields, "env", &secrets, &mut container);
    workload.grace_seconds = fields.whole("taskKillGracePeriodSeconds");
    workload.labels = fields.named_strings("labels");
    let mut network = networks(fields);
    let (mut ports, mut told) = (Vec::new(), Vec::new());
    if let Some(mut spec) = fields.object("container") {
        // With either containerizer it is the same container here.
        spec.pass_over("type", &[json!("MESOS"), json!("DOCKER")]);
        if let Some(mut docker) = spec.object("docker") {
            container.image = docker.string("image");
            container.pull_always = docker.flag("forcePullImage").unwrap_or_default();
            container.privileged = docker.flag("privileged").unwrap_or_default();
            if network.is_none() {
                network = match docker.look("network") {
                    Some("HOST") => Some(Network::Host),
                    Some("BRIDGE") => Some(Network::Bridge),
                    Some(_) => Some(Network::Other),
                    None => None,
                };
                docker.pass_over("network", &[json!("HOST"), json!("BRIDGE")]);
            }
            options(&mut docker, &mut container);
            port_mappings(&mut docker, network.as_ref(), &mut ports, &mut told);
        }
        port_mappings(&mut spec, network.as_ref(), &mut ports, &mut told);
        for mut volume in spec.objects("volumes") {
            container.volumes.extend(app_volume(&mut volume, &workload.origin, &secrets, known)?);
        }
    }
    // Where there are both, Marathon itself refuses.
    let cmd = fields.string("cmd");
    let args = if cmd.is_none() { fields.strings("args") } else { None };
    command(&mut container, cmd, args.unwrap_or_default());
    workload.host_network = matches!(network, None | Some(Network::Host)) && ports.is_empty();
    let of_host = host_ports(fields);
    // Where there are mappings, they are the app's ports.
    tell_ports(if told.is_empty() { of_host } else { told }, &mut container, fields.leftovers());
    container.ports = ports;
    for mut check in fields.objects("healthChecks") {
        if container.health.is_none() {
            container.health = health_check(&mut check, &container);
        }
    }
    known_environment(workload, &mut container, known);
    workload.containers.push(container);
    unused(&secrets, workload, fields.leftovers());
    Ok(())
}

/// Lists secrets that nothing asks for.
fn unused(secrets: &[(String, String)], workload: &Workload, left: &Leftovers) {
    for (name, source) in secrets {
        let is_used = workload.containers.iter().any(|container| {
            container.env.iter().any(|(_, value)| matches!(value, Env::Secret(used) if used == source))
                || container
                    .volumes
                    .iter()
                    .any(|volume| matches!(&volume.source, Source::Secret(used) if used == source))
        });
        if !is_used {
            left.add(format!("/secrets/{name}"), Some(json!(source)), "nothing in it asks for this secret");
        }
    }
}

/// Names of secrets, and what they are called where they are kept.
fn secrets(fields: &mut Fields<'_>) -> Vec<(String, String)> {
    let Some(mut object) = fields.object("secrets") else { return Vec::new() };
    let mut secrets = Vec::new();
    for name in object.keys() {
        if let Some(source) = object.object(&name).and_then(|mut secret| secret.string("source")) {
            secrets.push((name, source.trim_matches('/').to_owned()));
        }
    }
    secrets
}

fn source_of(secrets: &[(String, String)], name: &str) -> String {
    secrets.iter().find(|(known, _)| known == name).map_or_else(|| name.to_owned(), |(_, source)| source.clone())
}

fn environment(fields: &mut Fields<'_>, key: &str, secrets: &[(String, String)], container: &mut Container) {
    let Some(mut object) = fields.object(key) else { return };
    for name in object.keys() {
        if let Some(value) = object.string(&name) {
            container.env.push((name, Env::Text(value)));
        } else if let Some(secret) = object.object(&name).and_then(|mut value| value.string("secret")) {
            container.env.push((name, Env::Secret(source_of(secrets, &secret))));
        }
    }
}

/// What Mesos and Marathon give a task besides, unless it has a value of its own.
fn known_environment(workload: &Workload, container: &mut Container, known: &Known) {
    let more = [
        ("MESOS_SANDBOX".to_owned(), known.sandbox_directory.clone()),
        ("MARATHON_APP_ID".to_owned(), workload.origin.clone()),
    ];
    for (name, value) in more {
        if !container.env.iter().any(|(known, _)| *known == name) {
            container.env.push((name, Env::Text(value)));
        }
    }
}

/// A port that an app is told in its environment.
struct Told {
    at: String,
    /// On the host, or in the container where the host has none; not known where the scheduler chose.
    number: Option<u16>,
    /// As the definition has it, unless it is 0.
    asked: Option<u16>,
    name: Option<String>,
}

/// Ports of an app with the host's network: it is only told which.
fn host_ports(fields: &mut Fields<'_>) -> Vec<Told> {
    let mut ports = Vec::new();
    for mut definition in fields.objects("portDefinitions") {
        let (at, name) = (definition.at().to_owned(), definition.look("name").map(str::to_owned));
        let asked = number_of_port(&mut definition, "port");
        ports.push(Told { at, number: asked, asked, name });
        definition.pass_over("protocol", &[json!("tcp")]);
    }
    let old = fields.ports("ports").unwrap_or_default();
    if !ports.is_empty() {
        return ports;
    }
    let told = |(index, port): (usize, u16)| {
        let asked = Some(port).filter(|port| *port != 0);
        Told { at: format!("/ports/{index}"), number: asked, asked, name: None }
    };
    old.into_iter().enumerate().map(told).collect()
}

/// What Marathon calls ports in an app's environment: PORT, PORT0, PORT_80, PORT_NAME, and PORTS for all. A value of the app's
/// own stays.
fn tell_ports(ports: Vec<Told>, container: &mut Container, left: &Leftovers) {
    let mut add = |name: String, value: String| {
        if !container.env.iter().any(|(known, _)| *known == name) {
            container.env.push((name, Env::Text(value)));
        }
    };
    let numbers: Vec<Option<u16>> = ports.iter().map(|port| port.number).collect();
    for (index, port) in ports.into_iter().enumerate() {
        let Some(number) = port.number else {
            let why =
                format!("PORT{index} told the app a port that was chosen at each start: name one, or set it in env");
            left.add(port.at, None, why);
            continue;
        };
        let of_name = port.name.map(|name| format!("PORT_{}", name.to_uppercase()));
        let of_number = port.asked.map(|asked| format!("PORT_{asked}"));
        let first = (index == 0).then(|| "PORT".to_owned());
        let names = [first, Some(format!("PORT{index}")), of_number, of_name];
        names.into_iter().flatten().for_each(|name| add(name, number.to_string()));
    }
    if let Some(all) = numbers.into_iter().collect::<Option<Vec<u16>>>().filter(|all| !all.is_empty()) {
        add("PORTS".to_owned(), all.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
    }
}

fn options(docker: &mut Fields<'_>, container: &mut Container) {
    for mut parameter in docker.objects("parameters") {
        let key = parameter.string("key").unwrap_or_default();
        let is_option =
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !key.starts_with('-');
        // What is asked for is this command's to say.
        if is_option && key != "annotation" {
            container.options.push((key, parameter.string("value").unwrap_or_default()));
        } else {
            parameter.leftovers().add(parameter.place("key"), Some(json!(key)), "no option that podman may be given");
        }
    }
}

fn port_mappings(fields: &mut Fields<'_>, network: Option<&Network>, ports: &mut Vec<Port>, told: &mut Vec<Told>) {
    for mut mapping in fields.objects("portMappings") {
        let (at, name) = (mapping.at().to_owned(), mapping.look("name").map(str::to_owned));
        let host = number_of_port(&mut mapping, "hostPort");
        let asked = number_of_port(&mut mapping, "containerPort");
        let container = asked.or(host);
        // On a network with addresses of their own, containers need no port of the host.
        let number = if network == Some(&Network::Other) { host.or(asked) } else { host };
        told.push(Told { at, number, asked, name });
        let protocols = mapping.string("protocol").unwrap_or_else(|| "tcp".to_owned());
        mapping.pass_over("servicePort", &[json!(0)]);
        let Some(container) = container else {
            mapping.leftovers().add(mapping.at(), None, "no port of the container is named");
            continue;
        };
        for protocol in protocols.split(',') {
            match protocol {
                "tcp" | "udp" => ports.push(Port { host, container, protocol: protocol.to_owned() }),
                other => {
                    mapping.leftovers().add(mapping.place("protocol"), Some(json!(other)), "tcp and udp are possible")
                }
            }
        }
    }
}

fn read_only(volume: &mut Fields<'_>) -> bool {
    let mode = volume.string("mode");
    match mode.as_deref() {
        None | Some("RW") => false,
        Some("RO") => true,
        Some(other) => {
            // Reading less than was allowed harms nobody.
            volume.leftovers().add(
                volume.place("mode"),
                Some(json!(other)),
                "RW and RO are possible; it is read-only here",
            );
            true
        }
    }
}

/// A persistent volume's size and the like say how it was made.
fn there_already(mut persistent: Fields<'_>) {
    for key in persistent.keys() {
        persistent.leave(&key, "the volume is there already, as it is");
    }
}

fn app_volume(
    volume: &mut Fields<'_>,
    app: &str,
    secrets: &[(String, String)],
    known: &Known,
) -> Result<Option<Volume>> {
    let Some(container_path) = volume.string("containerPath") else { return Ok(None) };
    let source = if let Some(persistent) = volume.object("persistent") {
        there_already(persistent);
        Source::Persistent(known.persistent(app, &container_path)?, false)
    } else if let Some(path) = volume.string("hostPath") {
        if path.starts_with('/') { Source::Host(path) } else { Source::Sandbox(path) }
    } else if let Some(secret) = volume.string("secret") {
        Source::Secret(source_of(secrets, &secret))
    } else {
        let at = volume.place("containerPath");
        volume.leftovers().add(at, Some(json!(container_path)), "the volume is of a kind that is not carried over");
        return Ok(None);
    };
    Ok(Some(Volume { source, container_path, read_only: read_only(volume) }))
}

fn health_check(check: &mut Fields<'_>, container: &Container) -> Option<Health> {
    let at = check.at().to_owned();
    let protocol = check.string("protocol").unwrap_or_else(|| "HTTP".to_owned());
    let port = |check: &mut Fields<'_>| {
        let named = number_of_port(check, "port");
        let index = check.whole("portIndex");
        let of_index = || container.ports.get(usize::try_from(index.unwrap_or(0)).ok()?).map(|port| port.container);
        let told = || {
            let name = format!("PORT{}", index.unwrap_or(0));
            container.env.iter().find_map(|(known, value)| match value {
                Env::Text(value) if *known == name => value.parse().ok(),
                _ => None,
            })
        };
        named.or_else(of_index).or_else(told)
    };
    let probe = match protocol.as_str() {
        "COMMAND" => {
            let value = check.object("command").and_then(|mut command| command.string("value"));
            value.map(|value| Probe::Command(vec!["/bin/sh".to_owned(), "-c".to_owned(), value]))
        }
        "TCP" | "MESOS_TCP" => port(check).map(Probe::Tcp),
        "HTTP" | "HTTPS" | "MESOS_HTTP" | "MESOS_HTTPS" => {
            let scheme = if protocol.ends_with('S') { "https" } else { "http" }.to_owned();
            let path = check.string("path").unwrap_or_else(|| "/".to_owned());
            port(check).map(|port| Probe::Http { scheme, path, port })
        }
        _ => None,
    };
    let Some(probe) = probe else {
        check.leftovers().add(check.place("protocol"), Some(json!(protocol)), "what is checked cannot be told");
        return None;
    };
    let mut health = Health { at, probe, ..Health::default() };
    health_times(
        check,
        &mut health,
        ["gracePeriodSeconds", "intervalSeconds", "timeoutSeconds", "maxConsecutiveFailures"],
    );
    Some(health)
}

/// A volume of a pod, to which its containers' mounts refer by name.
enum PodVolume {
    Persistent(super::Place),
    Host(String),
    Own(String),
    Secret(String),
    Foreign,
}

fn pod(fields: &mut Fields<'_>, workload: &mut Workload, known: &Known) -> Result<()> {
    let secrets = secrets(fields);
    workload.labels = fields.named_strings("labels");
    workload.host_network = matches!(networks(fields), None | Some(Network::Host));
    if let Some(mut scaling) = fields.object("scaling") {
        scaling.pass_over("kind", &[json!("fixed")]);
        scaling.pass_over("instances", &[json!(0), json!(1)]);
    }
    let mut volumes = Vec::new();
    for mut volume in fields.objects("volumes") {
        let Some(name) = volume.string("name") else { continue };
        let source = if let Some(persistent) = volume.object("persistent") {
            there_already(persistent);
            PodVolume::Persistent(known.persistent(&workload.origin, &name)?)
        } else if let Some(path) = volume.string("host") {
            if path.starts_with('/') { PodVolume::Host(path) } else { PodVolume::Own(path) }
        } else if let Some(secret) = volume.string("secret") {
            PodVolume::Secret(source_of(&secrets, &secret))
        } else if volume.keys().is_empty() {
            PodVolume::Own(name.clone())
        } else {
            PodVolume::Foreign
        };
        volumes.push((name, source, Cell::new(false)));
    }
    let mut common = Container::default();
    environment(fields, "environment", &secrets, &mut common);
    common.user = fields.string("user");
    for mut spec in fields.objects("containers") {
        let mut container = Container { at: spec.at().to_owned(), user: common.user.clone(), ..Container::default() };
        container.name = plain_name(&spec.string("name").unwrap_or_else(|| format!("c{}", workload.containers.len())));
        pod_container(&mut spec, &mut container, &volumes, &secrets, workload);
        for (name, value) in &common.env {
            if !container.env.iter().any(|(known, _)| known == name) {
                container.env.push((name.clone(), value.clone()));
            }
        }
        known_environment(workload, &mut container, known);
        workload.containers.push(container);
    }
    if workload.containers.is_empty() {
        return Err(refused(format!("the pod {} has no containers", workload.origin)));
    }
    for (name, _, mounted) in &volumes {
        if !mounted.get() {
            fields.leftovers().add("/volumes", Some(json!(name)), "no container mounts it");
        }
    }
    unused(&secrets, workload, fields.leftovers());
    Ok(())
}

fn pod_container(
    spec: &mut Fields<'_>,
    container: &mut Container,
    volumes: &[(String, PodVolume, Cell<bool>)],
    secrets: &[(String, String)],
    workload: &mut Workload,
) {
    container.user = spec.string("user").or(container.user.take());
    if let Some(mut image) = spec.object("image") {
        container.image = image.string("id");
        image.pass_over("kind", &[json!("DOCKER")]);
        container.pull_always = image.flag("forcePull").unwrap_or_default();
    }
    if let Some(mut resources) = spec.object("resources") {
        container.cpus = resources.number("cpus");
        container.mem_mb = resources.number("mem");
        resources.pass_over("disk", &[json!(0), json!(0.0)]);
        resources.pass_over("gpus", &[json!(0), json!(0.0)]);
    }
    if let Some(mut exec) = spec.object("exec") {
        // An entry point is overridden by every command here, as it is with this set.
        exec.pass_over("overrideEntrypoint", &[json!(true)]);
        if let Some(mut line) = exec.object("command") {
            let (shell, words) = (line.string("shell"), line.strings("argv").unwrap_or_default());
            command(container, shell, words);
        }
    }
    environment(spec, "environment", secrets, container);
    container.labels = spec.named_strings("labels");
    if let Some(mut lifecycle) = spec.object("lifecycle") {
        let grace = lifecycle.whole("killGracePeriodSeconds");
        workload.grace_seconds = workload.grace_seconds.max(grace);
    }
    let mut endpoints = Vec::new();
    for mut endpoint in spec.objects("endpoints") {
        let name = endpoint.look("name").unwrap_or_default().to_owned();
        let host = number_of_port(&mut endpoint, "hostPort");
        let port = number_of_port(&mut endpoint, "containerPort").or(host);
        let protocols = endpoint.strings("protocol").unwrap_or_else(|| vec!["tcp".to_owned()]);
        let Some(port) = port else {
            endpoint.leftovers().add(endpoint.at(), None, "no port of the container is named");
            continue;
        };
        endpoints.push((name, port));
        if workload.host_network {
            let what = json!({ "hostPort": host, "containerPort": port, "protocol": protocols });
            endpoint.leftovers().add(endpoint.at(), Some(what), "with the host's network it listens there by itself");
            continue;
        }
        for protocol in protocols {
            if protocol == "tcp" || protocol == "udp" {
                container.ports.push(Port { host, container: port, protocol });
            } else {
                endpoint.leftovers().add(endpoint.place("protocol"), Some(json!(protocol)), "tcp and udp are possible");
            }
        }
    }
    if let Some(mut check) = spec.object("healthCheck") {
        container.health = pod_check(&mut check, &endpoints);
        if container.health.is_none() {
            check.leftovers().add(check.at(), None, "what is checked cannot be told");
        }
    }
    for mut mount in spec.objects("volumeMounts") {
        let (Some(name), Some(container_path)) = (mount.string("name"), mount.string("mountPath")) else { continue };
        let read_only = mount.flag("readOnly").unwrap_or_default();
        let volume = volumes.iter().find(|(known, ..)| *known == name);
        if let Some((_, _, mounted)) = volume {
            mounted.set(true);
        }
        let source = match volume.map(|(_, source, _)| source) {
            Some(PodVolume::Persistent(place)) => Source::Persistent(place.clone(), false),
            Some(PodVolume::Host(path)) => Source::Host(path.clone()),
            Some(PodVolume::Own(path)) => Source::Parent(path.clone()),
            Some(PodVolume::Secret(name)) => Source::Secret(name.clone()),
            Some(PodVolume::Foreign) | None => {
                let what = json!({ "name": name, "mountPath": container_path, "readOnly": read_only });
                mount.leftovers().add(mount.at(), Some(what), "its volume is of a kind that is not carried over");
                continue;
            }
        };
        container.volumes.push(Volume { source, container_path, read_only });
    }
}

fn pod_check(check: &mut Fields<'_>, endpoints: &[(String, u16)]) -> Option<Health> {
    let endpoint = |part: &mut Fields<'_>| {
        let name = part.string("endpoint")?;
        endpoints.iter().find(|(known, _)| *known == name).map(|(_, port)| *port)
    };
    let probe = if let Some(mut exec) = check.object("exec") {
        let mut line = exec.object("command")?;
        match (line.string("shell"), line.strings("argv")) {
            (Some(shell), _) => Probe::Command(vec!["/bin/sh".to_owned(), "-c".to_owned(), shell]),
            (None, Some(words)) => Probe::Command(words),
            (None, None) => return None,
        }
    } else if let Some(mut http) = check.object("http") {
        let scheme = http.string("scheme").unwrap_or_else(|| "http".to_owned()).to_ascii_lowercase();
        let path = http.string("path").unwrap_or_else(|| "/".to_owned());
        Probe::Http { scheme, path, port: endpoint(&mut http)? }
    } else {
        Probe::Tcp(endpoint(&mut check.object("tcp")?)?)
    };
    let mut health = Health { at: check.at().to_owned(), probe, ..Health::default() };
    health_times(
        check,
        &mut health,
        ["gracePeriodSeconds", "intervalSeconds", "timeoutSeconds", "maxConsecutiveFailures"],
    );
    Some(health)
}
