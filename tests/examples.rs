//! The files of the examples. Their commands are run by documents.rs.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/documents.rs"]
mod documents;
#[path = "common/throw_away.rs"]
mod throw_away;

use std::fs;
use std::process::Command;

use common::*;
use documents::project;
use throw_away::throw_away_changes;

#[test]
fn crio_files_follow_their_schemas() {
    let schema = project().join("tests/fixtures/hooks.d.schema.json");
    for name in names(&project().join("hooks")) {
        let file = project().join("hooks").join(&name);
        run("jsonschema", &["-i", file.to_str().unwrap(), schema.to_str().unwrap()]).ok();
        // The check can fail.
        let text = fs::read_to_string(&file).unwrap().replace("\"timeout\"", "\"timeouts\"");
        let broken = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
        fs::write(&broken, text).unwrap();
        run("jsonschema", &["-i", broken.to_str().unwrap(), schema.to_str().unwrap()]).failed();
        fs::remove_file(broken).unwrap();
    }
    let folder = project().join("examples/cri-o");
    let toml = "import tomllib, sys; print(tomllib.load(open(sys.argv[1], 'rb'))['crio']['runtime']['hooks_dir'][0])";
    let conf = folder.join("10-fs-isolator.conf");
    let directory = run("python3", &["-c", toml, conf.to_str().unwrap()]).ok();
    assert_eq!(directory.out.trim(), "/usr/share/containers/oci/hooks.d");
    let pod = fs::read_to_string(folder.join("pod.yaml")).unwrap();
    let request = pod.lines().find_map(|line| line.trim().strip_prefix("io.fs-isolator.volumes/postgres: ")).unwrap();
    assert_eq!(
        fs_isolator::request::volumes(request.trim_matches('"')).unwrap()[0].label(),
        "db:/var/lib/postgresql/data"
    );
    for example in ["cri-o", "podman", "runc", "crun"] {
        let config = fs::read(project().join("examples").join(example).join("config.json")).unwrap();
        fs_isolator::config::Config::parse(&config).unwrap();
    }
}

// In a namespace of its own: quickstart compares the mount table it finds.
#[test]
fn quickstart_runs() {
    on(Host::Shared, || {
        let script = project().join("examples/quickstart");
        let ran = run_with(&mut Command::new(script), b"").ok();
        assert_eq!(ran.out.matches("the second reads: hello from the first").count(), 3, "{ran:#?}");
        assert!(ran.out.ends_with("The host's mount table and /run are as before.\n"), "{ran:#?}");
    });
}

// systemd need not run for its files to be wrong.
#[test]
fn units_are_understood_by_systemd() {
    let folder = project().join("examples/systemd");
    if run("systemd-analyze", &["--version"]).code != 0 {
        println!("skipped: systemd-analyze is not here");
        return;
    }
    on(Host::Private, move || {
        throw_away_changes();
        for unit in ["fs-isolator-reconcile.service", "fs-isolator-gc.service", "fs-isolator-gc.timer"] {
            let ran = run("systemd-analyze", &["verify", "--man=no", folder.join(unit).to_str().unwrap()]);
            assert!(ran.code == 0 && !ran.err.contains("fs-isolator"), "{unit}: {ran:?}");
        }
        for verb in ["reconcile", "gc"] {
            let text = fs::read_to_string(folder.join(format!("fs-isolator-{verb}.service"))).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            run(words[0], &words[1..]).ok();
        }
    });
}
