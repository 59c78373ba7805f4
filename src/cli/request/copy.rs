//! What `copy` was asked to do.

use std::path::PathBuf;

use super::commands::quiet_or;
use super::fields::Given;
use super::output::named;
use super::place::{ArchiveKind, ArchivePlace};
use super::transfer::repository;
use super::{InvalidRequest, RegistryOptions, platform, registries, store_root};
use crate::build::{CopyOptions, CopyTarget, LayoutPlace};
use crate::cli::args::{CopyArguments, GlobalArguments};
use crate::cli::environment::{Environment, Stdio};
use crate::export::{FileTarget, LayoutForm, LayoutTarget};
use crate::image::reference::Reference;
use crate::registry::copy::Existing;
use crate::ui::ProgressMode;

/// `copy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What is copied.
    pub job: CopyJob,
    /// How.
    pub options: CopyOptions,
    /// Whether what refers to it is copied, too.
    pub referrers: Referrers,
    /// Where an archive that cannot be read in place is unpacked; none where no place was found.
    pub store_root: Option<PathBuf>,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// How to show progress.
    pub progress: ProgressMode,
}

/// What is copied, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyJob {
    /// One image or index.
    One(CopyFrom, CopyTarget),
    /// All that the first repository's tags stand for, into the second.
    AllTags(Reference, Reference),
}

impl CopyJob {
    /// Whether the copy is an archive that goes to standard output.
    pub fn is_to_stdout(&self) -> bool {
        let CopyJob::One(_, CopyTarget::Layout(place)) = self else { return false };
        place.target == LayoutTarget::Tar(FileTarget::Stdout)
    }
}

/// What one copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom {
    /// A name in a registry.
    Registry(Reference),
    /// An archive.
    Archive(ArchivePlace),
}

/// Whether signatures and the like are copied with what they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referrers {
    /// They are.
    Copied,
    /// They are not.
    Left,
}

