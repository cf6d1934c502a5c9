//! Reading JSON so that nothing is lost: a value that is taken is gone from its object, and what nobody took when the object
//! is dropped is listed. Nobody has to know all fields that there are.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use serde::Serialize;
use serde_json::{Map, Value};

/// Something that was not carried over.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Left {
    /// Where it stands, as a JSON pointer.
    pub at: String,
    /// What it says; not where that may be a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Why, and what to do about it.
    pub why: String,
}

/// What was not carried over, so far.
#[derive(Debug, Default)]
pub struct Leftovers(RefCell<Vec<Left>>);

impl Leftovers {
    /// Lists something.
    pub fn add(&self, at: impl Into<String>, value: Option<Value>, why: impl Into<String>) {
        self.0.borrow_mut().push(Left { at: at.into(), value, why: why.into() });
    }

    /// All, in the order of the definition as far as it has one.
    #[must_use]
    pub fn into_list(self) -> Vec<Left> {
        let mut all = self.0.into_inner();
        all.sort_by(|a, b| a.at.cmp(&b.at));
        all
    }
}

/// An object that is being read.
#[derive(Debug)]
pub struct Fields<'l> {
    at: String,
    values: Map<String, Value>,
    left: &'l Leftovers,
}

impl<'l> Fields<'l> {
    /// An object at this place.
    #[must_use]
    pub fn new(at: impl Into<String>, values: Map<String, Value>, left: &'l Leftovers) -> Fields<'l> {
        Fields { at: at.into(), values, left }
    }

    /// Where it stands.
    #[must_use]
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Where a field of it stands (RFC 6901).
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        format!("{}/{}", self.at, key.replace('~', "~0").replace('/', "~1"))
    }

    /// Where everything goes that is not carried over.
    #[must_use]
    pub fn leftovers(&self) -> &'l Leftovers {
        self.left
    }

    /// Takes a value that `read` understands; another stays, and so is listed.
    fn take<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let found = read(self.values.get(key)?)?;
        self.values.remove(key);
        Some(found)
    }

    /// A string.
    pub fn string(&mut self, key: &str) -> Option<String> {
        self.take(key, |value| value.as_str().map(str::to_owned))
    }

    /// A number that is not negative.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        self.take(key, |value| value.as_f64().filter(|number| *number >= 0.0))
    }

    /// A whole number; Marathon and protobuf write some as `5.0` or `"5"`.
    pub fn whole(&mut self, key: &str) -> Option<u64> {
        self.take(key, |value| match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number
                .as_u64()
                .or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n)).map(|n| n as u64)),
            _ => None,
        })
    }

    /// A port; 0 is none.
    pub fn port(&mut self, key: &str) -> Option<u16> {
        self.take(key, |value| u16::try_from(value.as_u64()?).ok())
    }

    /// A yes or no.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key, Value::as_bool)
    }

    /// An object, to be read in turn.
    pub fn object(&mut self, key: &str) -> Option<Fields<'l>> {
        let values = self.take(key, |value| value.as_object().cloned())?;
        Some(Fields::new(self.place(key), values, self.left))
    }

    /// Objects of an array, each to be read in turn. What is no object in it is listed.
    pub fn objects(&mut self, key: &str) -> Vec<Fields<'l>> {
        let Some(values) = self.take(key, |value| value.as_array().cloned()) else { return Vec::new() };
        let at = self.place(key);
        let mut all = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let at = format!("{at}/{index}");
            match value {
                Value::Object(values) => all.push(Fields::new(at, values, self.left)),
                other => self.left.add(at, Some(other), UNKNOWN),
            }
        }
        all
    }

    /// Strings of an array that has nothing else.
    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        self.take(key, |value| value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect())
    }

    /// Numbers of an array that has nothing else.
    pub fn ports(&mut self, key: &str) -> Option<Vec<u16>> {
        self.take(key, |value| value.as_array()?.iter().map(|value| u16::try_from(value.as_u64()?).ok()).collect())
    }

    /// Strings of an object by their names; what is none stays.
    pub fn named_strings(&mut self, key: &str) -> Vec<(String, String)> {
        let Some(mut object) = self.object(key) else { return Vec::new() };
        object.keys().into_iter().filter_map(|name| object.string(&name).map(|value| (name, value))).collect()
    }

    /// Names that are left.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// A string that stays, so that it is listed: of use only to find something else.
    #[must_use]
    pub fn look(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }

    /// Whether a field is there still.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| !value.is_null())
    }

    /// Takes a field that says what is so anyway: of these values, any.
    pub fn pass_over(&mut self, key: &str, values: &[Value]) {
        self.take(key, |value| values.contains(value).then_some(()));
    }

    /// Lists a field with this reason.
    pub fn leave(&mut self, key: &str, why: impl Into<String>) {
        if let Some(value) = self.values.remove(key).filter(|value| !value.is_null()) {
            self.left.add(self.place(key), shown(key, value), why);
        }
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for (key, value) in std::mem::take(&mut self.values) {
            // Protobuf's JSON and Marathon write null for what is not there.
            if !value.is_null() {
                let at = self.place(&key);
                self.left.add(at, shown(&key, value), why(&key));
            }
        }
    }
}

