//! The documents of attestations: statements, and the manifest that holds them beside an image's (BuildKit,
//! `docs/attestations/attestation-storage.md` and `exporter/containerimage/writer.go`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Attestation, Subject, purl, statement};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest, canonical};
use crate::image::media_type::{OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST};
use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// The type of an in-toto statement.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The media type of a statement.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The annotation of a statement's descriptor that says what kind of thing it says.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The artifact type of an attestation manifest.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The annotation by which an attestation manifest is told from images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation that names the image which it is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION_MANIFEST: &str = "attestation-manifest";

/// How the manifest of attestations is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// An artifact whose subject is the image: what BuildKit writes by default.
    #[default]
    Artifact,
    /// An image for a platform that nobody has (`oci-artifact=false`), for registries that know no artifacts.
    Image,
}

/// All that is said about one image, as documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationDocuments {
    /// The manifest, and its descriptor in the index.
    pub manifest: (Descriptor, Vec<u8>),
    /// The config that it names.
    pub config: (Descriptor, Vec<u8>),
    /// The statements.
    pub statements: Vec<(Descriptor, Vec<u8>)>,
}

impl AttestationDocuments {
    /// All of them, the manifest first.
    pub fn all(&self) -> impl Iterator<Item = &(Descriptor, Vec<u8>)> {
        [&self.manifest, &self.config].into_iter().chain(&self.statements)
    }
}

fn documents(image: &Descriptor, statements: impl Iterator<Item = Value>, form: Form) -> AttestationDocuments {
    let statements: Vec<(Descriptor, Vec<u8>)> = statements
        .map(|statement| {
            let bytes = canonical(&statement);
            let mut descriptor = Descriptor::of(IN_TOTO, &bytes);
            let kind = statement["predicateType"].as_str().unwrap_or_default().to_owned();
            descriptor.annotations.insert(PREDICATE_TYPE.to_owned(), kind);
            (descriptor, bytes)
        })
        .collect();
    let config = config(&statements, form);
    let (artifact_type, subject) = match form {
        Form::Artifact => {
            (Some(ARTIFACT.to_owned()), Some(Descriptor::new(&image.media_type, image.digest, image.size)))
        }
        Form::Image => (None, None),
    };
    let manifest = canonical(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type,
        config: config.0.clone(),
        layers: statements.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        subject,
        annotations: BTreeMap::new(),
    });
    AttestationDocuments { manifest: (entry(&manifest, &image.digest), manifest), config, statements }
}

/// The descriptor of an attestation manifest in its index.
fn entry(manifest: &[u8], image: &Digest) -> Descriptor {
    let mut descriptor = Descriptor::of(OCI_MANIFEST, manifest);
    descriptor.platform = Some(nobodys_platform());
    descriptor.annotations = BTreeMap::from([
        (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
        (REFERENCE_DIGEST.to_owned(), image.to_string()),
    ]);
    descriptor
}

fn nobodys_platform() -> Platform {
    Platform::new("unknown", "unknown", "")
}

fn config(statements: &[(Descriptor, Vec<u8>)], form: Form) -> (Descriptor, Vec<u8>) {
    match form {
        Form::Artifact => {
            let mut descriptor = Descriptor::of(OCI_EMPTY, b"{}");
            descriptor.data = Some("e30=".to_owned());
            (descriptor, b"{}".to_vec())
        }
        Form::Image => {
            let diff_ids: Vec<&Digest> = statements.iter().map(|(descriptor, _)| &descriptor.digest).collect();
            let config = canonical(&json!({
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }));
            (Descriptor::of(OCI_CONFIG, &config), config)
        }
    }
}

/// The image that an entry of an index is an attestation of; none where it is none.
pub fn attested(entry: &Descriptor) -> Option<Digest> {
    let is_attestation =
        entry.annotations.get(REFERENCE_TYPE).is_some_and(|reference| reference == ATTESTATION_MANIFEST);
    entry.annotations.get(REFERENCE_DIGEST).filter(|_| is_attestation)?.parse().ok()
}

/// What is said about an image, as far as it is known before the image's manifest is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Attested {
    /// Nothing.
    #[default]
    Nothing,
    /// What the build says now.
    Now(Vec<Attestation>),
    /// What was said when the image was built.
    Before(Box<Earlier>),
}

/// Attestations that were written before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The manifest of the image that they are about.
    pub image: Digest,
    /// Their own manifest.
    pub manifest: Vec<u8>,
    /// The documents that it names.
    pub named: BTreeMap<Digest, Vec<u8>>,
}

impl Attested {
    /// Whether nothing is said.
    pub fn is_nothing(&self) -> bool {
        match self {
            Attested::Nothing => true,
            Attested::Now(all) => all.is_empty(),
            Attested::Before(_) => false,
        }
    }

    /// The documents about an image whose descriptor, platform included, is given.
    pub fn documents(&self, image: &Descriptor, names: &[Reference], form: Form) -> Option<AttestationDocuments> {
        match self {
            Attested::Now(all) if !all.is_empty() => {
                let platform = image.platform.clone().unwrap_or_else(nobodys_platform);
                let subject = |name: &Reference| Subject {
                    name: purl::of_image(purl::Kind::Docker, name, &platform),
                    digest: image.digest,
                };
                let subjects: Vec<Subject> = names.iter().map(subject).collect();
                Some(documents(image, all.iter().map(|one| statement(one, &subjects)), form))
            }
            Attested::Nothing | Attested::Now(_) => None,
            Attested::Before(earlier) => earlier.about(image),
        }
    }
}

