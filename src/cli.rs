//! `fs-isolator`: one verb per file, text for a terminal and `--json` for programs.
#![forbid(unsafe_code)]

mod adopt;
mod attach;
mod authorize;
mod convert;
mod doctor;
mod examples;
mod explain;
mod generate;
mod host;
mod identity;
mod inspect;
mod install;
mod logs;
mod maintain;
mod metrics;
mod plan;
mod probe;
mod sandbox;
mod show;
mod status;
mod user;
mod volume;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::Config;
use crate::error::{Cause, Error, Result};

/// Apache Mesos filesystem isolators and persistent volumes as OCI hooks.
#[derive(Debug, Parser)]
#[command(name = "fs-isolator", version, about, max_term_width = 100)]
struct Cli {
    /// Read this configuration instead of /etc/fs-isolator/config.json
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Persistent volumes
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Sandboxes for containers of filesystem/posix
    #[command(subcommand)]
    Sandbox(sandbox::Verb),
    /// Show what stands in the way of using a Mesos agent's work_dir in place
    Adopt(adopt::Arguments),
    /// Write what ran on Mesos for podman, as Quadlets or for Kubernetes, with its volumes in place
    #[command(subcommand)]
    Convert(convert::Verb),
    /// Show what would be mounted where for a bundle, and why; does nothing
    Plan(plan::Arguments),
    /// Attach volumes to a running container
    Attach(attach::Attach),
    /// Detach a volume from a running container; its data stays
    Detach(attach::Detach),
    /// Give a running container exactly these volumes
    Update(attach::Update),
    /// Tell whether an identity may use a role, and why
    Authorize(authorize::Arguments),
    /// End what containers held that are gone, and undo what their hooks left
    Reconcile,
    /// Remove old sandboxes and logs, and finish what was killed halfway
    Gc,
    /// Show what a container's hooks had to say
    Logs(logs::Arguments),
    /// List the containers that have something, and what they hold
    Status(status::Arguments),
    /// Tell what containers get and give up, and what is refused, as it happens
    Watch(watch::Arguments),
    /// Print figures for Prometheus
    Metrics(metrics::Arguments),
    /// Show everything that is known about a container or a volume
    Inspect(inspect::Arguments),
    /// Look for what keeps containers of this host from their volumes, and tell what mends it
    Doctor(doctor::Arguments),
    /// Print the effective configuration
    Config(ConfigArguments),
    /// Tell what an exit code means
    Explain(explain::Arguments),
    /// Make work_dir a shared mount of its own, so that later mounts of the host below it reach containers
    Host(host::Arguments),
    /// Install the hook executables, then their hooks.d files
    Install(install::Install),
    /// Remove the hooks.d files, then the hook executables
    Uninstall(install::Arguments),
    /// Write what is derived from this command: manual pages, completions, JSON schemas
    #[command(subcommand)]
    Generate(generate::Verb),
    /// What runs in the container of `doctor --run`
    #[command(hide = true)]
    Probe(probe::Probe),
    /// Calls a hook and writes down how long it took, for `doctor --run`
    #[command(hide = true)]
    TimeHook(probe::TimeHook),
}

/// Arguments of `config`.
#[derive(Debug, Args)]
struct ConfigArguments {
    /// Print the request_token, which is not shown otherwise
    #[arg(long)]
    token: bool,
}

impl ConfigArguments {
    fn run(&self, config: &Config) -> Result<()> {
        match (self.token, &config.request_token) {
            (false, _) => show::json(config),
            (true, Some(token)) => show::lines(&[token]),
            (true, None) => Err(Error::new(Cause::Usage, "the configuration has no request_token")),
        }
    }
}

/// The command line with its examples, from which parsing, help, manual pages and completions come.
fn command() -> clap::Command {
    examples::add(Cli::command())
}

/// Runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    crate::sys::reset_umask();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fs-isolator: {error}");
            ExitCode::from(error.cause().code())
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    // For people; a hook's working directory means nothing.
    let file = cli.config.as_ref().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()));
    let config = || Config::load(file.as_deref());
    match &cli.verb {
        Verb::Volume(verb) => volume::run(verb, &config()?, cli.json),
        Verb::Sandbox(verb) => sandbox::run(verb, &config()?, cli.json),
        Verb::Adopt(arguments) => adopt::run(arguments, &config()?, cli.json),
        Verb::Convert(verb) => convert::run(verb, &config()?, cli.json),
        Verb::Plan(arguments) => plan::run(arguments, &config()?, cli.json),
        Verb::Attach(arguments) => attach::attach(arguments, &config()?, cli.json),
        Verb::Detach(arguments) => attach::detach(arguments, &config()?, cli.json),
        Verb::Update(arguments) => attach::update(arguments, &config()?, cli.json),
        Verb::Authorize(arguments) => authorize::run(arguments, &config()?, cli.json),
        Verb::Reconcile => maintain::reconcile(&config()?, cli.json),
        Verb::Gc => maintain::gc(&config()?, cli.json),
        Verb::Logs(arguments) => logs::run(arguments, &config()?, cli.json),
        Verb::Status(arguments) => status::run(arguments, &config()?, cli.json),
        Verb::Watch(arguments) => watch::run(arguments, &config()?, cli.json),
        Verb::Metrics(arguments) => metrics::run(arguments, &config()?, cli.json),
        Verb::Inspect(arguments) => inspect::run(arguments, &config()?, cli.json),
        Verb::Doctor(arguments) => doctor::run(arguments, file.as_deref(), cli.json),
        Verb::Config(arguments) => arguments.run(&config()?),
        Verb::Explain(arguments) => explain::run(arguments, cli.json),
        Verb::Host(arguments) => host::run(arguments, &config()?, cli.json),
        Verb::Install(arguments) => install::install(arguments, file.as_deref(), cli.json),
        Verb::Uninstall(arguments) => install::uninstall(arguments, cli.json),
        Verb::Generate(verb) => generate::run(verb, cli.json),
        Verb::Probe(arguments) => {
            crate::doctor::run::probe::run(&arguments.nonce);
            Ok(())
        }
        Verb::TimeHook(arguments) => probe::time(arguments),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
