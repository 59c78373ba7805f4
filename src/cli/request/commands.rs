//! What the commands other than `build` were asked to do.

use std::path::PathBuf;

use super::fields::Given;
use super::output::named;
use super::place::ArchivePlace;
use super::{InvalidRequest, platform, progress_mode, references, store_root};
use crate::cli::args::{
    DoctorArguments, GlobalArguments, HistoryArguments, ImagesArguments, InspectArguments, RemoveArguments,
    TagArguments,
};
use crate::cli::environment::Environment;
use crate::cli::template::Template;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::ui::ProgressMode;

/// An image in the store, as typed: by name or by the beginning of its id. Some words could be both; an id wins,
/// as in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSelector {
    /// As typed.
    pub text: String,
    /// The beginning of a digest in hexadecimal, where it could be one.
    pub id: Option<String>,
    /// The name, where it could be one.
    pub name: Option<Reference>,
    /// The archive that it is in, where that was named; then it is neither an id nor a name.
    pub archive: Option<ArchivePlace>,
}

impl ImageSelector {
    /// As [`ImageSelector::parse`], or an image of an archive: for commands that only look at it.
    pub(super) fn parse_with_archives(text: &str, environment: &Environment) -> Result<ImageSelector, InvalidRequest> {
        match ArchivePlace::parse("IMAGE", text, environment)? {
            Some(place) => Ok(ImageSelector { text: text.to_owned(), id: None, name: None, archive: Some(place) }),
            None => ImageSelector::parse(text),
        }
    }

    pub(super) fn parse(text: &str) -> Result<ImageSelector, InvalidRequest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = (4..=64).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = is_id.then(|| hex.to_owned());
        let name = match named("IMAGE", text) {
            Ok(name) if !text.starts_with("sha256:") => Some(name),
            Ok(_) => None,
            Err(_) if is_id => None,
            Err(error) => return Err(error),
        };
        match (&id, &name) {
            (None, None) => Err(Given { flag: "IMAGE", value: text, expected: "a name or an id" }.invalid()),
            _ => Ok(ImageSelector { text: text.to_owned(), id, name, archive: None }),
        }
    }
}

fn selectors(texts: &[String]) -> Result<Vec<ImageSelector>, InvalidRequest> {
    texts.iter().map(|text| ImageSelector::parse(text)).collect()
}

/// How a list is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// A table for people.
    Table,
    /// JSON.
    Json,
    /// Ids, one per line.
    Ids,
    /// A line of one's own for each.
    Template(Template, Heading),
}

/// Whether the columns of a template have names above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// They have (`table {{.ID}}`).
    Shown,
    /// They have not.
    None,
}

fn listing(format: &str) -> Result<Listing, InvalidRequest> {
    match format {
        "table" => Ok(Listing::Table),
        "json" => Ok(Listing::Json),
        value => match value.strip_prefix("table ") {
            Some(text) => Ok(Listing::Template(template(text)?, Heading::Shown)),
            None => Ok(Listing::Template(template(value)?, Heading::None)),
        },
    }
}

fn template(text: &str) -> Result<Template, InvalidRequest> {
    let given = Given { flag: "--format", value: text, expected: "table, json or a template such as {{.ID}}" };
    if !text.contains("{{") {
        return Err(given.invalid());
    }
    Template::parse(text).map_err(|error| given.because(&error.to_string()))
}

/// What to do with what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Do it.
    Perform,
    /// Only say what would be done.
    DryRun,
}

/// What is removed, and how much care is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Refuse what could be a mistake.
    Careful,
    /// Do it all the same (`--force`).
    Forced,
}

/// `images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Where images live.
    pub store_root: PathBuf,
    /// Only names with this text.
    pub filter: Option<String>,
    /// How to print them.
    pub listing: Listing,
    /// Whether ids are cut in tables.
    pub ids: TextLength,
}