impl Earlier {
    /// As they are for the image that it is written as now: another compression gives another manifest, and what is said
    /// about the one holds for the other. None where a document is missing or is no statement.
    fn about(&self, image: &Descriptor) -> Option<AttestationDocuments> {
        let Ok(Document::Manifest(parsed)) = Document::parse(&self.manifest, None) else { return None };
        let document =
            |descriptor: &Descriptor| Some((descriptor.clone(), self.named.get(&descriptor.digest)?.clone()));
        let config = document(&parsed.config)?;
        let statements: Vec<_> = parsed.layers.iter().map(document).collect::<Option<_>>()?;
        if image.digest == self.image {
            let mut entry = entry(&self.manifest, &self.image);
            entry.media_type = parsed.media_type.clone().unwrap_or(entry.media_type);
            let manifest = (entry, self.manifest.clone());
            return Some(AttestationDocuments { manifest, config, statements });
        }
        let again = |(_, bytes): &(Descriptor, Vec<u8>)| {
            let mut statement: Value = serde_json::from_slice(bytes).ok()?;
            for subject in statement["subject"].as_array_mut().into_iter().flatten() {
                if subject["digest"]["sha256"] == self.image.hex() {
                    subject["digest"]["sha256"] = image.digest.hex().into();
                }
            }
            Some(statement)
        };
        let statements: Vec<Value> = statements.iter().map(again).collect::<Option<_>>()?;
        let form = if parsed.artifact_type.is_some() { Form::Artifact } else { Form::Image };
        Some(documents(image, statements.into_iter(), form))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reach;
    use super::*;

    fn image(bytes: &[u8]) -> Descriptor {
        let mut descriptor = Descriptor::of(OCI_MANIFEST, bytes);
        descriptor.platform = Some("linux/amd64".parse().unwrap());
        descriptor
    }

    fn attestation() -> Attestation {
        let predicate_type = super::super::SLSA_V1.to_owned();
        let (file, reach) = ("provenance.json".to_owned(), Reach::Everywhere);
        Attestation { predicate_type, predicate: json!({ "a": 1 }), file, reach }
    }

    fn write(image: &Descriptor, names: &[&str], form: Form) -> AttestationDocuments {
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        Attested::Now(vec![attestation()]).documents(image, &names, form).unwrap()
    }

    fn value(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn an_artifact_names_the_image_as_its_subject_and_has_the_empty_config() {
        let written = write(&image(b"image"), &["a:1"], Form::Artifact);
        let digest = Digest::of(b"image");
        let manifest = value(&written.manifest.1);
        assert_eq!(manifest["artifactType"], ARTIFACT);
        assert_eq!(manifest["subject"], json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 5 }));
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
        assert_eq!(manifest["config"]["data"], "e30=");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.in-toto+json");
        assert_eq!(manifest["layers"][0]["annotations"][PREDICATE_TYPE], super::super::SLSA_V1);
        let entry = &written.manifest.0;
        assert_eq!(entry.platform.as_ref().unwrap().to_string(), "unknown/unknown");
        assert_eq!(attested(entry), Some(digest));
        assert_eq!(entry.annotations["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(
            value(&written.statements[0].1),
            json!({
                "_type": "https://in-toto.io/Statement/v1",
                "predicateType": super::super::SLSA_V1,
                "subject": [{ "name": "pkg:docker/a@1?platform=linux%2Famd64", "digest": { "sha256": digest.hex() } }],
                "predicate": { "a": 1 },
            })
        );
    }

    #[test]
    fn without_artifacts_it_is_an_image_for_nobodys_platform() {
        let written = write(&image(b"image"), &[], Form::Image);
        let (manifest, config) = (value(&written.manifest.1), value(&written.config.1));
        assert!(manifest.get("artifactType").is_none() && manifest.get("subject").is_none(), "{manifest}");
        assert_eq!(config["os"], "unknown");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(manifest["config"]["digest"], Digest::of(&written.config.1).to_string());
    }

    #[test]
    fn what_was_said_of_an_image_is_said_of_it_in_another_form_too() {
        for form in [Form::Artifact, Form::Image] {
            let written = write(&image(b"gzip"), &["a:1"], form);
            let named = written.all().skip(1).map(|(descriptor, bytes)| (descriptor.digest, bytes.clone())).collect();
            let earlier = Earlier { image: Digest::of(b"gzip"), manifest: written.manifest.1.clone(), named };
            let before = Attested::Before(Box::new(earlier.clone()));
            // The names are those that it was built under, whatever it is called now.
            let names = ["b:2".parse().unwrap()];
            assert_eq!(before.documents(&image(b"gzip"), &names, Form::Artifact), Some(written));
            let anew = before.documents(&image(b"zstd"), &names, Form::Artifact).unwrap();
            assert_eq!(anew, write(&image(b"zstd"), &["a:1"], form));
            let lost = Attested::Before(Box::new(Earlier { named: BTreeMap::new(), ..earlier }));
            assert_eq!(lost.documents(&image(b"gzip"), &names, Form::Artifact), None);
        }
    }

    #[test]
    fn what_says_nothing_has_no_documents() {
        for nothing in [Attested::Nothing, Attested::Now(Vec::new())] {
            assert!(nothing.is_nothing());
            assert_eq!(nothing.documents(&image(b"image"), &[], Form::Artifact), None);
        }
        let mut other = image(b"image");
        assert_eq!(attested(&other), None);
        other.annotations.insert(REFERENCE_DIGEST.to_owned(), Digest::of(b"x").to_string());
        assert_eq!(attested(&other), None);
    }
}
