//! What `metrics` tells, read by Prometheus's own library, and what `logs` tells of a hook's steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::*;
use serde_json::{Value, json};

/// Reads the text format with Prometheus's parser, and prints each sample as JSON.
const PARSE: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.documentation and family.type in ('gauge', 'counter', 'histogram'), family
    for sample in family.samples:
        print(json.dumps([family.type, sample.name, sample.labels, sample.value]))
";

/// Every sample by its name and labels, with its type.
fn parse(text: &str) -> BTreeMap<String, (String, f64)> {
    let ran = run_with(Command::new("/usr/bin/python3").args(["-c", PARSE]), text.as_bytes()).ok();
    let mut all = BTreeMap::new();
    for line in ran.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let labels = sample[2].as_object().unwrap();
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        let key = format!("{} {}", sample[1].as_str().unwrap(), labels.join(" ")).trim_end().to_owned();
        let value = (sample[0].as_str().unwrap().to_owned(), sample[3].as_f64().unwrap());
        assert_eq!(all.insert(key, value), None, "{line}");
    }
    all
}

fn metrics(lab: &Lab) -> BTreeMap<String, (String, f64)> {
    let ran = lab.cli(&["metrics"]).ok();
    assert_eq!(ran.err, "");
    parse(&ran.out)
}

#[track_caller]
fn is(all: &BTreeMap<String, (String, f64)>, key: &str, kind: &str, value: f64) {
    assert_eq!(all.get(key), Some(&(kind.to_owned(), value)), "{key} in {all:#?}");
}

#[test]
fn figures_are_those_of_the_host() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let before = metrics(&lab);
        for state in ["running", "unfinished", "ended"] {
            is(&before, &format!("fs_isolator_containers state={state}"), "gauge", 0.0);
        }
        assert!(!before.keys().any(|key| key.contains("refusals") || key.contains("duration")), "{before:#?}");
        lab.volume("db");
        lab.volume_of("team-\"a\\b\"", "x");
        lab.volume_of("team-\"a\\b\"", "y");
        let (mut one, mut two) = (lab.container(Runtime::Runc, "one"), lab.container(Runtime::Crun, "two"));
        one.ask("db:/srv/db").start("sleep 1000");
        for _ in 0..2 {
            two.ask("db:/srv/db").create().failed();
        }
        two.ask("nope:/srv/db").create().failed();
        let all = metrics(&lab);
        is(&all, "fs_isolator_containers state=running", "gauge", 1.0);
        is(&all, "fs_isolator_volumes disk=root role=default", "gauge", 1.0);
        is(&all, "fs_isolator_volumes disk=root role=team-\"a\\b\"", "gauge", 2.0);
        is(&all, "fs_isolator_leases mode=exclusive state=held", "gauge", 1.0);
        is(&all, "fs_isolator_leases mode=exclusive state=stale", "gauge", 0.0);
        is(&all, "fs_isolator_refusals_total cause=VolumeInUse code=71 hook=prestart", "counter", 2.0);
        is(&all, "fs_isolator_refusals_total cause=VolumeUnavailable code=41 hook=prestart", "counter", 1.0);
        is(&all, "fs_isolator_unreadable", "gauge", 0.0);
        let (_, open) = all["fs_isolator_prestart_mean_seconds step=open"];
        assert!(open > 0.0 && open < 20.0, "{all:#?}");
        let json: Value = serde_json::from_str(&lab.cli(&["metrics", "--json"]).ok().out).unwrap();
        assert_eq!(json[1]["name"], "fs_isolator_containers");
        // It has ended and nobody has cleaned up.
        let pid = one.pid();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_for("the init to end", || !is_alive(pid));
        let all = metrics(&lab);
        is(&all, "fs_isolator_containers state=ended", "gauge", 1.0);
        is(&all, "fs_isolator_leases mode=exclusive state=stale", "gauge", 1.0);
        one.delete();
        let all = metrics(&lab);
        is(&all, "fs_isolator_containers state=ended", "gauge", 0.0);
        is(&all, "fs_isolator_refusals_total cause=VolumeInUse code=71 hook=prestart", "counter", 2.0);
        lab.assert_clean();
    });
}

#[test]
fn times_of_hooks_are_a_histogram_on_request() {
    on(Host::Shared, || {
        let lab = Lab::with(json!({ "isolation": "filesystem/linux", "metrics": true }));
        lab.volume("db");
        for _ in 0..3 {
            lab.container(Runtime::Runc, "web").ask("db:/srv/db").run().ok();
        }
        lab.container(Runtime::Crun, "web").ask("nope:/srv/db").create().failed();
        let all = metrics(&lab);
        for (hook, runs) in [("prestart", 4.0), ("poststart", 3.0), ("poststop", 3.0)] {
            is(&all, &format!("fs_isolator_hook_duration_seconds_count hook={hook}"), "histogram", runs);
            is(&all, &format!("fs_isolator_hook_duration_seconds_bucket hook={hook} le=+Inf"), "histogram", runs);
            let (_, sum) = all[&format!("fs_isolator_hook_duration_seconds_sum hook={hook}")];
            assert!(sum > 0.0, "{all:#?}");
            let bucket = format!("fs_isolator_hook_duration_seconds_bucket hook={hook} ");
            let below: Vec<f64> = ["0.0005", "0.001", "0.01", "0.1", "1", "30"]
                .iter()
                .map(|le| all[&format!("{bucket}le={le}")].1)
                .collect();
            assert!(below.is_sorted() && below[5] == runs, "{hook}: {below:?}");
        }
        // One size, whatever is counted.
        let size = || fs::metadata(lab.runtime_dir().join("counters")).unwrap().len();
        let before = size();
        assert!(before < 8 << 10);
        lab.container(Runtime::Runc, "web").ask("db:/srv/db").run().ok();
        assert_eq!(size(), before);
        lab.assert_clean();
    });
}

