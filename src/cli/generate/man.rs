//! The manual pages: section 8 from the command line's definitions, section 5 from `docs/man`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::markdown;
use crate::cli::{examples, install, show};
use crate::clock;
use crate::config::{self, Config};
use crate::error::{Because, Cause, Result};
use crate::hook::{self, stage::Stage};
use crate::me::Me;

/// The pages of section 5, by their names.
const TEXTS: [(&str, &str); 2] = [
    ("fs-isolator.json", include_str!("../../../docs/man/fs-isolator.json.5.md")),
    ("fs-isolator-annotations", include_str!("../../../docs/man/fs-isolator-annotations.5.md")),
];

/// The manual to which the pages belong.
const MANUAL: &str = "fs-isolator";

/// Writes all pages, and tells which.
///
/// # Errors
/// [`Cause::Usage`].
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    let date = date();
    let mut written = Vec::new();
    let mut put = |section: &str, name: &str, text: String| -> Result<()> {
        let path = directory.join(format!("man{section}/{name}.{section}"));
        show::file(&path, &text).because(Cause::Usage, || format!("{} cannot be written", path.display()))?;
        written.push(path);
        Ok(())
    };
    let mut command = super::super::command().disable_help_subcommand(true);
    command.build();
    let mut verbs = Vec::new();
    collect(&command, "", &mut verbs);
    for (words, verb) in &verbs {
        put("8", &page_name(verb), verb_page(verb, words, &date)?)?;
    }
    for stage in Stage::ALL {
        put("8", stage.program(), hook_page(stage, &date)?)?;
    }
    for (name, text) in TEXTS {
        put("5", name, text_page(name, text, &date))?;
    }
    Ok(written)
}

/// Of the release, where a packager says so, that the same source makes the same pages.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    clock::utc(given.unwrap_or_else(clock::now)).chars().take(10).collect()
}

fn collect<'a>(command: &'a Command, words: &str, all: &mut Vec<(String, &'a Command)>) {
    all.push((words.to_owned(), command));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        collect(verb, format!("{words} {}", verb.get_name()).trim_start(), all);
    }
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn verb_page(verb: &Command, words: &str, date: &str) -> Result<String> {
    let mut page = start(verb, date)?;
    let roff = &mut page.roff;
    if let Some(lines) = examples::of(words) {
        roff.control("SH", ["EXAMPLES"]);
        markdown::example(roff, &lines.lines().collect::<Vec<_>>());
    }
    roff.control("SH", ["EXIT STATUS"]);
    let mut also: Vec<String> = TEXTS.iter().map(|(name, _)| format!("{name}(5)")).collect();
    if words.is_empty() {
        exit_codes(roff);
        files(roff);
        also.extend(verb.get_subcommands().map(|verb| format!("{}(8)", page_name(verb))));
        also.extend(Stage::ALL.iter().map(|stage| format!("{}(8)", stage.program())));
        also.push("podman-run(1)".to_owned());
    } else {
        roff.text(markdown::inline(
            "0 on success; else the cause's code, all of which are listed in `fs-isolator`(8).",
        ));
        also.push("fs-isolator(8)".to_owned());
        also.extend(verb.get_subcommands().map(|verb| format!("{}(8)", page_name(verb))));
    }
    Ok(page.end(also))
}

fn hook_page(stage: Stage, date: &str) -> Result<String> {
    let mut command =
        Command::new(stage.program()).version(env!("CARGO_PKG_VERSION")).about(stage.purpose().trim_end_matches('.'));
    command = command.disable_help_flag(true).disable_version_flag(true);
    for (name, value, meaning) in hook::OPTIONS {
        let option = Arg::new(name).long(name).help(meaning);
        command = command.arg(match value {
            Some(value) => option.value_name(value),
            None => option.action(ArgAction::SetTrue),
        });
    }
    let mut page = start(&command, date)?;
    let roff = &mut page.roff;
    roff.control("SH", ["STANDARD INPUT"]);
    roff.text(markdown::inline(&hook::manner().replace('\n', " ")));
    roff.control("SH", ["EXIT STATUS"]);
    exit_codes(roff);
    files(roff);
    let also = ["fs-isolator(8)", "fs-isolator.json(5)", "fs-isolator-annotations(5)", "oci-hooks(5)"];
    Ok(page.end(also.map(str::to_owned).into()))
}

