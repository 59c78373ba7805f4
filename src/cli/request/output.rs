//! What is written besides the store: `--output`, `--push`, `--annotation`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, platform, reference, references};
use crate::cli::args::{BuildArguments, Switch};
use crate::cli::environment::{Environment, Stdio};
use crate::export::{Annotation, AnnotationTarget};
use crate::image::media_type::Compression as LayerCompression;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRequest {
    /// Its form.
    pub kind: OutputKind,
    /// Where to; none for what goes to a registry or stays in the store.
    pub destination: Option<Destination>,
    /// The names it carries: those of `--tag` and of its own `name=`.
    pub names: Vec<Reference>,
    /// How layers are compressed.
    pub compression: Compression,
    /// Annotations of this output alone.
    pub annotations: Vec<Annotation>,
    /// All else, by key: `rewrite-timestamp`, `oci-mediatypes`, `push-by-digest`, `platform-split`, `mode`, ….
    /// Values that are true or false have been checked and are written `true` or `false`.
    pub attributes: BTreeMap<String, String>,
}

impl OutputRequest {
    /// What an attribute that is true or false says, where it is given.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.attributes.get(key).map(|value| value == "true")
    }
}

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// Kept in rbuild's store under its names, and nothing else (`type=image` without `push`).
    Image,
    /// An OCI layout in a tar.
    Oci,
    /// An OCI layout as a directory (`type=oci,tar=false`).
    OciDirectory,
    /// What `docker load` reads.
    Docker,
    /// The result's files in a directory.
    Local,
    /// The result's files in a tar.
    Tar,
    /// Pushed to the registries of its names.
    Registry,
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file or directory.
    Path(PathBuf),
    /// Standard output, which is no terminal.
    Stdout,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compression {
    /// With what; the output's own default where none.
    pub algorithm: Option<CompressionAlgorithm>,
    /// How hard.
    pub level: Option<i32>,
    /// Whether layers that are compressed otherwise (of base images) are done again.
    pub recompress: Recompress,
}

/// Ways to compress a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionAlgorithm {
    /// Not at all.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl CompressionAlgorithm {
    /// As layers have it.
    pub fn encoding(self) -> LayerCompression {
        match self {
            CompressionAlgorithm::Uncompressed => LayerCompression::None,
            CompressionAlgorithm::Gzip => LayerCompression::Gzip,
            CompressionAlgorithm::Zstd => LayerCompression::Zstd,
        }
    }
}

/// Whether layers that are compressed otherwise are done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompress {
    /// They stay as they are.
    #[default]
    Keep,
    /// `force-compression=true`.
    Always,
}

const TYPES: [&str; 7] = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];

/// Keys of outputs that are images. Those whose names end in `*` stand for all that begin so.
const IMAGE_KEYS: [&str; 21] = [
    "type",
    "dest",
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "oci-mediatypes",
    "oci-artifact",
    "tar",
    "push",
    "push-by-digest",
    "name-canonical",
    "registry.insecure",
    "dangling-name-prefix",
    "unpack",
    "store",
    "prefer-nondist-layers",
    "source-date-epoch",
    "annotation*",
    "attest:*",
];
const FILE_KEYS: [&str; 5] = ["type", "dest", "mode", "platform-split", "attestation-prefix"];
const SWITCHES: [&str; 11] = [
    "unpack",
    "force-compression",
    "rewrite-timestamp",
    "oci-mediatypes",
    "oci-artifact",
    "tar",
    "push",
    "push-by-digest",
    "name-canonical",
    "registry.insecure",
    "platform-split",
];
/// Keys that are about containerd's own store, and say nothing here.
const MEANINGLESS: [&str; 4] = ["unpack", "store", "prefer-nondist-layers", "dangling-name-prefix"];

