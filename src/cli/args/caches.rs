//! The part of the table about caches that are not this machine's store.

use clap::Args;

use super::words::WordArgument;

/// Caches elsewhere.
#[derive(Debug, Args)]
pub struct CacheArguments {
    /// Take steps from a cache elsewhere (see below; repeatable, the first that has a step wins)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Write a cache for others (see below; repeatable)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,
    /// Write caches beside those that are named, as NAME's own: the tag (name, scope) becomes TAG-NAME; they are read first, then the others
    #[arg(long, value_name = "NAME", help_heading = "Cache")]
    pub cache_domain: Option<String>,
    /// Whether --cache-to writes: auto (not for a pull request in a CI, unless into a --cache-domain), always, never
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Cache", words(&["auto", "always", "never"]))]
    pub cache_write: String,
}
