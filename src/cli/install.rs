//! `fs-isolator install` and `uninstall`.
//!
//! podman and CRI-O pass over a hooks.d file whose executable is missing, in silence, and start containers without
//! their volumes. So executables are there before their files and go after them, and every file appears whole.
#![forbid(unsafe_code)]

mod token;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::show;
use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::hook::stage::Stage;
use crate::sys;
use crate::trusted::{self, Missing};
use token::Token;

/// Which podman and CRI-O read by default.
pub const HOOKS_DIR: &str = "/usr/share/containers/oci/hooks.d";
/// Where hook executables lie by custom.
pub const BIN_DIR: &str = "/usr/libexec/oci/hooks.d";

/// What a package has, to say that the executables in [`BIN_DIR`] are its own to install and to remove.
const PACKAGED: &str = "/usr/share/fs-isolator/packaged";
/// Where a package has this command.
const PACKAGED_COMMAND: &str = "/usr/bin";

/// Arguments of both verbs.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory of the hooks.d files; this one is read by podman and CRI-O by default
    #[arg(long, default_value = HOOKS_DIR, value_name = "DIR")]
    hooks_dir: PathBuf,
    /// Directory of the hook executables
    #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Directory to take the hook executables from; without one, where this command lies, or where its package has put them
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

/// Arguments of `install`.
#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    places: Arguments,
    /// Set no request_token where podman is older than 4.6 and takes annotations from images
    #[arg(long)]
    no_request_token: bool,
}

struct Hook {
    stage: Stage,
    file: &'static str,
    template: &'static str,
}

const HOOKS: [Hook; 3] = [
    // Undone in reverse: what frees comes first and goes last.
    Hook {
        stage: Stage::Poststop,
        file: "50-fs-isolator-poststop.json",
        template: include_str!("../../hooks/50-fs-isolator-poststop.json"),
    },
    Hook {
        stage: Stage::Poststart,
        file: "50-fs-isolator-poststart.json",
        template: include_str!("../../hooks/50-fs-isolator-poststart.json"),
    },
    Hook {
        stage: Stage::Prestart,
        file: "50-fs-isolator-prestart.json",
        template: include_str!("../../hooks/50-fs-isolator-prestart.json"),
    },
];

/// Largest executable that is installed, in bytes.
const LARGEST: u64 = 64 << 20;

/// What was written.
#[derive(Serialize, JsonSchema)]
pub struct Installed<'a> {
    /// Executables, then hooks.d files.
    installed: &'a [PathBuf],
    /// The configuration in which a request_token was set; `null` where none was.
    request_token: Option<PathBuf>,
}

/// What was removed.
#[derive(Serialize, JsonSchema)]
pub struct Removed<'a> {
    /// Hooks.d files, then executables; not what was not there.
    removed: &'a [PathBuf],
}

