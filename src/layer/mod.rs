//! (module layer)
