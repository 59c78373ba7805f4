//! The part of the table about caches that are not this machine's store.

use clap::Args;

/// Caches elsewhere.
#[derive(Debug, Args)]
pub struct CacheArguments {
    /// Take steps from a cache elsewhere (see below; repeatable, the first that has a step wins)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Write a cache for others (see below; repeatable)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,
}
