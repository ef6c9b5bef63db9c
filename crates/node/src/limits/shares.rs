//! Shares of what there is a number of.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::crypto::lock;

/// How much each party holds of something. As large as what is held: who holds nothing is not in it.
#[derive(Debug)]
pub struct Shares<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// One more for `party`, if it holds less than `most`.
    pub fn take(&self, party: K, most: usize) -> Option<Share<K>> {
        let mut held = lock(&self.0);
        let count = held.get(&party).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        held.insert(party, count.saturating_add(1));
        Some(Share { held: Arc::clone(&self.0), party })
    }

    /// How many parties hold something.
    pub fn parties(&self) -> usize {
        lock(&self.0).len()
    }
}

/// One of what a party holds, given back on drop.
#[derive(Debug)]
pub struct Share<K: Copy + Eq + Hash> {
    held: Arc<Mutex<HashMap<K, usize>>>,
    party: K,
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        match held.get_mut(&self.party) {
            Some(count) if *count > 1 => *count = count.saturating_sub(1),
            Some(_) | None => {
                held.remove(&self.party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_there_again_and_who_holds_nothing_is_forgotten() {
        let shares = Shares::default();
        let first = shares.take(1, 2).unwrap();
        let second = shares.take(1, 2).unwrap();
        assert!(shares.take(1, 2).is_none());
        assert!(shares.take(2, 2).is_some(), "another has its own");
        drop(first);
        let third = shares.take(1, 2).unwrap();
        drop((second, third));
        assert_eq!(shares.parties(), 0);
    }
}