/// Installs.
///
/// # Errors
/// [`Cause::Install`], [`Cause::ConfigUnsafe`] where others could change a directory of hooks.
pub fn install(install: &Install, config: Option<&Path>, json: bool) -> Result<()> {
    let arguments = &install.places;
    let packaged = is_packaged(arguments)?;
    let from = match &arguments.from {
        Some(from) => from.clone(),
        None if packaged => BIN_DIR.into(),
        None => own_directory()?,
    };
    // Those of a package lie where they are already.
    let in_place = from == arguments.bin_dir;
    // Everything is read and checked before anything is written.
    let mut executables = Vec::new();
    for hook in &HOOKS {
        let path = from.join(hook.stage.program());
        let file = File::open(&path).because(Cause::Install, || format!("{} cannot be opened", path.display()))?;
        let bytes = crate::read::at_most(file, LARGEST)
            .because(Cause::Install, || format!("{} cannot be read", path.display()))?;
        check_static(&bytes).map_err(|what| {
            Error::new(Cause::Install, format!("{} {what}", path.display()))
                .remedy("build it in the project's folder with RUSTFLAGS unset: cargo build --release")
        })?;
        executables.push(bytes);
    }
    // What containers get that ask for nothing is for all of them.
    let every_container = Config::load(config)?.default_container_info.is_some();
    let config = config.map(std::path::absolute).transpose().because(Cause::Install, || "--config".to_owned())?;
    let bin_dir = directory(&arguments.bin_dir)?;
    let hooks_dir = directory(&arguments.hooks_dir)?;
    let mut written = Vec::new();
    for (hook, bytes) in HOOKS.iter().zip(&executables).filter(|_| !in_place) {
        write(&bin_dir, hook.stage.program(), bytes, 0o755)?;
        written.push(arguments.bin_dir.join(hook.stage.program()));
    }
    let is_upgrade = HOOKS.iter().any(|hook| sys::stat_at(&hooks_dir, hook.file).is_ok());
    // Before the hooks are called.
    let token = match install.no_request_token {
        true => Token::NotNeeded,
        false => token::provide(config.as_deref(), is_upgrade)?,
    };
    for hook in &HOOKS {
        let text = fill(hook, &arguments.bin_dir, config.as_deref(), every_container)?;
        write(&hooks_dir, hook.file, text.as_bytes(), 0o644)?;
        written.push(arguments.hooks_dir.join(hook.file));
    }
    let installed = Installed { installed: &written, request_token: token.set_in().map(Path::to_owned) };
    report("installed", &written, json.then_some(&installed))?;
    if json {
        return Ok(());
    }
    show::lines(&token.notes())?;
    if every_container {
        show::lines(&["for default_container_info the hooks are called for every container, whatever it asks for"])?;
    }
    Ok(())
}

/// Removes what [`install`] wrote, files first.
///
/// # Errors
/// As [`install`].
pub fn uninstall(arguments: &Arguments, json: bool) -> Result<()> {
    let keep = is_packaged(arguments)? && arguments.bin_dir == Path::new(BIN_DIR);
    let mut removed = Vec::new();
    let mut remove = |path: &Path, names: Vec<&str>| -> Result<()> {
        let Some(directory) = trusted::open_dir(path, Missing::Tell)? else { return Ok(()) };
        for name in names {
            match sys::unlink_at(&directory, OsStr::new(name), false) {
                Err(error) if error.errno == Errno::ENOENT => {}
                answer => {
                    answer.because(Cause::Install, || format!("{name} cannot be removed"))?;
                    removed.push(path.join(name));
                }
            }
        }
        Ok(())
    };
    remove(&arguments.hooks_dir, HOOKS.iter().rev().map(|hook| hook.file).collect())?;
    if keep {
        report("removed", &removed, json.then_some(&Removed { removed: &removed }))?;
        return match json {
            true => Ok(()),
            false => show::lines(&["the hook executables stay: they are the package's, and go with it"]),
        };
    }
    remove(&arguments.bin_dir, HOOKS.iter().rev().map(|hook| hook.stage.program()).collect())?;
    report("removed", &removed, json.then_some(&Removed { removed: &removed }))
}

fn report(what: &str, paths: &[PathBuf], json: Option<&impl Serialize>) -> Result<()> {
    if let Some(answer) = json {
        return show::json(answer);
    }
    let lines: Vec<String> = paths.iter().map(|path| format!("{what} {}", path.display())).collect();
    show::lines(&lines)
}

/// Whether this command is a package's. Where there is a package, no other may touch what is the package's.
fn is_packaged(arguments: &Arguments) -> Result<bool> {
    if !Path::new(PACKAGED).exists() {
        return Ok(false);
    }
    if arguments.from.is_none() && own_directory()? == Path::new(PACKAGED_COMMAND) {
        return Ok(true);
    }
    for directory in [&arguments.bin_dir, &arguments.hooks_dir] {
        if [BIN_DIR, HOOKS_DIR].map(Path::new).contains(&directory.as_path()) {
            return Err(Error::new(
                Cause::Install,
                format!("what lies in {} is a package's, as {PACKAGED} says", directory.display()),
            )
            .remedy("upgrade or remove the package with dpkg or rpm, or give --bin-dir and --hooks-dir of your own"));
        }
    }
    Ok(false)
}

