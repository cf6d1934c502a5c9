//! `fs-isolator authorize`: may an identity use a role, and why.
#![forbid(unsafe_code)]

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

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

/// The answer.
#[derive(Serialize, JsonSchema)]
pub struct Answer<'a> {
    /// Who asked.
    identity: &'a Identity,
    /// For which role.
    role: &'a Role,
    /// Whether it may use it.
    allowed: bool,
    /// Why, or why not.
    why: &'a str,
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
        show::json(&Answer { identity: &identity, role: &role, allowed, why: &why })?;
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
