//! What the runtime says about a container: the state on standard input, the bundle it names, and who made
//! that bundle.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod manager;
pub mod state;

pub use bundle::BundleConfig;
pub use manager::{Identity, Manager};
pub use state::State;
