//! The Apache Mesos filesystem isolators and their persistent volumes as OCI runtime hooks.
//!
//! ```text
//! state on stdin ─► container ─► request ─► plan ─► isolator ─► record
//! ```
//!
//! Up to the plan everything is a pure function of its inputs. The README says what it does for users, and
//! `docs/how-it-works.md` walks through a container's start step by step.

pub mod config;
pub mod container;
pub mod error;
pub mod plan;
pub mod read;
pub mod request;
pub mod trusted;

#[allow(unsafe_code)]
pub mod sys;
