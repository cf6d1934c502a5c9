//! On whose behalf a verb is run.
#![forbid(unsafe_code)]

use clap::Args;

use crate::config::authorization;
use crate::container::Identity;
use crate::me::me;

/// Whose rights count.
#[derive(Debug, Clone, Args)]
#[group(id = "identity")]
pub struct Arguments {
    /// Act for this Kubernetes namespace, with no other rights than its own
    #[arg(long, value_name = "NAME", value_parser = namespace)]
    namespace: Option<Identity>,
}

fn namespace(name: &str) -> Result<Identity, String> {
    authorization::namespace(name).ok_or_else(|| "not the name of a Kubernetes namespace".to_owned())
}

impl Arguments {
    /// Whether it is for a namespace, which may see its own only.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        self.namespace.is_some()
    }

    /// The namespace, or whoever runs the command.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.namespace.clone().unwrap_or_else(|| me().identity())
    }
}
