//! What was computed once and need not be computed again. Pure: states are opaque, choices are made here, and
//! whoever owns the model carries them out.
//!
//! A slot keeps what its last sequence computed. When the slot is needed for another conversation, that moves
//! into a [`PrefixCache`] in main memory, least recently used out first. Whether a prefix was reused can be
//! seen from outside by timing an answer, so nothing computed for one client speeds up another's request; what
//! the operator wrote (the default system prompt, the template's own words) is everybody's.

use std::time::Duration;

use zeroize::Zeroize as _;

use crate::sampler::Token;

/// Fewer tokens are not worth keeping: a step costs as much as some tokens in it.
pub(crate) const WORTH_KEEPING: usize = 8;

/// For whom something was computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    /// Who may reuse it.
    pub(crate) scope: u64,
    /// With what it goes.
    pub(crate) session: u64,
}

/// Tokens that the model has seen, and who may profit from that.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) tokens: Vec<Token>,
    pub(crate) owner: Owner,
    /// How many of the leading tokens are the operator's, and everybody's to reuse.
    pub(crate) everyones: usize,
}

impl Prefix {
    /// How many tokens of `prompt` need not be computed again for `asker`.
    pub(crate) fn serves(&self, asker: Owner, prompt: &[Token]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(mine, theirs)| mine == theirs).count();
        if self.owner.scope == asker.scope { common } else { common.min(self.everyones) }
    }

    /// Whether it is the operator's words and no more.
    pub(crate) fn is_everyones(&self) -> bool {
        self.everyones >= self.tokens.len()
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.tokens.zeroize();
    }
}

/// The model's memory of a prefix, taken out of the model.
pub(crate) trait State {
    /// What it takes in memory.
    fn bytes(&self) -> usize;
}

/// Prefixes in main memory, bounded in bytes.
#[derive(Debug)]
pub(crate) struct PrefixCache<S> {
    /// The most recently used last.
    entries: Vec<(Prefix, S)>,
    capacity: usize,
}

impl<S: State> PrefixCache<S> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), capacity }
    }

    /// Whether it can hold anything at all.
    pub(crate) fn is_on(&self) -> bool {
        self.capacity > 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, state)| state.bytes()).sum()
    }

    /// The entry that serves most of `prompt`, with how much.
    fn best(&self, asker: Owner, prompt: &[Token]) -> Option<(usize, usize)> {
        let served = |(number, (prefix, _)): (usize, &(Prefix, S))| (prefix.serves(asker, prompt), number);
        let best = self.entries.iter().enumerate().map(served).max_by_key(|(served, _)| *served);
        best.filter(|(served, _)| *served >= WORTH_KEEPING)
    }

    /// Whether the first `tokens` of `prompt` are held for `asker`.
    pub(crate) fn holds(&self, asker: Owner, prompt: &[Token], tokens: usize) -> bool {
        self.best(asker, prompt).is_some_and(|(served, _)| served >= tokens)
    }

    /// Keeps `state`, at the price of those not used for longest. What it extends is let go.
    pub(crate) fn insert(&mut self, prefix: Prefix, state: S) {
        let same = |old: &Prefix| {
            old.owner == prefix.owner && old.everyones == prefix.everyones && !old.is_everyones()
        };
        self.entries.retain(|(old, _)| !(same(old) && prefix.tokens.starts_with(&old.tokens)));
        if state.bytes() > self.capacity {
            return;
        }
        while self.bytes().saturating_add(state.bytes()) > self.capacity {
            self.entries.remove(0);
        }
        self.entries.push((prefix, state));
    }

    /// Takes out the entry that a [`Placement`] found.
    pub(crate) fn take(&mut self, entry: usize) -> Option<(Prefix, S)> {
        (entry < self.entries.len()).then(|| self.entries.remove(entry))
    }

    /// Lets go of what was computed for `session`.
    pub(crate) fn forget(&mut self, session: u64) {
        self.entries.retain(|(prefix, _)| prefix.owner.session != session || prefix.is_everyones());
    }
}

/// What copying and computing have cost so far, to tell when a copy is the cheaper way.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    seconds_a_token: Option<f64>,
    seconds_a_byte: Option<f64>,
}

/// Tokens below which each costs more: 48 of them take as long as 64 on a CPU.
const GRAIN: usize = 64;

/// How much a new figure counts against the old ones.
const NEWEST: f64 = 0.2;

impl Costs {
    pub(crate) fn computed(&mut self, tokens: usize, took: Duration) {
        blend(&mut self.seconds_a_token, took, tokens);
    }

    pub(crate) fn copied(&mut self, bytes: usize, took: Duration) {
        blend(&mut self.seconds_a_byte, took, bytes);
    }

    /// Tokens of a prompt that are computed in `time`, in whole [`GRAIN`]s and no less than one; one where nobody knows yet.
    pub(crate) fn tokens_in(&self, time: Duration) -> usize {
        let each = self.seconds_a_token.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let fit = each.and_then(|each| time.as_nanos().checked_div(each.as_nanos()));
        let fit = fit.map_or(GRAIN, |fit| usize::try_from(fit).unwrap_or(usize::MAX));
        fit.saturating_sub(fit % GRAIN).max(GRAIN)
    }

