//! Mesos's own tasks: `TaskInfo`, and groups of them, as a framework or an agent's state has them (mesos.md C1, C2).
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::fields::{Fields, Leftovers};
use super::words::{command, health_times, number_of_port};
use super::{Container, Env, Health, Known, Place, Port, Probe, Source, Volume, Workload, plain_name, refused};
use crate::error::Result;
use crate::request::names::{Role, VolumeId};

/// Tasks and groups of a definition: one, or an array of them.
///
/// # Errors
/// [`Cause::Convert`](crate::error::Cause::Convert) for what is none of these.
pub fn definitions(value: Value) -> Result<Vec<Map<String, Value>>> {
    let object = |value| match value {
        Value::Object(object) => Ok(object),
        _ => Err(refused("it is neither a task, nor a group of tasks, nor an array of them")),
    };
    match value {
        Value::Array(values) if !values.is_empty() => values.into_iter().map(object).collect(),
        value => Ok(vec![object(value)?]),
    }
}

/// Reads a task or a group of tasks.
///
/// # Errors
/// [`Cause::Convert`](crate::error::Cause::Convert) where it has no name, or a volume that cannot be one.
pub fn read(definition: Map<String, Value>, known: &Known, left: &Leftovers) -> Result<Workload> {
    let mut fields = Fields::new("", definition, left);
    let mut workload = Workload { host_network: true, ..Workload::default() };
    let mut group = if fields.has("task_group") { fields.object("task_group") } else { None };
    let holder = group.as_mut().unwrap_or(&mut fields);
    if !holder.has("tasks") {
        let (name, container) = task(&mut fields, &mut workload, known)?;
        workload.origin = name;
        workload.name = container.name.clone();
        workload.containers.push(container);
        return Ok(workload);
    }
    workload.is_pod = true;
    for mut fields in holder.objects("tasks") {
        let (name, container) = task(&mut fields, &mut workload, known)?;
        if workload.origin.is_empty() {
            workload.origin = name;
        }
        workload.containers.push(container);
    }
    if workload.containers.is_empty() {
        return Err(refused("the group has no tasks"));
    }
    drop(group);
    workload.name = plain_name(&workload.origin);
    // The executor's disks are those of the tasks.
    Ok(workload)
}

/// The string in `{"value": …}`.
fn value(fields: &mut Fields<'_>, key: &str) -> Option<String> {
    fields.object(key).and_then(|mut object| object.string("value"))
}

fn task(fields: &mut Fields<'_>, workload: &mut Workload, known: &Known) -> Result<(String, Container)> {
    let id = value(fields, "task_id");
    let name = fields.string("name").filter(|name| !name.is_empty()).or_else(|| id.clone());
    let name =
        name.ok_or_else(|| refused(format!("{}/: the task has neither \"name\" nor \"task_id\"", fields.at())))?;
    let mut container = Container { name: plain_name(&name), at: fields.at().to_owned(), ..Container::default() };
    for mut resource in fields.objects("resources") {
        resource_of(&mut resource, &mut container, known)?;
    }
    if let Some(mut line) = fields.object("command") {
        command_info(&mut line, &mut container);
    }
    if let Some(mut info) = fields.object("container") {
        container_info(&mut info, workload, &mut container);
    }
    if let Some(mut check) = fields.object("health_check") {
        container.health = health_check(&mut check);
        if container.health.is_none() {
            check.leftovers().add(check.at(), None, "what is checked cannot be told");
        }
    }
    if let Some(mut labels) = fields.object("labels") {
        for mut label in labels.objects("labels") {
            if let Some(key) = label.string("key") {
                container.labels.push((key, label.string("value").unwrap_or_default()));
            }
        }
    }
    if let Some(mut policy) = fields.object("kill_policy")
        && let Some(mut period) = policy.object("grace_period")
        && let Some(nanoseconds) = period.whole("nanoseconds")
    {
        workload.grace_seconds = workload.grace_seconds.max(Some(nanoseconds.div_ceil(1_000_000_000)));
    }
    for (name, text) in [("MESOS_SANDBOX", Some(known.sandbox_directory.clone())), ("MESOS_TASK_ID", id)] {
        if let Some(text) = text
            && !container.env.iter().any(|(known, _)| known == name)
        {
            container.env.push((name.to_owned(), Env::Text(text)));
        }
    }
    Ok((name, container))
}

