//! The OCI state (runtime-spec, "State"), as far as a hook believes it.
//!
//! `oci_spec::runtime::State` accepts `{}` and refuses a status it does not know, so id, bundle and pid are
//! checked here and the status is taken as text. `root` (crun only) is not read at all.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::Value;

use crate::error::{Cause, Error, Result};

/// Longest container id: `ID.` and twelve digits of a record's name must fit into NAME_MAX.
pub const LONGEST_ID: usize = 242;

/// A checked state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Container id.
    pub id: String,
    /// Absolute path of the bundle, as the runtime gave it.
    pub bundle: String,
    /// Init's process id in the hook's pid namespace; not to be believed at poststop (youki's is stale).
    pub pid: Option<i32>,
    /// The status, which no decision rests on (crun says `created` where others say `creating`).
    pub status: Option<String>,
    /// The container's annotations.
    pub annotations: HashMap<String, String>,
}

impl State {
    /// Parses a state.
    ///
    /// # Errors
    /// [`Cause::StateInvalid`] for malformed JSON, a missing field or a bundle that is not absolute;
    /// [`Cause::ContainerId`] for an id outside `[A-Za-z0-9_+.-]{1,242}`, `.` and `..`.
    pub fn parse(text: &[u8]) -> Result<State> {
        let invalid = |what: String| Error::new(Cause::StateInvalid, what);
        let mut value: Value =
            serde_json::from_slice(text).map_err(|error| invalid(format!("the state is not JSON: {error}")))?;
        let Value::Object(object) = &mut value else {
            return Err(invalid("the state is not an object".to_owned()));
        };
        let status = match object.remove("status") {
            Some(Value::String(status)) => Some(status),
            _ => None,
        };
        let mut state: oci_spec::runtime::State = serde_json::from_value(value)
            .map_err(|error| invalid(format!("the state has a field of a wrong type: {error}")))?;
        let id = std::mem::take(state.id_mut());
        if id.is_empty() {
            return Err(invalid("the state has no id".to_owned()));
        }
        check_id(&id)?;
        let bundle = std::mem::take(state.bundle_mut()).into_os_string().into_string().unwrap_or_default();
        if !bundle.starts_with('/') || bundle.chars().any(char::is_control) || bundle.len() > 4095 {
            return Err(invalid(format!("the bundle {bundle:?} is not an absolute path")).container(&id));
        }
        let annotations = state.annotations_mut().take().unwrap_or_default();
        Ok(State { id, bundle, pid: *state.pid(), status, annotations })
    }

    /// The pid, at the stages at which there must be one.
    ///
    /// # Errors
    /// [`Cause::Pid`] where it is absent, zero or negative.
    pub fn init_pid(&self) -> Result<i32> {
        match self.pid {
            Some(pid) if pid > 0 => Ok(pid),
            Some(pid) => Err(Error::new(Cause::Pid, format!("the state's pid is {pid}"))),
            None => Err(Error::new(Cause::Pid, "the state has no pid")),
        }
    }
}

/// Checks a container id.
///
/// # Errors
/// [`Cause::ContainerId`].
pub fn check_id(id: &str) -> Result<()> {
    let acceptable = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    if id.is_empty() || id.len() > LONGEST_ID || id == "." || id == ".." || !id.chars().all(acceptable) {
        let shown: String = id.chars().take(64).collect();
        return Err(Error::new(Cause::ContainerId, format!("container id {shown:?} is not acceptable")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // runtimes.md 1, as runc 1.1.5, crun 1.28 and youki wrote them.
    #[test]
    fn states_of_real_runtimes() {
        let runc = State::parse(br#"{"ociVersion":"1.0.2-dev","id":"s1-runc-0","status":"creating","pid":25864,"bundle":"/b","annotations":{"k":"v"}}"#).unwrap();
        assert_eq!(
            (runc.id.as_str(), runc.init_pid().unwrap(), runc.annotations["k"].as_str()),
            ("s1-runc-0", 25864, "v")
        );
        let crun = State::parse(b"{\n \"ociVersion\": \"1.0\",\n \"id\": \"a\",\n \"pid\": 0,\n \"root\": \"rootfs\",\n \"bundle\": \"\\/b\",\n \"status\": \"stopped\" }").unwrap();
        assert_eq!(crun.bundle, "/b");
        assert_eq!(crun.init_pid().unwrap_err().cause(), Cause::Pid);
        let stopped = State::parse(br#"{"id":"a","status":"stopped","bundle":"/b"}"#).unwrap();
        assert_eq!(stopped.pid, None);
    }

    #[test]
    fn an_unknown_status_and_unknown_fields_stop_nothing() {
        let state = State::parse(br#"{"id":"a","status":"paused","bundle":"/b","new":{"x":[1]}}"#).unwrap();
        assert_eq!(state.status.as_deref(), Some("paused"));
        assert!(State::parse(br#"{"id":"a","status":7,"bundle":"/b","annotations":null}"#).is_ok());
    }

    #[test]
    fn what_is_wrong_has_its_cause() {
        let deep = "[".repeat(500);
        for (text, cause) in [
            ("", Cause::StateInvalid),
            ("{}", Cause::StateInvalid),
            ("[]", Cause::StateInvalid),
            ("{\"id\":\"a\"", Cause::StateInvalid),
            (deep.as_str(), Cause::StateInvalid),
            (r#"{"id":"a"}"#, Cause::StateInvalid),
            (r#"{"id":"a","bundle":"rel"}"#, Cause::StateInvalid),
            (r#"{"id":"a","bundle":"/b","annotations":{"k":1}}"#, Cause::StateInvalid),
            (r#"{"id":"a","bundle":"/b","pid":"7"}"#, Cause::StateInvalid),
            (r#"{"id":"..","bundle":"/b"}"#, Cause::ContainerId),
            (r#"{"id":"a/b","bundle":"/b"}"#, Cause::ContainerId),
            (r#"{"id":"a b","bundle":"/b"}"#, Cause::ContainerId),
        ] {
            assert_eq!(State::parse(text.as_bytes()).unwrap_err().cause(), cause, "{text}");
        }
        assert!(check_id(&"x".repeat(242)).is_ok());
        assert!(check_id(&"x".repeat(243)).is_err());
    }
}
