//! Caches elsewhere: `--cache-from`, `--cache-to`.

mod actions;
mod bucket;
mod domain;

use self::domain::{Domain, Writing, pull_request};
use super::fields::Given;
use super::{InvalidRequest, byte_size, reference};
use crate::cache::remote::{CacheTarget, Form, Mode, Mounts, OnFailure, Others, Place};
use crate::cli::args::{CacheArguments, Switch};
use crate::cli::environment::Environment;
use crate::image::media_type::{Compression, Format};

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Caches {
    pub(super) from: Vec<Place>,
    pub(super) to: Vec<CacheTarget>,
    /// Registries that are spoken to in plain http.
    pub(super) insecure: Vec<String>,
    /// A cache mount whose tar has more bytes is not taken from those that are read.
    pub(super) mounts_limit: u64,
    /// Sentences about what is not done.
    pub(super) notices: Vec<String>,
}

const FROM: &str = "NAME, type=registry,ref=NAME, type=local,src=DIR, type=s3,bucket=NAME or type=gha";
const TO: &str = "NAME, type=registry,ref=NAME, type=local,dest=DIR, type=inline, type=s3,bucket=NAME or type=gha";

/// What the form of a cache is told with, beside `type`.
const KEYS: &[&str] = &[
    "type",
    "mode",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
    "mounts",
    "mounts-max-size",
];

/// What a name in a registry and a directory are told with.
const PLACE_KEYS: &[&str] = &["ref", "src", "dest", "tag", "digest", "registry.insecure"];

/// A cache mount with more bytes stays where it is, unless more is allowed: it would take longer to carry than it saves.
/// And none is unpacked that has more: who may write a cache shall not fill the disk of who reads it.
const MOUNTS_LIMIT: u64 = 1 << 30;

impl Caches {
    pub(super) fn resolve(arguments: &CacheArguments, environment: &Environment) -> Result<Caches, InvalidRequest> {
        let domain = arguments.cache_domain.as_deref().map(Domain::parse).transpose()?;
        let writing = Writing::parse(&arguments.cache_write)?;
        let mut caches = Caches::typed(arguments, environment)?;
        if let Some(domain) = &domain {
            caches.from = domain.reads(&caches.from)?;
            domain.writes(&mut caches.to)?;
        }
        caches.restrict(writing, domain.as_ref(), environment);
        Ok(caches)
    }

    /// Leaves out what must not be written.
    fn restrict(&mut self, writing: Writing, domain: Option<&Domain>, environment: &Environment) {
        let is_place = |target: &CacheTarget| matches!(target, CacheTarget::Place { .. });
        let refused = match (writing, domain) {
            (Writing::Never, _) => None,
            (Writing::Always, _) | (Writing::Auto, Some(_)) => return,
            (Writing::Auto, None) => match pull_request(environment) {
                Some(told) => Some(told),
                None => return,
            },
        };
        if let Some(told) = refused
            && self.to.iter().any(is_place)
        {
            self.notices.push(format!(
                "no cache is written: this is the build of a pull request ({told}), whose results others would take over; \
                 --cache-domain NAME writes one of its own, --cache-write=always writes what is named"
            ));
        }
        self.to.retain(|target| !is_place(target));
    }

    /// The flags as they were typed.
    fn typed(arguments: &CacheArguments, environment: &Environment) -> Result<Caches, InvalidRequest> {
        let mut caches = Caches::default();
        let (mut reading, mut writing) = (None, MOUNTS_LIMIT);
        for given in listed("--cache-from", &arguments.cache_from, FROM) {
            for asked in Asked::all(given)? {
                caches.insecure.extend(asked.insecure());
                reading = reading.max(asked.mounts_limit()?);
                match asked.place("src", environment)? {
                    Found::Place(place) => caches.from.push(place),
                    Found::Inline => return Err(given.because("give the image's name: type=registry,ref=NAME")),
                    Found::Ignored(notice) => caches.notices.push(notice),
                }
            }
        }
        for given in listed("--cache-to", &arguments.cache_to, TO) {
            for asked in Asked::all(given)? {
                caches.insecure.extend(asked.insecure());
                writing = writing.max(asked.mounts_limit()?.unwrap_or_default());
                match asked.place("dest", environment)? {
                    Found::Place(place) => caches.to.push(asked.target(place)?),
                    Found::Inline if asked.mode == Mode::Maximal => {
                        return Err(
                            given.because("an image has its own layers only: mode=max needs a cache of its own")
                        );
                    }
                    Found::Inline => caches.to.push(CacheTarget::Inline),
                    Found::Ignored(notice) => caches.notices.push(notice),
                }
            }
        }
        // What is written by the next build that is like this one is read by it.
        caches.mounts_limit = reading.unwrap_or(writing);
        Ok(caches)
    }
}

fn listed<'a>(flag: &'static str, texts: &'a [String], expected: &'static str) -> impl Iterator<Item = Given<'a>> {
    texts.iter().filter(|text| !text.is_empty()).map(move |value| Given { flag, value, expected })
}

/// One cache as it was typed.
struct Asked<'a> {
    given: Given<'a>,
    kind: String,
    fields: Vec<(String, String)>,
    mode: Mode,
}

/// Where a cache is.
enum Found {
    Place(Place),
    Inline,
    Ignored(String),
}