fn resource_of(resource: &mut Fields<'_>, container: &mut Container, known: &Known) -> Result<()> {
    let name = resource.string("name").unwrap_or_default();
    resource.pass_over("type", &[json!("SCALAR")]);
    let is_whole = !resource.has("revocable");
    match name.as_str() {
        "cpus" | "mem" if is_whole => {
            let amount = resource.object("scalar").and_then(|mut scalar| scalar.number("value"));
            let place = if name == "cpus" { &mut container.cpus } else { &mut container.mem_mb };
            *place = amount.map(|amount| place.unwrap_or(0.0) + amount).or(*place);
            resource.pass_over("role", &[json!("*")]);
            return Ok(());
        }
        "disk" if resource.has("disk") => {}
        _ => {
            let why = if name == "disk" {
                "not enforced: use a disk or a quota of its own"
            } else {
                "not a resource of podman's"
            };
            resource.leftovers().add(resource.place("name"), Some(json!(name)), why);
            return Ok(());
        }
    }
    let Some(mut disk) = resource.object("disk") else { return Ok(()) };
    let Some(id) = disk.object("persistence").and_then(|mut persistence| {
        let id = persistence.string("id");
        persistence.leave("principal", "reservations are Mesos's");
        id
    }) else {
        return Ok(());
    };
    // The role of the last reservation, or the old field.
    let mut role = resource.string("role").filter(|role| role != "*");
    let mut reservations = resource.objects("reservations");
    if let Some(last) = reservations.last_mut() {
        role = last.string("role").or(role);
    }
    drop(reservations);
    let id = VolumeId::parse(&id)?;
    let role = role.as_deref().map(Role::parse).transpose()?.or_else(|| known.role.clone());
    let named = match disk.object("source") {
        None => None,
        Some(mut source) => {
            let kind = source.string("type").unwrap_or_default();
            let root = source.object(&kind.to_ascii_lowercase()).and_then(|mut part| part.string("root"));
            let root = root.ok_or_else(|| refused(format!("{}: a disk without a root", source.at())))?;
            let name = known.disk(&root).ok_or_else(|| {
                refused(format!("the disk {root:?} of volume {id} is not one of the configuration's"))
                    .remedy("list it under \"disks\" in the configuration, with type and root as the agent had them")
            })?;
            Some(name)
        }
    };
    let shared = resource.object("shared").is_some();
    let path = disk.object("volume").and_then(|mut volume| {
        let path = volume.string("container_path")?;
        Some((path, read_only(&mut volume)))
    });
    let (container_path, read_only) =
        path.ok_or_else(|| refused(format!("{}: volume {id} has no container_path", disk.at())))?;
    let place = known.volumes.iter().find(|place| place.id == id && place.role == role).cloned();
    let place = place.unwrap_or(Place { role, id, disk: named });
    container.volumes.push(Volume { source: Source::Persistent(place, shared), container_path, read_only });
    Ok(())
}

fn read_only(volume: &mut Fields<'_>) -> bool {
    match volume.string("mode").as_deref() {
        Some("RW") => false,
        Some("RO") => true,
        other => {
            let why = "RW and RO are possible; it is read-only here";
            volume.leftovers().add(volume.place("mode"), Some(json!(other)), why);
            true
        }
    }
}

fn command_info(line: &mut Fields<'_>, container: &mut Container) {
    container.user = line.string("user");
    let shell = line.flag("shell").unwrap_or(true);
    let value = line.string("value");
    if shell {
        command(container, value, Vec::new());
    } else {
        let mut arguments = line.strings("arguments").unwrap_or_default();
        container.entrypoint = value;
        // The first is what the program is told of its own name.
        if container.entrypoint.is_some() && !arguments.is_empty() {
            let own = arguments.remove(0);
            if container.entrypoint.as_ref() != Some(&own) {
                line.leftovers().add(line.place("arguments/0"), Some(json!(own)), "a program is told its own name");
            }
        }
        container.arguments = arguments;
    }
    let Some(mut environment) = line.object("environment") else { return };
    for mut variable in environment.objects("variables") {
        let Some(name) = variable.string("name") else { continue };
        variable.pass_over("type", &[json!("VALUE")]);
        if let Some(text) = variable.string("value") {
            container.env.push((name, Env::Text(text)));
        } else if let Some(secret) = variable.object("secret").as_mut().and_then(reference) {
            variable.pass_over("type", &[json!("SECRET")]);
            container.env.push((name, Env::Secret(secret)));
        } else {
            variable.leftovers().add(variable.place("name"), Some(json!(name)), "it has no value that is carried over");
        }
    }
}

/// The name of a secret; its value stays, and is listed without being shown.
fn reference(secret: &mut Fields<'_>) -> Option<String> {
    let mut reference = secret.object("reference")?;
    secret.pass_over("type", &[json!("REFERENCE")]);
    let (name, key) = (reference.string("name")?, reference.string("key"));
    Some(key.map_or(name.clone(), |key| format!("{name}/{key}")))
}

