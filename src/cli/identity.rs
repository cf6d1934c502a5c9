//! On whose behalf a verb is run.
#![forbid(unsafe_code)]

use clap::Args;

use crate::container::Identity;
use crate::me::me;

/// Whose rights count.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Act for this Kubernetes namespace, with no other rights than its own
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

impl Arguments {
    /// The namespace, or whoever runs the command.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.namespace.as_ref().map_or_else(|| me().identity(), |name| Identity::Namespace(name.clone()))
    }
}