impl Copy {
    pub(in crate::cli) fn resolve(
        arguments: CopyArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Copy, InvalidRequest> {
        let platforms =
            arguments.platforms.iter().map(|text| platform("--platform", text)).collect::<Result<Vec<_>, _>>()?;
        let referrers = if arguments.referrers { Referrers::Copied } else { Referrers::Left };
        let job = match arguments.all_tags {
            true => all_tags(&arguments, environment)?,
            false => {
                CopyJob::One(source(&arguments.source, environment)?, target(&arguments.destination, environment)?)
            }
        };
        if let (CopyJob::One(from, to), Referrers::Copied) = (&job, referrers)
            && !matches!((from, to), (CopyFrom::Registry(_), CopyTarget::Registry(_)))
        {
            return Err(InvalidRequest::Contradiction {
                problem: "--referrers copies from a registry to a registry".to_owned(),
                hint: "an index's own attestations are copied always".to_owned(),
            });
        }
        let existing = if arguments.no_clobber { Existing::Refused } else { Existing::Replaced };
        Ok(Copy {
            job,
            options: CopyOptions { platforms, existing },
            referrers,
            store_root: store_root(global, environment).ok(),
            registries: registries(&arguments.registry, environment)?,
            progress: quiet_or(arguments.quiet.then_some(ProgressMode::Quiet), &arguments.progress, environment)?,
        })
    }
}

fn all_tags(arguments: &CopyArguments, environment: &Environment) -> Result<CopyJob, InvalidRequest> {
    for (flag, text) in [("SOURCE", &arguments.source), ("DESTINATION", &arguments.destination)] {
        if ArchivePlace::parse(flag, text, environment)?.is_some() {
            return Err(InvalidRequest::Contradiction {
                problem: format!("--all-tags copies from a registry to a registry, which {text} is not"),
                hint: "without --all-tags one image is copied, with all its platforms".to_owned(),
            });
        }
    }
    let (source, destination) = (plain(&arguments.source), plain(&arguments.destination));
    Ok(CopyJob::AllTags(repository("SOURCE", source)?, repository("DESTINATION", destination)?))
}

/// Where in a text that names an archive the archive is.
fn path_in(text: &str) -> &str {
    text.split(':').nth(1).unwrap_or_default()
}

/// A name in a registry, also as skopeo writes it.
fn plain(text: &str) -> &str {
    text.strip_prefix("docker://").unwrap_or(text)
}

fn source(text: &str, environment: &Environment) -> Result<CopyFrom, InvalidRequest> {
    match ArchivePlace::parse("SOURCE", text, environment)? {
        Some(place) if place.kind != ArchiveKind::Directory && path_in(text) == "-" => {
            let given = Given { flag: "SOURCE", value: text, expected: "a file" };
            Err(given.because("an archive is read back and forth, which standard input cannot be: write it to a file"))
        }
        Some(place) => Ok(CopyFrom::Archive(place)),
        None => Ok(CopyFrom::Registry(named("SOURCE", plain(text))?)),
    }
}

fn target(text: &str, environment: &Environment) -> Result<CopyTarget, InvalidRequest> {
    let Some(ArchivePlace { kind, path, label }) = ArchivePlace::parse("DESTINATION", text, environment)? else {
        return Ok(CopyTarget::Registry(named("DESTINATION", plain(text))?));
    };
    let file = match (path_in(text), environment.stdout) {
        ("-", Stdio::Terminal) => Err(InvalidRequest::Contradiction {
            problem: "refusing to write a tar to a terminal".to_owned(),
            hint: "name a file, or send standard output elsewhere".to_owned(),
        }),
        ("-", Stdio::Other) => Ok(FileTarget::Stdout),
        _ => Ok(FileTarget::Path(path.clone())),
    };
    let (form, target, name) = match kind {
        ArchiveKind::Directory => (LayoutForm::Oci, LayoutTarget::Directory(path), None),
        ArchiveKind::OciArchive => (LayoutForm::Oci, LayoutTarget::Tar(file?), None),
        ArchiveKind::DockerArchive => {
            let name = label.as_deref().map(|label| named("DESTINATION", label)).transpose()?;
            (LayoutForm::Docker, LayoutTarget::Tar(file?), name)
        }
    };
    Ok(CopyTarget::Layout(LayoutPlace { form, target, name, label }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            variables: Default::default(),
            current_directory: "/here".into(),
            user_id: 1000,
            now: std::time::SystemTime::UNIX_EPOCH,
            processors: std::num::NonZeroUsize::MIN,
            stdin: Stdio::Other,
            stdout: Stdio::Other,
            stderr: Stdio::Other,
        }
    }

    #[test]
    fn sources_and_destinations_are_registries_layouts_and_archives() {
        let of = |text: &str| source(text, &environment());
        let archive = |kind, path: &str, label: Option<&str>| {
            Ok(CopyFrom::Archive(ArchivePlace { kind, path: path.into(), label: label.map(str::to_owned) }))
        };
        assert_eq!(of("oci:dir"), archive(ArchiveKind::Directory, "/here/dir", None));
        assert_eq!(of("oci:/dir:r.test/a:1"), archive(ArchiveKind::Directory, "/dir", Some("r.test/a:1")));
        assert_eq!(of("oci-archive:a.tar:1.0"), archive(ArchiveKind::OciArchive, "/here/a.tar", Some("1.0")));
        assert_eq!(of("docker-archive:a.tar"), archive(ArchiveKind::DockerArchive, "/here/a.tar", None));
        for (text, name) in [("r.test/a", "r.test/a:latest"), ("docker://a:1", "docker.io/library/a:1")] {
            assert_eq!(of(text), Ok(CopyFrom::Registry(name.parse().unwrap())), "{text}");
        }
        for text in ["oci:", "oci:dir:", "oci-archive::x", "docker-daemon:a:1", "containers-storage:a", "a:b:c"] {
            assert!(of(text).is_err(), "{text}");
        }
        let to = target("docker-archive:x.tar:app", &environment()).unwrap();
        let CopyTarget::Layout(place) = to else { panic!("{to:?}") };
        assert_eq!((place.form, place.name), (LayoutForm::Docker, "app:latest".parse().ok()));
        assert!(repository("SOURCE", "r.test/a:1").is_err());
    }
}
