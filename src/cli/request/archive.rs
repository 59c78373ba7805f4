//! What `save`, `load`, `import` and `export` were asked to do.

use std::path::PathBuf;

use super::commands::ImageSelector;
use super::fields::Given;
use super::{InvalidRequest, ReportFormat, Verbosity, platform, references, store_root};
use crate::cli::args::{ExportArguments, GlobalArguments, ImportArguments, LoadArguments, SaveArguments};
use crate::cli::environment::{Environment, Stdio};
use crate::export::{FileTarget, LayoutForm};
use crate::image::media_type::Compression;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::image::time::{DATES, rfc3339};

/// `save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub images: Vec<ImageSelector>,
    /// Where to.
    pub target: FileTarget,
    /// Plain OCI, or for `docker load`.
    pub form: LayoutForm,
    /// How all layers are compressed, where they are not left as they are.
    pub compression: Option<Compression>,
    /// Of a name with several platforms, this one.
    pub platform: Option<Platform>,
}

/// `load`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Where images live.
    pub store_root: PathBuf,
    /// What is read; standard input where none.
    pub input: Option<PathBuf>,
    /// More names.
    pub tags: Vec<Reference>,
    /// Only the image for this platform.
    pub platform: Option<Platform>,
    /// Who reads what is printed.
    pub format: ReportFormat,
    /// Whether anything is printed.
    pub verbosity: Verbosity,
}

/// `import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Where images live.
    pub store_root: PathBuf,
    /// What is read; standard input where none.
    pub input: Option<PathBuf>,
    /// The image's names.
    pub names: Vec<Reference>,
    /// Instructions that change the config.
    pub changes: Vec<String>,
    /// What the history says.
    pub message: String,
    /// What it is for.
    pub platform: Platform,
    /// RFC 3339.
    pub created: String,
}

/// `export`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub image: ImageSelector,
    /// Where to.
    pub target: FileTarget,
    /// Of a name with several platforms, this one.
    pub platform: Option<Platform>,
}

/// A file, or standard output where that is no terminal.
fn target(output: Option<&str>, environment: &Environment) -> Result<FileTarget, InvalidRequest> {
    match (output, environment.stdout) {
        (None | Some("-"), Stdio::Terminal) => Err(InvalidRequest::Contradiction {
            problem: "refusing to write a tar to a terminal".to_owned(),
            hint: "name a file with -o FILE, or send standard output elsewhere".to_owned(),
        }),
        (None | Some("-"), Stdio::Other) => Ok(FileTarget::Stdout),
        (Some(path), _) => Ok(FileTarget::Path(environment.absolute(path))),
    }
}

/// A file, or standard input where that is no terminal; `reader` is the command that reads the latter.
fn input(path: Option<&str>, reader: &str, environment: &Environment) -> Result<Option<PathBuf>, InvalidRequest> {
    match (path, environment.stdin) {
        (Some(url), _) if url.starts_with("http://") || url.starts_with("https://") => {
            Err(InvalidRequest::Contradiction {
                problem: format!("{url} is an address: only files and standard input are read"),
                hint: format!("curl -fL '{url}' | rbuild {reader}"),
            })
        }
        (None | Some("-"), Stdio::Terminal) => Err(InvalidRequest::Contradiction {
            problem: "refusing to read a tar from a terminal".to_owned(),
            hint: "name a file, or send one to standard input".to_owned(),
        }),
        (None | Some("-"), Stdio::Other) => Ok(None),
        (Some(path), _) => Ok(Some(environment.absolute(path))),
    }
}

pub(super) fn optional_platform(text: Option<&str>) -> Result<Option<Platform>, InvalidRequest> {
    text.map(|text| platform("--platform", text)).transpose()
}

impl Save {
    pub(in crate::cli) fn resolve(
        arguments: SaveArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Save, InvalidRequest> {
        let form = match arguments.format.as_str() {
            "docker-archive" | "docker" => LayoutForm::Docker,
            "oci-archive" | "oci" => LayoutForm::Oci,
            value => return Err(Given { flag: "--format", value, expected: "docker-archive or oci-archive" }.invalid()),
        };
        let compression = match arguments.compression.as_deref() {
            None => None,
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            Some("uncompressed") => Some(Compression::None),
            Some(value) => {
                return Err(Given { flag: "--compression", value, expected: "gzip, zstd or uncompressed" }.invalid());
            }
        };
        Ok(Save {
            store_root: store_root(global, environment)?,
            images: arguments.images.iter().map(|text| ImageSelector::parse(text)).collect::<Result<_, _>>()?,
            target: target(arguments.output.as_deref(), environment)?,
            form,
            compression,
            platform: optional_platform(arguments.platform.as_deref())?,
        })
    }
}

impl Load {
    pub(in crate::cli) fn resolve(
        arguments: LoadArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Load, InvalidRequest> {
        let format = match arguments.format.as_str() {
            "text" => ReportFormat::Text,
            "json" => ReportFormat::Json,
            value => return Err(Given { flag: "--format", value, expected: "text or json" }.invalid()),
        };
        Ok(Load {
            store_root: store_root(global, environment)?,
            input: input(arguments.input.as_deref(), "load", environment)?,
            tags: references("--tag", &arguments.tags)?,
            platform: optional_platform(arguments.platform.as_deref())?,
            format,
            verbosity: if arguments.quiet { Verbosity::Quiet } else { Verbosity::Normal },
        })
    }
}

impl Import {
    pub(in crate::cli) fn resolve(
        arguments: ImportArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Import, InvalidRequest> {
        let message = arguments.message.unwrap_or_else(|| format!("Imported from {}", arguments.file));
        Ok(Import {
            store_root: store_root(global, environment)?,
            input: input(Some(&arguments.file), &format!("import - {}", arguments.names.join(" ")), environment)?,
            names: references("NAME", &arguments.names)?,
            changes: arguments.changes,
            message,
            platform: optional_platform(arguments.platform.as_deref())?.unwrap_or_else(Platform::host),
            created: created(environment)?,
        })
    }
}

/// When an image is made that no build makes: now, or when `SOURCE_DATE_EPOCH` says.
pub(in crate::cli) fn created(environment: &Environment) -> Result<String, InvalidRequest> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    let since = environment.now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    match environment.variable(VARIABLE).filter(|value| !value.is_empty()) {
        None => {
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            Ok(rfc3339(seconds, Some(since.subsec_nanos())))
        }
        Some(value) => match value.parse().ok().filter(|seconds| DATES.contains(seconds)) {
            Some(seconds) => Ok(rfc3339(seconds, None)),
            None => {
                let expected = "seconds since 1970 (no milliseconds), within the years 1 to 9999";
                Err(Given { flag: VARIABLE, value, expected }.invalid())
            }
        },
    }
}

impl Export {
    pub(in crate::cli) fn resolve(
        arguments: ExportArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Export, InvalidRequest> {
        Ok(Export {
            store_root: store_root(global, environment)?,
            image: ImageSelector::parse_with_archives(&arguments.image, environment)?,
            target: target(arguments.output.as_deref(), environment)?,
            platform: optional_platform(arguments.platform.as_deref())?,
        })
    }
}
