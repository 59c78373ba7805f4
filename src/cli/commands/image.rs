//! Names of images in the store: finding, giving, taking away.

use super::archived::adopt;
use super::{failed, open_store, print, store_failed};
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{Care, ImageSelector, Remove, TagImage};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::registry::{Client, ClientOptions};
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
    if let Some(place) = &selector.archive {
        return adopt(store, place, platform);
    }
    let all = store.all_tagged().map_err(store_failed)?;
    let Some(platform) = platform else { return find(&all, selector)?.ok_or_else(|| unknown(selector)) };
    let text = platform.to_string();
    let meant: Vec<Tagged> = all.iter().filter(|tagged| tagged.platform == text).cloned().collect();
    match find(&meant, selector)? {
        Some(found) => Ok(found),
        None => {
            Err(find(&all, selector)?
                .map_or_else(|| unknown(selector), |other| lacks(&all, selector, &other, platform)))
        }
    }
}

/// The image that somebody means, of these.
fn find(all: &[Tagged], selector: &ImageSelector) -> Result<Option<Tagged>, Failure> {
    if let Some(name) = &selector.name
        && let Some(found) = named(all, name)
    {
        return Ok(Some(found));
    }
    let Some(id) = &selector.id else { return Ok(None) };
    let found: Vec<&Tagged> = all.iter().filter(|tagged| tagged.image.config.hex().starts_with(id)).collect();
    match found.as_slice() {
        [] => Ok(of_index(all, id)),
        [first, rest @ ..] if rest.iter().all(|other| other.image.config == first.image.config) => {
            Ok(Some((*first).clone()))
        }
        _ => Err(Failure::new(FailureKind::Other, format!("{:?} is the beginning of several ids", selector.text))
            .hint("give more of the id, or a name")),
    }
}

/// What was meant is there for other platforms alone.
fn lacks(all: &[Tagged], selector: &ImageSelector, other: &Tagged, platform: &Platform) -> Failure {
    let is_one = selector.id.as_ref().is_some_and(|id| other.image.config.hex().starts_with(id));
    let offered: Vec<&str> = match is_one {
        true => vec![&other.platform],
        false => all.iter().filter(|tagged| tagged.name == other.name).map(|tagged| tagged.platform.as_str()).collect(),
    };
    let message = format!("{} has no image for {platform}, it has {}", selector.text, offered.join(", "));
    Failure::new(FailureKind::Other, message)
}

/// The image of an index whose digest begins so: what a build prints whose image lies under one.
fn of_index(all: &[Tagged], id: &str) -> Option<Tagged> {
    let host = Platform::host().to_string();
    let is_under = |tagged: &&Tagged| tagged.image.index.is_some_and(|index| index.hex().starts_with(id));
    let mut found: Vec<&Tagged> = all.iter().filter(is_under).collect();
    found.sort_by_key(|tagged| tagged.platform != host);
    let index = found.first()?.image.index;
    found.iter().all(|tagged| tagged.image.index == index).then(|| found[0].clone())
}

/// The image of a name. What was built or pulled as it is written comes before what a short name stands for in
/// `registries.conf`, under which `pull` keeps an image.
fn named(all: &[Tagged], name: &Reference) -> Option<Tagged> {
    let host = Platform::host().to_string();
    let find = |name: &Reference| {
        let name = name.to_string();
        let named = all.iter().filter(|tagged| tagged.name == name);
        named.min_by_key(|tagged| tagged.platform != host).cloned()
    };
    if let Some(found) = find(name) {
        return Some(found);
    }
    name.short_name()?;
    // A short name that leads nowhere is no image of the store, either.
    Client::new(ClientOptions::load()).full_name(name).ok().and_then(|full| find(&full))
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

/// The index that a name stands for, where images for several platforms were built together.
pub(super) fn index_of(store: &Store, tagged: &Tagged) -> Result<Vec<u8>, Failure> {
    if let Some(index) = &tagged.image.index
        && let Some(bytes) = store.read_blob(index).map_err(store_failed)?
    {
        return Ok(bytes);
    }
    Err(Failure::new(FailureKind::Other, format!("{} stands for one image and has no index", tagged.name))
        .hint("--show manifest shows the image's manifest"))
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

/// `rbuild rmi`: names go; `rbuild prune` then removes what nothing needs. What cannot go holds up nothing else.
pub(super) fn remove(request: &Remove) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for selector in &request.images {
        if let Err(failure) = remove_one(&store, selector, request.care, &mut removed) {
            failures.push(failure);
        }
    }
    // A name that stands for several platforms is said once.
    removed.dedup();
    print(&removed.iter().map(|name| format!("Untagged: {name}\n")).collect::<String>())?;
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(()), Err);
    }
    let message = format!("{} of {} images were not removed", failures.len(), request.images.len());
    let mut all = Failure::new(FailureKind::Other, message);
    for Failure { message, causes, hints, .. } in failures {
        all.causes.push([vec![message], causes].concat().join(": "));
        all.hints.extend(hints);
    }
    all.hints.sort();
    all.hints.dedup();
    Err(all)
}

/// Takes away the names of one image, and tells which went.
fn remove_one(store: &Store, selector: &ImageSelector, care: Care, removed: &mut Vec<String>) -> Result<(), Failure> {
    let chosen = match choose(store, selector) {
        Ok(chosen) => chosen,
        Err(_) if care == Care::Forced => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let all = store.all_tagged().map_err(store_failed)?;
    let is_by_name = selector.name.as_ref().is_some_and(|name| named(&all, name).is_some());
    let same: Vec<&Tagged> = if is_by_name {
        all.iter().filter(|tagged| tagged.name == chosen.name).collect()
    } else {
        all.iter().filter(|tagged| tagged.image.config == chosen.image.config).collect()
    };
    if !is_by_name && same.len() > 1 && care == Care::Careful {
        return Err(Failure::new(FailureKind::Other, format!("the image {} has several names", selector.text))
            .hint("name the one to take away, or give --force for all"));
    }
    for tagged in same {
        store.untag(&tagged.name, &tagged.platform).map_err(|error| failed(&error))?;
        removed.push(tagged.name.clone());
    }
    Ok(())
}
