//! How long a hook's steps take. A stamp costs no system call: the kernel maps its clock into every process.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One step, and how many microseconds it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step(pub Cow<'static, str>, pub u64);

/// When the hook began, and when each step ended.
static STAMPS: Mutex<Vec<(&str, Instant)>> = Mutex::new(Vec::new());

/// Begins.
pub fn begin() {
    if let Ok(mut stamps) = STAMPS.lock() {
        stamps.reserve(8);
        stamps.push(("", Instant::now()));
    }
}

/// A step has come to its end. Counts only in a hook, which has begun.
pub fn done(step: &'static str) {
    if let Ok(mut stamps) = STAMPS.lock()
        && !stamps.is_empty()
    {
        stamps.push((step, Instant::now()));
    }
}

/// The steps until now.
#[must_use]
pub fn so_far() -> Vec<Step> {
    let Ok(stamps) = STAMPS.lock() else { return Vec::new() };
    stamps.windows(2).map(|pair| Step(Cow::Borrowed(pair[1].0), microseconds(pair[0].1, pair[1].1))).collect()
}

/// Microseconds since the beginning.
#[must_use]
pub fn since_begin() -> u64 {
    let Ok(stamps) = STAMPS.lock() else { return 0 };
    stamps.first().map_or(0, |(_, begun)| microseconds(*begun, Instant::now()))
}

fn microseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

/// Steps for people: `1.234 ms: read 0.012, plan 1.222`.
#[must_use]
pub fn describe(steps: &[Step]) -> String {
    let all = steps.iter().fold(0_u64, |all, step| all.saturating_add(step.1));
    let each: Vec<String> = steps.iter().map(|step| format!("{} {}", step.0, milliseconds(step.1))).collect();
    format!("{} ms: {}", milliseconds(all), each.join(", "))
}

/// Milliseconds for people.
#[must_use]
pub fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}", microseconds / 1000, microseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let steps = [Step("read".into(), 12), Step("plan".into(), 1_222)];
        assert_eq!(describe(&steps), "1.234 ms: read 0.012, plan 1.222");
        let text = serde_json::to_string(&steps).unwrap();
        assert_eq!(text, r#"[["read",12],["plan",1222]]"#);
        assert_eq!(serde_json::from_str::<Vec<Step>>(&text).unwrap(), steps);
    }
}
