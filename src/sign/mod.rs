//! Signatures of images, in the form that cosign reads: a statement of a few words (the *simple signing* payload) and the
//! signature of its bytes.
//!
//! Contract: pure but for random numbers. A [`SigningKey`] never shows its key, neither in messages nor in `Debug`. It
//! knows nothing of registries: where a signature is put, `export` says.

mod encrypted;
mod key;

pub use key::{InvalidKey, SigningKey};

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_MANIFEST};
use crate::image::reference::{DEFAULT_REGISTRY, Reference};

/// The media type of a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of a payload's descriptor that holds its signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// The tag under which the signatures of an image or index lie beside it.
pub fn tag(signed: &Digest) -> String {
    format!("sha256-{}.sig", signed.hex())
}

/// What is signed: that these bytes are meant by this name.
pub fn payload(repository: &Reference, signed: &Digest) -> Vec<u8> {
    // As cosign names Docker Hub.
    let registry = match repository.registry() {
        DEFAULT_REGISTRY => "index.docker.io",
        other => other,
    };
    canonical(&json!({
        "critical": {
            "identity": { "docker-reference": format!("{registry}/{}", repository.repository()) },
            "image": { "docker-manifest-digest": signed },
            "type": "cosign container image signature",
        },
        "optional": null,
    }))
}

/// The signatures of an image or index, as documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// The manifest that holds them.
    pub manifest: (Descriptor, Vec<u8>),
    /// Its config.
    pub config: (Descriptor, Vec<u8>),
    /// The payload of the new ones.
    pub payload: (Descriptor, Vec<u8>),
}

/// Signs with each key that has not signed the same before, beside the signatures that there are (`before`); none where
/// nothing new would be said.
///
/// # Errors
/// A key cannot sign.
pub fn sign(payload: &[u8], keys: &[SigningKey], before: &[Descriptor]) -> Result<Option<Signatures>, InvalidKey> {
    let plain = Descriptor::of(PAYLOAD, payload);
    let signature_of = |layer: &Descriptor| {
        let text = layer.annotations.get(SIGNATURE).filter(|_| layer.digest == plain.digest)?;
        STANDARD.decode(text).ok()
    };
    let mut known: Vec<Vec<u8>> = before.iter().filter_map(signature_of).collect();
    let mut layers = before.to_vec();
    for key in keys {
        if known.iter().any(|signature| key.has_signed(payload, signature)) {
            continue;
        }
        let signature = key.sign(payload)?;
        let mut layer = plain.clone();
        layer.annotations = BTreeMap::from([(SIGNATURE.to_owned(), STANDARD.encode(&signature))]);
        layers.push(layer);
        known.push(signature);
    }
    if layers.len() == before.len() {
        return Ok(None);
    }
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let history: Vec<_> = layers.iter().map(|_| json!({ "created": "0001-01-01T00:00:00Z" })).collect();
    let config = canonical(&json!({
        "architecture": "", "os": "", "config": {}, "created": "0001-01-01T00:00:00Z", "history": history,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let config = (Descriptor::of(OCI_CONFIG, &config), config);
    let manifest = canonical(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: config.0.clone(),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    });
    let manifest = (Descriptor::of(OCI_MANIFEST, &manifest), manifest);
    Ok(Some(Signatures { manifest, config, payload: (plain, payload.to_vec()) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::Document;

    fn layers(signatures: &Signatures) -> Vec<Descriptor> {
        match Document::parse(&signatures.manifest.1, None).unwrap() {
            Document::Manifest(manifest) => manifest.layers,
            Document::Index(_) => unreachable!("a manifest was written"),
        }
    }

    #[test]
    fn the_payload_is_cosigns_byte_for_byte() {
        let digest = Digest::of(b"image");
        let text = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"index.docker.io/library/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        assert_eq!(String::from_utf8(payload(&"a:1".parse().unwrap(), &digest)).unwrap(), text);
        assert_eq!(tag(&digest), format!("sha256-{}.sig", digest.hex()));
    }

    #[test]
    fn a_key_signs_once_and_beside_those_that_have_signed() {
        let payload = payload(&"r.test/a".parse().unwrap(), &Digest::of(b"image"));
        let [first, second] = [key::tests::elliptic(), key::tests::edwards()];
        // Whoever gives it twice has one signature of it.
        let one = sign(&payload, &[key::tests::elliptic(), key::tests::elliptic()], &[]).unwrap().unwrap();
        let alone = layers(&one);
        assert_eq!(alone.len(), 1);
        assert_eq!(alone[0].digest, Digest::of(&payload));
        assert_eq!(sign(&payload, std::slice::from_ref(&first), &alone).unwrap(), None);
        let both = sign(&payload, &[first, second], &alone).unwrap().unwrap();
        let both = layers(&both);
        assert_eq!((both.len(), &both[0]), (2, &alone[0]));
    }
}