impl Images {
    pub(in crate::cli) fn resolve(
        arguments: ImagesArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Images, InvalidRequest> {
        let listing = if arguments.quiet { Listing::Ids } else { listing(&arguments.format)? };
        let ids = TextLength::of(arguments.no_trunc);
        Ok(Images { store_root: store_root(global, environment)?, filter: arguments.filter, listing, ids })
    }
}

/// `rmi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remove {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub images: Vec<ImageSelector>,
    /// Whether an id with several names goes, and a missing image is no error.
    pub care: Care,
}

impl Remove {
    pub(in crate::cli) fn resolve(
        arguments: RemoveArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Remove, InvalidRequest> {
        let care = if arguments.force { Care::Forced } else { Care::Careful };
        Ok(Remove { store_root: store_root(global, environment)?, images: selectors(&arguments.images)?, care })
    }
}

pub(super) fn quiet_or(
    quiet: Option<ProgressMode>,
    word: &Option<String>,
    environment: &Environment,
) -> Result<ProgressMode, InvalidRequest> {
    match quiet {
        Some(quiet) => Ok(quiet),
        None => progress_mode(word.as_deref(), environment),
    }
}

/// `tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagImage {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub image: ImageSelector,
    /// Its new names.
    pub names: Vec<Reference>,
}

impl TagImage {
    pub(in crate::cli) fn resolve(
        arguments: TagArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<TagImage, InvalidRequest> {
        Ok(TagImage {
            store_root: store_root(global, environment)?,
            image: ImageSelector::parse(&arguments.image)?,
            names: references("NAME", &arguments.names)?,
        })
    }
}

/// `inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspect {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub images: Vec<ImageSelector>,
    /// What of them.
    pub part: ImagePart,
    /// Of an index, the image for this platform; this machine's where none.
    pub platform: Option<Platform>,
    /// What of it is printed, in a form of one's own.
    pub template: Option<Template>,
}

/// What of an image is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePart {
    /// Everything in one document.
    Image,
    /// The manifest, byte for byte.
    Manifest,
    /// The configuration, byte for byte.
    Config,
    /// The index, byte for byte.
    Index,
}

impl Inspect {
    pub(in crate::cli) fn resolve(
        arguments: InspectArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Inspect, InvalidRequest> {
        let part = match arguments.show.as_str() {
            "image" => ImagePart::Image,
            "manifest" => ImagePart::Manifest,
            "config" => ImagePart::Config,
            "index" => ImagePart::Index,
            value => {
                return Err(Given { flag: "--show", value, expected: "image, manifest, config or index" }.invalid());
            }
        };
        let template = match arguments.format.as_deref() {
            None | Some("json") => None,
            Some(text) => Some(template(text)?),
        };
        Ok(Inspect {
            template,
            store_root: store_root(global, environment)?,
            images: arguments
                .images
                .iter()
                .map(|text| ImageSelector::parse_with_archives(text, environment))
                .collect::<Result<_, _>>()?,
            part,
            platform: arguments.platform.as_deref().map(|text| platform("--platform", text)).transpose()?,
        })
    }
}

/// `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub image: ImageSelector,
    /// How to print it.
    pub listing: Listing,
    /// Whether long commands are cut.
    pub commands: TextLength,
}

/// Whether long texts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLength {
    /// To fit into a line.
    Cut,
    /// Not.
    Full,
}

impl TextLength {
    fn of(no_trunc: bool) -> TextLength {
        if no_trunc { TextLength::Full } else { TextLength::Cut }
    }
}

impl History {
    pub(in crate::cli) fn resolve(
        arguments: HistoryArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<History, InvalidRequest> {
        Ok(History {
            store_root: store_root(global, environment)?,
            image: ImageSelector::parse_with_archives(&arguments.image, environment)?,
            listing: listing(&arguments.format)?,
            commands: TextLength::of(arguments.no_trunc),
        })
    }
}

/// `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doctor {
    /// Where images live; none where no place was found, which is worth saying.
    pub store_root: Option<PathBuf>,
    /// How to print it.
    pub listing: Listing,
}

impl Doctor {
    pub(in crate::cli) fn resolve(
        arguments: DoctorArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Doctor {
        let listing = if arguments.json { Listing::Json } else { Listing::Table };
        Doctor { store_root: store_root(global, environment).ok(), listing }
    }
}
