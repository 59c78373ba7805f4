//! The store without anybody else: for collections and repairs.

use std::path::Path;

use super::{Collected, Lock, Policy, Result, Sizes, Store, lock};

/// The lock that everybody shares who uses the store.
const LOCK: &str = "locks/store";

/// A store that nobody else uses as long as this lives: others wait before they open it.
#[derive(Debug)]
pub struct Alone {
    store: Store,
}

impl Alone {
    /// Takes the store where nobody uses it now; `None` where somebody does. This process must have given it up.
    pub fn try_take(root: &Path) -> Result<Option<Alone>> {
        Store::prepare(root)?;
        match Lock::try_exclusive(&root.join(LOCK))? {
            Some(lock) => Ok(Some(Alone { store: Store::open_under(root, lock)? })),
            None => Ok(None),
        }
    }

    /// The processes that use the store now, as far as they can be seen.
    pub fn others(root: &Path) -> Vec<u32> {
        lock::others(&root.join(LOCK))
    }

    /// Waits until nobody else uses the store.
    pub fn wait(root: &Path) -> Result<Alone> {
        Store::prepare(root)?;
        let lock = Lock::exclusive(&root.join(LOCK))?;
        Ok(Alone { store: Store::open_under(root, lock)? })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Removes what a policy says, and everything that nothing which stays needs.
    pub fn collect(&self, policy: &Policy, sizes: &Sizes) -> Result<Collected> {
        self.store.collect(policy, sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_had_alone_when_nobody_else_uses_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let other = Store::open(&root).unwrap();
        assert!(Alone::try_take(&root).unwrap().is_none());
        drop(other);
        let alone = Alone::try_take(&root).unwrap().unwrap();
        assert!(Alone::try_take(&root).unwrap().is_none());
        drop(alone);
        drop(Store::open(&root).unwrap());
    }
}
