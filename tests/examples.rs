//! The examples, as they are written: run on a machine whose changes are thrown away.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use nix::mount::{MsFlags, mount};

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Makes the folders that the examples write to forget everything: an overlay whose upper half is memory.
fn throw_away_changes() {
    let memory = PathBuf::from("/dev/shm");
    mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    for folder in ["/etc", "/usr", "/srv", "/var/lib"] {
        let name = folder.replace('/', "_");
        let (upper, work) = (memory.join(format!("{name}.upper")), memory.join(format!("{name}.work")));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    }
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    // podman's storage is an overlay itself, which cannot lie on another.
    tmpfs(Path::new("/var/lib/containers"), MsFlags::empty());
    fs::write("/etc/containers/containers.conf", "").unwrap();
    for folder in ["/usr/share/containers/oci/hooks.d", "/etc/fs-isolator"] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::copy(CLI, "/usr/bin/fs-isolator").unwrap();
}

/// Runs the indented commands of an example's README in its folder.
fn follow_readme(example: &str, engine_setup: &str) -> Ran {
    let folder = project().join("examples").join(example);
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.contains(&"fs-isolator install"), "{example}");
    let script = commands.join("\n").replace(
        "fs-isolator install",
        &format!("fs-isolator install --from {}", Path::new(PRESTART).parent().unwrap().display()),
    );
    run_with(Command::new("bash").args(["-euc", &format!("{engine_setup}\n{script}")]).current_dir(&folder), b"")
}

#[test]
fn runc_by_its_readme() {
    on(Host::Shared, || {
        throw_away_changes();
        let ran = follow_readme("runc", "").ok();
        assert!(ran.out.ends_with("\n1\n1\n1\n"), "{ran:#?}");
    });
}

#[test]
fn crun_by_its_readme() {
    on(Host::Shared, || {
        throw_away_changes();
        let ran = follow_readme("crun", "").ok();
        assert!(ran.out.ends_with("\n1\n1\n1\n"), "{ran:#?}");
    });
}

#[test]
fn podman_by_its_readme() {
    on(Host::Shared, || {
        throw_away_changes();
        // What a machine without CAP_SYS_RESOURCE needs, and others do not.
        let limits = "printf '[containers]\\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\\n'";
        let ran = follow_readme("podman", &format!("{limits} > /etc/containers/containers.conf")).ok();
        assert!(ran.out.ends_with("\n1\n1\n1\n"), "{ran:#?}");
    });
}

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
