//! The packages: installed, used, upgraded and removed by dpkg, on a machine without Rust.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

const HOOKS: &str = "/usr/share/containers/oci/hooks.d";
const BIN: &str = "/usr/libexec/oci/hooks.d";
const STAGES: [&str; 3] = ["prestart", "poststart", "poststop"];
const IMAGE: &str = "localhost/busybox";
/// Of the second .deb, which is newer.
const NEWER: &str = "99.0.0-1";

struct Packages {
    deb: PathBuf,
    newer: PathBuf,
    rpm: PathBuf,
}

/// The packages, of the executables under test. `None` where tests/run could not install what builds them.
fn packages() -> Option<&'static Packages> {
    static PACKAGES: OnceLock<Option<Packages>> = OnceLock::new();
    let build = || {
        if std::env::var_os("FS_ISOLATOR_NO_PACKAGES").is_some() {
            return None;
        }
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let _ = fs::remove_dir_all(&out);
        let mut command = Command::new(project.join("packaging/build"));
        command.arg("--bin").arg(Path::new(CLI).parent().unwrap()).arg("--out").arg(&out);
        let built = run_with(&mut command, b"").ok();
        let find = |kind: &str| {
            let mut paths = built.out.lines().map(PathBuf::from);
            paths.find(|path| path.extension().is_some_and(|extension| extension == kind)).unwrap()
        };
        let (deb, newer) = (find("deb"), out.join("newer.deb"));
        let again = format!(
            "dpkg-deb -R {0} {1}/tree && sed -i 's/^Version: .*/Version: {NEWER}/' {1}/tree/DEBIAN/control && \
             dpkg-deb -Zgzip -b {1}/tree {2}",
            deb.display(),
            out.display(),
            newer.display()
        );
        run("sh", &["-c", &again]).ok();
        Some(Packages { deb, newer, rpm: find("rpm") })
    };
    PACKAGES.get_or_init(build).as_ref()
}

/// This machine as a copy that is thrown away: without Rust, without the project's folder, and with room for podman.
fn on_a_copy(test: impl FnOnce() + Send + 'static) {
    let Some(packages) = packages() else { return };
    on(Host::Private, move || {
        let memory = |at: &Path, mode: &str| {
            fs::create_dir_all(at).unwrap();
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(mode)).unwrap();
        };
        let room = Path::new("/mnt");
        memory(room, "mode=755");
        let root = room.join("root");
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(room.join(name)).unwrap();
        }
        let options = "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work";
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options)).unwrap();
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        for path in ["/proc", "/sys", "/dev"] {
            mount(Some(path), &at(path), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
        }
        let hidden = ["/root", "/usr/local", "/run", "/var/lib/containers", env!("CARGO_MANIFEST_DIR")];
        for path in hidden {
            memory(&at(path), "mode=755");
        }
        memory(&at("/tmp"), "mode=1777");
        fs::create_dir_all(at("/opt/hand")).unwrap();
        for (from, to) in [(&packages.deb, "first.deb"), (&packages.newer, "newer.deb")] {
            fs::copy(from, at("/opt").join(to)).unwrap();
        }
        for from in [CLI, PRESTART, POSTSTART, POSTSTOP].map(Path::new) {
            fs::copy(from, at("/opt/hand").join(from.file_name().unwrap())).unwrap();
        }
        nix::unistd::chdir(&root).unwrap();
        nix::unistd::pivot_root(".", ".").unwrap();
        umount2(".", MntFlags::MNT_DETACH).unwrap();
        nix::unistd::chdir("/").unwrap();
        // Building the index of all manual pages is not what is tested.
        let _ = fs::remove_file("/var/lib/man-db/auto-update");
        for program in ["cargo", "rustc"] {
            assert_ne!(run("sh", &["-c", &format!("command -v {program}")]).code, 0, "{program} is on PATH");
        }
        // The machine may lack CAP_SYS_RESOURCE.
        fs::create_dir_all("/etc/containers").unwrap();
        fs::write(
            "/etc/containers/containers.conf",
            "[containers]\nnetns = \"none\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\nlock_type = \"file\"\nruntime = \"crun\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        )
        .unwrap();
        fs::write("/etc/containers/storage.conf", "[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/containers/storage\"\nrunroot = \"/run/containers/storage\"\n").unwrap();
        test();
    });
}

