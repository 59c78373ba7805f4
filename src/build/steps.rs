//! The steps of a plan in the form of BuildKit's LLB (`solver/pb/ops.proto`, as JSON), for people and programs that read
//! provenance.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Build;
use crate::attest::provenance::Step;
use crate::attest::redact::is_proxy;
use crate::executor::{Origin, ResolvedBase, Revision};
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;
use crate::plan::{
    BaseKey, CopyFrom, CopyInstruction, CopyOp, Mount, MountKind, MountSource, Network, Op, Plan, RunOp, Security,
    Sharing, Source, StepId, WorkdirOp,
};

/// No input: from nothing, as LLB has it.
const NOTHING: i64 = -1;

/// Writes steps down.
pub(super) struct Steps<'a> {
    build: &'a Build<'a>,
    plan: &'a Plan,
    bases: &'a BTreeMap<BaseKey, ResolvedBase>,
    platform: &'a Platform,
    written: Vec<Step>,
    /// The numbers of what was written; those that start from nothing have none.
    numbers: BTreeMap<StepId, usize>,
    /// The numbers of sources, by identifier.
    sources: BTreeMap<String, usize>,
}

/// The inputs of a step, each once.
#[derive(Default)]
struct Inputs(Vec<usize>);

impl Inputs {
    fn add(&mut self, step: usize) -> i64 {
        let place = self.0.iter().position(|known| *known == step).unwrap_or_else(|| {
            self.0.push(step);
            self.0.len() - 1
        });
        place as i64
    }

    fn add_optional(&mut self, step: Option<usize>) -> i64 {
        step.map_or(NOTHING, |step| self.add(step))
    }
}

/// The id of a secret or an agent: its own, else the name of its file, else `default`.
pub(super) fn id_of(mount: &Mount) -> String {
    let of_path = |path: &String| path.rsplit('/').next().map(str::to_owned);
    let id = mount.id.clone().filter(|id| !id.is_empty());
    match mount.kind {
        MountKind::Ssh => id.unwrap_or_else(|| "default".to_owned()),
        _ => {
            id.or_else(|| mount.source.clone()).or_else(|| mount.target.as_ref().and_then(of_path)).unwrap_or_default()
        }
    }
}

