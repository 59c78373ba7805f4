//! `rbuild push` and `rbuild pull`: images between the store and registries.

use std::collections::BTreeSet;

use super::each_tag::EachTag;
use super::image::choose;
use super::{client, failed, open_interruptible, print, storage, store_failed, transfer_failed};
use crate::build::{self, BlobForm, PushForm};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::ImageSelector;
use crate::cli::request::transfer::{Pull, Pulled, Push, Pushed};
use crate::executor::{Layers, Namespace};
use crate::image::media_type::Compression;
use crate::image::reference::{InvalidReference, Reference};
use crate::progress::Progress;
use crate::sandbox::Options;
use crate::store::Store;
use crate::ui::{ProgressMode, Ui};

/// Pushes what the store has, and signs it.
pub(super) fn push(request: &Push, environment: &Environment) -> Result<(), Failure> {
    // Before anything is pushed: who cannot sign in the end should know now.
    let keys = request.signing_keys.iter().map(|key| key.read(environment).map_err(|error| failed(&error)));
    let signing_keys = keys.collect::<Result<Vec<_>, Failure>>()?;
    let store = open_interruptible(&request.store_root)?;
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(&store, &registry, &namespace);
    let form = PushForm { blob: BlobForm { compression: Compression::Gzip, level: None }, signing_keys };
    let push = |image: &ImageSelector, destination: &Reference, progress: &Progress| {
        let tagged = choose(&store, image)?;
        let pushed = build::push_stored(&layers, &tagged, destination, &form, progress);
        pushed.map(|pushed| pushed.digest).map_err(|error| transfer_failed(&error))
    };
    match &request.what {
        Pushed::One(image, destination) => {
            let digest = observed(request.progress, environment, |progress| push(image, destination, progress))?;
            print(&format!("{digest}\n"))
        }
        Pushed::AllTags(from, to) => {
            let names = tags_in(&store, from)?.iter().map(|tag| tag_of(to, tag)).collect::<Result<Vec<_>, _>>()?;
            let pushed = observed(request.progress, environment, |progress| {
                EachTag::of(names, |destination| {
                    let name = tag_of(from, destination.tag().unwrap_or_default())?;
                    let image = ImageSelector { text: name.familiar(), id: None, name: Some(name), archive: None };
                    push(&image, destination, progress)
                })
            });
            pushed.report("pushed")
        }
    }
}

/// Does something, and shows it.
fn observed<T>(mode: ProgressMode, environment: &Environment, work: impl FnOnce(&Progress) -> T) -> T {
    let ui = Ui::start(mode, &environment.ui());
    let done = work(&Progress::new(ui.sink()));
    ui.finish();
    done
}

fn tag_of(repository: &Reference, tag: &str) -> Result<Reference, Failure> {
    format!("{}:{tag}", repository.name()).parse().map_err(|error: InvalidReference| failed(&error))
}

/// The tags that a repository has in the store.
fn tags_in(store: &Store, repository: &Reference) -> Result<BTreeSet<String>, Failure> {
    let all = store.all_tagged().map_err(store_failed)?;
    let names = all.iter().filter_map(|tagged| tagged.name.parse::<Reference>().ok());
    let ours = names.filter(|name| name.name() == repository.name() && name.digest().is_none());
    let tags: BTreeSet<String> = ours.filter_map(|name| name.tag().map(str::to_owned)).collect();
    match tags.is_empty() {
        false => Ok(tags),
        true => {
            let message = format!("there is no image of {} in the store", repository.familiar());
            Err(Failure::new(FailureKind::Other, message).hint("`rbuild images` lists what is there"))
        }
    }
}

/// Pulls images with all their layers.
pub(super) fn pull(request: &Pull, environment: &Environment) -> Result<(), Failure> {
    let limit = storage::limit(environment)?;
    storage::within(limit, open_interruptible(&request.store_root)?, |store| pull_into(store, request, environment))
}

fn pull_into(store: &Store, request: &Pull, environment: &Environment) -> Result<(), Failure> {
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(store, &registry, &namespace);
    let full = |name: &Reference| registry.full_name(name).map_err(|error| failed(&error));
    let pull = |name: &Reference, progress: &Progress| {
        build::pull_image(&layers, name, &request.platforms, progress).map_err(|error| transfer_failed(&error))
    };
    match &request.what {
        Pulled::One(name) => {
            let name = full(name)?;
            let digest = observed(request.progress, environment, |progress| pull(&name, progress))?;
            print(&format!("{digest}\n"))
        }
        Pulled::AllTags(repository) => {
            let repository = full(repository)?;
            let tags = registry.tags(&repository).map_err(|error| failed(&error))?;
            let names = tags.iter().map(|tag| tag_of(&repository, tag)).collect::<Result<Vec<_>, _>>()?;
            let pulled =
                observed(request.progress, environment, |progress| EachTag::of(names, |name| pull(name, progress)));
            pulled.report("pulled")
        }
    }
}
