//! The OCI hook `fs-isolator-poststop`.
#![no_main]

#[cfg(all(not(debug_assertions), not(target_feature = "crt-static")))]
compile_error!("a hook must be static: build in the project's folder with RUSTFLAGS unset, see .cargo/config.toml");

fs_isolator::hook_main!(Poststop);
