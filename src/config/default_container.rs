//! What containers get that ask for nothing: the configuration's `default_container_info`, a Mesos `ContainerInfo`
//! (mesos.md CT15, C3).
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use super::{Isolator, check_keys};
use crate::error::{Cause, Error, Result};
use crate::request::{self, VolumeRequest};

/// What of a `ContainerInfo` can be honoured: its volumes.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct DefaultContainer {
    /// The volumes.
    pub volumes: Vec<VolumeRequest>,
}

/// Keys of it.
pub(super) const KEYS: [&str; 2] = ["type", "volumes"];

/// A Mesos `ContainerInfo`.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "ContainerInfo", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used: what it holds is parsed like an annotation")]
pub(super) struct File {
    /// `MESOS`: no filesystem isolator serves another.
    #[schemars(extend("const" = "MESOS"))]
    r#type: String,
    /// Volumes, each a Mesos `Volume` or `Resource`, as in the annotation `io.fs-isolator.volumes`.
    volumes: Option<Vec<Map<String, Value>>>,
}

/// Checks the key.
pub(super) fn check(info: &Map<String, Value>, isolation: Isolator) -> Result<DefaultContainer> {
    let invalid = |what: String| Error::new(Cause::ConfigInvalid, format!("\"default_container_info\": {what}"));
    check_keys("default_container_info", info, &KEYS)?;
    match info.get("type").and_then(Value::as_str) {
        Some("MESOS") => {}
        // mesos.md S2, P3, HP2: no filesystem isolator serves any other.
        other => return Err(invalid(format!("its type is {:?} and must be MESOS", other.unwrap_or_default()))),
    }
    let volumes = match info.get("volumes") {
        None | Some(Value::Null) => Vec::new(),
        Some(volumes) => request::volumes(&volumes.to_string()).map_err(|error| error.in_configuration("volumes"))?,
    };
    if isolation == Isolator::Posix && !volumes.is_empty() {
        // mesos.md P3.
        return Err(invalid("it has volumes, which filesystem/posix does not support".to_owned()));
    }
    Ok(DefaultContainer { volumes })
}
