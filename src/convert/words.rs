//! What Marathon's and Mesos's definitions have in common, and what they may contain.
#![forbid(unsafe_code)]

use super::fields::{Fields, Leftovers};
use super::{Container, Health};

/// A port; 0 is one that the scheduler chooses.
pub fn number_of_port(fields: &mut Fields<'_>, key: &str) -> Option<u16> {
    fields.port(key).filter(|port| *port != 0)
}

/// A line for a shell, or words of which an image's entry point may take the first.
pub fn command(container: &mut Container, shell: Option<String>, words: Vec<String>) {
    match shell {
        Some(line) => {
            container.entrypoint = Some("/bin/sh".to_owned());
            container.arguments = vec!["-c".to_owned(), line];
        }
        None => container.arguments = words,
    }
}

/// Grace, interval, timeout and failures of a check.
pub fn health_times(check: &mut Fields<'_>, health: &mut Health, keys: [&str; 4]) {
    let [grace, interval, timeout, failures] = keys;
    health.grace = check.whole(grace);
    health.interval = check.whole(interval);
    health.timeout = check.whole(timeout);
    health.failures = check.whole(failures);
}

/// Whether a text can stand in a command line or a file: other control characters can move a terminal's cursor, and no
/// program wants them there.
pub fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

/// The environment as far as it can be written; the rest is listed.
pub fn texts<'c>(
    at: &str,
    named: impl Iterator<Item = (&'c String, &'c String)>,
    left: &Leftovers,
) -> Vec<(String, String)> {
    let mut good = Vec::new();
    for (name, value) in named {
        let is_name = !name.is_empty() && !name.contains(['=', '\n', '\t']) && is_text(name);
        if is_name && is_text(value) {
            good.push((name.clone(), value.clone()));
        } else {
            let what = if is_name { "its value has control characters" } else { "it cannot be a name here" };
            left.add(format!("{at} {name:?}"), None, what);
        }
    }
    good
}
