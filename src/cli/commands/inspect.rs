//! `rbuild inspect` and `rbuild history`: what one image is, and how it came to be.

use serde_json::{Value, json};

use super::image::{choose_for, manifest_of};
use super::list::{human, moment, pretty, print_rows, since, table};
use super::{failed, open_store, print, store_failed};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{History, ImagePart, Inspect, Listing, TextLength};
use crate::image::config::{ContainerConfig, ImageConfig};
use crate::image::reference::Reference;
use crate::store::{LayerRecord, RecordKind, Store, Tagged};

pub(super) fn config_of(store: &Store, tagged: &Tagged) -> Result<ImageConfig, Failure> {
    let missing = || {
        Failure::new(
            FailureKind::Other,
            format!("the config of {} is not in the store any more; build or pull it again", tagged.name),
        )
    };
    let bytes = store.read_blob(&tagged.image.config).map_err(store_failed)?.ok_or_else(missing)?;
    ImageConfig::parse(&bytes).map_err(|error| failed(&error))
}

/// A line of the history.
struct Line {
    created: String,
    created_by: String,
    size: u64,
    comment: String,
}

/// `rbuild history`: how an image came to be, newest first.
pub(super) fn history(request: &History, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let tagged = choose_for(&store, &request.image, None)?;
    let config = config_of(&store, &tagged)?;
    if request.listing == Listing::Json {
        return print(&pretty(&serde_json::to_value(&config.history).map_err(|error| failed(&error))?)?);
    }
    let mut lines = lines(&store, &tagged, &config, request.commands)?;
    lines.reverse();
    // As docker: only the image itself has an id, what it was made of by others has none here.
    let id = |number: usize| match (number, request.commands) {
        (0, TextLength::Cut) => tagged.image.config.short(),
        (0, TextLength::Full) => tagged.image.config.to_string(),
        _ => "<missing>".to_owned(),
    };
    if let Listing::Template(template, heading) = &request.listing {
        let row = |(number, line): (usize, &Line)| {
            json!({
                "ID": id(number), "CreatedAt": line.created, "CreatedSince": since(&line.created, environment.now),
                "CreatedBy": line.created_by, "Size": human(line.size), "Comment": line.comment,
            })
        };
        return print_rows(&lines.iter().enumerate().map(row).collect::<Vec<_>>(), template, *heading);
    }
    let mut rows = vec![["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    for (number, line) in lines.into_iter().enumerate() {
        let created = if line.created.is_empty() { "-".to_owned() } else { moment(&line.created) };
        rows.push(vec![id(number), created, line.created_by, human(line.size), line.comment]);
    }
    print(&table(&rows))
}

fn lines(store: &Store, tagged: &Tagged, config: &ImageConfig, commands: TextLength) -> Result<Vec<Line>, Failure> {
    let mut layers = tagged.image.layers.iter();
    let mut lines = Vec::new();
    for entry in &config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        let record: Option<LayerRecord> = match layer {
            Some(layer) => store.read_record(RecordKind::Layer, layer).map_err(store_failed)?,
            None => None,
        };
        let mut text = entry.created_by.replace(['\n', '\t'], " ");
        if commands == TextLength::Cut && text.chars().count() > 60 {
            text = text.chars().take(59).collect::<String>() + "…";
        }
        lines.push(Line {
            created: entry.created.clone().unwrap_or_default(),
            created_by: text,
            size: record.map_or(0, |record| record.size),
            comment: entry.comment.replace(['\n', '\t'], " "),
        });
    }
    Ok(lines)
}

/// `rbuild inspect`: an image's documents.
pub(super) fn inspect(request: &Inspect) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let everything = store.all_tagged().map_err(store_failed)?;
    let mut all = Vec::new();
    for selector in &request.images {
        let tagged = choose_for(&store, selector, request.platform.as_ref())?;
        let config = config_of(&store, &tagged)?;
        let value = match request.part {
            ImagePart::Config => serde_json::to_value(&config),
            ImagePart::Manifest | ImagePart::Index => serde_json::from_slice(&manifest_of(&store, &tagged)?),
            ImagePart::Image => Ok(image_json(&tagged, &config, &everything)),
        };
        let value = value.map_err(|error| failed(&error))?;
        all.push(match (&request.template, request.part) {
            (Some(_), ImagePart::Image) => with_every_field(value, &config.config),
            _ => value,
        });
    }
    if let Some(template) = &request.template {
        return print_rows(&all, template, crate::cli::request::commands::Heading::None);
    }
    let only = if all.len() == 1 && request.part != ImagePart::Image { all.pop() } else { None };
    print(&pretty(&only.unwrap_or_else(|| all.into()))?)
}

/// An image as docker shows it.
fn image_json(tagged: &Tagged, config: &ImageConfig, everything: &[Tagged]) -> Value {
    let same = everything.iter().filter(|other| other.image.config == tagged.image.config);
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for other in same {
        let Ok(name) = other.name.parse::<Reference>() else { continue };
        if name.digest().is_none() {
            tags.push(name.familiar());
        }
        if let Some(source) = other.image.source {
            let familiar = name.familiar();
            let repository = match (name.tag(), name.digest()) {
                (Some(tag), None) => familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar).to_owned(),
                _ => familiar.split('@').next().unwrap_or_default().to_owned(),
            };
            digests.push(format!("{repository}@{source}"));
        }
    }
    tags.sort();
    digests.sort();
    digests.dedup();
    let comment = config.history.last().map(|entry| entry.comment.as_str()).unwrap_or_default();
    json!({
        "Id": tagged.image.config,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": tagged.image.created,
        "Comment": comment,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Author": config.author,
        "Size": tagged.image.size,
        "Config": config.config,
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
    })
}

/// What JSON leaves out where it is empty is a field of docker's all the same.
fn with_every_field(mut image: Value, config: &ContainerConfig) -> Value {
    image["Config"] = json!({
        "User": config.user, "ExposedPorts": config.exposed_ports, "Env": config.env, "Entrypoint": config.entrypoint,
        "Cmd": config.cmd, "Volumes": config.volumes, "WorkingDir": config.working_dir, "Labels": config.labels,
        "StopSignal": config.stop_signal, "ArgsEscaped": config.args_escaped, "Healthcheck": config.healthcheck,
        "OnBuild": config.on_build, "Shell": config.shell,
    });
    image
}
