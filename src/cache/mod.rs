//! The step cache: what was built under which key, and why a key was not found.
//!
//! Contract: a hit is a layer whose bytes this store (or a registry that it knows of) still has; a miss always comes
//! with a reason in words. It knows nothing of how a layer is made.

pub mod key;
pub mod miss;
mod place;
pub mod remote;

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

pub use key::Key;
pub use miss::MissReason;
pub use place::{Pen, Place, Planned, Seen};

use crate::digest::{Digest, Frame};
use crate::store::{LayerRecord, RecordKind, SlotRecord, StepRecord, Store, StoreError};

/// Looks steps up in a store and keeps their results there.
pub struct Cache<'a> {
    store: &'a Store,
    /// What makes places in this Dockerfile different from places in others: context, file, platform.
    scope: Digest,
    /// What was made in this build although nothing may come from the cache (`--no-cache`).
    anew: Mutex<BTreeMap<Digest, StepRecord>>,
    /// How places look that are remembered.
    remembered: place::Remembered,
}

impl<'a> Cache<'a> {
    /// A cache over a store; `scope` names the build (context, Dockerfile, platform) that misses are compared within.
    pub fn new(store: &'a Store, scope: Digest) -> Cache<'a> {
        Cache { store, scope, anew: Mutex::default(), remembered: place::Remembered::default() }
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
        self.note_use("steps", key);
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

    /// Notes that a copy is looked for or made; `instruction` is all that makes it what it is but its files and what is
    /// below it.
    pub fn note_copy(&self, instruction: &Digest, key: &Key) -> Result<(), StoreError> {
        let slot = copy_slot(instruction);
        if self.store.read_record::<SlotRecord>(RecordKind::Slot, &slot)?.is_some() {
            self.note_use("slots", &slot);
            return Ok(());
        }
        self.store.write_record(RecordKind::Slot, &slot, &SlotRecord::of(key.digest))
    }

    /// Whether such a copy was made with this store, be it of other files or onto something else: only then the key of one
    /// may be found.
    pub fn knows_copy(&self, instruction: &Digest) -> Result<bool, StoreError> {
        Ok(self.store.read_record::<SlotRecord>(RecordKind::Slot, &copy_slot(instruction))?.is_some())
    }

    /// A collection removes what was not used for long. Failing to note a use costs a rebuild at worst.
    fn note_use(&self, folder: &str, name: &Digest) {
        let path = self.store.root().join(folder).join(name.hex());
        drop(File::open(path).and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now()))));
    }
}

fn copy_slot(instruction: &Digest) -> Digest {
    Frame::new("rbuild.slot.copy.1").digest("instruction", instruction).finish()
}
