//! Commands that only tell: `images`, `history`, `inspect`.

use std::fmt::Write as _;

use super::image::{choose, manifest_of};
use super::{failed, open_store, print, store_failed, warn_of_damage};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{CommandLength, History, ImagePart, Images, Inspect, Listing};
use crate::image::config::ImageConfig;
use crate::image::reference::Reference;
use crate::store::{Store, Tagged};

/// Bytes as people read them, in powers of ten as docker prints them.
pub(super) fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if value < 10.0 => format!("{value:.2}{}", units[unit]),
        _ => format!("{value:.1}{}", units[unit]),
    }
}

/// Rows as a table, columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(text, "{}", cells.join("   ").trim_end()).expect("text can be written to");
    }
    text
}

pub(super) fn pretty(value: &serde_json::Value) -> Result<String, Failure> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value).map_err(|error| failed(&error))?))
}

/// A name's repository and tag as docker lists them.
fn columns(name: &str) -> (String, String) {
    let familiar = name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar());
    match familiar.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (familiar, "<none>".to_owned()),
    }
}

/// `rbuild images`: what was built or pulled under a name.
pub(super) fn images(request: &Images) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let wanted = |tagged: &Tagged| {
        let (repository, tag) = columns(&tagged.name);
        request.filter.as_ref().is_none_or(|filter| format!("{repository}:{tag}").contains(filter.as_str()))
    };
    let all: Vec<Tagged> = store.all_tagged().map_err(store_failed)?.into_iter().filter(wanted).collect();
    warn_of_damage(&store);
    match request.listing {
        Listing::Json => {
            let rows: Vec<serde_json::Value> = all
                .iter()
                .map(|tagged| {
                    let (repository, tag) = columns(&tagged.name);
                    serde_json::json!({
                        "id": tagged.image.config, "repository": repository, "tag": tag, "platform": tagged.platform,
                        "created": tagged.image.created, "size": tagged.image.size, "built": tagged.built,
                    })
                })
                .collect();
            print(&pretty(&rows.into())?)
        }
        Listing::Ids => {
            let mut ids: Vec<String> = all.iter().map(|tagged| tagged.image.config.to_string()).collect();
            ids.dedup();
            print(&ids.into_iter().map(|id| format!("{id}\n")).collect::<String>())
        }
        Listing::Table => {
            let mut rows =
                vec![["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
            for tagged in &all {
                let (repository, tag) = columns(&tagged.name);
                let created =
                    tagged.image.created.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ");
                // The size of a pulled image is known once something looked into its layers.
                let size = if tagged.image.size == 0 { "-".to_owned() } else { human(tagged.image.size) };
                rows.push(vec![repository, tag, tagged.image.config.short(), tagged.platform.clone(), created, size]);
            }
            print(&table(&rows))
        }
    }
}

fn config_of(store: &Store, tagged: &Tagged) -> Result<ImageConfig, Failure> {
    let missing = || {
        Failure::new(
            FailureKind::Other,
            format!("the config of {} is not in the store any more; build or pull it again", tagged.name),
        )
    };
    let bytes = store.read_blob(&tagged.image.config).map_err(store_failed)?.ok_or_else(missing)?;
    ImageConfig::parse(&bytes).map_err(|error| failed(&error))
}

/// `rbuild history`: how an image came to be, newest first.
pub(super) fn history(request: &History) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let tagged = choose(&store, &request.image)?;
    let config = config_of(&store, &tagged)?;
    if request.listing == Listing::Json {
        return print(&pretty(&serde_json::to_value(&config.history).map_err(|error| failed(&error))?)?);
    }
    let mut layers = tagged.image.layers.iter();
    let mut rows = Vec::new();
    for entry in &config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        let size = match layer {
            Some(layer) => {
                let record: Option<crate::store::LayerRecord> =
                    store.read_record(crate::store::RecordKind::Layer, layer).map_err(store_failed)?;
                human(record.map_or(0, |record| record.size))
            }
            None => "0B".to_owned(),
        };
        let mut text = entry.created_by.replace(['\n', '\t'], " ");
        if request.commands == CommandLength::Cut && text.chars().count() > 60 {
            text = text.chars().take(59).collect::<String>() + "…";
        }
        let created = entry
            .created
            .as_deref()
            .unwrap_or("-")
            .split('.')
            .next()
            .unwrap_or_default()
            .trim_end_matches('Z')
            .replace('T', " ");
        rows.push(vec![created, size, text]);
    }
    rows.push(["CREATED", "SIZE", "CREATED BY"].map(str::to_owned).to_vec());
    rows.reverse();
    print(&table(&rows))
}

/// `rbuild inspect`: an image's documents.
pub(super) fn inspect(request: &Inspect) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let mut all = Vec::new();
    for selector in &request.images {
        let tagged = choose(&store, selector)?;
        let config = config_of(&store, &tagged)?;
        let value = match request.part {
            ImagePart::Config => serde_json::to_value(&config),
            ImagePart::Manifest | ImagePart::Index => {
                let bytes = manifest_of(&store, &tagged)?;
                serde_json::from_slice(&bytes)
            }
            ImagePart::Image => Ok(serde_json::json!({
                "Id": tagged.image.config,
                "RepoTags": [tagged.name.parse::<Reference>().map_or_else(|_| tagged.name.clone(), |name| name.familiar())],
                "Created": tagged.image.created,
                "Architecture": config.architecture,
                "Variant": config.variant,
                "Os": config.os,
                "Author": config.author,
                "Size": tagged.image.size,
                "Config": config.config,
                "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
            })),
        };
        all.push(value.map_err(|error| failed(&error))?);
    }
    let only = if all.len() == 1 && request.part != ImagePart::Image { all.pop() } else { None };
    print(&pretty(&only.unwrap_or_else(|| all.into()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_docker_shows_them() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (12_345_678, "12.3MB"), (999_999_999, "1.00GB")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn names_are_split_at_their_tag_and_not_at_a_port() {
        assert_eq!(columns("docker.io/library/debian:12"), ("debian".to_owned(), "12".to_owned()));
        assert_eq!(columns("localhost:5000/a:b"), ("localhost:5000/a".to_owned(), "b".to_owned()));
    }
}
