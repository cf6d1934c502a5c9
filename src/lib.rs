//! The Apache Mesos filesystem isolators and their persistent volumes as OCI runtime hooks.
//!
//! ```text
//! state on stdin ─► container ─► request ─► plan ─► isolator ─► record
//! ```
//!
//! Up to the plan everything is a pure function of its inputs. The README says what it does for users, and
//! `docs/how-it-works.md` walks through a container's start step by step.

pub mod aside;
pub mod attach;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod container;
pub mod convert;
pub mod counters;
pub mod doctor;
pub mod error;
pub mod gc;
pub mod holders;
pub mod hook;
pub mod ids;
pub mod init;
pub mod intake;
pub mod isolator;
pub mod journal;
pub mod lease;
pub mod live;
pub mod logging;
pub mod me;
pub mod mesos;
pub mod mountinfo;
pub mod mountpoint;
pub mod nearest;
pub mod plan;
pub mod read;
pub mod reconcile;
pub mod record;
pub mod report;
pub mod request;
pub mod runtime_dir;
pub mod sandbox;
pub mod secret;
pub mod selinux;
pub mod steps;
pub mod tree;
pub mod trusted;
pub mod undo;
pub mod volume;

#[allow(unsafe_code)]
pub mod sys;
