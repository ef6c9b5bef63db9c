//! Which tokens go into the model's next step. Pure: no thread, no clock, no model; stepped by hand in tests.
//!
//! Sequences join and leave between any two steps. A step holds one token of every sequence that is decoding,
//! and then, up to the budget, chunks of the prompts that are not through yet: those with least left first, as
//! that makes the mean time to the first token least (Schrage 1968), but a quarter of the budget goes to who
//! has waited longest, so that a long prompt neither holds the others up nor is held up for ever. While
//! answers run, the budget is a quarter of what it is else: they wait for every step. While every place is taken, it is
//! no more than a limit that its caller gives: a step cannot be broken off, and a place whose client has gone is free
//! when it ends. Waiting requests are admitted
//! in turns of their clients, not in order of arrival, so that a client with fifty requests does not keep
//! another's first one waiting.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    prefix::{FreeSlot, Prefix},
    sampler::Token,
    sequence::{Next, Sequence, Vocabulary},
};

/// A place in the model's memory.
pub(crate) type Slot = usize;

/// The part of the prefill budget that goes to who has waited longest: one in so many.
const OLDEST_SHARE: usize = 4;

/// The part of the prefill budget that is used while answers run: one in so many. Measured beside a server that
/// prefills all prompts together: half of it made gaps of 4.4 times the peer's at 16 streams, a quarter 2.8 times, an
/// eighth 1.8 times but first tokens later than the peer's.
const BUSY_SHARE: usize = 4;

/// One token of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Item {
    pub(crate) slot: Slot,
    pub(crate) token: Token,
    pub(crate) position: usize,
    /// Whether the next token is chosen from its logits.
    pub(crate) wants_logits: bool,
}

/// What a step computed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Computed {
    pub(crate) prefilled: u64,
    pub(crate) decoded: u64,
}

/// What happened in a step that others have to act on.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Slots that hold the words of a system prompt now and nothing more.
    pub(crate) shareable: Vec<(Slot, Prefix)>,
    /// Slots whose content is to be forgotten.
    pub(crate) to_clear: Vec<Slot>,
}

/// A place for a sequence, and what the last one left there.
#[derive(Debug, Default)]
struct Place {
    running: Option<Sequence>,
    held: Option<Prefix>,
    used: u64,
}

/// Running sequences in their slots.
#[derive(Debug)]
pub(crate) struct Scheduler {
    slots: Vec<Place>,
    prefill_budget: usize,
    /// Most of it while every place is taken.
    full_budget: usize,
    uses: u64,
}

