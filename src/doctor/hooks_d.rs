//! The hooks.d files that podman and CRI-O read: whether this project's hooks are called for every container that asks, at
//! their stages, and whether any file there stops all containers.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use super::readers::{ADMINISTRATOR, DEFAULT, Reader};
use super::{Check, Finding, word};
use crate::config::Config;
use crate::error::Error;
use crate::hook::stage::Stage;
use crate::read;
use crate::trusted::{self, Missing};

/// Largest hooks.d file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// In the order in which they are called.
pub const STAGES: [Stage; 3] = [Stage::Prestart, Stage::Poststart, Stage::Poststop];

/// Stages of the OCI runtime-spec, and podman's own.
const KNOWN: [&str; 7] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop", "precreate"];

/// One of this project's hooks as a file registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The file.
    pub file: PathBuf,
    /// Seconds.
    pub timeout: Option<i64>,
    /// Which one it is.
    pub stage: Stage,
    /// Its executable.
    pub path: PathBuf,
    /// The configuration that it is told to read.
    config: Option<PathBuf>,
}

/// A hooks.d file (oci-hooks(5)). What is not known is ignored, as those who read it do.
#[derive(Deserialize)]
struct File {
    version: Option<String>,
    #[serde(default)]
    hook: Executable,
    #[serde(default)]
    when: When,
    #[serde(default)]
    stages: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Executable {
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    env: Option<Vec<String>>,
    timeout: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct When {
    always: Option<bool>,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// Looks at every file that counts, and answers this project's hooks among them.
pub fn examine(
    readers: &[Reader],
    config_file: Option<&Path>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = Vec::new();
    for reader in readers {
        let found = read_by(reader, config, findings);
        hooks.extend(found.into_iter().filter(|hook| !hooks.contains(hook)).collect::<Vec<_>>());
    }
    if readers.iter().any(|reader| reader.who != "--hooks-dir") {
        unread(readers, findings);
    }
    configurations(&hooks, config_file, findings);
    // Two readers of one directory see the same.
    let mut seen: Vec<Finding> = Vec::new();
    findings.retain(|finding| {
        let is_new = !seen.contains(finding);
        seen.push(finding.clone());
        is_new
    });
    hooks
}

fn json_files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".json")).collect()
}

/// Which of this project's hooks a file calls.
fn called_by(file: &File) -> Option<Stage> {
    let executable = file.hook.path.file_name();
    STAGES.into_iter().find(|stage| executable.is_some_and(|name| name == stage.program()))
}

/// Which of this project's hooks a file is about: by its executable, or else by its own name.
fn stage_of(path: &Path, file: Option<&File>) -> Option<Stage> {
    let by_executable = file.and_then(called_by);
    let own = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    by_executable.or_else(|| STAGES.into_iter().find(|stage| own.ends_with(stage.program())))
}

fn install(directory: &Path) -> String {
    if directory == Path::new(DEFAULT) {
        "fs-isolator install".to_owned()
    } else {
        format!("fs-isolator install --hooks-dir {}", word(directory))
    }
}

fn read_by(reader: &Reader, config: Option<&Config>, findings: &mut Vec<Finding>) -> Vec<Hook> {
    let mut effective: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut masked: Vec<(PathBuf, PathBuf)> = Vec::new();
    for directory in &reader.directories {
        if let Some(real) = directory.canonicalize().ok().filter(|real| real.is_dir())
            && let Err(error) = trusted::open_dir(&real, Missing::Tell)
        {
            findings.push(unsafe_code(Check::HooksDirUnsafe, &error, directory));
        }
        for name in json_files(directory) {
            let path = directory.join(&name);
            if let Some(before) = effective.insert(name, path.clone()) {
                masked.push((before, path));
            }
        }
    }
    let mut hooks = Vec::new();
    for path in effective.values() {
        let file = match parse(path) {
            Ok(file) => file,
            Err(what) => {
                findings.push(
                    Finding::new(Check::HookFileInvalid, what, path.display())
                        .why("podman starts no container at all with such a file, and CRI-O does not start")
                        .remedy(match stage_of(path, None) {
                            Some(_) => install(path.parent().unwrap_or(path)),
                            None => format!("correct it, or rm {}", word(path)),
                        }),
                );
                continue;
            }
        };
        // What has the name of ours and calls something else is a mistake, or masks ours.
        let masks = masked.iter().any(|(_, after)| after == path);
        if let Some(stage) = if masks { called_by(&file) } else { stage_of(path, Some(&file)) } {
            one(path, &file, stage, config, findings);
            let config = file.hook.args.iter().skip_while(|word| *word != "--config").nth(1).map(PathBuf::from);
            let executable = file.hook.path.clone();
            hooks.push(Hook { file: path.clone(), timeout: file.hook.timeout, stage, path: executable, config });
        }
    }
    let mut missing: Vec<Stage> =
        STAGES.into_iter().filter(|stage| !hooks.iter().any(|hook| hook.stage == *stage)).collect();
    for (before, after) in &masked {
        let stage = parse(before).ok().and_then(|file| stage_of(before, Some(&file)));
        // A file that is masked by one that cannot be read is told above.
        if let Some(stage) = stage.filter(|stage| missing.contains(stage) && parse(after).is_ok()) {
            missing.retain(|other| *other != stage);
            findings.push(
                Finding::new(Check::HookMasked, format!("it masks {}", before.display()), after.display())
                    .why(format!(
                        "{} reads only the last file of a name: {} is not called",
                        reader.who,
                        stage.program()
                    ))
                    .remedy(format!("rm {}, or give it another name", word(after))),
            );
        }
    }
    let is_there = |stage: &Stage| {
        reader
            .directories
            .iter()
            .any(|directory| json_files(directory).iter().any(|name| stage_of(Path::new(name), None) == Some(*stage)))
    };
    // A file that is there and cannot be read is told above.
    missing.retain(|stage| !is_there(stage));
    absent(reader, &missing, &hooks, findings);
    twice(reader, &hooks, findings);
    hooks
}

