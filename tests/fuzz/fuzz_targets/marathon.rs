//! Apps and pods of Marathon, and what they are converted to.
#![no_main]

use fs_isolator::convert::marathon;
use fs_isolator_fuzz::convert;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| convert::check(text, marathon::definitions, marathon::read));
