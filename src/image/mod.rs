//! The OCI data model: names, platforms, configs, manifests. No I/O.

pub mod config;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod time;
