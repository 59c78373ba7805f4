//! Platforms: operating system, architecture, variant, as `--platform` and OCI descriptors write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform (OCI image-spec, image-index.md), normalised: `x86_64` is `amd64`, `aarch64` is `arm64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// The CPU variant (`v7`), empty where none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The operating system's version, which Windows images carry; empty where none.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
}

/// The operating systems that stand for a platform alone (containerd's `isKnownOS`).
const SYSTEMS: [&str; 17] = [
    "linux",
    "windows",
    "darwin",
    "freebsd",
    "aix",
    "android",
    "dragonfly",
    "hurd",
    "illumos",
    "ios",
    "js",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "zos",
];

/// The architectures that do (containerd's `isKnownArch`).
const ARCHITECTURES: [&str; 24] = [
    "amd64",
    "arm64",
    "arm",
    "386",
    "ppc64le",
    "riscv64",
    "s390x",
    "loong64",
    "amd64p32",
    "arm64be",
    "armbe",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "riscv",
    "s390",
    "sparc",
    "sparc64",
    "wasm",
];

/// Says why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: {reason}")]
pub struct InvalidPlatform {
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: InvalidReason,
}

/// What is wrong with a text that is no platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReason {
    /// It has not the form of one.
    #[error("expected os/architecture[/variant], for example linux/amd64 or linux/arm/v7")]
    Form,
    /// It is one word that nobody knows.
    #[error("unknown operating system or architecture")]
    UnknownWord,
}

impl InvalidReason {
    /// The words that could have stood there; none where words are not what is wrong.
    pub fn known(self) -> impl Iterator<Item = &'static str> {
        let known = matches!(self, InvalidReason::UnknownWord).then(|| SYSTEMS.into_iter().chain(ARCHITECTURES));
        known.into_iter().flatten()
    }
}

impl Platform {
    /// Normalises the three parts as containerd's `platforms.Normalize` does.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let os = match os.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalize(&architecture.to_lowercase(), &variant.to_lowercase());
        Platform { os, architecture, variant, os_version: String::new() }
    }

    /// The platform that this binary runs on.
    pub fn host() -> Platform {
        let variant = if cfg!(target_arch = "arm") { "v7" } else { "" };
        Platform::new("linux", std::env::consts::ARCH, variant)
    }

    /// How well an image for `offered` serves this platform: `None` = not at all, else smaller is better.
    ///
    /// arm/v7 runs v6 and v5, arm64 runs arm/v8 and below, amd64 runs 386 only when asked by name, as in containerd's
    /// `platforms.Only`, but without the cross-architecture fall-back, which surprises people in builds.
    pub fn match_rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(0);
        }
        match (self.architecture.as_str(), variant_number(&self.variant), variant_number(&offered.variant)) {
            ("arm" | "amd64", wanted, found) if found <= wanted => Some(wanted - found),
            ("arm64", _, 0 | 8) => Some(1),
            _ => None,
        }
    }
}

fn variant_number(variant: &str) -> u32 {
    variant.trim_start_matches('v').parse().unwrap_or(0)
}

fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5" | "6" | "8") => return ("arm".to_owned(), format!("v{variant}")),
        ("powerpc64le", variant) => ("ppc64le", variant),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Platform, InvalidPlatform> {
        let invalid = |reason| InvalidPlatform { text: text.to_owned(), reason };
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if parts.len() > 3 || !parts.iter().all(valid) {
            return Err(invalid(InvalidReason::Form));
        }
        Ok(match parts.as_slice() {
            ["local"] => Platform::host(),
            [one] => alone(one).ok_or_else(|| invalid(InvalidReason::UnknownWord))?,
            [os, architecture] => Platform::new(os, architecture, ""),
            [os, architecture, variant] => Platform::new(os, architecture, variant),
            _ => return Err(invalid(InvalidReason::Form)),
        })
    }
}

/// The platform that one word means. As in containerd, a word that nobody knows is none: it would be taken for an
/// architecture, and an image for it runs nowhere.
fn alone(word: &str) -> Option<Platform> {
    let host = Platform::host();
    let (system, machine) = (Platform::new(word, &host.architecture, &host.variant), Platform::new("linux", word, ""));
    if SYSTEMS.contains(&system.os.as_str()) {
        return Some(system);
    }
    ARCHITECTURES.contains(&machine.architecture.as_str()).then_some(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        let text = |text: &str| text.parse::<Platform>().map(|platform| platform.to_string());
        assert_eq!(text("linux/x86_64").unwrap(), "linux/amd64");
        assert_eq!(text("linux/aarch64").unwrap(), "linux/arm64");
        assert_eq!(text("linux/arm64/v8").unwrap(), "linux/arm64");
        assert_eq!(text("linux/arm").unwrap(), "linux/arm/v7");
        assert_eq!(text("arm64").unwrap(), "linux/arm64");
        assert!(text("linux//v7").is_err());
        assert!(text("a/b/c/d").is_err());
        assert!(text("").is_err());
    }

    #[test]
    fn one_word_is_a_platform_only_if_it_is_known() {
        let platform = |text: &str| text.parse::<Platform>();
        let host = Platform::host().architecture;
        for (text, shown) in [
            ("X86_64", "linux/amd64".to_owned()),
            ("i386", "linux/386".to_owned()),
            ("armhf", "linux/arm/v7".to_owned()),
            ("powerpc64le", "linux/ppc64le".to_owned()),
            ("s390x", "linux/s390x".to_owned()),
            ("Linux", format!("linux/{host}")),
            ("macOS", format!("darwin/{host}")),
            ("openbsd", format!("openbsd/{host}")),
            ("linux/foo", "linux/foo".to_owned()),
        ] {
            assert!(platform(text).unwrap().to_string().starts_with(&shown), "{text}");
        }
        for text in ["foo", "amd46", "v7", "linux_amd64"] {
            let error = platform(text).unwrap_err();
            assert_eq!(error.reason, InvalidReason::UnknownWord, "{text}");
            assert!(error.reason.known().any(|known| known == "riscv64"));
        }
        assert_eq!(platform("linux//v7").unwrap_err().reason.known().count(), 0);
    }

    #[test]
    fn an_image_of_an_older_variant_serves_a_newer_one() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert_eq!(platform("linux/arm/v7").match_rank(&platform("linux/arm/v6")), Some(1));
        assert_eq!(platform("linux/arm/v6").match_rank(&platform("linux/arm/v7")), None);
        assert_eq!(platform("linux/amd64").match_rank(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").match_rank(&platform("linux/amd64")), Some(0));
    }
}
