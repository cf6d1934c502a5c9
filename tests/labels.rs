//! SELinux labels: a container that SELinux would keep out of its volume does not start. The machine has no SELinux: hooks find
//! what they look for in files, and nothing is enforced.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/init.rs"]
mod init;
#[path = "common/selinux.rs"]
mod selinux;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::*;
use init::Init;
use serde_json::json;

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILE: &str = "system_u:object_r:container_file_t:s0";
const UNFIT: &str = "system_u:object_r:var_lib_t:s0";

/// Runs prestart of a container with this label which asks for these, on an init that goes away after it.
fn start(lab: &Lab, process: &str, volumes: &str) -> Ran {
    start_as(lab, &mut lab.container(Runtime::Crun, "c"), process, volumes)
}

fn start_as(lab: &Lab, container: &mut Container, process: &str, volumes: &str) -> Ran {
    set_labels(container, process);
    container.ask(volumes).write();
    let init = Init::waiting(&container.rootfs());
    let state = container.state(init.pid).to_string();
    let table = init.mounts();
    let ran = hook(PRESTART, &lab.config(), state.as_bytes());
    assert!(ran.code == 0 || init.mounts() == table, "{ran:?}");
    init.end();
    hook(POSTSTOP, &lab.config(), state.as_bytes()).ok();
    lab.assert_clean();
    fs::remove_dir_all(container.rootfs()).unwrap();
    ran
}

fn set_labels(container: &mut Container, process: &str) {
    container.spec["process"]["selinuxLabel"] = json!(process);
    container.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
}

/// Calls of prestart that have to do with labels.
fn calls(lab: &Lab, process: Option<&str>, volumes: &str) -> Vec<String> {
    let mut container = lab.container(Runtime::Crun, "c");
    if let Some(process) = process {
        set_labels(&mut container, process);
    }
    container.ask(volumes).write();
    let init = Init::waiting(&container.rootfs());
    let (state, trace) = (container.state(init.pid).to_string(), lab.dir.join("trace"));
    let mut command = Command::new("strace");
    command.arg("-o").arg(&trace).args(["-s", "200", PRESTART, "--config"]).arg(lab.config());
    run_with(&mut command, state.as_bytes()).ok();
    init.end();
    hook(POSTSTOP, &lab.config(), state.as_bytes()).ok();
    let text = fs::read_to_string(&trace).unwrap();
    let is_one = |line: &&str| ["selinux\"", "enforce\"", "\"context\""].iter().any(|word| line.contains(word));
    text.lines().filter(is_one).map(str::to_owned).collect()
}

/// Sees that a start was refused, and that this mends it.
#[track_caller]
fn refused(ran: &Ran, remedy: &str) {
    assert_eq!(ran.code, 67, "{ran:?}");
    assert!(ran.err.contains(&format!("; {remedy} [exit 67]")), "{ran:?}");
}

#[test]
fn what_selinux_would_keep_the_container_out_of_is_refused() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let chcon = |level: &str| format!("chcon -R -t container_file_t -l {level} {}", volume.display());
        let with = |kind: &str, level: &str| format!("system_u:object_r:{kind}:{level}");
        // No label at all is what a host has whose SELinux came later; its kernel would tell of one.
        start(&lab, PROCESS, "db:/d").ok();
        for (kind, level, volumes, mend) in [
            ("var_lib_t", "s0", "db:/d", Some("s0")),
            ("var_lib_t", "s0", "db:/d:ro", Some("s0")),
            ("container_file_t", "s0", "db:/d", None),
            ("container_file_t", "s0:c1,c2", "db:/d", None),
            ("container_file_t", "s0:c3,c4", "db:/d", Some("s0:c1,c2")),
            ("container_file_t", "s0:c3,c4", "db:/d:shared", Some("s0")),
            ("container_ro_file_t", "s0", "db:/d", Some("s0")),
            ("container_ro_file_t", "s0", "db:/d:ro", None),
        ] {
            selinux::label(&volume, &with(kind, level));
            let ran = start(&lab, PROCESS, volumes);
            match mend {
                Some(level) => refused(&ran, &chcon(level)),
                None => drop(ran.ok()),
            }
        }
        // Whoever has no label, or one of which nothing is known, may have what he asks for.
        selinux::label(&volume, UNFIT);
        for process in ["", "nonsense", "system_u:system_r:spc_t:s0", "u:r:my_box.process:s0:c1,c2"] {
            start(&lab, process, "db:/d").ok();
        }
        let ran = start(&lab, PROCESS, "db:/d");
        assert!(
            ran.err.contains("container c: volume db:/d: its SELinux label system_u:object_r:var_lib_t:s0 keeps"),
            "{ran:?}"
        );
    });
}

