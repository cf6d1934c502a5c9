//! What ran on Mesos, for podman, a Quadlet or Kubernetes: apps and pods of Marathon, and Mesos's tasks, with the same data in
//! place. Pure functions: what the agent has written down and what the operator says comes in, text goes out.
//!
//! What cannot be carried over is listed, never dropped: see [`fields`].
#![forbid(unsafe_code)]

pub mod fields;
pub mod marathon;
pub mod mesos;
mod pod;
mod podman;
mod quadlet;
mod words;

use std::fmt;

use serde::Serialize;

use crate::error::{Cause, Error, Result, shell_word};
use crate::mesos::checkpoint;
use crate::request::names::{Role, VolumeId};
use fields::{Left, Leftovers};

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Commands of podman for a shell.
    Podman,
    /// Files of podman for systemd.
    Quadlet,
    /// A manifest for Kubernetes with CRI-O.
    Pod,
}

/// What runs together: one container, or a pod of several.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Workload {
    /// Its name where it goes: letters, digits and `-`.
    pub name: String,
    /// Its name where it comes from.
    pub origin: String,
    /// Whether its containers are a pod.
    pub is_pod: bool,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Whether it has the host's network.
    pub host_network: bool,
    /// The name it knows itself by.
    pub hostname: Option<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Seconds that it has to end by itself.
    pub grace_seconds: Option<u64>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Where it stands in the definition, as a JSON pointer.
    pub at: String,
    /// Its image; none where it ran on the agent's own files.
    pub image: Option<String>,
    /// Whether the image is pulled each time.
    pub pull_always: bool,
    /// What runs instead of the image's own entry point.
    pub entrypoint: Option<String>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment.
    pub env: Vec<(String, Env)>,
    /// User.
    pub user: Option<String>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Memory in MiB.
    pub mem_mb: Option<f64>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Whether it lives.
    pub health: Option<Health>,
    /// Labels of its own.
    pub labels: Vec<(String, String)>,
    /// Whether it may do everything.
    pub privileged: bool,
    /// Options of docker's command line, which podman has as well.
    pub options: Vec<(String, String)>,
}

/// The value of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Env {
    /// As it is.
    Text(String),
    /// A secret of this name.
    Secret(String),
}

/// A port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// On the host; chosen at the start where there is none.
    pub host: Option<u16>,
    /// In the container.
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// How to tell whether a container lives, in seconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Health {
    /// Where it stands in the definition.
    #[serde(skip)]
    pub at: String,
    /// What is asked.
    pub probe: Probe,
    /// Before failures count.
    pub grace: Option<u64>,
    /// Between two looks.
    pub interval: Option<u64>,
    /// For an answer.
    pub timeout: Option<u64>,
    /// Failures in a row.
    pub failures: Option<u64>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A command in the container.
    Command(Vec<String>),
    /// A path over HTTP.
    Http {
        /// `http` or `https`.
        scheme: String,
        /// The path.
        path: String,
        /// The port.
        port: u16,
    },
    /// A connection.
    Tcp(u16),
}

impl Default for Probe {
    fn default() -> Probe {
        Probe::Command(Vec::new())
    }
}

/// A volume as a container asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub container_path: String,
    /// Whether it is only read.
    pub read_only: bool,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A persistent volume that is there.
    Persistent(Place, /** shared */ bool),
    /// A path of the host.
    Host(String),
    /// A path of the sandbox.
    Sandbox(String),
    /// A path of the pod's sandbox.
    Parent(String),
    /// A secret.
    Secret(String),
}

/// Which volume on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its role; the default one where nothing is known of it.
    pub role: Option<Role>,
    /// Its id.
    pub id: VolumeId,
    /// Its disk's name in the configuration.
    pub disk: Option<String>,
}