/// What may be a secret is not repeated where everybody can read it: only that there is something.
fn shown(key: &str, value: Value) -> Option<Value> {
    fn hide(value: Value) -> Value {
        match value {
            Value::Array(values) => values.into_iter().map(hide).collect(),
            Value::Object(object) => object.into_iter().map(|(key, value)| (key, hide(value))).collect(),
            _ => Value::String("***".to_owned()),
        }
    }
    let hidden =
        ["secret", "secrets", "value", "data", "credential", "pullConfig", "config", "environment", "variables"];
    Some(if hidden.contains(&key) { hide(value) } else { value })
}

const UNKNOWN: &str = "this command has no word for it";

/// What is known of fields that nobody took.
fn why(key: &str) -> &'static str {
    match key {
        "constraints"
        | "acceptedResourceRoles"
        | "scheduling"
        | "placement"
        | "agent_id"
        | "slave_id"
        | "killSelection"
        | "dependencies"
        | "requirePorts"
        | "scaling" => "placing is a scheduler's: the volume's host is where it runs",
        "upgradeStrategy"
        | "unreachableStrategy"
        | "residency"
        | "backoff"
        | "backoffSeconds"
        | "backoffFactor"
        | "maxLaunchDelaySeconds"
        | "upgrade"
        | "kill_policy" => {
            "Marathon's own: one container holds the volume at a time, and systemd or Kubernetes starts it again"
        }
        "fetch" | "uris" | "storeUrls" | "artifacts" => "nobody fetches: put it into the image or a volume",
        "disk" => "not enforced: use a disk or a quota of its own",
        "gpus" => "name the devices to podman (--device) or Kubernetes",
        "healthChecks" | "health_check" | "healthCheck" => "one check is carried over, of those that the target has",
        "readinessChecks" | "check" => "there is no such check here",
        "external" | "docker_volume" | "csi_volume" => {
            "not a volume of the agent's: mount its storage on the host and list it under \"host_paths\""
        }
        "ipAddress" | "networks" | "network_infos" => "a network of the cluster's: make one with podman or Kubernetes",
        "credential" | "pullConfig" | "config" => "log in with podman login, or an imagePullSecret",
        "version"
        | "versionInfo"
        | "tasksRunning"
        | "tasksStaged"
        | "tasksHealthy"
        | "tasksUnhealthy"
        | "deployments"
        | "tasks"
        | "lastTaskFailure"
        | "readinessCheckResults"
        | "taskStats"
        | "status"
        | "statusSince" => "what Marathon says of the present",
        "size" | "maxSize" | "profileName" | "scalar" => "the volume is there already, as it is",
        "discovery" | "servicePort" | "labels" | "serviceAddress" | "name" => "service discovery is the cluster's",
        "executor" | "executorResources" => "there is no executor",
        "reservation" | "reservations" | "allocation_info" | "principal" => "reservations are Mesos's",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_nobody_takes_is_listed_at_its_place() {
        let left = Leftovers::default();
        {
            let value =
                json!({ "a": "x", "b": 1, "c": { "d": true, "e/f~": [1] }, "g": [{ "h": 1 }, 2], "n": null, "o": {} });
            let mut fields = Fields::new("", object(value), &left);
            assert_eq!(fields.string("a").as_deref(), Some("x"));
            assert_eq!(fields.string("b"), None, "of another type it stays");
            assert_eq!(fields.object("c").unwrap().flag("d"), Some(true));
            assert_eq!(fields.objects("g").len(), 1);
        }
        let at: Vec<String> = left.into_list().into_iter().map(|left| left.at).collect();
        assert_eq!(at, ["/b", "/c/e~1f~0", "/g/0/h", "/g/1", "/o"]);
    }

    #[test]
    fn what_may_be_a_secret_is_not_repeated() {
        let left = Leftovers::default();
        drop(Fields::new("", object(json!({ "secret": { "value": "hunter2" }, "pullConfig": "x" })), &left));
        assert!(!serde_json::to_string(&left.into_list()).unwrap().contains("hunter2"));
    }
}
