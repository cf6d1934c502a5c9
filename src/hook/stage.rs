//! The three hooks.
#![forbid(unsafe_code)]

/// Which hook this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// OCI's prestart and createRuntime: attaches what the container asks for.
    Prestart,
    /// Checks what the container really has.
    Poststart,
    /// Undoes what prestart did.
    Poststop,
}

impl Stage {
    /// All of them, in the order in which a container meets them.
    pub const ALL: [Stage; 3] = [Stage::Prestart, Stage::Poststart, Stage::Poststop];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Prestart => "prestart",
            Stage::Poststart => "poststart",
            Stage::Poststop => "poststop",
        }
    }

    /// Name of the executable.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Stage::Prestart => "fs-isolator-prestart",
            Stage::Poststart => "fs-isolator-poststart",
            Stage::Poststop => "fs-isolator-poststop",
        }
    }

    /// What it is for, in one sentence.
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Stage::Prestart => "OCI hook (prestart or createRuntime): attaches the volumes that a container asks for.",
            Stage::Poststart => "OCI hook (poststart): ends a container that does not have what it asked for.",
            Stage::Poststop => "OCI hook (poststop): frees what prestart made for a container.",
        }
    }
}
