//! Containers of podman and CRI-O that ask for volumes, and whose configuration has no hook of this project: they were made
//! while the hooks were not there, and nothing tells.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Check, Finding, word};
use crate::config::Config;
use crate::container::{Manager, bundle};
use crate::hook::stage::Stage;
use crate::{read, request};

/// Looks at every bundle below the managers' directories.
pub fn examine(config: &Config, findings: &mut Vec<Finding>) {
    for (manager, directory) in config.manager_directories().filter(|(manager, _)| *manager != Manager::Local) {
        for driver in entries(directory).filter(|path| path.to_string_lossy().ends_with("-containers")) {
            for container in entries(&driver) {
                one(manager, &container, findings);
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn one(manager: Manager, container: &Path, findings: &mut Vec<Finding>) {
    let path = container.join("userdata/config.json");
    let id = container.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::File::open(&path).ok().and_then(|file| read::at_most(file, bundle::LARGEST).ok());
    let Some(spec) = text.and_then(|text| serde_json::from_slice::<Value>(&text).ok()) else { return };
    let annotations = spec.get("annotations").and_then(Value::as_object);
    let asks = annotations.is_some_and(|all| all.keys().any(|key| key.starts_with(request::PREFIX)));
    let hooks = ["/hooks/prestart", "/hooks/createRuntime"].map(|list| spec.pointer(list).and_then(Value::as_array));
    let has_hook = hooks.into_iter().flatten().flatten().any(|hook| {
        let path = hook.get("path").and_then(Value::as_str).map(Path::new);
        path.and_then(Path::file_name).is_some_and(|name| name == Stage::Prestart.program())
    });
    if asks && !has_hook {
        let short = id.get(..12).unwrap_or(&id);
        findings.push(
            Finding::new(
                Check::ContainerWithoutHook,
                format!("container {short} asks for volumes and has no hook"),
                path.display(),
            )
            .why("it was made while the hooks were missing: what it writes lands in its own layer, and goes with it")
            .remedy(match manager {
                Manager::Podman => {
                    format!("mend the hooks first, save its data, then podman restart {}", word(Path::new(&*id)))
                }
                _ => "mend the hooks first, save its data, then delete the pod so that it is made anew".to_owned(),
            }),
        );
    }
}
