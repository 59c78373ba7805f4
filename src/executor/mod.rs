//! (module executor)
