//! Which step comes next: a small pure queue, after cargo's `dependency_queue`.
//!
//! Contract: a step is handed out once, after all its inputs are done, the one with the most work behind it first.
//! It knows nothing of what steps do, of threads, or of time.

use std::collections::BinaryHeap;

/// Steps by number, each waiting for the inputs that are not done.
#[derive(Debug)]
pub struct Schedule {
    waiting_for: Vec<usize>,
    readers: Vec<Vec<usize>>,
    ready: BinaryHeap<(u64, std::cmp::Reverse<usize>)>,
    weights: Vec<u64>,
}

impl Schedule {
    /// Makes a queue of steps: `inputs[n]` are the steps that step `n` waits for, `weights[n]` how much lies behind it.
    ///
    /// Inputs must come before their readers, as a plan orders them.
    pub fn new(inputs: &[Vec<usize>], weights: &[u64]) -> Schedule {
        let mut readers = vec![Vec::new(); inputs.len()];
        let mut waiting_for = vec![0; inputs.len()];
        for (step, inputs) in inputs.iter().enumerate() {
            let mut distinct = inputs.clone();
            distinct.sort_unstable();
            distinct.dedup();
            for input in distinct {
                readers[input].push(step);
                waiting_for[step] += 1;
            }
        }
        let weights: Vec<u64> = (0..inputs.len()).map(|step| weights.get(step).copied().unwrap_or(0)).collect();
        let ready = (0..inputs.len())
            .filter(|step| waiting_for[*step] == 0)
            .map(|step| (weights[step], std::cmp::Reverse(step)))
            .collect();
        Schedule { waiting_for, readers, ready, weights }
    }

    /// Takes the next step that can run, if one can.
    pub fn next(&mut self) -> Option<usize> {
        self.ready.pop().map(|(_, std::cmp::Reverse(step))| step)
    }

    /// A step is done: steps that waited only for it can run.
    pub fn done(&mut self, step: usize) {
        for reader in std::mem::take(&mut self.readers[step]) {
            self.waiting_for[reader] -= 1;
            if self.waiting_for[reader] == 0 {
                self.ready.push((self.weights[reader], std::cmp::Reverse(reader)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_step_with_most_behind_it_comes_first() {
        let mut schedule = Schedule::new(&[vec![], vec![], vec![0, 1]], &[1, 5, 0]);
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(1), Some(0), None));
        schedule.done(1);
        assert_eq!(schedule.next(), None);
        schedule.done(0);
        assert_eq!(schedule.next(), Some(2));
    }

    proptest! {
        #[test]
        fn every_step_runs_once_and_after_its_inputs(edges in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 0..40)) {
            let inputs: Vec<Vec<usize>> = edges.iter().enumerate()
                .map(|(step, picks)| if step == 0 { vec![] } else { picks.iter().map(|pick| pick.index(step)).collect() })
                .collect();
            let mut schedule = Schedule::new(&inputs, &[]);
            let mut done = vec![false; inputs.len()];
            while let Some(step) = schedule.next() {
                prop_assert!(!done[step]);
                prop_assert!(inputs[step].iter().all(|input| done[*input]));
                done[step] = true;
                schedule.done(step);
            }
            prop_assert!(done.iter().all(|done| *done));
        }
    }
}
