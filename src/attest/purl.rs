//! Package URLs of images (<https://github.com/package-url/purl-spec>), as BuildKit writes them (`util/purl/image.go`).

use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// Where the package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A registry.
    Docker,
    /// An OCI layout of the machine that built.
    Oci,
}

/// The package URL of an image, with `latest` where it has neither tag nor digest.
pub fn of_image(kind: Kind, reference: &Reference, platform: &Platform) -> String {
    let reference = reference.with_default_tag();
    let familiar = Reference::familiar(&reference);
    let name = familiar.split('@').next().unwrap_or(&familiar);
    let name = match reference.tag() {
        Some(tag) => name.strip_suffix(&format!(":{tag}")).unwrap_or(name),
        None => name,
    };
    let path: Vec<String> = name.split('/').map(|part| escaped(part, "")).collect();
    let kind = match kind {
        Kind::Docker => "docker",
        Kind::Oci => "oci",
    };
    let version = reference.tag().map(|tag| format!("@{}", escaped(tag, "$&+:=@"))).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("digest={digest}&")).unwrap_or_default();
    // The version of a system is no part of a platform here.
    let platform = Platform::new(&platform.os, &platform.architecture, &platform.variant);
    format!("pkg:{kind}/{}{version}?{digest}platform={}", path.join("/"), escaped(&platform.to_string(), "$&+:=@"))
}

/// Percent-encodes all but letters, digits, `-_.~` and what else may stay.
fn escaped(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match char::from(byte) {
            character
                if character.is_ascii_alphanumeric() || "-_.~".contains(character) || also.contains(character) =>
            {
                out.push(character);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_written_as_buildkit_writes_them() {
        let digest = crate::digest::Digest::of(b"test");
        for (name, expected) in [
            ("alpine", "pkg:docker/alpine@latest?platform=linux%2Famd64".to_owned()),
            ("library/alpine:3.15", "pkg:docker/alpine@3.15?platform=linux%2Famd64".to_owned()),
            ("user/test:v2", "pkg:docker/user/test@v2?platform=linux%2Famd64".to_owned()),
            ("ghcr.io/foo/bar:v2", "pkg:docker/ghcr.io/foo/bar@v2?platform=linux%2Famd64".to_owned()),
            ("localhost:5000/foo/bar", "pkg:docker/localhost%3A5000/foo/bar@latest?platform=linux%2Famd64".to_owned()),
            (&format!("busybox@{digest}"), format!("pkg:docker/busybox?digest={digest}&platform=linux%2Famd64")),
            (&format!("busybox:1@{digest}"), format!("pkg:docker/busybox@1?digest={digest}&platform=linux%2Famd64")),
        ] {
            let platform = "linux/amd64".parse().unwrap();
            assert_eq!(of_image(Kind::Docker, &name.parse().unwrap(), &platform), expected);
        }
        let arm = "linux/arm/v7".parse().unwrap();
        assert_eq!(
            of_image(Kind::Oci, &"base".parse().unwrap(), &arm),
            "pkg:oci/base@latest?platform=linux%2Farm%2Fv7"
        );
    }
}
