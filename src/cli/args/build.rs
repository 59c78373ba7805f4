//! What `build`, `debug` and `explain` take.

use clap::{Args, FromArgMatches};

use super::switch::{Switch, SwitchArgument};
use super::words::WordArgument;
use super::{
    AttestArguments, CacheArguments, LayeringArguments, LimitArguments, RegistryArguments, ReproducibleArguments,
};
use crate::ui::PROGRESS_WORDS;

pub(super) const BUILD_HELP: &str = "\
Outputs (--output), besides rbuild's own store, which always has the image:
  DIR, type=local,dest=DIR      the result's files; mode=delete removes others, platform-split=false keeps platforms together
  -, type=tar[,dest=FILE]       the result's files in a tar
  type=oci[,dest=FILE]          an OCI layout in a tar; with tar=false,dest=DIR a directory
  type=docker[,dest=FILE]       what docker load and podman load read; one platform only
  type=registry[,name=NAME]     pushed; push-by-digest=true pushes without a tag
  type=image,name=NAME          one more name in the store; with push=true as registry
  Without dest, a tar goes to standard output. Images also take: compression=gzip|zstd|uncompressed,
  compression-level=N, force-compression=true, rewrite-timestamp=true, oci-mediatypes=true, annotation.KEY=VALUE,
  annotation-index.KEY=VALUE, annotation-manifest[PLATFORM].KEY=VALUE and the like

Caches (--cache-from, --cache-to), besides rbuild's own store, which is always asked first:
  NAME, type=registry,ref=NAME  a name in a registry; --cache-from also takes an image with a cache in it
  type=local,dest=DIR           an OCI layout in a directory (--cache-from: src=DIR); tag=NAME, digest=DIGEST
  type=inline                   in the image itself (--cache-to)
  type=s3,bucket=NAME           a bucket of S3; region=…, name=NAME[;NAME], prefix=…, endpoint_url=…, use_path_style=true and
                                BuildKit's others; keys as in AWS's tools (AWS_ACCESS_KEY_ID and the like)
  type=gha                      GitHub's cache service; scope=NAME, timeout=TIME, version=1|2, url=…, url_v2=…, token=…
                                (else ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL)
  --cache-to also takes: mode=min (layers of the result) or max (of all steps), ignore-error=false (the build fails where
  the cache cannot be written), mounts=true (cache mounts, too; mounts-max-size=SIZE each, which --cache-from takes as well),
  compression=…, compression-level=N, force-compression=true, oci-mediatypes=false

Attestations (--provenance, --sbom, --attest) lie beside the image, under an index, as BuildKit stores them; oci-artifact=false
at an output stores them as images for registries that know no artifacts. With files they are provenance.json and
sbom.spdx.json (attestation-prefix=PREFIX). --provenance=KEY=VALUE,… takes:
  mode=max|min                  max, the default, tells build arguments, ids of secrets, steps and the Dockerfile as well
  version=v1|v0.2, builder-id=ID, reproducible=true, inline-only=true (not beside files), filename=NAME,
  complete-materials=true (fail where a directory of this machine is built from)

Examples:
  rbuild -t app .
  rbuild -t registry.example/me/app:1 --push .
  rbuild -o type=docker,dest=- -t app . | docker load
  rbuild -o type=oci,dest=app.tar,compression=zstd --platform linux/amd64,linux/arm64 .
  rbuild --target test --build-arg GO_VERSION=1.24 --no-cache-filter test .
  rbuild --secret id=npm,src=$HOME/.npmrc --ssh default https://git.example/me/app.git#main

Exit status: 0, the exit status of a RUN that failed, 2 for a wrong command line, 130 after Ctrl-C, 1 otherwise.";

pub(super) const EXPLAIN_HELP: &str = "\
Takes the flags of `rbuild build`; give the same ones. Nothing runs and nothing is written; configs of base images and
remote sources are fetched where a key needs them.

For each step: HIT, or MISS with the reason, and all that its key is made of. UNKNOWN is what copies from a stage that has
to run first.";

/// What `explain` takes.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The flags of the build.
    #[command(flatten)]
    pub build: BuildArguments,
    /// text, or json for programs
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Messages", words(&["text", "json"]))]
    pub format: String,
}