fn absent(reader: &Reader, missing: &[Stage], hooks: &[Hook], findings: &mut Vec<Finding>) {
    let list: Vec<String> = reader.directories.iter().map(|directory| directory.display().to_string()).collect();
    let place = if list.is_empty() { "no directory".to_owned() } else { list.join(", ") };
    // The last one wins.
    let remedy = install(reader.directories.last().map_or(Path::new(DEFAULT), PathBuf::as_path));
    let programs: Vec<&str> = missing.iter().map(|stage| stage.program()).collect();
    if missing.len() == STAGES.len() {
        findings.push(
            Finding::new(Check::HooksNotInstalled, format!("{} finds none of the three hooks", reader.who), place)
                .why("containers start without the volumes that they ask for, and nobody says so")
                .remedy(remedy),
        );
    } else if !missing.is_empty() && !hooks.is_empty() {
        findings.push(
            Finding::new(
                Check::HooksIncomplete,
                format!("{} finds no file for {}", reader.who, programs.join(", ")),
                place,
            )
            .why(missing.iter().map(|stage| without(*stage)).collect::<Vec<_>>().join("; "))
            .remedy(remedy),
        );
    }
}

/// What goes wrong where a hook is not called.
fn without(stage: Stage) -> &'static str {
    match stage {
        Stage::Prestart => "containers that ask are ended as soon as they start, since nothing was attached",
        Stage::Poststart => {
            "nothing sees a container that runs without its volumes, and crun's loss of slave is not mended"
        }
        Stage::Poststop => {
            "nothing is cleaned up after containers: mount points and sandboxes stay until `fs-isolator reconcile`"
        }
    }
}

fn twice(reader: &Reader, hooks: &[Hook], findings: &mut Vec<Finding>) {
    for stage in STAGES {
        let files: Vec<&Hook> = hooks.iter().filter(|hook| hook.stage == stage).collect();
        if let [first, .., last] = files[..] {
            findings.push(
                Finding::new(
                    Check::HookTwice,
                    format!("{} calls {} by this file and by {}", reader.who, stage.program(), first.file.display()),
                    last.file.display(),
                )
                .why("each start of a container costs it twice, and the two may read different configurations")
                .remedy(format!("rm {}", word(&last.file))),
            );
        }
    }
}

fn parse(path: &Path) -> Result<File, String> {
    let text = std::fs::File::open(path)
        .map_err(|error| error.to_string())
        .and_then(|file| read::at_most(file, LARGEST).map_err(|error| error.to_string()))
        .map_err(|error| format!("it cannot be read: {error}"))?;
    let file: File = serde_json::from_slice(&text).map_err(|error| format!("it is no valid hook file: {error}"))?;
    if file.version.as_deref() != Some("1.0.0") {
        return Err(format!("it has version {:?}, and 1.0.0 is read", file.version.as_deref().unwrap_or("")));
    }
    if file.hook.path.as_os_str().is_empty() {
        return Err("it has no hook.path".to_owned());
    }
    if file.stages.is_empty() {
        return Err("it has no stages".to_owned());
    }
    if let Some(stage) = file.stages.iter().find(|stage| !KNOWN.contains(&stage.as_str())) {
        return Err(format!("it names the stage {stage:?}, which is unknown"));
    }
    let patterns = file.when.annotations.iter().flat_map(|(key, value)| [key, value]).chain(&file.when.commands);
    for pattern in patterns {
        Regex::new(pattern).map_err(|_| format!("{pattern:?} is no regular expression"))?;
    }
    Ok(file)
}