    /// Whether copying `bytes` is quicker than computing `tokens`. Copying is, as long as nobody knows.
    pub(crate) fn copy_is_cheaper(&self, bytes: usize, tokens: usize) -> bool {
        match (self.seconds_a_byte, self.seconds_a_token) {
            (Some(byte), Some(token)) => byte * as_f64(bytes) < token * as_f64(tokens),
            (None, _) | (_, None) => true,
        }
    }
}

fn blend(figure: &mut Option<f64>, took: Duration, count: usize) {
    if count > 0 {
        let new = took.as_secs_f64() / as_f64(count);
        *figure = Some(figure.map_or(new, |old| old + NEWEST * (new - old)));
    }
}

fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// Where a sequence goes, and what it finds there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Placement {
    pub(crate) slot: usize,
    /// Whether what the slot holds now is to be kept in the cache first.
    pub(crate) save: bool,
    pub(crate) found: Found,
}

/// What of a prompt is there already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    Nothing,
    /// So many tokens, in the slot itself.
    InSlot(usize),
    /// So many tokens, in the cache's entry of this number.
    InCache {
        entry: usize,
        tokens: usize,
    },
}

/// A slot that can be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreeSlot<'a> {
    pub(crate) slot: usize,
    pub(crate) holds: Option<&'a Prefix>,
    /// Grows with every use; the least is the longest unused.
    pub(crate) used: u64,
}

/// Chooses a slot for `prompt`: the one that has most of it; or, where the cache has more and a copy is
/// cheaper, the slot least missed. `None` where no slot is free.
pub(crate) fn place<S: State>(
    free: &[FreeSlot<'_>],
    cache: &PrefixCache<S>,
    costs: &Costs,
    asker: Owner,
    prompt: &[Token],
) -> Option<Placement> {
    // The last token is computed again in any case: its logits are wanted.
    let prompt = prompt.split_last().map_or(prompt, |(_, before)| before);
    let served = |slot: &FreeSlot<'_>| {
        let mine = slot.holds.filter(|holds| holds.owner.scope == asker.scope);
        mine.map_or(0, |holds| holds.serves(asker, prompt))
    };
    let best = free.iter().max_by_key(|slot| served(slot))?;
    let in_slot = served(best);
    let in_cache = cache.best(asker, prompt).filter(|(tokens, entry)| {
        let bytes = cache.entries.get(*entry).map_or(0, |(_, state)| state.bytes());
        let gained = tokens.saturating_sub(in_slot);
        gained >= WORTH_KEEPING && costs.copy_is_cheaper(bytes, gained)
    });
    let (slot, found) = match in_cache {
        None if in_slot >= WORTH_KEEPING => (best, Found::InSlot(in_slot)),
        None => (least_missed(free)?, Found::Nothing),
        Some((tokens, entry)) => (least_missed(free)?, Found::InCache { entry, tokens }),
    };
    let lost = slot.holds.filter(|holds| holds.owner.session != asker.session);
    let save = cache.is_on() && lost.is_some_and(|holds| holds.tokens.len() >= WORTH_KEEPING);
    Some(Placement { slot: slot.slot, save, found })
}

