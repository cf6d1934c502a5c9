//! Examples of each verb, for `--help` and the manual pages.
#![forbid(unsafe_code)]

use clap::Command;

/// The words of a verb, and command lines with it.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "",
        "fs-isolator volume create db
podman run --rm --annotation io.fs-isolator.volumes=db:data IMAGE ls /mnt/mesos/sandbox/data
fs-isolator status",
    ),
    ("volume create", "fs-isolator volume create --role team-a --owner 1000:1000 db"),
    ("volume list", "fs-isolator volume list --json"),
    ("volume inspect", "fs-isolator volume inspect --role team-a db"),
    ("volume destroy", "fs-isolator volume destroy --yes --role team-a db"),
    ("sandbox create", "fs-isolator sandbox create --owner 1000:1000 web"),
    ("adopt", "fs-isolator adopt --json"),
    ("plan", "fs-isolator plan --annotation io.fs-isolator.volumes=db:data /run/bundles/web"),
    ("attach", "fs-isolator attach web db:/srv/db certs:/etc/certs:ro"),
    ("detach", "fs-isolator detach web /srv/db"),
    ("update", "fs-isolator update web db:/srv/db logs:/var/log/app"),
    ("authorize", "fs-isolator authorize --namespace team-a --role team-a/db"),
    ("logs", "fs-isolator logs web"),
    ("doctor", "fs-isolator doctor --hooks-dir /etc/containers/oci/hooks.d"),
    ("explain", "fs-isolator explain 41"),
    ("host", "fs-isolator host --unit-dir /etc/systemd/system"),
    ("install", "fs-isolator install --from target/release"),
    ("config", "fs-isolator config --token"),
    ("generate man", "fs-isolator generate man /usr/local/share/man"),
    ("generate completions", "fs-isolator generate completions bash > /etc/bash_completion.d/fs-isolator"),
    ("generate schemas", "fs-isolator generate schemas /usr/local/share/fs-isolator/schemas"),
];

/// What help calls them.
pub const HEADING: &str = "Examples:";

/// The examples of a verb, given by its words.
#[must_use]
pub fn of(words: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(verb, _)| *verb == words).map(|(_, lines)| *lines)
}

/// Adds them to the help of each verb.
#[must_use]
pub fn add(command: Command) -> Command {
    add_below(command, "")
}

fn add_below(mut command: Command, words: &str) -> Command {
    if let Some(lines) = of(words) {
        let lines: Vec<String> = lines.lines().map(|line| format!("  {line}")).collect();
        command = command.after_long_help(format!("{HEADING}\n{}", lines.join("\n")));
    }
    let names: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for name in names {
        let words = format!("{words} {name}").trim_start().to_owned();
        command = command.mut_subcommand(&name, |verb| add_below(verb, &words));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_a_command_line_of_its_verb() {
        for (words, lines) in EXAMPLES {
            for line in lines.lines().filter(|line| line.starts_with("fs-isolator ")) {
                let line = line.split(" > ").next().unwrap();
                let parsed = crate::cli::command().try_get_matches_from(line.split(' '));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(line.starts_with(&format!("fs-isolator {words}")), "{line}");
            }
        }
    }

    #[test]
    fn help_shows_them() {
        let mut command = crate::cli::command();
        command.build();
        let create = command.find_subcommand_mut("volume").unwrap().find_subcommand_mut("create").unwrap();
        assert!(create.render_long_help().to_string().contains(of("volume create").unwrap()));
    }
}