fn unsafe_code(check: Check, error: &Error, place: &Path) -> Finding {
    Finding::new(check, error.what(), place.display())
        .why("whoever can change it runs what they like as root, at the next start of a container")
        .remedy(error.how())
}

/// Looks at one of this project's files.
fn one(path: &Path, file: &File, stage: Stage, config: Option<&Config>, findings: &mut Vec<Finding>) {
    let mut add = |finding: Finding| findings.push(finding);
    let program = stage.program();
    let again = install(path.parent().unwrap_or(path));
    if let Ok(real) = path.canonicalize()
        && let Err(error) = trusted::open_file(&real)
    {
        add(unsafe_code(Check::HookFileUnsafe, &error, path));
    }
    executable(&file.hook.path, program, &again, &mut add);
    let called: Vec<&str> = file.stages.iter().map(String::as_str).collect();
    let right: &[&str] = match stage {
        Stage::Prestart => &["prestart", "createRuntime"],
        Stage::Poststart => &["poststart"],
        Stage::Poststop => &["poststop"],
    };
    if called.iter().any(|name| !right.contains(name)) {
        add(Finding::new(Check::HookStage, format!("{program} is called at {}", called.join(", ")), path.display())
            .why(format!("it does its work at {} alone; elsewhere containers fail or are not served", right[0]))
            .remedy(again.clone()));
    } else if called.len() > 1 {
        add(Finding::new(
            Check::HookStageTwice,
            format!("{program} is called at {}", called.join(" and ")),
            path.display(),
        )
        .why("podman 5 and CRI-O 1.31 take the two for one stage, and call it twice at each start")
        .remedy(again.clone()));
    }
    if file.hook.env.is_none() {
        add(Finding::new(Check::HookEnvironment, "it has no env", path.display())
            .why("the hook gets the whole environment of whoever calls it, which may be the container's")
            .remedy(again.clone()));
    }
    if file.hook.timeout.is_some_and(|timeout| timeout <= 0) {
        add(Finding::new(Check::HookTimeout, "its timeout is not positive", path.display())
            .why("runc ends such a hook at once, and with it every container that asks")
            .remedy(again.clone()));
    }
    if let Some((check, what, why)) = condition(&file.when, config.is_some_and(|c| c.default_container_info.is_some()))
    {
        add(Finding::new(check, what, path.display()).why(why).remedy(again));
    }
}

fn executable(path: &Path, program: &str, again: &str, add: &mut dyn FnMut(Finding)) {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => {
            return add(Finding::new(
                Check::HookExecutableMissing,
                format!("it is not there: {error}"),
                path.display(),
            )
            .why("podman and CRI-O pass over the hooks.d file in silence, and containers start without their volumes")
            .remedy(again));
        }
    };
    let is_executable =
        std::fs::metadata(&real).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if !is_executable {
        add(Finding::new(Check::HookExecutableMode, "it is no executable file", path.display())
            .why(format!("{program} cannot be called, and every container that asks fails"))
            .remedy(format!("chmod 755 {}", word(&real))));
    }
    if let Err(error) = trusted::open_file(&real) {
        add(unsafe_code(Check::HookExecutableUnsafe, &error, path));
    }
}

/// What is wrong with the condition under which a hook is called: check, what and why.
fn condition(when: &When, every_container: bool) -> Option<(Check, String, &'static str)> {
    const SILENT: &str = "the hook is not called for such a container, which then starts without its volumes";
    if !when.commands.is_empty() {
        let what = format!("it is called only for the commands {}", when.commands.join(", "));
        return Some((Check::HookCondition, what, SILENT));
    }
    if when.has_bind_mounts.is_some() {
        return Some((Check::HookCondition, "hasBindMounts is among its conditions".to_owned(), SILENT));
    }
    let keys = ["volumes", "volumes.base64", "isolation", "volumes/app"].map(|name| format!("io.fs-isolator.{name}"));
    let values = ["db:data", "", "[\n  {\"a\": 1}\n]"];
    let asked = keys.iter().flat_map(|key| values.map(|value| (key, value)));
    let passed: Vec<_> = asked.filter(|(key, value)| !is_called(when, key, value)).collect();
    match passed.first() {
        _ if passed.len() == keys.len() * values.len() => {
            Some((Check::HookNeverCalled, "its \"when\" matches no container that asks".to_owned(), SILENT))
        }
        Some((key, value)) => {
            let what = format!("its \"when\" does not match {key} with the value {value:?}");
            Some((Check::HookNotAlwaysCalled, what, SILENT))
        }
        None if when.always == Some(true) => None,
        None if every_container => Some((
            Check::HookNotForAll,
            "it is not called for containers that ask for nothing".to_owned(),
            "default_container_info is for those",
        )),
        None if ["ioXfs-isolatorXvolumes", "com.example.io.fs-isolator.volumes"]
            .iter()
            .any(|key| is_called(when, key, "x")) =>
        {
            Some((
                Check::HookUnanchored,
                "the patterns of its \"when\" are not anchored".to_owned(),
                "it is called for containers too that never asked, which costs each of their starts",
            ))
        }
        None => None,
    }
}

