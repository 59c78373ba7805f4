//! `rbuild save`, `load`, `import` and `export`: images between the store and files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::image::choose_for;
use super::list::pretty;
use super::{failed, open_interruptible, print, storage, store_failed};
use crate::archive::{self, ArchiveError, Origin};
use crate::build::{self, BuildError, LoadError, LoadOptions, NewLayer, SaveForm};
use crate::cli::environment::{Environment, Stdio};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::archive::{Export, Import, Load, Save};
use crate::cli::request::{ReportFormat, Verbosity};
use crate::executor::{Layers, Namespace};
use crate::image::config::ImageConfig;
use crate::image::reference::Reference;
use crate::layer::decompress::decompress;
use crate::layer::index::Index;
use crate::progress::Progress;
use crate::registry::{Client, ClientOptions};
use crate::sandbox::Options;
use crate::store::{Store, Tagged};
use crate::ui::{ProgressMode, Ui};

/// What works on layers needs; a layer that is still in its registry is fetched from there.
pub(super) struct Workshop {
    registry: Client,
    namespace: Namespace,
}

impl Workshop {
    pub(super) fn new(store: &Store) -> Workshop {
        let registry = Client::new(ClientOptions::load());
        Workshop { registry, namespace: Namespace::new(Options::new(store.root().join("trees"))) }
    }

    pub(super) fn layers<'a>(&'a self, store: &'a Store) -> Layers<'a> {
        Layers::new(store, &self.registry, &self.namespace)
    }
}

/// Does something that may take a while, and shows it where somebody looks at standard error.
pub(super) fn shown<T>(
    environment: &Environment,
    work: impl FnOnce(&Progress) -> Result<T, BuildError>,
) -> Result<T, Failure> {
    let mode = if environment.stderr == Stdio::Terminal { ProgressMode::Auto } else { ProgressMode::Quiet };
    let ui = Ui::start(mode, &environment.ui());
    let done = work(&Progress::new(ui.sink()));
    ui.finish();
    done.map_err(|error| failed(&error))
}

/// `rbuild save`.
pub(super) fn save(request: &Save, environment: &Environment) -> Result<(), Failure> {
    let store = open_interruptible(&request.store_root)?;
    let mut images: Vec<(Tagged, Vec<Reference>)> = Vec::new();
    for selector in &request.images {
        let mut tagged = choose_for(&store, selector, request.platform.as_ref())?;
        if request.platform.is_some() || selector.name.is_none() {
            // One image of those under the index.
            tagged.image.index = None;
        }
        // As docker: who is asked for by id has no name in the archive.
        let name = selector.name.clone().filter(|name| name.to_string() == tagged.name);
        let is_same =
            |other: &Tagged| (other.image.config, other.image.index) == (tagged.image.config, tagged.image.index);
        match images.iter_mut().find(|(other, _)| is_same(other)) {
            Some((_, names)) => names.extend(name.filter(|name| !names.contains(name))),
            None => images.push((tagged, name.into_iter().collect())),
        }
    }
    let workshop = Workshop::new(&store);
    let layers = workshop.layers(&store);
    let form = SaveForm { form: request.form, compression: request.compression };
    shown(environment, |progress| build::save(&layers, &images, form, &request.target, progress))
}

/// `rbuild export`.
pub(super) fn export(request: &Export, environment: &Environment) -> Result<(), Failure> {
    let store = open_interruptible(&request.store_root)?;
    let tagged = choose_for(&store, &request.image, request.platform.as_ref())?;
    let workshop = Workshop::new(&store);
    let layers = workshop.layers(&store);
    shown(environment, |progress| build::export_files(&layers, &tagged.image, &request.target, progress))
}

fn opened(path: Option<&Path>) -> Result<Box<dyn Read + Send>, Failure> {
    match path {
        None => Ok(Box::new(BufReader::with_capacity(1 << 18, io::stdin()))),
        Some(path) => {
            let file = File::open(path)
                .map_err(|error| Failure::new(FailureKind::Other, format!("open {}: {error}", path.display())))?;
            Ok(Box::new(BufReader::with_capacity(1 << 18, file)))
        }
    }
}

/// `rbuild load`.
pub(super) fn load(request: &Load, environment: &Environment) -> Result<(), Failure> {
    let limit = storage::limit(environment)?;
    storage::within(limit, open_interruptible(&request.store_root)?, |store| load_into(store, request))
}

