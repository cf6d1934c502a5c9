//! The `request_token`, where podman takes annotations from images: without one, an image's author asks for volumes.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{PACKAGED, directory, write};
use crate::config::{self, Config};
use crate::doctor::runtimes;
use crate::error::{Cause, Error, Result};
use crate::me::me;
use crate::sys;

/// What became of it.
pub enum Token {
    /// No podman that needs one is here, or the configuration speaks of it already.
    NotNeeded,
    /// One is in this configuration now.
    Set { configuration: PathBuf, podman: String },
    /// One is missing, and whoever installs must set it.
    Missing { why: &'static str, podman: String },
}

/// Sets one where it is needed and nothing stands against it.
///
/// # Errors
/// [`Cause::Install`], [`Cause::ConfigUnsafe`], [`Cause::ConfigInvalid`].
pub fn provide(given: Option<&Path>, is_upgrade: bool) -> Result<Token> {
    let programs = runtimes::find();
    let Some(podman) = programs.iter().find(|program| program.takes_annotations_from_images()) else {
        return Ok(Token::NotNeeded);
    };
    let podman = podman.version.clone().unwrap_or_default();
    let path = given.map_or_else(|| config::default_path(me()), Path::to_owned);
    let text = config::text(&path)?.unwrap_or_else(|| b"{}\n".to_vec());
    // `null` is an answer too.
    let spoken_of = serde_json::from_slice(&text).is_ok_and(|object: Map<String, Value>| object.contains_key(KEY));
    if spoken_of {
        return Ok(Token::NotNeeded);
    }
    if is_upgrade {
        return Ok(Token::Missing { why: "an upgrade sets none, since what runs here asks without", podman });
    }
    if given.is_none() && Path::new(PACKAGED).exists() {
        return Ok(Token::Missing { why: "the configuration is a package's", podman });
    }
    let cannot = |what: &str| Error::new(Cause::Install, format!("request_token: {what}"));
    let token = random()?;
    let text = String::from_utf8(text).map_err(|_| cannot("the configuration is no text"))?;
    let text = insert(&text, &token).ok_or_else(|| cannot("the configuration is no JSON object"))?;
    if Config::parse(text.as_bytes())?.request_token.as_ref() != Some(&token) {
        return Err(cannot("it cannot be added to the configuration"));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(cannot("the configuration has no name"));
    };
    let parent = directory(parent)?;
    write(&parent, name, text.as_bytes(), 0o600)?;
    Ok(Token::Set { configuration: path, podman })
}

const KEY: &str = "request_token";

/// 128 bits that nobody can guess, as text.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    sys::random(&mut bytes).map_err(|error| Error::new(Cause::Install, format!("request_token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The configuration with the key first, and otherwise as its author wrote it.
fn insert(text: &str, token: &str) -> Option<String> {
    let (before, rest) = text.split_once('{')?;
    if !before.trim().is_empty() {
        return None;
    }
    let end = if rest.trim_start().starts_with('}') { "\n" } else { "," };
    Some(format!("{before}{{\n  \"{KEY}\": \"{token}\"{end}{}", if end == "," { rest } else { rest.trim_start() }))
}

impl Token {
    /// The configuration that has it now.
    pub fn set_in(&self) -> Option<&Path> {
        match self {
            Token::Set { configuration, .. } => Some(configuration),
            _ => None,
        }
    }

    /// What whoever installs must know.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Token::NotNeeded => Vec::new(),
            Token::Set { configuration, podman } => vec![
                format!("set request_token in {}, which only root reads from now on:", configuration.display()),
                format!("podman {podman} takes annotations from images, and their authors do not know it"),
                "a container asks with --annotation io.fs-isolator.token=$(fs-isolator config --token)".to_owned(),
            ],
            Token::Missing { why, podman } => vec![
                format!("podman {podman} takes annotations from images, and no request_token is set: {why};"),
                "`fs-isolator explain podman-image-annotations` tells what to do".to_owned(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_configuration_stays_as_it_is() {
        for (before, after) in [
            ("{}\n", "{\n  \"request_token\": \"T\"\n}\n"),
            (" { }", " {\n  \"request_token\": \"T\"\n}"),
            ("{\n  \"metrics\": true\n}\n", "{\n  \"request_token\": \"T\",\n  \"metrics\": true\n}\n"),
            ("{ \"metrics\": true }", "{\n  \"request_token\": \"T\", \"metrics\": true }"),
        ] {
            assert_eq!(insert(before, "T").as_deref(), Some(after));
            assert!(serde_json::from_str::<Map<String, Value>>(after).is_ok());
        }
        assert_eq!(insert("[{}]", "T"), None);
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