/// What `build` takes.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// The directory that COPY reads from; or a URL of a Git repository or an archive; or `-`: an archive or
    /// a Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: String,

    /// Name the image: [registry/]repository[:tag] (repeatable)
    #[arg(short, long = "tag", value_name = "NAME", help_heading = "Result")]
    pub tags: Vec<String>,
    /// Write the result: a directory, `-` (tar on standard output), or type=TYPE[,KEY=VALUE…], see below (repeatable)
    #[arg(short, long = "output", value_name = "OUTPUT", help_heading = "Result")]
    pub outputs: Vec<String>,
    /// Push to the registries that the tags name; short for --output type=registry
    #[arg(long, switch(), help_heading = "Result")]
    pub push: Switch,
    /// Accepted: the image is always in rbuild's own store. To hand it to Docker: -o type=docker,dest=- | docker load
    #[arg(long, switch(), help_heading = "Result")]
    pub load: Switch,
    /// Add a label to the image (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "Result")]
    pub labels: Vec<String>,
    /// Add an OCI annotation; TYPE is manifest, index, manifest-descriptor or index-descriptor, with
    /// [PLATFORM] behind it for one platform (repeatable)
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE", help_heading = "Result")]
    pub annotations: Vec<String>,
    /// Write the image's id to a file
    #[arg(long = "iidfile", value_name = "FILE", help_heading = "Result")]
    pub image_id_file: Option<String>,
    /// Write digests and names of the result to a file as JSON
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub metadata_file: Option<String>,

    /// The Dockerfile; `-` reads it from standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE", help_heading = "What to build")]
    pub file: Option<String>,
    /// Build up to this stage
    #[arg(long, value_name = "STAGE", help_heading = "What to build")]
    pub target: Option<String>,
    /// Give an ARG a value; without `=`, the environment's (repeatable)
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "What to build")]
    pub build_args: Vec<String>,
    /// Build for these platforms, such as linux/arm64; several make an index [env: DOCKER_DEFAULT_PLATFORM]
    /// (repeatable)
    #[arg(long = "platform", value_name = "PLATFORM,…", value_delimiter = ',', help_heading = "What to build")]
    pub platforms: Vec<String>,
    /// Name another context for FROM and COPY --from: a directory, a URL, docker-image://NAME,
    /// oci-layout://DIR[:TAG|@DIGEST] or target:STAGE (repeatable)
    #[arg(long = "build-context", value_name = "NAME=SOURCE", help_heading = "What to build")]
    pub build_contexts: Vec<String>,

    /// Look for newer base images: always, missing (only what is not here), never [default: missing]
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        value_name = "WHEN",
        help_heading = "Cache"
    )]
    pub pull: Option<String>,
    /// Run every step again
    #[arg(long, switch(), help_heading = "Cache")]
    pub no_cache: Switch,
    /// Run every step of these stages again (repeatable)
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Caches elsewhere.
    #[command(flatten)]
    pub caches: CacheArguments,

    /// Give RUN --mount=type=secret a value: id=NAME[,src=FILE|,env=VARIABLE] (repeatable)
    #[arg(long = "secret", value_name = "SECRET", help_heading = "RUN")]
    pub secrets: Vec<String>,
    /// Give RUN --mount=type=ssh an agent or keys: default|ID[=SOCKET|KEY,…] (repeatable)
    #[arg(long, value_name = "AGENT", help_heading = "RUN")]
    pub ssh: Vec<String>,
    /// The network of RUN: default (the machine's, without abstract sockets), private (its own, which leads out through
    /// pasta or slirp4netns; nothing of this machine's loopback is in reach), none, host
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "default", help_heading = "RUN", words(&["default", "private", "none", "host"]))]
    pub network: String,
    /// Add a line to /etc/hosts of RUN: HOST:IP or HOST=IP; the address host-gateway is this machine (repeatable)
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',', help_heading = "RUN")]
    pub hosts: Vec<String>,
    /// A name server for RUN in place of this machine's (repeatable)
    #[arg(long = "dns", value_name = "IP", value_delimiter = ',', help_heading = "RUN")]
    pub name_servers: Vec<String>,
    /// A domain in which RUN looks for short names; `.` for none (repeatable)
    #[arg(long = "dns-search", value_name = "DOMAIN", value_delimiter = ',', help_heading = "RUN")]
    pub search_domains: Vec<String>,
    /// An option of resolv.conf for RUN, such as ndots:1 (repeatable)
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION", help_heading = "RUN")]
    pub resolver_options: Vec<String>,
    /// Allow what a Dockerfile may ask for: network.host, security.insecure, device[=NAME] (repeatable)
    #[arg(long = "allow", value_name = "ENTITLEMENT", help_heading = "RUN")]
    pub entitlements: Vec<String>,
    /// Look for descriptions of devices (CDI, in JSON) here in place of /etc/cdi and /var/run/cdi (repeatable)
    #[arg(long = "cdi-spec-dir", value_name = "DIRECTORY", help_heading = "RUN")]
    pub cdi_directories: Vec<String>,
    /// The size of /dev/shm in RUN, such as 256m
    #[arg(long, value_name = "SIZE", help_heading = "RUN")]
    pub shm_size: Option<String>,
    /// When a RUN fails: stop, or open a shell in its files, variables, user and mounts (needs a terminal) [default: stop]
    #[arg(long, value_name = "ACTION", help_heading = "RUN", words(&["stop", "shell"]))]
    pub on_error: Option<String>,
    /// The least isolation of RUN that will do: full (namespaces) or chroot, also without Landlock [default: full where
    /// the place allows it, else chroot with Landlock; env: RBUILD_ISOLATION]
    #[arg(long, value_name = "MODE", help_heading = "RUN", words(&["full", "chroot"]))]
    pub isolation: Option<String>,
    /// How a root for RUN is made of layers: auto, overlay, copy; auto takes copies where the kernel or the store's
    /// file system refuses overlay mounts, which takes longer [default: auto; env: RBUILD_STORAGE_DRIVER]
    #[arg(long, value_name = "DRIVER", help_heading = "RUN", words(&["auto", "overlay", "copy"]))]
    pub storage_driver: Option<String>,
    /// Run at most so many steps at once [default: one per processor]
    #[arg(short, long, value_name = "NUMBER", help_heading = "RUN")]
    pub jobs: Option<String>,

    /// How to show progress: auto, plain, tty, rawjson, quiet, none [default: auto; env: BUILDKIT_PROGRESS]
    #[arg(long, value_name = "MODE", help_heading = "Messages", words(&PROGRESS_WORDS))]
    pub progress: Option<String>,
    /// Print the image's id and nothing else
    #[arg(short, long, switch(), help_heading = "Messages")]
    pub quiet: Switch,
    /// Check the Dockerfile and build nothing; short for --call check
    #[arg(long, switch(), help_heading = "Messages")]
    pub check: Switch,
    /// Print the plan, every step with all that it depends on, and build nothing; short for --call plan
    #[arg(long, switch(), help_heading = "Messages")]
    pub dry_run: Switch,
    /// What to do with the Dockerfile: build, plan, check, outline, targets; add ,format=json for programs
    #[arg(long, visible_alias = "print", value_name = "METHOD", help_heading = "Messages", words(&["build", "plan", "check", "outline", "targets"]))]
    pub call: Option<String>,

    /// What is said about the image.
    #[command(flatten)]
    pub attest: AttestArguments,
    /// How layers come from steps.
    #[command(flatten)]
    pub layering: LayeringArguments,
    /// What makes builds alike.
    #[command(flatten)]
    pub reproducible: ReproducibleArguments,
    /// What RUN may use at most.
    #[command(flatten)]
    pub limits: LimitArguments,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArguments,
    /// What is accepted for the sake of scripts.
    #[command(flatten)]
    pub accepted: AcceptedArguments,
}

/// Flags of other builders that have no meaning here (yet): each gives a sentence about what happens instead.
#[derive(Debug, Args)]
pub struct AcceptedArguments {
    /// No intermediate containers are left
    #[arg(long, hide = true, optional_switch())]
    pub rm: Option<Switch>,
    /// No intermediate containers are left
    #[arg(long, hide = true, optional_switch())]
    pub force_rm: Option<Switch>,
    /// There is no daemon that the context is sent to
    #[arg(long, hide = true, optional_switch())]
    pub compress: Option<Switch>,
    /// There are no builder instances
    #[arg(long, hide = true, value_name = "NAME")]
    pub builder: Option<String>,
    /// Security options of the daemon's containers
    #[arg(long, hide = true, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Source policy
    #[arg(long = "policy", hide = true, value_name = "POLICY")]
    pub policies: Vec<String>,
}

impl BuildArguments {
    /// Reads the flags of `build` from words that rbuild itself wrote; the error is clap's text.
    pub fn of_words(words: &[String]) -> Result<BuildArguments, String> {
        let command = BuildArguments::augment_args(clap::Command::new("build").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        BuildArguments::from_arg_matches(&matches).map_err(|error| error.to_string())
    }
}
