//! Threads that are used again: a new one for each step costs as much as the bookkeeping of a short RUN.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// A piece of work.
pub(super) type Job<'work> = Box<dyn FnOnce() + Send + 'work>;

/// As many threads as there were pieces of work at the same time.
#[derive(Default)]
pub(super) struct Crew<'work> {
    state: Mutex<State<'work>>,
    changed: Condvar,
}

/// Lets the threads go when it is dropped, whyever: their scope waits for them.
pub(super) struct Duty<'crew, 'work>(&'crew Crew<'work>);

impl Drop for Duty<'_, '_> {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.changed.notify_all();
    }
}

#[derive(Default)]
struct State<'work> {
    jobs: VecDeque<Job<'work>>,
    /// Threads that wait for work.
    idle: usize,
    /// No more work will come.
    over: bool,
}

impl<'work> Crew<'work> {
    fn state(&self) -> MutexGuard<'_, State<'work>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread do something at once: one that has nothing to do, else a new one.
    ///
    /// # Panics
    /// When no thread can be started, as `std::thread::spawn` does.
    pub(super) fn give<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, job: Job<'work>) {
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle {
            self.changed.notify_one();
            return;
        }
        drop(state);
        let name = "step".to_owned();
        std::thread::Builder::new().name(name).spawn_scoped(scope, || self.work()).expect("a thread can be started");
    }

    /// While this is kept, threads wait for more work.
    pub(super) fn on_duty(&self) -> Duty<'_, 'work> {
        Duty(self)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state();
            } else if state.over {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc::channel;
    use std::thread::{current, scope};

    use super::*;

    #[test]
    fn work_at_the_same_time_has_threads_of_its_own() {
        let meeting = std::sync::Barrier::new(3);
        let (sender, done) = channel();
        let crew = Crew::default();
        scope(|scope| {
            let _duty = crew.on_duty();
            for _ in 0..3 {
                let (sender, meeting) = (sender.clone(), &meeting);
                let meet = move || {
                    meeting.wait();
                    sender.send(current().id()).unwrap();
                };
                crew.give(scope, Box::new(meet));
            }
        });
        let threads: BTreeSet<String> = done.try_iter().map(|id| format!("{id:?}")).collect();
        assert_eq!(threads.len(), 3);
    }

    #[test]
    fn a_thread_that_waits_gets_the_next_work() {
        let (sender, done) = channel();
        let crew = Crew::default();
        let ids = scope(|scope| {
            let _duty = crew.on_duty();
            (0..20)
                .map(|_| {
                    let sender = sender.clone();
                    crew.give(scope, Box::new(move || sender.send(current().id()).unwrap()));
                    let id = done.recv().unwrap();
                    while crew.state().idle == 0 {
                        std::thread::yield_now();
                    }
                    id
                })
                .collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}