fn text_page(name: &str, text: &str, date: &str) -> String {
    let mut roff = Roff::new();
    roff.control("TH", [name, "5", date, source().as_str(), MANUAL]);
    let (title, text) = text.split_once('\n').unwrap_or((text, ""));
    roff.control("SH", ["NAME"]);
    roff.text([roman(title.trim_start_matches("# "))]);
    roff.control("SH", ["DESCRIPTION"]);
    markdown::append(&mut roff, text);
    roff.render()
}

fn source() -> String {
    format!("fs-isolator {}", env!("CARGO_PKG_VERSION"))
}

/// A page of which the beginning is clap's.
struct Page {
    clap: String,
    roff: Roff,
}

fn start(command: &Command, date: &str) -> Result<Page> {
    let man = Man::new(command.clone()).section("8").date(date).source(source()).manual(MANUAL);
    let mut text = Vec::new();
    let mut parts = || -> std::io::Result<()> {
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut text)?;
        }
        if command.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        text.flush()
    };
    parts().because(Cause::Usage, || "a manual page".to_owned())?;
    // An option's possible values come after a line of nothing between two breaks, of which mandoc warns.
    let clap = String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.sp\n");
    Ok(Page { clap, roff: Roff::new() })
}

impl Page {
    fn end(mut self, mut also: Vec<String>) -> String {
        self.roff.control("SH", ["SEE ALSO"]);
        also.sort();
        also.dedup();
        self.roff.text([roman(also.join(", "))]);
        self.clap + &self.roff.render()
    }
}

fn exit_codes(roff: &mut Roff) {
    for cause in Cause::ALL {
        roff.control("TP", []);
        roff.text([bold(cause.code().to_string())]);
        roff.text([roman(format!("{}: {}", cause.title(), cause.remedy()))]);
    }
}

fn files(roff: &mut Roff) {
    let config = Config::default_for(&Me { user: None, uid: 0, gid: 0, in_namespace: false });
    let shown = |path: &Path| path.display().to_string();
    roff.control("SH", ["FILES"]);
    for (path, meaning) in [
        (config::DEFAULT_PATH.to_owned(), "the configuration, fs-isolator.json(5)"),
        (shown(&config.work_dir), "volumes and sandboxes (work_dir)"),
        (shown(&config.runtime_dir), "records, leases and logs (runtime_dir); gone after a reboot"),
        (install::HOOKS_DIR.to_owned(), "hooks.d files, which podman and CRI-O read"),
        (install::BIN_DIR.to_owned(), "hook executables"),
    ] {
        roff.control("TP", []);
        roff.text([bold(path)]);
        roff.text([roman(meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn headings(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect()
    }

    #[test]
    fn the_configuration_page_has_each_key_once_with_the_default_that_counts() {
        let text = TEXTS[0].1;
        let (mut found, mut keys) = (headings(text), config::KEYS.to_vec());
        found.sort_unstable();
        keys.sort_unstable();
        assert_eq!(found, keys);
        let defaults = Config::parse(b"{}").unwrap();
        let mut checked = 0;
        for section in text.split("### `").skip(1) {
            let (key, rest) = section.split_once('`').unwrap();
            let Some((_, default)) = rest.split_once("\n\nDefault: ") else { continue };
            let Some((value, _)) = default.strip_prefix('`').and_then(|rest| rest.split_once('`')) else { continue };
            let with = Config::parse(format!("{{\"{key}\": {value}}}").as_bytes()).unwrap();
            assert_eq!(with, defaults, "{key}: {value} is not the default");
            checked += 1;
        }
        assert!(checked >= 10, "{checked} defaults were looked at");
    }

    #[test]
    fn the_annotations_page_has_each_key_once() {
        let found = headings(TEXTS[1].1);
        let keys: Vec<String> = request::KEYS.iter().map(|key| format!("{}{key}", request::PREFIX)).collect();
        assert_eq!(found, keys);
    }
}
