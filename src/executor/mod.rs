//! (module executor)

pub mod copy;
pub mod passwd;
