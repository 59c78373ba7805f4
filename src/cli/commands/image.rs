//! Names of images in the store: finding, giving, taking away.

use super::{failed, open_store, print, store_failed};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{Care, ImageSelector, Remove, TagImage};
use crate::image::platform::Platform;
use crate::store::{Store, Tagged};

/// The image that somebody means: by name (for this machine's platform first), else by the beginning of its id.
pub(super) fn choose(store: &Store, selector: &ImageSelector) -> Result<Tagged, Failure> {
    choose_for(store, selector, None)
}

/// As [`choose`], for a platform that has to be the image's.
pub(super) fn choose_for(
    store: &Store,
    selector: &ImageSelector,
    platform: Option<&Platform>,
) -> Result<Tagged, Failure> {
    let mut all = store.all_tagged().map_err(store_failed)?;
    if let Some(platform) = platform {
        all.retain(|tagged| tagged.platform == platform.to_string());
    }
    let host = Platform::host().to_string();
    if let Some(name) = &selector.name {
        let name = name.to_string();
        let mut named: Vec<&Tagged> = all.iter().filter(|tagged| tagged.name == name).collect();
        named.sort_by_key(|tagged| tagged.platform != host);
        if let Some(found) = named.first() {
            return Ok((*found).clone());
        }
    }
    let Some(id) = &selector.id else { return Err(unknown(selector)) };
    let found: Vec<&Tagged> = all.iter().filter(|tagged| tagged.image.config.hex().starts_with(id)).collect();
    match found.as_slice() {
        [] => Err(unknown(selector)),
        [first, rest @ ..] if rest.iter().all(|other| other.image.config == first.image.config) => Ok((*first).clone()),
        _ => Err(Failure::new(FailureKind::Other, format!("{:?} is the beginning of several ids", selector.text))
            .hint("give more of the id, or a name")),
    }
}

fn unknown(selector: &ImageSelector) -> Failure {
    Failure::new(FailureKind::Other, format!("there is no image {:?} in the store", selector.text))
        .hint("`rbuild images` lists what is there")
}

/// The manifest of an image: as it was pulled, else as an OCI output would write it now.
pub(super) fn manifest_of(store: &Store, tagged: &Tagged) -> Result<Vec<u8>, Failure> {
    if let Some(manifest) = &tagged.image.manifest
        && let Some(bytes) = store.read_blob(manifest).map_err(store_failed)?
    {
        return Ok(bytes);
    }
    Err(Failure::new(FailureKind::Other, format!("{} has no manifest yet", tagged.name))
        .hint("a manifest is made by an output: push it, or build with --output"))
}

/// `rbuild tag`.
pub(super) fn tag(request: &TagImage) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let tagged = choose(&store, &request.image)?;
    // A name that stands for an index stands for all images under it.
    let members = match &tagged.image.index {
        Some(index) => store.members(&tagged.name, index).map_err(store_failed)?,
        None => vec![tagged],
    };
    for name in &request.names {
        for member in &members {
            let copy = Tagged { name: name.to_string(), built: true, ..member.clone() };
            store.tag(&copy).map_err(store_failed)?;
        }
    }
    Ok(())
}

/// `rbuild rmi`: names go; `rbuild prune` then removes what nothing needs.
pub(super) fn remove(request: &Remove) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let mut said = String::new();
    for selector in &request.images {
        let chosen = match choose(&store, selector) {
            Ok(chosen) => chosen,
            Err(_) if request.care == Care::Forced => continue,
            Err(failure) => return Err(failure),
        };
        let is_by_name = selector.name.as_ref().is_some_and(|name| name.to_string() == chosen.name);
        let all = store.all_tagged().map_err(store_failed)?;
        let named: Vec<&Tagged> = if is_by_name {
            all.iter().filter(|tagged| tagged.name == chosen.name).collect()
        } else {
            all.iter().filter(|tagged| tagged.image.config == chosen.image.config).collect()
        };
        if !is_by_name && named.len() > 1 && request.care == Care::Careful {
            return Err(Failure::new(FailureKind::Other, format!("the image {} has several names", selector.text))
                .hint("name the one to take away, or give --force for all"));
        }
        for tagged in named {
            store.untag(&tagged.name, &tagged.platform).map_err(|error| failed(&error))?;
            said.push_str(&format!("Untagged: {}\n", tagged.name));
        }
    }
    print(&said)
}