#[test]
fn where_selinux_is_off_or_permissive_nothing_is_refused() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        selinux::label(&lab.volume("db"), UNFIT);
        // A disk that was another host's.
        let ran = start(&lab, PROCESS, "db:/d").ok();
        assert!(!ran.err.contains("SELinux"), "{ran:?}");
    });
    on(Host::Shared, || {
        selinux::turn_on("0");
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        selinux::label(&volume, UNFIT);
        let ran = start(&lab, PROCESS, "db:/d").ok();
        let chcon = format!("permissive any more; chcon -R -t container_file_t -l s0 {}", volume.display());
        assert!(ran.err.contains(&chcon), "{ran:?}");
    });
}

#[test]
fn the_policy_that_is_loaded_has_the_last_word() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/linux");
        selinux::label(&lab.volume("db"), UNFIT);
        for (option, wanted, said, code) in [
            ("", "7f", "ff ffffffff 0 ffffffff 1 0", 0),
            ("", "7f", "2e ffffffff 0 ffffffff 1 0", 67),
            (":ro", "2e", "2e ffffffff 0 ffffffff 1 0", 0),
            (":ro", "2e", "2a ffffffff 0 ffffffff 1 0", 67),
            // The type is permissive.
            ("", "7f", "0 ffffffff 0 ffffffff 1 1", 0),
            ("", "7f", "", 67),
        ] {
            let question = format!("{PROCESS} {UNFIT} 7 {wanted}");
            selinux::answer(&question, said);
            let ran = start(&lab, PROCESS, &format!("db:/d{option}"));
            assert_eq!(ran.code, code, "{said}: {ran:?}");
            assert_eq!(selinux::asked(), format!("{question}{said}"));
        }
    });
}

#[test]
fn all_that_can_be_asked_for_is_looked_at() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/linux");
        let host = lab.dir.join("host");
        fs::create_dir_all(host.join("below")).unwrap();
        let allowed = json!([{ "path": host, "roles": ["default"] }]);
        lab.configure(json!({ "isolation": "filesystem/linux", "host_paths": allowed }));
        let chcon = |path: &Path| format!("chcon -R -t container_file_t -l s0 {}", path.display());

        // What is looked at is what the container gets, not what lies above it.
        let volume = lab.volume("db");
        fs::create_dir(volume.join("in")).unwrap();
        selinux::label(&volume.join("in"), UNFIT);
        selinux::label(&volume, FILE);
        refused(&start(&lab, PROCESS, "db:/d:subpath=in"), &chcon(&volume.join("in")));
        selinux::label(&volume, UNFIT);
        selinux::label(&volume.join("in"), FILE);
        start(&lab, PROCESS, "db:/d:subpath=in").ok();

        selinux::label(&host.join("below"), UNFIT);
        let ask = format!("host={}/below:/h", host.display());
        let with_care = format!(
            "{}, if the host itself does not need the label; else --security-opt label=disable",
            chcon(&host.join("below"))
        );
        refused(&start(&lab, PROCESS, &ask), &with_care);
        start(&lab, PROCESS, &format!("host={}:/h", host.display())).ok();

        // What is made has the label of where it is made: here in a directory whose own label it does not get by itself.
        let sandboxes = lab.work().join("sandboxes");
        let mut container = lab.container(Runtime::Crun, "again");
        start_as(&lab, &mut container, PROCESS, "sandbox=a:/a").ok();
        let own = fs::read_dir(sandboxes.join("local")).unwrap().next().unwrap().unwrap().path();
        selinux::label(&own.join("a"), UNFIT);
        make_rootfs(&container.rootfs());
        refused(&start_as(&lab, &mut container, PROCESS, "sandbox=a:/a"), &chcon(&sandboxes));
    });
}

