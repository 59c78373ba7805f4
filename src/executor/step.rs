//! One step: its key, the cache, and if that does not have it, the work.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::explain::{Nearest, Verdict};
use super::layers::Wanted;
use super::waiting::Shared;
use super::{ExecuteError, Foresight, NoCache, Purpose, Services, StepOutput, Times};
use crate::cache::miss::{self, FilesByIngredient};
use crate::cache::{Key, MissReason, Place, Planned, Seen, key};
use crate::digest::Digest;
use crate::plan::{BaseKey, CopyFrom, MountSource, Op, Plan, Step, StepId};
use crate::progress::{Outcome, Task};
use crate::store::{Lock, SlotRecord, StepRecord};

/// The results that a step waits for.
pub(super) struct Inputs {
    outputs: BTreeMap<StepId, Arc<StepOutput>>,
    wanted: Wanted,
}

impl Inputs {
    /// Takes what a step needs of what is done.
    pub(super) fn new(plan: &Plan, id: StepId, outputs: &[Option<Arc<StepOutput>>], wanted: Wanted) -> Inputs {
        let done = |input: &StepId| Some((*input, Arc::clone(outputs[input.index()].as_ref()?)));
        Inputs { outputs: plan.step(id).inputs.iter().filter_map(done).collect(), wanted }
    }
}

/// Which forms of each step's layer will be needed, as far as the plan tells: a tree where a later command or copy looks
/// into it, a blob where it is part of the result.
pub(super) fn wanted(plan: &Plan, services: &Services<'_>) -> Vec<Wanted> {
    let mut wanted = vec![Wanted { blob: None, tree: false }; plan.steps.len()];
    for result in plan.results() {
        for id in plan.lineage(result.step) {
            wanted[id.index()].blob = services.options.blob;
        }
    }
    for step in plan.steps.iter().rev() {
        let mut looked_into = Vec::new();
        match &step.op {
            Op::Run(run) => {
                looked_into.extend(step.parent);
                looked_into.extend(run.mounts.iter().filter_map(|mount| match mount.source {
                    MountSource::Step(id) => Some(id),
                    MountSource::Context | MountSource::NamedContext(_) | MountSource::Empty => None,
                }));
            }
            Op::Copy(copy) => looked_into.extend(match copy.from {
                CopyFrom::Step(id) => Some(id),
                CopyFrom::Context | CopyFrom::NamedContext(_) => None,
            }),
            Op::Scratch(_) | Op::Base(_) | Op::Workdir(_) => {}
        }
        if wanted[step.id.index()].tree {
            looked_into.extend(step.parent);
        }
        for id in looked_into {
            wanted[id.index()].tree = true;
        }
    }
    wanted
}

/// Everything that one step has to do with.
pub(super) struct Work<'a> {
    pub(super) plan: &'a Plan,
    pub(super) step: &'a Step,
    pub(super) services: &'a Services<'a>,
    pub(super) task: &'a Task,
    inputs: &'a Inputs,
}

/// A result that was found.
struct Hit {
    record: StepRecord,
    /// The cache elsewhere that has it; none where the store has.
    from: Option<String>,
}

/// The work that a step is where the cache does not have its result.
pub(super) trait Make {
    /// How the files that it reads differ from those that an earlier step read.
    fn changes(&self, before: &SlotRecord) -> FilesByIngredient;

    /// A layer that is there, found by what it would hold.
    fn found(&self) -> Result<Option<StepRecord>, ExecuteError>;

    /// The new layer.
    fn make(self) -> Result<Digest, ExecuteError>;
}

/// Work that reads no files.
impl<F: FnOnce() -> Result<Digest, ExecuteError>> Make for F {
    fn changes(&self, _before: &SlotRecord) -> FilesByIngredient {
        FilesByIngredient::new()
    }

    fn found(&self) -> Result<Option<StepRecord>, ExecuteError> {
        Ok(None)
    }

    fn make(self) -> Result<Digest, ExecuteError> {
        self()
    }
}

/// Carries one step out.
pub(super) fn run_step(
    plan: &Plan,
    id: StepId,
    inputs: &Inputs,
    services: &Services<'_>,
    task: &Task,
) -> Result<StepOutput, ExecuteError> {
    let step = plan.step(id);
    let work = Work { plan, step, services, task, inputs };
    match &step.op {
        Op::Scratch(platform) => {
            let key = work.begun(key::scratch(platform).digest);
            Ok(StepOutput { key, layers: Some(Vec::new()), added: None })
        }
        Op::Base(base) => work.base(base),
        Op::Run(op) => work.run(op),
        Op::Copy(op) => work.transfer(op),
        Op::Workdir(op) => work.workdir(op),
    }
}

impl Planned for Work<'_> {
    fn at(&self, ordinal: usize) -> Option<&str> {
        self.stage_texts().nth(ordinal).map(|(_, text)| text)
    }

    fn any(&self, text: &str) -> bool {
        self.plan.steps.iter().any(|step| step.text() == text)
    }
}

