//! Prints requests as the annotations that ask for them.

use std::collections::HashMap;

use fs_isolator::request::{Disk, Mode, PREFIX, Propagation, Request, Source, VolumeRequest};
use serde_json::{Value, json};

/// The annotations that ask for this; every request that is accepted has some.
pub fn annotations(request: &Request) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut put = |key: &str, value: String| all.insert(format!("{PREFIX}{key}"), value);
    if !request.volumes.is_empty() {
        put("volumes", volumes(&request.volumes).expect("a request is in one of the two forms"));
    }
    if let Some(isolation) = &request.isolation {
        put("isolation", isolation.clone());
    }
    if let Some(role) = &request.role {
        put("role", role.to_string());
    }
    if let Some(token) = &request.token {
        put("token", token.clone());
    }
    put("sandbox", request.sandbox.to_string());
    all
}

/// All volumes in the short form, or in JSON where that has no words for one of them.
pub fn volumes(volumes: &[VolumeRequest]) -> Option<String> {
    let short: Option<Vec<String>> = volumes.iter().map(short).collect();
    let json = || volumes.iter().map(json).collect::<Option<Vec<Value>>>().map(|all| json!(all).to_string());
    short.map(|all| all.join(";")).or_else(json)
}

fn escape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    for c in field.chars() {
        match c {
            // The last two would make something else of an id: `host=x` and `[x`.
            '%' | ':' | ';' | '=' | '[' => text.push_str(&format!("%{:02X}", c as u32)),
            _ => text.push(c),
        }
    }
    text
}

/// The short form; `None` for what only JSON can say.
pub fn short(volume: &VolumeRequest) -> Option<String> {
    let mut options = Vec::new();
    let source = match &volume.source {
        Source::Persistent { id, role, disk, size_mb: None } => {
            options.extend(role.iter().map(|role| format!("role={}", escape(role.as_str()))));
            match disk {
                Disk::Any => {}
                Disk::Named(name) => options.push(format!("disk={}", escape(name))),
                Disk::Root | Disk::Path(_) | Disk::Mount(_) => return None,
            }
            escape(id.as_str())
        }
        Source::Persistent { .. } | Source::Foreign { .. } => return None,
        Source::HostPath { path } => format!("host={}", escape(path)),
        Source::SandboxPath { path } => format!("sandbox={}", escape(&path.to_string())),
        Source::ParentPath { path } => format!("parent={}", escape(&path.to_string())),
        Source::Secret { name } => format!("secret={}", escape(&name.to_string())),
    };
    options.extend(volume.subpath.iter().map(|path| format!("subpath={}", escape(&path.to_string()))));
    let propagation = volume.propagation.map(|propagation| match propagation {
        Propagation::Slave => "slave",
        Propagation::Private => "private",
        Propagation::Bidirectional => "bidirectional",
    });
    let flags = [
        (volume.mode == Mode::ReadOnly).then_some("ro"),
        volume.shared.then_some("shared"),
        volume.nosuid.then_some("nosuid"),
        volume.nodev.then_some("nodev"),
        volume.noexec.then_some("noexec"),
        propagation,
    ];
    options.extend(flags.into_iter().flatten().map(str::to_owned));
    let mut text = format!("{source}:{}", escape(&volume.container_path.to_string()));
    options.iter().for_each(|option| text.extend([":", option]));
    Some(text)
}

/// Mesos's JSON; `None` for what only the short form can say.
pub fn json(volume: &VolumeRequest) -> Option<Value> {
    if volume.nosuid || volume.nodev || volume.noexec || volume.subpath.is_some() {
        return None;
    }
    let mode = if volume.mode == Mode::ReadOnly { "RO" } else { "RW" };
    let at = volume.container_path.to_string();
    let plain = |source: Value| json!({ "container_path": at, "mode": mode, "source": source });
    if let Source::HostPath { path } = &volume.source {
        let propagation = match volume.propagation {
            None => "UNKNOWN",
            Some(Propagation::Slave) => "HOST_TO_CONTAINER",
            Some(Propagation::Bidirectional) => "BIDIRECTIONAL",
            Some(Propagation::Private) => return None,
        };
        let host = json!({ "path": path, "mount_propagation": { "mode": propagation } });
        return Some(plain(json!({ "type": "HOST_PATH", "host_path": host })));
    }
    if volume.propagation.is_some() {
        return None;
    }
    let sandbox =
        |kind: &str, path: String| json!({ "type": "SANDBOX_PATH", "sandbox_path": { "type": kind, "path": path } });
    Some(match &volume.source {
        Source::Persistent { id, role, disk, size_mb } => {
            let source = match disk {
                Disk::Root => Value::Null,
                Disk::Path(root) => json!({ "type": "PATH", "path": { "root": root } }),
                Disk::Mount(root) => json!({ "type": "MOUNT", "mount": { "root": root } }),
                Disk::Any | Disk::Named(_) => return None,
            };
            json!({
                "name": "disk", "type": "SCALAR", "scalar": size_mb.map(|size| json!({ "value": size })),
                "reservations": [{ "role": role.as_ref()?.as_str() }], "shared": volume.shared.then(|| json!({})),
                "disk": { "persistence": { "id": id.as_str() }, "source": source,
                          "volume": { "container_path": at, "mode": mode } },
            })
        }
        Source::SandboxPath { path } => plain(sandbox("SELF", path.to_string())),
        Source::ParentPath { path } => plain(sandbox("PARENT", path.to_string())),
        Source::Secret { name } => {
            let reference = json!({ "name": name.to_string() });
            plain(json!({ "type": "SECRET", "secret": { "type": "REFERENCE", "reference": reference } }))
        }
        Source::Foreign { kind: "IMAGE" } => json!({ "container_path": at, "mode": mode, "image": {} }),
        Source::Foreign { kind } => plain(json!({ "type": kind })),
        Source::HostPath { .. } => return None,
    })
}

/// Base64 (RFC 4648, section 4).
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index)) as usize & 63];
            encoded.push(if index <= chunk.len() { digit as char } else { '=' });
        }
    }
    encoded
}
