//! The project's documents: their pages, and the fenced blocks in them.
//!
//! The convention, for everybody who writes a page:
//!
//! - A block of commands is fenced and says `sh`. It is run, unless its first line is `# Not run here: ` and the reason.
//! - All blocks of a page are run in order, in one shell, on a machine of its own that is thrown away.
//! - A block whose first line is `# Refused: ` and why must fail.
//! - A `text` block that follows a block of commands is what they print; `…` stands for anything in a line, and as a line for
//!   any lines.
//! - What is in no `sh` block is no command. There are no blocks that are indented.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Languages of blocks in which nothing is a command.
const OTHER_LANGUAGES: [&str; 7] = ["text", "json", "yaml", "ini", "toml", "hcl", "mermaid"];

/// Programs that a page has people run: a line that begins with one is a command.
const PROGRAMS: [&str; 26] = [
    "$",
    "#",
    "apt",
    "apt-get",
    "cargo",
    "cat",
    "cd",
    "chmod",
    "chown",
    "cp",
    "crictl",
    "crun",
    "docker",
    "dpkg",
    "fs-isolator",
    "git",
    "install",
    "kubectl",
    "mkdir",
    "mount",
    "nomad",
    "podman",
    "rm",
    "runc",
    "sudo",
    "systemctl",
];

pub const NOT_RUN: &str = "# Not run here: ";
pub const REFUSED: &str = "# Refused: ";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Line of the page on which its text begins, from 1 on.
    pub line: usize,
    pub language: String,
    pub text: String,
    /// Whether only empty lines are between it and the block before.
    pub follows: bool,
}

impl Block {
    pub fn is_command(&self) -> bool {
        self.language == "sh"
    }

    pub fn is_run(&self) -> bool {
        self.is_command() && !self.text.starts_with(NOT_RUN)
    }
}

#[derive(Debug, Clone)]
pub struct Page {
    /// Path in the project.
    pub name: String,
    pub text: String,
}

impl Page {
    pub fn read(name: &str) -> Page {
        Page { name: name.to_owned(), text: fs::read_to_string(project().join(name)).unwrap() }
    }

    /// The folder in which its commands are run: an example's own, else the project's.
    pub fn folder(&self) -> PathBuf {
        let path = project().join(&self.name);
        if self.name.starts_with("examples/") { path.parent().unwrap().to_owned() } else { project() }
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        let mut text_between = true;
        for (number, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (open, fence) {
                (false, Some(language)) => {
                    let language = language.trim().to_owned();
                    blocks.push(Block { line: number + 2, language, text: String::new(), follows: !text_between });
                    open = true;
                }
                (true, Some(_)) => (open, text_between) = (false, false),
                (true, None) => {
                    if let Some(block) = blocks.last_mut() {
                        block.text += line;
                        block.text.push('\n');
                    }
                }
                (false, None) => text_between |= !line.is_empty(),
            }
        }
        blocks
    }

    /// Lines that are in no block, with their numbers.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut open = false;
        let mut prose = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                open = !open;
            } else if !open {
                prose.push((number + 1, line));
            }
        }
        prose
    }

    /// Commands that are neither run nor marked, and what else breaks the convention.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |line: usize, what: String| faults.push(format!("{}:{line}: {what}", self.name));
        let mut after_empty = true;
        for (number, line) in self.prose() {
            // Within a paragraph or a list it is only how that goes on.
            let begins = std::mem::replace(&mut after_empty, line.is_empty());
            if begins && line.starts_with("    ") {
                fault(number, format!("indented; a command is in a ```sh block, anything else in ```text: {line}"));
            }
        }
        let mut after_run = false;
        for block in self.blocks() {
            // What commands print is compared with what they have printed.
            let output = std::mem::replace(&mut after_run, block.is_run()) && block.follows && block.language == "text";
            if block.is_command() {
                let first = block.text.lines().next().unwrap_or_default();
                let reason = first.strip_prefix(NOT_RUN.trim_end());
                if reason.is_some_and(|reason| reason.trim().len() < 8) {
                    fault(block.line, format!("`{NOT_RUN}` gives no reason"));
                }
                if block.text.lines().all(|line| line.is_empty() || line.starts_with('#')) {
                    fault(block.line, "no command in it".to_owned());
                }
                continue;
            }
            if output {
                continue;
            }
            if !OTHER_LANGUAGES.contains(&block.language.as_str()) {
                let known = OTHER_LANGUAGES.join(", ");
                fault(
                    block.line,
                    format!("a block of commands says sh, others one of {known}; not {:?}", block.language),
                );
            }
            // What is a comment in a file is a prompt in `text`.
            let prompt = |word: &str| word != "#" || block.language == "text";
            for (number, line) in block.text.lines().enumerate() {
                let first = line.split(' ').next().unwrap_or_default();
                if line.contains(' ') && PROGRAMS.contains(&first) && prompt(first) {
                    fault(block.line + number, format!("a command that is neither run nor marked: {line}"));
                }
            }
        }
        faults
    }
}

pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, docs/*.md and each README.md below examples/, in order.
pub fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned()];
    let mut todo = vec![PathBuf::from("docs"), PathBuf::from("examples")];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(project().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                todo.push(path);
            } else if is_page(&path) {
                names.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

fn is_page(path: &Path) -> bool {
    let markdown = path.extension().is_some_and(|extension| extension == "md");
    // docs/man is the text of manual pages.
    markdown && (path.parent() == Some(Path::new("docs")) || path.ends_with("README.md"))
}
