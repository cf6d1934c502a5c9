//! The OCI hook `fs-isolator-prestart`.

#[cfg(all(not(debug_assertions), not(target_feature = "crt-static")))]
compile_error!("a hook must be static: build in the project's folder with RUSTFLAGS unset, see .cargo/config.toml");

fn main() {
    fs_isolator::hook::main(fs_isolator::hook::Stage::Prestart)
}