impl Scheduler {
    pub(crate) fn new(slots: usize, prefill_budget: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(Place::default).take(slots).collect(),
            prefill_budget: prefill_budget.max(1),
            full_budget: usize::MAX,
            uses: 0,
        }
    }

    /// The slots in which nothing runs, and what they hold.
    pub(crate) fn free_slots(&self) -> Vec<FreeSlot<'_>> {
        let free = (0..).zip(&self.slots).filter(|(_, place)| place.running.is_none());
        free.map(|(slot, place)| FreeSlot { slot, holds: place.held.as_ref(), used: place.used }).collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.slots.iter().filter(|place| place.running.is_some()).count()
    }

    /// Tokens that all slots hold, running or not.
    pub(crate) fn held_tokens(&self) -> usize {
        let held = |place: &Place| match (&place.running, &place.held) {
            (Some(running), _) => running.position(),
            (None, Some(held)) => held.tokens.len(),
            (None, None) => 0,
        };
        self.slots.iter().map(held).sum()
    }

    /// Takes out what a free slot holds.
    pub(crate) fn take_held(&mut self, slot: Slot) -> Option<Prefix> {
        self.slots.get_mut(slot).and_then(|place| place.held.take())
    }

    /// Takes out what all free slots hold. Returns the slots to clear.
    pub(crate) fn take_all_held(&mut self) -> Vec<Slot> {
        let slots = (0..).zip(&mut self.slots);
        slots.filter_map(|(slot, place)| place.held.take().map(|_| slot)).collect()
    }

    /// Starts a sequence in a free slot, the first `found` tokens of which are there.
    pub(crate) fn start(&mut self, slot: Slot, mut sequence: Sequence, found: usize) {
        self.uses = self.uses.saturating_add(1);
        if let Some(place) = self.slots.get_mut(slot) {
            sequence.start(found);
            *place = Place { running: Some(sequence), held: None, used: self.uses };
        }
    }

    /// Takes out what nobody waits for: cancelled, or not read for too long. Returns the slots to clear.
    pub(crate) fn reap(&mut self, stalled: Duration, now: Instant) -> Vec<Slot> {
        let gone = |sequence: &Sequence| sequence.is_cancelled() || sequence.is_stalled(stalled, now);
        let gone: Vec<Slot> = (0..)
            .zip(&self.slots)
            .filter_map(|(slot, place)| place.running.as_ref().is_some_and(gone).then_some(slot))
            .collect();
        gone.into_iter().filter(|slot| self.release(*slot) == Released::ToClear).collect()
    }

    /// Ends what runs in a slot; what it computed stays, unless it is to be forgotten.
    fn release(&mut self, slot: Slot) -> Released {
        let Some(place) = self.slots.get_mut(slot) else { return Released::Held };
        place.held = place.running.take().and_then(Sequence::into_prefix);
        if place.held.is_some() { Released::Held } else { Released::ToClear }
    }

    /// Forgets what was computed for a session, at once or when it ends. Returns the slots to clear.
    pub(crate) fn forget(&mut self, session: u64) -> Vec<Slot> {
        let of_session = |prefix: &mut Prefix| prefix.owner.session == session;
        let mut to_clear = Vec::new();
        for (slot, place) in (0..).zip(&mut self.slots) {
            if let Some(sequence) = place.running.as_mut().filter(|it| it.owner().session == session) {
                sequence.forget();
            }
            if place.held.take_if(of_session).is_some() {
                to_clear.push(slot);
            }
        }
        to_clear
    }

    /// From here on a step computes no more than `tokens` of prompts while every place is taken.
    pub(crate) fn limit_when_full(&mut self, tokens: usize) {
        self.full_budget = tokens.max(1);
    }

    /// The next step. Empty when no sequence can take one.
    pub(crate) fn plan(&mut self, now: Instant) -> Vec<Item> {
        let mut items = Vec::new();
        let mut prefilling = Vec::new();
        for (slot, place) in (0..).zip(&mut self.slots) {
            let Some(sequence) = &mut place.running else { continue };
            if !sequence.is_ready(now) {
                continue;
            }
            match sequence.pending_token() {
                Some(token) => {
                    items.push(Item { slot, token, position: sequence.position(), wants_logits: true })
                }
                None => prefilling.push(slot),
            }
        }
        let budget = self.budget(!items.is_empty());
        let mut left = budget;
        if prefilling.len() > 1
            && let Some(oldest) = prefilling.iter().copied().min_by_key(|slot| self.used(*slot))
        {
            let share = budget.div_ceil(OLDEST_SHARE);
            left = left.saturating_sub(self.plan_prefill(oldest, 0, share, &mut items));
        }
        prefilling.sort_by_key(|slot| (self.left_to_prefill(*slot), self.used(*slot)));
        for slot in prefilling {
            let planned = items.iter().filter(|item| item.slot == slot).count();
            left = left.saturating_sub(self.plan_prefill(slot, planned, left, &mut items));
        }
        items
    }

    fn budget(&self, answers_run: bool) -> usize {
        // Running answers stutter by as much as a step takes.
        let share = if answers_run { BUSY_SHARE } else { 1 };
        let is_full = self.slots.iter().all(|place| place.running.is_some());
        self.prefill_budget.div_ceil(share).min(if is_full { self.full_budget } else { usize::MAX })
    }

    fn used(&self, slot: Slot) -> u64 {
        self.slots.get(slot).map_or(0, |place| place.used)
    }

    fn left_to_prefill(&self, slot: Slot) -> usize {
        let running = self.slots.get(slot).and_then(|place| place.running.as_ref());
        running.map_or(0, Sequence::left_to_prefill)
    }

    /// Adds up to `share` more tokens of a prompt to a step that has `planned` of them. Returns how many.
    fn plan_prefill(&self, slot: Slot, planned: usize, share: usize, items: &mut Vec<Item>) -> usize {
        let place = self.slots.get(slot).and_then(|place| place.running.as_ref());
        let Some(sequence) = place else { return 0 };
        let unseen = sequence.unseen_prompt().get(planned..).unwrap_or_default();
        let chunk = unseen.get(..share.min(unseen.len())).unwrap_or_default();
        let start = sequence.position().saturating_add(planned);
        let end = start.saturating_add(chunk.len());
        let last = sequence.is_prompt_through_after(planned.saturating_add(chunk.len()));
        items.extend((start..end).zip(chunk).map(|(position, token)| Item {
            slot,
            token: *token,
            position,
            wants_logits: last && position.saturating_add(1) == end,
        }));
        chunk.len()
    }

    /// What a step of `items` computes.
    pub(crate) fn computed(&self, items: &[Item]) -> Computed {
        let mut computed = Computed::default();
        for item in items {
            let running = self.slots.get(item.slot).and_then(|place| place.running.as_ref());
            let decodes = running.is_some_and(|sequence| sequence.pending_token().is_some());
            let count = if decodes { &mut computed.decoded } else { &mut computed.prefilled };
            *count = count.saturating_add(1);
        }
        computed
    }

    /// Takes in what a step of `items` computed; `logits` gives those of an item by its place in the step.
    pub(crate) fn apply<'a>(
        &mut self,
        items: &[Item],
        logits: impl Fn(usize) -> &'a [f32],
        vocabulary: &impl Vocabulary,
    ) -> Applied {
        let mut applied = Applied::default();
        let mut done = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let running = self.slots.get_mut(item.slot).and_then(|place| place.running.as_mut());
            let Some(sequence) = running else { continue };
            sequence.advance(1);
            if let Some(prefix) = sequence.reached_shareable() {
                applied.shareable.push((item.slot, prefix));
            }
            if item.wants_logits && sequence.step(logits(place), vocabulary) == Next::Done {
                done.push(item.slot);
            }
        }
        applied.to_clear = done.into_iter().filter(|slot| self.release(*slot) == Released::ToClear).collect();
        applied
    }
}

