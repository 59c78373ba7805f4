//! What `executor` takes: the flags of kaniko's executor (v1.24), spelled and meant as there.

use clap::Args;

use super::Switch;
use super::switch::SwitchArgument;
use super::words::WordArgument;

/// What `executor` takes.
#[derive(Debug, Args)]
pub struct ExecutorArguments {
    /// Where the build reads: a directory or dir://DIR, tar://FILE, git://HOST/REPOSITORY[#REF[#COMMIT]], https://URL
    #[arg(short, long, value_name = "CONTEXT", default_value = "/workspace/", help_heading = "What to build")]
    pub context: String,
    /// A directory within the context to build in its place
    #[arg(long, value_name = "DIR", help_heading = "What to build")]
    pub context_sub_path: Option<String>,
    /// The Dockerfile, here or in the context
    #[arg(short = 'f', long, value_name = "FILE", help_heading = "What to build")]
    pub dockerfile: Option<String>,
    /// For a git context: branch=NAME, single-branch=BOOL, recurse-submodules=BOOL, separated by commas
    #[arg(long, value_name = "OPTION", value_delimiter = ',', help_heading = "What to build")]
    pub git: Vec<String>,
    /// A build argument: NAME=VALUE, or NAME for the environment's (repeatable)
    #[arg(long, value_name = "NAME=VALUE", help_heading = "What to build")]
    pub build_arg: Vec<String>,
    /// The stage to build
    #[arg(long, value_name = "STAGE", help_heading = "What to build")]
    pub target: Vec<String>,
    /// The platform to build for
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM", help_heading = "What to build")]
    pub custom_platform: Option<String>,
    /// A secret for RUN: id=NAME[,src=FILE|,env=VARIABLE] (repeatable)
    #[arg(long, value_name = "SECRET", help_heading = "What to build")]
    pub secret: Vec<String>,
    /// A label of the image (repeatable)
    #[arg(long, value_name = "KEY=VALUE", help_heading = "What to build")]
    pub label: Vec<String>,
    /// An annotation of the image's manifest (repeatable)
    #[arg(long, value_name = "KEY=VALUE", help_heading = "What to build")]
    pub annotation: Vec<String>,

    /// Push the image under this name (repeatable)
    #[arg(short, long, value_name = "NAME", help_heading = "Result")]
    pub destination: Vec<String>,
    /// Build and do not push
    #[arg(long, switch(), help_heading = "Result")]
    pub no_push: Switch,
    /// Write the image into a tar for `docker load`, too
    #[arg(long, alias = "tarPath", value_name = "FILE", help_heading = "Result")]
    pub tar_path: Option<String>,
    /// Write the image into a directory as an OCI layout, too
    #[arg(long, value_name = "DIR", help_heading = "Result")]
    pub oci_layout_path: Option<String>,
    /// Write the digest of the image into this file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub digest_file: Option<String>,
    /// Write NAME@DIGEST of each destination into this file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub image_name_with_digest_file: Option<String>,
    /// Write NAME:TAG@DIGEST of each destination into this file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub image_name_tag_with_digest_file: Option<String>,
    /// Make two builds of the same give the same image
    #[arg(long, switch(), help_heading = "Result")]
    pub reproducible: Switch,
    /// How layers are compressed: gzip or zstd
    #[arg(long, value_name = "WHAT", help_heading = "Result", words(&["gzip", "zstd"]))]
    pub compression: Option<String>,
    /// How hard; -1 leaves it to rbuild
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true, help_heading = "Result")]
    pub compression_level: Option<i32>,
    /// Make one layer of all that is put on the base
    #[arg(long, switch(), help_heading = "Result")]
    pub single_snapshot: Switch,
    /// Say what would be done
    #[arg(long, switch(), help_heading = "Result")]
    pub dryrun: Switch,

    /// Take steps from the cache, which is read from a registry and written there; without it every step runs
    #[arg(long, switch(), help_heading = "Cache")]
    pub cache: Switch,
    /// Where the cache is: a repository, or oci:DIR [default: the first destination's repository with /cache]
    #[arg(long, value_name = "NAME", help_heading = "Cache")]
    pub cache_repo: Option<String>,
    /// Read the cache and do not write it
    #[arg(long, switch(), help_heading = "Cache")]
    pub no_push_cache: Switch,

    /// Do not check certificates of the destinations' registries, and push in plain HTTP where they have no TLS
    #[arg(long, switch(), help_heading = "Registries")]
    pub insecure: Switch,
    /// The same for pulling
    #[arg(long, switch(), help_heading = "Registries")]
    pub insecure_pull: Switch,
    /// As --insecure
    #[arg(long, switch(), help_heading = "Registries")]
    pub skip_tls_verify: Switch,
    /// As --insecure-pull
    #[arg(long, switch(), help_heading = "Registries")]
    pub skip_tls_verify_pull: Switch,
    /// The same for this registry (repeatable)
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    pub insecure_registry: Vec<String>,
    /// As --insecure-registry (repeatable)
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    pub skip_tls_verify_registry: Vec<String>,
    /// Trust the certificates in a file: HOST=FILE (repeatable)
    #[arg(long, value_name = "HOST=FILE", help_heading = "Registries")]
    pub registry_certificate: Vec<String>,
    /// A mirror of Docker Hub [env: KANIKO_REGISTRY_MIRROR] (repeatable)
    #[arg(long, value_name = "MIRROR", help_heading = "Registries")]
    pub registry_mirror: Vec<String>,
    /// Mirrors of registries: HOST=MIRROR;… [env: KANIKO_REGISTRY_MAP] (repeatable)
    #[arg(long, value_name = "HOST=MIRROR", value_delimiter = ';', help_heading = "Registries")]
    pub registry_map: Vec<String>,

    /// What is told: trace, debug, info, warn, error, fatal, panic
    #[arg(short, long, value_name = "LEVEL", default_value = "info", help_heading = "Messages", words(&["trace", "debug", "info", "warn", "error", "fatal", "panic"]))]
    pub verbosity: String,
    /// How: text, color, json
    #[arg(long, value_name = "FORMAT", default_value = "color", help_heading = "Messages", words(&["text", "color", "json"]))]
    pub log_format: String,

    /// Flags that need nothing done, or cannot be followed.
    #[command(flatten)]
    pub other: OtherExecutorArguments,
}

