//! What the fuzz targets stand on: a printer for requests, and what must be true of every plan.
#![forbid(unsafe_code)]

pub mod plan;
pub mod print;
