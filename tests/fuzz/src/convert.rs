//! What must be true of everything that a definition of Marathon's or Mesos's becomes.

use fs_isolator::convert::fields::Leftovers;
use fs_isolator::convert::{self, Converted, Known, Place, Target, Workload};
use fs_isolator::error::Result;
use fs_isolator::request::{self, PREFIX};
use serde_json::{Map, Value, json};

pub type Split = fn(Value) -> Result<Vec<Map<String, Value>>>;
pub type Read = fn(Map<String, Value>, &Known, &Leftovers) -> Result<Workload>;

/// A field that no definition has.
const NOBODY: &str = "nobody-knows-this";

fn known() -> Known {
    let place = |role: &str, id: &str| {
        let id = serde_json::from_value(json!(id)).expect("an id");
        Place { role: serde_json::from_value(json!(role)).ok(), id, disk: None }
    };
    Known {
        volumes: vec![place("db", "app#data#1"), place("a/b", "id1"), place("a/b", "pod#store#1")],
        ids: vec![("given".to_owned(), "id1".to_owned())],
        image: None,
        role: None,
        sandbox_directory: "/mnt/mesos/sandbox".to_owned(),
        disks: vec![("/mnt/fast".to_owned(), "fast".to_owned())],
    }
}

/// Converts a text in all three ways and looks at what comes of it.
pub fn check(text: &[u8], split: Split, read: Read) {
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
    let Ok(definitions) = split(value) else { return };
    let known = known();
    for definition in definitions.into_iter().take(4) {
        for target in [Target::Podman, Target::Quadlet, Target::Pod] {
            let convert = |definition: &Map<String, Value>| {
                let left = Leftovers::default();
                let workload = read(definition.clone(), &known, &left)?;
                convert::write(&workload, target, &known, left)
            };
            let Ok(converted) = convert(&definition) else { continue };
            look(&converted, target);
            let told = |converted: &Converted| serde_json::to_string(converted).expect("it is text");
            assert_eq!(convert(&definition).ok().as_ref().map(told), Some(told(&converted)), "converted twice");
            // What nobody knows is listed, and changes nothing else.
            let mut more = definition.clone();
            more.insert(NOBODY.to_owned(), json!("x"));
            let more = convert(&more).expect("one field more is no failure");
            let is_it = |at: &str| at == format!("/{NOBODY}");
            assert!(more.left.iter().any(|left| is_it(&left.at)), "{definition:?}");
            let others = more.left.iter().filter(|left| !is_it(&left.at));
            assert!(definition.contains_key(NOBODY) || others.eq(&converted.left));
        }
    }
}

fn look(converted: &Converted, target: Target) {
    assert!(!converted.units.is_empty());
    for unit in &converted.units {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        assert!(unit.name.chars().all(plain) && !unit.name.starts_with(['.', '-']), "{:?}", unit.name);
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!unit.content.chars().any(bad), "{:?}", unit.content);
        let comments = unit.content.lines().take_while(|line| line.starts_with('#'));
        let mut length = 0;
        for line in comments {
            assert!(!line.ends_with('\\'), "systemd goes on: {line:?}");
            length += line.len() + 1;
        }
        let text = &unit.content[length..];
        match target {
            Target::Podman => script(text),
            Target::Quadlet => unit_file(text),
            Target::Pod => manifest(text),
        }
    }
}

/// Every request is one that hooks take.
fn annotation(key: &str, value: &str) {
    if key.starts_with(&format!("{PREFIX}volumes")) {
        assert!(request::volumes(value).is_ok(), "{value:?}");
        assert!(!value.contains([',', '"', '\'', '\n', ' ']), "podman 4 reads it as CSV: {value:?}");
    }
}

fn script(text: &str) {
    let words = shlex::split(text).unwrap_or_else(|| panic!("no shell reads {text:?}"));
    assert_eq!(words.first().map(String::as_str), Some("podman"), "{text:?}");
    for pair in words.windows(2).filter(|pair| pair[0] == "--annotation") {
        if let Some((key, value)) = pair[1].split_once('=') {
            annotation(key, value);
        }
    }
}

fn unit_file(text: &str) {
    const SECTIONS: [&str; 5] = ["[Container]", "[Pod]", "[Service]", "[Install]", ""];
    for line in text.lines() {
        let is_key = line.split_once('=').is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_alphabetic()));
        assert!(SECTIONS.contains(&line) || is_key, "{line:?}");
        assert!(!line.ends_with('\\') && !line.contains('\t'), "{line:?}");
        if let Some((key, value)) = line.strip_prefix("Annotation=").and_then(|line| line.split_once('=')) {
            annotation(key.trim_start_matches('"'), &value.trim_end_matches('"').replace("%%", "%"));
        }
    }
}

fn manifest(text: &str) {
    let pod: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
        annotation(key, value.as_str().expect("annotations are text"));
    }
    assert!(pod["spec"]["containers"].as_array().is_some_and(|containers| !containers.is_empty()));
}