fn file_of(stage: &str) -> String {
    format!("{HOOKS}/50-fs-isolator-{stage}.json")
}

fn executable_of(stage: &str) -> String {
    format!("{BIN}/fs-isolator-{stage}")
}

/// Runs dpkg, and sees that no file of hooks.d was ever there without its executable: each system call that makes or
/// removes a name is looked at, in their order, so that no instant is missed.
#[track_caller]
fn dpkg(arguments: &[&str]) -> Ran {
    dpkg_that(arguments, false)
}

/// An upgrade: none of the names may be missing for an instant either.
#[track_caller]
fn upgrade(deb: &str) -> Ran {
    dpkg_that(&["-i", deb], true)
}

#[track_caller]
fn dpkg_that(arguments: &[&str], keeps_all: bool) -> Ran {
    let trace = Path::new("/tmp/trace");
    let names = || STAGES.iter().flat_map(|stage| [file_of(stage), executable_of(stage)]);
    let before: BTreeSet<String> = names().filter(|name| Path::new(name).exists()).collect();
    let calls = "trace=rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,openat,open,creat";
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "512", "-o"]).arg(trace).args(["-e", calls, "--", "dpkg"]).args(arguments);
    let ran = run_with(command.env("DEBIAN_FRONTEND", "noninteractive"), b"");
    let seen = replay(&fs::read_to_string(trace).unwrap(), before, keeps_all);
    let after: BTreeSet<String> = names().filter(|name| Path::new(name).exists()).collect();
    assert_eq!(seen, after, "what was traced is not what happened");
    ran
}

/// Follows the names of hooks.d files and executables through a trace of strace, and tells which are there at its end.
///
/// # Panics
/// Where a file is there without its executable, or one goes that must be kept.
fn replay(trace: &str, mut there: BTreeSet<String>, keeps_all: bool) -> BTreeSet<String> {
    let kept = if keeps_all { there.clone() } else { BTreeSet::new() };
    // A call of one process that was cut by one of another counts where it ends.
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else { continue };
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(process, beginning);
            continue;
        }
        let end = call.split_once(" resumed>").and_then(|(_, end)| Some(begun.remove(process)?.to_owned() + end));
        let line = &end.map_or_else(|| line.to_owned(), |call| format!("{process} {call}"));
        let Some((call, rest)) = line.split_once(' ').and_then(|(_, rest)| rest.trim_start().split_once('(')) else {
            continue;
        };
        if !rest.contains(") = ") || rest.contains(") = -1 ") {
            continue;
        }
        let paths = paths(rest);
        let (gone, new): (&[String], &[String]) = match call {
            "rename" | "renameat" | "renameat2" => paths.split_at(1),
            "unlink" | "unlinkat" => (&paths, &[]),
            "link" | "linkat" | "symlink" | "symlinkat" => (&[], &paths[1..]),
            _ if rest.contains("O_CREAT") || call == "creat" => (&[], &paths),
            _ => continue,
        };
        let ours = |path: &&String| {
            STAGES.iter().any(|stage| [file_of(stage), executable_of(stage)].iter().any(|name| name == *path))
        };
        for path in gone.iter().filter(ours) {
            there.remove(path);
        }
        there.extend(new.iter().filter(ours).cloned());
        for stage in STAGES {
            let alone = there.contains(&file_of(stage)) && !there.contains(&executable_of(stage));
            assert!(!alone, "the file of {stage} is there without its executable after: {line}");
        }
        assert!(there.is_superset(&kept), "gone for an instant: {line}");
    }
    there
}

