//! What a Mesos agent leaves in its `work_dir`, so that the volumes in it can be used where they lie (mesos.md B).
//!
//! Everything here only looks, but for [`leftovers::detach`].
#![forbid(unsafe_code)]

pub mod agent;
pub mod checkpoint;
pub mod leftovers;
pub mod place;
pub mod wire;
