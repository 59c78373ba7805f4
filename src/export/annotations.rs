//! Annotations, and which document each of them is put on.

use std::collections::BTreeMap;

use crate::image::platform::Platform;

/// An OCI annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What it is put on.
    pub target: AnnotationTarget,
    /// Only for this platform's image.
    pub platform: Option<Platform>,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationTarget {
    /// The image's manifest.
    Manifest,
    /// The manifest's descriptor in the index.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The index's descriptor in the layout.
    IndexDescriptor,
}

/// The annotations of a document: those for every platform, and over them those for the one that it is about.
pub(super) fn annotations_of(
    all: &[Annotation],
    target: AnnotationTarget,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let pairs = |wanted: Option<&Platform>| {
        let is_wanted =
            move |one: &&Annotation| one.target == target && one.platform.as_ref().map(normal) == wanted.map(normal);
        all.iter().filter(is_wanted).map(|one| (one.key.clone(), one.value.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut found = pairs(None);
    if platform.is_some() {
        found.extend(pairs(platform));
    }
    found
}

/// A platform as people name it: what Windows images add is not part of it.
fn normal(platform: &Platform) -> Platform {
    Platform::new(&platform.os, &platform.architecture, &platform.variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_for_one_platform_wins_there_and_only_there() {
        let annotation = |target, platform: &str, key: &str, value: &str| Annotation {
            target,
            platform: platform.parse().ok(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let all = [
            annotation(AnnotationTarget::Manifest, "linux/arm64", "a", "2"),
            annotation(AnnotationTarget::Manifest, "", "a", "1"),
            annotation(AnnotationTarget::Manifest, "", "b", "1"),
            annotation(AnnotationTarget::Index, "", "c", "1"),
        ];
        let text = |target, platform: &str| {
            let found = annotations_of(&all, target, platform.parse().ok().as_ref());
            found.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(AnnotationTarget::Manifest, "linux/amd64"), "a=1 b=1");
        assert_eq!(text(AnnotationTarget::Manifest, "linux/arm64"), "a=2 b=1");
        assert_eq!(text(AnnotationTarget::Index, ""), "c=1");
        assert_eq!(text(AnnotationTarget::ManifestDescriptor, "linux/arm64"), "");
    }
}
