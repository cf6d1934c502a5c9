//! CRI-O, by what a real one wrote: each recorded state and config.json has a committed plan or refusal.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use fs_isolator::config::Config;
use fs_isolator::container::{BundleConfig, State};
use fs_isolator::error::Result;
use fs_isolator::intake;
use fs_isolator::plan::Plan;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/crio")
}

fn state(folder: &Path, stage: &str) -> State {
    State::parse(&fs::read(folder.join(format!("{stage}.state.json"))).unwrap()).unwrap()
}

fn plan(folder: &Path, annotations: &HashMap<String, String>, config: &Config) -> Result<Option<Plan>> {
    let state = state(folder, "prestart");
    let bundle = BundleConfig::parse(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    intake::plan(&state.id, annotations, Path::new(&state.bundle), &bundle, config)
}

fn linux() -> Config {
    Config::parse(br#"{"isolation":"filesystem/linux"}"#).unwrap()
}

fn outcome(answer: Result<Option<Plan>>) -> Value {
    match answer {
        Ok(plan) => json!({ "plan": plan }),
        Err(error) => json!({ "exit": error.cause().code(), "line": error.to_string() }),
    }
}

#[test]
fn each_recorded_container_has_its_plan() {
    let mut seen = 0;
    for entry in fs::read_dir(fixtures()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let annotations = state(&folder, "prestart").annotations;
        let found = json!({
            "filesystem/linux": outcome(plan(&folder, &annotations, &linux())),
            "no configuration": outcome(plan(&folder, &annotations, &Config::parse(b"{}").unwrap())),
        });
        let file = folder.join("expected.json");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        }
        let expected: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(found, expected, "{}", folder.display());
        seen += 1;
    }
    assert_eq!(seen, 8);
}

// The same words for what is another's and what is not there.
#[test]
fn the_spoofed_pod_is_refused_and_believed_to_be_its_own_namespace() {
    let folder = fixtures().join("crun-spoofed-annotations");
    let mut annotations = state(&folder, "prestart").annotations;
    let refused = plan(&folder, &annotations, &linux()).unwrap_err();
    assert_eq!(refused.cause().code(), 41, "{refused}");
    annotations.insert("io.fs-isolator.volumes".to_owned(), "db:data".to_owned());
    let granted = plan(&folder, &annotations, &linux()).unwrap().unwrap();
    assert_eq!(granted.identity.to_string(), "namespace default");
}

#[test]
fn one_container_of_a_pod_is_addressed_by_its_name() {
    let folder = fixtures().join("crun");
    let with = |pairs: &[(&str, &str)]| {
        let mut annotations = state(&folder, "prestart").annotations;
        annotations.retain(|key, _| !key.starts_with("io.fs-isolator."));
        annotations.extend(pairs.iter().map(|(k, v)| (format!("io.fs-isolator.{k}"), (*v).to_owned())));
        plan(&folder, &annotations, &linux()).unwrap()
    };
    let labels =
        |plan: Option<Plan>| plan.map(|plan| plan.attachments.iter().map(|a| a.label.clone()).collect::<Vec<_>>());
    assert_eq!(labels(with(&[("volumes/app", "db:/d")])), Some(vec!["db:/d".to_owned()]));
    assert_eq!(labels(with(&[("volumes/other", "db:/d")])), None);
    assert_eq!(labels(with(&[("volumes", "db:/d"), ("volumes/app", "")])), None);
    assert_eq!(labels(with(&[])), None);
}

#[test]
fn an_infra_container_gets_nothing() {
    let folder = fixtures().join("crun");
    let mut annotations = state(&folder, "prestart").annotations;
    annotations.insert("io.kubernetes.cri-o.ContainerType".to_owned(), "sandbox".to_owned());
    assert_eq!(plan(&folder, &annotations, &linux()).unwrap(), None);
}

// crun and runc differ in status, pid and root; the record's name must not.
#[test]
fn every_stage_names_the_same_container() {
    for entry in fs::read_dir(fixtures()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let stages: Vec<State> = fs::read_dir(&folder)
            .unwrap()
            .filter_map(|file| file.unwrap().file_name().to_str()?.strip_suffix(".state.json").map(str::to_owned))
            .map(|stage| state(&folder, &stage))
            .collect();
        let name = |state: &State| fs_isolator::record::name(&state.id, &state.bundle);
        assert!(stages.iter().all(|stage| name(stage) == name(&stages[0])), "{}", folder.display());
    }
}
