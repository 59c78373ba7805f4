//! How the images of a build came to be: the facts, taken from the plan and from what its steps turned out to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::assemble::Assembled;
use super::outputs::Exporter;
use super::steps::Steps;
use super::{Build, BuildError, Layering, Prepared};
use crate::attest::provenance::{Facts, Material, Need, Network, Wanted};
use crate::attest::purl;
use crate::attest::redact::Redaction;
use crate::digest::Digest;
use crate::executor::{Context, ExecuteError, Origin, Revision, SecretSource, StepOutput};
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::image::time::rfc3339;
use crate::plan::{self, BaseKey, BaseSource, CopyFrom, MountKind, MountSource, Op, Plan, Source, StageResult, StepId};
use crate::progress::Task;

/// What several images of a build have in common.
pub(super) struct Circumstances<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    pub(super) steps: &'a [std::sync::Arc<StepOutput>],
    /// When the build began and ended (RFC 3339).
    pub(super) times: [String; 2],
    /// What tells this build from others.
    pub(super) invocation: Option<String>,
}

impl<'a> Circumstances<'a> {
    /// Those of a build that ends now; one that is dated has no other times, and nothing that tells it from the next.
    pub(super) fn new(
        prepared: &'a Prepared<'a>,
        steps: &'a [std::sync::Arc<StepOutput>],
    ) -> Result<Circumstances<'a>, BuildError> {
        let (times, invocation) = match prepared.plan.epoch {
            Some(epoch) => ([rfc3339(epoch, None), rfc3339(epoch, None)], None),
            None => ([timestamp(prepared.started), timestamp(SystemTime::now())], Some(invocation()?)),
        };
        Ok(Circumstances { prepared, steps, times, invocation })
    }
}