impl<'a> Steps<'a> {
    /// Will write the steps of a plan for a platform.
    pub(super) fn new(
        build: &'a Build<'a>,
        plan: &'a Plan,
        bases: &'a BTreeMap<BaseKey, ResolvedBase>,
        platform: &'a Platform,
    ) -> Steps<'a> {
        let (written, numbers, sources) = Default::default();
        Steps { build, plan, bases, platform, written, numbers, sources }
    }

    /// Writes the steps that an image is made of, and at last the image.
    pub(super) fn of(
        mut self,
        reached: &BTreeSet<StepId>,
        last: StepId,
        layers: &BTreeMap<StepId, Vec<Descriptor>>,
    ) -> Vec<Step> {
        for id in reached {
            let plan = self.plan;
            let step = plan.step(*id);
            let mut inputs = Inputs::default();
            let operation = match &step.op {
                Op::Scratch(_) => continue,
                Op::Base(key) => self.base(key),
                Op::Run(run) => self.run(step.parent, run, &mut inputs),
                Op::Copy(copy) => self.copy(step.parent, copy, &mut inputs),
                Op::Workdir(workdir) => self.workdir(step.parent, workdir, &mut inputs),
            };
            let source = self.build.source;
            let lines = (source.line(step.span.start), source.line(step.span.end.max(step.span.start + 1) - 1));
            self.numbers.insert(*id, self.written.len());
            let layers = layers.get(id).cloned().unwrap_or_default();
            self.written.push(Step { operation, inputs: inputs.0, lines: Some(lines), layers });
        }
        let inputs = self.numbers.get(&last).copied().into_iter().collect();
        self.written.push(Step { operation: json!({ "Op": null }), inputs, lines: None, layers: Vec::new() });
        self.written
    }

    fn operation(&self, kind: &str, content: Value) -> Value {
        let mut platform = json!({ "Architecture": self.platform.architecture, "OS": self.platform.os });
        if !self.platform.variant.is_empty() {
            platform["Variant"] = self.platform.variant.as_str().into();
        }
        json!({ "Op": { kind: content }, "platform": platform, "constraints": {} })
    }

    fn base(&self, key: &BaseKey) -> Value {
        let base = self.bases.get(key);
        let name = match &key.source {
            crate::plan::BaseSource::Image(reference) => {
                format!("docker-image://{}", base.map_or_else(|| reference.to_string(), |base| base.name.clone()))
            }
            crate::plan::BaseSource::OciLayout { path, .. } => {
                format!("oci-layout://{}", path.file_name().unwrap_or_default().to_string_lossy())
            }
        };
        let digest = base.and_then(|base| base.digest).filter(|_| !name.contains('@'));
        let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        self.operation("source", json!({ "identifier": format!("{name}{digest}") }))
    }

    /// The number of a source, which is written where it is read first.
    fn source(&mut self, identifier: String, attributes: Value) -> usize {
        if let Some(known) = self.sources.get(&identifier) {
            return *known;
        }
        let mut source = json!({ "identifier": identifier });
        if attributes.as_object().is_some_and(|attributes| !attributes.is_empty()) {
            source["attrs"] = attributes;
        }
        let operation = self.operation("source", source);
        let number = self.written.len();
        self.written.push(Step { operation, inputs: Vec::new(), lines: None, layers: Vec::new() });
        self.sources.insert(identifier, number);
        number
    }

    fn context(&mut self, name: Option<&String>) -> usize {
        let origins = &self.build.contexts.origins;
        let origin = match name {
            None => origins.main.clone(),
            Some(name) => origins.named.get(name).cloned(),
        };
        match origin {
            Some(Origin { address, revision: Revision::Commit(_) }) => self.repository(&address),
            Some(Origin { address, revision: Revision::File(_) }) => self.source(address, json!({})),
            None => self.source(format!("local://{}", name.map_or("context", String::as_str)), json!({})),
        }
    }

    fn repository(&mut self, address: &str) -> usize {
        let place = address.split_once("://").map_or(address, |(_, rest)| rest);
        self.source(format!("git://{place}"), json!({ "git.fullurl": address }))
    }

    fn number(&self, id: Option<StepId>) -> Option<usize> {
        self.numbers.get(&id?).copied()
    }

    fn run(&mut self, parent: Option<StepId>, run: &RunOp, inputs: &mut Inputs) -> Value {
        let root = inputs.add_optional(self.number(parent));
        let mut mounts = vec![json!({ "input": root, "dest": "/", "output": 0 })];
        let mut variables = Vec::new();
        for one in &run.mounts {
            if let (MountKind::Secret, Some(name)) = (one.mount.kind, &one.mount.env) {
                let id = id_of(&one.mount);
                let name = if name.is_empty() { id.clone() } else { name.clone() };
                variables.push(json!({ "ID": id, "name": name, "optional": !one.mount.required }));
                continue;
            }
            let input = match &one.source {
                MountSource::Context => inputs.add(self.context(None)),
                MountSource::NamedContext(name) => inputs.add(self.context(Some(name))),
                MountSource::Step(id) => inputs.add_optional(self.number(Some(*id))),
                MountSource::Empty => NOTHING,
            };
            mounts.push(mount(&one.mount, input));
        }
        let env: Vec<String> =
            run.env.iter().filter(|(name, _)| !is_proxy(name)).map(|(name, value)| format!("{name}={value}")).collect();
        let mut meta = json!({ "args": run.args, "env": env, "cwd": run.cwd });
        if !run.user.is_empty() {
            meta["user"] = run.user.as_str().into();
        }
        let mut exec = json!({ "meta": meta, "mounts": mounts });
        // Numbers of LLB's enumerations.
        match run.network {
            Network::Default => {}
            Network::Host => exec["network"] = 1.into(),
            Network::None => exec["network"] = 2.into(),
        }
        if run.security == Security::Insecure {
            exec["security"] = 1.into();
        }
        if !variables.is_empty() {
            exec["secretenv"] = variables.into();
        }
        self.operation("exec", exec)
    }

    fn copy(&mut self, parent: Option<StepId>, copy: &CopyOp, inputs: &mut Inputs) -> Value {
        let root = inputs.add_optional(self.number(parent));
        let from: Vec<i64> = copy
            .sources
            .iter()
            .map(|source| match source {
                Source::Path(_) => match &copy.from {
                    CopyFrom::Context => inputs.add(self.context(None)),
                    CopyFrom::NamedContext(name) => inputs.add(self.context(Some(name))),
                    CopyFrom::Step(id) => inputs.add_optional(self.number(Some(*id))),
                },
                Source::Url(url) => {
                    let checksum = copy.checksum.as_ref().map(|checksum| json!({ "http.checksum": checksum }));
                    let address = crate::registry::without_credentials(url);
                    inputs.add(self.source(address, checksum.unwrap_or_else(|| json!({}))))
                }
                Source::Git(reference) => inputs.add(self.repository(&reference.to_string())),
                Source::Inline { .. } => NOTHING,
            })
            .collect();
        let count = inputs.0.len() as i64;
        let last = copy.sources.len() - 1;
        let actions = copy.sources.iter().zip(from).enumerate().map(|(number, (source, from))| {
            // An action reads what the one before it made, which is counted behind the inputs.
            let input = if number == 0 { root } else { count + number as i64 - 1 };
            let output = if number == last { 0 } else { NOTHING };
            json!({ "input": input, "secondaryInput": from, "output": output, "Action": action(copy, source) })
        });
        self.operation("file", json!({ "actions": actions.collect::<Vec<_>>() }))
    }

    fn workdir(&mut self, parent: Option<StepId>, workdir: &WorkdirOp, inputs: &mut Inputs) -> Value {
        let input = inputs.add_optional(self.number(parent));
        let mkdir = json!({ "path": workdir.path, "mode": 0o755, "makeParents": true, "timestamp": -1 });
        let action = json!({ "input": input, "secondaryInput": NOTHING, "output": 0, "Action": { "mkdir": mkdir } });
        self.operation("file", json!({ "actions": [action] }))
    }
}

