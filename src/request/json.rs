//! JSON as Mesos agents and frameworks have it: `Resource` objects with `disk.persistence`, in both
//! reservation formats, and `Volume` objects (mesos.md C1, C2).
//!
//! Fields that do not change which volume is meant are ignored, as every reader of Mesos's JSON does;
//! types and kinds that are not known are refused.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use super::container_path::ContainerPath;
use super::names::{Role, SecretName, VolumeId};
use super::{Disk, Mode, Propagation, Source, VolumeRequest};
use crate::error::{Cause, Error, Result};

type Object = Map<String, Value>;

/// Parses an array of `Resource` and `Volume` objects.
///
/// # Errors
/// [`Cause::RequestInvalid`], or the cause of the field that is wrong.
pub fn parse(text: &str) -> Result<Vec<VolumeRequest>> {
    let values: Vec<Value> =
        serde_json::from_str(text).map_err(|error| invalid(format!("the request is not a JSON array: {error}")))?;
    values
        .iter()
        .enumerate()
        .map(|(index, value)| parse_one(value).map_err(|error| error.volume(label(index, value))))
        .collect()
}

/// Names an element that may be anything: by id and path, as far as it has them.
fn label(index: usize, value: &Value) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let id = text("/disk/persistence/id");
    let path = text("/disk/volume/container_path").or_else(|| text("/container_path"));
    match (id, path) {
        (Some(id), Some(path)) => format!("{id}:{path}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => format!("#{}", index + 1),
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Cause::RequestInvalid, what)
}

fn parse_one(value: &Value) -> Result<VolumeRequest> {
    let Value::Object(object) = value else {
        return Err(invalid("an element is not an object"));
    };
    if object.contains_key("container_path") {
        parse_volume(object)
    } else if object.contains_key("disk") || object.contains_key("name") {
        parse_resource(object)
    } else {
        Err(invalid("an element is neither a Resource (name, disk) nor a Volume (container_path, mode)"))
    }
}

/// A field of this type, `None` where it is absent or null.
fn object<'a>(parent: &'a Object, key: &str) -> Result<Option<&'a Object>> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(value)) => Ok(Some(value)),
        Some(_) => Err(invalid(format!("{key:?} is not an object"))),
    }
}

fn string<'a>(parent: &'a Object, key: &str) -> Result<Option<&'a str>> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(invalid(format!("{key:?} is not a string"))),
    }
}

fn required<T>(value: Option<T>, key: &str) -> Result<T> {
    value.ok_or_else(|| invalid(format!("{key:?} is missing")))
}

fn unknown(what: &str, value: &str) -> Error {
    invalid(format!("{what} {value:?} is unknown"))
}

fn mode(volume: &Object) -> Result<Mode> {
    match required(string(volume, "mode")?, "mode")? {
        "RW" => Ok(Mode::ReadWrite),
        "RO" => Ok(Mode::ReadOnly),
        other => Err(unknown("mode", other)),
    }
}

fn container_path(volume: &Object) -> Result<ContainerPath> {
    ContainerPath::parse(required(string(volume, "container_path")?, "container_path")?)
}

/// mesos.md C1, with the rules of V5 and V9.
fn parse_resource(resource: &Object) -> Result<VolumeRequest> {
    match string(resource, "name")? {
        None | Some("disk") => {}
        Some(other) => return Err(invalid(format!("a Resource named {other:?} has no persistent volume"))),
    }
    match string(resource, "type")? {
        None | Some("SCALAR") => {}
        Some(other) => return Err(unknown("type of a disk", other)),
    }
    let disk = required(object(resource, "disk")?, "disk")?;
    let persistence = required(object(disk, "persistence")?, "disk.persistence")?;
    let id = VolumeId::parse(required(string(persistence, "id")?, "disk.persistence.id")?)?;
    let volume = required(object(disk, "volume")?, "disk.volume")?;
    for key in ["host_path", "image", "source"] {
        if volume.get(key).is_some_and(|value| !value.is_null()) {
            return Err(invalid(format!("disk.volume has {key:?}, which a persistent volume must not have")));
        }
    }
    if resource.get("revocable").is_some_and(|value| !value.is_null()) {
        return Err(invalid("a revocable disk cannot have a persistent volume"));
    }
    if resource.get("provider_id").is_some_and(|value| !value.is_null()) {
        return Err(Error::new(Cause::NotSupported, "the disk belongs to a resource provider (CSI)"));
    }
    let source = Source::Persistent {
        id,
        role: Some(reserved_role(resource)?),
        disk: match object(disk, "source")? {
            None => Disk::Root,
            Some(source) => disk_source(source)?,
        },
        size_mb: match object(resource, "scalar")? {
            None => None,
            Some(scalar) => Some(
                scalar
                    .get("value")
                    .and_then(Value::as_f64)
                    .filter(|size| *size >= 0.0)
                    .ok_or_else(|| invalid("scalar.value is not a size"))?,
            ),
        },
    };
    let mut request = VolumeRequest::new(source, container_path(volume)?);
    request.mode = mode(volume)?;
    request.shared = object(resource, "shared")?.is_some();
    Ok(request)
}

