//! `fs-isolator`, the command for people.

fn main() -> std::process::ExitCode {
    fs_isolator::cli::main()
}
