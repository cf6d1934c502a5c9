//! The short form: `SOURCE:CONTAINER_PATH[:OPTION...]`, volumes separated by `;`.
//!
//! It needs no comma, quote or newline, because podman 4 reads `--annotation` as CSV. `:` `;` `%` inside
//! a field are percent-encoded.
#![forbid(unsafe_code)]

use super::container_path::ContainerPath;
use super::names::{Role, SecretName, VolumeId};
use super::{Disk, Mode, Propagation, Source, VolumeRequest};
use crate::error::{Cause, Error, Result};

/// Parses a whole annotation.
///
/// # Errors
/// [`Cause::RequestInvalid`], or the cause of the field that is wrong.
pub fn parse(text: &str) -> Result<Vec<VolumeRequest>> {
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(Error::new(Cause::RequestInvalid, format!("the request has a control character ({control:?})")));
    }
    text.split(';').map(|entry| parse_one(entry).map_err(|error| error.volume(entry))).collect()
}

fn invalid(what: String) -> Error {
    Error::new(Cause::RequestInvalid, what)
}

fn parse_one(entry: &str) -> Result<VolumeRequest> {
    if entry.is_empty() {
        return Err(invalid("an entry between two ; is empty".to_owned()));
    }
    let mut fields = entry.split(':');
    let source = fields.next().unwrap_or_default();
    let Some(path) = fields.next() else {
        return Err(invalid("it has no container path".to_owned()));
    };
    let path = ContainerPath::parse(&decode(path)?)?;
    let mut volume = VolumeRequest::new(parse_source(source)?, path);
    let mut seen = Vec::new();
    for field in fields {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, Some(decode(value)?)),
            None => (field, None),
        };
        // rw and ro, slave and private are one choice each.
        let choice = match name {
            "rw" | "ro" => "mode",
            "slave" | "private" | "bidirectional" => "propagation",
            other => other,
        };
        if seen.contains(&choice) {
            return Err(invalid(format!("option {field:?} repeats or contradicts an earlier one")));
        }
        seen.push(choice);
        apply(&mut volume, name, value)?;
    }
    Ok(volume)
}

fn parse_source(text: &str) -> Result<Source> {
    let Some((prefix, value)) = text.split_once('=') else {
        return Ok(persistent(VolumeId::parse(&decode(text)?)?));
    };
    let value = decode(value)?;
    Ok(match prefix {
        "host" => {
            if !value.starts_with('/') {
                return Err(invalid(format!("host path {value:?} is not absolute"))
                    .remedy("a directory in the sandbox is sandbox=PATH"));
            }
            Source::HostPath { path: ContainerPath::parse(&value)?.to_string() }
        }
        "sandbox" => Source::SandboxPath { path: ContainerPath::parse_relative(&value)? },
        "parent" => Source::ParentPath { path: ContainerPath::parse_relative(&value)? },
        "secret" => Source::Secret { name: SecretName::parse(&value)? },
        // An id may have a = in it, as long as nothing before it is a prefix.
        _ => persistent(VolumeId::parse(&decode(text)?)?),
    })
}

fn persistent(id: VolumeId) -> Source {
    Source::Persistent { id, role: None, disk: Disk::Any, size_mb: None }
}

fn apply(volume: &mut VolumeRequest, name: &str, value: Option<String>) -> Result<()> {
    let with_value = matches!(name, "role" | "disk" | "subpath");
    if with_value != value.is_some() {
        let known = ["rw", "ro", "shared", "slave", "private", "bidirectional", "nosuid", "nodev", "noexec"]
            .contains(&name)
            || with_value;
        return Err(match (known, with_value) {
            (true, true) => invalid(format!("option {name} needs a value: {name}=...")),
            (true, false) => invalid(format!("option {name} takes no value")),
            (false, _) => unknown_option(name),
        });
    }
    let only_persistent = |what: &str| invalid(format!("option {what} is for persistent volumes only"));
    let value = value.unwrap_or_default();
    match name {
        "rw" => volume.mode = Mode::ReadWrite,
        "ro" => volume.mode = Mode::ReadOnly,
        "slave" => volume.propagation = Some(Propagation::Slave),
        "private" => volume.propagation = Some(Propagation::Private),
        "bidirectional" => volume.propagation = Some(Propagation::Bidirectional),
        "nosuid" => volume.nosuid = true,
        "nodev" => volume.nodev = true,
        "noexec" => volume.noexec = true,
        "shared" | "subpath" | "role" | "disk" => {
            let Source::Persistent { role, disk, .. } = &mut volume.source else {
                return Err(only_persistent(name));
            };
            match name {
                "shared" => volume.shared = true,
                "subpath" => volume.subpath = Some(ContainerPath::parse_relative(&value)?),
                "role" => *role = Some(Role::parse(&value)?),
                _ => *disk = Disk::Named(VolumeId::parse(&value)?.as_str().to_owned()),
            }
        }
        other => return Err(unknown_option(other)),
    }
    Ok(())
}

