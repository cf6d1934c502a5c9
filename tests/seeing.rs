//! What an operator sees: `inspect`, usage, names that were nearly right, and tables that fit a terminal.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use common::*;
use fs_isolator::error::Cause;
use nix::mount::MsFlags;
use serde_json::{Value, json};

fn json_of(ran: Ran) -> Value {
    serde_json::from_str(&ran.ok().out).unwrap()
}

/// Columns of a terminal.
const WIDTH: usize = 80;

#[track_caller]
fn fits(ran: &Ran) {
    for line in ran.out.lines() {
        assert!(line.chars().count() <= WIDTH, "{line:?} in\n{}", ran.out);
    }
}

#[test]
fn inspect_tells_everything_and_what_is_not_as_it_was_recorded() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let db = lab.volume("db");
        let mut web = lab.container(Runtime::Runc, "web-server");
        web.ask("db:/srv/db").start("sleep 1000");
        let seen = json_of(lab.cli(&["inspect", "web", "--json"]));
        let container = &seen["containers"][0];
        assert_eq!((&container["container"], &container["state"]), (&json!("web-server"), &json!("running")));
        assert_eq!((&container["pid"], &container["differences"]), (&json!(web.pid()), &json!([])), "{seen:#}");
        assert_eq!(container["volumes"][0]["source"], json!(db));
        let record = container["record"].as_str().unwrap();
        assert!(lab.runtime_files("records").iter().any(|name| name == record), "{seen:#}");
        assert!(seen["volume"].is_null(), "no volume is called so");
        let steps: Vec<&str> =
            container["prestart"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
        assert!(steps.contains(&"plan") && steps.last() == Some(&"attach"), "{steps:?}");
        let text = lab.cli(&["inspect", "web"]).ok();
        assert!(text.out.contains("\nprestart  ") && text.out.contains(", attach "), "{}", text.out);
        let seen = json_of(lab.cli(&["inspect", "db", "--json"]));
        assert_eq!(
            (&seen["containers"], &seen["volume"]["held_by"][0]["container"]),
            (&json!([]), &json!("web-server"))
        );
        // The mount goes, and something else covers it.
        let nsenter = |words: &[&str]| run("nsenter", &[&["-t", &web.pid().to_string(), "-m"], words].concat()).ok();
        nsenter(&["umount", "/srv/db"]);
        let seen = json_of(lab.cli(&["inspect", "web-server", "--json"]));
        let differences = &seen["containers"][0]["differences"];
        assert_eq!(differences[0]["target"], "/srv/db", "{seen:#}");
        let text = lab.cli(&["inspect", "web-server"]).ok();
        assert!(text.out.contains("DIFFERS   /srv/db: something else is there"), "{}", text.out);
        // A namespace sees neither what is root's nor whether it is there.
        let of_others = |name: &str| {
            let ran = lab.cli(&["inspect", name, "--namespace", "team-a"]).failed();
            ran.err.replace(name, "NAME")
        };
        assert_eq!(of_others("db"), of_others("zz"), "not yours and not there read alike");
        assert_eq!(of_others("web-server"), of_others("nothing-xx"));
        let near = lab.cli(&["inspect", "web-servr"]).failed();
        assert!(near.code == 78 && near.err.contains("did you mean \"web-server\"?"), "{near:?}");
    });
}

/// A lab with the MOUNT disk "nvme", and where that is mounted.
fn lab_with_a_disk() -> (Lab, PathBuf) {
    let lab = Lab::new("filesystem/linux");
    let root = lab.dir.join("nvme");
    tmpfs(&root, MsFlags::empty());
    fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    let disk = json!([{ "name": "nvme", "type": "MOUNT", "mount": { "root": root } }]);
    lab.configure(json!({ "isolation": "filesystem/linux", "disks": disk }));
    (lab, root)
}

