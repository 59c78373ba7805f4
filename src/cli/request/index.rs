//! `index create` and `index inspect`, understood.

use std::collections::BTreeMap;

use super::commands::{Execution, quiet_or};
use super::fields::Given;
use super::output::{annotations, named};
use super::{InvalidRequest, RegistryOptions, ReportFormat, reference, registries};
use crate::cli::args::{IndexCreateArguments, IndexInspectArguments};
use crate::cli::environment::Environment;
use crate::digest::Digest;
use crate::export::AnnotationTarget;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::registry::compose::{Annotations, Said, Single, Source};
use crate::ui::ProgressMode;

/// `index create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex {
    /// What goes into it, in order.
    pub sources: Vec<Source>,
    /// Its names: at least one, unless it is only printed.
    pub names: Vec<Reference>,
    /// What is put on it.
    pub annotations: Annotations,
    /// What becomes of one image alone.
    pub single: Single,
    /// Whether it is only printed.
    pub execution: Execution,
    /// How to reach registries.
    pub registries: RegistryOptions,
    /// How to show progress.
    pub progress: ProgressMode,
}

/// `index inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectIndex {
    /// The name.
    pub name: Reference,
    /// How it is printed.
    pub form: IndexForm,
    /// How to reach registries.
    pub registries: RegistryOptions,
}

/// How an index is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexForm {
    /// Byte for byte.
    Raw,
    /// For people or for programs.
    Report(ReportFormat),
}

impl CreateIndex {
    pub(in crate::cli) fn resolve(
        arguments: IndexCreateArguments,
        environment: &Environment,
    ) -> Result<CreateIndex, InvalidRequest> {
        let names: Vec<Reference> = arguments.tags.iter().map(|tag| named("--tag", tag)).collect::<Result<_, _>>()?;
        let mut texts = Vec::new();
        for path in &arguments.files {
            let path = environment.absolute(path);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let value = path.display().to_string();
                InvalidRequest::InvalidValue { flag: "--file", value, reason: error.to_string() }
            })?;
            texts.push(text.trim().to_owned());
        }
        texts.extend(arguments.sources);
        let repositories = repositories(&names);
        let mut sources = Vec::new();
        if arguments.append {
            let reference = names.first().cloned().ok_or_else(|| lacks_tag("--append"))?;
            sources.push(Source { reference, said: Said::default() });
        }
        for text in &texts {
            sources.push(source(text, &repositories)?);
        }
        if sources.is_empty() {
            return Err(InvalidRequest::Contradiction {
                problem: "an index needs something to be made of".to_owned(),
                hint: "name images: rbuild index create --tag NAME:TAG IMAGE…".to_owned(),
            });
        }
        let execution = if arguments.dry_run { Execution::DryRun } else { Execution::Perform };
        if names.is_empty() && execution == Execution::Perform {
            return Err(lacks_tag("index create"));
        }
        Ok(CreateIndex {
            sources,
            names,
            annotations: index_annotations(&arguments.annotations)?,
            single: if arguments.prefer_index.is_on() { Single::Index } else { Single::Copy },
            execution,
            registries: registries(&arguments.registry, environment)?,
            progress: quiet_or(None, &arguments.progress, environment)?,
        })
    }
}

impl InspectIndex {
    pub(in crate::cli) fn resolve(
        arguments: IndexInspectArguments,
        environment: &Environment,
    ) -> Result<InspectIndex, InvalidRequest> {
        let form = match (arguments.raw, arguments.format.as_str()) {
            (true, _) => IndexForm::Raw,
            (false, "text") => IndexForm::Report(ReportFormat::Text),
            (false, "json" | "{{json .}}") => IndexForm::Report(ReportFormat::Json),
            (false, value) => return Err(Given { flag: "--format", value, expected: "text or json" }.invalid()),
        };
        let name = reference("NAME", &arguments.name)?.with_default_tag();
        Ok(InspectIndex { name, form, registries: registries(&arguments.registry, environment)? })
    }
}

fn lacks_tag(what: &str) -> InvalidRequest {
    InvalidRequest::Contradiction {
        problem: format!("{what} needs a name to push to"),
        hint: "name the index with --tag REGISTRY/NAME[:TAG], or look at it with --dry-run".to_owned(),
    }
}

/// One name for each repository of some names.
fn repositories(names: &[Reference]) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    for name in names {
        if !found.iter().any(|known| (known.registry(), known.repository()) == (name.registry(), name.repository())) {
            found.push(name.clone());
        }
    }
    found
}

/// A name, a digest, or a descriptor.
fn source(text: &str, repositories: &[Reference]) -> Result<Source, InvalidRequest> {
    let expected = "a name, a digest, or a descriptor in JSON";
    let given = Given { flag: "SOURCE", value: text, expected };
    let at = |digest: Digest| match repositories {
        [only] => {
            let name = format!("{}/{}@{digest}", only.registry(), only.repository());
            name.parse().map_err(|_| given.invalid())
        }
        [] => Err(given.because("a digest is looked for in the repository of --tag, and there is none")),
        _ => Err(given.because("a digest is looked for in the repository of --tag, and there are several")),
    };
    if text.starts_with('{') {
        let described: Described = serde_json::from_str(text).map_err(|error| given.because(&error.to_string()))?;
        let said = Said { platform: described.platform, annotations: described.annotations };
        return Ok(Source { reference: at(described.digest)?, said });
    }
    let reference = match text.parse::<Digest>() {
        Ok(digest) => at(digest)?,
        Err(_) => reference("SOURCE", text)?.with_default_tag(),
    };
    Ok(Source { reference, said: Said::default() })
}

/// What is read of a descriptor; type and size are the registry's to say.
#[derive(serde::Deserialize)]
struct Described {
    digest: Digest,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn index_annotations(texts: &[String]) -> Result<Annotations, InvalidRequest> {
    let mut found = Annotations::default();
    for one in annotations(texts)? {
        match one.target {
            AnnotationTarget::Index => drop(found.index.insert(one.key, one.value)),
            AnnotationTarget::ManifestDescriptor => found.entries.push((one.platform, one.key, one.value)),
            AnnotationTarget::Manifest | AnnotationTarget::IndexDescriptor => {
                return Err(InvalidRequest::Contradiction {
                    problem: format!("an index that is composed cannot put {} there", one.key),
                    hint: "put it on the index or its entries: index:KEY=VALUE, manifest-descriptor:KEY=VALUE"
                        .to_owned(),
                });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_names_digests_and_descriptors() {
        let digest = Digest::of(b"x");
        let repositories = ["r.test/a:1".parse().unwrap()];
        let read = |text: &str| source(text, &repositories).map(|source| source.reference.to_string());
        assert_eq!(read("r.test/b:2").unwrap(), "r.test/b:2");
        assert_eq!(read(&digest.to_string()).unwrap(), format!("r.test/a@{digest}"));
        let json = format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"arm64"}}}}"#);
        assert_eq!(read(&json).unwrap(), format!("r.test/a@{digest}"));
        assert_eq!(source(&json, &repositories).unwrap().said.platform, "linux/arm64".parse().ok());
        assert!(source(&json, &[]).unwrap_err().to_string().contains("there is none"));
        assert!(read("{}").is_err());
        assert!(read("no such name").is_err());
    }
}
