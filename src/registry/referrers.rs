//! What refers to an image: signatures, SBOMs, attestations that are documents of their own.
//!
//! Registries list them (distribution-spec 1.1, `referrers`), or an index under the tag `sha256-<hex>` does for those that
//! cannot; cosign has tags of its own (`sha256-<hex>.sig`).

use std::collections::BTreeSet;

use ureq::http::Method;

use super::Client;
use super::auth::Access;
use super::copy::{CopyError, Existing, Listed, RegistryOrigin, copy, tagged};
use super::error::RegistryError;
use super::http::Request;
use super::session::refusal;
use super::tags::next_page;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, canonical};
use crate::image::media_type::OCI_INDEX;
use crate::image::reference::Reference;
use crate::progress::Task;

/// The largest list.
const LIST_LIMIT: u64 = 4 << 20;

/// Documents that may refer to one image, and to one another.
const REFERRERS_LIMIT: usize = 10_000;

/// Endings of cosign's tags.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

/// Who can say what refers to an image.
enum Lists {
    Registry(Vec<Descriptor>),
    /// The registry does not know the question: an index under a tag says it, if anything refers to it.
    Tag(Vec<Descriptor>),
}

impl Lists {
    fn entries(&self) -> &[Descriptor] {
        match self {
            Lists::Registry(entries) | Lists::Tag(entries) => entries,
        }
    }
}

/// Copies what refers to what a name stands for, to the images under it where it is an index, and to what refers to these;
/// gives how many documents that were. `target` is where `digest` was copied to.
///
/// # Errors
/// A registry cannot be asked, or refuses.
pub fn copy_referrers(
    client: &Client,
    source: &Reference,
    target: &Reference,
    digest: &Digest,
    task: Option<&Task>,
) -> Result<usize, CopyError> {
    let origin = RegistryOrigin::new(client, source);
    let mut todo = vec![*digest];
    if let Document::Index(index) = client.resolve_at(&target.with_digest(*digest), task)?.document {
        todo.extend(index.manifests.iter().map(|entry| entry.digest));
    }
    let mut done = BTreeSet::new();
    let mut copied = 0;
    while let Some(digest) = todo.pop() {
        if !done.insert(digest) {
            continue;
        }
        let lists = client.referrers(source, &digest)?;
        for entry in lists.entries() {
            let plain = Descriptor::new(&entry.media_type, entry.digest, entry.size);
            let listed = Listed::read(&origin, &plain)?;
            let place = untagged(target, &entry.digest);
            copy(client, &origin, listed, &place, Existing::Replaced, task)?;
            todo.push(entry.digest);
            copied += 1;
        }
        if copied > REFERRERS_LIMIT {
            let reference = format!("what refers to {}", source.name());
            return Err(RegistryError::TooLarge { reference, limit: REFERRERS_LIMIT as u64 }.into());
        }
        if !lists.entries().is_empty() {
            client.list_referrers(target, &digest, lists.entries())?;
        }
        for ending in COSIGN {
            let tag = format!("sha256-{}.{ending}", digest.hex());
            let (from, to) = (tagged(source, &tag), tagged(target, &tag));
            if client.head_manifest(&from)?.is_some() {
                let listed = Listed::resolve(client, &from, task)?;
                copy(client, &origin, listed, &to, Existing::Replaced, task)?;
                copied += 1;
            }
        }
    }
    Ok(copied)
}

fn untagged(repository: &Reference, digest: &Digest) -> Reference {
    format!("{}@{digest}", repository.name()).parse().expect("a repository and a digest make a reference")
}

fn fallback_tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

impl Client {
    fn referrers(&self, repository: &Reference, digest: &Digest) -> Result<Lists, RegistryError> {
        let shown = repository.name();
        let mut next = Some(self.address(repository, &format!("referrers/{digest}"))?);
        let mut found: Vec<Descriptor> = Vec::new();
        while let Some(url) = next {
            let request = Request::new(Method::GET, url).header("accept", OCI_INDEX);
            let answer = self.send(repository, &Access::pull(repository.repository()), &request)?;
            let is_index = answer.header("content-type").is_some_and(|text| text.starts_with(OCI_INDEX));
            match answer.status {
                200 if is_index => {}
                // What registries say that do not know the question; the tag is what the specification has then.
                200 | 400 | 404 | 405 if found.is_empty() => {
                    answer.discard();
                    return self.tagged_referrers(repository, digest);
                }
                _ => return Err(refusal(answer, repository, &shown)),
            }
            next = next_page(&answer)?;
            let unreadable = answer.invalid("the list of referrers cannot be read");
            let index: Index = serde_json::from_slice(&answer.bytes(&shown, LIST_LIMIT)?).map_err(|_| unreadable)?;
            found.extend(index.manifests);
            if found.len() > REFERRERS_LIMIT {
                let reference = format!("the list of what refers to {shown}@{digest}");
                return Err(RegistryError::TooLarge { reference, limit: REFERRERS_LIMIT as u64 });
            }
        }
        Ok(Lists::Registry(found))
    }

    /// What an index under a tag says.
    fn tagged_referrers(&self, repository: &Reference, digest: &Digest) -> Result<Lists, RegistryError> {
        let tag = tagged(repository, &fallback_tag(digest));
        match self.resolve(&tag, None) {
            Ok(found) => match found.document {
                Document::Index(index) => Ok(Lists::Tag(index.manifests)),
                Document::Manifest(_) => Ok(Lists::Tag(Vec::new())),
            },
            Err(error) if matches!(error.last(), RegistryError::NotFound { .. }) => Ok(Lists::Tag(Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a repository lists what was copied into it.
    fn list_referrers(
        &self,
        repository: &Reference,
        digest: &Digest,
        entries: &[Descriptor],
    ) -> Result<(), RegistryError> {
        let Lists::Tag(mut known) = self.referrers(repository, digest)? else { return Ok(()) };
        let new = entries.iter().filter(|entry| !known.iter().any(|known| known.digest == entry.digest));
        let new: Vec<Descriptor> = new.cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        known.extend(new);
        let media_type = Some(OCI_INDEX.to_owned());
        let index = Index { schema_version: 2, media_type, manifests: known, annotations: Default::default() };
        self.put_manifest(repository, &fallback_tag(digest), OCI_INDEX, &canonical(&index)).map(drop)
    }
}