/// Flags of kaniko that are about its own way of working.
#[derive(Debug, Args)]
pub struct OtherExecutorArguments {
    /// The warmer's directory
    #[arg(long, hide = true, value_name = "DIR")]
    pub cache_dir: Option<String>,
    /// How long a cache is good
    #[arg(long, hide = true, value_name = "TIME")]
    pub cache_ttl: Option<String>,
    /// Whether COPY is cached
    #[arg(long, hide = true, optional_switch())]
    pub cache_copy_layers: Option<Switch>,
    /// Whether RUN is cached
    #[arg(long, hide = true, optional_switch())]
    pub cache_run_layers: Option<Switch>,
    /// Whether cached layers are compressed
    #[arg(long, hide = true, optional_switch())]
    pub compressed_caching: Option<Switch>,
    /// How changes are found
    #[arg(long, hide = true, alias = "snapshotMode", value_name = "MODE")]
    pub snapshot_mode: Option<String>,
    /// How changes are found
    #[arg(long, hide = true, optional_switch())]
    pub use_new_run: Option<Switch>,
    /// Paths that are in no layer
    #[arg(long, hide = true, value_name = "PATH")]
    pub ignore_path: Vec<String>,
    /// Whether /var/run is in no layer
    #[arg(long, hide = true, optional_switch())]
    pub ignore_var_run: Option<Switch>,
    /// Tries
    #[arg(long, hide = true, value_name = "COUNT")]
    pub image_fs_extract_retry: Option<u32>,
    /// Tries
    #[arg(long, hide = true, value_name = "COUNT")]
    pub image_download_retry: Option<u32>,
    /// Tries
    #[arg(long, hide = true, value_name = "COUNT")]
    pub push_retry: Option<u32>,
    /// A tag that cannot be written is no error
    #[arg(long, hide = true, switch())]
    pub push_ignore_immutable_tag_errors: Switch,
    /// Whether it is tried first if a push is allowed
    #[arg(long, hide = true, optional_switch())]
    pub skip_push_permission_check: Option<Switch>,
    /// Its own directory
    #[arg(long, hide = true, value_name = "DIR")]
    pub kaniko_dir: Option<String>,
    /// Run outside of a container
    #[arg(long, hide = true, optional_switch())]
    pub force: Option<Switch>,
    /// Clean its own root up
    #[arg(long, hide = true, optional_switch())]
    pub cleanup: Option<Switch>,
    /// Clean its own root up
    #[arg(long, hide = true, optional_switch())]
    pub pre_cleanup: Option<Switch>,
    /// Keep the context
    #[arg(long, hide = true, optional_switch())]
    pub preserve_context: Option<Switch>,
    /// Put the result's files into its own root
    #[arg(long, hide = true, switch())]
    pub materialize: Switch,
    /// Stages that nothing needs are never built
    #[arg(long, hide = true, optional_switch())]
    pub skip_unused_stages: Option<Switch>,
    /// What is in the config
    #[arg(long, hide = true, optional_switch())]
    pub force_build_metadata: Option<Switch>,
    /// A bucket
    #[arg(short, long, hide = true, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Helpers that are built in
    #[arg(long, hide = true, value_name = "NAME", value_delimiter = ',')]
    pub credential_helpers: Vec<String>,
    /// Certificates by registry
    #[arg(long, hide = true, value_name = "HOST=CERT,KEY")]
    pub registry_client_cert: Vec<String>,
    /// Mirrors alone
    #[arg(long, hide = true, switch())]
    pub skip_default_registry_fallback: Switch,
    /// Times before lines
    #[arg(long, hide = true, optional_switch())]
    pub log_timestamp: Option<Switch>,
}
