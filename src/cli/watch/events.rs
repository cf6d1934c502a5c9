//! What `watch` tells: found by comparing what a container had with what it has, and in the lines of its log.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::clock;
use crate::error::Cause;
use crate::record::{Attached, Header};

/// Digits by which people know a container whose id is a hash.
const SHORT_ID: usize = 12;

/// Length of such an id.
const HASH: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It had this when `watch` began.
    Present,
    /// It got this.
    Attached,
    /// It gave this up and runs on.
    Detached,
    /// It is gone, and its hooks gave this up.
    Released,
    /// It is gone, and somebody else gave this up for it: `reconcile`, or another container's end.
    Reconciled,
    /// A hook has refused it.
    Refused,
    /// Something could not be removed after it.
    Failed,
    /// A hook has warned.
    Warning,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Present => "present",
            Kind::Attached => "attached",
            Kind::Detached => "detached",
            Kind::Released => "released",
            Kind::Reconciled => "reconciled",
            Kind::Refused => "refused",
            Kind::Failed => "failed",
            Kind::Warning => "warning",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Event {
    /// When, in UTC.
    time: String,
    event: Kind,
    /// Id of the container.
    container: String,
    #[serde(flatten)]
    about: About,
}

#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
enum About {
    /// About something that it has or had.
    Volume {
        /// Its bundle.
        bundle: String,
        /// The request's words.
        label: String,
        /// Where, as an absolute path in the container.
        target: String,
        /// `ro` or `rw`.
        mode: &'static str,
        /// `null` for what is no persistent volume.
        role: Option<String>,
        /// Its id within the role.
        id: Option<String>,
        /// The disk it lies on.
        disk: Option<String>,
    },
    /// About a line of its log.
    Line {
        /// The hook that wrote it.
        program: String,
        /// The hook's exit code.
        code: Option<u8>,
        /// The name of the cause.
        cause: Option<&'static str>,
        /// What it says.
        message: String,
    },
}

impl Event {
    /// An event about something that a container has or had, now.
    pub fn of(event: Kind, header: &Header, attached: &Attached) -> Event {
        let volume = attached.volume.as_ref();
        let about = About::Volume {
            bundle: header.bundle.clone(),
            label: attached.label.clone(),
            target: attached.target.clone(),
            mode: if attached.attributes.read_only { "ro" } else { "rw" },
            role: volume.map(|volume| volume.role.to_string()),
            id: volume.map(|volume| volume.id.to_string()),
            disk: volume.map(|volume| volume.disk.clone()),
        };
        Event { time: clock::utc(clock::now()), event, container: header.id.clone(), about }
    }

    /// The event that a line of a container's log tells of, if it does.
    pub fn of_line(container: &str, line: &str) -> Option<Event> {
        let (time, rest) = line.split_once(' ')?;
        // Since the hook began; older logs have none.
        let rest = rest.strip_prefix('+').and_then(|rest| rest.split_once(' ')).map_or(rest, |(_, rest)| rest);
        let (program, rest) = rest.split_once(": ")?;
        let (level, message) = rest.split_once(": ")?;
        let code = message.rsplit_once("[exit ").and_then(|(_, code)| code.strip_suffix(']')?.parse::<u8>().ok());
        let event = match level {
            "warn" => Kind::Warning,
            "error" if program.ends_with("-poststop") => Kind::Failed,
            "error" => Kind::Refused,
            _ => return None,
        };
        Some(Event {
            time: time.to_owned(),
            event,
            container: container.to_owned(),
            about: About::Line {
                program: program.to_owned(),
                code,
                cause: code.and_then(Cause::of).map(Cause::name),
                message: message.to_owned(),
            },
        })
    }

    /// The event for people, in one line.
    pub fn line(&self) -> String {
        let id = &self.container;
        let id = if id.len() == HASH { id.get(..SHORT_ID).unwrap_or(id) } else { id };
        let what = match &self.about {
            About::Volume { label, target, mode, .. } => format!("{label} at {target} ({mode})"),
            About::Line { message, .. } => {
                // The container stands before it already.
                let own = format!("container {}: ", self.container);
                message.strip_prefix(&own).unwrap_or(message).to_owned()
            }
        };
        let text = format!("{}  {:<10}  {id}  {what}", self.time, self.event.name());
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

/// What a container gave up and got between two looks.
pub fn changes(before: &[Attached], after: &[Attached]) -> (Vec<Attached>, Vec<Attached>) {
    let is_in = |all: &[Attached], one: &Attached| {
        all.iter().any(|other| {
            other.target == one.target && other.id == one.id && other.attributes.read_only == one.attributes.read_only
        })
    };
    let gone = before.iter().filter(|one| !is_in(after, one)).cloned().collect();
    (gone, after.iter().filter(|one| !is_in(before, one)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_logs() {
        let line =
            "2026-11-22T15:39:59Z +1.234ms fs-isolator-prestart: error: container web: volume a:b: no; do [exit 41]";
        let event = Event::of_line("web", line).unwrap();
        assert_eq!(event.line(), "2026-11-22T15:39:59Z  refused     web  volume a:b: no; do [exit 41]");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(
            (&json["event"], &json["code"], &json["cause"]),
            (&"refused".into(), &41.into(), &"VolumeUnavailable".into())
        );
        let of = |line: &str| Event::of_line("web", line).map(|event| event.event);
        assert_eq!(of("2026-11-22T15:39:59Z fs-isolator-poststop: error: a: b"), Some(Kind::Failed));
        assert_eq!(of("2026-11-22T15:39:59Z +0.001ms fs-isolator-poststart: warn: a: b"), Some(Kind::Warning));
        for line in ["", "x", "2026-11-22T15:39:59Z +1.000ms steps: 1.234 ms: read 0.100", "t p: info: x: error: y"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
