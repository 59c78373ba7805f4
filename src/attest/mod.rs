//! Attestations: what is said about an image in statements that lie beside it (in-toto), as documents.
//!
//! Contract: pure. From facts about a build come predicates ([`provenance`]), from predicates and the descriptor of the
//! image that they are about come the documents that registries and layouts hold ([`document`]), byte for byte the same
//! for the same facts. What is said goes through [`redact`] first: an attestation is public. It knows nothing of plans,
//! stores or outputs.

pub mod document;
pub mod provenance;
pub mod purl;
pub mod redact;

pub use document::{AttestationDocuments, Attested, Earlier, Form, attested};

use serde_json::Value;

/// The predicate type of SLSA provenance, version 1.
pub const SLSA_V1: &str = "https://slsa.dev/provenance/v1";
/// The predicate type of SLSA provenance, version 0.2.
pub const SLSA_V02: &str = "https://slsa.dev/provenance/v0.2";
/// The predicate type of an SPDX document.
pub const SPDX: &str = "https://spdx.dev/Document";

/// Something that is said about an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// What kind of thing is said.
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
    /// The file that it is in outputs of plain files.
    pub file: String,
    /// Which outputs it goes into.
    pub reach: Reach,
}

/// Which outputs an attestation goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// All.
    #[default]
    Everywhere,
    /// Images alone, not plain files (`inline-only=true`).
    Images,
}

/// What a statement is about: a name and the digest of what bears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// A package URL, or a path.
    pub name: String,
    /// Its digest.
    pub digest: crate::digest::Digest,
}

/// The in-toto statement of an attestation, as in BuildKit (`exporter/attestation/make.go`).
pub fn statement(attestation: &Attestation, subjects: &[Subject]) -> Value {
    let subject = |subject: &Subject| {
        serde_json::json!({
            "name": subject.name,
            "digest": { "sha256": subject.digest.hex() },
        })
    };
    serde_json::json!({
        "_type": document::STATEMENT,
        "predicateType": attestation.predicate_type,
        "subject": subjects.iter().map(subject).collect::<Vec<_>>(),
        "predicate": attestation.predicate,
    })
}
