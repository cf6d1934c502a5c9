//! /proc/PID/mountinfo: as a table, and as a path that the kernel would write into one.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use fs_isolator::mountinfo::{self, Mount};
use libfuzzer_sys::fuzz_target;

/// As the kernel's mangle(): these as a backslash and three octal digits.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.extend(format!("\\{byte:03o}").bytes()),
            _ => escaped.push(*byte),
        }
    }
    escaped
}

fn print(mount: &Mount) -> Vec<u8> {
    let group = |name: &str, id: Option<u64>| id.map_or_else(String::new, |id| format!(" {name}:{id}"));
    let groups =
        [group("shared", mount.shared), group("master", mount.master), " propagate_from:9".to_owned()].concat();
    let (major, minor) = mount.device;
    let before = format!("{} {} {major}:{minor} ", mount.id, mount.parent);
    let after = format!(" rw,nosuid{groups} - {} source rw\n", mount.filesystem);
    let paths = [&mount.root, &mount.mount_point].map(|path| escape(path.as_os_str().as_bytes()));
    [before.as_bytes(), &paths[0], b" ", &paths[1], after.as_bytes()].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let mounts = mountinfo::parse(bytes);
    let printed: Vec<u8> = mounts.iter().flat_map(print).collect();
    assert_eq!(mountinfo::parse(&printed), mounts, "{}", printed.escape_ascii());

    let above = mounts.first().map_or(1, |mount| mount.parent);
    assert!(mountinfo::below(&mounts, above).len() <= mounts.len(), "{}", bytes.escape_ascii());

    let mount = Mount {
        id: 7,
        parent: 1,
        device: (8, 1),
        root: std::ffi::OsStr::from_bytes(bytes).into(),
        mount_point: std::ffi::OsStr::from_bytes(bytes).into(),
        filesystem: "ext4".to_owned(),
        shared: Some(1),
        master: None,
    };
    assert_eq!(mountinfo::parse(&print(&mount)), [mount], "{}", bytes.escape_ascii());
});
