//! What refers to an image: signatures, SBOMs, attestations that are documents of their own.
//!
//! Registries list them (distribution-spec 1.1, `referrers`), or an index under the tag `sha256-<hex>` does for those that
//! cannot; cosign has tags of its own (`sha256-<hex>.sig`).

use std::collections::BTreeSet;

use ureq::http::Method;

use super::Client;
use super::auth::Access;
use super::copy::{CopyError, Existing, Listed, RegistryOrigin, copy};
use super::error::RegistryError;
use super::http::Request;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, canonical};
use crate::image::media_type::OCI_INDEX;
use crate::image::reference::Reference;
use crate::progress::Task;

/// The largest list.
const LIST_LIMIT: u64 = 4 << 20;

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

fn tagged(repository: &Reference, tag: &str) -> Reference {
    format!("{}:{tag}", repository.name()).parse().expect("a digest in hexadecimal makes a tag")
}

fn untagged(repository: &Reference, digest: &Digest) -> Reference {
    format!("{}@{digest}", repository.name()).parse().expect("a repository and a digest make a reference")
}

fn fallback_tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

impl Client {
    fn referrers(&self, repository: &Reference, digest: &Digest) -> Result<Lists, RegistryError> {
        let url = self.address(repository, &format!("referrers/{digest}"))?;
        let request = Request::new(Method::GET, url).header("accept", OCI_INDEX);
        let answer = self.send(repository, &Access::pull(repository.repository()), &request)?;
        let is_index = answer.header("content-type").is_some_and(|text| text.starts_with(OCI_INDEX));
        if answer.status == 200 && is_index {
            let unreadable = answer.invalid("the list of referrers cannot be read");
            let bytes = answer.bytes(&repository.name(), LIST_LIMIT)?;
            let index: Index = serde_json::from_slice(&bytes).map_err(|_| unreadable)?;
            return Ok(Lists::Registry(index.manifests));
        }
        answer.discard();
        // Whatever a registry says that does not know the question, the tag is what the specification has then.
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
