//! (module context)
