//! `fs-isolator authorize`: may an identity use a role, and why.
#![forbid(unsafe_code)]

use clap::Args;

use super::{identity, show};
use crate::config::Config;
use crate::container::Identity;
use crate::error::{Cause, Error, Result};
use crate::request::names::Role;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    identity: identity::Arguments,
    /// The role
    #[arg(long)]
    role: String,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::NotAuthorized`] where it may not.
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let identity = arguments.identity.identity();
    let role = Role::parse(&arguments.role)?;
    let decision = config.decide(&identity, &role);
    let (allowed, why) = (decision.is_allowed(), decision.to_string());
    if json {
        let answer = serde_json::json!({ "identity": identity, "role": role, "allowed": allowed, "why": why });
        show::json(&answer)?;
    }
    if !allowed {
        let error = Error::new(Cause::NotAuthorized, format!("{identity} may not use role {role}: {why}"));
        return Err(match &identity {
            Identity::Namespace(name) => error.remedy(format!(
                "to grant it: {{\"authorization\": {{\"allow\": [{{\"identity\": \"namespace:{name}\", \"roles\": [{:?}]}}]}}}}; \
                 a denial beats every grant",
                role.as_str()
            )),
            _ => error,
        });
    }
    if json { Ok(()) } else { show::lines(&[format!("{identity} may use role {role}: {why}")]) }
}