fn own_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().because(Cause::Install, || "this command cannot find itself".to_owned())?;
    exe.parent().map(Path::to_owned).ok_or_else(|| Error::new(Cause::Install, "this command cannot find itself"))
}

fn directory(path: &Path) -> Result<trusted::Directory> {
    let path = std::path::absolute(path).because(Cause::Install, || path.display().to_string())?;
    trusted::open_dir(&path, Missing::Make(0o755))?
        .ok_or_else(|| Error::new(Cause::Install, format!("{} cannot be made", path.display())))
}

/// Writes a file under a temporary name that is no `*.json`, then renames it: whoever watches sees a whole file.
fn write(directory: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let doing = || format!("{name} cannot be written");
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let mut file = File::from(sys::open_file_at(directory, &temporary, flags, mode).because(Cause::Install, doing)?);
    let finish = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .because(Cause::Install, doing)
        .and_then(|()| sys::chmod(&file, mode).because(Cause::Install, doing))
        .and_then(|()| sys::rename_over(directory, &temporary, name).because(Cause::Install, doing));
    if finish.is_err() {
        // The failure above is what there is to tell.
        let _ = sys::unlink_at(directory, OsStr::new(&temporary), false);
    }
    finish
}

fn fill(hook: &Hook, bin_dir: &Path, config: Option<&Path>, every_container: bool) -> Result<String> {
    let wrong = |error: serde_json::Error| Error::new(Cause::Install, format!("{}: {error}", hook.file));
    let mut value: Value = serde_json::from_str(hook.template).map_err(wrong)?;
    let program = hook.stage.program();
    value["hook"]["path"] = bin_dir.join(program).to_string_lossy().into();
    if let Some(config) = config {
        value["hook"]["args"] = serde_json::json!([program, "--config", config]);
    }
    if every_container {
        value["when"] = serde_json::json!({ "always": true });
    }
    serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(wrong)
}

/// Refuses what is no static ELF executable: a hook with an interpreter can be made to load a library.
fn check_static(bytes: &[u8]) -> std::result::Result<(), &'static str> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    // elf(5): 64-bit, little-endian; e_phoff at 32, e_phentsize at 54, e_phnum at 56; PT_INTERP is 3.
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("is no 64-bit ELF executable");
    }
    let headers = (|| Some((u64_at(32)?, u16_at(54)?, u16_at(56)?)))();
    let Some((offset, size, count)) = headers else { return Err("is truncated") };
    for index in 0..u64::from(count) {
        let at = usize::try_from(offset + index * u64::from(size)).unwrap_or(usize::MAX);
        match u32_at(at.min(bytes.len())) {
            Some(3) => return Err("has an ELF interpreter, so it is not static"),
            Some(_) => {}
            None => return Err("is truncated"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_not_static_and_garbage_is_no_executable() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(check_static(&shell), Err("has an ELF interpreter, so it is not static"));
        assert!(check_static(b"#!/bin/sh\n").is_err());
        assert_eq!(check_static(&shell[..60]), Err("is truncated"));
    }

    #[test]
    fn files_name_the_executable_and_the_configuration() {
        for hook in &HOOKS {
            let filled = |every_container| {
                let text = fill(hook, Path::new("/opt/x"), Some(Path::new("/opt/c.json")), every_container).unwrap();
                serde_json::from_str::<Value>(&text).unwrap()
            };
            let value = filled(false);
            assert_eq!(filled(true)["when"], serde_json::json!({ "always": true }));
            assert!(value["when"]["annotations"].is_object());
            assert_eq!(value["hook"]["path"], format!("/opt/x/{}", hook.stage.program()));
            assert_eq!(value["hook"]["args"][2], "/opt/c.json");
            assert_eq!(value["stages"].as_array().unwrap().len(), 1);
        }
    }
}