fn load_into(store: &Store, request: &Load) -> Result<(), Failure> {
    let origin = match &request.input {
        Some(path) if path.is_dir() => Origin::Directory(path.clone()),
        input => Origin::Stream {
            name: input.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string()),
            reader: opened(input.as_deref())?,
        },
    };
    let images = archive::read(store, origin).map_err(|error| {
        let failure = failed(&error);
        match error {
            ArchiveError::NoImage { .. } => failure.hint("a tar of a root file system is taken by `rbuild import`"),
            _ => failure,
        }
    })?;
    let workshop = Workshop::new(store);
    let options = LoadOptions { names: request.tags.clone(), platform: request.platform.clone() };
    let loaded = build::load(&workshop.layers(store), &images, &options).map_err(|error| {
        let failure = failed(&error);
        match error {
            LoadError::NoName { .. } => failure.hint("give it one: rbuild load --tag NAME"),
            _ => failure,
        }
    })?;
    store.settle().map_err(store_failed)?;
    match (request.verbosity, request.format) {
        (Verbosity::Quiet, _) => Ok(()),
        (_, ReportFormat::Text) => {
            // A name that stands for several platforms is said once.
            let mut lines: Vec<_> =
                loaded.iter().map(|tagged| format!("Loaded image: {}\n", familiar(tagged))).collect();
            lines.dedup();
            print(&lines.concat())
        }
        (_, ReportFormat::Json) => {
            let rows: Vec<_> = loaded
                .iter()
                .map(|tagged| {
                    serde_json::json!({
                        "name": familiar(tagged), "id": tagged.image.config, "platform": tagged.platform,
                    })
                })
                .collect();
            print(&pretty(&rows.into())?)
        }
    }
}

fn familiar(tagged: &Tagged) -> String {
    tagged.name.parse::<Reference>().map_or_else(|_| tagged.name.clone(), |name| name.familiar())
}

/// `rbuild import`.
pub(super) fn import(request: &Import, environment: &Environment) -> Result<(), Failure> {
    let limit = storage::limit(environment)?;
    storage::within(limit, open_interruptible(&request.store_root)?, |store| import_into(store, request))
}

fn import_into(store: &Store, request: &Import) -> Result<(), Failure> {
    let mut config = ImageConfig {
        os: request.platform.os.clone(),
        architecture: request.platform.architecture.clone(),
        variant: request.platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config = changed(&config, &request.changes)?;
    let name = request.input.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let unreadable = |error: io::Error| Failure::new(FailureKind::Other, format!("read {name}: {error}"));
    let mut tar = decompress(opened(request.input.as_deref())?).map_err(unreadable)?;
    let mut head = vec![0; 512];
    let count = super::inputs::read_up_to(&mut tar, &mut head).map_err(unreadable)?;
    head.truncate(count);
    if !crate::layer::read::is_tar(&head) {
        return Err(Failure::new(FailureKind::Other, format!("{name} is no tar, compressed or not"))
            .hint("expected a tar of a root file system; an image archive is taken by `rbuild load`"));
    }
    let entry =
        NewLayer { created_by: String::new(), comment: request.message.clone(), created: request.created.clone() };
    let workshop = Workshop::new(store);
    let layers = workshop.layers(store);
    let tagged = build::import_files(&layers, &mut head.as_slice().chain(tar), config, &entry, &request.names)
        .map_err(|error| failed(&error))?;
    note_image_archives(store, &tagged);
    print(&format!("{}\n", tagged.image.config))
}

/// Who imports what `docker save` wrote gets an image without a single program: worth a word.
fn note_image_archives(store: &Store, tagged: &Tagged) {
    let index = tagged.image.layers.first().and_then(|layer| std::fs::read(store.index_path(layer)).ok());
    let index = index.and_then(|bytes| Index::read_from(&bytes).ok());
    if index.is_some_and(|index| index.find(b"oci-layout").is_some() || index.find(b"manifest.json").is_some()) {
        super::say(
            "note: this is an archive of images; its files were imported as they are, `rbuild load` makes images of it",
        );
    }
}

/// A config after `--change`.
pub(super) fn changed(
    config: &ImageConfig,
    changes: &[String],
) -> Result<crate::image::config::ContainerConfig, Failure> {
    build::change_config(config, changes)
        .map_err(|reason| Failure::new(FailureKind::Usage, format!("invalid --change {reason}")))
}