fn mount(mount: &Mount, input: i64) -> Value {
    let target = mount.target.as_deref().unwrap_or_default();
    let mut value = json!({ "input": input, "dest": target, "output": NOTHING });
    let optional = !mount.required;
    match mount.kind {
        MountKind::Bind => {
            value["readonly"] = mount.read_only.unwrap_or(true).into();
            if let Some(source) = &mount.source {
                value["selector"] = source.as_str().into();
            }
        }
        MountKind::Secret => {
            value["mountType"] = 1.into();
            value["secretOpt"] =
                json!({ "ID": id_of(mount), "mode": mount.mode.unwrap_or(0o400), "optional": optional });
        }
        MountKind::Ssh => {
            value["mountType"] = 2.into();
            value["SSHOpt"] = json!({ "ID": id_of(mount), "mode": mount.mode.unwrap_or(0o600), "optional": optional });
        }
        MountKind::Cache => {
            let sharing = match mount.sharing {
                Sharing::Shared => 0,
                Sharing::Private => 1,
                Sharing::Locked => 2,
            };
            value["mountType"] = 3.into();
            value["cacheOpt"] = json!({ "ID": mount.id.as_deref().unwrap_or(target), "sharing": sharing });
        }
        MountKind::Tmpfs => {
            value["mountType"] = 4.into();
            value["TmpfsOpt"] = json!({ "size": mount.size.unwrap_or(0) });
        }
    }
    value
}

fn action(copy: &CopyOp, source: &Source) -> Value {
    let path = match source {
        Source::Path(path) => path.clone(),
        Source::Url(_) | Source::Git(_) => "/".to_owned(),
        // What is in it, the Dockerfile says.
        Source::Inline { name, .. } => {
            let path = match copy.destination.ends_with('/') {
                true => format!("{}{name}", copy.destination),
                false => copy.destination.clone(),
            };
            return json!({ "mkfile": { "path": path, "mode": 0o644, "timestamp": -1 } });
        }
    };
    let mut value = json!({
        "src": path,
        "dest": copy.destination,
        "mode": NOTHING,
        "followSymlink": true,
        "dirCopyContents": true,
        "createDestPath": true,
        "allowWildcard": true,
        "allowEmptyWildcard": true,
        "timestamp": -1,
    });
    if copy.instruction == CopyInstruction::Add && copy.unpack != Some(false) {
        value["attemptUnpackDockerCompatibility"] = true.into();
    }
    if let Some(owner) = &copy.chown {
        let (user, group) = owner.split_once(':').map_or((owner.as_str(), None), |(user, group)| (user, Some(group)));
        value["owner"] = json!({ "user": account(user), "group": group.map(account) });
    }
    if let Some(mode) = &copy.chmod {
        match i64::from_str_radix(mode, 8) {
            Ok(mode) => value["mode"] = mode.into(),
            Err(_) => value["modeStr"] = mode.as_str().into(),
        }
    }
    if !copy.exclude.is_empty() {
        value["exclude_patterns"] = json!(copy.exclude);
    }
    value
}

fn account(name: &str) -> Value {
    match name.parse::<u32>() {
        Ok(id) => json!({ "User": { "byID": id } }),
        Err(_) => json!({ "User": { "byName": { "name": name } } }),
    }
}
