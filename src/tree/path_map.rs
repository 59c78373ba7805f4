//! A map from paths to values for trees of a hundred thousand entries and more.
//!
//! Contract: it behaves as a `BTreeMap` would. What is inserted in order, as nearly everything is, lies in one vector: half
//! the memory of a map, whose nodes stay half empty when they are filled in order, and it becomes the sorted list that it
//! is wanted as without a copy.

use std::collections::BTreeMap;

/// Values by path.
#[derive(Debug, Clone)]
pub struct PathMap<V> {
    /// Sorted; an entry that was removed keeps its place.
    ordered: Vec<(Vec<u8>, Option<V>)>,
    /// What was inserted before the end of `ordered`.
    late: BTreeMap<Vec<u8>, V>,
}

impl<V> Default for PathMap<V> {
    fn default() -> PathMap<V> {
        PathMap { ordered: Vec::new(), late: BTreeMap::new() }
    }
}

impl<V> PathMap<V> {
    fn find(&self, path: &[u8]) -> Option<usize> {
        // Paths that come in order are asked for before they are inserted.
        if self.ordered.last().is_none_or(|(last, _)| last.as_slice() < path) {
            return None;
        }
        self.ordered.binary_search_by(|(known, _)| known.as_slice().cmp(path)).ok()
    }

    /// The value of a path.
    pub fn get(&self, path: &[u8]) -> Option<&V> {
        match self.find(path) {
            Some(at) => self.ordered[at].1.as_ref(),
            None => self.late.get(path),
        }
    }

    /// The value of a path, to be changed.
    pub fn get_mut(&mut self, path: &[u8]) -> Option<&mut V> {
        match self.find(path) {
            Some(at) => self.ordered[at].1.as_mut(),
            None => self.late.get_mut(path),
        }
    }

    /// Gives a path a value; an earlier one is dropped.
    pub fn insert(&mut self, path: Vec<u8>, value: V) {
        match self.find(&path) {
            Some(at) => self.ordered[at].1 = Some(value),
            None if self.ordered.last().is_none_or(|(last, _)| *last < path) && !self.late.contains_key(&path) => {
                self.ordered.push((path, Some(value)));
            }
            None => drop(self.late.insert(path, value)),
        }
    }

    /// Takes a path's value away.
    pub fn remove(&mut self, path: &[u8]) -> Option<V> {
        match self.find(path) {
            Some(at) => self.ordered[at].1.take(),
            None => self.late.remove(path),
        }
    }

    /// The paths that begin with these bytes, in no order.
    pub fn beginning_with(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let start = self.ordered.partition_point(|(path, _)| path.as_slice() < prefix);
        let ordered = self.ordered[start..].iter().take_while(|(path, _)| path.starts_with(prefix));
        let late = self.late.range(prefix.to_vec()..).take_while(|(path, _)| path.starts_with(prefix));
        let ordered = ordered.filter(|(_, value)| value.is_some()).map(|(path, _)| path.clone());
        ordered.chain(late.map(|(path, _)| path.clone())).collect()
    }

    /// All paths and values, sorted by path.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&[u8], &mut V)> {
        let ordered = self.ordered.iter_mut().filter_map(|(path, value)| Some((path.as_slice(), value.as_mut()?)));
        let mut ordered = ordered.peekable();
        let mut late = self.late.iter_mut().map(|(path, value)| (path.as_slice(), value)).peekable();
        std::iter::from_fn(move || match (ordered.peek(), late.peek()) {
            (Some((one, _)), Some((other, _))) if other < one => late.next(),
            (None, _) => late.next(),
            _ => ordered.next(),
        })
    }

    /// Paths and values, sorted by path, each made into an entry.
    pub fn into_sorted<E>(self, mut entry: impl FnMut(Vec<u8>, V) -> E) -> Vec<E> {
        let mut all = self.ordered;
        if !self.late.is_empty() {
            all.extend(self.late.into_iter().map(|(path, value)| (path, Some(value))));
            // Two sorted runs: merged in one pass.
            all.sort_by(|one, other| one.0.cmp(&other.0));
        }
        // Entries of the same size take the places of what they are made of, and the list was grown to hold more.
        let mut entries: Vec<E> =
            all.into_iter().filter_map(|(path, value)| value.map(|value| entry(path, value))).collect();
        entries.shrink_to_fit();
        entries
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Action {
        Insert(String, u32),
        Remove(String),
        Change(String, u32),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let path = || "[ab/]{1,4}";
        prop::collection::vec(
            prop_oneof![
                4 => (path(), any::<u32>()).prop_map(|(path, value)| Action::Insert(path, value)),
                1 => path().prop_map(Action::Remove),
                1 => (path(), any::<u32>()).prop_map(|(path, value)| Action::Change(path, value)),
            ],
            0..40,
        )
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_btreemap(actions in actions(), asked in "[ab/]{1,3}") {
            let (mut map, mut model) = (PathMap::default(), BTreeMap::new());
            for action in actions {
                match action {
                    Action::Insert(path, value) => {
                        map.insert(path.clone().into_bytes(), value);
                        model.insert(path.into_bytes(), value);
                    }
                    Action::Remove(path) => {
                        prop_assert_eq!(map.remove(path.as_bytes()), model.remove(path.as_bytes()));
                    }
                    Action::Change(path, value) => {
                        map.get_mut(path.as_bytes()).into_iter().for_each(|found| *found = value);
                        model.get_mut(path.as_bytes()).into_iter().for_each(|found| *found = value);
                    }
                }
                prop_assert_eq!(map.get(asked.as_bytes()), model.get(asked.as_bytes()));
            }
            let mut below = map.beginning_with(asked.as_bytes());
            below.sort_unstable();
            let expected: Vec<_> = model.keys().filter(|path| path.starts_with(asked.as_bytes())).cloned().collect();
            prop_assert_eq!(below, expected);
            let all: Vec<_> = map.iter_mut().map(|(path, value)| (path.to_vec(), *value)).collect();
            let expected: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(&all, &expected);
            prop_assert_eq!(map.into_sorted(|path, value| (path, value)), expected);
        }
    }
}