impl Build<'_> {
    /// What is known of how one image came to be.
    pub(super) fn facts(
        &self,
        about: &Circumstances<'_>,
        result: &StageResult,
        image: &Assembled,
        task: &Task,
    ) -> Result<Facts, BuildError> {
        let plan = &about.prepared.plan;
        let reached = reached(plan, result.step);
        let layers = self.step_layers(about, result, image, task)?;
        let (secrets, agents) = wanted(plan, &reached);
        let runs = reached.iter().filter_map(|id| match &plan.step(*id).op {
            Op::Run(run) => Some(run.network),
            Op::Scratch(_) | Op::Base(_) | Op::Copy(_) | Op::Workdir(_) => None,
        });
        let network = match runs.into_iter().any(|network| network != plan::Network::None) {
            true => Network::Reachable,
            false => Network::None,
        };
        let platform = image.config.platform();
        let steps = Steps::new(self, plan, &about.prepared.bases, &platform);
        Ok(Facts {
            context: self.contexts.origins.main.as_ref().map(material),
            dockerfile: self.dockerfile_name(),
            arguments: self.arguments(),
            secrets,
            agents,
            locals: self.locals(plan, &reached),
            materials: self.materials(about, &reached),
            network,
            builder: Some(self.options.build_platform.clone()),
            repository: self.contexts.origins.repository.clone(),
            steps: steps.of(&reached, result.step, &layers),
            source: self.source.text.clone(),
            times: about.times.clone(),
            invocation: about.invocation.clone(),
            redaction: self.redaction(),
        })
    }

    /// What must be in no attestation.
    pub(super) fn redaction(&self) -> Redaction {
        let values: Vec<Vec<u8>> = self
            .execute
            .secrets
            .values()
            .filter_map(|source| match source {
                SecretSource::Value(value) => Some(value.clone()),
                SecretSource::File(path) => std::fs::read(path).ok(),
            })
            .collect();
        Redaction::of(values.iter().map(Vec::as_slice))
    }

    /// The Dockerfile's name in its context; where it is elsewhere on this machine nobody needs to know.
    fn dockerfile_name(&self) -> String {
        match self.source.name.as_str() {
            "-" => "Dockerfile".to_owned(),
            name if name.starts_with('/') => name.rsplit('/').next().unwrap_or(name).to_owned(),
            name => name.to_owned(),
        }
    }

    /// What the command line gave, by the names that BuildKit's frontend has for it; not `no-cache`, which changes how a
    /// result is had, and no result.
    fn arguments(&self) -> BTreeMap<String, String> {
        let mut arguments = BTreeMap::new();
        for (name, value) in &self.options.build_args {
            arguments.insert(format!("build-arg:{name}"), value.clone());
        }
        for (name, value) in &self.options.labels {
            arguments.insert(format!("label:{name}"), value.clone());
        }
        if let Some(target) = &self.options.target {
            arguments.insert("target".to_owned(), target.clone());
        }
        for (name, context) in &self.options.named_contexts {
            let value = match context {
                plan::NamedContext::Image(reference) => format!("docker-image://{reference}"),
                plan::NamedContext::OciLayout { .. } => format!("oci-layout:{name}"),
                plan::NamedContext::Directory(_) => format!("local:{name}"),
                plan::NamedContext::Git(address) | plan::NamedContext::Url(address) => self
                    .contexts
                    .origins
                    .named
                    .get(name)
                    .map_or_else(|| address.clone(), |origin| origin.address.clone()),
                plan::NamedContext::Target(stage) => format!("target:{stage}"),
            };
            arguments.insert(format!("context:{name}"), value);
        }
        arguments
    }

    /// The directories and archives of this machine that an image is made of. The Dockerfile is one where no context that
    /// was fetched has it.
    fn locals(&self, plan: &Plan, reached: &BTreeSet<StepId>) -> Vec<String> {
        let origins = &self.contexts.origins;
        let mut locals = BTreeSet::new();
        let mut read = |named: Option<&String>| match named {
            None if origins.main.is_none() && !matches!(self.contexts.main, Context::Empty) => {
                locals.insert("context".to_owned());
            }
            Some(name) if !origins.named.contains_key(name) => drop(locals.insert(name.clone())),
            None | Some(_) => {}
        };
        for id in reached {
            match &plan.step(*id).op {
                Op::Copy(copy) => match &copy.from {
                    CopyFrom::Context if copy.sources.iter().any(|source| matches!(source, Source::Path(_))) => {
                        read(None)
                    }
                    CopyFrom::NamedContext(name) => read(Some(name)),
                    CopyFrom::Context | CopyFrom::Step(_) => {}
                },
                Op::Run(run) => run.mounts.iter().for_each(|mount| match &mount.source {
                    MountSource::Context => read(None),
                    MountSource::NamedContext(name) => read(Some(name)),
                    MountSource::Step(_) | MountSource::Empty => {}
                }),
                Op::Scratch(_) | Op::Base(_) | Op::Workdir(_) => {}
            }
        }
        if origins.main.is_none() {
            locals.insert("dockerfile".to_owned());
        }
        locals.into_iter().collect()
    }

    /// What an image is made of that others can fetch: images, then repositories and files by address.
    fn materials(&self, about: &Circumstances<'_>, reached: &BTreeSet<StepId>) -> Vec<Material> {
        let (mut images, mut others) = (BTreeSet::new(), BTreeSet::new());
        others.extend(self.contexts.origins.main.as_ref().map(material));
        let named = |name: &String| self.contexts.origins.named.get(name).map(material);
        for id in reached {
            match &about.prepared.plan.step(*id).op {
                Op::Base(key) => drop(images.insert(image_material(key, about))),
                Op::Copy(copy) => {
                    if let CopyFrom::NamedContext(name) = &copy.from {
                        others.extend(named(name));
                    }
                    let checksum = copy.checksum.as_deref();
                    others.extend(copy.sources.iter().filter_map(|source| remote(source, checksum, about)));
                }
                Op::Run(run) => others.extend(run.mounts.iter().filter_map(|mount| match &mount.source {
                    MountSource::NamedContext(name) => named(name),
                    MountSource::Context | MountSource::Step(_) | MountSource::Empty => None,
                })),
                Op::Scratch(_) | Op::Workdir(_) => {}
            }
        }
        images.into_iter().chain(others).collect()
    }

    /// The layers of each step that makes the image, in the form that the first output has. Where they were made one,
    /// no step has any.
    fn step_layers(
        &self,
        about: &Circumstances<'_>,
        result: &StageResult,
        image: &Assembled,
        task: &Task,
    ) -> Result<BTreeMap<StepId, Vec<Descriptor>>, BuildError> {
        let is_told = self.attestations.provenance.as_ref().is_some_and(super::attestations::tells_steps);
        if self.layering == Layering::Squashed || !is_told {
            return Ok(BTreeMap::new());
        }
        let output = self.stored_output();
        let exporter = Exporter::of_index(&about.prepared.layers);
        let descriptor = |layer: &Digest| {
            let layer = exporter.layer(&output, layer, task)?;
            Ok(Descriptor::new(output.format.layer(layer.compression), layer.digest, layer.size))
        };
        let all = image.layers.iter().map(descriptor).collect::<Result<Vec<_>, BuildError>>()?;
        let count = |id: &StepId| about.steps[id.index()].layers.as_ref().map_or(0, Vec::len);
        let lineage = about.prepared.plan.lineage(result.step);
        Ok(lineage.iter().map(|id| (*id, all[..count(id).min(all.len())].to_vec())).collect())
    }
}

