//! The graph as a whole: what the result needs, and how long the way behind each step is.

use std::collections::BTreeSet;

use super::{CopyFrom, MountSource, Op, Plan, Step, StepId};

/// Drops the steps that the result does not wait for, and numbers the others again in the same order.
pub(super) fn prune(plan: Plan) -> Plan {
    let mut needed: BTreeSet<StepId> = BTreeSet::from([plan.result.step]);
    for step in plan.steps.iter().rev() {
        if needed.contains(&step.id) {
            needed.extend(&step.inputs);
        }
    }
    let kept: Vec<StepId> = needed.into_iter().collect();
    let renumber = |id: StepId| kept.binary_search(&id).ok().map(StepId::new);
    let all = |ids: &[StepId]| ids.iter().filter_map(|id| renumber(*id)).collect::<Vec<StepId>>();
    let mut plan = plan;
    plan.steps = plan
        .steps
        .into_iter()
        .filter_map(|step| {
            let id = renumber(step.id)?;
            let parent = step.parent.and_then(renumber);
            let inputs = all(&step.inputs);
            let op = with_sources(step.op, &|id| renumber(id).unwrap_or(id));
            Some(Step { id, parent, inputs, op, ..step })
        })
        .collect();
    plan.result.step = renumber(plan.result.step).unwrap_or(plan.result.step);
    for entry in &mut plan.result.history {
        entry.layer = entry.layer.and_then(renumber);
    }
    for stage in &mut plan.stages {
        stage.step = stage.step.and_then(renumber);
    }
    plan
}

/// Renames the steps that an operation reads from.
fn with_sources(mut op: Op, rename: &dyn Fn(StepId) -> StepId) -> Op {
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
        Op::Scratch | Op::Base(_) | Op::Workdir(_) => {}
    }
    op
}

/// A guess at how long an operation takes, in no unit: commands take longest, then what comes over a network. Exact
/// numbers matter little; the order in which ready steps are started is all that depends on them.
fn cost(op: &Op) -> u64 {
    match op {
        Op::Scratch => 0,
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
