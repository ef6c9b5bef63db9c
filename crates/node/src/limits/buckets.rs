//! Rates by key, in memory that is bounded however many keys come.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::Mutex,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use tokio::time::Instant;

use crate::crypto::lock;

/// Keys with a bucket of their own.
const MOST_KEYS: usize = 65_536;
/// Buckets that the keys beyond share, by chance. Who comes from very many networks gets these at most on top of what is
/// full already; who is new at that moment has somebody else's patience to share, and a bucket of their own once there is room.
const SHARED: usize = 1024;

/// A number for each key, and for each that finds no place one that it shares.
struct Bounded<K> {
    inner: Mutex<Inner<K>>,
    hasher: RandomState,
}

struct Inner<K> {
    own: HashMap<K, u64>,
    shared: Box<[Option<u64>]>,
}

impl<K: Clone + Eq + Hash> Bounded<K> {
    fn new() -> Self {
        let inner = Inner { own: HashMap::new(), shared: vec![None; SHARED].into_boxed_slice() };
        Self { inner: Mutex::new(inner), hasher: RandomState::new() }
    }

    /// Puts what `change` makes of a key's number in its place; where that is an error, nothing changes.
    fn change<T, E>(&self, key: &K, change: impl FnOnce(Option<u64>) -> Result<(T, u64), E>) -> Result<T, E> {
        let mut inner = lock(&self.inner);
        let full = inner.own.len() >= MOST_KEYS;
        if let Some(number) = inner.own.get_mut(key) {
            let (value, next) = change(Some(*number))?;
            *number = next;
            return Ok(value);
        }
        if !full {
            let (value, next) = change(None)?;
            inner.own.insert(key.clone(), next);
            return Ok(value);
        }
        let at = usize::try_from(self.hasher.hash_one(key)).unwrap_or(usize::MAX) % SHARED;
        match inner.shared.get_mut(at) {
            Some(number) => {
                let (value, next) = change(*number)?;
                *number = Some(next);
                Ok(value)
            }
            None => change(None).map(|(value, _)| value),
        }
    }

    fn get(&self, key: &K) -> Option<u64> {
        self.change(key, Err::<((), u64), _>).err().flatten()
    }

    /// Forgets what is below `number`.
    fn forget_below(&self, number: u64) {
        let mut inner = lock(&self.inner);
        inner.own.retain(|_, kept| *kept >= number);
        inner.own.shrink_to_fit();
    }

    fn len(&self) -> usize {
        lock(&self.inner).own.len()
    }
}

impl<K> fmt::Debug for Bounded<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash> StateStore for Bounded<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.change(key, |number| f(number.map(Nanos::new)).map(|(value, next)| (value, next.as_u64())))
    }
}

impl<K: Clone + Eq + Hash> ShrinkableKeyedStateStore<K> for Bounded<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.forget_below(drop_below.as_u64());
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn is_empty(&self) -> bool {
        Self::len(self) == 0
    }
}

/// How often something may happen, by key: at once as often as in a minute, and then evenly.
#[derive(Debug)]
pub struct Limiter<K: Clone + Eq + Hash>(RateLimiter<K, Bounded<K>, DefaultClock>);

impl<K: Clone + Eq + Hash> Limiter<K> {
    /// So often in a minute.
    pub fn per_minute(rate: NonZeroU32) -> Self {
        Self(RateLimiter::new(Quota::per_minute(rate), Bounded::new(), DefaultClock::default()))
    }

    /// Counts one, or says how long to wait.
    ///
    /// # Errors
    /// How long until there is room again.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        self.0.check_key(key).map_err(|until| until.wait_time_from(self.0.clock().now()))
    }

    /// Forgets the keys that have been quiet.
    pub fn shrink(&self) {
        self.0.retain_recent();
    }

    /// Keys with a bucket of their own.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How much of something may be used, by key, where the use is known only afterwards: a bucket that may go into debt, and
/// gives nothing until that is paid.
#[derive(Debug)]
pub struct Debts<K: Clone + Eq + Hash> {
    /// When a key's debt will be paid and its bucket full: nanoseconds since `start`.
    full_at: Bounded<K>,
    start: Instant,
    /// What one takes to be paid.
    each: Duration,
}

