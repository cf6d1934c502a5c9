//! Annotations, a line each: `KEY=VALUE`. A key without a prefix is one of this project's.
#![no_main]

use std::collections::HashMap;

use fs_isolator::request::{self, Mode, PREFIX, Propagation, Source, Suffixes, VolumeRequest};
use fs_isolator_fuzz::{plan, print};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let annotations: HashMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let prefix = if key.starts_with("io.") { "" } else { PREFIX };
            (format!("{prefix}{key}"), value.to_owned())
        })
        .collect();
    let on_crio = request::read(&annotations, Suffixes::Container("app"));
    if let Ok(Some(request)) = request::read(&annotations, Suffixes::Refused) {
        assert_eq!(on_crio, Ok(Some(request.clone())), "no key has a suffix, so it is the same on CRI-O");
    }
    let Ok(Some(request)) = on_crio else { return };

    let printed = print::annotations(&request);
    assert_eq!(request::read(&printed, Suffixes::Refused), Ok(Some(request.clone())), "{printed:?}");

    let volumes = format!("{PREFIX}volumes");
    let mut own: HashMap<String, String> =
        printed.iter().map(|(key, value)| (format!("{key}/app"), value.clone())).collect();
    own.extend(printed.keys().map(|key| (format!("{key}/other"), "garbage".to_owned())));
    for key in ["volumes", "isolation", "role", "sandbox", "token"] {
        own.insert(format!("{PREFIX}{key}"), "::garbage".to_owned());
        own.entry(format!("{PREFIX}{key}/app")).or_default();
    }
    assert_eq!(request::read(&own, Suffixes::Container("app")), Ok(Some(request.clone())), "{own:?}");

    if let Some(text) = printed.get(&volumes) {
        let mut encoded = printed.clone();
        encoded.remove(&volumes);
        encoded.insert(format!("{volumes}.base64"), print::base64(text));
        assert_eq!(request::read(&encoded, Suffixes::Refused), Ok(Some(request.clone())), "{encoded:?}");
    }
    request.volumes.iter().take(4).for_each(every_option_is_read);
    plan::check(&request, &plan::BUNDLE, &plan::CONFIG);
});

/// What is printed with other options is read with them: a parser that mistakes one for another agrees with itself.
fn every_option_is_read(volume: &VolumeRequest) {
    let is_persistent = matches!(volume.source, Source::Persistent { .. });
    let set: [fn(&mut VolumeRequest); 8] = [
        |volume| volume.mode = Mode::ReadOnly,
        |volume| volume.nosuid = true,
        |volume| volume.nodev = true,
        |volume| volume.noexec = true,
        |volume| volume.propagation = Some(Propagation::Slave),
        |volume| volume.propagation = Some(Propagation::Private),
        |volume| volume.propagation = Some(Propagation::Bidirectional),
        |volume| volume.shared = true,
    ];
    for set in &set[..if is_persistent { 8 } else { 7 }] {
        let mut other = volume.clone();
        set(&mut other);
        if let Some(text) = print::volumes(std::slice::from_ref(&other)) {
            assert_eq!(request::volumes(&text), Ok(vec![other]), "{text}");
        }
    }
}