/// Whether a container with this annotation alone gets the hook, as podman and CRI-O decide it.
fn is_called(when: &When, key: &str, value: &str) -> bool {
    let matches = |pattern: &str, text: &str| Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
    match when.always {
        Some(false) => false,
        always => {
            (always == Some(true) || !when.annotations.is_empty())
                && when.annotations.iter().all(|(k, v)| matches(k, key) && matches(v, value))
        }
    }
}

/// Files in the usual places that nobody reads.
fn unread(readers: &[Reader], findings: &mut Vec<Finding>) {
    for directory in [DEFAULT, ADMINISTRATOR].map(Path::new) {
        let mut readers = readers.iter().filter(|reader| !reader.directories.iter().any(|read| read == directory));
        let ours = json_files(directory).iter().any(|name| stage_of(Path::new(name), None).is_some());
        if let Some(reader) = readers.next().filter(|_| ours) {
            findings.push(
                Finding::new(
                    Check::HooksUnread,
                    format!("{} does not read this directory", reader.who),
                    directory.display(),
                )
                .why("the hooks.d files of this project that lie there do nothing")
                .remedy(match reader.who {
                    "podman" => format!("add it to hooks_dir under [engine] in containers.conf, or use {DEFAULT}"),
                    _ => format!("add it to hooks_dir under [crio.runtime] in crio.conf, or use {DEFAULT}"),
                }),
            );
        }
    }
}

/// Which configuration the hooks read.
fn configurations(hooks: &[Hook], mine: Option<&Path>, findings: &mut Vec<Finding>) {
    for hook in hooks {
        let place = hook.file.display();
        match &hook.config {
            Some(path) if !path.is_file() => findings.push(
                Finding::new(
                    Check::HookConfigurationMissing,
                    format!("its --config {} is not there", path.display()),
                    place,
                )
                .why("the hook refuses every container that asks")
                .remedy("write it, or install again without --config"),
            ),
            theirs if theirs.as_deref() != mine => {
                let shown = theirs.as_ref().map_or_else(|| super::shown(None), |path| path.display().to_string());
                let option = theirs.as_ref().map_or_else(String::new, |path| format!("--config {} ", word(path)));
                findings.push(
                    Finding::new(
                        Check::HookConfiguration,
                        format!("the hook reads {shown}, which was not looked at"),
                        place,
                    )
                    .why("what is said here of the configuration, and of all that it names, is not what the hook meets")
                    .remedy(format!("fs-isolator {option}doctor")),
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(when: &str) -> Option<Check> {
        condition(&serde_json::from_str(when).unwrap(), false).map(|(check, _, _)| check)
    }

    #[test]
    fn conditions_as_podman_and_crio_evaluate_them() {
        for (when, check) in [
            (r#"{"annotations":{"^io\\.fs-isolator\\..+$":"(?s)^.*$"}}"#, None),
            (r#"{"annotations":{"^io\\.fs-isolator\\.":""}}"#, None),
            (r#"{"always":true}"#, None),
            (r#"{}"#, Some(Check::HookNeverCalled)),
            (r#"{"always":false}"#, Some(Check::HookNeverCalled)),
            (r#"{"annotations":{"^io\\.fs_isolator\\..+$":".*"}}"#, Some(Check::HookNeverCalled)),
            (r#"{"annotations":{"^io\\.fs-isolator\\..+$":"^.*$"}}"#, Some(Check::HookNotAlwaysCalled)),
            (r#"{"annotations":{"^io\\.fs-isolator\\.volumes$":""}}"#, Some(Check::HookNotAlwaysCalled)),
            (r#"{"annotations":{"^io\\.fs-isolator\\..+$":"","^other$":""}}"#, Some(Check::HookNeverCalled)),
            (r#"{"annotations":{"io.fs-isolator.":""}}"#, Some(Check::HookUnanchored)),
            (r#"{"annotations":{"^io.fs-isolator.":""}}"#, Some(Check::HookUnanchored)),
            (r#"{"always":true,"commands":["^/bin/sh$"]}"#, Some(Check::HookCondition)),
            (r#"{"always":true,"hasBindMounts":true}"#, Some(Check::HookCondition)),
        ] {
            assert_eq!(fault(when), check, "{when}");
        }
        let every = condition(&serde_json::from_str(r#"{"annotations":{"^io\\.fs-isolator\\.":""}}"#).unwrap(), true);
        assert_eq!(every.unwrap().0, Check::HookNotForAll);
    }
}
