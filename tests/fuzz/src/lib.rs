//! What the fuzz targets stand on: a printer for requests, and what must be true of every plan and of every conversion.
#![forbid(unsafe_code)]

pub mod convert;
pub mod plan;
pub mod print;