// Hooks of many containers count at once, and one that cannot count goes on.
#[test]
fn counting_loses_nothing_and_stops_nothing() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.bundle(Runtime::Runc, "c");
        container.ask("a//b:/x").write();
        let state = container.state(1).to_string();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert_eq!(hook(PRESTART, &lab.config(), state.as_bytes()).code, 35);
                    }
                });
            }
        });
        let key = "fs_isolator_refusals_total cause=VolumeId code=35 hook=prestart";
        is(&metrics(&lab), key, "counter", 40.0);
        // Without any record there is a log all the same.
        assert!(lab.cli(&["logs", "c"]).ok().out.contains("[exit 35]"));
        // Somebody holds its lock, and will not let go.
        let file = fs::File::open(lab.runtime_dir().join("counters")).unwrap();
        file.lock().unwrap();
        assert_eq!(hook(PRESTART, &lab.config(), state.as_bytes()).code, 35);
        drop(file);
        is(&metrics(&lab), key, "counter", 40.0);
        fs::remove_file(lab.runtime_dir().join("counters")).unwrap();
        fs::create_dir(lab.runtime_dir().join("counters")).unwrap();
        assert_eq!(hook(PRESTART, &lab.config(), state.as_bytes()).code, 35);
    });
}

#[test]
fn a_file_is_written_whole_for_everybody() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let folder = lab.dir.join("textfile");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("fs_isolator.prom");
        let write = || lab.cli(&["metrics", "--output", file.to_str().unwrap()]);
        write().ok();
        let first = fs::metadata(&file).unwrap();
        assert_eq!(first.permissions().mode() & 0o777, 0o644);
        assert_eq!(write().ok().out, "");
        // Another file, so that one who reads the first reads it to its end.
        assert_ne!(fs::metadata(&file).unwrap().ino(), first.ino());
        is(&parse(&fs::read_to_string(&file).unwrap()), "fs_isolator_volumes disk=root role=default", "gauge", 1.0);
        assert_eq!(names(&folder), ["fs_isolator.prom"]);
        let nowhere = lab.cli(&["metrics", "--output", "/nonexistent/x.prom"]);
        assert!(nowhere.code == 2 && nowhere.err.contains("/nonexistent/x.prom cannot be written"), "{nowhere:?}");
        // A directory in its place: nothing is left beside it.
        fs::create_dir(folder.join("d.prom")).unwrap();
        assert_eq!(lab.cli(&["metrics", "--output", folder.join("d.prom").to_str().unwrap()]).code, 2);
        assert_eq!(names(&folder), ["d.prom", "fs_isolator.prom"]);
    });
}

// What each step took, of a container that runs and of one that was refused.
#[test]
fn logs_tell_what_the_steps_took() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "web");
        container.ask("db:/srv/db").start("sleep 1000");
        assert!(!Path::new(&lab.runtime_dir().join("log")).exists(), "nothing is written for it");
        let text = lab.cli(&["logs", "web"]).ok().out;
        let (head, steps) = text.trim_end().split_once(" ms: ").unwrap();
        assert!(head.starts_with("prestart took "), "{text}");
        let steps: Vec<(&str, f64)> = steps
            .split(", ")
            .map(|step| step.split_once(' ').unwrap())
            .map(|(name, ms)| (name, ms.parse().unwrap()))
            .collect();
        let step_names: Vec<&str> = steps.iter().map(|(name, _)| *name).collect();
        assert_eq!(step_names, ["read", "config", "plan", "record", "open", "attach"]);
        let all: f64 = head.trim_start_matches("prestart took ").parse().unwrap();
        assert!((all - steps.iter().map(|(_, ms)| ms).sum::<f64>()).abs() < 0.001 && all > 0.0, "{text}");
        let json: Value = serde_json::from_str(&lab.cli(&["logs", "--json", "web"]).ok().out).unwrap();
        assert_eq!((&json["prestart"][4]["step"], &json["lines"]), (&json!("open"), &json!([])));
        // What is attached later leaves it as it was.
        lab.volume("more");
        lab.live(&container, "attach", &["more:/srv/more"]).ok();
        assert_eq!(lab.cli(&["logs", "web"]).ok().out, text);
        let mut other = lab.container(Runtime::Crun, "other");
        other.ask("db:/srv/db").create().failed();
        let log = lab.cli(&["logs", "other"]).ok().out;
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("Z +") && lines[0].ends_with("[exit 71]"), "{log}");
        assert!(
            lines[1].contains("ms steps: ") && lines[1].contains("plan ") && !lines[1].contains("attach "),
            "{log}"
        );
        container.delete();
        assert_eq!(lab.cli(&["logs", "web"]).code, 78);
        lab.assert_clean();
    });
}