fn least_missed<'a>(free: &'a [FreeSlot<'a>]) -> Option<&'a FreeSlot<'a>> {
    free.iter().min_by_key(|slot| (slot.holds.is_some(), slot.used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Bytes(usize);

    impl State for Bytes {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    const ALICE: Owner = Owner { scope: 1, session: 10 };
    const ALICE_AGAIN: Owner = Owner { scope: 1, session: 11 };
    const BOB: Owner = Owner { scope: 2, session: 20 };

    fn prefix(tokens: std::ops::Range<Token>, owner: Owner, everyones: usize) -> Prefix {
        Prefix { tokens: tokens.collect(), owner, everyones }
    }

    fn prompt(tokens: std::ops::Range<Token>) -> Vec<Token> {
        tokens.collect()
    }

    fn slot(slot: usize, holds: Option<&Prefix>, used: u64) -> FreeSlot<'_> {
        FreeSlot { slot, holds, used }
    }

    fn placed(
        free: &[FreeSlot<'_>],
        cache: &PrefixCache<Bytes>,
        asker: Owner,
        prompt: &[Token],
    ) -> Placement {
        place(free, cache, &Costs::default(), asker, prompt).unwrap()
    }

    #[test]
    fn a_client_reuses_its_own_prefix_and_no_other_clients() {
        let held = prefix(0..100, ALICE, 20);
        assert_eq!(held.serves(ALICE, &prompt(0..200)), 100);
        assert_eq!(held.serves(ALICE_AGAIN, &prompt(0..50)), 50);
        assert_eq!(held.serves(BOB, &prompt(0..200)), 20, "the operator's words alone");
        assert_eq!(held.serves(BOB, &prompt(5..200)), 0);
    }

    #[test]
    fn the_next_turn_goes_to_the_slot_that_has_the_last_one() {
        let (mine, other) = (prefix(0..100, ALICE, 0), prefix(0..100, BOB, 0));
        let cache = PrefixCache::new(1000);
        let free = [slot(0, None, 0), slot(1, Some(&other), 1), slot(2, Some(&mine), 2)];
        let expected = Placement { slot: 2, save: false, found: Found::InSlot(100) };
        assert_eq!(placed(&free, &cache, ALICE, &prompt(0..150)), expected);
        let fresh = Placement { slot: 0, save: false, found: Found::Nothing };
        assert_eq!(placed(&free, &cache, Owner { scope: 3, session: 30 }, &prompt(0..150)), fresh);
    }

    #[test]
    fn the_last_token_of_a_prompt_is_always_computed() {
        let mine = prefix(0..100, ALICE, 0);
        let free = [slot(0, Some(&mine), 0)];
        let found = placed(&free, &PrefixCache::new(0), ALICE, &prompt(0..100)).found;
        assert_eq!(found, Found::InSlot(99));
    }

    #[test]
    fn the_slot_least_missed_is_saved_before_it_is_taken() {
        let (old, new) = (prefix(0..100, BOB, 0), prefix(0..90, BOB, 0));
        let free = [slot(0, Some(&new), 9), slot(1, Some(&old), 3)];
        let expected = Placement { slot: 1, save: true, found: Found::Nothing };
        assert_eq!(placed(&free, &PrefixCache::new(1000), ALICE, &prompt(0..50)), expected);
        let off = placed(&free, &PrefixCache::new(0), ALICE, &prompt(0..50));
        assert!(!off.save, "a cache of nothing keeps nothing");
    }

    #[test]
    fn what_was_moved_to_the_cache_is_found_there() {
        let mut cache = PrefixCache::new(1000);
        cache.insert(prefix(0..100, ALICE, 0), Bytes(10));
        let free = [slot(0, None, 0)];
        let found = Found::InCache { entry: 0, tokens: 100 };
        assert_eq!(placed(&free, &cache, ALICE, &prompt(0..150)).found, found);
        assert_eq!(placed(&free, &cache, BOB, &prompt(0..150)).found, Found::Nothing);
    }

    #[test]
    fn a_copy_dearer_than_the_computation_is_not_made() {
        let mut cache = PrefixCache::new(1000);
        cache.insert(prefix(0..100, ALICE, 0), Bytes(10));
        let mut costs = Costs::default();
        costs.computed(100, Duration::from_millis(1));
        costs.copied(10, Duration::from_secs(1));
        let free = [slot(0, None, 0)];
        let dear = place(&free, &cache, &costs, ALICE, &prompt(0..150)).unwrap();
        assert_eq!(dear.found, Found::Nothing);
    }

    #[test]
    fn what_fits_into_a_time_is_told_in_whole_grains_by_what_tokens_have_taken() {
        let fit = |each: Duration| {
            let mut costs = Costs::default();
            costs.computed(64, each * 64);
            costs.tokens_in(Duration::from_millis(200))
        };
        assert_eq!(Costs::default().tokens_in(Duration::from_secs(9)), GRAIN, "nobody knows yet");
        assert_eq!(fit(Duration::from_millis(2)), 64);
        assert_eq!(fit(Duration::from_millis(1)), 192);
        assert_eq!(fit(Duration::from_secs(1)), GRAIN, "no less than one");
        assert_eq!(fit(Duration::from_nanos(100)), 2_000_000);
        assert!(fit(Duration::ZERO) >= GRAIN, "a clock that stands still");
    }

    #[test]
    fn the_cache_lets_go_of_what_was_not_used_for_longest() {
        let mut cache = PrefixCache::new(30);
        for start in [0, 1000, 2000] {
            cache.insert(prefix(start..start + 50, ALICE, 0), Bytes(10));
        }
        let (used, state) = cache.take(0).unwrap();
        cache.insert(used, state);
        cache.insert(prefix(3000..3050, ALICE, 0), Bytes(10));
        assert!(cache.holds(ALICE, &prompt(0..50), 50), "used a moment ago");
        assert!(!cache.holds(ALICE, &prompt(1000..1050), 50));
        assert_eq!(cache.bytes(), 30);
        cache.insert(prefix(4000..4050, ALICE, 0), Bytes(31));
        assert!(!cache.holds(ALICE, &prompt(4000..4050), 50), "larger than the cache");
    }

    #[test]
    fn a_longer_prefix_of_a_session_takes_the_place_of_the_shorter() {
        let mut cache = PrefixCache::new(1000);
        cache.insert(prefix(0..50, ALICE, 0), Bytes(10));
        cache.insert(prefix(0..80, ALICE, 0), Bytes(16));
        assert_eq!(cache.bytes(), 16);
    }

    #[test]
    fn what_a_session_computed_goes_with_it_and_the_operators_words_stay() {
        let mut cache = PrefixCache::new(1000);
        cache.insert(prefix(0..50, ALICE, 50), Bytes(10));
        cache.insert(prefix(0..80, ALICE, 50), Bytes(16));
        cache.forget(ALICE.session);
        assert_eq!(cache.bytes(), 10);
        assert!(cache.holds(BOB, &prompt(0..99), 50));
    }
}
