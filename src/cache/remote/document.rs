//! What a cache says, as JSON: which step made which layer, which layers there are, what is in them.
//!
//! The document is the config of the cache's manifest, or a key of an image's own config (`type=inline`). It is read as
//! what it is: text that anybody may have written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::storage::RemoteError;
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, canonical};
use crate::image::media_type::Compression;
use crate::image::time;
use crate::store::StepRecord;

/// The media type of the document as the config of a manifest.
pub const MEDIA_TYPE: &str = "application/vnd.rbuild.cache.config.v1+json";

/// The key of the document in the config of an image.
pub const INLINE_KEY: &str = "rbuild.cache.v1";

/// The form that this rbuild reads and writes.
const VERSION: u32 = 1;

/// The largest document that is read.
pub const LIMIT: u64 = 32 << 20;

/// Titles and moments longer than this were not written by rbuild.
const LONGEST_TEXT: usize = 64 << 10;

/// What a cache has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// Results of steps by key; a layer is named by its diffID.
    pub steps: BTreeMap<Digest, StepRecord>,
    /// The layers that steps name, by diffID.
    pub layers: BTreeMap<Digest, Layer>,
    /// Digests of what is at some paths of some layers, by what was asked.
    pub contents: BTreeMap<Digest, Digest>,
    /// Cache mounts by name.
    pub mounts: BTreeMap<Digest, Mount>,
}

/// A cache mount of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What people call it.
    pub title: String,
    /// Its compressed tar.
    pub blob: Descriptor,
}

/// A layer of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// Bytes of its tar.
    pub size: u64,
    /// Its blob, where the cache has it.
    pub blob: Option<Descriptor>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: u32,
    steps: Vec<WrittenStep>,
    layers: Vec<WrittenLayer>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    contents: BTreeMap<Digest, Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<WrittenMount>,
}

#[derive(Serialize, Deserialize)]
struct WrittenMount {
    name: Digest,
    title: String,
    /// One of the manifest's layers.
    blob: Digest,
}

#[derive(Serialize, Deserialize)]
struct WrittenStep {
    key: Digest,
    layer: Digest,
    created: String,
    title: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLayer {
    diff_id: Digest,
    #[serde(default)]
    size: u64,
    /// One of the manifest's layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<Digest>,
}

impl Document {
    /// The document as canonical JSON.
    pub fn to_value(&self) -> serde_json::Value {
        let steps = self.steps.iter().map(|(key, step)| WrittenStep {
            key: *key,
            layer: step.layer,
            created: step.created.clone(),
            title: step.title.clone(),
        });
        let layers = self.layers.iter().map(|(diff_id, layer)| WrittenLayer {
            diff_id: *diff_id,
            size: layer.size,
            blob: layer.blob.as_ref().map(|blob| blob.digest),
        });
        let mounts = self.mounts.iter().map(|(name, mount)| WrittenMount {
            name: *name,
            title: mount.title.clone(),
            blob: mount.blob.digest,
        });
        let (steps, layers, contents) = (steps.collect(), layers.collect(), self.contents.clone());
        let written = Written { version: VERSION, steps, layers, contents, mounts: mounts.collect() };
        serde_json::to_value(written).expect("the document has string keys only")
    }

    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical(&self.to_value())
    }

