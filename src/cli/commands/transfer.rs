//! `rbuild push` and `rbuild pull`: images between the store and registries.

use std::collections::BTreeSet;

use super::image::choose;
use super::{client, failed, open_store, print, store_failed, transfer_failed};
use crate::build::{self, BlobForm, BuildError};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::ImageSelector;
use crate::cli::request::transfer::{Pull, Pulled, Push, Pushed};
use crate::digest::Digest;
use crate::executor::{Layers, Namespace};
use crate::image::media_type::Compression;
use crate::image::reference::{InvalidReference, Reference};
use crate::progress::Progress;
use crate::sandbox::Options;
use crate::store::Store;
use crate::ui::Ui;

/// Pushes what the store has.
pub(super) fn push(request: &Push, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let chosen = match &request.what {
        Pushed::One(image, destination) => vec![(choose(&store, image)?, destination.clone())],
        Pushed::AllTags(from, to) => {
            let name = |tag: &str| {
                let from = tag_of(from, tag)?;
                let image = ImageSelector { text: from.familiar(), id: None, name: Some(from), archive: None };
                Ok((choose(&store, &image)?, tag_of(to, tag)?))
            };
            tags_in(&store, from)?.iter().map(|tag| name(tag)).collect::<Result<Vec<_>, Failure>>()?
        }
    };
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(&store, &registry, &namespace);
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let blob = BlobForm { compression: Compression::Gzip, level: None };
    let push = |(tagged, destination): &(_, Reference)| {
        let pushed = build::push_stored(&layers, tagged, destination, blob, &progress)?;
        Ok((pushed.digest, destination.clone()))
    };
    let pushed: Result<Vec<_>, BuildError> = chosen.iter().map(push).collect();
    ui.finish();
    let pushed = pushed.map_err(|error| transfer_failed(&error))?;
    print(&match request.what {
        Pushed::One(..) => one(&pushed),
        Pushed::AllTags(..) => each(&pushed),
    })
}

/// One digest alone; of all tags each with its name.
fn one(done: &[(Digest, Reference)]) -> String {
    done.iter().map(|(digest, _)| format!("{digest}\n")).collect()
}

fn each(done: &[(Digest, Reference)]) -> String {
    done.iter().map(|(digest, name)| format!("{digest} {}\n", name.familiar())).collect()
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
    let store = open_store(&request.store_root)?;
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(&store, &registry, &namespace);
    let full = |name: &Reference| registry.full_name(name).map_err(|error| failed(&error));
    let names = match &request.what {
        Pulled::One(name) => vec![full(name)?],
        Pulled::AllTags(repository) => {
            let repository = full(repository)?;
            let tags = registry.tags(&repository).map_err(|error| failed(&error))?;
            tags.iter().map(|tag| tag_of(&repository, tag)).collect::<Result<Vec<_>, _>>()?
        }
    };
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let pull = |name: &Reference| {
        let digest = build::pull_image(&layers, name, &request.platforms, &progress)?;
        Ok((digest, name.clone()))
    };
    let pulled: Result<Vec<_>, BuildError> = names.iter().map(pull).collect();
    ui.finish();
    let pulled = pulled.map_err(|error| transfer_failed(&error))?;
    print(&match request.what {
        Pulled::One(_) => one(&pulled),
        Pulled::AllTags(_) => each(&pulled),
    })
}