/// The paths of a call, absolute: what is in quotes, after the directory that strace shows with a descriptor.
fn paths(arguments: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directory = "";
    for (index, part) in arguments.split('"').enumerate() {
        if index % 2 == 0 {
            directory = part.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
        } else if part.starts_with('/') {
            found.push(part.to_owned());
        } else {
            found.push(format!("{directory}/{part}"));
        }
    }
    found
}

fn sh(script: &str) -> Ran {
    run("sh", &["-c", script])
}

fn podman(options: &[&str], script: &str) -> Ran {
    run("podman", &[&["run"], options, &[IMAGE, "sh", "-c", script]].concat())
}

fn records() -> Vec<String> {
    names(Path::new("/run/fs-isolator/records"))
}

const DB: &str = "io.fs-isolator.volumes=db:data";
const DATA: &str = "/mnt/mesos/sandbox/data";

#[test]
fn the_deb_is_installed_used_upgraded_and_removed() {
    on_a_copy(|| {
        make_rootfs(Path::new("/tmp/rootfs"));
        sh("tar -C /tmp/rootfs -cf /tmp/image.tar . && podman import -q /tmp/image.tar localhost/busybox").ok();

        // Installed and used as README and docs/install.md say.
        dpkg(&["-i", "/opt/first.deb"]).ok();
        for stage in STAGES {
            let file: Value = serde_json::from_slice(&fs::read(file_of(stage)).unwrap()).unwrap();
            assert_eq!(file["hook"]["path"], executable_of(stage));
        }
        assert_eq!(run("fs-isolator", &["config"]).ok().out.matches("filesystem/linux").count(), 2);
        run("man", &["-w", "8", "fs-isolator-volume-create"]).ok();
        let data = run("fs-isolator", &["volume", "create", "db"]).ok().out.trim().to_owned();
        podman(&["--rm", "--annotation", DB], &format!("echo 1 > {DATA}/n")).ok();
        assert_eq!(podman(&["--rm", "--annotation", DB], &format!("cat {DATA}/n")).ok().out, "1\n");
        wait_for("poststop", || records().is_empty());

        // Upgraded while a container runs: it keeps its volume, nobody else gets it, and it is freed at the end.
        sh("sed -i 's/^{/{ \"log_level\": \"debug\",/' /etc/fs-isolator/config.json").ok();
        podman(&["-d", "--name", "web", "--annotation", DB], "sleep 1000").ok();
        upgrade("/opt/newer.deb").ok();
        let version = run("dpkg-query", &["-W", "-f", "${Version}", "fs-isolator"]).ok().out;
        assert!(version.starts_with(NEWER), "{version}");
        assert!(fs::read_to_string("/etc/fs-isolator/config.json").unwrap().contains("log_level"), "it is a conffile");
        assert_eq!(run("podman", &["exec", "web", "cat", &format!("{DATA}/n")]).ok().out, "1\n");
        podman(&["--rm", "--annotation", DB], "echo STARTED").failed();
        run("podman", &["rm", "-f", "-t", "0", "web"]).ok();
        wait_for("poststop", || records().is_empty());
        podman(&["--rm", "--annotation", DB], "true").ok();
        wait_for("poststop", || records().is_empty());

        // Removed while a container runs: it keeps its volume, and podman can end it. The next installation undoes the rest.
        podman(&["-d", "--name", "web", "--annotation", DB], "sleep 1000").ok();
        let removed = dpkg(&["-r", "fs-isolator"]).ok();
        assert!(removed.err.contains("run on with their volumes") && removed.err.contains("db:data"), "{removed:?}");
        assert!(names(Path::new(HOOKS)).iter().chain(&names(Path::new(BIN))).all(|name| !name.contains("fs-isolator")));
        assert!(!Path::new("/usr/bin/fs-isolator").exists() && Path::new("/etc/fs-isolator/config.json").exists());
        assert_eq!(run("podman", &["exec", "web", "cat", &format!("{DATA}/n")]).ok().out, "1\n");
        let ended = run("podman", &["rm", "-f", "-t", "0", "web"]);
        assert_eq!((ended.code, run("podman", &["ps", "-aq"]).ok().out.as_str()), (0, ""), "{ended:?}");
        assert_eq!(records().len(), 1, "nobody was there to undo it");
        dpkg(&["-i", "/opt/newer.deb"]).ok();
        assert_eq!(records().len(), 0);
        podman(&["--rm", "--annotation", DB], "true").ok();
        wait_for("poststop", || records().is_empty());

        dpkg(&["-P", "fs-isolator"]).ok();
        assert!(!Path::new("/etc/fs-isolator").exists());
        assert_eq!(fs::read_to_string(Path::new(&data).join("n")).unwrap(), "1\n", "no package removes a volume");
        let left = sh(
            "dpkg -l fs-isolator 2>&1; find /etc /usr /var/lib/systemd -xdev -name '*fs-isolator*' ! -path '*/fs-isolator-tests*'",
        );
        assert!(!left.out.contains("\nii") && !left.out.contains("\n/"), "{}", left.out);
    });
}