    /// The blobs that the document names, each once, in the order of the layers.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let blobs = self.layers.values().filter_map(|layer| layer.blob.as_ref());
        let blobs = blobs.chain(self.mounts.values().map(|mount| &mount.blob));
        blobs.filter(|blob| seen.insert(blob.digest)).collect()
    }

    /// Adds what another document has; of a layer that both have, whichever has its blob.
    pub fn extend(&mut self, other: Document) {
        self.steps.extend(other.steps);
        self.contents.extend(other.contents);
        self.mounts.extend(other.mounts);
        for (diff_id, layer) in other.layers {
            let known = self.layers.entry(diff_id).or_default();
            if known.blob.is_none() {
                *known = layer;
            }
        }
    }

    /// Reads a document; `blobs` are the layers of the manifest that it came with.
    ///
    /// # Errors
    /// It is not what rbuild writes. A step or layer alone that cannot be used is left out instead.
    pub fn parse(value: serde_json::Value, blobs: &[Descriptor]) -> Result<Document, RemoteError> {
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(RemoteError::Newer { version }),
            None => return Err(RemoteError::Document { reason: "it names no version".to_owned() }),
        }
        let written: Written =
            serde_json::from_value(value).map_err(|error| RemoteError::Document { reason: error.to_string() })?;
        let usable: BTreeMap<Digest, &Descriptor> =
            blobs.iter().filter(|blob| is_usable(blob)).map(|blob| (blob.digest, blob)).collect();
        let layer = |layer: WrittenLayer| {
            let blob = layer.blob.and_then(|digest| usable.get(&digest)).map(|blob| (*blob).clone());
            (layer.diff_id, Layer { size: layer.size, blob })
        };
        let layers: BTreeMap<Digest, Layer> = written.layers.into_iter().map(layer).collect();
        let is_sound = |step: &WrittenStep| {
            layers.contains_key(&step.layer)
                && step.title.len() <= LONGEST_TEXT
                && time::seconds(&step.created).is_some()
        };
        let record = |step: WrittenStep| {
            let title = without_controls(&step.title);
            (step.key, StepRecord { layer: step.layer, title, created: step.created })
        };
        let steps = written.steps.into_iter().filter(is_sound).map(record).collect();
        let mount = |mount: WrittenMount| {
            let blob = (*usable.get(&mount.blob)?).clone();
            let title = without_controls(&mount.title);
            (title.len() <= LONGEST_TEXT).then_some((mount.name, Mount { title, blob }))
        };
        let mounts = written.mounts.into_iter().filter_map(mount).collect();
        Ok(Document { steps, layers, contents: written.contents, mounts })
    }
}

/// A title as it may be shown on a terminal.
fn without_controls(title: &str) -> String {
    title.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Whether a blob is one that rbuild would fetch and unpack.
pub(super) fn is_usable(blob: &Descriptor) -> bool {
    Compression::of_media_type(&blob.media_type).is_some() && blob.size > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media_type::OCI_LAYER_GZIP;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn document() -> Document {
        let blob = Descriptor::new(OCI_LAYER_GZIP, digest("blob"), 7);
        let step = StepRecord {
            layer: digest("layer"),
            title: "RUN make".to_owned(),
            created: "2026-01-02T03:04:05Z".to_owned(),
        };
        Document {
            steps: BTreeMap::from([(digest("key"), step)]),
            layers: BTreeMap::from([
                (digest("layer"), Layer { size: 10, blob: Some(blob) }),
                (digest("nowhere"), Layer { size: 3, blob: None }),
            ]),
            contents: BTreeMap::from([(digest("question"), digest("content"))]),
            mounts: BTreeMap::from([(
                digest("mount"),
                Mount { title: "/cache".to_owned(), blob: Descriptor::new(OCI_LAYER_GZIP, digest("mounted"), 9) },
            )]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let document = document();
        let blobs: Vec<Descriptor> = document.blobs().into_iter().cloned().collect();
        assert_eq!(Document::parse(document.to_value(), &blobs).unwrap(), document);
    }

    #[test]
    fn a_blob_that_the_manifest_does_not_have_is_not_there() {
        let read = Document::parse(document().to_value(), &[]).unwrap();
        assert_eq!(read.layers[&digest("layer")].blob, None);
        assert!(read.mounts.is_empty());
        let foreign = [Descriptor::new("application/octet-stream", digest("blob"), 7)];
        assert_eq!(Document::parse(document().to_value(), &foreign).unwrap().layers[&digest("layer")].blob, None);
    }

    #[test]
    fn steps_that_nobody_honest_wrote_are_left_out() {
        let change = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = document().to_value();
            change(&mut value["steps"][0]);
            Document::parse(value, &[]).unwrap().steps
        };
        assert!(change(&|step| step["layer"] = serde_json::json!(digest("unknown"))).is_empty());
        assert!(change(&|step| step["created"] = "\"},\"x\":{\"".into()).is_empty());
        assert!(change(&|step| step["title"] = "x".repeat(1 << 20).into()).is_empty());
        let titled = change(&|step| step["title"] = "RUN \u{1b}[31mred".into());
        assert_eq!(titled[&digest("key")].title, "RUN  [31mred");
    }

    #[test]
    fn other_documents_are_refused() {
        for (value, reason) in [
            ("{}", "version"),
            (r#"{"version":2}"#, "newer"),
            (r#"{"version":1,"steps":[],"layers":[{"diffId":"sha256:x"}]}"#, "invalid digest"),
            (r#"{"version":1,"steps":{},"layers":[]}"#, "invalid type"),
            ("[1]", "version"),
        ] {
            let error = Document::parse(serde_json::from_str(value).unwrap(), &[]).unwrap_err().to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
    }
}
