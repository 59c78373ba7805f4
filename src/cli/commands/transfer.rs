//! `rbuild push` and `rbuild pull`: images between the store and registries.

use super::image::choose;
use super::{client, failed, open_store, print};
use crate::build::{self, BlobForm};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::request::commands::{Pull, Push};
use crate::executor::{Layers, Namespace};
use crate::image::media_type::Compression;
use crate::progress::Progress;
use crate::sandbox::Options;
use crate::ui::Ui;

/// Pushes an image that the store has.
pub(super) fn push(request: &Push, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let tagged = choose(&store, &request.image)?;
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(&store, &registry, &namespace);
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let blob = BlobForm { compression: Compression::Gzip, level: None };
    let pushed = build::push_stored(&layers, &tagged, &request.destination, blob, &progress);
    ui.finish();
    let descriptor = pushed.map_err(|error| failed(&error))?;
    print(&format!("{}\n", descriptor.digest))
}

/// Pulls an image with all its layers.
pub(super) fn pull(request: &Pull, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let registry = client(&request.registries);
    let namespace = Namespace::new(Options::new(store.root().join("trees")));
    let layers = Layers::new(&store, &registry, &namespace);
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let pulled = registry.full_name(&request.image).map_err(|error| failed(&error)).and_then(|name| {
        build::pull_image(&layers, &name, &request.platform, &progress).map_err(|error| failed(&error))
    });
    ui.finish();
    let digest = pulled?;
    print(&format!("{digest}\n"))
}
