//! What the commands take that move images between the store and files.

use clap::Args;

use super::words::WordArgument;

pub(super) const SAVE_HELP: &str = "\
Formats (--format):
  docker-archive    a tar that docker load, podman load and rbuild load read; an OCI layout, too
  oci-archive       an OCI layout in a tar

Examples:
  rbuild save -o app.tar app:1 app:latest
  rbuild save app | docker load
  rbuild save app | zstd > app.tar.zst";

pub(super) const LOAD_HELP: &str = "\
Reads what docker save, podman save, skopeo, buildx and rbuild write: Docker archives and OCI layouts, in a tar (also
compressed with gzip, zstd, bzip2 or xz) or as a directory. An archive whose bytes are not what their digests say, or
whose names lead out of it, is refused.

Examples:
  rbuild load -i app.tar
  docker save app | rbuild load
  rbuild load -i layout/ -t app:1";

pub(super) const IMPORT_HELP: &str = "\
The tar is the root file system: its files become the only layer. It may be compressed.
Changes (-c): CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR

Examples:
  rbuild import rootfs.tar.xz base:1
  debootstrap … | rbuild import -c 'CMD [\"/bin/bash\"]' -m 'made by debootstrap' - debian:mine";

/// What `save` takes.
#[derive(Debug, Args)]
pub struct SaveArguments {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Write to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// docker-archive or oci-archive
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive", words(&["docker-archive", "oci-archive"]))]
    pub format: String,
    /// Compress all layers so: gzip, zstd or uncompressed [default: as they are, new ones with gzip]
    #[arg(long, value_name = "COMPRESSION", words(&["gzip", "zstd", "uncompressed"]))]
    pub compression: Option<String>,
    /// Of a name with several platforms, this one [default: all in an OCI archive, this machine's for docker load]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// What `load` takes.
#[derive(Debug, Args)]
pub struct LoadArguments {
    /// Read this file or directory [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<String>,
    /// One more name for what is loaded; needed where the archive has none (repeatable)
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// Only the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", words(&["text", "json"]))]
    pub format: String,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `import` takes.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// A tar of a root file system; - reads standard input
    #[arg(value_name = "FILE")]
    pub file: String,
    /// The image's names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Change the image's config as this instruction of a Dockerfile does (repeatable)
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// What the history says about it
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// The platform that it is for [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// What `export` takes.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// A name, an id or an archive: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Write to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// Of a name with several platforms, this one [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}
