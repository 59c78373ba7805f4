//! (module snapshot)
