//! A host with SELinux as far as hooks and the doctor look at it: files where the kernel would have its filesystem, and
//! labels that mean nothing to the kernel.

use std::fs;
use std::path::Path;

use fs_isolator::sys::give_xattr;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::*;

const AT: &str = "/sys/fs/selinux";

/// Has SELinux on this test's host, enforcing (`1`) or permissive (`0`). No policy can be asked.
pub fn turn_on(enforce: &str) {
    let (cgroups, aside) = (Path::new("/sys/fs/cgroup"), Path::new("/mnt"));
    let again = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
    };
    // Nobody can make a directory in the kernel's own.
    again(cgroups, aside);
    tmpfs(Path::new("/sys/fs"), MsFlags::empty());
    again(aside, cgroups);
    mount(None::<&str>, aside, None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
    umount2(aside, MntFlags::MNT_DETACH).unwrap();
    fs::create_dir(AT).unwrap();
    set("enforce", enforce);
}

fn set(name: &str, text: &str) {
    let path = Path::new(AT).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Labels a file.
pub fn label(path: &Path, label: &str) {
    let file = fs::File::open(path).unwrap();
    give_xattr(&file, c"security.selinux", format!("{label}\0").as_bytes()).unwrap();
}

/// Lets the policy be asked this once, about a directory: it takes this question and gives this answer. What is written
/// to a plain file moves on in it, so the answer stands where the question ends.
#[allow(dead_code)]
pub fn answer(question: &str, answer: &str) {
    set("class/dir/index", "7");
    let permissions = ["add_name", "getattr", "open", "read", "remove_name", "search", "write"];
    for (index, name) in permissions.iter().enumerate() {
        set(&format!("class/dir/perms/{name}"), &(index + 1).to_string());
    }
    set("access", &format!("{}{answer}", " ".repeat(question.len())));
}

/// What the policy was asked, and what it said.
#[allow(dead_code)]
pub fn asked() -> String {
    fs::read_to_string(Path::new(AT).join("access")).unwrap()
}
