//! The step cache: what was built under which key, and why a key was not found.
//!
//! Contract: a hit is a layer whose bytes this store (or a registry that it knows of) still has; a miss always comes
//! with a reason in words. It knows nothing of how a layer is made.

pub mod key;
pub mod miss;
pub mod remote;

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

pub use key::Key;
pub use miss::MissReason;

use crate::digest::{Digest, Frame};
use crate::image::platform::Platform;
use crate::store::{LayerRecord, RecordKind, SlotRecord, StepRecord, Store, StoreError};

/// Looks steps up in a store and keeps their results there.
pub struct Cache<'a> {
    store: &'a Store,
    /// What makes places in this Dockerfile different from places in others: context, file, platform.
    scope: Digest,
    /// What was made in this build although nothing may come from the cache (`--no-cache`).
    anew: Mutex<BTreeMap<Digest, StepRecord>>,
}

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
}

impl<'a> Cache<'a> {
    /// A cache over a store; `scope` names the build (context, Dockerfile, platform) that misses are compared within.
    pub fn new(store: &'a Store, scope: Digest) -> Cache<'a> {
        Cache { store, scope, anew: Mutex::default() }
    }

    /// The record of a step whose layer is still to be had.
    pub fn find(
        &self,
        key: &Digest,
        is_available: impl Fn(&Digest, &LayerRecord) -> bool,
    ) -> Result<Option<StepRecord>, StoreError> {
        let Some(step) = self.store.read_record::<StepRecord>(RecordKind::Step, key)? else { return Ok(None) };
        let Some(layer) = self.store.read_record::<LayerRecord>(RecordKind::Layer, &step.layer)? else {
            return Ok(None);
        };
        if !is_available(&step.layer, &layer) {
            return Ok(None);
        }
        // A collection removes what was not used for long; a hit is a use. Failing to note it costs a rebuild at worst.
        let path = self.store.root().join("steps").join(key.hex());
        drop(File::open(path).and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now()))));
        Ok(Some(step))
    }

    /// When the result of a key was made (RFC 3339), where the store still knows.
    pub fn created(&self, key: &Digest) -> Result<Option<String>, StoreError> {
        let step: Option<StepRecord> = self.store.read_record(RecordKind::Step, key)?;
        Ok(step.map(|step| step.created))
    }

    /// Keeps a step's result.
    pub fn keep(&self, key: &Digest, record: &StepRecord) -> Result<(), StoreError> {
        self.store.write_record(RecordKind::Step, key, record)
    }

    /// As [`Cache::keep`], of a step that may not come from the cache: for the same step once more in this build it may, as
    /// BuildKit merges equal steps of one solve (`solver/jobs.go`, `loadUnlocked`).
    pub fn keep_anew(&self, key: &Digest, record: &StepRecord) -> Result<(), StoreError> {
        self.keep(key, record)?;
        self.anew.lock().unwrap_or_else(PoisonError::into_inner).insert(*key, record.clone());
        Ok(())
    }

    /// What this build made anew under a key.
    pub fn made_anew(&self, key: &Digest) -> Option<StepRecord> {
        self.anew.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn slots(&self, place: Place<'_>) -> [Digest; 2] {
        let slot = |kind: &str| {
            let mut frame = Frame::new("rbuild.slot.1");
            frame.digest("scope", &self.scope).text("kind", kind).text("stage", place.stage);
            for platform in place.platforms {
                frame.text("platform", &platform.to_string());
            }
            frame
        };
        [slot("text").text("text", place.text).finish(), slot("place").number("ordinal", place.ordinal as u64).finish()]
    }

    /// Remembers how a place looked, for explaining its next miss.
    pub fn remember(&self, place: Place<'_>, key: &Key, layer: Option<Digest>) -> Result<(), StoreError> {
        let record = SlotRecord { key: key.digest, ingredients: key.ingredients.clone(), layer };
        for slot in self.slots(place) {
            let before: Option<SlotRecord> = self.store.read_record(RecordKind::Slot, &slot)?;
            if before.as_ref() != Some(&record) {
                self.store.write_record(RecordKind::Slot, &slot, &record)?;
            }
        }
        Ok(())
    }

    /// What the same instruction, else the same place, looked like when it was built last.
    pub fn before(&self, place: Place<'_>) -> Result<Option<SlotRecord>, StoreError> {
        for slot in self.slots(place) {
            if let Some(record) = self.store.read_record(RecordKind::Slot, &slot)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}
