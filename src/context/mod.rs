//! What the user sends to a build: a directory or a tar, less what `.dockerignore` names.
//!
//! Contract: nothing outside the context is ever read, whatever links it holds; nothing that nobody asks for is walked;
//! a file that changes while it is read is an error, never a mixture. It knows nothing of Dockerfiles, steps or layers.

pub mod archive;
pub mod dir;
pub mod ignore;
pub mod pattern;
mod stat_cache;
mod steady;
mod walk;