impl<'a> Asked<'a> {
    fn all(given: Given<'a>) -> Result<Vec<Asked<'a>>, InvalidRequest> {
        if !given.value.contains('=') {
            let named = |name: String| Asked {
                given,
                kind: "registry".to_owned(),
                fields: vec![("ref".to_owned(), name)],
                mode: Mode::Minimal,
            };
            return Ok(given.fields()?.into_iter().map(named).collect());
        }
        let fields = given.pairs()?;
        let kind = fields.iter().find(|(key, _)| key == "type").map(|(_, value)| value.clone());
        let kind = kind.ok_or_else(|| given.because("type=… is missing"))?;
        let mut asked = Asked { given, kind, fields, mode: Mode::Minimal };
        let known = [KEYS, asked.keys()].concat();
        if !asked.is_ignored()
            && let Some((key, _)) = asked.fields.iter().find(|(key, _)| !known.contains(&key.as_str()))
        {
            return Err(given.unknown_key(key, &known));
        }
        asked.mode = match asked.value("mode") {
            None | Some("min") => Mode::Minimal,
            Some("max") => Mode::Maximal,
            Some(_) => return Err(given.because("mode is min or max")),
        };
        Ok(vec![asked])
    }

    fn value(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, InvalidRequest> {
        let parsed = |value: &str| {
            value.parse().map(Switch::is_on).map_err(|_| self.given.because(&format!("{key} is true or false")))
        };
        self.value(key).map(parsed).transpose()
    }

    fn insecure(&self) -> Option<String> {
        let is_insecure = self.value("registry.insecure").is_some_and(|value| value.parse() == Ok(Switch::On));
        let name = self.value("ref").filter(|_| is_insecure)?;
        Some(reference(self.given.flag, name).ok()?.registry().to_owned())
    }

    /// What a place of this type is told with.
    fn keys(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "s3" => bucket::KEYS,
            "gha" => actions::KEYS,
            _ => PLACE_KEYS,
        }
    }

    /// A service that is not spoken to.
    fn is_ignored(&self) -> bool {
        self.kind == "azblob"
    }

    fn place(&self, directory: &str, environment: &Environment) -> Result<Found, InvalidRequest> {
        let needs = |key: &str| self.given.because(&format!("type={} needs {key}=…", self.kind));
        Ok(match self.kind.as_str() {
            "registry" => {
                let name = self.value("ref").ok_or_else(|| needs("ref"))?;
                Found::Place(Place::Registry(reference(self.given.flag, name)?.with_default_tag()))
            }
            "local" => {
                let path = self.value(directory).ok_or_else(|| needs(directory))?;
                let digest = self
                    .value("digest")
                    .map(|text| text.parse().map_err(|error| self.given.because(&format!("{error}"))));
                Found::Place(Place::Directory {
                    path: environment.absolute(path),
                    tag: self.value("tag").unwrap_or("latest").to_owned(),
                    digest: digest.transpose()?,
                })
            }
            "inline" => Found::Inline,
            "s3" => Found::Place(Place::Bucket(Box::new(self.bucket(environment)?))),
            "gha" => Found::Place(Place::Actions(Box::new(self.actions(environment)?))),
            kind if self.is_ignored() => {
                Found::Ignored(format!("{} type={kind} is ignored: this version has no such cache", self.given.flag))
            }
            kind => {
                let expected = "registry, local, inline, s3 or gha";
                return Err(self.given.because(&format!("unknown type {kind:?}, expected {expected}")));
            }
        })
    }

    fn target(&self, place: Place) -> Result<CacheTarget, InvalidRequest> {
        if matches!(place, Place::Registry(ref name) if name.digest().is_some()) {
            return Err(self.given.because("a name for a new cache cannot have a digest"));
        }
        let on_failure = match self.switch("ignore-error")? {
            Some(false) => OnFailure::Fail,
            Some(true) | None => OnFailure::Warn,
        };
        Ok(CacheTarget::Place { place, mode: self.mode, form: self.form()?, mounts: self.mounts()?, on_failure })
    }

    fn mounts(&self) -> Result<Mounts, InvalidRequest> {
        let limit = self.mounts_limit()?.unwrap_or(MOUNTS_LIMIT);
        Ok(match self.switch("mounts")? {
            Some(true) => Mounts::Carry { limit },
            Some(false) | None => Mounts::Leave,
        })
    }

    fn mounts_limit(&self) -> Result<Option<u64>, InvalidRequest> {
        let parsed = |text| {
            let is_none = |_| self.given.because("mounts-max-size is a size such as 64m or 1g");
            byte_size(self.given.flag, text).map_err(is_none)
        };
        self.value("mounts-max-size").map(parsed).transpose()
    }

    fn form(&self) -> Result<Form, InvalidRequest> {
        let format = match self.switch("oci-mediatypes")? {
            Some(false) => Format::Docker,
            Some(true) | None => Format::Oci,
        };
        if self.switch("image-manifest")? == Some(false) {
            return Err(self
                .given
                .because("a cache is an image manifest, which every registry keeps; leave image-manifest out"));
        }
        let compression = match self.value("compression") {
            None => None,
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            Some("uncompressed") => Some(Compression::None),
            Some(_) => return Err(self.given.because("compression is gzip, zstd or uncompressed")),
        };
        // Where none is named, that of an output counts, with its own level.
        let encoding = compression.unwrap_or(Compression::None);
        let level = self.value("compression-level").map(|text| self.given.compression_level(text, encoding));
        let others = match self.switch("force-compression")? {
            Some(true) => Others::Recompress,
            Some(false) | None => Others::Keep,
        };
        Ok(Form { format, compression, level: level.transpose()?, others })
    }
}