#[test]
fn a_package_and_an_installation_by_hand_keep_apart() {
    on_a_copy(|| {
        dpkg(&["-i", "/opt/first.deb"]).ok();
        let hand = |words: &[&str]| run("/opt/hand/fs-isolator", words);
        let executable = fs::read(executable_of("prestart")).unwrap();
        for words in [
            &["install"][..],
            &["uninstall"],
            &["install", "--bin-dir", "/opt/bin"],
            &["install", "--hooks-dir", "/opt/hooks.d"],
        ] {
            let refused = hand(words);
            assert!(refused.code == 73 && refused.err.contains("a package's"), "{words:?}: {refused:?}");
        }
        hand(&["install", "--bin-dir", "/opt/bin", "--hooks-dir", "/opt/hooks.d"]).ok();
        // The package's own command registers the hooks and takes them back; the executables are the package's.
        let taken = run("fs-isolator", &["uninstall"]).ok();
        assert!(taken.out.contains("stay") && names(Path::new(HOOKS)).iter().all(|name| !name.contains("fs-isolator")));
        let put = run("fs-isolator", &["install"]).ok();
        assert!(put.out.contains(HOOKS) && !put.out.contains(BIN), "{}", put.out);
        assert_eq!(fs::read(executable_of("prestart")).unwrap(), executable);
        run("dpkg", &["--verify", "fs-isolator"]).ok();
        dpkg(&["-P", "fs-isolator"]).ok();

        // The other way round: dpkg refuses, and nothing is touched.
        hand(&["install", "--no-request-token"]).ok();
        let refused = dpkg(&["-i", "/opt/first.deb"]).failed();
        assert!(refused.err.contains("installed by hand") && refused.err.contains("rm /usr/share"), "{refused:?}");
        assert!(STAGES.iter().all(|stage| Path::new(&file_of(stage)).exists()));
        sh(&format!("rm {HOOKS}/50-fs-isolator-*.json")).ok();
        dpkg(&["-i", "/opt/first.deb"]).ok();
    });
}