fn container_info(info: &mut Fields<'_>, workload: &mut Workload, container: &mut Container) {
    info.pass_over("type", &[json!("MESOS"), json!("DOCKER")]);
    workload.hostname = info.string("hostname").or(workload.hostname.take());
    if let Some(mut docker) = info.object("docker") {
        container.image = docker.string("image");
        container.privileged = docker.flag("privileged").unwrap_or_default();
        container.pull_always = docker.flag("force_pull_image").unwrap_or_default();
        workload.host_network = !matches!(docker.string("network").as_deref(), Some("BRIDGE" | "USER"));
        for mut mapping in docker.objects("port_mappings") {
            let host = number_of_port(&mut mapping, "host_port");
            let protocol = mapping.string("protocol").unwrap_or_else(|| "tcp".to_owned());
            if let Some(port) = number_of_port(&mut mapping, "container_port")
                && (protocol == "tcp" || protocol == "udp")
            {
                container.ports.push(Port { host, container: port, protocol });
            } else {
                let what = json!({ "host_port": host, "protocol": protocol });
                mapping.leftovers().add(mapping.at(), Some(what), "ports of tcp and udp are possible");
            }
        }
        for mut parameter in docker.objects("parameters") {
            let key = parameter.string("key").unwrap_or_default();
            let good =
                key.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !key.starts_with('-') && !key.is_empty();
            if good && key != "annotation" {
                container.options.push((key, parameter.string("value").unwrap_or_default()));
            } else {
                parameter.leftovers().add(
                    parameter.place("key"),
                    Some(json!(key)),
                    "no option that podman may be given",
                );
            }
        }
    }
    if let Some(mut image) = info.object("mesos").and_then(|mut mesos| mesos.object("image")) {
        image.pass_over("type", &[json!("DOCKER")]);
        image.pass_over("cached", &[json!(true)]);
        if let Some(name) = image.object("docker").and_then(|mut docker| docker.string("name"))
            && let Some(other) = container.image.replace(name)
        {
            image.leftovers().add(image.at(), Some(json!(other)), "another image of the same task");
        }
    }
    for mut volume in info.objects("volumes") {
        container.volumes.extend(self::volume(&mut volume));
    }
}

fn volume(volume: &mut Fields<'_>) -> Option<Volume> {
    // A volume that has no source which is understood stays whole, and so is listed.
    let mut source = volume.object("source");
    let found = match (volume.string("host_path"), source.as_mut()) {
        (Some(path), None) if path.starts_with('/') => Some(Source::Host(path)),
        (Some(path), None) => Some(Source::Sandbox(path)),
        (None, Some(source)) => match source.string("type").as_deref() {
            Some("HOST_PATH") => source.object("host_path").and_then(|mut part| {
                part.pass_over("mount_propagation", &[json!({}), json!({ "mode": "UNKNOWN" })]);
                part.string("path").map(Source::Host)
            }),
            Some("SANDBOX_PATH") => source.object("sandbox_path").and_then(|mut part| {
                let path = part.string("path")?;
                match part.string("type").as_deref() {
                    Some("SELF") => Some(Source::Sandbox(path)),
                    Some("PARENT") => Some(Source::Parent(path)),
                    other => {
                        let what = json!({ "path": path, "type": other });
                        part.leftovers().add(part.at(), Some(what), "SELF and PARENT are possible");
                        None
                    }
                }
            }),
            Some("SECRET") => source.object("secret").as_mut().and_then(reference).map(Source::Secret),
            other => {
                source.leftovers().add(
                    source.place("type"),
                    Some(json!(other)),
                    "a kind of volume that is not carried over",
                );
                None
            }
        },
        _ => None,
    };
    drop(source);
    let source = found?;
    let Some(container_path) = volume.string("container_path") else {
        volume.leftovers().add(volume.at(), None, "the volume has no path in the container");
        return None;
    };
    Some(Volume { source, container_path, read_only: read_only(volume) })
}

fn health_check(check: &mut Fields<'_>) -> Option<Health> {
    let probe = if let Some(mut line) = check.object("command") {
        check.pass_over("type", &[json!("COMMAND")]);
        let (value, words) = (line.string("value"), line.strings("arguments").unwrap_or_default());
        if line.flag("shell").unwrap_or(true) {
            Probe::Command(vec!["/bin/sh".to_owned(), "-c".to_owned(), value?])
        } else {
            Probe::Command(value.into_iter().chain(words.into_iter().skip(1)).collect())
        }
    } else if let Some(mut http) = check.object("http") {
        check.pass_over("type", &[json!("HTTP")]);
        let scheme = http.string("scheme").unwrap_or_else(|| "http".to_owned());
        let path = http.string("path").unwrap_or_else(|| "/".to_owned());
        Probe::Http { scheme, path, port: number_of_port(&mut http, "port")? }
    } else if let Some(mut tcp) = check.object("tcp") {
        check.pass_over("type", &[json!("TCP")]);
        Probe::Tcp(number_of_port(&mut tcp, "port")?)
    } else {
        return None;
    };
    let mut health = Health { at: check.at().to_owned(), probe, ..Health::default() };
    health_times(
        check,
        &mut health,
        ["grace_period_seconds", "interval_seconds", "timeout_seconds", "consecutive_failures"],
    );
    Some(health)
}
