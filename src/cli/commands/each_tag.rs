//! `--all-tags`: one after the other, whatever becomes of the others, and a report of each. What no other tag would escape
//! (a wrong password, a full disk) ends it.

use super::print;
use crate::cli::failure::{Extent, Failure, FailureKind};
use crate::digest::Digest;
use crate::image::reference::Reference;

/// What became of some tags.
#[derive(Default)]
pub(super) struct EachTag {
    done: Vec<(Digest, Reference)>,
    failed: Vec<(Reference, Failure)>,
    /// How many were left when going on had no sense.
    left: usize,
}

impl EachTag {
    /// Does something to each of some names.
    pub(super) fn of(
        names: impl IntoIterator<Item = Reference>,
        mut work: impl FnMut(&Reference) -> Result<Digest, Failure>,
    ) -> EachTag {
        let mut each = EachTag::default();
        let mut names = names.into_iter();
        while let Some(name) = names.next() {
            match work(&name) {
                Ok(digest) => each.done.push((digest, name)),
                Err(failure) => {
                    let is_last = failure.extent == Extent::Others;
                    each.failed.push((name, failure));
                    if is_last {
                        each.left = names.by_ref().count();
                    }
                }
            }
        }
        each
    }

    /// Prints the digest of each with its name; tells those that failed, each with its reason. `done` is what was to be
    /// done to them ("pushed").
    pub(super) fn report(self, done: &str) -> Result<(), Failure> {
        print(&self.done.iter().map(|(digest, name)| format!("{digest} {}\n", name.familiar())).collect::<String>())?;
        self.failure(done).map_or(Ok(()), Err)
    }

    fn failure(self, done: &str) -> Option<Failure> {
        if self.failed.is_empty() {
            return None;
        }
        let (failed, all) = (self.failed.len(), self.failed.len() + self.done.len() + self.left);
        let was = |count: usize| if count == 1 { "was" } else { "were" };
        let mut message = format!("{failed} of {all} tags {} not {done}", was(failed));
        if self.left > 0 {
            message.push_str(&format!("; {} {} not tried", self.left, was(self.left)));
        }
        let mut failure = Failure::new(FailureKind::Other, message);
        for (name, reason) in self.failed {
            let who = Some(name.familiar()).filter(|name| !reason.message.contains(name.as_str()));
            let why: Vec<String> = who.into_iter().chain([reason.message]).chain(reason.causes).collect();
            failure.causes.push(why.join(": "));
            let new = reason.hints.into_iter().filter(|hint| !failure.hints.contains(hint));
            let new: Vec<String> = new.collect();
            failure.hints.extend(new);
        }
        Some(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryError;

    fn tried(failing: &str, failure: &Failure) -> (Vec<String>, String) {
        let names = ["1", "2", "3", "4"].map(|tag| format!("r.example/a:{tag}").parse::<Reference>().unwrap());
        let mut tried = Vec::new();
        let each = EachTag::of(names, |name| {
            tried.extend(name.tag().map(str::to_owned));
            if name.tag() == Some(failing) { Err(failure.clone()) } else { Ok(Digest::of(b"")) }
        });
        (tried, each.failure("pushed").unwrap().message)
    }

    #[test]
    fn what_lets_all_fail_is_tried_once() {
        let (registry, repository, message) = ("r.example".to_owned(), "a".to_owned(), String::new());
        let wrong = RegistryError::Unauthorized { registry, repository, credentials: None, message };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        for failure in [Failure::of(FailureKind::Other, &wrong), Failure::of(FailureKind::Other, &full)] {
            let (tried, message) = tried("2", &failure);
            assert_eq!((tried.len(), message.as_str()), (2, "1 of 4 tags was not pushed; 2 were not tried"));
        }
        let gone = RegistryError::NotFound { reference: "a:2".to_owned() };
        let (tried, message) = tried("2", &Failure::of(FailureKind::Other, &gone));
        assert_eq!((tried.len(), message.as_str()), (4, "1 of 4 tags was not pushed"));
    }
}
