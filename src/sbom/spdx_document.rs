//! A document as SPDX 2.3 JSON (<https://spdx.github.io/spdx-spec/v2.3/>), shaped as syft and so buildkit-syft-scanner write it:
//! a root package for the image, which the document describes and which contains the others, each with its package URL.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::license::License;
use super::package::Package;
use super::purl::PackageUrl;
use super::{Document, SubjectKind, identifier};
use crate::digest::{Digest, Frame};
use crate::image::manifest::canonical;
use crate::image::reference::Reference;
use crate::image::time::rfc3339;

/// What SPDX says where nothing is known.
const NO_ASSERTION: &str = "NOASSERTION";
const DOCUMENT_ID: &str = "SPDXRef-DOCUMENT";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpdxDocument {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicense>,
    packages: Vec<SpdxPackage>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo {
    created: String,
    creators: Vec<String>,
    /// `3.27`: the version of the list that licenses are of.
    license_list_version: String,
}

/// A license that is not of SPDX's list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicense {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpdxPackage {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version_info: String,
    supplier: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    originator: String,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    source_info: String,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalReference>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalReference {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

impl Document {
    /// The document's bytes: JSON with sorted keys, without spaces and line ends.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical(&self.to_value())
    }

    /// The document as a value, for what wraps it.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self.spdx()).expect("the data model has string keys only")
    }

    fn spdx(&self) -> SpdxDocument {
        let root = self.root();
        let mut relationships = vec![relationship(DOCUMENT_ID, "DESCRIBES", &root.id)];
        let packages: Vec<SpdxPackage> = self.packages.iter().map(|package| self.package(package)).collect();
        relationships.extend(packages.iter().map(|package| relationship(&root.id, "CONTAINS", &package.id)));
        let mut document = SpdxDocument {
            spdx_version: "SPDX-2.3",
            data_license: "CC0-1.0",
            id: DOCUMENT_ID,
            name: self.subject.name.clone(),
            document_namespace: String::new(),
            creation_info: CreationInfo {
                created: rfc3339(self.subject.created, None),
                creators: vec![format!("Tool: rbuild-{}", env!("CARGO_PKG_VERSION"))],
                license_list_version: spdx::license_version().split('.').take(2).collect::<Vec<_>>().join("."),
            },
            comment: self.comment(),
            has_extracted_licensing_infos: self.extracted_licenses(),
            packages: std::iter::once(root).chain(packages).collect(),
            relationships,
        };
        document.document_namespace = self.namespace(&document);
        document
    }

    /// A URI that no other document has: of the image's digest and all that the document says, where others use a random number.
    fn namespace(&self, document: &SpdxDocument) -> String {
        let mut frame = Frame::new("rbuild.sbom.1");
        if let SubjectKind::Image { id, manifest, .. } = &self.subject.kind {
            frame.digest("image", manifest.as_ref().unwrap_or(id));
        }
        let unique = frame.bytes("document", &canonical(document)).finish();
        format!("https://spdx.org/spdxdocs/rbuild/{}-{}", identifier(&self.subject.name), &unique.hex()[..32])
    }

    fn extracted_licenses(&self) -> Vec<ExtractedLicense> {
        let all: BTreeSet<License> = self.packages.iter().map(|package| License::of(&package.license)).collect();
        let extracted = |license: License| match license {
            License::Other { id, text } => {
                Some(ExtractedLicense { license_id: id, extracted_text: text.clone(), name: text })
            }
            License::Unknown | License::Listed(_) => None,
        };
        all.into_iter().filter_map(extracted).collect()
    }

    fn comment(&self) -> String {
        let lines = self.notices.iter().map(|notice| format!("{}: {}", notice.path, notice.text));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn root(&self) -> SpdxPackage {
        let name = self.subject.name.clone();
        let (kind, digest, purpose) = match &self.subject.kind {
            SubjectKind::Image { id, manifest, .. } => ("Image", Some(manifest.unwrap_or(*id)), "CONTAINER"),
            SubjectKind::Directory => ("Directory", None, "FILE"),
        };
        let checksum = |digest: Digest| Checksum { algorithm: "SHA256", checksum_value: digest.hex() };
        SpdxPackage {
            version_info: digest.map(|digest| digest.to_string()).unwrap_or_default(),
            primary_package_purpose: Some(purpose),
            checksums: digest.map(checksum).into_iter().collect(),
            external_refs: self.image_url().map(package_url).into_iter().collect(),
            ..plain_package(format!("SPDXRef-DocumentRoot-{kind}-{}", identifier(&name)), name)
        }
    }

    /// The image's own URL, where it has a name in a registry and a manifest.
    fn image_url(&self) -> Option<String> {
        let SubjectKind::Image { manifest: Some(manifest), platform, .. } = &self.subject.kind else { return None };
        // What has no name goes by its id.
        let named = Some(&self.subject.name).filter(|name| !name.starts_with("sha256:"))?;
        let reference: Reference = named.parse().ok()?;
        let name = reference.repository().rsplit('/').next().unwrap_or_default().to_owned();
        let qualifiers = [
            ("arch", platform.architecture.clone()),
            ("repository_url", reference.name()),
            ("tag", reference.tag().unwrap_or_default().to_owned()),
        ];
        let version = manifest.to_string();
        let qualifiers = qualifiers.into_iter().collect();
        Some(PackageUrl { kind: "oci", namespace: "", name: &name, version: &version, qualifiers }.to_string())
    }

    fn package(&self, package: &Package) -> SpdxPackage {
        let url = self.url_of(package);
        let hash = Digest::of(url.as_bytes()).hex();
        let id = format!("SPDXRef-Package-{}-{}-{}", package.ecosystem, identifier(&package.name), &hash[..16]);
        SpdxPackage {
            version_info: package.version.clone(),
            originator: originator(&package.maintainer),
            source_info: source_info(package),
            license_declared: match License::of(&package.license) {
                License::Unknown => NO_ASSERTION.to_owned(),
                License::Listed(expression) => expression,
                License::Other { id, .. } => id,
            },
            external_refs: vec![package_url(url)],
            ..plain_package(id, package.name.clone())
        }
    }
}

fn plain_package(id: String, name: String) -> SpdxPackage {
    SpdxPackage {
        id,
        name,
        version_info: String::new(),
        supplier: NO_ASSERTION,
        originator: String::new(),
        download_location: NO_ASSERTION,
        files_analyzed: false,
        source_info: String::new(),
        license_concluded: NO_ASSERTION,
        license_declared: NO_ASSERTION.to_owned(),
        copyright_text: NO_ASSERTION,
        primary_package_purpose: None,
        checksums: Vec::new(),
        external_refs: Vec::new(),
    }
}

fn relationship(from: &str, kind: &'static str, to: &str) -> Relationship {
    Relationship { spdx_element_id: from.to_owned(), relationship_type: kind, related_spdx_element: to.to_owned() }
}

fn package_url(reference_locator: String) -> ExternalReference {
    ExternalReference { reference_category: "PACKAGE-MANAGER", reference_type: "purl", reference_locator }
}

/// `Name <address>` as SPDX writes it.
fn originator(maintainer: &str) -> String {
    // A distribution's packages have a vendor, who has no address; all else is made by people as far as anybody knows.
    let whole = maintainer.trim().trim_matches(['<', '>']);
    match maintainer.split_once('<') {
        _ if whole.is_empty() => String::new(),
        Some((name, rest)) if !name.trim().is_empty() => {
            let address = rest.split('>').next().unwrap_or_default().trim();
            format!("Person: {} ({address})", name.trim().trim_matches('"'))
        }
        Some(_) => format!("Person: {whole}"),
        None => format!("Organization: {whole}"),
    }
}

/// Locations that are written out; more are counted.
const SHOWN_LOCATIONS: usize = 10;

fn source_info(package: &Package) -> String {
    let shown: Vec<&str> = package.locations.iter().take(SHOWN_LOCATIONS).map(String::as_str).collect();
    let more = match package.locations.len().saturating_sub(SHOWN_LOCATIONS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("found by what is said in {}{more}", shown.join(", "))
}
