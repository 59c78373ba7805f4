//! What the command line says about a build, as far as the plan depends on it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::{Epoch, Network};
use crate::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// The host name that commands see unless told otherwise; BuildKit's.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// What the command line says about a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `--build-arg NAME=value`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`; the last stage where none is given.
    pub target: Option<String>,
    /// `--platform`; where none is given, a base image's own platform stays in the config.
    pub platform: Option<Platform>,
    /// The platform that builds.
    pub build_platform: Platform,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--network`: what RUN gets where it does not say.
    pub network: Network,
    /// `--build-context name=…`; a name may end in `::platform`.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// What dates the build, where `SOURCE_DATE_EPOCH` is not simply a number.
    pub epoch: Epoch,
    /// The host name that commands see.
    pub hostname: String,
    /// Which stages are looked at.
    pub scope: Scope,
    /// What titles of steps say.
    pub titles: Titles,
}

/// What titles of steps say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Titles {
    /// The stage and the instruction: `[build 2/3] RUN make`.
    #[default]
    Plain,
    /// The platform as well, where several are built: `[linux/arm64 build 2/3] RUN make`.
    WithPlatform,
}

/// Which stages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The target and what it reaches.
    #[default]
    Target,
    /// Every stage, for `--check`; the steps of the plan are the target's all the same.
    EveryStage,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            build_args: BTreeMap::new(),
            target: None,
            platform: None,
            build_platform: Platform::host(),
            labels: BTreeMap::new(),
            network: Network::Default,
            named_contexts: BTreeMap::new(),
            epoch: Epoch::AsWritten,
            hostname: DEFAULT_HOSTNAME.to_owned(),
            scope: Scope::Target,
            titles: Titles::Plain,
        }
    }
}

impl Options {
    /// The platform that the result is for, given or not.
    pub fn target_platform(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.build_platform)
    }

    /// The named context that stands in for a stage or an image, with its key: first the one for the platform.
    ///
    /// Names are compared as buildx writes them: familiar form, without `:latest`. `context` and `scratch` are reserved.
    pub(super) fn named_context(&self, name: &str, platform: &Platform) -> Option<(&str, &NamedContext)> {
        let wanted = familiar_name(name);
        if wanted == "context" || wanted == "scratch" {
            return None;
        }
        let with_platform = format!("{wanted}::{platform}");
        let find = |wanted: &str| {
            let matches = |key: &str| match key.split_once("::") {
                Some((name, platform)) => format!("{}::{platform}", familiar_name(name)) == wanted,
                None => familiar_name(key) == wanted,
            };
            self.named_contexts.iter().find(|(key, _)| matches(key)).map(|(key, context)| (key.as_str(), context))
        };
        find(&with_platform).or_else(|| find(&wanted))
    }
}

fn familiar_name(name: &str) -> String {
    let familiar = match name.parse::<Reference>() {
        Ok(reference) => reference.familiar(),
        Err(_) => name.to_lowercase(),
    };
    familiar.strip_suffix(":latest").map(str::to_owned).unwrap_or(familiar)
}

/// What a `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://reference`.
    Image(Reference),
    /// `oci-layout://path[:tag][@digest]`.
    OciLayout {
        /// The layout's directory.
        path: PathBuf,
        /// The name within its index.
        tag: Option<String>,
        /// The manifest.
        digest: Option<Digest>,
    },
    /// A local directory.
    Directory(PathBuf),
    /// A git repository, with its fragment or query.
    Git(String),
    /// An archive to download.
    Url(String),
    /// `target:name`: another stage of the same file.
    Target(String),
}

/// A base image whose config the plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseKey {
    /// Where the image is.
    pub source: BaseSource,
    /// The platform to choose.
    pub platform: Platform,
}

/// Where a base image is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BaseSource {
    /// In a registry or the local store; tag `latest` filled in.
    Image(Reference),
    /// In an OCI layout on disk.
    OciLayout {
        /// The layout's directory.
        path: PathBuf,
        /// The name within its index.
        tag: Option<String>,
        /// The manifest.
        digest: Option<Digest>,
    },
}

impl fmt::Display for BaseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BaseSource::Image(reference) => write!(f, "{reference}"),
            BaseSource::OciLayout { path, tag, digest } => {
                write!(f, "oci-layout://{}", path.display())?;
                if let Some(tag) = tag {
                    write!(f, ":{tag}")?;
                }
                match digest {
                    Some(digest) => write!(f, "@{digest}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for BaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source, self.platform)
    }
}
