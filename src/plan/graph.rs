//! The graph as a whole: what the result needs, and how long the way behind each step is.

use std::collections::BTreeSet;

use super::{CopyFrom, MountSource, Op, Plan, Step, StepId};

/// Drops the steps that the result does not wait for, and numbers the others: in the order of the file as far as each
/// comes after what it waits for.
pub(super) fn prune(mut plan: Plan) -> Plan {
    let order = order(&plan.steps, plan.result.step);
    let mut numbers: Vec<Option<StepId>> = vec![None; plan.steps.len()];
    for (number, id) in order.iter().enumerate() {
        numbers[id.index()] = Some(StepId::new(number));
    }
    let renumber = |id: StepId| numbers[id.index()];
    let mut steps: Vec<Step> = plan
        .steps
        .into_iter()
        .filter_map(|step| {
            let mut inputs: Vec<StepId> = step.inputs.iter().filter_map(|id| renumber(*id)).collect();
            inputs.sort();
            let op = with_sources(step.op, &|id| renumber(id).unwrap_or(id));
            Some(Step { id: renumber(step.id)?, parent: step.parent.and_then(renumber), inputs, op, ..step })
        })
        .collect();
    steps.sort_by_key(|step| step.id);
    plan.steps = steps;
    plan.result.step = renumber(plan.result.step).unwrap_or(plan.result.step);
    for entry in &mut plan.result.history {
        entry.layer = entry.layer.and_then(renumber);
    }
    for stage in &mut plan.stages {
        stage.step = stage.step.and_then(renumber);
    }
    plan
}

/// The steps that one waits for, itself last; of those that are ready the one of the earliest stage goes first.
fn order(steps: &[Step], last: StepId) -> Vec<StepId> {
    let mut needed: BTreeSet<StepId> = BTreeSet::from([last]);
    for step in steps.iter().rev().filter(|step| step.id <= last) {
        if needed.contains(&step.id) {
            needed.extend(&step.inputs);
        }
    }
    let mut waiting: Vec<usize> = steps.iter().map(|step| step.inputs.len()).collect();
    let mut readers: Vec<Vec<StepId>> = vec![Vec::new(); steps.len()];
    for id in &needed {
        steps[id.index()].inputs.iter().for_each(|input| readers[input.index()].push(*id));
    }
    let rank = |id: StepId| (steps[id.index()].stage, id);
    let mut ready: BTreeSet<(usize, StepId)> =
        needed.iter().filter(|id| waiting[id.index()] == 0).map(|id| rank(*id)).collect();
    let mut order = Vec::with_capacity(needed.len());
    while let Some((_, id)) = ready.pop_first() {
        order.push(id);
        for reader in &readers[id.index()] {
            waiting[reader.index()] -= 1;
            if waiting[reader.index()] == 0 {
                ready.insert(rank(*reader));
            }
        }
    }
    order
}

/// Renames the steps that an operation reads from.
pub(super) fn with_sources(mut op: Op, rename: &dyn Fn(StepId) -> StepId) -> Op {
    match &mut op {
        Op::Copy(copy) => {
            if let CopyFrom::Step(id) = &mut copy.from {
                *id = rename(*id);
            }
        }
        Op::Run(run) => {
            for mount in &mut run.mounts {
                if let MountSource::Step(id) = &mut mount.source {
                    *id = rename(*id);
                }
            }
        }
        Op::Scratch(_) | Op::Base(_) | Op::Workdir(_) => {}
    }
    op
}

/// A guess at how long an operation takes, in no unit: commands take longest, then what comes over a network. Exact
/// numbers matter little; the order in which ready steps are started is all that depends on them.
fn cost(op: &Op) -> u64 {
    match op {
        Op::Scratch(_) => 0,
        Op::Workdir(_) => 1,
        Op::Copy(_) => 2,
        Op::Base(_) => 10,
        Op::Run(_) => 20,
    }
}

impl Plan {
    /// The longest path from the start of each step to the end of the build, by step index, for a scheduler that starts
    /// the largest first.
    pub fn critical_path_weights(&self) -> Vec<u64> {
        let mut behind = vec![0u64; self.steps.len()];
        for step in self.steps.iter().rev() {
            let weight = behind[step.id.index()] + cost(&step.op);
            behind[step.id.index()] = weight;
            for input in &step.inputs {
                let longest = &mut behind[input.index()];
                *longest = weight.max(*longest);
            }
        }
        behind
    }

    /// The steps that make a root file system, lowest first: the base, then each that continues it.
    pub fn lineage(&self, step: StepId) -> Vec<StepId> {
        let parent = |id: &StepId| self.step(*id).parent;
        let mut lineage: Vec<StepId> = std::iter::successors(Some(step), parent).collect();
        lineage.reverse();
        lineage
    }
}