impl Work<'_> {
    /// The root file system that the step continues.
    pub(super) fn parent(&self) -> Result<&StepOutput, ExecuteError> {
        let parent = self.step.parent.ok_or_else(|| ExecuteError::internal("the step continues nothing"))?;
        self.output(parent)
    }

    fn output(&self, id: StepId) -> Result<&StepOutput, ExecuteError> {
        let missing = || match self.services.purpose {
            Purpose::Build => ExecuteError::internal("the step does not wait for what it reads"),
            Purpose::Explain(_) => ExecuteError::NotMade(id),
        };
        self.inputs.outputs.get(&id).map(Arc::as_ref).ok_or_else(missing)
    }

    /// Takes a lock that others may hold for long.
    pub(super) fn wait_for(&self, shared: Shared, name: &Digest) -> Result<Lock, ExecuteError> {
        shared.lock(name, self.services.layers.store, self.task, Some(self.services.cancel))
    }

    /// The layers of a step that this one waits for.
    pub(super) fn layers_of(&self, id: StepId) -> Result<&[Digest], ExecuteError> {
        self.output(id)?.layers.as_deref().ok_or(ExecuteError::NotMade(id))
    }

    /// The layers of the root file system that the step continues.
    pub(super) fn below(&self) -> Result<&[Digest], ExecuteError> {
        let parent = self.step.parent.ok_or_else(|| ExecuteError::internal("the step continues nothing"))?;
        self.layers_of(parent)
    }

    /// Which forms of the layer will be needed.
    pub(super) fn wanted(&self) -> Wanted {
        self.inputs.wanted
    }

    fn stage_name(&self) -> &str {
        &self.plan.stages[self.step.stage].name
    }

    /// What the steps of the stage do, for the same platforms.
    fn stage_texts(&self) -> impl Iterator<Item = (StepId, &str)> {
        let of_stage = |other: &&Step| other.stage == self.step.stage && other.platforms == self.step.platforms;
        self.plan.steps.iter().filter(of_stage).map(|step| (step.id, step.text()))
    }

    pub(super) fn place(&self) -> Place<'_> {
        let earlier = self.stage_texts().take_while(|(id, _)| *id < self.step.id);
        let after = self.step.parent.map_or("", |parent| self.plan.step(parent).text());
        // What all of the build's platforms share has the place that it has in a build for one.
        let is_shared = self.step.platforms.len() == self.plan.results().count();
        let platforms = if is_shared { &[] } else { self.step.platforms.as_slice() };
        Place { stage: self.stage_name(), text: self.step.text(), ordinal: earlier.count(), platforms, after }
    }

    /// What the same step, or the one that it takes the place of, looked like.
    pub(super) fn before(&self) -> Result<Option<SlotRecord>, ExecuteError> {
        Ok(self.services.cache.before(self.place(), self)?)
    }

    /// A key with what else a miss can be explained with.
    pub(super) fn in_words(&self, key: Key) -> Key {
        let reproducible = match self.services.options.times {
            Times::Real => key::Switch::Off,
            Times::Steady => key::Switch::On,
        };
        let mut step = self.step;
        while let Some(parent) = step.parent {
            step = self.plan.step(parent);
        }
        match &step.op {
            Op::Scratch(platform) | Op::Base(BaseKey { platform, .. }) => key.with_settings(platform, reproducible),
            Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => key,
        }
    }

    pub(super) fn may_use_cache(&self) -> bool {
        match &self.services.options.no_cache {
            NoCache::UseCache => true,
            NoCache::All => false,
            NoCache::Stages(names) => {
                let stage = self.step.ignore_cache_name.as_deref();
                !names.iter().any(|name| stage.is_some_and(|stage| stage.eq_ignore_ascii_case(name)))
            }
        }
    }

    /// The record of a key whose layer can still be had.
    pub(super) fn find(&self, key: &Digest) -> Result<Option<StepRecord>, ExecuteError> {
        if !self.may_use_cache() {
            return Ok(self.services.cache.made_anew(key));
        }
        let layers = self.services.layers;
        Ok(self.services.cache.find(key, |layer, record| layers.is_available(layer, record))?)
    }

    /// As [`Work::find`], else what a cache elsewhere has. Its layer is taken over, not fetched.
    fn find_anywhere(&self, key: &Digest) -> Result<Option<Hit>, ExecuteError> {
        if let Some(record) = self.find(key)? {
            return Ok(Some(Hit { record, from: None }));
        }
        let Some(found) = self.services.remote.step(key).filter(|_| self.may_use_cache()) else { return Ok(None) };
        if let Purpose::Build = self.services.purpose {
            self.services.layers.take_over(&found)?;
            self.services.cache.keep(key, &found.record)?;
        }
        Ok(Some(Hit { from: Some(found.storage.name()), record: found.record }))
    }

    /// Takes a step's result from a cache whose key is known before what it reads is looked into.
    pub(super) fn settle_known(&self, key: &Key, chain: Digest) -> Result<Option<StepOutput>, ExecuteError> {
        match self.find_anywhere(&key.digest)? {
            Some(hit) => self.hit(key, chain, hit).map(Some),
            None => Ok(None),
        }
    }

    /// Takes a step's result from the cache, or says why that is not possible, makes it and keeps it.
    ///
    /// `chain` is what stands for the resulting root file system.
    pub(super) fn settle(&self, key: &Key, chain: Digest, make: impl Make) -> Result<StepOutput, ExecuteError> {
        let cache = &self.services.cache;
        if let Some(output) = self.settle_known(key, chain)? {
            return Ok(output);
        }
        if let Purpose::Explain(foresight) = self.services.purpose {
            return self.foresee(key, chain, make, foresight);
        }
        // Whoever makes the same now, in this process or another, is waited for, and its result is ours.
        let _lock = self.wait_for(Shared::Step, &key.digest)?;
        if let Some(record) = self.find(&key.digest)? {
            return self.hit(key, chain, Hit { record, from: None });
        }
        self.task.start();
        let reason = self.reason(self.before()?.as_ref(), key, &make);
        let tell = || self.task.note(format!("cache miss: {reason}"));
        // What fails when it is placed has missed the cache, too.
        let found = make.found().inspect_err(|_| tell())?;
        let (record, outcome) = match found {
            Some(record) => {
                if let Some(other) = other_than_before(reason) {
                    self.task.note(format!("the same files were copied before; other than then: {other}"));
                }
                (record, Outcome::Cached)
            }
            None => {
                tell();
                let layer = make.make()?;
                let created = super::timestamp(self.services.options);
                (StepRecord { layer, title: self.step.title.clone(), created }, Outcome::Done)
            }
        };
        match self.may_use_cache() {
            true => cache.keep(&key.digest, &record)?,
            false => cache.keep_anew(&key.digest, &record)?,
        }
        cache.remember(self.place(), key, Some(record.layer), Seen::Anew)?;
        self.services.remote.note_step(self.step.id.index(), key.digest, &record);
        self.task.end(outcome);
        self.extend(chain, record)
    }

    /// Why a key is not in the cache.
    fn reason(&self, before: Option<&SlotRecord>, key: &Key, make: &impl Make) -> MissReason {
        match self.may_use_cache() {
            true => miss::explain(before, key, self.place(), |before| make.changes(before)),
            false => MissReason::Disabled,
        }
    }

    /// Notes what would be done, and goes on with the key that the result would have.
    fn foresee(
        &self,
        key: &Key,
        chain: Digest,
        make: impl Make,
        foresight: &Foresight,
    ) -> Result<StepOutput, ExecuteError> {
        let before = self.before()?;
        let reason = self.reason(before.as_ref(), key, &make);
        // What goes wrong here goes wrong in the step itself, which runs.
        let found = match make.found() {
            Err(ExecuteError::Cancelled) => return Err(ExecuteError::Cancelled),
            found => found.ok().flatten(),
        };
        if let Some(record) = found {
            let (layer, created) = (record.layer, record.created.clone());
            foresight.note(
                self.step.id,
                key,
                Verdict::Cached { layer, created, from: None, other: other_than_before(reason) },
            );
            return self.extend(chain, record);
        }
        let nearest = match before {
            Some(before) => Some(Nearest { key: before.key, created: self.services.cache.created(&before.key)? }),
            None => None,
        };
        foresight.note(self.step.id, key, Verdict::Runs { reason, nearest });
        Ok(StepOutput { key: chain, layers: None, added: None })
    }

    fn hit(&self, key: &Key, chain: Digest, hit: Hit) -> Result<StepOutput, ExecuteError> {
        let Hit { record, from } = hit;
        match self.services.purpose {
            Purpose::Build => {
                self.task.start();
                if let Some(cache) = from {
                    self.task.note(format!("found in the cache {cache}"));
                }
                self.services.remote.note_step(self.step.id.index(), key.digest, &record);
                self.services.cache.remember(self.place(), key, Some(record.layer), Seen::Again)?;
                self.task.end(Outcome::Cached);
            }
            Purpose::Explain(foresight) => {
                let verdict =
                    Verdict::Cached { layer: record.layer, created: record.created.clone(), from, other: None };
                foresight.note(self.step.id, key, verdict);
            }
        }
        self.extend(chain, record)
    }

    fn extend(&self, chain: Digest, record: StepRecord) -> Result<StepOutput, ExecuteError> {
        let layers = self.parent()?.layers.as_ref().map(|below| {
            let mut layers = below.clone();
            layers.push(record.layer);
            layers
        });
        Ok(StepOutput { key: chain, layers, added: Some((record.layer, record.created)) })
    }
}

/// What is other although the same files are copied: why the steps after it are not in the cache. None where nothing is
/// known of before, or all that was found was made a moment ago.
fn other_than_before(reason: MissReason) -> Option<MissReason> {
    match reason {
        MissReason::First | MissReason::Disabled | MissReason::Removed => None,
        MissReason::Replaced { .. }
        | MissReason::NotNoted
        | MissReason::Parent
        | MissReason::Order { .. }
        | MissReason::Changed(_) => Some(reason),
    }
}