impl Volume {
    /// In the short form of the annotation.
    #[must_use]
    pub fn short(&self) -> String {
        let (source, options) = match &self.source {
            Source::Persistent(place, shared) => {
                let mut options = String::new();
                if *shared {
                    options.push_str(":shared");
                }
                if let Some(role) = &place.role {
                    options.push_str(&format!(":role={}", encode(role.as_str())));
                }
                if let Some(disk) = &place.disk {
                    options.push_str(&format!(":disk={}", encode(disk)));
                }
                (encode(place.id.as_str()), options)
            }
            Source::Host(path) => (format!("host={}", encode(path)), String::new()),
            Source::Sandbox(path) => (format!("sandbox={}", encode(path)), String::new()),
            Source::Parent(path) => (format!("parent={}", encode(path)), String::new()),
            Source::Secret(name) => (format!("secret={}", encode(name)), String::new()),
        };
        let mode = if self.read_only { ":ro" } else { "" };
        format!("{source}:{}{mode}{options}", encode(&self.container_path))
    }
}

/// Encodes a field of the short form: also what would mean something to a shell, to systemd, or to podman 4, which reads
/// annotations as CSV.
fn encode(field: &str) -> String {
    let mut encoded = String::new();
    for byte in field.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-./#@+".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl Container {
    /// The value of the annotation; empty where it asks for no volume.
    fn annotation(&self) -> String {
        self.volumes.iter().map(Volume::short).collect::<Vec<_>>().join(";")
    }
}

/// What is known about this host's volumes, and what the operator says.
#[derive(Debug, Default)]
pub struct Known {
    /// Volumes of the agent's checkpoint, and of the disks.
    pub volumes: Vec<Place>,
    /// Container paths, or names of a pod's volumes, and the ids that they have.
    pub ids: Vec<(String, String)>,
    /// The role, where several have such a volume or none is known.
    pub role: Option<Role>,
    /// The image, in place of the definition's.
    pub image: Option<String>,
    /// Where the sandbox is in containers.
    pub sandbox_directory: String,
    /// What the configuration calls a disk, by its root. Mesos names them so.
    pub disks: Vec<(String, String)>,
}

impl Known {
    /// The volume of a name in a Marathon app or pod.
    ///
    /// # Errors
    /// [`Cause::Convert`] where none or several can be meant.
    pub fn persistent(&self, app: &str, name: &str) -> Result<Place> {
        let given = self.ids.iter().find(|(path, _)| path == name).map(|(_, id)| id);
        // Marathon's ids: the app, the volume and a UUID (mesos.md C4).
        let prefix = format!("{}#{name}#", app.trim_matches('/').replace('/', "_"));
        let fits = |place: &&Place| match given {
            Some(id) => place.id.as_str() == id,
            None => place.id.as_str().strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('#')),
        };
        let role_fits = |place: &&Place| self.role.is_none() || place.role == self.role;
        let found: Vec<&Place> = self.volumes.iter().filter(fits).filter(role_fits).collect();
        let flag = format!("--volume-id {}", shell_word(&format!("{name}=ID")));
        match (&found[..], given) {
            ([one], _) => Ok((*one).clone()),
            ([], Some(id)) => Ok(Place { role: self.role.clone(), id: VolumeId::parse(id)?, disk: None }),
            ([], None) => Err(refused(format!("no volume {prefix}... of app {app} is on this host"))
                .remedy(format!("run it on the agent's host, or name the volume: {flag} [--role R]"))),
            (several, _) => {
                let names: Vec<String> = several
                    .iter()
                    .map(|place| format!("{} ({})", place.id, place.role.as_ref().map_or("default", Role::as_str)))
                    .collect();
                Err(refused(format!("app {app} has several volumes for {name}: {}", names.join(", ")))
                    .remedy(format!("name one, and the rest for other instances: {flag} [--role R]")))
            }
        }
    }

    /// The name of the disk with this root.
    fn disk(&self, root: &str) -> Option<String> {
        self.disks.iter().find(|(known, _)| known == root).map(|(_, name)| name.clone())
    }

    /// A volume of the checkpoint, with its disk by name.
    #[must_use]
    pub fn place(&self, volume: &checkpoint::Volume) -> Option<Place> {
        let disk = match &volume.disk {
            checkpoint::Disk::Root => None,
            checkpoint::Disk::Path(root) | checkpoint::Disk::Mount(root) => Some(self.disk(root)?),
            checkpoint::Disk::Foreign(_) => return None,
        };
        Some(Place { role: Some(volume.role.clone()), id: volume.id.clone(), disk })
    }
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(Cause::Convert, what)
}

