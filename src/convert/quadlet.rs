//! Quadlet files: units of systemd from which podman makes services (podman-systemd.unit(5), podman 4.4 or newer).
#![forbid(unsafe_code)]

use super::fields::Leftovers;
use super::podman::{annotations, environment, image, labels, options, published};
use super::words::is_text;
use super::{Known, Unit, Workload, refused};
use crate::error::Result;

/// Writes a .container file for each container, and a .pod file for a pod.
pub fn write(workload: &Workload, known: &Known, left: &Leftovers, needs: &mut Vec<String>) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    if workload.is_pod {
        let mut file = vec!["[Pod]".to_owned(), format!("PodName={}", workload.name)];
        network(workload, workload.containers.iter(), &mut file)?;
        install(&mut file);
        units.push(Unit { name: format!("{}.pod", workload.name), content: text(&file) });
        needs.push("Quadlet knows pods from podman 5.0 on".to_owned());
    }
    for container in &workload.containers {
        let name =
            if workload.is_pod { format!("{}-{}", workload.name, container.name) } else { container.name.clone() };
        // A hook that refuses does so again at once: the reason stays in sight.
        let mut file = vec!["[Container]".to_owned(), format!("ContainerName={name}")];
        file.push(format!("Image={}", image(container, known)?));
        if workload.is_pod {
            file.push(format!("Pod={}.pod", workload.name));
        } else {
            network(workload, std::iter::once(container), &mut file)?;
        }
        for (key, value) in environment(container, left) {
            file.push(format!("Environment={}", word(&format!("{key}={value}"))?));
        }
        for (key, value) in annotations(container) {
            file.push(format!("Annotation={}", word(&format!("{key}={value}"))?));
        }
        for (key, value) in labels(workload, container, left) {
            file.push(format!("Label={}", word(&format!("{key}={value}"))?));
        }
        // In one line: an older podman adds up no more than that.
        let options = options(workload, container, left, needs)?;
        if !options.is_empty() {
            file.push(format!("PodmanArgs={}", words(&options)?));
        }
        if !container.arguments.is_empty() {
            file.push(format!("Exec={}", words(&container.arguments)?));
        }
        file.extend(["", "[Service]", "Restart=always"].map(str::to_owned));
        install(&mut file);
        units.push(Unit { name: format!("{name}.container"), content: text(&file) });
    }
    Ok(units)
}

fn install(file: &mut Vec<String>) {
    file.extend(["", "[Install]", "WantedBy=multi-user.target"].map(str::to_owned));
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn network<'c>(
    workload: &Workload,
    containers: impl Iterator<Item = &'c super::Container>,
    file: &mut Vec<String>,
) -> Result<()> {
    if workload.host_network {
        file.push("Network=host".to_owned());
    }
    for port in containers.flat_map(|container| &container.ports) {
        file.push(format!("PublishPort={}", published(port)));
    }
    if let Some(name) = &workload.hostname {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        if !name.chars().all(plain) {
            return Err(refused(format!("{name:?} is not the name of a host")));
        }
        file.push(format!("PodmanArgs=--hostname {name}"));
    }
    Ok(())
}

fn words(all: &[String]) -> Result<String> {
    Ok(all.iter().map(|one| word(one)).collect::<Result<Vec<_>>>()?.join(" "))
}

/// A word by systemd's rules (systemd.syntax(7), systemd.service(5)): quoted, with escapes of C, and with what a service's
/// command line would expand, `%` and `$`, doubled. Quadlet takes the quotes off and puts the rest into that line.
pub(super) fn word(word: &str) -> Result<String> {
    // Without quotes, which Quadlet does not write again, it ends a command.
    if word == ";" {
        return Err(refused("an argument that is only ; ends a command of systemd")
            .remedy("write a script into the image, or convert to podman"));
    }
    // Seen with podman 5.4: the command ends there.
    if word.is_empty() {
        return Err(refused("Quadlet loses an empty argument, and all that follow")
            .remedy("write a script into the image, or convert to podman"));
    }
    if !is_text(word) {
        return Err(refused(format!("{word:?} has control characters, which no unit can show")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@+#".contains(c);
    if word.chars().all(plain) {
        return Ok(word.to_owned());
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_by_systemds_rules() {
        for (plain, written) in [
            ("a=b", "a=b"),
            ("a b", "\"a b\""),
            ("100%n", "\"100%%n\""),
            ("$HOME ${X}", "\"$$HOME $${X}\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("it's", "\"it's\""),
            ("two\nlines\t.", "\"two\\nlines\\t.\""),
            ("a;b", "\"a;b\""),
            ("ü", "\"ü\""),
        ] {
            assert_eq!(word(plain).unwrap(), written);
        }
        for bad in [";", "", "\x1b[2J", "\r", "\0"] {
            assert!(word(bad).is_err(), "{bad:?}");
        }
    }
}