/// Understands `--output` and `--push`; a `type=image` adds its names to the tags.
pub(super) fn outputs(
    arguments: &BuildArguments,
    tags: &mut Vec<Reference>,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<Vec<OutputRequest>, InvalidRequest> {
    let texts = arguments.outputs.iter().filter(|text| !text.is_empty());
    let mut outputs = Vec::new();
    for text in texts {
        outputs.extend(output(text, environment, notices)?);
    }
    if arguments.push.is_on() {
        push(&mut outputs);
    }
    for output in &mut outputs {
        if output.switch("push-by-digest") == Some(true) && !output.names.is_empty() {
            // Tags are what it shall not have; those of --tag are of the image in the store.
            continue;
        }
        add_names(&mut output.names, tags);
        if output.kind == OutputKind::Image {
            *tags = output.names.clone();
        }
        if output.kind == OutputKind::Registry && output.names.is_empty() {
            return Err(InvalidRequest::Contradiction {
                problem: "pushing needs a name to push to".to_owned(),
                hint: "name the image with --tag [REGISTRY/]NAME[:TAG]".to_owned(),
            });
        }
    }
    refuse_contradictions(&outputs, arguments)?;
    Ok(outputs)
}

fn add_names(names: &mut Vec<Reference>, more: &[Reference]) {
    for name in more {
        if !names.iter().any(|known| known.to_string() == name.to_string()) {
            names.push(name.clone());
        }
    }
}

/// The names of the result, as BuildKit tells them in `image.name`: those of the image in the store and of the outputs.
/// What is pushed by its digest has no tag, with `name-canonical` or without: the digest is told by itself.
pub(in crate::cli) fn image_names(tags: &[Reference], outputs: &[OutputRequest]) -> Vec<String> {
    let mut names: Vec<String> = tags.iter().map(Reference::to_string).collect();
    for output in outputs.iter().filter(|output| !matches!(output.kind, OutputKind::Local | OutputKind::Tar)) {
        let by_digest = output.switch("push-by-digest") == Some(true);
        for name in &output.names {
            let name = if by_digest { name.name() } else { name.to_string() };
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// The registries of outputs that say `registry.insecure=true`.
pub(super) fn insecure_registries(outputs: &[OutputRequest]) -> Vec<String> {
    let says_so =
        |output: &&OutputRequest| output.attributes.get("registry.insecure").is_some_and(|value| value == "true");
    let names = outputs.iter().filter(says_so).flat_map(|output| &output.names);
    names.map(|name| name.registry().to_owned()).collect()
}

/// `--push` makes an image output a pushed one, and adds one where there is none, as in buildx.
fn push(outputs: &mut Vec<OutputRequest>) {
    if let Some(output) = outputs.iter_mut().find(|output| output.kind == OutputKind::Image) {
        output.kind = OutputKind::Registry;
    }
    if outputs.iter().all(|output| output.kind != OutputKind::Registry) {
        outputs.push(OutputRequest {
            kind: OutputKind::Registry,
            destination: None,
            names: Vec::new(),
            compression: Compression::default(),
            annotations: Vec::new(),
            attributes: BTreeMap::new(),
        });
    }
}

fn refuse_contradictions(outputs: &[OutputRequest], arguments: &BuildArguments) -> Result<(), InvalidRequest> {
    let to_stdout = outputs.iter().filter(|output| output.destination == Some(Destination::Stdout)).count();
    if to_stdout > 1 {
        return Err(InvalidRequest::Contradiction {
            problem: "several outputs are to be written to standard output".to_owned(),
            hint: "give all but one a dest=PATH".to_owned(),
        });
    }
    let has_files = outputs.iter().any(|output| matches!(output.kind, OutputKind::Local | OutputKind::Tar));
    if has_files && arguments.image_id_file.is_some() {
        return Err(InvalidRequest::Contradiction {
            problem: "--iidfile needs an image, and outputs local and tar make none".to_owned(),
            hint: "leave --iidfile out, or build twice: the second build comes from the cache".to_owned(),
        });
    }
    Ok(())
}

fn output(
    text: &str,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<Option<OutputRequest>, InvalidRequest> {
    let given =
        Given { flag: "--output", value: text, expected: "a directory, -, or type=TYPE[,dest=PATH][,KEY=VALUE]" };
    let is_path = !text.contains('=') && given.fields()?.len() == 1;
    let pairs = match text {
        "-" => vec![("type".to_owned(), "tar".to_owned())],
        path if is_path => {
            vec![("type".to_owned(), "local".to_owned()), ("dest".to_owned(), path.to_owned())]
        }
        _ => given.pairs()?,
    };
    let mut attributes: BTreeMap<String, String> = pairs.into_iter().collect();
    let kind_word = attributes.remove("type").ok_or_else(|| given.because("type=… is missing"))?;
    let known: &[&'static str] = match kind_word.as_str() {
        "local" | "tar" => &FILE_KEYS,
        "cacheonly" => return Ok(None),
        word if TYPES.contains(&word) => &IMAGE_KEYS,
        word => return Err(unknown_type(given, word)),
    };
    check_attributes(given, &mut attributes, known)?;
    let kind = kind(&kind_word, &mut attributes);
    let destination = destination(given, kind, attributes.remove("dest"), environment)?;
    let names = match attributes.remove("name") {
        Some(names) => references("--output", &names.split(',').map(str::to_owned).collect::<Vec<_>>())?,
        None => Vec::new(),
    };
    if attributes.get("unpack").is_some_and(|value| value == "true") {
        return Err(InvalidRequest::NotSupported {
            flag: format!("--output {text}"),
            hint:
                "leave unpack out: it is for containerd's snapshots; rbuild unpacks layers where a command needs them"
                    .to_owned(),
        });
    }
    let compression = compression(given, &mut attributes, notices)?;
    let annotations = take_annotations(given, &mut attributes)?;
    attributes.retain(|key, _| !MEANINGLESS.contains(&key.as_str()) && !key.starts_with("attest:"));
    Ok(Some(OutputRequest { kind, destination, names, compression, annotations, attributes }))
}

fn unknown_type(given: Given<'_>, word: &str) -> InvalidRequest {
    match crate::diagnostic::did_you_mean(word, TYPES) {
        Some(meant) => given.because(&format!("unknown type {word:?}, did you mean {meant}?")),
        None => given.because(&format!("unknown type {word:?}, expected {}", TYPES[..6].join(", "))),
    }
}

/// Refuses keys that are not known and values that are neither true nor false where they must be.
fn check_attributes(
    given: Given<'_>,
    attributes: &mut BTreeMap<String, String>,
    known: &[&'static str],
) -> Result<(), InvalidRequest> {
    for (key, value) in attributes {
        let is_known = |known: &&str| match known.strip_suffix('*') {
            Some(beginning) => key.starts_with(beginning),
            None => *known == key,
        };
        if !known.iter().any(is_known) {
            return Err(given.unknown_key(key, known));
        }
        if key == "mode" && !["copy", "delete"].contains(&value.as_str()) {
            return Err(given.because("mode is copy or delete"));
        }
        if SWITCHES.contains(&key.as_str()) {
            let switch = value.parse::<Switch>().map_err(|_| given.because(&format!("{key} is true or false")))?;
            *value = if switch.is_on() { "true" } else { "false" }.to_owned();
        }
    }
    Ok(())
}

fn kind(word: &str, attributes: &mut BTreeMap<String, String>) -> OutputKind {
    let push = attributes.remove("push");
    let tar = attributes.remove("tar");
    match (word, push.as_deref(), tar.as_deref()) {
        ("registry", Some("false"), _) => OutputKind::Image,
        ("registry", ..) | ("image", Some("true"), _) => OutputKind::Registry,
        ("oci", _, Some("false")) => OutputKind::OciDirectory,
        ("oci", ..) => OutputKind::Oci,
        ("docker", ..) => OutputKind::Docker,
        ("local", ..) => OutputKind::Local,
        ("tar", ..) => OutputKind::Tar,
        _ => OutputKind::Image,
    }
}

fn destination(
    given: Given<'_>,
    kind: OutputKind,
    path: Option<String>,
    environment: &Environment,
) -> Result<Option<Destination>, InvalidRequest> {
    let path = path.filter(|path| !path.is_empty());
    match (kind, path.as_deref()) {
        (OutputKind::Image | OutputKind::Registry, None) => Ok(None),
        (OutputKind::Image | OutputKind::Registry, Some(_)) => {
            Err(given.because("an image in a store or registry has a name, not a dest"))
        }
        (OutputKind::Local | OutputKind::OciDirectory, None | Some("-")) => {
            Err(given.because("it needs dest=DIRECTORY"))
        }
        (OutputKind::Oci | OutputKind::Docker | OutputKind::Tar, None | Some("-")) => match environment.stdout {
            Stdio::Terminal => {
                Err(given.because("standard output is a terminal; give dest=FILE, or send it to a file or a pipe"))
            }
            Stdio::Other => Ok(Some(Destination::Stdout)),
        },
        (kind, Some(path)) => {
            let path = environment.absolute(path);
            let is_directory = matches!(kind, OutputKind::Local | OutputKind::OciDirectory);
            if is_directory && path.is_file() {
                return Err(given.because(&format!("{} is a file, not a directory", path.display())));
            }
            if !is_directory && path.is_dir() {
                return Err(given.because(&format!("{} is a directory, not a file", path.display())));
            }
            Ok(Some(Destination::Path(path)))
        }
    }
}

fn compression(
    given: Given<'_>,
    attributes: &mut BTreeMap<String, String>,
    notices: &mut Vec<String>,
) -> Result<Compression, InvalidRequest> {
    let algorithm = match attributes.remove("compression").as_deref() {
        None => None,
        Some("uncompressed") => Some(CompressionAlgorithm::Uncompressed),
        Some("gzip") => Some(CompressionAlgorithm::Gzip),
        Some("zstd") => Some(CompressionAlgorithm::Zstd),
        Some("estargz") => {
            notices.push("compression=estargz is not supported: layers are compressed with gzip".to_owned());
            Some(CompressionAlgorithm::Gzip)
        }
        Some(_) => return Err(given.because("compression is gzip, zstd or uncompressed")),
    };
    let level = attributes.remove("compression-level");
    let encoding = algorithm.unwrap_or(CompressionAlgorithm::Gzip).encoding();
    let level = level.map(|level| given.compression_level(&level, encoding));
    let recompress = match attributes.remove("force-compression").as_deref() {
        Some("true") => Recompress::Always,
        _ => Recompress::Keep,
    };
    Ok(Compression { algorithm, level: level.transpose()?, recompress })
}

/// Takes `annotation[-TYPE][[PLATFORM]].KEY=VALUE` out of an output's attributes.
fn take_annotations(
    given: Given<'_>,
    attributes: &mut BTreeMap<String, String>,
) -> Result<Vec<Annotation>, InvalidRequest> {
    let mut annotations = Vec::new();
    let keys: Vec<String> = attributes.keys().filter(|key| key.starts_with("annotation")).cloned().collect();
    for key in keys {
        let value = attributes.remove(&key).unwrap_or_default();
        let rest = key["annotation".len()..].to_owned();
        let rest = rest.strip_prefix('-').unwrap_or(&rest);
        let (target, key) =
            rest.split_once('.').ok_or_else(|| given.because("an annotation is annotation.KEY=VALUE"))?;
        let (target, platform) = annotation_target(given, target)?;
        annotations.push(Annotation { target, platform, key: key.to_owned(), value });
    }
    Ok(annotations)
}

/// Understands `--annotation`.
pub(super) fn annotations(texts: &[String]) -> Result<Vec<Annotation>, InvalidRequest> {
    let mut annotations = Vec::new();
    for text in texts {
        let given = Given { flag: "--annotation", value: text, expected: "[TYPE[PLATFORM]:]KEY=VALUE" };
        let (name, value) = text.split_once('=').ok_or_else(|| given.invalid())?;
        let (targets, key) = name.split_once(':').unwrap_or(("", name));
        if key.is_empty() {
            return Err(given.invalid());
        }
        for target in targets.split(',') {
            let (target, platform) = annotation_target(given, target)?;
            annotations.push(Annotation { target, platform, key: key.to_owned(), value: value.to_owned() });
        }
    }
    Ok(annotations)
}

/// `manifest-descriptor[linux/amd64]`; the manifest where nothing is said.
fn annotation_target(given: Given<'_>, text: &str) -> Result<(AnnotationTarget, Option<Platform>), InvalidRequest> {
    let (word, platform_text) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((word, platform)) => (word, Some(platform)),
        None => (text, None),
    };
    let target = match word {
        "" | "manifest" => AnnotationTarget::Manifest,
        "manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
        "index" => AnnotationTarget::Index,
        "index-descriptor" => AnnotationTarget::IndexDescriptor,
        word => {
            let expected = "manifest, index, manifest-descriptor or index-descriptor";
            return Err(given.because(&format!("unknown type {word:?}, expected {expected}")));
        }
    };
    Ok((target, platform_text.map(|text| platform(given.flag, text)).transpose()?))
}

/// A single name for `push` and its kin.
pub(super) fn named(flag: &'static str, text: &str) -> Result<Reference, InvalidRequest> {
    Ok(reference(flag, text)?.with_default_tag())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_result_are_those_of_its_tags_and_outputs() {
        let names = |texts: &[&str]| -> Vec<Reference> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let output = |kind, names, attributes: &[&str]| OutputRequest {
            kind,
            destination: None,
            names,
            compression: Compression::default(),
            annotations: Vec::new(),
            attributes: attributes.iter().map(|key| ((*key).to_owned(), "true".to_owned())).collect(),
        };
        let outputs = [
            output(OutputKind::Registry, names(&["r.test/md:3", "r.test/app:1"]), &[]),
            output(OutputKind::Registry, names(&["r.test/pinned:latest"]), &["push-by-digest", "name-canonical"]),
            output(OutputKind::Local, names(&["r.test/none:1"]), &[]),
        ];
        let told = image_names(&names(&["r.test/app:1"]), &outputs);
        assert_eq!(told, ["r.test/app:1", "r.test/md:3", "r.test/pinned"]);
        assert_eq!(image_names(&[], &outputs[2..]), [""; 0]);
    }
}
