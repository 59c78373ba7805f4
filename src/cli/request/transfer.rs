//! What `push` and `pull` were asked to do.

use std::path::PathBuf;

use super::commands::{ImageSelector, quiet_or};
use super::fields::Given;
use super::output::named;
use super::values::platforms;
use super::{InvalidRequest, KeySource, RegistryOptions, reference, registries, sign, store_root};
use crate::cli::args::{GlobalArguments, PullArguments, PushArguments};
use crate::cli::environment::Environment;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::ui::ProgressMode;

/// `push`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Where images live.
    pub store_root: PathBuf,
    /// What, and where to.
    pub what: Pushed,
    /// Keys that sign it.
    pub signing_keys: Vec<KeySource>,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// How to show progress.
    pub progress: ProgressMode,
}

/// What is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// One image under a name.
    One(ImageSelector, Reference),
    /// All tags of the first repository, under the same in the second.
    AllTags(Reference, Reference),
}

/// `pull`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Where images live.
    pub store_root: PathBuf,
    /// What.
    pub what: Pulled,
    /// For which platforms.
    pub platforms: Vec<Platform>,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// How to show progress.
    pub progress: ProgressMode,
}

/// What is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// What a name stands for.
    One(Reference),
    /// What all tags of a repository stand for.
    AllTags(Reference),
}

impl Push {
    pub(in crate::cli) fn resolve(
        arguments: PushArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Push, InvalidRequest> {
        let what = match (arguments.all_tags, &arguments.destination) {
            (true, destination) => {
                let source = repository("IMAGE", &arguments.image)?;
                let destination = destination.as_ref().map(|text| repository("DESTINATION", text)).transpose()?;
                Pushed::AllTags(source.clone(), destination.unwrap_or(source))
            }
            (false, Some(destination)) => {
                Pushed::One(ImageSelector::parse(&arguments.image)?, named("DESTINATION", destination)?)
            }
            (false, None) => {
                let image = ImageSelector::parse(&arguments.image)?;
                let name = image.name.clone().ok_or_else(|| InvalidRequest::Contradiction {
                    problem: format!("{} is an id, which does not say where to push", image.text),
                    hint: "add a destination: rbuild push ID NAME".to_owned(),
                })?;
                Pushed::One(image, name)
            }
        };
        Ok(Push {
            store_root: store_root(global, environment)?,
            what,
            signing_keys: sign::keys(&arguments.signing.signing_keys, environment)?,
            registries: registries(&arguments.registry, environment)?,
            progress: quiet_or(arguments.quiet.then_some(ProgressMode::Quiet), &arguments.progress, environment)?,
        })
    }
}

impl Pull {
    pub(in crate::cli) fn resolve(
        arguments: PullArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Pull, InvalidRequest> {
        let what = match arguments.all_tags {
            true => Pulled::AllTags(repository("IMAGE", &arguments.image)?),
            false => Pulled::One(named("IMAGE", &arguments.image)?),
        };
        Ok(Pull {
            store_root: store_root(global, environment)?,
            what,
            platforms: platforms(&arguments.platforms, environment)?,
            registries: registries(&arguments.registry, environment)?,
            progress: quiet_or(arguments.quiet.then_some(ProgressMode::Quiet), &arguments.progress, environment)?,
        })
    }
}

/// A name without tag and digest, for `--all-tags`.
pub(super) fn repository(flag: &'static str, text: &str) -> Result<Reference, InvalidRequest> {
    let name = reference(flag, text)?;
    if name.tag().is_some() || name.digest().is_some() {
        let given = Given { flag, value: text, expected: "a repository" };
        return Err(given.because("--all-tags means all tags of a repository: leave the tag out"));
    }
    Ok(name)
}
