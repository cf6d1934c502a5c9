//! Bad input, one row each: refused with its own exit code and one line that names container, volume and remedy;
//! the container does not start, and nothing is left.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Instant;

use common::*;
use nix::mount::MsFlags;
use serde_json::{Value, json};

const HOOKS: [(&str, &str); 3] = [("prestart", PRESTART), ("poststart", POSTSTART), ("poststop", POSTSTOP)];

/// Longest line that is still one a person reads.
const LONGEST_LINE: usize = 16 << 10;

/// All that a row may damage. Without damage the container starts, with the volume `db` at `data`.
struct Case<'a> {
    lab: &'a Lab,
    spec: Value,
    /// config.json, where it is no JSON.
    spec_text: Option<String>,
    config: Value,
    config_text: Option<String>,
    config_file: PathBuf,
    /// Fields of the state, beside those that the runtime wrote.
    state: Vec<(&'static str, Value)>,
    state_text: Option<Vec<u8>>,
    /// A process in the hook's own mount namespace.
    on_the_host: u32,
    /// The hook gets as far as knowing where the container's log is.
    logged: bool,
    /// A real runtime would come as far as calling the hook.
    real: bool,
}

type Damage = Box<dyn Fn(&mut Case)>;

struct Row {
    name: String,
    damage: Damage,
    code: i32,
    /// The volume that the line must name, if any.
    volume: String,
    /// Words that the line must contain; after `!`, must not.
    words: &'static [&'static str],
}

fn row(name: impl Into<String>, damage: Damage, code: i32, volume: &str, words: &'static [&'static str]) -> Row {
    Row { name: name.into(), damage, code, volume: volume.to_owned(), words }
}

// Ways to damage.

fn case(damage: impl Fn(&mut Case) + 'static) -> Damage {
    Box::new(damage)
}

fn all(damages: Vec<Damage>) -> Damage {
    case(move |case| damages.iter().for_each(|damage| damage(case)))
}

fn foreign(key: &'static str, value: &'static str) -> Damage {
    case(move |case| case.spec["annotations"][key] = json!(value))
}

fn annotate(key: &'static str, value: impl Into<String>) -> Damage {
    let value = value.into();
    case(move |case| case.spec["annotations"][format!("io.fs-isolator.{key}")] = json!(value))
}

fn ask(volumes: impl Into<String>) -> Damage {
    annotate("volumes", volumes)
}

/// Instead of the plain annotation.
fn ask_base64(value: &'static str) -> Damage {
    case(move |case| case.spec["annotations"] = json!({ "io.fs-isolator.volumes.base64": value }))
}

/// A field of config.json, by JSON pointer.
fn spec(pointer: &'static str, value: Value) -> Damage {
    case(move |case| *case.spec.pointer_mut(pointer).unwrap() = value.clone())
}

/// config.json that a runtime would refuse itself.
fn spec_text(text: impl Into<String>) -> Damage {
    let text = text.into();
    case(move |case| (case.spec_text, case.real) = (Some(text.clone()), false))
}

fn bind_host() -> Damage {
    case(|case| {
        let source = case.lab.dir.join("host");
        let mount = json!({ "destination": "/host", "type": "bind", "source": source, "options": ["rbind"] });
        case.spec["mounts"].as_array_mut().unwrap().push(mount);
    })
}

/// A configuration that can be read, and is against the request.
fn config(key: &'static str, value: Value) -> Damage {
    case(move |case| case.config[key] = value.clone())
}

/// A configuration that cannot be used: then there is no log either.
fn bad_config(key: &'static str, value: Value) -> Damage {
    case(move |case| (case.config[key], case.logged) = (value.clone(), false))
}

fn config_text(text: impl Into<String>) -> Damage {
    let text = text.into();
    case(move |case| (case.config_text, case.logged) = (Some(text.clone()), false))
}

fn config_file(path: &'static str) -> Damage {
    case(move |case| (case.config_file, case.logged) = (case.lab.dir.join(path), false))
}

fn work_dir(path: &'static str) -> Damage {
    case(move |case| case.config["work_dir"] = json!(case.lab.dir.join(path)))
}

fn runtime_dir(path: &'static str) -> Damage {
    case(move |case| (case.config["runtime_dir"], case.logged) = (json!(case.lab.dir.join(path)), false))
}

/// A field of the state; null takes it away. No real runtime would write it.
fn state(key: &'static str, value: Value) -> Damage {
    case(move |case| {
        case.state.push((key, value.clone()));
        case.real = false;
    })
}

fn state_text(text: impl Into<Vec<u8>>) -> Damage {
    let text = text.into();
    case(move |case| (case.state_text, case.real) = (Some(text.clone()), false))
}

fn bundle(path: &'static str) -> Damage {
    case(move |case| {
        case.state.push(("bundle", json!(case.lab.dir.join(path))));
        case.real = false;
    })
}

fn pid_on_the_host() -> Damage {
    case(|case| {
        case.state.push(("pid", json!(case.on_the_host)));
        case.real = false;
    })
}

/// Disks beside work_dir: one that is not mounted, one that is nobody's, and one with many volumes.
fn disks() -> Damage {
    case(|case| {
        let dir = |name: &str| json!({ "root": case.lab.dir.join(name) });
        case.config["disks"] = json!([
            { "name": "nvme", "type": "MOUNT", "mount": dir("unmounted") },
            { "name": "hdd", "type": "MOUNT", "mount": dir("mounted") },
            { "name": "ssd", "type": "PATH", "path": dir("ssd") },
        ]);
    })
}

