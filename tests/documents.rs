//! The documents: each command in them is run as it stands there, or says why not; links lead somewhere, verbs and options
//! are those of the program. The convention stands in `common/documents.rs`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/documents.rs"]
mod documents;
#[path = "common/throw_away.rs"]
mod throw_away;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::*;
use documents::{Block, NOT_RUN, Page, REFUSED, pages, project};
use regex::Regex;
use throw_away::{install, seed_image, throw_away_changes};

/// Pages whose commands are run, each by a test of its name.
macro_rules! run_pages {
    ($($test:ident: $page:literal $how:expr;)*) => {
        /// Their names.
        const RUN: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $test() {
                follow($page, $how);
            }
        )*
    };
}

/// What the machine has before a page is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// Nothing of this project.
    Bare,
    /// This project, installed.
    Installed,
}

run_pages! {
    readme: "README.md" Machine::Bare;
    configuration: "docs/configuration.md" Machine::Installed;
    first_volume: "docs/first-volume.md" Machine::Installed;
    kubernetes: "docs/kubernetes.md" Machine::Installed;
    running_containers: "docs/running-containers.md" Machine::Installed;
    volumes: "docs/volumes.md" Machine::Installed;
    later_mounts: "docs/later-mounts.md" Machine::Installed;
    recovery: "docs/recovery.md" Machine::Installed;
    tenants: "docs/tenants.md" Machine::Installed;
    upgrading: "docs/upgrading.md" Machine::Installed;
    user_namespaces: "docs/user-namespaces.md" Machine::Installed;
    examples_kubernetes: "examples/kubernetes/README.md" Machine::Installed;
    examples_quadlet: "examples/quadlet/README.md" Machine::Installed;
    examples_crun: "examples/crun/README.md" Machine::Installed;
    examples_podman: "examples/podman/README.md" Machine::Installed;
    examples_runc: "examples/runc/README.md" Machine::Installed;
}

/// Pages that need a machine of another kind, and the test that runs their commands.
const RUN_ELSEWHERE: &[(&str, &str)] = &[("docs/leaving-mesos.md", "tests/leaving_mesos.rs")];

/// Stands before the output of each block.
const MARK: &str = "@@ block ";

