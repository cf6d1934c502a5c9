//! The OCI state on a hook's standard input.
#![no_main]

use fs_isolator::container::State;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|text: &[u8]| {
    let Ok(state) = State::parse(text) else { return };
    // It becomes part of names of files.
    assert!(!state.id.is_empty() && state.id.len() <= 242 && state.id != "." && state.id != "..");
    assert!(state.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte)), "{}", state.id);
    assert!(state.bundle.starts_with('/') && !state.bundle.chars().any(char::is_control));
    assert!(state.init_pid().is_ok() == state.pid.is_some_and(|pid| pid > 0));
    let printed = json!({
        "ociVersion": "1.2.0", "id": state.id, "status": state.status, "pid": state.pid, "bundle": state.bundle,
        "annotations": state.annotations,
    });
    assert_eq!(State::parse(printed.to_string().as_bytes()), Ok(state), "{printed}");
});
