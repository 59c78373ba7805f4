//! The story of one build.
