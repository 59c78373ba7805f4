//! SLSA provenance: how an image came to be, in the words of BuildKit (`solver/llbsolver/provenance`, documented in its
//! `docs/attestations/slsa-definitions.md`), whose readers shall find here what they find there.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::redact::{Redaction, is_proxy};
use super::{Attestation, Reach, SLSA_V1, SLSA_V02};
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;

/// What the fields mean.
const BUILD_TYPE_V1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// What is asked of a provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How much is said.
    pub mode: Mode,
    /// In which version of SLSA's form.
    pub version: Version,
    /// Who built, where somebody says so.
    pub builder_id: String,
    /// The file that it is in beside plain files.
    pub file: String,
    /// Which outputs it goes into.
    pub reach: Reach,
    /// Whether the user says that the image would come out the same again (`reproducible=true`).
    pub claim: Claim,
    /// Whether all that was built from has to be known (`complete-materials=true`).
    pub materials: Materials,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::Max,
            version: Version::V1,
            builder_id: String::new(),
            file: "provenance.json".to_owned(),
            reach: Reach::Everywhere,
            claim: Claim::Nothing,
            materials: Materials::AsKnown,
        }
    }
}

/// How much a provenance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What was built from, and when; nothing that the command line gave.
    Min,
    /// All: arguments, ids of secrets, steps, the Dockerfile.
    Max,
}

/// Versions of SLSA's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// v1.
    V1,
    /// v0.2.
    V02,
}

/// What the user claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing.
    Nothing,
    /// The image would come out the same again.
    Reproducible,
}

/// What has to be known of what was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Materials {
    /// What is.
    AsKnown,
    /// All, or the build fails.
    Complete,
}

/// What is known of the build of one image.
#[derive(Clone, Default)]
pub struct Facts {
    /// The context that was fetched, where it was.
    pub context: Option<Material>,
    /// The Dockerfile's name in its context.
    pub dockerfile: String,
    /// What the command line gave, by the names that BuildKit's frontend has for it: `build-arg:NAME`, `target`.
    pub arguments: BTreeMap<String, String>,
    /// Secrets that steps ask for.
    pub secrets: Vec<Wanted>,
    /// Agents that steps ask for.
    pub agents: Vec<Wanted>,
    /// Directories of this machine that were read, by name: what is in them is not known elsewhere.
    pub locals: Vec<String>,
    /// What was built from.
    pub materials: Vec<Material>,
    /// Whether commands could reach a network.
    pub network: Network,
    /// The machine.
    pub builder: Option<Platform>,
    /// What the context's repository says about it: `source`, `revision`.
    pub repository: BTreeMap<String, String>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The Dockerfile's text.
    pub source: String,
    /// When the build began and ended (RFC 3339).
    pub times: [String; 2],
    /// What tells this build from others.
    pub invocation: Option<String>,
    /// What must not be said.
    pub redaction: Redaction,
}

/// Whether commands could reach a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// None could.
    #[default]
    None,
    /// Some could.
    Reachable,
}

/// A secret or an agent that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Its id.
    pub id: String,
    /// Whether the step can do without it.
    pub need: Need,
}

/// Whether something can be done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It cannot.
    Required,
    /// It can.
    Optional,
}

/// Something that was built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// Where it is.
    pub uri: String,
    /// Algorithm and digest, where known.
    pub digest: Option<(&'static str, String)>,
}

/// A step, in the form of BuildKit's LLB.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is done.
    pub operation: Value,
    /// The steps that it reads, by number.
    pub inputs: Vec<usize>,
    /// Its first and last line in the Dockerfile.
    pub lines: Option<(usize, usize)>,
    /// The layers of what it makes, lowest first, where they are layers of the image.
    pub layers: Vec<Descriptor>,
}

impl Facts {
    /// Whether it is known what all was built from.
    pub fn is_complete(&self) -> bool {
        self.locals.is_empty()
    }
}

