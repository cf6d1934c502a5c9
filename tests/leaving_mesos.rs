//! docs/leaving-mesos.md, from beginning to end: its commands are taken from it and run, on a made-up agent's `work_dir` and with
//! a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/documents.rs"]
mod documents;
#[allow(dead_code)]
#[path = "common/mesos.rs"]
mod mesos;
#[allow(dead_code)]
#[path = "common/throw_away.rs"]
mod throw_away;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use documents::{Block, Page, REFUSED};
use nix::mount::{MsFlags, mount};
use throw_away::{install, throw_away_changes};

const PAGE: &str = "docs/leaving-mesos.md";
const WORK: &str = "/var/lib/mesos";
/// As Marathon names it.
const ID: &str = "postgres#pgdata#6c5f0b6e-8a3b-11ee-b9d1-0242ac120002";
const ROLE: &str = "services/db";

/// A machine whose changes are thrown away, with this project, and a `systemctl` that knows one unit: the agent.
fn machine() {
    throw_away_changes();
    install();
    fs::create_dir_all(WORK).unwrap();
    mount(Some("tmpfs"), WORK, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    let systemctl = "#!/bin/sh\ncase \"$1 $2 $3\" in\n\
        'disable --now mesos-agent') kill \"$(cat /srv/agent.pid)\";;\n\
        'enable --now mesos-agent') touch /srv/started;;\n\
        *) exit 5;;\nesac\n";
    fs::write("/usr/bin/systemctl.new", systemctl).unwrap();
    fs::set_permissions("/usr/bin/systemctl.new", PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename("/usr/bin/systemctl.new", "/usr/bin/systemctl").unwrap();
}

/// Where Debian has PostgreSQL's programs.
fn postgres() -> Option<PathBuf> {
    names(Path::new("/usr/lib/postgresql"))
        .iter()
        .map(|version| Path::new("/usr/lib/postgresql").join(version))
        .rfind(|path| path.join("bin/initdb").exists())
}

/// What the image of PostgreSQL does at its start as a user, in short: a database where there is none yet.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -e
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" > /tmp/password
    initdb -D "$PGDATA" -U postgres -E UTF8 --locale=C --pwfile=/tmp/password
fi
exec postgres -D "$PGDATA" -c listen_addresses= -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap "$@"
"#;

/// An image of this machine's PostgreSQL, made of its programs and the libraries that they load.
fn image(version: &Path) {
    let rootfs = PathBuf::from("/dev/shm/rootfs");
    make_rootfs(&rootfs);
    let bin = rootfs.join("bin");
    for applet in ["basename", "env", "kill"] {
        let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
    }
    let script = r#"
        set -euo pipefail
        root=$1 version=$2
        mkdir -p "$root$version" "$root/usr/share/zoneinfo" "$root/etc"
        cp -a "$version/bin" "$version/lib" "$root$version/"
        mkdir -p "$root/usr/share/postgresql"
        cp -a "/usr/share/postgresql/$(basename "$version")" "$root/usr/share/postgresql/"
        cp -a /usr/share/zoneinfo/Etc "$root/usr/share/zoneinfo/"
        programs=("$version"/bin/{postgres,initdb,psql})
        for library in $(ldd "${programs[@]}" "$version"/lib/*.so 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
            case "$library" in *:) continue;; esac
            install -D "$library" "$root$library"
            install -D "$library" "$root/lib/$(basename "$library")"
        done
        printf 'postgres:x:999:999::/:/bin/sh\n' >> "$root/etc/passwd"
        tar -C "$root" -cf /dev/shm/postgres.tar .
    "#;
    fs::write(bin.join("entrypoint"), ENTRYPOINT).unwrap();
    fs::set_permissions(bin.join("entrypoint"), PermissionsExt::from_mode(0o755)).unwrap();
    run("bash", &["-c", script, "bash", rootfs.to_str().unwrap(), version.to_str().unwrap()]).ok();
    let path = format!("ENV PATH={}/bin:/usr/bin:/bin", version.display());
    let changes = ["--change", path.as_str(), "--change", "ENTRYPOINT [\"/bin/entrypoint\"]"];
    let name = "docker.io/library/postgres:15";
    run("podman", &[&["import", "-q"], &changes[..], &["/dev/shm/postgres.tar", name]].concat()).ok();
}

/// One statement in the database of the running container.
fn sql(statement: &str) -> Ran {
    let words = ["exec", "--user", "999", "postgres", "psql", "-h", "/tmp", "-U", "postgres", "-qtAc", statement];
    run("podman", &words)
}

fn ready() {
    wait_for("the database", || sql("select 1").code == 0);
}

#[test]
fn the_page_from_beginning_to_end() {
    let Some(version) = postgres() else {
        println!("skipped: there is no PostgreSQL; tests/run installs it (postgresql)");
        return;
    };
    on(Host::Shared, move || {
        machine();
        let work = Path::new(WORK);
        mesos::work_dir(work);
        let volume = work.join("volumes/roles").join(ROLE.replace('/', " ")).join(ID);
        fs::create_dir_all(&volume).unwrap();
        let more: Vec<mesos::Persistent<'_>> =
            mesos::VOLUMES.iter().map(|(role, id)| mesos::root(role, id)).chain([mesos::root(ROLE, ID)]).collect();
        mesos::checkpoint(work, mesos::STATE, &more);
        // The agent has left the volume mounted in the sandbox.
        bind(&volume, &mesos::sandbox(work).join("data"));
        let directory = fs::metadata(&volume).unwrap();
        let lab = Lab::new("filesystem/linux");
        let agent = mesos::agent(&lab, "mesos-agent", &[&format!("--work_dir={WORK}")]);
        fs::write("/srv/agent.pid", agent.pid().to_string()).unwrap();
        image(&version);
        let kept = |path: &Path| manifest(&path.join("meta/resources"));
        let before = kept(work);
        let mut agent = Some(agent);
        let mut output = String::new();
        for block in Page::read(PAGE).blocks().into_iter().filter(Block::is_run) {
            let (block, fails) = (&block.text, block.text.starts_with(REFUSED));
            // In one shell each, in one folder; variables of one block are its own but for these two.
            if block.contains("podman stop") {
                ready();
                // Written by the first container, read by the second.
                sql("create table t (x text); insert into t values ('kept'); checkpoint").ok();
                run("podman", &["stop", "postgres"]).ok();
                run("podman", &["rm", "postgres"]).ok();
                run("sh", &["/srv/postgres.sh"]).ok();
                ready();
                assert_eq!(sql("select x from t").ok().out, "kept\n");
                let there = fs::metadata(&volume).unwrap();
                assert_eq!((there.dev(), there.ino()), (directory.dev(), directory.ino()));
                assert!(volume.join("PG_VERSION").exists() && there.uid() == 999);
            }
            let mut command = Command::new("timeout");
            command.args(["120", "bash", "-euc", block]).current_dir("/srv");
            let ran = run_with(&mut command, b"");
            println!("{block}{}{}", ran.out, ran.err);
            let logs = || run("podman", &["logs", "postgres"]);
            assert_eq!(ran.code != 0, fails, "{block}{ran:#?}\n{:#?}", logs());
            output.push_str(&ran.out);
            output.push_str(&ran.err);
            if block.contains("disable --now") {
                drop(agent.take());
            }
        }
        assert!(Path::new("/srv/started").exists(), "the page ends with the agent");
        // What the steps are there for has happened.
        let id = |place: &str| {
            let line = output.lines().find(|line| line.starts_with(place)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(id("in the container"), id("on the host"));
        for told in ["/constraints", "/residency", "/upgradeStrategy"] {
            assert!(output.contains(&format!("not carried over: {told} ")), "{told}");
        }
        assert!(output.contains(&format!("detached {}", mesos::sandbox(work).join("data").display())));
        let there = Path::new("/var/lib/fs-isolator/volumes/roles/databases/pgdata");
        let of = |top: &Path| -> Vec<String> {
            let all = manifest(top);
            let name = |path: &String| path[top.to_str().unwrap().len()..].to_owned();
            let told = |text: &str| {
                text.split(' ')
                    .enumerate()
                    .filter(|(n, _)| *n != 2)
                    .map(|(_, word)| word.to_owned())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            all.iter().map(|(path, text)| format!("{} {}", name(path), told(text))).collect()
        };
        assert!(of(there) == of(&volume), "the copy differs");
        assert_eq!(kept(work), before, "the agent's checkpoint is as it was");
        // The other host's container has the data too.
        fs::copy("/srv/other-host.json", "/etc/fs-isolator/config.json").unwrap();
        run("sh", &["/srv/there.sh"]).ok();
        ready();
        assert_eq!(sql("select x from t").ok().out, "kept\n");
        run("podman", &["rm", "-f", "-t", "5", "postgres"]).ok();
    });
}
