//! Containers of podman and CRI-O that ask for volumes. Those whose configuration has no hook of this project were made while
//! the hooks were not there, and nothing tells; those whose AppArmor profile is gone do not start any more.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Check, Finding, word};
use crate::config::Config;
use crate::container::{Manager, bundle};
use crate::hook::stage::Stage;
use crate::{read, request};

/// The AppArmor profiles that the kernel has; the file is there where AppArmor is on.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Looks at every bundle below the managers' directories.
pub fn examine(config: &Config, findings: &mut Vec<Finding>) {
    let profiles = std::fs::read_to_string(PROFILES).ok();
    for (manager, directory) in config.manager_directories().filter(|(manager, _)| *manager != Manager::Local) {
        for driver in entries(directory).filter(|path| path.to_string_lossy().ends_with("-containers")) {
            for container in entries(&driver) {
                one(manager, &container, profiles.as_deref(), findings);
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

fn one(manager: Manager, container: &Path, profiles: Option<&str>, findings: &mut Vec<Finding>) {
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
    let short = id.get(..12).unwrap_or(&id);
    let profile = spec.pointer("/process/apparmorProfile").and_then(Value::as_str);
    if let (true, Some(profile), Some(profiles)) = (asks, profile, profiles)
        && let Some(missing) = not_loaded(profile, profiles)
    {
        findings.push(
            Finding::new(
                Check::AppArmorProfile,
                format!("the AppArmor profile {missing:?} of container {short} is not loaded"),
                path.display(),
            )
            .why("the runtime does not start it, whatever its volumes are")
            .remedy("apparmor_parser -r the profile's file, below /etc/apparmor.d as a rule"),
        );
    }
    if asks && !has_hook {
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

/// The part of a profile that the kernel does not have. Engines load their own themselves; what is in a namespace of AppArmor's
/// stands in another list.
fn not_loaded<'p>(profile: &'p str, profiles: &str) -> Option<&'p str> {
    const OF_ENGINES: [&str; 3] = ["unconfined", "containers-default-", "crio-default"];
    let is_loaded =
        |name: &str| profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(one, _)| one == name));
    let is_known = |name: &str| {
        name.is_empty() || name.starts_with(':') || OF_ENGINES.iter().any(|engine| name.starts_with(engine))
    };
    profile.split("//&").find(|name| !is_known(name) && !is_loaded(name))
}

#[cfg(test)]
mod tests {
    use super::not_loaded;

    #[test]
    fn profiles_are_found_by_their_whole_names() {
        let profiles = "/usr/bin/man (enforce)\nweb (complain)\nmy box (enforce)\n";
        for loaded in ["", "unconfined", "web", "my box", "web//&my box", ":ns:x", "containers-default-0.50.1"] {
            assert_eq!(not_loaded(loaded, profiles), None, "{loaded}");
        }
        for (profile, missing) in
            [("we", "we"), ("web (complain)", "web (complain)"), ("web//&db", "db"), ("box", "box")]
        {
            assert_eq!(not_loaded(profile, profiles), Some(missing));
        }
    }
}