/// Says what is known, as far as it is asked for, and nothing that must not be said.
pub fn attestation(options: &Options, facts: &Facts) -> Attestation {
    let said = Said::new(options, facts);
    let (predicate_type, predicate) = match options.version {
        Version::V1 => (SLSA_V1, said.version_1()),
        Version::V02 => (SLSA_V02, said.version_02()),
    };
    let (file, reach) = (options.file.clone(), options.reach);
    Attestation { predicate_type: predicate_type.to_owned(), predicate, file, reach }
}

/// What a metadata file says of provenance: always in the form of v0.2, as buildx writes it; with `Mode::Min` without
/// steps and times.
pub fn for_metadata(options: &Options, facts: &Facts) -> Value {
    let options = Options { version: Version::V02, ..options.clone() };
    let mut predicate = Said::new(&options, facts).version_02();
    if let (Mode::Min, Value::Object(fields)) = (options.mode, &mut predicate) {
        fields.remove("buildConfig");
        fields.remove("metadata");
    }
    predicate
}

/// The parts that both versions are made of.
struct Said<'a> {
    options: &'a Options,
    facts: &'a Facts,
    request: Value,
    /// Whether all arguments are in the request.
    whole_request: bool,
}

impl<'a> Said<'a> {
    fn new(options: &'a Options, facts: &'a Facts) -> Said<'a> {
        let is_hidden =
            |name: &str| options.mode == Mode::Min && (name.starts_with("build-arg:") || name.starts_with("label:"));
        let is_said = |name: &str| !name.strip_prefix("build-arg:").is_some_and(is_proxy);
        let arguments: BTreeMap<&String, &String> =
            facts.arguments.iter().filter(|(name, _)| is_said(name) && !is_hidden(name)).collect();
        let whole_request = !facts.arguments.keys().any(|name| is_hidden(name));
        let mut request = Map::new();
        request.insert("frontend".to_owned(), "dockerfile.v0".into());
        if !arguments.is_empty() {
            request.insert("args".to_owned(), json!(arguments));
        }
        if options.mode == Mode::Max {
            for (name, wanted) in [("secrets", &facts.secrets), ("ssh", &facts.agents)] {
                if !wanted.is_empty() {
                    request.insert(name.to_owned(), wanted.iter().map(Wanted::value).collect());
                }
            }
        }
        if !facts.locals.is_empty() {
            let locals = facts.locals.iter().map(|name| json!({ "name": name }));
            request.insert("locals".to_owned(), locals.collect());
        }
        Said { options, facts, request: request.into(), whole_request }
    }

    fn version_1(&self) -> Value {
        let facts = self.facts;
        let mut definition = json!({
            "buildType": BUILD_TYPE_V1,
            "externalParameters": { "configSource": self.config_source("path"), "request": self.request },
            "internalParameters": { "builderPlatform": self.builder() },
        });
        if let Some(config) = self.build_config() {
            definition["internalParameters"]["buildConfig"] = config;
        }
        if !facts.materials.is_empty() {
            definition["resolvedDependencies"] = facts.materials.iter().map(Material::value).collect();
        }
        let mut metadata = json!({
            "startedOn": facts.times[0],
            "finishedOn": facts.times[1],
            "buildkit_metadata": self.metadata(),
            "buildkit_completeness": { "request": self.whole_request, "resolvedDependencies": facts.is_complete() },
        });
        if let Some(invocation) = &facts.invocation {
            metadata["invocationId"] = invocation.as_str().into();
        }
        for (name, holds) in
            [("buildkit_hermetic", self.is_hermetic()), ("buildkit_reproducible", self.is_reproducible())]
        {
            if holds {
                metadata[name] = true.into();
            }
        }
        facts.redaction.apply(json!({
            "buildDefinition": definition,
            "runDetails": {
                "builder": { "id": self.options.builder_id, "version": { "rbuild": env!("CARGO_PKG_VERSION") } },
                "metadata": metadata,
            },
        }))
    }

    fn version_02(&self) -> Value {
        let facts = self.facts;
        let mut metadata = json!({
            "buildStartedOn": facts.times[0],
            "buildFinishedOn": facts.times[1],
            "completeness": {
                "parameters": self.whole_request, "environment": true, "materials": facts.is_complete(),
            },
            "reproducible": self.is_reproducible(),
            "https://mobyproject.org/buildkit@v1#metadata": self.metadata(),
        });
        if let Some(invocation) = &facts.invocation {
            metadata["buildInvocationID"] = invocation.as_str().into();
        }
        if self.is_hermetic() {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = true.into();
        }
        let mut predicate = json!({
            "builder": { "id": self.options.builder_id },
            "buildType": BUILD_TYPE_V02,
            "invocation": {
                "configSource": self.config_source("entryPoint"),
                "parameters": self.request,
                "environment": { "platform": self.builder() },
            },
            "metadata": metadata,
        });
        if !facts.materials.is_empty() {
            predicate["materials"] = facts.materials.iter().map(Material::value).collect();
        }
        if let Some(config) = self.build_config() {
            predicate["buildConfig"] = config;
        }
        facts.redaction.apply(predicate)
    }

    fn builder(&self) -> String {
        self.facts.builder.clone().unwrap_or_else(Platform::host).to_string()
    }

    fn is_hermetic(&self) -> bool {
        self.facts.is_complete() && self.facts.network == Network::None
    }

    fn is_reproducible(&self) -> bool {
        self.options.claim == Claim::Reproducible
    }

    fn config_source(&self, path: &str) -> Value {
        let mut source = self.facts.context.as_ref().map_or_else(|| json!({}), Material::value);
        source[path] = self.facts.dockerfile.as_str().into();
        source
    }

    fn build_config(&self) -> Option<Value> {
        if self.options.mode == Mode::Min {
            return None;
        }
        let step = |(number, step): (usize, &Step)| {
            let mut value = json!({ "id": format!("step{number}"), "op": step.operation });
            if !step.inputs.is_empty() {
                value["inputs"] = step.inputs.iter().map(|input| format!("step{input}:0")).collect();
            }
            value
        };
        let steps: Vec<Value> = self.facts.steps.iter().enumerate().map(step).collect();
        Some(json!({ "llbDefinition": steps }))
    }

    /// What BuildKit says beyond SLSA's form.
    fn metadata(&self) -> Value {
        let mut metadata = json!({});
        if !self.facts.repository.is_empty() {
            metadata["vcs"] = json!(self.facts.repository);
        }
        if self.options.mode == Mode::Min {
            return metadata;
        }
        let (mut locations, mut layers) = (Map::new(), Map::new());
        for (number, step) in self.facts.steps.iter().enumerate() {
            if let Some((first, last)) = step.lines {
                let range = json!({ "start": { "line": first }, "end": { "line": last } });
                locations.insert(format!("step{number}"), json!({ "locations": [{ "ranges": [range] }] }));
            }
            if !step.layers.is_empty() {
                layers.insert(format!("step{number}:0"), json!([step.layers]));
            }
        }
        // Encoded it could not be looked through any more.
        let text = self.facts.redaction.text(&self.facts.source);
        let info =
            json!({ "filename": self.facts.dockerfile, "language": "Dockerfile", "data": STANDARD.encode(text) });
        metadata["source"] = json!({ "locations": locations, "infos": [info] });
        if !layers.is_empty() {
            metadata["layers"] = layers.into();
        }
        metadata
    }
}

impl Material {
    fn value(&self) -> Value {
        let mut value = json!({ "uri": self.uri });
        if let Some((algorithm, digest)) = &self.digest {
            value["digest"] = json!({ *algorithm: digest });
        }
        value
    }
}

impl Wanted {
    fn value(&self) -> Value {
        match self.need {
            Need::Required => json!({ "id": self.id }),
            Need::Optional => json!({ "id": self.id, "optional": true }),
        }
    }
}

#[cfg(test)]
mod tests;