fn unknown_option(name: &str) -> Error {
    invalid(format!("option {name:?} is unknown")).remedy(
        "the options are rw ro shared role=R disk=NAME subpath=P slave private bidirectional nosuid nodev noexec; \
         write %3A for a colon inside a field",
    )
}

/// Undoes percent-encoding.
fn decode(field: &str) -> Result<String> {
    if !field.contains('%') {
        return Ok(field.to_owned());
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(invalid(format!("{field:?} has a % that two hexadecimal digits do not follow"))
                .remedy("write %25 for a percent sign"));
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{field:?} is not UTF-8 when decoded")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> VolumeRequest {
        let mut volumes = parse(text).unwrap();
        assert_eq!(volumes.len(), 1);
        volumes.remove(0)
    }

    #[test]
    fn the_example_of_the_readme() {
        let volumes = parse("db:data;certs:/etc/certs:ro:role=team-a").unwrap();
        assert_eq!(volumes[0].label(), "db:data");
        assert_eq!(volumes[0].mode, Mode::ReadWrite);
        assert_eq!(volumes[1].mode, Mode::ReadOnly);
        assert!(matches!(&volumes[1].source, Source::Persistent { role: Some(role), .. } if role.as_str() == "team-a"));
    }

    #[test]
    fn every_option() {
        let volume = one("a:b:ro:shared:role=x/y:disk=fast:subpath=p/q:slave:nosuid:nodev:noexec");
        assert!(volume.shared && volume.nosuid && volume.nodev && volume.noexec);
        assert_eq!(volume.propagation, Some(Propagation::Slave));
        assert_eq!(volume.subpath.unwrap().to_string(), "p/q");
        assert!(matches!(volume.source, Source::Persistent { disk: Disk::Named(name), .. } if name == "fast"));
    }

    #[test]
    fn every_source() {
        assert_eq!(one("host=/srv/x:/data:ro").label(), "host=/srv/x:/data");
        assert_eq!(one("sandbox=tmp:/tmp").label(), "sandbox=tmp:/tmp");
        assert_eq!(one("parent=out:out").label(), "parent=out:out");
        assert_eq!(one("secret=key:/run/secrets/x").label(), "secret=key:/run/secrets/x");
        assert_eq!(one("secret=db%2Fkey:x").label(), "secret=db/key:x");
        assert_eq!(one("host=/a:/b:bidirectional").propagation, Some(Propagation::Bidirectional));
        assert_eq!(one("k=v:x").label(), "k=v:x");
    }

    #[test]
    fn fields_are_percent_decoded() {
        assert_eq!(one("a%3Ab%3Bc%25:d%3Ae").label(), "a:b;c%:d:e");
        assert_eq!(one("%E2%82%AC:x").label(), "€:x");
        assert_eq!(one("test2#es_data#dd018920:a b'c").label(), "test2#es_data#dd018920:a b'c");
    }

    #[test]
    fn what_is_wrong_has_its_cause() {
        use Cause::*;
        for (text, cause) in [
            ("", RequestInvalid),
            ("a:b;", RequestInvalid),
            (";a:b", RequestInvalid),
            ("a", RequestInvalid),
            ("a:b:rox", RequestInvalid),
            ("a:b:", RequestInvalid),
            ("a:b:ro:rw", RequestInvalid),
            ("a:b:ro:ro", RequestInvalid),
            ("a:b:slave:private", RequestInvalid),
            ("a:b:propagation=slave", RequestInvalid),
            ("a:b:slave,exec,dev", RequestInvalid),
            ("a:b:role", RequestInvalid),
            ("a:b:ro=1", RequestInvalid),
            ("a%zz:b", RequestInvalid),
            ("a%2:b", RequestInvalid),
            ("%ff:b", RequestInvalid),
            ("a\n:b", RequestInvalid),
            ("host=rel:/x", RequestInvalid),
            ("host=/a:/x:slave:bidirectional", RequestInvalid),
            ("secret=:/x", RequestInvalid),
            ("secret=../x:/x", RequestInvalid),
            ("host=/srv:/x:shared", RequestInvalid),
            ("sandbox=/abs:/x", ContainerPath),
            ("sandbox=..:/x", ContainerPath),
            ("a:", ContainerPath),
            ("a:%2e%2e", ContainerPath),
            ("a:b%00", ContainerPath),
            ("a:b:subpath=../x", ContainerPath),
            (":b", VolumeId),
            ("..:b", VolumeId),
            ("a%2Fb:c", VolumeId),
            ("a:b:role=*", Role),
            ("a:b:role=x//y", Role),
        ] {
            assert_eq!(parse(text).unwrap_err().cause(), cause, "{text:?}");
        }
    }
}
