//! A newer podman's quadlet: Debian 12 has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::common::*;

/// Where quadlet looks.
const UNITS: &str = "/dev/shm/units";

/// The programs that tests/propagation keeps aside: fetched by a long run only.
pub fn newer_programs() -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    let usr = cache.join("fs-isolator-runtimes/sid/usr");
    if std::env::var_os("FS_ISOLATOR_LONG").is_some() && !usr.exists() {
        let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/propagation");
        run_with(Command::new(fetch).args(["--fetch", "sid"]), b"").ok();
    }
    usr.join("libexec/podman/quadlet").exists().then_some(usr)
}

/// quadlet, in a mount namespace of the test's.
pub struct Quadlet;

impl Quadlet {
    pub fn of(usr: &Path) -> Quadlet {
        let options = format!("lowerdir={}:/usr", usr.display());
        mount(Some("overlay"), "/usr", Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        tmpfs(Path::new("/dev/shm"), MsFlags::empty());
        Quadlet
    }

    /// What it makes of these files alone.
    pub fn translate<'f>(&self, files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Ran {
        let _ = fs::remove_dir_all(UNITS);
        fs::create_dir(UNITS).unwrap();
        for (name, text) in files {
            fs::write(Path::new(UNITS).join(name), text).unwrap();
        }
        let mut quadlet = Command::new("/usr/libexec/podman/quadlet");
        run_with(quadlet.arg("-dryrun").env("QUADLET_UNIT_DIRS", UNITS), b"")
    }

    /// The services of an answer, which systemd must take.
    pub fn services(&self, ran: &Ran) -> Vec<(String, String)> {
        let mut services: Vec<(String, String)> = Vec::new();
        for line in ran.out.lines() {
            match line.strip_prefix("---").and_then(|line| line.strip_suffix("---")) {
                Some(name) => services.push((name.to_owned(), String::new())),
                None => services.iter_mut().last().into_iter().for_each(|(_, text)| {
                    text.push_str(line);
                    text.push('\n');
                }),
            }
        }
        let place = Path::new("/dev/shm/services");
        let _ = fs::remove_dir_all(place);
        fs::create_dir(place).unwrap();
        let paths: Vec<String> = services.iter().map(|(name, _)| format!("{}/{name}", place.display())).collect();
        services.iter().zip(&paths).for_each(|((_, text), path)| fs::write(path, text).unwrap());
        let words: Vec<&str> = ["verify", "--man=no"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        let verified = run("systemd-analyze", &words);
        assert!(verified.code == 0 && verified.err.is_empty(), "{verified:?}");
        services
    }
}