/// The role a volume lies under: of the last reservation, or `role` before reservation refinement.
fn reserved_role(resource: &Object) -> Result<Role> {
    let old = string(resource, "role")?;
    let new = match resource.get("reservations") {
        None | Some(Value::Null) => None,
        Some(Value::Array(reservations)) => match reservations.last() {
            None => None,
            Some(Value::Object(last)) => Some(required(string(last, "role")?, "reservations[].role")?),
            Some(_) => return Err(invalid("an element of \"reservations\" is not an object")),
        },
        Some(_) => return Err(invalid("\"reservations\" is not an array")),
    };
    let role = match (new, old) {
        (Some(new), Some(old)) if new != old && old != "*" => {
            return Err(invalid(format!("the Resource names two roles, {old:?} and {new:?}")));
        }
        (Some(role), _) | (None, Some(role)) => role,
        (None, None) => "*",
    };
    if role == "*" {
        return Err(invalid("the Resource is not reserved for a role, as a persistent volume must be"));
    }
    Role::parse(role)
}

fn disk_source(source: &Object) -> Result<Disk> {
    for key in ["id", "profile"] {
        if string(source, key)?.is_some() {
            return Err(Error::new(Cause::NotSupported, format!("disk.source has {key:?}: a CSI disk")));
        }
    }
    let root = |key: &str| -> Result<String> {
        let root = required(string(required(object(source, key)?, key)?, "root")?, "root")?;
        if root.is_empty() || root.chars().any(char::is_control) {
            return Err(invalid(format!("the root {root:?} of the disk is not a path")));
        }
        Ok(root.to_owned())
    };
    match required(string(source, "type")?, "disk.source.type")? {
        "PATH" => Ok(Disk::Path(root("path")?)),
        "MOUNT" => Ok(Disk::Mount(root("mount")?)),
        kind @ ("BLOCK" | "RAW") => Err(invalid(format!("a {kind} disk has no filesystem"))),
        other => Err(unknown("disk.source.type", other)),
    }
}

/// mesos.md C2, with the rules of V1 and V2.
fn parse_volume(volume: &Object) -> Result<VolumeRequest> {
    let legacy = string(volume, "host_path")?;
    let image = object(volume, "image")?;
    let source = object(volume, "source")?;
    let (source, propagation) = match (legacy, image, source) {
        (Some(path), None, None) if path.starts_with('/') => (host_path(path)?, None),
        (Some(path), None, None) => (Source::SandboxPath { path: ContainerPath::parse_relative(path)? }, None),
        (None, Some(_), None) => (Source::Foreign { kind: "IMAGE" }, None),
        (None, None, Some(source)) => parse_source(source)?,
        (None, None, None) => return Err(invalid("a Volume has none of host_path, image and source")),
        _ => return Err(invalid("a Volume has more than one of host_path, image and source")),
    };
    let mut request = VolumeRequest::new(source, container_path(volume)?);
    request.mode = mode(volume)?;
    request.propagation = propagation;
    Ok(request)
}

fn host_path(path: &str) -> Result<Source> {
    if !path.starts_with('/') {
        return Err(invalid(format!("host path {path:?} is not absolute")));
    }
    Ok(Source::HostPath { path: ContainerPath::parse(path)?.to_string() })
}