fn by_hand(damage: Damage) -> Damage {
    all(vec![damage, case(|case| case.real = false)])
}

// The table.

/// What no id, role or container path may be, encoded as the short form wants it.
fn bad_names() -> Vec<(&'static str, String)> {
    let mut names: Vec<(&str, String)> = ["", ".", "..", "/", "a/../b", "/proc/x", "/sys/x", "a%00b", "a%0Ab"]
        .into_iter()
        .map(|name| (name, name.to_owned()))
        .collect();
    names.push(("4097 bytes", "x".repeat(4097)));
    names
}

const SECRET: &str = r#"[{"container_path":"/run/s","mode":"RO","source":{"type":"SECRET","secret":{"type":"VALUE","value":{"data":"c2VjcmV0"}}}}]"#;
const RESOURCE: &str =
    r#"[{"name":"disk","role":"r","disk":{"persistence":{"id":"db"},"volume":{"container_path":"data","mode":"RW"}}}]"#;

#[rustfmt::skip]
fn requests() -> Vec<Row> {
    let mut rows = vec![
        row("no such volume", ask("nope:data"), 41, "nope:data", &["fs-isolator volume create --role default nope"]),
        row("no such role", ask("db:data:role=eng/x"), 41, "db:data", &["fs-isolator volume create --role eng/x db"]),
        row("a volume that is a link", ask("link:data"), 41, "link:data", &["never reached through a link"]),
        row("a volume that is a file", ask("file:data"), 41, "file:data", &["directory"]),
        row("a role that others may write to", ask("v:data:role=open"), 21, "v:data", &["open", "chmod go-w"]),
        row("two at one relative path", ask("db:data;other:data"), 38, "other:data", &["db:data", "a container path of its own"]),
        row("two at one absolute path", ask("db:/d;other://d/"), 38, "other:/d", &["same container path /d"]),
        row("one at the sandbox", ask("db:/mnt/mesos/sandbox;other:data"), 38, "sandbox", &["db:/mnt/mesos/sandbox and sandbox", "a container path of its own"]),
        row("one by way of a link in the image", ask("db:/real;other:/alias"), 51, "db:/real", &["mounted already"]),
        row("over a mount of the bundle", ask("db:/dev"), 38, "db:/dev", &["bundle's mount at /dev", "another container path"]),
        row("over a bind of the bundle", all(vec![bind_host(), ask("db:/host")]), 38, "db:/host", &["/host"]),
        row("missing below a bind", all(vec![bind_host(), ask("db:/host/no")]), 50, "db:/host/no", &["run: mkdir -p /", "/host/no"]),
        row("missing in a volume", ask("other:/o;db:/o/no"), 50, "db:/o/no", &["lie in volume other:/o", "run: mkdir -p /", "other/no"]),
        row("missing in a volume in the sandbox", ask("other:o;db:o/no"), 50, "db:o/no", &["run: mkdir -p /", "other/no"]),
        row("the sandbox missing in a volume", ask("db:/mnt/mesos;other:o"), 50, "sandbox", &["run: mkdir -p /"]),
        row("at a file", ask("db:/file"), 51, "db:/file", &["not a directory"]),
        row("below a file", ask("db:/file/x"), 51, "db:/file/x", &["not a directory"]),
        row("on proc by way of a link", ask("db:/p/sys"), 51, "db:/p/sys", &["/p/sys", "name a directory"]),
        row("subpath missing", ask("other:data:subpath=no"), 42, "other:data", &["subpath no", "create it in the volume"]),
        row("subpath is a link", ask("other:data:subpath=link"), 42, "other:data", &["subpath link", "symbolic link"]),
        row("subpath is a file", ask("other:data:subpath=file"), 42, "other:data", &["must be a directory"]),
        row("subpath above", ask("other:data:subpath=../db"), 37, "other:data:subpath=../db", &["\"../db\"", "use a path of at most"]),
        row("subpath absolute", ask("other:data:subpath=/etc"), 37, "other:data:subpath=/etc", &["must be relative"]),
        row("unknown option", ask("db:data:exec"), 34, "db:data:exec", &["\"exec\"", "the options are rw ro"]),
        row("no container path", ask("db"), 34, "db", &["write ID:CONTAINER_PATH"]),
        row("an empty entry", ask("db:data;"), 34, "", &["write ID:CONTAINER_PATH"]),
        row("contradicting options", ask("db:data:ro:rw"), 34, "db:data:ro:rw", &["contradicts", "write ID"]),
        row("option without its value", ask("db:data:role"), 34, "db:data:role", &["role=..."]),
        row("option with a value it has not", ask("db:data:ro=1"), 34, "db:data:ro=1", &["ro takes no value"]),
        row("control character", ask("db:da\nta"), 34, "", &["control character"]),
        row("NUL", by_hand(ask("db:da\0ta")), 34, "", &["control character"]),
        row("% and no digits", ask("db%zz:data"), 34, "db%zz:data", &["write %25"]),
        row("% and one digit", ask("db:data%2"), 34, "db:data%2", &["write %25"]),
        row("% and no UTF-8", ask("%ff:data"), 34, "%ff:data", &["UTF-8"]),
        row("a request of 1 MB", ask("x".repeat(1 << 20)), 34, "", &["no container path"]),
        row("an annotation of 10 MB", ask("x".repeat(10 << 20)), 10, "", &["4 MiB"]),
        row("JSON: malformed", ask("[{]"), 34, "", &["not a JSON array", "JSON array of Mesos"]),
        row("JSON: truncated", ask(&RESOURCE[..40]), 34, "", &["not a JSON array"]),
        row("JSON: 10 MB", ask(format!("[{}1]", "1,".repeat(5 << 20))), 10, "", &["4 MiB"]),
        row("JSON: deeply nested", ask("[".repeat(100_000)), 34, "", &["not a JSON array"]),
        row("JSON: no object", ask("[1]"), 34, "#1", &["not an object"]),
        row("JSON: neither Resource nor Volume", ask(r#"[{"x":1}]"#), 34, "#1", &["neither"]),
        row("JSON: unknown resource", ask(RESOURCE.replace("disk\",", "cpus\",")), 34, "db:data", &["cpus"]),
        row("JSON: unknown mode", ask(RESOURCE.replace("RW", "WO")), 34, "db:data", &["mode \"WO\" is unknown"]),
        row("JSON: of a wrong type", ask(RESOURCE.replace("\"db\"", "7")), 34, "data", &["\"id\" is not a string"]),
        row("JSON: not reserved", ask(RESOURCE.replace("\"r\"", "\"*\"")), 34, "db:data", &["not reserved"]),
        row("JSON: bad id", ask(RESOURCE.replace("\"db\"", "\"..\"")), 35, "..:data", &["\"..\"", "use 1 to 255 bytes"]),
        row("JSON: bad role", ask(RESOURCE.replace("\"r\"", "\"a//b\"")), 36, "db:data", &["\"a//b\""]),
        row("JSON: bad path", ask(RESOURCE.replace("data", "a/../b")), 37, "db:a/../b", &["\"a/../b\""]),
        row("JSON: no such volume", ask(RESOURCE), 41, "db:data", &["--role r db"]),
        row("JSON: unknown type", ask(SECRET.replace("SECRET", "FLOPPY")), 34, "/run/s", &["\"FLOPPY\" is unknown"]),
        row("JSON: a kind nobody handles", ask(SECRET.replace("SECRET", "DOCKER_VOLUME")), 40, "DOCKER_VOLUME:/run/s", &["never skipped"]),
        row("a secret's VALUE", ask(SECRET), 39, "/run/s", &["revoke", "!c2VjcmV0"]),
        row("a secret's VALUE, called REFERENCE", ask(SECRET.replace("VALUE", "REFERENCE")), 39, "/run/s", &["revoke", "!c2VjcmV0"]),
        row("base64: other characters", ask_base64("ZGI6!GF0YQ=="), 34, "", &["not base64"]),
        row("base64: impossible length", ask_base64("ZGI6Z"), 34, "", &["length"]),
        row("base64: no UTF-8", ask_base64("//8="), 34, "", &["UTF-8"]),
        row("both spellings", annotate("volumes.base64", "ZGI6ZGF0YQ=="), 34, "", &["keep one of them"]),
        row("unknown key", annotate("volume", "db:data"), 33, "", &["\"io.fs-isolator.volume\"", "the keys are"]),
        row("key for one container", annotate("volumes/c", "db:data"), 33, "", &["CRI-O", "without the suffix"]),
        row("sandbox neither true nor false", annotate("sandbox", "yes"), 34, "", &["write true or false"]),
        row("isolation: both", annotate("isolation", "filesystem/linux,filesystem/posix"), 22, "", &["more than one", "name exactly one"]),
        row("isolation: unknown", annotate("isolation", "filesystem/windows"), 22, "", &["filesystem/windows", "name exactly one"]),
        row("isolation: not allowed", annotate("isolation", "filesystem/shared"), 23, "", &["add \"filesystem/shared\" to \"allowed_isolation\""]),
        row("disk unknown", ask("db:data:disk=fast"), 48, "db:data", &["\"fast\"", "under \"disks\""]),
        row("disk not mounted", all(vec![disks(), ask("db:data:disk=nvme")]), 49, "db:data", &["is not a mount point right now", "mount it first"]),
        row("disk of another volume", all(vec![disks(), ask("db:data:disk=hdd")]), 41, "db:data", &["--disk hdd db"]),
        row("volume on two disks", all(vec![disks(), ask("twice:data")]), 59, "twice:data", &["root and ssd", "disk=root"]),
        row("JSON: disk with an unknown root", ask(RESOURCE.replace("{\"persistence", r#"{"source":{"type":"PATH","path":{"root":"/no"}},"persistence"#)), 48, "db:data", &["/no", "under \"disks\""]),
        row("shared differs", ask("alone:data:shared"), 47, "alone:data", &["exclusive", "drop shared"]),
        row("host= not listed", ask("host=/srv:/d"), 43, "host=/srv:/d", &["\"host_paths\""]),
        row("sandbox= at a relative path", ask("sandbox=x:d"), 37, "sandbox=x:d", &["absolute container path"]),
        row("sandbox= below a file of a volume", ask("other:o;sandbox=o/file:/d"), 42, "sandbox=o/file:/d", &["subpath file"]),
        row("sandbox= through a link of a volume", ask("other:o;sandbox=o/link:/d"), 42, "sandbox=o/link:/d", &["symbolic link"]),
        row("sandbox= at a place of the sandbox", ask("sandbox=x:/mnt/mesos/sandbox/y"), 37, "sandbox=x:/mnt/mesos/sandbox/y", &["outside of it"]),
        row("secret= unknown", ask("secret=x:/d"), 65, "secret=x:/d", &["there is no secret x", "to \"secrets\""]),
        row("secret= of a bad name", ask("secret=a/../b:/d"), 34, "secret=a/../b:/d", &["NAME/KEY"]),
        row("secret= with slave", ask("secret=x:/d:slave"), 65, "secret=x:/d", &[]),
        row("parent= without a pod", ask("parent=x:/d"), 66, "parent=x:/d", &["in no pod", "podman pod create"]),
        row("bidirectional volume", ask("db:data:bidirectional"), 24, "db:data", &["only a host path"]),
        row("ro and CAP_SYS_ADMIN", all(vec![ask("db:data:ro"), spec("/process/capabilities/bounding", json!(["CAP_SYS_ADMIN"]))]), 44, "db:data", &["drop the capability"]),
        row("no mount namespace", by_hand(spec("/linux/namespaces", json!([{ "type": "pid" }]))), 52, "", &["linux.namespaces"]),
        row("token missing", config("request_token", json!("0123456789abcdef")), 32, "", &["request_token", "!0123456789abcdef"]),
        row("token wrong", all(vec![config("request_token", json!("0123456789abcdef")), annotate("token", "0123456789abcdeF")]), 32, "", &["io.fs-isolator.token", "!0123456789abcde"]),
        row("bundle under no listed directory", config("managers", json!({ "local": ["/srv/nowhere"] })), 30, "", &["{\"managers\": {\"local\": [\"/srv/nowhere\", \"/var/lib/", "/bundles\"]}}"]),
        row("posix: an image", config("isolation", json!("filesystem/posix")), 53, "", &["{\"isolation\": \"filesystem/linux\"}"]),
        row("shared: a host path not listed", all(vec![config("isolation", json!("filesystem/shared")), ask("host=/srv:/d")]), 43, "host=/srv:/d", &["\"host_paths\"", "\"/srv\""]),
        row("shared: relative", config("isolation", json!("filesystem/shared")), 37, "db:data", &["absolute path"]),
    ];
    for (name, text) in bad_names() {
        let of = |what| format!("{what}: {name:?}");
        let (id, role, path) = (format!("{text}:data"), format!("db:data:role={text}"), format!("db:{text}"));
        let of_all = text.replace("%0A", "\n").replace("%00", "\u{1}");
        rows.push(row(of("id"), ask(&id), 35, &id, &["persistence id", "use 1 to 255 bytes"]));
        rows.push(row(of("role"), ask(&role), 36, &role, &["role", "use components between"]));
        rows.push(row(of("role of all"), annotate("role", of_all), 36, "", &["role", "use components between"]));
        rows.push(row(of("container path"), ask(&path), 37, &path, &["container path", "use a path of at most 4095"]));
    }
    // An empty annotation says nothing.
    rows.retain(|row| row.name != "role of all: \"\"");
    for (key, value) in [
        ("io.container.manager", "cri-o"),
        ("io.container.manager", "libpod"),
        ("io.kubernetes.pod.namespace", "kube-system"),
        ("io.kubernetes.cri-o.SandboxName", "k8s_a_kube-system_c_0"),
        ("io.kubernetes.cri-o.SandboxID", "0123456789abcdef0123456789abcdef"),
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
    ] {
        rows.push(row(format!("forged {key}"), foreign(key, value), 31, "", &["remove the annotations"]));
    }
    rows
}

#[rustfmt::skip]
fn configurations() -> Vec<Row> {
    let deep = format!("{{\"isolation\":{}", "[".repeat(100_000));
    let unusable = &["correct the file"];
    let mut rows = vec![
        row("configuration: malformed", config_text("{,}"), 20, "", unusable),
        row("configuration: truncated", config_text("{\"isolation\": \"filesys"), 20, "", unusable),
        row("configuration: empty", config_text(""), 20, "", unusable),
        row("configuration: no object", config_text("[]"), 20, "", unusable),
        row("configuration: 10 MB", config_text(format!("{{}}{}", " ".repeat(10 << 20))), 20, "", &["larger than", "correct the file"]),
        row("configuration: deeply nested", config_text(deep), 20, "", unusable),
        row("configuration: does not exist", config_file("no.json"), 20, "", &["no.json does not exist"]),
        row("configuration: a directory", config_file("host"), 20, "", &["not a regular file"]),
        row("configuration: writable by all", config_file("open.json"), 21, "", &["open.json is writable by others", "chmod go-w"]),
        row("configuration: of another user", config_file("owned.json"), 21, "", &["owned.json belongs to user 1000", "chown root"]),
        row("configuration: a link", config_file("link.json"), 21, "", &["link.json", "not be a symbolic link"]),
        row("configuration: below a link", config_file("linked/config.json"), 21, "", &["linked", "not be a symbolic link"]),
        row("configuration: below what others may write to", config_file("open/config.json"), 21, "", &["open is writable by others"]),
        row("configuration: below a sticky directory", config_file("sticky/config.json"), 21, "", &["sticky is writable by others"]),
        row("unknown key", bad_config("isolaton", json!("filesystem/linux")), 20, "", &["\"isolaton\"", "did you mean \"isolation\"?"]),
        row("unknown key of a host path", bad_config("host_paths", json!([{ "path": "/srv", "rolls": [] }])), 20, "", &["did you mean \"roles\"?"]),
        row("unknown manager", bad_config("managers", json!({ "docker": [] })), 20, "", &["docker", "correct the file"]),
        row("value of a wrong type", bad_config("work_dir", json!(7)), 20, "", unusable),
        row("relative work_dir", bad_config("work_dir", json!("work")), 20, "", &["\"work_dir\"", "not an absolute path"]),
        row("runtime_dir with ..", bad_config("runtime_dir", json!("/run/../run/x")), 20, "", &["\"runtime_dir\""]),
        row("relative sandbox_directory", bad_config("sandbox_directory", json!("sandbox")), 20, "", &["sandbox_directory"]),
        row("impossible sandbox_directory", bad_config("sandbox_directory", json!("/a/../b")), 20, "", &["sandbox_directory"]),
        row("impossible default_role", bad_config("default_role", json!("a//b")), 20, "", &["default_role"]),
        row("impossible role of a host path", bad_config("host_paths", json!([{ "path": "/srv", "roles": ["*"] }])), 20, "", &["host_paths"]),
        row("short token", bad_config("request_token", json!("hunter2")), 20, "", &["request_token", "!hunter2"]),
        row("unknown ownership", bad_config("ownership", json!("mine")), 20, "", &["auto, mesos, idmap and never"]),
        row("unknown log_level", bad_config("log_level", json!("loud")), 20, "", &["off, error, warn"]),
        row("journal of another type", bad_config("journal", json!("yes")), 20, "", &["wrong type"]),
        row("unknown sandbox_retention", bad_config("sandbox_retention", json!("soon")), 20, "", &["168h"]),
        row("unknown propagation", bad_config("propagation", json!("some")), 20, "", &["\"volumes\" and \"all\" are possible"]),
        row("both filesystem isolators", bad_config("isolation", json!("filesystem/posix,filesystem/linux")), 22, "", &["more than one", "name exactly one"]),
        row("an isolator twice", bad_config("isolation", json!("filesystem/linux,filesystem/linux")), 22, "", &["twice"]),
        row("unknown isolator", bad_config("isolation", json!("filesystem/windows")), 22, "", &["filesystem/windows"]),
        row("both isolators in one allowed", bad_config("allowed_isolation", json!(["filesystem/posix,filesystem/linux"])), 22, "", &["more than one"]),
        row("volume/image", bad_config("isolation", json!("filesystem/linux,volume/image")), 24, "", &["volume/image"]),
        row("HP1, SE1: a volume isolator alone", bad_config("isolation", json!("volume/secret")), 22, "", &["filesystem/linux"]),
        row("HP1: a volume isolator with posix", bad_config("isolation", json!("filesystem/posix,volume/host_path")), 22, "", &["filesystem/linux"]),
        row("SE4: a secret of nowhere", bad_config("secrets", json!([{ "name": "x", "roles": [] }])), 20, "", &["a path or a credential"]),
        row("a secret twice", bad_config("secrets", json!([{ "name": "x", "path": "/a", "roles": [] }, { "name": "x", "path": "/b", "roles": [] }])), 20, "", &["x is there twice"]),
        row("HP2, SE2: default_container_info of another type", bad_config("default_container_info", json!({ "type": "DOCKER" })), 20, "", &["must be MESOS"]),
        row("default_container_info with more", bad_config("default_container_info", json!({ "type": "MESOS", "hostname": "x" })), 20, "", &["hostname"]),
        row("host_paths of no mode", bad_config("host_paths", json!([{ "path": "/x", "roles": [], "mode": "ro" }])), 20, "", &["neither RW nor RO"]),
        row("authorization without rules", bad_config("authorization", json!({ "allows": [] })), 20, "", &["allows", "did you mean \"allow\"?"]),
        row("authorization for nobody", bad_config("authorization", json!({ "allow": [{ "identity": "team-a", "roles": ["x"] }] })), 20, "", &["namespace:NAME"]),
        row("authorization of no role", bad_config("authorization", json!({ "deny": [{ "identity": "*", "roles": ["a//b"] }] })), 20, "", &["authorization", "a//b"]),
        row("disk of no type", bad_config("disks", json!([{ "name": "x", "type": "RAW" }])), 20, "", &["PATH and MOUNT"]),
        row("disk called root", bad_config("disks", json!([{ "name": "root", "type": "PATH", "path": { "root": "/x" } }])), 20, "", &["work_dir"]),
        row("volume_gid_range", bad_config("volume_gid_range", json!("10-20")), 20, "", &["[FIRST-LAST,...]"]),
    ];
    for (what, path) in [
        ("writable by all", "open"),
        ("sticky", "sticky"),
        ("of another user", "owned"),
        ("a link", "linked"),
        ("a file", "config.json"),
        ("below what others may write to", "open/sub"),
        ("below a link", "linked/sub"),
        ("below what others may write to, missing", "open/new"),
    ] {
        rows.push(row(format!("work_dir: {what}"), work_dir(path), 21, "", &["root"]));
        rows.push(row(format!("runtime_dir: {what}"), runtime_dir(path), 21, "", &["root"]));
    }
    rows
}

#[rustfmt::skip]
fn bundles_and_states() -> Vec<Row> {
    let invalid = &["the state must be one JSON object"];
    let spec_invalid = &["write a config.json"];
    let mut rows = vec![
        row("config.json: malformed", spec_text("{,}"), 14, "", spec_invalid),
        row("config.json: truncated", spec_text("{\"root\": {\"path\": \"roo"), 14, "", spec_invalid),
        row("config.json: empty", spec_text(""), 14, "", spec_invalid),
        row("config.json: deeply nested", spec_text(format!("{{\"root\":{}", "[".repeat(100_000))), 14, "", spec_invalid),
        row("config.json: 10 MB", case(|case| case.spec["new"] = json!("x".repeat(10 << 20))), 14, "", &["4 MiB"]),
        row("config.json: no root", spec_text("{}"), 14, "", &["root.path"]),
        row("config.json: root does not exist", by_hand(spec("/root/path", json!("nowhere"))), 14, "", &["nowhere"]),
        row("config.json: none", bundle("bundles"), 14, "", spec_invalid),
        row("config.json: a fifo", bundle("bundles/fifo"), 14, "", spec_invalid),
        row("config.json: a directory", bundle("bundles/none"), 14, "", spec_invalid),
        row("bundle: a link", bundle("bundles/link"), 13, "", &["not a symbolic link"]),
        row("bundle: gone", bundle("bundles/gone"), 13, "", &["absolute path of an existing directory"]),
        row("bundle: a file", bundle("config.json"), 13, "", &["existing directory"]),
        row("bundle: relative", state("bundle", json!("bundles/held")), 11, "", invalid),
        row("bundle: none", state("bundle", Value::Null), 11, "", invalid),
        row("bundle: with NUL", state("bundle", json!("/a\0b")), 11, "", invalid),
        row("pid: negative", state("pid", json!(-1)), 15, "", &["pid is -1", "called by the runtime"]),
        row("pid: 0", state("pid", json!(0)), 15, "", &["pid is 0"]),
        row("pid: none", state("pid", Value::Null), 15, "", &["no pid"]),
        row("pid: nobody's", state("pid", json!(i32::MAX)), 15, "", &["no process"]),
        row("pid: too large", state("pid", json!(1_u64 << 40)), 11, "", invalid),
        row("pid: text", state("pid", json!("7")), 11, "", invalid),
        row("pid: of init", state("pid", json!(1)), 15, "", &["process 1", "root.path"]),
        row("pid: of a process elsewhere", state("pid", json!(std::process::id())), 15, "", &["is not mounted"]),
        row("pid: of a process on the host", pid_on_the_host(), 15, "", &["called by the runtime"]),
        row("state: malformed", state_text("{,}"), 11, "", invalid),
        row("state: truncated", state_text("{\"ociVersion\": \"1.0.2\", \"id\": \"hel"), 11, "", invalid),
        row("state: no object", state_text("[]"), 11, "", invalid),
        row("state: {}", state_text("{}"), 11, "", invalid),
        row("state: two", state_text("{\"id\":\"a\",\"bundle\":\"/b\"} {}"), 11, "", invalid),
        row("state: no UTF-8", state_text(b"{\"id\":\"a\xff\",\"bundle\":\"/b\"}".as_slice()), 11, "", invalid),
        row("state: half a surrogate", state_text(r#"{"id":"a","bundle":"/\ud800"}"#), 11, "", invalid),
        row("state: deeply nested", state_text(format!("{{\"annotations\":{}", "[".repeat(100_000))), 11, "", invalid),
        row("state: 10 MB", state_text("{".repeat(10 << 20)), 10, "", &["4 MiB", "pipe a state file"]),
        row("annotations: no object", state("annotations", json!([])), 11, "", invalid),
        row("annotation: no text", state("annotations", json!({ "io.fs-isolator.volumes": 7 })), 11, "", invalid),
        row("id: none", state("id", Value::Null), 11, "", invalid),
    ];
    // Never by way of a runtime: crun deletes the parent of its root for `..`.
    let long = "x".repeat(243);
    for id in ["..", ".", "a/b", "/", "a b", "a\nb", "a\0b", "\u{e4}", long.as_str()] {
        let name = format!("id: {:.20?}", id);
        rows.push(row(name, state("id", json!(id)), 12, "", &["container id", "use an id of 1 to 242"]));
    }
    rows
}

fn rows() -> Vec<Row> {
    let mut rows = requests();
    rows.extend(configurations());
    rows.extend(bundles_and_states());
    rows
}

/// Standard input that is no state: what the shell gives to the hook, and whether it takes the hook its 5 s.
const INPUTS: [(&str, &str, &str, bool); 9] = [
    ("closed", "exec $HOOK <&-", "empty or closed", false),
    ("empty", "exec $HOOK </dev/null", "empty or closed", false),
    ("only to be written", "exec $HOOK 0>/dev/null", "cannot be read", false),
    ("a directory", "exec $HOOK </", "cannot be read", false),
    ("a terminal", "sleep 2 | script -qec \"$HOOK\" /dev/null", "a terminal", false),
    ("a terminal that ends", "exec script -qec \"sleep 0.5; $HOOK\" /dev/null </dev/null", "a terminal", false),
    ("endless", "yes | $HOOK", "does not end", true),
    ("endless and slow", "while printf x; do sleep 1; done | timeout 20 $HOOK", "did not end", true),
    ("silent", "mkfifo $FIFO; exec $HOOK <>$FIFO", "did not end", true),
];

// How rows are tried.

/// A container that its runtime has made as far as its createRuntime hooks, one of which waits.
struct Held {
    runtime: Child,
    lock: PathBuf,
    /// What the runtime wrote to the hook.
    state: Value,
}

impl Held {
    fn new(container: &mut Container) -> Held {
        let (lock, state) = (container.bundle.join("lock"), container.bundle.join("state"));
        let _ = fs::remove_file(&state);
        fs::write(&lock, "").unwrap();
        let (at, wait) = (state.display(), lock.display());
        let script = format!("cat > {at}.new; mv {at}.new {at}; while [ -e {wait} ]; do sleep 0.05; done; exit 1");
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] });
        container.spec["hooks"] = json!({ "prestart": [hook] });
        container.write();
        let mut command = Command::new(container.runtime.program());
        command.arg("--root").arg(container.bundle.join("root")).args(["run", &container.id]);
        command.current_dir(&container.bundle).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let runtime = command.spawn().unwrap();
        wait_for("the runtime to call its hook", || state.exists());
        Held { runtime, lock, state: serde_json::from_slice(&fs::read(state).unwrap()).unwrap() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.lock);
        let _ = self.runtime.wait();
    }
}

/// What rows need on disk: volumes, an image, and configurations and directories that others can change.
fn furnish(lab: &Lab, container: &Container) {
    let (dir, rootfs, roles) = (&lab.dir, container.rootfs(), lab.work().join("volumes/roles"));
    let mode = |path: &str, mode| fs::set_permissions(dir.join(path), PermissionsExt::from_mode(mode)).unwrap();
    lab.volume("db");
    let other = lab.volume("other");
    fs::write(other.join("file"), "").unwrap();
    symlink("/etc", other.join("link")).unwrap();
    fs::write(roles.join("default/file"), "").unwrap();
    symlink(&other, roles.join("default/link")).unwrap();
    lab.volume_of("open", "v");
    lab.cli(&["volume", "create", "--exclusive", "alone"]).ok();
    lab.volume("twice");
    fs::create_dir_all(dir.join("ssd/volumes/roles/default/twice")).unwrap();
    fs::create_dir_all(dir.join("unmounted")).unwrap();
    tmpfs(&dir.join("mounted"), MsFlags::empty());
    mode("work/volumes/roles/open", 0o777);
    let directories =
        ["host", "open/sub", "sticky", "owned", "trusted/sub", "bundles/fifo", "bundles/none/config.json"];
    directories.iter().for_each(|path| fs::create_dir_all(dir.join(path)).unwrap());
    for file in ["open.json", "owned.json", "open/config.json", "sticky/config.json", "trusted/config.json"] {
        fs::copy(lab.config(), dir.join(file)).unwrap();
    }
    run("mkfifo", &[dir.join("bundles/fifo/config.json").to_str().unwrap()]).ok();
    symlink(lab.config(), dir.join("link.json")).unwrap();
    symlink(dir.join("trusted"), dir.join("linked")).unwrap();
    symlink(&container.bundle, dir.join("bundles/link")).unwrap();
    mode("open.json", 0o666);
    mode("open", 0o777);
    mode("sticky", 0o1777);
    chown(dir.join("owned.json"), Some(1000), Some(1000)).unwrap();
    chown(dir.join("owned"), Some(1000), Some(1000)).unwrap();
    ["host", "real"].iter().for_each(|path| fs::create_dir(rootfs.join(path)).unwrap());
    fs::write(rootfs.join("file"), "").unwrap();
    symlink("/real", rootfs.join("alias")).unwrap();
    symlink("/proc", rootfs.join("p")).unwrap();
}

/// Tries every row with one runtime; answers what was wrong.
fn try_rows(runtime: Runtime) -> Vec<String> {
    let lab = Lab::with(json!({ "isolation": "filesystem/linux", "sandbox_retention": "0" }));
    let good: Value = serde_json::from_slice(&fs::read(lab.config()).unwrap()).unwrap();
    let mut container = lab.container(runtime, "c");
    let mut holder = lab.container(runtime, "held");
    // One bundle for both, so that the hook by hand reads what the runtime has read.
    holder.bundle = container.bundle.clone();
    furnish(&lab, &container);
    // Undamaged it starts.
    container.ask("db:data").run_shell("touch /marker").ok();
    let (undamaged, rootfs) = (container.spec.clone(), container.rootfs());
    fs::remove_file(rootfs.join("marker")).unwrap();
    lab.assert_clean();
    let mut held = Held::new(&mut holder);
    let look = || (manifest(&lab.work()), manifest(&rootfs), names(&lab.dir));
    let (mut before, log) = (look(), lab.runtime_dir().join("log"));
    let mut wrong = Vec::new();
    for row in rows() {
        let mut found = Vec::new();
        let mut case = Case {
            lab: &lab,
            spec: undamaged.clone(),
            spec_text: None,
            config: good.clone(),
            config_text: None,
            config_file: lab.config(),
            state: Vec::new(),
            state_text: None,
            on_the_host: held.runtime.id(),
            logged: true,
            real: true,
        };
        (row.damage)(&mut case);
        fs::write(lab.config(), case.config_text.unwrap_or(case.config.to_string())).unwrap();
        container.spec = case.spec;
        container.hooks(&case.config_file, &HOOKS).write();
        if let Some(text) = case.spec_text {
            fs::write(container.bundle.join("config.json"), text).unwrap();
        }
        let mut state = held.state.clone();
        state["annotations"] = container.spec["annotations"].clone();
        case.state.into_iter().for_each(|(key, value)| state[key] = value);
        state.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let state = case.state_text.unwrap_or(state.to_string().into_bytes());
        // What is wrong with the state itself every hook finds.
        for (_, program) in if [11, 12].contains(&row.code) { &HOOKS[..] } else { &HOOKS[..1] } {
            let ran = hook(program, &case.config_file, &state);
            if ran.code != row.code {
                found.push(format!("by hand: exit code {} instead of {}: {:.999}", ran.code, row.code, ran.err));
            }
            check(&row, "held", &ran.err, &mut found);
            if ran.code == 0 {
                drop(held);
                hook(POSTSTOP, &lab.config(), &state);
                held = Held::new(&mut holder);
                container.write();
            }
        }
        let _ = fs::remove_dir_all(&log);
        if case.real {
            let ran = container.run();
            if ran.code == 0 || rootfs.join("marker").exists() {
                found.push(format!("{} started it: {ran:?}", runtime.program()));
            }
            let passed_on = [format!("exit status {}", row.code), format!("exit code: {}", row.code)];
            if !passed_on.iter().any(|code| ran.err.contains(code)) {
                found.push(format!("{}: another exit code than {}: {:.999}", runtime.program(), row.code, ran.err));
            }
            if case.logged && row.code > 12 {
                let log = lab.log("c");
                let lines: Vec<&str> = log.lines().filter(|line| line.contains("[exit ")).collect();
                check(&row, "c", &lines.join("\n"), &mut found);
            }
        }
        let _ = fs::remove_dir_all(&log);
        found.extend(lab.leaks().into_iter().map(|leak| format!("left behind: {leak}")));
        if look() != before {
            found.push("something was made in work_dir, in the root filesystem or beside them".to_owned());
            let _ = fs::remove_file(rootfs.join("marker"));
            before = look();
        }
        if !found.is_empty() {
            wrong.push(format!("{} ({}):\n    {}", row.name, runtime.program(), found.join("\n    ")));
        }
    }
    // Undamaged the hook succeeds by hand, too: it was the rows' damage, and nothing else.
    fs::write(lab.config(), good.to_string()).unwrap();
    container.spec = undamaged;
    container.write();
    held.state["annotations"] = container.spec["annotations"].clone();
    let state = held.state.to_string();
    hook(PRESTART, &lab.config(), state.as_bytes()).ok();
    drop(held);
    hook(POSTSTOP, &lab.config(), state.as_bytes()).ok();
    lab.assert_clean();
    wrong
}

/// Exactly one line, with container, volume, remedy and exit code.
fn check(row: &Row, id: &str, text: &str, found: &mut Vec<String>) {
    let [line] = text.lines().collect::<Vec<_>>()[..] else {
        return found.push(format!("not exactly one line: {text:.999?}"));
    };
    let mut has = |what: &str| {
        let (wanted, words) = what.strip_prefix('!').map_or((true, what), |words| (false, words));
        if line.contains(words) != wanted {
            found.push(format!("{what:.99?} is expected in: {line:.999}"));
        }
    };
    // Before the id is known nobody can name it.
    if row.code > 12 {
        has(&format!("container {id}: "));
    }
    if !row.volume.is_empty() {
        // A very long name may be abridged.
        has(&format!("volume {:.200}", format!("{}: ", row.volume)));
    }
    row.words.iter().for_each(|words| has(words));
    let rest = line.strip_suffix(&format!(" [exit {}]", row.code)).unwrap_or_default();
    let remedy = rest.split_once("; ").is_some_and(|(_, remedy)| !remedy.is_empty());
    if !remedy || rest.contains("[exit ") || line.len() > LONGEST_LINE {
        found.push(format!("no remedy, not one exit code, or {} bytes: {line:.999}", line.len()));
    }
}

/// Tries everything at once with all three hooks.
fn try_inputs() -> Vec<String> {
    let lab = Lab::new("filesystem/linux");
    let all = INPUTS.iter().flat_map(|input| HOOKS.map(|hook| (input, hook)));
    let tries: Vec<_> = all
        .map(|((name, script, words, slow), (stage, program))| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("HOOK", format!("{program} --config {}", lab.config().display()));
            command.env("FIFO", lab.dir.join(format!("{stage}.fifo")));
            std::thread::spawn(move || {
                let mut found = Vec::new();
                let start = Instant::now();
                let ran = run_with(&mut command, b"");
                let seconds = start.elapsed().as_secs();
                let text = format!("{}{}", ran.out, ran.err);
                if ran.code != 10 || !text.contains(words) {
                    found.push(format!("exit code 10 and {words:?} are expected: {ran:?}"));
                }
                check(&row("", ask(""), 10, "", &["pipe a state file"]), "", &text, &mut found);
                if !(if *slow { 4..10 } else { 0..4 }).contains(&seconds) {
                    found.push(format!("it took {seconds} s"));
                }
                (!found.is_empty()).then(|| format!("stdin {name} ({stage}):\n    {}", found.join("\n    ")))
            })
        })
        .collect();
    let wrong = tries.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    assert!(!lab.runtime_dir().exists());
    lab.assert_clean();
    wrong
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let (sender, wrong) = std::sync::mpsc::channel();
    let spawn = |test: fn(Sender<Vec<String>>)| {
        let sender = sender.clone();
        std::thread::spawn(move || on(Host::Shared, move || test(sender)))
    };
    let hosts = [
        spawn(|sender| sender.send(try_rows(Runtime::Runc)).unwrap()),
        spawn(|sender| sender.send(try_rows(Runtime::Crun)).unwrap()),
        spawn(|sender| sender.send(try_inputs()).unwrap()),
    ];
    hosts.into_iter().for_each(|host| host.join().unwrap());
    let wrong: Vec<String> = wrong.try_iter().flatten().collect();
    let count = rows().len() + INPUTS.len();
    println!("{count} rows of bad input");
    assert!(wrong.is_empty(), "{} failures in {count} rows:\n{}", wrong.len(), wrong.join("\n"));
}
