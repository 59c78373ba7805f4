//! A plan on its way: which steps are done, which can be carried out, and what has failed.

use std::sync::Arc;

use super::layers::Wanted;
use super::schedule::Schedule;
use super::step::{self, Inputs};
use super::{ExecuteError, Services, StepOutput};
use crate::plan::{Op, Plan, StepId};
use crate::progress::{Outcome, Progress, Task};

/// How far a plan has been carried out. Steps are handed out and taken back by one thread.
pub(super) struct Course<'a> {
    plan: &'a Plan,
    services: &'a Services<'a>,
    schedule: Schedule,
    tasks: Vec<Option<Task>>,
    wanted: Vec<Wanted>,
    outputs: Vec<Option<Arc<StepOutput>>>,
    /// Commands that have not ended well yet.
    commands: usize,
    /// The first one.
    failure: Option<ExecuteError>,
}

impl<'a> Course<'a> {
    pub(super) fn new(plan: &'a Plan, services: &'a Services<'a>) -> Course<'a> {
        let inputs: Vec<Vec<usize>> =
            plan.steps.iter().map(|step| step.inputs.iter().map(|input| input.index()).collect()).collect();
        let course = Course {
            plan,
            services,
            schedule: Schedule::new(&inputs, &plan.critical_path_weights()),
            tasks: plan
                .steps
                .iter()
                // BuildKit shows no line for scratch either: there is nothing to do.
                .map(|step| (!matches!(step.op, Op::Scratch(_))).then(|| services.progress.task(step.title.clone())))
                .collect(),
            wanted: step::wanted(plan, services),
            outputs: vec![None; plan.steps.len()],
            commands: (0..plan.steps.len()).filter(|number| is_command(plan, *number)).count(),
            failure: None,
        };
        course.tell_time();
        course
    }

    fn goes_well(&self) -> bool {
        self.failure.is_none() && !self.services.cancel.is_cancelled()
    }

    fn tell_time(&self) {
        self.services.layers.early.set_time(self.goes_well() && self.commands == 0);
    }

    /// The next step that can be carried out: its number, and what carries it out.
    pub(super) fn next(
        &mut self,
    ) -> Option<(usize, impl FnOnce() -> Result<StepOutput, ExecuteError> + Send + use<'a>)> {
        if !self.goes_well() {
            return None;
        }
        let number = self.schedule.next()?;
        let (plan, services, id) = (self.plan, self.services, StepId::new(number));
        let known = Inputs::new(plan, id, &self.outputs, self.wanted[number]);
        let task = self.tasks[number].clone();
        let work = move || {
            let silent = Progress::silent().task("");
            step::run_step(plan, id, &known, services, task.as_ref().unwrap_or(&silent))
        };
        Some((number, work))
    }

    /// A step has ended.
    pub(super) fn ended(&mut self, number: usize, result: Result<StepOutput, ExecuteError>) {
        match result {
            Ok(output) => {
                self.commands -= usize::from(is_command(self.plan, number));
                self.outputs[number] = Some(Arc::new(output));
                self.schedule.done(number);
            }
            Err(error) => {
                let is_first = self.goes_well();
                if let Some(task) = &self.tasks[number] {
                    task.end(if is_first { Outcome::Failed(error.summary()) } else { Outcome::Canceled });
                }
                self.failure.get_or_insert(error);
                self.services.cancel.cancel();
            }
        }
        self.tell_time();
    }

    /// What all steps made.
    pub(super) fn finish(self) -> Result<Vec<Arc<StepOutput>>, ExecuteError> {
        match self.failure {
            Some(error) => Err(error),
            None if self.services.cancel.is_cancelled() => Err(ExecuteError::Cancelled),
            None => Ok(self.outputs.into_iter().map(|output| output.expect("every step is done")).collect()),
        }
    }
}

fn is_command(plan: &Plan, number: usize) -> bool {
    matches!(plan.steps[number].op, Op::Run(_))
}