fn parse_source(source: &Object) -> Result<(Source, Option<Propagation>)> {
    let kind = required(string(source, "type")?, "source.type")?;
    let part =
        |key: &str| object(source, key)?.ok_or_else(|| invalid(format!("source.{key} is not set for a {kind} volume")));
    Ok(match kind {
        "HOST_PATH" => {
            let host = part("host_path")?;
            let propagation = match object(host, "mount_propagation")? {
                None => None,
                Some(propagation) => match string(propagation, "mode")? {
                    None | Some("UNKNOWN") => None,
                    Some("HOST_TO_CONTAINER") => Some(Propagation::Slave),
                    Some("BIDIRECTIONAL") => Some(Propagation::Bidirectional),
                    Some(other) => return Err(unknown("mount_propagation.mode", other)),
                },
            };
            (host_path(required(string(host, "path")?, "path")?)?, propagation)
        }
        "SANDBOX_PATH" => {
            let sandbox = part("sandbox_path")?;
            let path = ContainerPath::parse_relative(required(string(sandbox, "path")?, "path")?)?;
            match required(string(sandbox, "type")?, "sandbox_path.type")? {
                "SELF" => (Source::SandboxPath { path }, None),
                "PARENT" => (Source::ParentPath { path }, None),
                other => return Err(unknown("sandbox_path.type", other)),
            }
        }
        "SECRET" => {
            let secret = part("secret")?;
            if secret.get("value").is_some_and(|value| !value.is_null()) || string(secret, "type")? == Some("VALUE") {
                return Err(Error::new(Cause::SecretValue, "a SECRET volume has its value in the annotation"));
            }
            match string(secret, "type")? {
                Some("REFERENCE") => {}
                other => return Err(unknown("secret.type", other.unwrap_or_default())),
            }
            let reference = required(object(secret, "reference")?, "reference")?;
            let name = required(string(reference, "name")?, "name")?;
            let name = string(reference, "key")?.map_or_else(|| name.to_owned(), |key| format!("{name}/{key}"));
            (Source::Secret { name: SecretName::parse(&name)? }, None)
        }
        "DOCKER_VOLUME" => (Source::Foreign { kind: "DOCKER_VOLUME" }, None),
        "CSI_VOLUME" => (Source::Foreign { kind: "CSI_VOLUME" }, None),
        other => return Err(unknown("source.type", other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> VolumeRequest {
        parse(&format!("[{text}]")).unwrap().remove(0)
    }

    #[test]
    fn a_resource_before_reservation_refinement() {
        let volume = one(r#"{ "name": "disk", "type": "SCALAR", "scalar": {"value": 2048}, "role": "ads",
                 "reservation": {"principal": "my-principal", "labels": {"labels": [{"key": "k", "value": "v"}]}},
                 "disk": { "persistence": {"id": "persistent_volume_id", "principal": "my-principal"},
                           "volume": {"container_path": "data", "mode": "RW"} } }"#);
        let Source::Persistent { id, role, disk, size_mb } = &volume.source else { panic!("{volume:?}") };
        assert_eq!(
            (id.as_str(), role.as_ref().unwrap().as_str(), disk, *size_mb),
            ("persistent_volume_id", "ads", &Disk::Root, Some(2048.0))
        );
        assert_eq!(volume.container_path.to_string(), "data");
    }

    #[test]
    fn a_resource_after_reservation_refinement() {
        let volume = one(
            r#"{ "name": "disk", "type": "SCALAR", "scalar": {"value": 2048}, "allocation_info": {"role": "eng/front_end"},
                 "reservations": [ {"type": "STATIC", "role": "eng"}, {"type": "DYNAMIC", "role": "eng/front_end", "principal": "p"} ],
                 "disk": { "persistence": {"id": "id1"}, "volume": {"container_path": "data", "mode": "RO"} }, "shared": {} }"#,
        );
        let Source::Persistent { role, .. } = &volume.source else { panic!("{volume:?}") };
        assert_eq!(role.as_ref().unwrap().as_str(), "eng/front_end");
        assert_eq!((volume.mode, volume.shared), (Mode::ReadOnly, true));
    }

    #[test]
    fn the_volumes_of_mesos_md_c2() {
        for (text, label) in [
            (
                r#"{"container_path": "/var/lib/mysql", "mode": "RW", "source": {"type": "HOST_PATH", "host_path": {"path": "/var/lib/mysql"}}}"#,
                "host=/var/lib/mysql:/var/lib/mysql",
            ),
            (
                r#"{"container_path": "/tmp", "mode": "RW", "source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": "SELF", "path": "tmp"}}}"#,
                "sandbox=tmp:/tmp",
            ),
            (
                r#"{"container_path": "volume", "mode": "RO", "source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": "PARENT", "path": "shared_volume"}}}"#,
                "parent=shared_volume:volume",
            ),
            (
                r#"{"container_path": "my_secret", "mode": "RO", "source": {"type": "SECRET", "secret": {"type": "REFERENCE", "reference": {"name": "s", "key": "k"}}}}"#,
                "secret=s/k:my_secret",
            ),
            (
                r#"{"container_path": "vol", "mode": "RW", "source": {"type": "DOCKER_VOLUME", "docker_volume": {"driver": "rexray", "name": "v"}}}"#,
                "DOCKER_VOLUME:vol",
            ),
            (
                r#"{"container_path": "rootfs", "mode": "RW", "image": {"type": "DOCKER", "docker": {"name": "alpine"}}}"#,
                "IMAGE:rootfs",
            ),
            (r#"{"container_path": "/tmp", "mode": "RW", "host_path": ".private/tmp"}"#, "sandbox=.private/tmp:/tmp"),
            (r#"{"container_path": "/data", "mode": "RO", "host_path": "/srv/data"}"#, "host=/srv/data:/data"),
        ] {
            assert_eq!(one(text).label(), label);
        }
    }

    #[test]
    fn disk_sources() {
        let with = |source: &str| {
            parse(&format!(
                r#"[{{"name":"disk","role":"r","disk":{{"persistence":{{"id":"i"}},"source":{source},"volume":{{"container_path":"d","mode":"RW"}}}}}}]"#
            ))
        };
        let disk = |volumes: Vec<VolumeRequest>| match &volumes[0].source {
            Source::Persistent { disk, .. } => disk.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            disk(with(r#"{"type":"PATH","path":{"root":"/mnt/data"}}"#).unwrap()),
            Disk::Path("/mnt/data".into())
        );
        assert_eq!(
            disk(with(r#"{"type":"MOUNT","mount":{"root":"/mnt/data"}}"#).unwrap()),
            Disk::Mount("/mnt/data".into())
        );
        for (source, cause) in [
            (r#"{"type":"RAW"}"#, Cause::RequestInvalid),
            (r#"{"type":"PATH"}"#, Cause::RequestInvalid),
            (r#"{"type":"NFS"}"#, Cause::RequestInvalid),
            (r#"{"type":"PATH","id":"x","path":{"root":"/mnt"}}"#, Cause::NotSupported),
        ] {
            assert_eq!(with(source).unwrap_err().cause(), cause, "{source}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_cause() {
        use Cause::*;
        let deep = format!("[{}{}]", "[".repeat(200), "]".repeat(200));
        for (text, cause) in [
            ("[", RequestInvalid),
            ("[1]", RequestInvalid),
            ("[{}]", RequestInvalid),
            (deep.as_str(), RequestInvalid),
            (r#"[{"name":"cpus","scalar":{"value":1}}]"#, RequestInvalid),
            (
                r#"[{"name":"disk","role":"*","disk":{"persistence":{"id":"i"},"volume":{"container_path":"d","mode":"RW"}}}]"#,
                RequestInvalid,
            ),
            (
                r#"[{"name":"disk","role":"a","reservations":[{"role":"b"}],"disk":{"persistence":{"id":"i"},"volume":{"container_path":"d","mode":"RW"}}}]"#,
                RequestInvalid,
            ),
            (
                r#"[{"name":"disk","role":"r","disk":{"persistence":{"id":"i"},"volume":{"container_path":"d","mode":"RW","host_path":"/x"}}}]"#,
                RequestInvalid,
            ),
            (
                r#"[{"name":"disk","role":"r","provider_id":{"value":"p"},"disk":{"persistence":{"id":"i"},"volume":{"container_path":"d","mode":"RW"}}}]"#,
                NotSupported,
            ),
            (
                r#"[{"name":"disk","role":"r","disk":{"persistence":{"id":"i"},"volume":{"container_path":"d","mode":"XX"}}}]"#,
                RequestInvalid,
            ),
            (
                r#"[{"name":"disk","role":"r","disk":{"persistence":{"id":".."},"volume":{"container_path":"d","mode":"RW"}}}]"#,
                VolumeId,
            ),
            (r#"[{"container_path":"../x","mode":"RW","host_path":"a"}]"#, ContainerPath),
            (r#"[{"container_path":"x","host_path":"a"}]"#, RequestInvalid),
            (r#"[{"container_path":"x","mode":"RW"}]"#, RequestInvalid),
            (r#"[{"container_path":"x","mode":"RW","host_path":"a","image":{}}]"#, RequestInvalid),
            (r#"[{"container_path":"x","mode":"RW","source":{"type":"NFS"}}]"#, RequestInvalid),
            (r#"[{"container_path":"x","mode":"RW","source":{"type":"SANDBOX_PATH"}}]"#, RequestInvalid),
            (
                r#"[{"container_path":"x","mode":"RW","source":{"type":"SANDBOX_PATH","sandbox_path":{"type":"SELF","path":"/abs"}}}]"#,
                ContainerPath,
            ),
            (
                r#"[{"container_path":"x","mode":"RO","source":{"type":"SECRET","secret":{"type":"VALUE","value":{"data":"aHVudGVyMg=="}}}}]"#,
                SecretValue,
            ),
            (
                r#"[{"container_path":"x","mode":"RW","source":{"type":"HOST_PATH","host_path":{"path":"/x","mount_propagation":{"mode":"UPWARD"}}}}]"#,
                RequestInvalid,
            ),
            (
                r#"[{"container_path":"x","mode":"RO","source":{"type":"SECRET","secret":{"type":"REFERENCE","reference":{"name":"a/b/c"}}}}]"#,
                RequestInvalid,
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().cause(), cause, "{text}");
        }
    }
}