/// Runs all blocks of a page, in order and in one shell, on a machine that is thrown away.
fn follow(name: &'static str, machine: Machine) {
    on(Host::Shared, move || {
        throw_away_changes();
        let _images = seed_image();
        match machine {
            // Hooks lie beside it there, as after a build.
            Machine::Bare => fs::remove_file("/usr/bin/fs-isolator").unwrap(),
            Machine::Installed => install(),
        }
        let page = Page::read(name);
        let ran = run_with(
            Command::new("timeout").args(["3000", "bash", "-c", &script(&page)]).current_dir(page.folder()),
            b"",
        );
        assert!(ran.code == 0, "{name}: exit {}\n{}", ran.code, ran.out);
        let faults = unlike(&page, &ran.out);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

/// One script of a page's blocks. A block ends the script where it fails, or where it should and does not.
fn script(page: &Page) -> String {
    let mut script = "set -euo pipefail\nexec 2>&1\n".to_owned();
    for (number, block) in page.blocks().iter().enumerate().filter(|(_, block)| block.is_run()) {
        script += &format!("echo '{MARK}{number}, line {}'\n", block.line);
        if block.text.starts_with(REFUSED) {
            script += &format!("set +e\n(set -e\n{}\n)\ncode=$?\nset -e\n", block.text);
            script += "[ $code != 0 ] || { echo 'it is not refused'; exit 1; }\n";
        } else {
            script += &block.text;
        }
    }
    script
}

/// Blocks of `text` that are not what the commands before have printed.
fn unlike(page: &Page, output: &str) -> Vec<String> {
    let blocks = page.blocks();
    let mut faults = Vec::new();
    for (number, pair) in blocks.windows(2).enumerate() {
        let (command, shown): (&Block, &Block) = (&pair[0], &pair[1]);
        if !command.is_run() || shown.language != "text" || !shown.follows {
            continue;
        }
        let (_, printed) = output.split_once(&format!("{MARK}{number}, line {}\n", command.line)).unwrap();
        let printed = printed.split(MARK).next().unwrap_or_default();
        if !pattern(&shown.text).is_match(printed) {
            faults.push(format!("{}:{}: the page shows\n{}\nand it was\n{printed}", page.name, shown.line, shown.text));
        }
    }
    faults
}

fn pattern(text: &str) -> Regex {
    let lines = text.lines().map(|line| match line {
        "…" => "(?:.*\n)*?".to_owned(),
        line => format!("{} *\n", regex::escape(line).replace('…', ".*")),
    });
    Regex::new(&format!("^{}$", lines.collect::<String>())).unwrap()
}

#[test]
fn each_command_is_run_or_says_why_not() {
    let mut faults = Vec::new();
    for page in pages() {
        faults.extend(page.faults());
        let runs = page.blocks().iter().any(Block::is_run);
        let elsewhere = RUN_ELSEWHERE.iter().find(|(name, _)| *name == page.name);
        if let Some((name, test)) = elsewhere {
            let test = fs::read_to_string(project().join(test)).unwrap();
            assert!(runs && test.contains(&format!("{name:?}")), "{name}");
        } else if runs != RUN.contains(&page.name.as_str()) {
            let what = if runs { "has commands and no test: add it to run_pages!" } else { "has no command to be run" };
            faults.push(format!("{}: {what}", page.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// The check can fail: each of these is found, and what is right is not.
#[test]
fn a_command_that_is_neither_run_nor_marked_is_found() {
    let faults = |text: &str| Page { name: "page".to_owned(), text: text.to_owned() }.faults();
    for wrong in [
        "As root:\n\n    fs-isolator install\n",
        "```\nfs-isolator install\n```\n",
        "```bash\nfs-isolator install\n```\n",
        "```text\nfs-isolator install\n```\n",
        "```text\n$ true or not\n```\n",
        "```yaml\nkind: Pod\nkubectl apply -f pod.yaml\n```\n",
        "```sh\n# Not run here:\nkubectl apply -f pod.yaml\n```\n",
        "```sh\n# only words\n```\n",
    ] {
        assert!(!faults(wrong).is_empty(), "{wrong}");
    }
    for right in [
        "```sh\nfs-isolator install\n```\n",
        "```sh\n# Not run here: it needs a cluster.\nkubectl apply -f pod.yaml\n```\n",
        "```ini\n# a comment\n[Container]\n```\n",
        "```text\nThe output, with podman in it\n```\n",
        "```sh\npodman --version\n```\n\n```text\npodman version 4\n```\n",
    ] {
        assert_eq!(faults(right), Vec::<String>::new(), "{right}");
    }
}

#[test]
fn what_a_page_shows_is_compared_with_what_was_printed() {
    let page = Page { name: "page".to_owned(), text: "```sh\ntrue\n```\n\n```text\na … c\n…\nz\n```\n".to_owned() };
    let output = |text: &str| format!("{MARK}0, line 2\n{text}");
    assert!(unlike(&page, &output("a b c\n1\n2\nz\n")).is_empty());
    assert_eq!(unlike(&page, &output("a b\nz\n")).len(), 1);
    assert_eq!(unlike(&page, &output("a b c\nz\nmore\n")).len(), 1);
}

/// Extensions of files that a command is given.
const FILES: [&str; 9] = [".yaml", ".json", ".hcl", ".toml", ".conf", ".service", ".timer", ".container", ".md"];

// A command that cannot be run here is at least given files that are there.
#[test]
fn files_of_commands_that_are_not_run_are_there() {
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.text.starts_with(NOT_RUN)) {
            let lines = block.text.lines().skip(1).filter(|line| !line.starts_with("systemctl "));
            // What stands behind > is made.
            for word in lines.flat_map(|line| line.split('>').next().unwrap_or_default().split_whitespace()) {
                if !word.contains(['/', '=']) && FILES.iter().any(|end| word.ends_with(end)) {
                    assert!(page.folder().join(word).exists(), "{}:{}: {word}", page.name, block.line);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn links_lead_to_files_and_headings() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut faults = Vec::new();
    for page in pages() {
        for (line, text) in page.prose() {
            for target in link.captures_iter(text).map(|found| found[1].to_owned()) {
                if target.contains("://") {
                    continue;
                }
                let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let own = project().join(&page.name);
                let file = if path.is_empty() { own.clone() } else { own.parent().unwrap().join(path) };
                if !file.exists() || (!anchor.is_empty() && !headings(&file).contains(&anchor.to_owned())) {
                    faults.push(format!("{}:{line}: {target}", page.name));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Anchors that code hosting sites make of a page's headings.
fn headings(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let titles = text.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    let plain = |title: &str| title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    titles.map(|title| plain(&title.to_lowercase()).replace(' ', "-")).collect()
}

#[test]
fn each_page_is_in_the_readme() {
    let readme = Page::read("README.md").text;
    let missing: Vec<String> = pages()
        .into_iter()
        .map(|page| page.name)
        .filter(|name| name != "README.md")
        .filter(|name| {
            let folder = name.strip_suffix("/README.md").unwrap_or(name);
            !readme.contains(&format!("({name})")) && !readme.contains(&format!("({folder})"))
        })
        .collect();
    assert!(missing.is_empty(), "README.md's table of where to go lacks {missing:?}");
}

// Long pages are not read. These are written by a run, or are lists.
const MAY_BE_LONG: [&str; 1] = ["docs/propagation.md"];

#[test]
fn pages_are_short_and_begin_with_what_they_are_for() {
    for page in pages() {
        let lines: Vec<&str> = page.text.lines().collect();
        assert!(lines.len() <= 250 || MAY_BE_LONG.contains(&page.name.as_str()), "{}: {}", page.name, lines.len());
        let sentence =
            lines[2].trim_start_matches('`').starts_with(char::is_alphabetic) && !lines[2].starts_with("```");
        let begins = lines[0].starts_with("# ") && lines[1].is_empty() && sentence;
        assert!(begins, "{}: a title, and a sentence that says what it is for", page.name);
    }
}

// In sentences, and in commands that are not run.
#[test]
fn verbs_and_options_are_those_of_the_program() {
    let call = Regex::new(r"^fs-isolator((?: [a-z]+\b)+)(.*)$").unwrap();
    let (span, option) = (Regex::new("`([^`]+)`").unwrap(), Regex::new("--[a-z][a-z-]*").unwrap());
    let mut seen = 0;
    for page in pages() {
        let prose = page.prose();
        let spans = prose.iter().flat_map(|(_, line)| span.captures_iter(line)).map(|found| found[1].to_owned());
        let blocks = page.blocks().into_iter().filter(|block| block.text.starts_with(NOT_RUN));
        let lines = blocks.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        for text in spans.chain(lines) {
            let Some(call) = call.captures(&text) else { continue };
            let help = help_of(&call[1]).unwrap_or_else(|| panic!("{}: no such verb: {text}", page.name));
            for option in option.find_iter(&call[2]) {
                assert!(help.contains(option.as_str()), "{}: no such option: {text}", page.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// What `--help` says of a verb, and of the verb below it if there is one.
fn help_of(words: &str) -> Option<String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let deep = cli(&[&words[..words.len().min(2)], &["--help"]].concat());
    // The second word may be an argument.
    let help = if deep.code == 0 { deep } else { cli(&[words[0], "--help"]) };
    (help.code == 0).then_some(help.out)
}
