//! What maintenance did, for people.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// What was done, for people, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    /// A line for each thing.
    pub done: Vec<String>,
    /// What failed.
    pub faults: Vec<Error>,
}

impl Report {
    /// Takes the answer of a part of the work.
    pub fn add(&mut self, answer: Result<Vec<String>>) {
        match answer {
            Ok(done) => self.done.extend(done),
            Err(fault) => self.faults.push(fault),
        }
    }
}
