//! Which earlier step a miss is compared with.
//!
//! A step is found again by where it stands and by what it does: the first finds it after an edit of its text, the second
//! after steps were put in or taken out before it, or its stage got another name.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

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

/// Records of places, from when they are remembered until they are written.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    records: Mutex<BTreeMap<Digest, SlotRecord>>,
    /// Held by who writes.
    pen: Mutex<()>,
}

/// What to do while somebody else writes down what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pen {
    /// It is left to him, or to who writes last.
    IfFree,
    /// He is waited for.
    Awaited,
}

impl Remembered {
    fn records(&self) -> MutexGuard<'_, BTreeMap<Digest, SlotRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    /// Remembers how a place looked, for explaining its next miss. It is written by [`Cache::write_remembered`], as what
    /// comes after a step need not wait for that.
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
            if self.slot(&slot)?.as_ref() != Some(&record) {
                self.remembered.records().insert(slot, record.clone());
            }
        }
        // Stages with the same steps take turns here, which a build that finds all of them must not write down each time.
        if seen == Seen::Anew {
            self.remembered.records().insert(slots.anywhere, record);
        }
        Ok(())
    }

    /// Writes down what was remembered. What cannot be written is kept for the next try.
    ///
    /// # Errors
    /// The store cannot be written to.
    pub fn write_remembered(&self, pen: Pen) -> Result<(), StoreError> {
        let _pen = match pen {
            Pen::Awaited => self.remembered.pen.lock().unwrap_or_else(PoisonError::into_inner),
            Pen::IfFree => match self.remembered.pen.try_lock() {
                Ok(pen) => pen,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            },
        };
        loop {
            let first = self.remembered.records().first_key_value().map(|(slot, record)| (*slot, record.clone()));
            let Some((slot, record)) = first else { return Ok(()) };
            self.store.write_record(RecordKind::Slot, &slot, &record)?;
            // Found there until it is found in the store, if it is still the same.
            let mut records = self.remembered.records();
            if records.get(&slot) == Some(&record) {
                records.remove(&slot);
            }
        }
    }

    fn slot(&self, name: &Digest) -> Result<Option<SlotRecord>, StoreError> {
        let remembered = self.remembered.records().get(name).cloned();
        match remembered {
            Some(record) => Ok(Some(record)),
            None => self.store.read_record(RecordKind::Slot, name),
        }
    }

    /// What the same instruction, else what stood at its place and was replaced by it, looked like when it was built last.
    pub fn before(&self, place: Place<'_>, planned: &impl Planned) -> Result<Option<SlotRecord>, StoreError> {
        let slots = self.slots(place);
        let here = self.slot(&slots.place)?;
        // Of several that do the same in a stage, the one that stood here.
        if here.as_ref().is_some_and(|here| here.text == place.text) {
            return Ok(here);
        }
        let same = self.slot(&slots.text)?;
        let still_stands = same.as_ref().is_some_and(|same| planned.at(same.ordinal) == Some(same.text.as_str()));
        if same.is_some() && !still_stands {
            return Ok(same);
        }
        match here.filter(|here| !planned.any(&here.text)) {
            Some(edited) => Ok(Some(edited)),
            None if still_stands => Ok(None),
            None => self.slot(&slots.anywhere),
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
    fn what_is_remembered_is_found_at_once_and_by_others_once_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let cache = Cache::new(&store, Digest::of(b"scope"));
        let place = place("one", 0, "RUN a");
        let found = |cache: &Cache<'_>| cache.before(place, &Stage(&[])).unwrap().map(|record| record.key);
        let other = || Cache::new(&store, Digest::of(b"scope"));
        cache.remember(place, &key("1"), None, Seen::Anew).unwrap();
        assert_eq!((found(&cache), found(&other())), (Some(key("1").digest), None));
        cache.write_remembered(Pen::Awaited).unwrap();
        assert_eq!((found(&cache), found(&other())), (Some(key("1").digest), Some(key("1").digest)));
        assert!(cache.remembered.records().is_empty());
        cache.remember(place, &key("2"), None, Seen::Again).unwrap();
        assert_eq!((found(&cache), found(&other())), (Some(key("2").digest), Some(key("1").digest)));
    }

    #[test]
    fn what_cannot_be_written_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let cache = Cache::new(&store, Digest::of(b"scope"));
        cache.remember(place("one", 0, "RUN a"), &key("1"), None, Seen::Again).unwrap();
        let (slots, away) = (folder.path().join("slots"), folder.path().join("away"));
        std::fs::rename(&slots, &away).unwrap();
        assert!(cache.write_remembered(Pen::Awaited).is_err());
        std::fs::rename(&away, &slots).unwrap();
        assert_eq!(cache.remembered.records().len(), 2);
        cache.write_remembered(Pen::Awaited).unwrap();
        assert_eq!(std::fs::read_dir(&slots).unwrap().count(), 2);
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
