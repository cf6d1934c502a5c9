//! journald's native protocol, or syslog's (RFC 3164) where there is no journald: what hooks log goes there too.
//!
//! The socket is made with the first line, so that a hook with nothing to say pays nothing, and always on the host: nothing
//! is logged while a hook is in a container's mount namespace. Nothing waits for a reader: what cannot be taken is dropped.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixDatagram;

use log::Level;

use crate::error::Error;

/// Where journald listens. As for the other, only root can put anything there.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";

/// Longest message that is sent, in bytes; journald would take more only by a descriptor.
const LONGEST: usize = 8 << 10;

/// Longest datagram for syslog, by RFC 3164, in bytes.
const LONGEST_SYSLOG: usize = 1024;

/// syslog's facility for daemons.
const DAEMON: u8 = 3;

/// Digits of a container's id by which people know it, as conmon and Docker send it.
const SHORT_ID: usize = 12;

/// One message.
#[derive(Debug)]
pub struct Entry<'a> {
    /// How grave it is.
    pub level: Level,
    /// The executable.
    pub program: &'a str,
    /// The container's id.
    pub container: &'a str,
    /// The text.
    pub message: &'a str,
    /// The refusal that it tells of, for its fields.
    pub error: Option<&'a Error>,
    /// Microseconds since the hook began.
    pub microseconds: u64,
}

/// Who listens.
#[derive(Debug)]
enum Speaks {
    Journal,
    Syslog,
}

/// An open socket; nothing where nobody listens.
#[derive(Debug)]
pub struct Journal(Option<(UnixDatagram, Speaks)>);

impl Journal {
    /// Looks for journald, then for syslog. Only in the host's mount namespace.
    #[must_use]
    pub fn open() -> Journal {
        let connect = || {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            let places = [(JOURNAL, Speaks::Journal), (SYSLOG, Speaks::Syslog)];
            let (_, speaks) = places.into_iter().find(|(place, _)| socket.connect(place).is_ok())?;
            Some((socket, speaks))
        };
        Journal(connect())
    }

    /// Sends a message. One that is not taken at once is dropped: logging never delays or fails a container.
    pub fn send(&self, entry: &Entry<'_>) {
        let Some((socket, speaks)) = &self.0 else { return };
        let datagram = match speaks {
            Speaks::Journal => native(entry),
            Speaks::Syslog => syslog(entry, std::process::id()),
        };
        let _ = socket.send(&datagram);
    }
}

/// syslog's number for how grave it is.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A datagram of journald's native protocol.
fn native(entry: &Entry<'_>) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(1 << 10);
    let mut add = |name: &str, value: &str| {
        let value = shortened(value, LONGEST);
        datagram.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // Its length comes before it then.
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    };
    add("MESSAGE", entry.message);
    add("PRIORITY", &severity(entry.level).to_string());
    add("SYSLOG_FACILITY", &DAEMON.to_string());
    add("SYSLOG_IDENTIFIER", entry.program);
    add("CONTAINER_ID_FULL", entry.container);
    add("CONTAINER_ID", entry.container.get(..SHORT_ID).unwrap_or(entry.container));
    add("FS_ISOLATOR_MICROSECONDS", &entry.microseconds.to_string());
    if let Some(error) = entry.error {
        add("FS_ISOLATOR_EXIT_CODE", &error.cause().code().to_string());
        add("FS_ISOLATOR_CAUSE", error.cause().name());
        if let Some(volume) = error.volume_label() {
            add("FS_ISOLATOR_VOLUME", &volume);
        }
        if let Some(role) = error.role_name() {
            add("FS_ISOLATOR_ROLE", role);
        }
    }
    datagram
}

/// A datagram for syslog. Without a time, which would have to be of a time zone that a hook does not know: every
/// syslog puts the time at which it came.
fn syslog(entry: &Entry<'_>, pid: u32) -> Vec<u8> {
    let head = format!("<{}>{}[{pid}]: ", DAEMON * 8 + severity(entry.level), entry.program);
    let plain: String = entry.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = shortened(&plain, LONGEST_SYSLOG - head.len().min(LONGEST_SYSLOG));
    (head + &message).into_bytes()
}

/// A text of at most so many bytes. It is cut in its middle: who it is about stands at the beginning, and what to do at the
/// end.
fn shortened(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    const GAP: &str = " ... ";
    if text.len() <= most {
        return text.into();
    }
    let half = most.saturating_sub(GAP.len()) / 2;
    let (mut head, mut tail) = (half, text.len() - half);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{GAP}{}", &text[..head], &text[tail..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    fn entry<'a>(message: &'a str, error: Option<&'a Error>) -> Entry<'a> {
        let container = "0123456789abcdef";
        Entry { level: Level::Error, program: "hook", container, message, error, microseconds: 7 }
    }

    #[test]
    fn fields_of_journald() {
        let error = Error::new(Cause::VolumeInUse, "held").volume("db:data");
        let text = String::from_utf8(native(&entry("held", Some(&error)))).unwrap();
        assert_eq!(
            text,
            "MESSAGE=held\nPRIORITY=3\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=hook\nCONTAINER_ID_FULL=0123456789abcdef\n\
             CONTAINER_ID=0123456789ab\nFS_ISOLATOR_MICROSECONDS=7\nFS_ISOLATOR_EXIT_CODE=71\n\
             FS_ISOLATOR_CAUSE=VolumeInUse\nFS_ISOLATOR_VOLUME=db:data\n"
        );
    }

    // A value with a line break would otherwise make fields of its own.
    #[test]
    fn no_value_makes_another_field() {
        let datagram = native(&entry("a\nPRIORITY=0", None));
        assert!(datagram.starts_with(b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=3\n"), "{datagram:?}");
    }

    #[test]
    fn lines_of_syslog() {
        assert_eq!(syslog(&entry("a\nb", None), 5), b"<27>hook[5]: a b");
        let long = "x".repeat(5000) + " [exit 41]";
        let line = syslog(&entry(&long, None), 5);
        assert!((1000..=1024).contains(&line.len()) && line.ends_with(b" [exit 41]"), "{}", line.len());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("äöü", 6), "äöü");
        for most in 5..40 {
            assert!(shortened(&"äöü".repeat(20), most).len() <= most, "{most}");
        }
    }
}