#[test]
fn usage_counts_each_file_once_and_crosses_nothing() {
    on(Host::Shared, || {
        let (lab, root) = lab_with_a_disk();
        let db = lab.volume("db");
        let usage = |id: &str| json_of(lab.cli(&["volume", "inspect", id, "--usage", "--json"]))["usage"].clone();
        let empty = usage("db")["bytes"].as_u64().unwrap();
        fs::create_dir_all(db.join("a/b")).unwrap();
        fs::write(db.join("a/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(db.join("a/file"), db.join("a/b/again")).unwrap();
        fs::File::create(db.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        symlink("/usr", db.join("link")).unwrap();
        tmpfs(&db.join("mounted"), MsFlags::empty());
        fs::write(db.join("mounted/large"), vec![1; 8 << 20]).unwrap();
        let seen = usage("db");
        let bytes = seen["bytes"].as_u64().unwrap() - empty;
        assert!(((1 << 20)..(1 << 20) + (128 << 10)).contains(&bytes), "{seen}");
        // The root, a, a/b, the file under one of its names, the sparse one; neither the link nor what is mounted.
        assert_eq!((&seen["files"], &seen["complete"]), (&json!(5), &json!(true)), "{seen}");
        lab.cli(&["volume", "create", "--disk", "nvme", "fast"]).ok();
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap();
        let seen = usage("fast");
        assert!(seen["files"].is_null() && seen["bytes"].as_u64().unwrap() >= 1 << 20, "{seen}");
        assert!(json_of(lab.cli(&["volume", "inspect", "db", "--json"]))["usage"].is_null(), "only on request");
        let table = lab.cli(&["volume", "list", "--usage"]).ok();
        assert!(table.out.contains("USED") && table.out.contains("1.0 MiB"), "{}", table.out);
        let text = lab.cli(&["volume", "inspect", "db", "--usage"]).ok();
        assert!(text.out.contains("MiB in 5 files"), "{}", text.out);
    });
}

#[test]
fn status_tells_at_once_what_a_disk_knows_and_counts_on_request() {
    on(Host::Shared, || {
        let (lab, root) = lab_with_a_disk();
        fs::write(lab.volume("db").join("file"), vec![1; 1 << 20]).unwrap();
        lab.cli(&["volume", "create", "--disk", "nvme", "fast"]).ok();
        fs::write(root.join("file"), vec![1; 3 << 20]).unwrap();
        let mut web = lab.container(Runtime::Runc, "web");
        web.ask("db:/srv/db;fast:/srv/fast;sandbox=tmp:/srv/tmp").start("sleep 1000");
        let usage = |arguments: &[&str]| {
            let seen = json_of(lab.cli(&[arguments, &["--json"]].concat()));
            let volumes =
                if arguments[0] == "inspect" { &seen["containers"][0]["volumes"] } else { &seen[0]["volumes"] };
            let of = |target: &str| {
                let found = volumes.as_array().unwrap().iter().find(|volume| volume["target"] == target);
                found.unwrap()["usage"].clone()
            };
            assert!(of("/srv/tmp").is_null(), "a sandbox is no volume: {seen:#}");
            (of("/srv/db"), of("/srv/fast"))
        };
        for arguments in [&["status"][..], &["inspect", "web"]] {
            let (db, fast) = usage(arguments);
            assert!(db.is_null() && fast["files"].is_null() && fast["bytes"].as_u64() >= Some(3 << 20), "{db} {fast}");
            let (db, fast) = usage(&[arguments, &["--usage"]].concat());
            assert_eq!(db["files"], 2);
            assert!(db["bytes"].as_u64() >= Some(1 << 20) && fast["files"].is_null(), "{db} {fast}");
        }
        // No file is looked at unless that is asked for.
        let looks = |arguments: &[&str]| {
            let config = lab.config();
            let all = [&["-f", "-e", "trace=openat2", CLI, "--config", config.to_str().unwrap()], arguments];
            run("strace", &all.concat()).ok().err.lines().filter(|line| line.contains("\"file\"")).count()
        };
        assert_eq!((looks(&["status"]), looks(&["status", "--usage"])), (0, 1));
        let text = lab.cli(&["status", "--usage"]).ok();
        assert!(text.out.contains("    used  3.0 MiB\n") && text.out.contains("MiB in 2 files"), "{}", text.out);
        fits(&text);
        // A directory that only has the volume's name now is another.
        fs::rename(lab.volume_path("default", "db"), lab.dir.join("away")).unwrap();
        fs::create_dir(lab.volume_path("default", "db")).unwrap();
        assert!(usage(&["status", "--usage"]).0.is_null());
    });
}

#[test]
fn the_nearest_right_name_is_suggested_to_those_who_may_know_it() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let disk = json!([{ "name": "fast-ssd", "type": "PATH", "path": { "root": lab.dir.join("ssd") } }]);
        lab.configure(json!({ "isolation": "filesystem/linux", "disks": disk }));
        lab.volume("database");
        lab.volume_of("team-a", "orders");
        lab.volume_of("team-b", "invoices");
        let says = |arguments: &[&str], text: &str| {
            let ran = lab.cli(arguments).failed();
            assert!(ran.err.contains(text), "{arguments:?}: {text:?} in {ran:?}");
        };
        says(&["volume", "inspect", "databse"], "did you mean \"database\"?");
        says(&["volume", "inspect", "--role", "teem-a", "orders"], "did you mean \"team-a\"?");
        says(&["volume", "inspect", "orders"], "did you mean --role team-a?");
        says(&["volume", "inspect", "--disk", "fast-sdd", "database"], "did you mean \"fast-ssd\"?");
        says(&["volume", "inspect", "--namespace", "team-a", "order"], "did you mean \"orders\"?");
        // What is not theirs is not suggested, and reads like what is not there.
        for (role, id) in [("team-b", "invoice"), ("team-b", "invoices"), ("team-b", "kafka")] {
            let ran = lab.cli(&["volume", "inspect", "--namespace", "team-a", "--role", role, id]).failed();
            assert!(!ran.err.contains("did you mean") && ran.code == 41, "{ran:?}");
        }
        let ran = lab.cli(&["volume", "inspect", "--namespace", "team-a", "invoices"]).failed();
        assert!(!ran.err.contains("team-b") && !ran.err.contains("did you mean"), "{ran:?}");
        let ran = lab.cli(&["volume", "inspect", "--namespace", "team-a", "--disk", "fast-sdd", "orders"]).failed();
        assert!(!ran.err.contains("fast-ssd"), "{ran:?}");

        let container = lab.container(Runtime::Runc, "c");
        container.write();
        let bundle = container.bundle.to_str().unwrap();
        says(
            &["plan", bundle, "--annotation", "io.fs-isolator.volume=db:data"],
            "did you mean io.fs-isolator.volumes?",
        );
        says(&["explain", "volume-in-us"], "did you mean \"volume-in-use\"?");
        says(&["explain", "hook-maskd"], "did you mean \"hook-masked\"?");
        fs::create_dir_all(lab.runtime_dir().join("records")).unwrap();
        fs::create_dir_all(lab.runtime_dir().join("log")).unwrap();
        fs::set_permissions(lab.runtime_dir(), PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(lab.runtime_dir().join("log/webserver.0123456789ab"), "x\n").unwrap();
        says(&["logs", "webservr"], "did you mean \"webserver\"?");
        let roots = lab.dir.join("roots");
        fs::create_dir_all(roots.join("postgres")).unwrap();
        let root = roots.to_str().unwrap();
        says(&["attach", "--runtime-root", root, "postgrse", "database:/db"], "did you mean \"postgres\"?");
    });
}

#[test]
fn every_cause_and_check_is_explained_by_its_name() {
    let all = json_of(cli(&["explain", "--json"]));
    assert_eq!(all.as_array().unwrap().len(), Cause::ALL.len());
    for cause in all.as_array().unwrap() {
        let (code, name) = (cause["code"].to_string(), cause["name"].as_str().unwrap());
        assert_eq!(json_of(cli(&["explain", &code, "--json"])), json_of(cli(&["explain", name, "--json"])));
    }
    for check in fs_isolator::doctor::Check::ALL {
        let seen = json_of(cli(&["explain", check.name(), "--json"]));
        assert_eq!((&seen["meaning"], &seen["code"]), (&json!(check.meaning()), &Value::Null));
    }
}

/// Verbs that print no table, or are checked elsewhere.
const NO_TABLES: [(&str, &str); 20] = [
    ("adopt", "sentences"),
    ("attach", "a path on each line"),
    ("authorize", "a sentence"),
    ("config", "JSON"),
    ("convert", "files, whose lines are their formats'"),
    ("detach", "a path on each line"),
    ("doctor", "tables and paragraphs, which its own tests check"),
    ("gc", "sentences"),
    ("generate", "files"),
    ("help", "the shell's width"),
    ("host", "a sentence"),
    ("inspect", "what status prints, and a path on each line"),
    ("install", "a path on each line"),
    ("metrics", "the text format of Prometheus, which knows no other line breaks"),
    ("plan", "sentences"),
    ("reconcile", "sentences"),
    ("sandbox", "a path"),
    ("uninstall", "a path on each line"),
    ("update", "a path on each line"),
    ("watch", "an event on each line, for grep(1)"),
];

#[test]
fn tables_fit_80_columns() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        let (role, id) =
            ("a-team-with-a-long-name/of-a-department/with-one-too", "a-volume-with-a-name-that-is-long-too");
        lab.volume_of(role, id);
        let name = "a-container-with-a-name-of-more-than-forty-letters-0123456789abcdef";
        let mut container = lab.container(Runtime::Runc, name);
        container.ask(&format!("{id}:/a/path/that/is/quite/long/and/goes/on/and/on/and/on:role={role}"));
        container.start("sleep 1000");
        let tables =
            [&["explain"][..], &["volume", "list"], &["volume", "list", "--usage"], &["status", "--usage"], &["logs"]];
        for arguments in tables {
            fits(&lab.cli(arguments).ok());
        }
        // Who adds a verb says here what it prints.
        let mut known: Vec<&str> = tables.iter().map(|words| words[0]).chain(NO_TABLES.map(|(verb, _)| verb)).collect();
        known.sort_unstable();
        known.dedup();
        let help = cli(&["--help"]).ok().out;
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
        let mut verbs: Vec<&str> = names.filter_map(|line| line.split(' ').next()).collect();
        verbs.sort_unstable();
        assert_eq!(verbs, known);
        // Nothing is lost.
        let table = lab.cli(&["volume", "list"]).ok();
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        assert!(letters(&table.out) >= letters(role) + letters(id) + letters(name), "{}", table.out);
    });
}