#[test]
fn the_order_of_names_is_followed_through_a_trace() {
    let name = |stage: &str| -> BTreeSet<String> { [file_of(stage), executable_of(stage)].into() };
    let bin = |call: &str| format!("12 {call}(\"{BIN}/fs-isolator-poststop\") = 0\n");
    let file = format!("13 unlinkat(3<{HOOKS}>, \"50-fs-isolator-poststop.json\", 0) = 0\n");
    let order = file.clone() + &bin("unlink");
    assert!(replay(&order, name("poststop"), false).is_empty());
    assert!(std::panic::catch_unwind(|| replay(&order, name("poststop"), true)).is_err());
    for bad in [
        bin("unlink") + &file,
        bin("unlink").replace("\") =", "\" <unfinished ...>\n13 unlink(\"/x\") = 0\n12 <... unlink resumed>) =")
            + &file,
        format!("1 rename(\"{BIN}/fs-isolator-poststop\", \"/tmp/x\") = 0\n"),
        format!(
            "1 renameat2(3<{BIN}>, \"fs-isolator-poststop\", 3<{BIN}>, \"fs-isolator-poststop.dpkg-tmp\", 0) = 0\n"
        ),
        format!("1 openat(AT_FDCWD</>, \"{}\", O_WRONLY|O_CREAT, 0644) = 3\n", file_of("prestart")),
    ] {
        let caught = std::panic::catch_unwind(|| replay(&bad, name("poststop"), false));
        assert!(caught.is_err(), "{bad}");
    }
    let failed = format!("1 unlink(\"{BIN}/fs-isolator-poststop\") = -1 ENOENT (No such file)\n");
    assert_eq!(replay(&failed, name("poststop"), true), name("poststop"));
}

#[test]
fn lintian_finds_nothing() {
    let Some(packages) = packages() else { return };
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error,warning,info"]).arg(&packages.deb);
    let ran = run_with(&mut command, b"");
    assert!(ran.code == 0 && !ran.out.contains("W:") && !ran.out.contains("E:"), "{ran:#?}");
}

#[test]
fn the_rpm_has_the_same_files_and_its_scripts_the_same_order() {
    let Some(packages) = packages() else { return };
    let rpm = |options: &[&str]| run("rpm", &[&["-qp"], options, &[packages.rpm.to_str().unwrap()]].concat()).ok().out;
    let plain = |path: &str| {
        let path = path.trim_start_matches('.').trim_end_matches(".gz");
        path.replace("zsh/vendor-completions", "zsh/site-functions")
    };
    let same = |path: &String| !path.contains("/doc/") && !path.contains("/licenses/") && !path.contains("/lintian/");
    let of_rpm: BTreeSet<String> = rpm(&["-l"]).lines().map(plain).filter(same).collect();
    let contents = run("dpkg-deb", &["-c", packages.deb.to_str().unwrap()]).ok().out;
    let of_deb: BTreeSet<String> = contents
        .lines()
        .filter(|line| !line.starts_with('d'))
        .map(|line| plain(line.split_whitespace().nth(5).unwrap()))
        .filter(same)
        .collect();
    assert_eq!(of_rpm, of_deb);
    // No hooks.d file is among them.
    let of_hooks = |path: &&String| path.ends_with(".json") && !path.starts_with("/usr/share/fs-isolator/schemas/");
    assert_eq!(of_deb.iter().filter(of_hooks).collect::<Vec<_>>(), ["/etc/fs-isolator/config.json"]);
    assert_eq!(rpm(&["--configfiles"]).trim(), "/etc/fs-isolator/config.json");
    for script in ["pre", "post", "preun", "postun"] {
        let text = rpm(&[
            "--qf",
            &format!(
                "%{{{}}}",
                script.replace("pre", "prein").replace("post", "postin").replace("inun", "un").to_uppercase()
            ),
        ]);
        assert_eq!(text.trim(), fs::read_to_string(project(&format!("packaging/rpm/{script}"))).unwrap().trim());
        run("sh", &["-n", &project(&format!("packaging/rpm/{script}"))]).ok();
    }
}

fn project(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn manual_pages_are_clean() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let directory = lab.dir.join("man");
        let written = cli(&["generate", "man", directory.to_str().unwrap()]).ok().out;
        assert!(written.lines().count() > 30, "{written}");
        for page in written.lines() {
            assert_eq!(fs::metadata(page).unwrap().permissions().mode() & 0o777, 0o644, "{page}");
            let mandoc = run("mandoc", &["-T", "lint", "-W", "warning", page]);
            assert!(mandoc.code == 0 && mandoc.out.is_empty(), "{mandoc:?}");
            let man = run("man", &["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l", page]);
            assert!(man.code == 0 && man.err.is_empty(), "{page}: {}", man.err);
        }
    });
}
