//! Secrets that containers may ask for by name: the configuration's `secrets`. Their values stand in files of the
//! administrator's, or come as credentials of a systemd unit.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{absolute, roles};
use crate::error::{Cause, Error, Result};
use crate::request::names::{Role, SecretName};

/// Where systemd puts the credentials of a unit's services (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS: &str = "/run/credentials";

/// One secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Secret {
    /// By which containers ask for it: Mesos's `NAME` or `NAME/KEY`.
    pub name: SecretName,
    /// File with its value.
    pub path: PathBuf,
    /// Roles for which it may be attached.
    pub roles: Vec<Role>,
}

/// Keys of an entry.
pub(super) const KEYS: [&str; 4] = ["name", "path", "credential", "roles"];

/// A secret, of which either the file or the credential is named.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Secret", deny_unknown_fields)]
pub(super) struct File {
    /// By which containers ask for it: Mesos's `NAME` or `NAME/KEY`.
    name: String,
    /// File with its value.
    path: Option<PathBuf>,
    /// Credential of a systemd unit, as UNIT/NAME.
    credential: Option<String>,
    /// Roles for which it may be attached.
    roles: Vec<String>,
}

/// Checks the key.
pub(super) fn check(entries: Vec<Map<String, Value>>) -> Result<Vec<Secret>> {
    let invalid = |what: String| Error::new(Cause::ConfigInvalid, format!("\"secrets\": {what}"));
    let mut secrets: Vec<Secret> = Vec::with_capacity(entries.len());
    for entry in entries {
        let File { name, path, credential, roles: names } = super::entry("secrets", &KEYS, entry)?;
        let name = SecretName::parse(&name).map_err(|error| error.in_configuration("secrets"))?;
        let path = match (path, credential) {
            (Some(path), None) => path,
            (None, Some(credential)) => match credential.split_once('/') {
                Some((unit, file)) if !unit.is_empty() && !file.is_empty() && !file.contains('/') => {
                    Path::new(CREDENTIALS).join(unit).join(file)
                }
                _ => return Err(invalid(format!("credential {credential:?} is not of the form UNIT/NAME"))),
            },
            _ => return Err(invalid(format!("{name} must have either a path or a credential"))),
        };
        let path = absolute("secrets", path)?;
        if secrets.iter().any(|other| other.name == name) {
            return Err(invalid(format!("{name} is there twice")));
        }
        secrets.push(Secret { name, path, roles: roles("secrets", &names)? });
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Secret>> {
        check(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn files_and_credentials() {
        let secrets = parse(
            r#"[{"name":"db","path":"/etc/s/db","roles":["a"]},{"name":"tls/key","credential":"crio.service/tls","roles":[]}]"#,
        )
        .unwrap();
        assert_eq!(secrets[0].path, Path::new("/etc/s/db"));
        assert_eq!(secrets[1].path, Path::new("/run/credentials/crio.service/tls"));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            r#"[{"name":"db","roles":[]}]"#,
            r#"[{"name":"db","path":"rel","roles":[]}]"#,
            r#"[{"name":"..","path":"/x","roles":[]}]"#,
            r#"[{"name":"db","path":"/x","credential":"a/b","roles":[]}]"#,
            r#"[{"name":"db","credential":"a","roles":[]}]"#,
            r#"[{"name":"db","credential":"a/../b","roles":[]}]"#,
            r#"[{"name":"db","path":"/x","roles":["*"]}]"#,
            r#"[{"name":"db","path":"/x","roles":[]},{"name":"db","path":"/y","roles":[]}]"#,
        ] {
            assert_eq!(parse(text).unwrap_err().cause(), Cause::ConfigInvalid, "{text}");
        }
    }
}
