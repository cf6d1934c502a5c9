//! `fs-isolator generate`: what packages and installations need, from the definitions that parse the command line.
#![forbid(unsafe_code)]

mod man;
mod markdown;
mod schemas;

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use super::show;
use crate::error::Result;

/// Verbs, one for each kind.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write all manual pages below a directory, as man5/ and man8/
    Man {
        /// The directory; what is missing is made. The date in the pages is SOURCE_DATE_EPOCH's, if that is set
        dir: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write JSON schemas of the configuration and of what each verb prints with --json
    Schemas {
        /// The directory; what is missing is made
        dir: PathBuf,
    },
}

/// Files that were written.
#[derive(Serialize, JsonSchema)]
pub struct Written {
    /// Their paths.
    written: Vec<PathBuf>,
}

/// Completions.
#[derive(Serialize, JsonSchema)]
pub struct Completions {
    /// For which shell.
    shell: String,
    /// The text that the shell reads.
    completions: String,
}

/// Runs a verb.
///
/// # Errors
/// [`crate::error::Cause::Usage`] where the output cannot be written.
pub fn run(verb: &Verb, json: bool) -> Result<()> {
    match verb {
        Verb::Man { dir } => tell(man::write(dir)?, json),
        Verb::Schemas { dir } => tell(schemas::write(dir)?, json),
        Verb::Completions { shell } => {
            let text = completions(*shell);
            if json {
                return show::json(&Completions { shell: shell.to_string(), completions: text });
            }
            show::lines(&[text.trim_end()])
        }
    }
}

fn tell(written: Vec<PathBuf>, json: bool) -> Result<()> {
    if json {
        return show::json(&Written { written });
    }
    show::lines(&written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "fs-isolator", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;

    /// A verb by its words, and its long options.
    fn verbs(command: &Command, words: &[&str], all: &mut Vec<(Vec<String>, Vec<String>)>) {
        let options = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect();
        all.push((words.iter().map(|word| (*word).to_owned()).collect(), options));
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            verbs(verb, &[words, &[verb.get_name()]].concat(), all);
        }
    }

    #[test]
    fn help_manual_pages_and_completions_agree() {
        let directory = std::env::temp_dir().join(format!("fs-isolator-generate-{}", std::process::id()));
        man::write(&directory).unwrap();
        let mut command = crate::cli::command().disable_help_subcommand(true);
        command.build();
        let mut all = Vec::new();
        verbs(&command, &[], &mut all);
        assert!(all.len() > 20, "{}", all.len());
        let shells = [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| (shell, completions(shell)));
        for (words, options) in &all {
            let name = [&["fs-isolator".to_owned()], words.as_slice()].concat().join("-");
            let page = std::fs::read_to_string(directory.join(format!("man8/{name}.8"))).unwrap().replace("\\-", "-");
            let mut verb = &mut command;
            for word in words {
                verb = verb.find_subcommand_mut(word).unwrap();
            }
            let help = verb.render_long_help().to_string();
            let label = [&["fs".to_owned(), "isolator".to_owned()], words.as_slice()].concat().join("__subcmd__");
            let bash = shells[0].1.split(&format!(" {label})\n")).nth(1);
            let bash = bash.and_then(|rest| rest.lines().next());
            for option in options {
                assert!(page.contains(&format!("\\fB--{option}\\fR")), "--{option} is not in {name}(8)");
                assert!(help.contains(&format!("--{option}")), "--{option} is not in the help of {name}");
                if let Some(bash) = bash {
                    assert!(
                        bash.contains(&format!("--{option} ")) || bash.contains(&format!("--{option}\"")),
                        "{name} --{option}: {bash}"
                    );
                }
                for (shell, text) in &shells {
                    let shown = if *shell == Shell::Fish { format!(" -l {option} ") } else { format!("--{option}") };
                    assert!(text.contains(&shown), "--{option} of {name} is not in the completions of {shell}");
                }
            }
            assert!(words.is_empty() || bash.is_some(), "{name} is not in the completions of bash: {label}");
            for (shell, text) in &shells {
                assert!(words.iter().all(|word| text.contains(word.as_str())), "{name} is not in those of {shell}");
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
