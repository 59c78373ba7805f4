//! `rbuild copy`: images between registries and archives, as they are.

use std::fs::File;
use std::io;
use std::path::Path;

use super::archive::Workshop;
use super::archived::{adopt, archive_failed};
use super::each_tag::EachTag;
use super::{client, failed, open_store, print, transfer_failed};
use crate::archive::{ArchiveError, Layout};
use crate::build::{self, BuildError, CopySource, CopyTarget, SaveForm};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::copy::{Copy, CopyFrom, CopyJob, Referrers};
use crate::cli::request::place::{ArchiveKind, ArchivePlace};
use crate::cli::signals::OnSignal;
use crate::digest::Digest;
use crate::export::{FileTarget, LayoutForm};
use crate::image::reference::Reference;
use crate::layer::decompress::decompress;
use crate::progress::{Outcome, Progress};
use crate::registry::Client;
use crate::registry::referrers::copy_referrers;
use crate::store::Store;
use crate::ui::Ui;
use crate::unfinished;

/// Copies; the digests of the copies go to standard output.
pub(super) fn copy(request: &Copy, environment: &Environment) -> Result<(), Failure> {
    let client = client(&request.registries);
    OnSignal::at_once().stop();
    let ui = Ui::start(request.progress, &environment.ui());
    let progress = Progress::new(ui.sink());
    let copied = match &request.job {
        CopyJob::One(from, to) => one(request, &client, from, to, &progress).map(Copied::One),
        CopyJob::AllTags(from, to) => all_tags(request, &client, from, to, &progress).map(Copied::Tags),
    };
    ui.finish();
    match copied? {
        // It would stand behind the archive.
        Copied::One(_) if request.job.is_to_stdout() => Ok(()),
        Copied::One(digest) => print(&format!("{digest}\n")),
        Copied::Tags(each) => each.report("copied"),
    }
}

/// What was copied.
enum Copied {
    One(Digest),
    Tags(EachTag),
}

fn one(
    request: &Copy,
    client: &Client,
    from: &CopyFrom,
    to: &CopyTarget,
    progress: &Progress,
) -> Result<Digest, Failure> {
    let source = match from {
        CopyFrom::Registry(name) => CopySource::Registry(client.full_name(name).map_err(|error| failed(&error))?),
        CopyFrom::Archive(place) => {
            let Opened { layout, label, _store } = open(place, request.store_root.as_deref(), progress)?;
            let source = CopySource::Layout(layout, label);
            return build::copy(client, &source, to, &request.options, progress)
                .map_err(|error| transfer_failed(&error));
        }
    };
    let digest =
        build::copy(client, &source, to, &request.options, progress).map_err(|error| transfer_failed(&error))?;
    if let (CopySource::Registry(name), CopyTarget::Registry(target), Referrers::Copied) =
        (&source, to, request.referrers)
    {
        referrers(client, name, target, &digest, progress)?;
    }
    Ok(digest)
}

/// Copies what refers to the copy, as a task of its own.
fn referrers(
    client: &Client,
    source: &Reference,
    target: &Reference,
    digest: &Digest,
    progress: &Progress,
) -> Result<(), Failure> {
    let task = progress.task(format!("copying what refers to {}", source.familiar()));
    task.start();
    match copy_referrers(client, source, target, digest, Some(&task)) {
        Ok(count) => {
            task.note(format!("{count} documents"));
            task.end(Outcome::Done);
            Ok(())
        }
        Err(error) => {
            task.end(Outcome::Failed(error.to_string()));
            Err(transfer_failed(&BuildError::Copy(error)))
        }
    }
}