/// The steps that a step is made of, itself included.
pub(super) fn reached(plan: &Plan, last: StepId) -> BTreeSet<StepId> {
    let (mut reached, mut todo) = (BTreeSet::from([last]), vec![last]);
    while let Some(id) = todo.pop() {
        todo.extend(plan.step(id).inputs.iter().filter(|input| reached.insert(**input)));
    }
    reached
}

/// The secrets and the agents that commands ask for.
fn wanted(plan: &Plan, reached: &BTreeSet<StepId>) -> (Vec<Wanted>, Vec<Wanted>) {
    let (mut secrets, mut agents): (BTreeMap<String, Need>, BTreeMap<String, Need>) = Default::default();
    for id in reached {
        let Op::Run(run) = &plan.step(*id).op else { continue };
        for mount in &run.mounts {
            let of = match mount.mount.kind {
                MountKind::Secret => &mut secrets,
                MountKind::Ssh => &mut agents,
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => continue,
            };
            let need = if mount.mount.required { Need::Required } else { Need::Optional };
            let known = of.entry(super::steps::id_of(&mount.mount)).or_insert(need);
            *known = (*known).min(need);
        }
    }
    let list = |of: BTreeMap<String, Need>| of.into_iter().map(|(id, need)| Wanted { id, need }).collect();
    (list(secrets), list(agents))
}

fn image_material(key: &BaseKey, about: &Circumstances<'_>) -> Material {
    let base = about.prepared.bases.get(key);
    let (kind, reference) = match &key.source {
        BaseSource::Image(reference) => {
            let full = base.and_then(|base| base.name.parse::<Reference>().ok());
            (purl::Kind::Docker, Some(full.unwrap_or_else(|| reference.clone())))
        }
        // Where it lies on this machine is nobody's business.
        BaseSource::OciLayout { path, tag, .. } => {
            let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
            let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            (purl::Kind::Oci, name.and_then(|name| format!("{name}{tag}").parse().ok()))
        }
    };
    let uri = reference.map_or_else(|| "pkg:oci/layout".to_owned(), |name| purl::of_image(kind, &name, &key.platform));
    Material { uri, digest: base.and_then(|base| base.digest).map(|digest| ("sha256", digest.hex())) }
}

/// What is fetched by ADD. A step from the cache may have needed no look at it where its checksum is given.
fn remote(source: &Source, checksum: Option<&str>, about: &Circumstances<'_>) -> Option<Material> {
    let materials = &about.prepared.materials;
    match source {
        Source::Url(url) => {
            let address = crate::registry::without_credentials(url);
            let given = || checksum.and_then(|text| text.parse().ok()).map(Revision::File);
            let revision = materials.of(&address).or_else(given);
            Some(Material { uri: address, digest: revision.as_ref().map(digest) })
        }
        Source::Git(reference) => {
            let revision = materials.of(&reference.to_string());
            let revision = revision.or_else(|| reference.commit.clone().map(Revision::Commit));
            Some(Material { uri: reference.to_string(), digest: revision.as_ref().map(digest) })
        }
        Source::Path(_) | Source::Inline { .. } => None,
    }
}

fn material(origin: &Origin) -> Material {
    Material { uri: origin.address.clone(), digest: Some(digest(&origin.revision)) }
}

fn digest(revision: &Revision) -> (&'static str, String) {
    match revision {
        Revision::Commit(commit) if commit.len() == 64 => ("sha256", commit.clone()),
        Revision::Commit(commit) => ("sha1", commit.clone()),
        Revision::File(digest) => ("sha256", digest.hex()),
    }
}

fn timestamp(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(i64::try_from(since.as_secs()).unwrap_or(0), Some(since.subsec_nanos()))
}

/// 25 characters that no other build has, of the kind that BuildKit takes.
fn invocation() -> Result<String, BuildError> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| ExecuteError::Internal(format!("read random bytes: {error}")))?;
    let mut number = u128::from_le_bytes(bytes);
    let mut text = String::new();
    while text.len() < 25 {
        text.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    Ok(text)
}
