//! Who reads which hooks.d directories on this host.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::runtimes::Program;
use super::{Check, Finding};
use crate::me::me;

/// What podman and CRI-O read unless their configuration says otherwise (podman 4.3 and CRI-O 1.37 read nothing else).
pub const DEFAULT: &str = "/usr/share/containers/oci/hooks.d";

/// Where an administrator would look, and which nobody reads by default.
pub const ADMINISTRATOR: &str = "/etc/containers/oci/hooks.d";

/// One that reads hooks.d directories: a file of a later one masks those of its name in the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Reader {
    /// podman, CRI-O, or the option of this command.
    pub who: &'static str,
    /// In its order.
    pub directories: Vec<PathBuf>,
}

/// Finds them. With `given` directories, as podman's `--hooks-dir`, no configuration counts.
pub fn find(programs: &[Program], given: &[PathBuf], findings: &mut Vec<Finding>) -> Vec<Reader> {
    if !given.is_empty() {
        let directories = given.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect();
        return vec![Reader { who: "--hooks-dir", directories }];
    }
    let has = |name: &str| programs.iter().any(|program| program.name == name);
    let mut readers = Vec::new();
    if has("podman") {
        let directories = configured(&containers_conf(), "engine", findings);
        readers.push(Reader { who: "podman", directories });
    }
    if has("crio") {
        let directories = configured(&crio_conf(), "crio.runtime", findings);
        readers.push(Reader { who: "CRI-O", directories });
    }
    readers
}

/// Files of podman's configuration in the order in which the later ones win (containers.conf(5)).
fn containers_conf() -> Vec<PathBuf> {
    if let Some(only) = std::env::var_os("CONTAINERS_CONF") {
        return vec![only.into()];
    }
    let mut files = vec!["/usr/share/containers/containers.conf".into(), "/etc/containers/containers.conf".into()];
    files.extend(drop_ins(Path::new("/etc/containers/containers.conf.d")));
    if let Some(user) = &me().user {
        files.push(user.home.join(".config/containers/containers.conf"));
        files.extend(drop_ins(&user.home.join(".config/containers/containers.conf.d")));
    }
    files
}

/// The same of CRI-O (crio.conf.d(5)).
fn crio_conf() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/crio/crio.conf")];
    files.extend(drop_ins(Path::new("/etc/crio/crio.conf.d")));
    files
}

fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| !path.is_dir()).collect();
    files.sort();
    files
}

fn configured(files: &[PathBuf], table: &str, findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from(DEFAULT)];
    for file in files {
        let read = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(format!("it cannot be read: {error}")),
            Ok(text) => hooks_dir(&text, table).map_err(|what| format!("it is no valid TOML: {what}")),
        };
        match read {
            Ok(None) => {}
            Ok(Some(found)) => {
                if !found.append {
                    directories.clear();
                }
                directories.extend(found.directories);
            }
            Err(what) => findings.push(
                Finding::new(Check::EngineConfiguration, what, file.display())
                    .why("it may name other directories of hooks, and who reads it may fail on it")
                    .remedy(format!("correct {}", file.display())),
            ),
        }
    }
    directories
}

/// A value of `hooks_dir`.
#[derive(Debug, Default, PartialEq, Eq)]
struct HooksDir {
    directories: Vec<PathBuf>,
    /// `{append = true}` stands in the array: what earlier files name counts too (containers.conf(5)).
    append: bool,
}

/// `hooks_dir` of a table of containers.conf or crio.conf; `None` where it is not set.
fn hooks_dir(text: &str, table: &str) -> Result<Option<HooksDir>, String> {
    let whole: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let mut current = Some(&whole);
    for name in table.split('.') {
        current = current.and_then(|table| table.get(name)?.as_table());
    }
    let Some(values) = current.and_then(|table| table.get("hooks_dir")?.as_array()) else { return Ok(None) };
    let directories = values.iter().filter_map(|value| value.as_str().map(PathBuf::from)).collect();
    let append = values.iter().any(|value| value.get("append").and_then(toml::Value::as_bool) == Some(true));
    Ok(Some(HooksDir { directories, append }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_dir_is_found_in_its_table() {
        let dirs = |directories: &[&str], append| {
            Some(HooksDir { directories: directories.iter().map(PathBuf::from).collect(), append })
        };
        for (text, table, wanted) in [
            (
                "[containers]\nhooks_dir = [\"/other\"]\n[engine] # it\n# hooks_dir = [\"/off\"]\n\
                 volume = \"hooks_dir = ['/x']\"\nhooks_dir = [ # two\n  \"/a#b\", '/c]d', # \"/e\"\n]\n[network]\nx = 1\n",
                "engine",
                dirs(&["/a#b", "/c]d"], false),
            ),
            ("[engine]\n#hooks_dir = [\"/a\"]\n", "engine", None),
            ("[engine]\nhooks_dir = []", "engine", dirs(&[], false)),
            ("engine.hooks_dir = ['/a']", "engine", dirs(&["/a"], false)),
            ("[crio.runtime]\nhooks_dir=['/a',{append=true}]", "crio.runtime", dirs(&["/a"], true)),
            ("", "crio.runtime", None),
        ] {
            assert_eq!(hooks_dir(text, table).unwrap(), wanted, "{text}");
        }
        assert!(hooks_dir("[engine\n", "engine").is_err());
    }
}