/// What a bucket holds, as the time that it takes to fill.
const FULL: Duration = Duration::from_secs(60);

impl<K: Clone + Eq + Hash> Debts<K> {
    /// So much in a minute, and as much at once.
    pub fn per_minute(rate: NonZeroU32) -> Self {
        let each = FULL.checked_div(rate.get()).unwrap_or(Duration::from_nanos(1));
        Self { full_at: Bounded::new(), start: Instant::now(), each: each.max(Duration::from_nanos(1)) }
    }

    /// Says how long to wait until the debt is paid.
    ///
    /// # Errors
    /// How long that is.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        let to_fill = self.full_at.get(key).unwrap_or(0).saturating_sub(self.now());
        match to_fill.checked_sub(nanos(FULL)) {
            // An empty bucket gives nothing either.
            Some(debt) => Err(Duration::from_nanos(debt.saturating_add(1))),
            None => Ok(()),
        }
    }

    /// Takes what was used, be it there or not.
    pub fn charge(&self, key: &K, used: u32) {
        let now = self.now();
        let took = nanos(self.each.saturating_mul(used));
        let charge =
            |full_at: Option<u64>| Ok::<_, ()>(((), full_at.unwrap_or(now).max(now).saturating_add(took)));
        let _ = self.full_at.change(key, charge);
    }

    /// Forgets the keys whose buckets are full.
    pub fn shrink(&self) {
        self.full_at.forget_below(self.now());
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_minute: u32) -> NonZeroU32 {
        per_minute.try_into().unwrap()
    }

    #[test]
    fn a_million_networks_take_no_more_memory_than_the_keys_that_there_may_be() {
        let limiter = Limiter::per_minute(rate(1));
        let mut admitted = 0;
        for network in 0..1_000_000_u32 {
            admitted += u32::from(limiter.check(&network).is_ok());
        }
        assert_eq!(limiter.len(), MOST_KEYS);
        assert_eq!(usize::try_from(admitted).unwrap(), MOST_KEYS + SHARED, "the others share what is left");
        let capacity = lock(&limiter.0.into_state_store().inner).own.capacity();
        assert!(capacity < 4 * MOST_KEYS, "{capacity}");
    }

    #[test]
    fn who_was_known_before_the_crowd_came_keeps_a_bucket_of_their_own() {
        let limiter = Limiter::per_minute(rate(2));
        limiter.check(&0).unwrap();
        for network in 1..200_000_u32 {
            let _ = limiter.check(&network);
        }
        limiter.check(&0).unwrap();
        limiter.check(&0).unwrap_err();
    }

    #[test]
    fn quiet_keys_are_forgotten_and_their_memory_is_given_back() {
        let limiter = Limiter::per_minute(rate(60_000));
        for network in 0..50_000_u32 {
            limiter.check(&network).unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !limiter.is_empty() {
            assert!(std::time::Instant::now() < deadline, "{} are left", limiter.len());
            limiter.shrink();
        }
        assert_eq!(lock(&limiter.0.into_state_store().inner).own.capacity(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_paid_before_more_is_given_and_the_wait_is_true() {
        let debts = Debts::per_minute(rate(600));
        debts.check(&1).unwrap();
        debts.charge(&1, 599);
        debts.check(&1).unwrap();
        debts.charge(&1, 101);
        let wait = debts.check(&1).unwrap_err();
        assert_eq!(wait.as_secs(), 10, "a hundred too much at ten a second");
        debts.check(&2).unwrap();
        tokio::time::advance(wait - Duration::from_millis(2)).await;
        debts.check(&1).unwrap_err();
        tokio::time::advance(Duration::from_millis(2)).await;
        debts.check(&1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_used_nothing_for_a_minute_is_forgotten() {
        let debts = Debts::per_minute(rate(600));
        debts.charge(&1, 600);
        debts.shrink();
        assert_eq!(debts.full_at.len(), 1);
        tokio::time::advance(Duration::from_secs(61)).await;
        debts.shrink();
        assert_eq!(debts.full_at.len(), 0);
    }
}