/// What became of a slot whose sequence has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Released {
    Held,
    ToClear,
}

/// Requests that wait for a slot, in turns of their clients.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    turns: VecDeque<u64>,
    requests: HashMap<u64, VecDeque<T>>,
}

/// Whether one more may wait of a client who has `own` waiting, where `waiting` of all clients do: as long as the
/// client has fewer than there are places left (the dynamic thresholds of Choudhury and Hahne, 1998). One client alone
/// gets half of the line, two get a third each, and there is always a place for who has none.
pub(crate) fn has_room(own: usize, waiting: usize, limit: usize) -> bool {
    own < limit.saturating_sub(waiting)
}

impl<T> Waiting<T> {
    pub(crate) fn new() -> Self {
        Self { turns: VecDeque::new(), requests: HashMap::new() }
    }

    pub(crate) fn push(&mut self, client: u64, request: T) {
        let requests = self.requests.entry(client).or_default();
        if requests.is_empty() {
            self.turns.push_back(client);
        }
        requests.push_back(request);
    }

    /// The next request: the oldest of the client whose turn it is, who then goes to the end of the line.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let client = self.turns.pop_front()?;
        let requests = self.requests.get_mut(&client)?;
        let request = requests.pop_front();
        if requests.is_empty() {
            self.requests.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        request
    }

    /// Removes the requests that `is_gone`.
    pub(crate) fn reap(&mut self, is_gone: impl Fn(&T) -> bool) {
        for requests in self.requests.values_mut() {
            requests.retain(|request| !is_gone(request));
        }
        self.requests.retain(|_, requests| !requests.is_empty());
        let Self { turns, requests } = self;
        turns.retain(|client| requests.contains_key(client));
    }

    /// How many requests of a client wait.
    pub(crate) fn of(&self, client: u64) -> usize {
        self.requests.get(&client).map_or(0, VecDeque::len)
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests;