/// A file of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Unit {
    /// A name for it.
    pub name: String,
    /// What stands in it.
    pub content: String,
}

/// What a definition became.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Converted {
    /// Files; for podman one script.
    pub units: Vec<Unit>,
    /// What was not carried over.
    pub left: Vec<Left>,
    /// What has to be done besides.
    pub needs: Vec<String>,
}

/// Writes a workload. What the target has no word for is left, too.
///
/// # Errors
/// [`Cause::Convert`] where nothing could run, or only something else.
pub fn write(workload: &Workload, target: Target, known: &Known, left: Leftovers) -> Result<Converted> {
    let mut needs = Vec::new();
    for container in &workload.containers {
        let annotation = container.annotation();
        if !annotation.is_empty() {
            // What a hook would refuse is refused here.
            crate::request::volumes(&annotation).map_err(|error| {
                refused(format!("{}: {}", container.at, error.what())).remedy(error.how().to_owned())
            })?;
        }
        for volume in &container.volumes {
            match &volume.source {
                Source::Host(path) => {
                    let path = serde_json::json!(path);
                    needs.push(format!(
                        "/etc/fs-isolator/config.json must list {{\"path\": {path}, ...}} under \"host_paths\""
                    ));
                }
                Source::Secret(name) => {
                    let name = serde_json::json!(name);
                    needs.push(format!(
                        "/etc/fs-isolator/config.json must list {{\"name\": {name}, ...}} under \"secrets\""
                    ));
                }
                Source::Persistent(Place { role: Some(role), .. }, _) if target == Target::Pod => {
                    needs.push(format!("the pod's namespace must be allowed to use role {role} (\"authorization\")"));
                }
                _ => {}
            }
        }
    }
    needs.dedup();
    let units = match target {
        Target::Podman => podman::write(workload, known, &left, &mut needs)?,
        Target::Quadlet => quadlet::write(workload, known, &left, &mut needs)?,
        Target::Pod => pod::write(workload, known, &left, &mut needs)?,
    };
    let left = left.into_list();
    let comment = comment(workload, &left, &needs);
    let units = units.into_iter().map(|unit| Unit { content: format!("{comment}{}", unit.content), ..unit }).collect();
    Ok(Converted { units, left, needs })
}

/// What an operator must know, as lines of a comment: in all three formats they begin with `#`.
fn comment(workload: &Workload, left: &[Left], needs: &[String]) -> String {
    let mut lines = vec![format!("{} of Mesos, by fs-isolator convert", one_line(&workload.origin))];
    lines.extend(needs.iter().map(|need| format!("needed: {}", one_line(need))));
    lines.extend(left.iter().map(|left| format!("not carried over: {}", one_line(&left.to_string()))));
    // systemd takes a backslash at the end for one more line, in comments as well.
    lines.iter().map(|line| format!("# {}\n", line.trim_end_matches('\\'))).collect()
}

/// One line, whatever a definition brought in.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.at, self.why),
            None => write!(f, "{}: {}", self.at, self.why),
        }
    }
}

/// A name that podman, systemd and Kubernetes take: letters, digits and `-`.
pub(crate) fn plain_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(plain).collect();
    let mut short: String = name.trim_matches('-').chars().take(60).collect();
    short.truncate(short.trim_end_matches('-').len());
    if short.is_empty() { "task".to_owned() } else { short }
}
