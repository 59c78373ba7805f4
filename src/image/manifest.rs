//! Descriptors, manifests and indexes (OCI image-spec), and Docker's twins of them.
//!
//! Documents are checked by oci-spec when they are read. They are written as canonical JSON (sorted keys, no spaces), so
//! that the same image has the same digest on every machine; oci-spec's own writer orders annotations at random.
//! The bytes of a pulled document are kept as they came: never parsed and written again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::media_type;
use super::platform::Platform;
use crate::digest::Digest;

/// Points at content: what it is, its digest, its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's size in bytes.
    pub size: u64,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The artifact's type, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Other places to fetch it from (foreign layers); never fetched with credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The content itself in base64, where it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Descriptor {
    /// A descriptor of bytes that are in memory.
    pub fn of(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A plain descriptor.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            artifact_type: None,
            urls: Vec::new(),
            data: None,
        }
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact's type, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What the artifact is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index (Docker: a manifest list).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Either kind of document that a tag can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

/// Says why bytes are no manifest or index that rbuild can use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Not JSON, or not of the form.
    #[error("parse manifest")]
    Json(#[from] serde_json::Error),
    /// Refused by oci-spec.
    #[error("parse manifest: {0}")]
    Spec(String),
    /// The old schema 1, or something else entirely.
    #[error("unsupported manifest: {reason}")]
    Unsupported {
        /// What it is.
        reason: String,
    },
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// `content_type` is what the registry said it is, where it said so. A document that is both (it has `manifests`
    /// and `layers`) or that names another type than the registry is refused: CVE-2021-41190.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, InvalidDocument> {
        let unsupported = |reason: String| InvalidDocument::Unsupported { reason };
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let has = |key: &str| value.get(key).is_some();
        if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
            return Err(unsupported("docker schema 1; push the image again with a newer tool".to_owned()));
        }
        if has("manifests") && (has("layers") || has("config") || has("fsLayers")) {
            return Err(unsupported("it is an index and a manifest at once".to_owned()));
        }
        let own = value.get("mediaType").and_then(serde_json::Value::as_str);
        if let (Some(own), Some(told)) = (own, content_type)
            && own != told
            && (media_type::is_index(told) || media_type::is_manifest(told))
        {
            return Err(unsupported(format!("it says it is {own:?}, the registry says {told:?}")));
        }
        let is_index = own.map_or(has("manifests"), media_type::is_index);
        if is_index {
            oci_spec::image::ImageIndex::from_reader(bytes)
                .map_err(|error| InvalidDocument::Spec(error.to_string()))?;
            return Ok(Document::Index(serde_json::from_value(value)?));
        }
        if own.is_some_and(|own| !media_type::is_manifest(own)) {
            return Err(unsupported(format!("media type {:?}", own.unwrap_or_default())));
        }
        oci_spec::image::ImageManifest::from_reader(bytes).map_err(|error| InvalidDocument::Spec(error.to_string()))?;
        Ok(Document::Manifest(Box::new(serde_json::from_value(value)?)))
    }
}

impl Index {
    /// The manifest that serves a platform best; attestations (`unknown/unknown`) never do.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .filter_map(|descriptor| {
                let offered = descriptor.platform.as_ref()?;
                let offered = Platform::new(&offered.os, &offered.architecture, &offered.variant);
                Some((platform.match_rank(&offered)?, descriptor))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, descriptor)| descriptor)
    }
}

/// JSON with sorted keys and without spaces.
pub fn canonical(document: &impl Serialize) -> Vec<u8> {
    // serde_json's map is a BTreeMap (its `preserve_order` feature is off), so going through a value sorts the keys.
    let value = serde_json::to_value(document).expect("the data model has string keys only");
    serde_json::to_vec(&value).expect("a JSON value can be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(media_type::OCI_CONFIG, b"{}"),
            layers: vec![Descriptor::of(media_type::OCI_LAYER_GZIP, b"x")],
            subject: None,
            annotations: BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]),
        }
    }

    #[test]
    fn manifests_round_trip_in_canonical_form() {
        let bytes = canonical(&manifest());
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.starts_with(r#"{"annotations":{"a":"1","b":"2"},"config":"#), "{text}");
        assert_eq!(
            Document::parse(&bytes, Some(media_type::OCI_MANIFEST)).unwrap(),
            Document::Manifest(Box::new(manifest()))
        );
    }

    #[test]
    fn ambiguous_and_old_documents_are_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert!(Document::parse(both, None).unwrap_err().to_string().contains("at once"));
        assert!(
            Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None)
                .unwrap_err()
                .to_string()
                .contains("schema 1")
        );
        let error = Document::parse(&canonical(&manifest()), Some(media_type::OCI_INDEX)).unwrap_err();
        assert!(error.to_string().contains("the registry says"), "{error}");
    }

    #[test]
    fn an_index_is_searched_by_platform() {
        let entry = |platform: &str| {
            let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, platform.as_bytes());
            descriptor.platform = Some(platform.parse().unwrap());
            descriptor
        };
        let manifests = vec![entry("unknown/unknown"), entry("linux/arm64"), entry("linux/amd64")];
        let index = Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() };
        assert_eq!(index.select(&"linux/amd64".parse().unwrap()), Some(&index.manifests[2]));
        assert_eq!(index.select(&"linux/s390x".parse().unwrap()), None);
        let bytes = canonical(&index);
        assert_eq!(Document::parse(&bytes, None).unwrap(), Document::Index(index));
    }
}