#[test]
fn a_label_costs_those_who_have_one_a_call() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/linux");
        for volume in ["a", "b"] {
            selinux::label(&lab.volume(volume), FILE);
        }
        let both = "a:/a;b:/b";
        assert!(calls(&lab, None, both).is_empty());
        let with = calls(&lab, Some(PROCESS), both);
        assert!(with.len() == 2 && with.iter().all(|call| call.starts_with("getxattr(")), "{with:#?}");
    });
}

// The kernel of this machine does not take the option, and the secret lies in a filesystem that takes any.
#[test]
fn a_secret_gets_the_label_of_the_containers_mounts() {
    for is_on in [true, false] {
        on(Host::Shared, move || {
            if is_on {
                selinux::turn_on("1");
            }
            let lab = Lab::new("filesystem/linux");
            let secret = lab.dir.join("secret");
            fs::write(&secret, "hunter2").unwrap();
            fs::set_permissions(&secret, PermissionsExt::from_mode(0o400)).unwrap();
            let secrets = json!([{ "name": "s", "path": secret, "roles": ["default"] }]);
            lab.configure(json!({ "isolation": "filesystem/linux", "secrets": secrets }));
            let option = "\"context\", \"system_u:object_r:container_file_t:s0:c1,c2\"";
            let called = calls(&lab, Some(PROCESS), "secret=s:/s");
            assert_eq!(called.iter().any(|call| call.contains(option)), is_on, "{called:#?}");
            assert!(calls(&lab, None, "secret=s:/s").is_empty());
        });
    }
}

#[test]
fn links_are_refused_too() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/posix");
        let volume = lab.volume("db");
        selinux::label(&volume, UNFIT);
        let sandbox = lab.cli(&["sandbox", "create", "--owner", "0", "c"]).ok();
        let mut container = lab.host_container(Runtime::Crun, "c");
        container.cwd(Path::new(sandbox.out.trim()));
        container.spec["process"]["selinuxLabel"] = json!(PROCESS);
        container.ask("db:data").write();
        let init = Init::waiting(&container.rootfs());
        let ran = hook(PRESTART, &lab.config(), container.state(init.pid).to_string().as_bytes());
        refused(&ran, &format!("chcon -R -t container_file_t -l s0 {}", volume.display()));
        assert!(names(Path::new(sandbox.out.trim())).is_empty());
    });
}

#[test]
fn a_running_container_is_refused_it_too() {
    on(Host::Shared, || {
        selinux::turn_on("1");
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        selinux::label(&volume, UNFIT);
        let mut container = lab.container(Runtime::Crun, "c");
        container.start("sleep 1000");
        lab.live(&container, "attach", &["db:/d"]).ok();
        lab.live(&container, "detach", &["/d"]).ok();
        // The runtime would not start it here with a label.
        container.spec["process"]["selinuxLabel"] = json!(PROCESS);
        container.write();
        let ran = lab.live(&container, "attach", &["db:/d"]);
        refused(&ran, &format!("chcon -R -t container_file_t -l s0 {}", volume.display()));
        container.exec("test ! -e /d").ok();
        selinux::label(&volume, FILE);
        lab.live(&container, "attach", &["db:/d"]).ok();
        container.delete();
    });
}
