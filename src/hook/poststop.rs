//! poststop: undoes what prestart did. It may come before, after or without its prestart, twice, or never.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::record::Record;
use crate::runtime_dir::{Open, RuntimeDir};
use crate::{logging, steps, undo};

/// For how many milliseconds a container may be dying.
const DYING: u16 = 1000;

/// Runs the hook. Neither pid, manager nor identity of the state is believed: the record has them.
///
/// # Errors
/// [`Cause::UndoIncomplete`] after everything was tried.
pub fn run(id: &str, config: &Config, name: &str) -> Result<()> {
    let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? else { return Ok(()) };
    if let Some(record) = Record::open(&runtime, name, Open::Existing)? {
        steps::done("record");
        if let Some(header) = &record.header
            && header.life.may_last()?
        {
            // crun has killed it, and does not wait until it has ended.
            header.life.init.wait(DYING)?;
            if header.life.may_last()? {
                log::info!("the container lives, or may live (process {}): nothing is undone", header.life.init.pid);
                return Ok(());
            }
        }
        undo::undo(&runtime, record, config).map_err(|errors| {
            let count = errors.len();
            errors.into_iter().for_each(|error| log::error!("{}", error.container(id)));
            Error::new(Cause::UndoIncomplete, format!("{count} of the steps failed"))
        })?;
        steps::done("undo");
        logging::discard(&runtime, name);
    }
    // Not at a start, which somebody waits for.
    undo::reap(&runtime, name, config);
    steps::done("others");
    Ok(())
}