/// Each tag by itself.
fn all_tags(
    request: &Copy,
    client: &Client,
    from: &Reference,
    to: &Reference,
    progress: &Progress,
) -> Result<EachTag, Failure> {
    let from = &client.full_name(from).map_err(|error| failed(&error))?;
    let tags = client.tags(from).map_err(|error| failed(&error))?;
    if tags.is_empty() {
        return Err(Failure::new(FailureKind::Other, format!("{} has no tags", from.familiar())));
    }
    let at = |name: &Reference, tag: &str| {
        let text = format!("{}:{tag}", name.name());
        text.parse::<Reference>().map_err(|error| failed(&error))
    };
    let targets = tags.iter().map(|tag| at(to, tag)).collect::<Result<Vec<_>, _>>()?;
    Ok(EachTag::of(targets, |target| {
        let source = CopyFrom::Registry(at(from, target.tag().unwrap_or_default())?);
        one(request, client, &source, &CopyTarget::Registry(target.clone()), progress)
    }))
}

/// An archive that is read.
struct Opened {
    layout: Layout,
    label: Option<String>,
    /// Where it was unpacked to: that folder goes with the store's value.
    _store: Option<Store>,
}

/// Opens an archive where it is; one that is compressed, or has no documents of OCI's, is first written as one that has.
fn open(place: &ArchivePlace, store_root: Option<&Path>, progress: &Progress) -> Result<Opened, Failure> {
    let found = match place.kind {
        ArchiveKind::Directory => Layout::of_directory(&place.path).map(Some),
        ArchiveKind::OciArchive | ArchiveKind::DockerArchive => Layout::of_tar(&place.path),
    };
    match found {
        Ok(Some(layout)) => Ok(Opened { layout, label: place.label.clone(), _store: None }),
        Ok(None) => unpacked(place, store_root, progress),
        Err(ArchiveError::NoImage { .. }) if place.kind == ArchiveKind::DockerArchive => {
            converted(place, store_at(store_root)?, progress)
        }
        Err(error) => Err(archive_failed(error)),
    }
}

fn store_at(root: Option<&Path>) -> Result<Store, Failure> {
    let missing =
        || Failure::new(FailureKind::Other, "there is no place to unpack the archive to").hint("name one: --root DIR");
    let store = open_store(root.ok_or_else(missing)?)?;
    unfinished::remove_at_end(store.session());
    Ok(store)
}

fn unpacked(place: &ArchivePlace, store_root: Option<&Path>, progress: &Progress) -> Result<Opened, Failure> {
    let store = store_at(store_root)?;
    let path = store.temporary();
    let shown = place.path.display();
    let write = || {
        let mut tar = decompress(File::open(&place.path)?)?;
        io::copy(&mut tar, &mut File::create(&path)?)
    };
    write().map_err(|error| Failure::new(FailureKind::Other, format!("read {shown}: {error}")))?;
    match Layout::of_tar(&path) {
        Ok(Some(layout)) => {
            let layout = layout.called(&shown.to_string());
            Ok(Opened { layout, label: place.label.clone(), _store: Some(store) })
        }
        Err(ArchiveError::NoImage { .. }) if place.kind == ArchiveKind::DockerArchive => {
            converted(place, store, progress)
        }
        Ok(None) => Err(Failure::new(FailureKind::Other, format!("{shown} is no tar, compressed or not"))),
        Err(error) => Err(archive_failed(error)),
    }
}

/// What old archives of docker have becomes a layout: its config stays, its layers are compressed.
fn converted(place: &ArchivePlace, store: Store, progress: &Progress) -> Result<Opened, Failure> {
    let tagged = adopt(&store, place, None)?;
    let path = store.temporary();
    let workshop = Workshop::new(&store);
    let form = SaveForm { form: LayoutForm::Oci, compression: None };
    let target = FileTarget::Path(path.clone());
    build::save(&workshop.layers(&store), &[(tagged, Vec::new())], form, &target, progress)
        .map_err(|error| failed(&error))?;
    let layout = Layout::of_tar(&path).map_err(archive_failed)?;
    let layout = layout.ok_or_else(|| Failure::new(FailureKind::Other, "what was written is no layout"))?;
    let layout = layout.called(&place.path.display().to_string());
    Ok(Opened { layout, label: None, _store: Some(store) })
}
