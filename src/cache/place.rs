//! Which earlier step a miss is compared with.
//!
//! A step is found again by where it stands and by what it does: the first finds it after an edit of its text, the second
//! after steps were put in or taken out before it, or its stage got another name.

use super::Cache;
use super::key::{Key, WORDS};
use crate::digest::{Digest, Frame};
use crate::image::platform::Platform;
use crate::store::{RecordKind, SlotRecord, StoreError};

/// The place of a step in a Dockerfile, for finding the record to compare a miss with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// The step's title without its numbers: what it does.
    pub text: &'a str,
    /// How many steps of the stage come before it.
    pub ordinal: usize,
    /// The platforms that the step is for, where a build is for more.
    pub platforms: &'a [Platform],
    /// The text of the step that it continues; empty where there is none.
    pub after: &'a str,
}

/// What the steps of this build do, each as its title says it: a record of one of them is not another's.
pub trait Planned {
    /// What the step at a place of the stage does.
    fn at(&self, ordinal: usize) -> Option<&str>;

    /// Whether any step does this.
    fn any(&self, text: &str) -> bool;
}

/// How a step came by its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was in the cache.
    Again,
    /// It was not.
    Anew,
}

/// The names of a place's records.
struct Slots {
    /// What stood there.
    place: Digest,
    /// What did the same in the stage.
    text: Digest,
    /// What did the same in whatever stage.
    anywhere: Digest,
}

impl Cache<'_> {
    fn slots(&self, place: Place<'_>) -> Slots {
        let slot = |kind: &str, stage: Option<&str>| {
            let mut frame = Frame::new("rbuild.slot.1");
            frame.digest("scope", &self.scope).text("kind", kind);
            if let Some(stage) = stage {
                frame.text("stage", stage);
            }
            for platform in place.platforms {
                frame.text("platform", &platform.to_string());
            }
            frame
        };
        let stage = Some(place.stage);
        Slots {
            place: slot("place", stage).number("ordinal", place.ordinal as u64).finish(),
            text: slot("text", stage).text("text", place.text).finish(),
            anywhere: slot("text", None).text("text", place.text).finish(),
        }
    }

    /// Remembers how a place looked, for explaining its next miss.
    pub fn remember(&self, place: Place<'_>, key: &Key, layer: Option<Digest>, seen: Seen) -> Result<(), StoreError> {
        let record = SlotRecord {
            key: key.digest,
            ingredients: key.ingredients.clone(),
            layer,
            words: WORDS,
            text: place.text.to_owned(),
            after: place.after.to_owned(),
            ordinal: place.ordinal,
            evidence: key.evidence.clone(),
        };
        let slots = self.slots(place);
        for slot in [slots.place, slots.text] {
            let before: Option<SlotRecord> = self.store.read_record(RecordKind::Slot, &slot)?;
            if before.as_ref() != Some(&record) {
                self.store.write_record(RecordKind::Slot, &slot, &record)?;
            }
        }
        // Stages with the same steps take turns here, which a build that finds all of them must not write down each time.
        if seen == Seen::Anew {
            self.store.write_record(RecordKind::Slot, &slots.anywhere, &record)?;
        }
        Ok(())
    }

    /// What the same instruction, else what stood at its place and was replaced by it, looked like when it was built last.
    pub fn before(&self, place: Place<'_>, planned: &impl Planned) -> Result<Option<SlotRecord>, StoreError> {
        let slots = self.slots(place);
        let read = |slot: &Digest| self.store.read_record::<SlotRecord>(RecordKind::Slot, slot);
        let here = read(&slots.place)?;
        // Of several that do the same in a stage, the one that stood here.
        if here.as_ref().is_some_and(|here| here.text == place.text) {
            return Ok(here);
        }
        let same = read(&slots.text)?;
        let still_stands = same.as_ref().is_some_and(|same| planned.at(same.ordinal) == Some(same.text.as_str()));
        if same.is_some() && !still_stands {
            return Ok(same);
        }
        match here.filter(|here| !planned.any(&here.text)) {
            Some(edited) => Ok(Some(edited)),
            None if still_stands => Ok(None),
            None => read(&slots.anywhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Evidence, Store};

    fn key(name: &str) -> Key {
        Key { digest: Digest::of(name.as_bytes()), ingredients: Vec::new(), evidence: Evidence::default() }
    }

    fn place<'a>(stage: &'a str, ordinal: usize, text: &'a str) -> Place<'a> {
        Place { stage, text, ordinal, platforms: &[], after: "" }
    }

    /// A build of one stage.
    struct Stage<'a>(&'a [&'static str]);

    impl Planned for Stage<'_> {
        fn at(&self, ordinal: usize) -> Option<&str> {
            self.0.get(ordinal).copied()
        }

        fn any(&self, text: &str) -> bool {
            self.0.contains(&text)
        }
    }

    /// What is found for a place after a build of `RUN a`, `RUN b` and `RUN a` in a stage.
    fn found(place: Place<'_>, planned: &[&'static str]) -> Option<Digest> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let cache = Cache::new(&store, Digest::of(b"scope"));
        for (ordinal, text) in ["RUN a", "RUN b", "RUN a"].into_iter().enumerate() {
            cache.remember(self::place("one", ordinal, text), &key(&ordinal.to_string()), None, Seen::Anew).unwrap();
        }
        let before = cache.before(place, &Stage(planned)).unwrap();
        before.map(|record| record.key)
    }

    #[test]
    fn a_step_is_found_by_its_place_and_by_its_text() {
        let number = |number: usize| Some(key(&number.to_string()).digest);
        // Where it stood, if there are several.
        assert_eq!(found(place("one", 0, "RUN a"), &[]), number(0));
        assert_eq!(found(place("one", 2, "RUN a"), &[]), number(2));
        // Behind steps that were put in.
        assert_eq!(found(place("one", 3, "RUN b"), &["RUN a", "RUN c", "RUN c", "RUN b"]), number(1));
        // Edited, or new before a step that is still there.
        assert_eq!(found(place("one", 1, "RUN c"), &["RUN a", "RUN c", "RUN a"]), number(1));
        assert_eq!(found(place("one", 1, "RUN c"), &["RUN a", "RUN c", "RUN b", "RUN a"]), None);
        assert_eq!(found(place("one", 1, "RUN a"), &["RUN a", "RUN a", "RUN a"]), number(1));
        // Once more what is still there.
        assert_eq!(found(place("one", 3, "RUN a"), &["RUN a", "RUN b", "RUN a", "RUN a"]), None);
        // In a stage that was called otherwise.
        assert_eq!(found(place("two", 1, "RUN b"), &[]), number(1));
        assert_eq!(found(place("two", 1, "RUN c"), &[]), None);
    }
}
