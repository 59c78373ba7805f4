//! The part of the table about caches that are not this machine's store.

use clap::Args;

/// Caches elsewhere.
#[derive(Debug, Args)]
pub struct CacheArguments {
    /// Take steps from a cache elsewhere: NAME or type=registry,ref=NAME (an image with an inline cache, too) or
    /// type=local,src=DIR[,tag=NAME] (repeatable; the first that has a step wins)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Write a cache for others: NAME or type=registry,ref=NAME or type=local,dest=DIR or type=inline (in the image), with
    /// mode=min (layers of the result) or max (of all steps), ignore-error=false, compression=… (repeatable)
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,
}
