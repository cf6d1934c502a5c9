//! A bundle's config.json, and the plans for it.
#![no_main]

use fs_isolator::container::BundleConfig;
use fs_isolator::selinux::{self, Context};
use fs_isolator_fuzz::plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(bundle) = BundleConfig::parse(text) else { return };
    assert!(!bundle.root.is_empty() && !bundle.root.contains('\0'));
    for destination in bundle.mounts.iter().filter_map(|mount| mount.destination.as_ref()) {
        assert!(destination.is_absolute() && !destination.to_string().split('/').any(|part| part == ".."));
    }
    if let Some(Ok(process)) = bundle.process_label.as_deref().map(Context::parse) {
        let _ = selinux::fault(&process, bundle.mount_label.as_deref().unwrap_or_default(), true);
    }
    for request in plan::REQUESTS.iter() {
        plan::check(request, &bundle, &plan::CONFIG);
    }
});
