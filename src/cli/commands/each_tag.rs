//! `--all-tags`: one after the other, whatever becomes of the others, and a report of each.

use super::print;
use crate::cli::failure::{Failure, FailureKind};
use crate::digest::Digest;
use crate::image::reference::Reference;

/// What became of some tags.
#[derive(Default)]
pub(super) struct EachTag {
    done: Vec<(Digest, Reference)>,
    failed: Vec<(Reference, Failure)>,
}

impl EachTag {
    /// Does something to each of some names.
    pub(super) fn of(
        names: impl IntoIterator<Item = Reference>,
        mut work: impl FnMut(&Reference) -> Result<Digest, Failure>,
    ) -> EachTag {
        let mut each = EachTag::default();
        for name in names {
            match work(&name) {
                Ok(digest) => each.done.push((digest, name)),
                Err(failure) => each.failed.push((name, failure)),
            }
        }
        each
    }

    /// Prints the digest of each with its name; tells those that failed, each with its reason. `done` is what was to be
    /// done to them ("pushed").
    pub(super) fn report(self, done: &str) -> Result<(), Failure> {
        print(&self.done.iter().map(|(digest, name)| format!("{digest} {}\n", name.familiar())).collect::<String>())?;
        if self.failed.is_empty() {
            return Ok(());
        }
        let (failed, all) = (self.failed.len(), self.failed.len() + self.done.len());
        let message = format!("{failed} of {all} tags {} not {done}", if failed == 1 { "was" } else { "were" });
        let mut failure = Failure::new(FailureKind::Other, message);
        for (name, reason) in self.failed {
            let who = Some(name.familiar()).filter(|name| !reason.message.contains(name.as_str()));
            let why: Vec<String> = who.into_iter().chain([reason.message]).chain(reason.causes).collect();
            failure.causes.push(why.join(": "));
            let new = reason.hints.into_iter().filter(|hint| !failure.hints.contains(hint));
            let new: Vec<String> = new.collect();
            failure.hints.extend(new);
        }
        Err(failure)
    }
}
