//! (module plan)

pub mod expand;
