//! Images of archives and layouts, for commands that look at images of the store: they are taken into it without a name,
//! so the next `prune` takes them away.

use std::fs::File;
use std::io::BufReader;

use super::archive::Workshop;
use super::{failed, store_failed};
use crate::archive::{self, ArchiveError, Origin};
use crate::build;
use crate::cli::failure::Failure;
use crate::cli::request::place::{ArchiveKind, ArchivePlace};
use crate::image::platform::Platform;
use crate::store::{Store, Tagged};

/// Takes an image of an archive: that of a platform where one is asked for, else this machine's where there are several.
pub(super) fn adopt(store: &Store, place: &ArchivePlace, platform: Option<&Platform>) -> Result<Tagged, Failure> {
    let name = place.path.display().to_string();
    let origin = match place.kind {
        ArchiveKind::Directory => Origin::Directory(place.path.clone()),
        ArchiveKind::OciArchive | ArchiveKind::DockerArchive => {
            let unreadable = |source| ArchiveError::Read { archive: name.clone(), source };
            let file = File::open(&place.path).map_err(|error| archive_failed(unreadable(error)))?;
            Origin::Stream { name: name.clone(), reader: Box::new(BufReader::with_capacity(1 << 18, file)) }
        }
    };
    let images = archive::read(store, origin).map_err(archive_failed)?;
    let chosen = archive::choose(&name, &images, place.label.as_deref()).map_err(archive_failed)?;
    let workshop = Workshop::new(store);
    let tagged = build::adopt(&workshop.layers(store), &chosen, platform).map_err(|error| failed(&error))?;
    store.settle().map_err(store_failed)?;
    Ok(tagged)
}

/// What is wrong with an archive, and what to do.
pub(super) fn archive_failed(error: ArchiveError) -> Failure {
    let failure = failed(&error);
    match error {
        ArchiveError::NoImage { .. } => failure.hint("a tar of a root file system is taken by `rbuild import`"),
        ArchiveError::Several { .. } => failure.hint("say which one: add :NAME to the archive"),
        _ => failure,
    }
}
