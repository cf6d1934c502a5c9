//! `fs-isolator host`: `work_dir` as a shared mount of its own, as Mesos's agent made it. No hook makes such a mount.
#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::show;
use crate::attach;
use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::me::me;
use crate::sys::{self, MountAttributes, SetPropagation};
use crate::volume::Disks;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Mount nothing, and write a systemd mount unit that does it at each boot into this directory
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
}

/// What was done.
#[derive(Serialize, JsonSchema)]
pub struct Done {
    /// `work_dir`, or the unit's file.
    path: PathBuf,
    /// What it is now.
    what: String,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::NoPropagation`] where the mount cannot be made; [`Cause::Install`] where the unit cannot be written.
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    if me().user.is_some() {
        return Err(Error::new(Cause::NotSupported, "only root of the host can make a mount on the host"));
    }
    let work_dir = &config.work_dir;
    let (path, what) = match &arguments.unit_dir {
        Some(directory) => {
            let name = unit_name(work_dir);
            let path = directory.join(&name);
            show::file(&path, &unit(work_dir))
                .because(Cause::Install, || format!("{} cannot be written", path.display()))?;
            (path, format!("is written; enable it: systemctl enable --now '{name}'"))
        }
        None => (work_dir.clone(), make(config)?.to_owned()),
    };
    if json {
        return show::json(&Done { path, what });
    }
    show::lines(&[format!("{} {what}", path.display())])
}

fn make(config: &Config) -> Result<&'static str> {
    let disk = Disks::new(config).make_work_dir()?;
    let doing = || format!("{} cannot be made a shared mount", disk.path().display());
    let stat = sys::stat(disk.fd()).because(Cause::NoPropagation, doing)?;
    let set = |mount: &std::os::fd::OwnedFd, propagation| {
        sys::mount_setattr(mount, MountAttributes::default(), propagation, false).because(Cause::NoPropagation, doing)
    };
    if !stat.mount_root {
        let tree = sys::clone_tree(disk.fd()).because(Cause::NoPropagation, doing)?;
        // The copy of a shared mount is its peer. Private in between, it gets a group of its own.
        set(&tree, SetPropagation::Private)?;
        set(&tree, SetPropagation::Shared)?;
        sys::move_mount(&tree, disk.fd()).because(Cause::NoPropagation, doing)?;
        return Ok("is a shared mount of its own now, until the machine restarts");
    }
    if attach::sends(disk.fd(), &stat)? {
        return Ok("is a shared mount of its own already");
    }
    set(disk.fd(), SetPropagation::Shared)?;
    Ok("was a mount of its own, and is shared now, until the machine restarts")
}

/// The unit's name, which systemd wants to be that of the mount point (systemd.unit(5), `systemd-escape --path`).
fn unit_name(path: &Path) -> String {
    let mut name = String::new();
    for (index, byte) in path.as_os_str().as_bytes().iter().skip(1).enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b':' | b'_' | b'.' => name.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if name.is_empty() { "-.mount".to_owned() } else { name + ".mount" }
}

fn unit(path: &Path) -> String {
    // A percent sign begins a specifier.
    let path = path.display().to_string().replace('%', "%%");
    format!(
        "[Unit]\nDescription=work_dir of fs-isolator as a shared mount of its own\nDocumentation=man:fs-isolator-host(8)\n\
         Before=fs-isolator-reconcile.service podman.service podman-restart.service crio.service containerd.service\n\n\
         [Mount]\nWhat={path}\nWhere={path}\nType=none\nOptions=bind,private,shared\n\n[Install]\nWantedBy=local-fs.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_systemd_wants() {
        for (path, name) in [
            ("/var/lib/fs-isolator", "var-lib-fs\\x2disolator.mount"),
            ("/srv/a b/c%d_e.f", "srv-a\\x20b-c\\x25d_e.f.mount"),
            ("/.x", "\\x2ex.mount"),
            ("/", "-.mount"),
        ] {
            assert_eq!(unit_name(Path::new(path)), name);
        }
        assert!(unit(Path::new("/srv/a%b")).contains("What=/srv/a%%b\n"));
    }
}
