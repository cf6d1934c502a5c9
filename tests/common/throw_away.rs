//! A machine whose changes are thrown away, for what is to be done as an administrator does it: in /etc, /usr and /var/lib.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::common::*;

/// What documents call an image. Tests reach no registry, so that it is there before.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// What podman needs where there is no CAP_SYS_RESOURCE, no network for containers and no program for infra containers.
const CONTAINERS_CONF: &str = "[containers]\n\
    default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
    netns = \"none\"\n\
    [engine]\n\
    cgroup_manager = \"cgroupfs\"\n\
    events_logger = \"file\"\n\
    infra_image = \"localhost/pause:latest\"\n";

/// Makes the folders that an administrator writes to forget everything: an overlay whose upper half is memory. Nothing of
/// this project is installed, and `fs-isolator` is there.
pub fn throw_away_changes() {
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
    // podman's storage is an overlay itself, which cannot lie on another; and no overlay can be idmapped.
    for folder in ["/var/lib/containers", "/var/lib/fs-isolator"] {
        fs::create_dir_all(folder).unwrap();
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    }
    fs::create_dir_all("/etc/containers/containers.conf.d").unwrap();
    fs::write("/etc/containers/containers.conf", "").unwrap();
    fs::write("/etc/containers/containers.conf.d/tests.conf", CONTAINERS_CONF).unwrap();
    for folder in ["/usr/share/containers/oci/hooks.d", "/etc/fs-isolator"] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::copy(CLI, "/usr/bin/fs-isolator").unwrap();
}

/// podman with [`IMAGE`]. Its containers end with it, however the test does.
#[must_use]
pub struct Images;

impl Drop for Images {
    fn drop(&mut self) {
        run("podman", &["pod", "rm", "-fa", "-t", "0"]);
        // podman 4.3 needs a second look where conmon was killed.
        for _ in 0..2 {
            run("podman", &["rm", "-fa", "-t", "0"]);
        }
    }
}

/// Brings the image there, and one for podman's infra containers.
pub fn seed_image() -> Images {
    let rootfs = Path::new("/dev/shm/rootfs");
    make_rootfs(rootfs);
    symlink("busybox", rootfs.join("bin/cp")).unwrap();
    run("tar", &["-C", "/dev/shm/rootfs", "-cf", "/dev/shm/image.tar", "."]).ok();
    for (name, command) in [(IMAGE, "CMD [\"sh\"]"), ("localhost/pause:latest", "CMD [\"/bin/sleep\", \"1000\"]")] {
        let changes = ["--change", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--change", command];
        run("podman", &[&["import", "-q"], &changes[..], &["/dev/shm/image.tar", name]].concat()).ok();
    }
    Images
}

/// Installs this project as the README does, with filesystem/linux.
pub fn install() {
    run("fs-isolator", &["install", "--from", Path::new(PRESTART).parent().unwrap().to_str().unwrap()]).ok();
    fs::create_dir_all("/etc/fs-isolator").unwrap();
    fs::write("/etc/fs-isolator/config.json", "{ \"isolation\": \"filesystem/linux\" }\n").unwrap();
}
