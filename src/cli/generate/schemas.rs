//! JSON schemas (draft 2020-12) of the configuration and of what verbs print with `--json`, from the types that are read
//! and written.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{Completions, Written};
use crate::cli::{adopt, authorize, explain, host, inspect, install, logs, maintain, metrics, sandbox, show};
use crate::cli::{status, volume, watch};
use crate::config::{self, Config};
use crate::convert::Converted;
use crate::doctor;
use crate::error::{Because, Cause, Error, Result};
use crate::live::Updated;
use crate::plan::Plan;
use crate::record::Attached;
use crate::volume::archive::Summary;

/// Makes the schema of a type.
type Make = fn(SchemaGenerator) -> Schema;

/// Of what each verb prints with `--json`.
const VERBS: [(&str, Make); 31] = [
    ("adopt", of::<adopt::Report>),
    ("attach", of::<Vec<Attached>>),
    ("authorize", of::<authorize::Answer<'_>>),
    ("config", of::<Config>),
    ("convert marathon", of::<Vec<Converted>>),
    ("convert mesos", of::<Vec<Converted>>),
    ("detach", of::<Attached>),
    ("doctor", of::<doctor::Report>),
    ("explain", of::<explain::Told<'_>>),
    ("gc", of::<maintain::Done>),
    ("generate completions", of::<Completions>),
    ("generate man", of::<Written>),
    ("generate schemas", of::<Written>),
    ("host", of::<host::Done>),
    ("inspect", of::<inspect::Inspected>),
    ("install", of::<install::Installed<'_>>),
    ("logs", of::<logs::Told<'_>>),
    ("metrics", of::<Vec<metrics::Family>>),
    ("plan", of::<Option<Plan>>),
    ("reconcile", of::<maintain::Done>),
    ("sandbox create", of::<sandbox::Created>),
    ("status", of::<Vec<status::Shown>>),
    ("uninstall", of::<install::Removed<'_>>),
    ("update", of::<Updated>),
    ("volume create", of::<volume::Created<'_>>),
    ("volume destroy", of::<volume::Destroyed<'_>>),
    // On standard error: standard output is the archive.
    ("volume export", of::<Summary>),
    ("volume import", of::<volume::transfer::Imported<'_>>),
    ("volume inspect", of::<volume::Shown>),
    ("volume list", of::<Vec<volume::Shown>>),
    // Of each line.
    ("watch", of::<watch::Event>),
];

/// File of the configuration's own. What the verb `config` prints has another form, and `verb-` in its name.
const CONFIGURATION: &str = "config.json";

fn of<T: JsonSchema>(generator: SchemaGenerator) -> Schema {
    generator.into_root_schema_for::<T>()
}

/// The name of a verb's file.
fn file_name(words: &str) -> String {
    match format!("{}.json", words.replace(' ', "-")) {
        name if name == CONFIGURATION => format!("verb-{name}"),
        name => name,
    }
}

fn configuration() -> Schema {
    of::<config::File>(SchemaSettings::draft2020_12().into_generator())
}

/// All, by their files' names.
fn all() -> Vec<(String, Schema)> {
    let mut configuration = configuration();
    configuration.insert("title".to_owned(), "configuration of fs-isolator".into());
    let mut all = vec![(CONFIGURATION.to_owned(), configuration)];
    for (words, make) in VERBS {
        let mut schema = make(SchemaSettings::draft2020_12().for_serialize().into_generator());
        schema.insert("title".to_owned(), format!("fs-isolator {words} --json").into());
        all.push((file_name(words), schema));
    }
    all
}

/// Writes all, and tells which.
///
/// # Errors
/// [`Cause::Usage`].
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (name, schema) in all() {
        let path = directory.join(name);
        let text =
            serde_json::to_string_pretty(&schema).map_err(|error| Error::new(Cause::Usage, error.to_string()))?;
        show::file(&path, &(text + "\n")).because(Cause::Usage, || format!("{} cannot be written", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;
    use serde_json::Value;

    /// Verbs that print no JSON, and why.
    const WITHOUT: [(&str, &str); 2] = [
        ("probe", "runs in the container of `doctor --run`, which reads nothing from it"),
        ("time-hook", "passes on what a hook prints"),
    ];

    fn verbs(command: &Command, words: &str, all: &mut Vec<String>) {
        if !command.has_subcommands() {
            all.push(words.to_owned());
        }
        for verb in command.get_subcommands() {
            verbs(verb, format!("{words} {}", verb.get_name()).trim_start(), all);
        }
    }

    #[test]
    fn each_verb_has_a_schema_or_a_reason() {
        let mut found = Vec::new();
        verbs(&crate::cli::command(), "", &mut found);
        let mut listed: Vec<&str> = VERBS.iter().map(|(words, _)| *words).collect();
        listed.extend(WITHOUT.iter().map(|(words, _)| *words));
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    fn keys(schema: &Value) -> Vec<&str> {
        assert_eq!(schema["additionalProperties"], false, "{schema:#}");
        let mut keys: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_configuration_has_the_keys_that_are_read() {
        let sorted = |known: &[&'static str]| {
            let mut known = known.to_vec();
            known.sort_unstable();
            known
        };
        let schema = configuration().to_value();
        assert_eq!(keys(&schema), sorted(&config::KEYS));
        for (way, known) in config::BELOW {
            let item = way.iter().fold(&schema, |above, name| {
                let property = &above["properties"][name];
                let item = property.pointer("/items/$ref").or_else(|| {
                    let any = property["anyOf"].as_array()?;
                    any.iter().find_map(|one| one.get("$ref"))
                });
                let place = item.and_then(Value::as_str).unwrap_or_else(|| panic!("{way:?} at {name}"));
                schema.pointer(place.trim_start_matches('#')).unwrap()
            });
            assert_eq!(keys(item), sorted(known), "{way:?}");
        }
        // No object below a key is without its row.
        let objects = schema["$defs"].as_object().unwrap().values().filter(|one| one["additionalProperties"] == false);
        let rows: std::collections::BTreeSet<_> = config::BELOW.iter().map(|(_, known)| sorted(known)).collect();
        assert_eq!(objects.map(keys).collect::<std::collections::BTreeSet<_>>(), rows);
        for (key, value) in schema["properties"].as_object().unwrap() {
            assert!(value["description"].is_string(), "{key} has no description");
        }
    }
}
