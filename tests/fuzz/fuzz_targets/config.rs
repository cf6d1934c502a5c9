//! The configuration, and the plans under it.
#![no_main]

use std::path::Path;

use fs_isolator::config::{Config, GidRange, Isolator};
use fs_isolator_fuzz::plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(config) = Config::parse(text) else { return };
    assert_eq!(Config::parse(text).as_ref(), Ok(&config), "parsed twice");

    let mut paths: Vec<&Path> = vec![&config.work_dir, &config.runtime_dir];
    paths.extend(config.posix_sandboxes.iter().map(AsRef::<Path>::as_ref));
    paths.extend(config.manager_directories().map(|(_, path)| path));
    paths.extend(config.host_paths.iter().map(|entry| Path::new(&entry.path)));
    paths.extend(config.secrets.iter().map(|secret| secret.path.as_path()));
    paths.extend(config.disks.iter().map(|disk| disk.root.as_path()));
    paths.into_iter().for_each(plan::absolute);
    plan::absolute(Path::new(&config.sandbox_directory.to_string()));
    assert_eq!(Isolator::parse_flag(config.isolation.name()).ok(), Some(config.isolation));
    if let Some(range) = &config.volume_gid_range {
        assert_eq!(GidRange::parse(&range.to_string()).as_ref(), Ok(range));
        assert!(!range.contains(0) && !range.contains(u32::MAX));
    }
    // What is shown does not depend on the token, so it does not tell it.
    if config.request_token.is_some() {
        let other = Config { request_token: Some("another of 16 and more".to_owned()), ..config.clone() };
        assert_eq!(serde_json::to_string(&config).ok(), serde_json::to_string(&other).ok());
    }

    let isolation = vec![Isolator::Linux, Isolator::Posix, Isolator::Shared];
    let config = Config { allowed_isolation: isolation, request_token: None, ..config };
    for request in plan::REQUESTS.iter().chain(config.default_request().as_ref()) {
        plan::check(request, &plan::BUNDLE, &config);
    }
});
