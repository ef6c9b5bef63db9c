//! Which tokens go into the model's next step. Pure: no thread, no clock, no model; stepped by hand in tests.
//!
//! Sequences join and leave between any two steps. A step holds one token of every sequence that is decoding,
//! and then, up to the budget, chunks of the prompts that are not through yet, shared evenly, so that a long
//! prompt holds nobody up. Waiting requests are admitted in turns of their clients, not in order of arrival,
//! so that a client with fifty requests does not keep another's first one waiting.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::sampler::Token;
use crate::sequence::{Next, Sequence, Vocabulary};

/// A place in the model's memory.
pub(crate) type Slot = usize;

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

/// Running sequences in their slots.
#[derive(Debug)]
pub(crate) struct Scheduler {
    slots: Vec<Option<Sequence>>,
    prefill_budget: usize,
    /// Which sequence is first in line for what is left of the budget.
    turn: usize,
}

impl Scheduler {
    pub(crate) fn new(slots: usize, prefill_budget: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(|| None).take(slots).collect(),
            prefill_budget: prefill_budget.max(1),
            turn: 0,
        }
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }

    pub(crate) fn running(&self) -> usize {
        self.slots.len().saturating_sub(self.free_slots())
    }

    /// Puts a sequence into a free slot; gives it back where there is none.
    pub(crate) fn admit(&mut self, sequence: Sequence) -> Option<Sequence> {
        match self.slots.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(sequence);
                None
            }
            None => Some(sequence),
        }
    }

    /// Takes out what nobody waits for: cancelled, or not read for too long. Returns the slots to clear.
    pub(crate) fn reap(&mut self, stalled: Duration, now: Instant) -> Vec<Slot> {
        let gone = |sequence: &Sequence| sequence.is_cancelled() || sequence.is_stalled(stalled, now);
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(slot, place)| place.take_if(|sequence| gone(sequence)).map(|_| slot)).collect()
    }

    /// The next step. Empty when no sequence can take one.
    pub(crate) fn plan(&mut self, now: Instant) -> Vec<Item> {
        let mut items = Vec::new();
        let mut prefilling = Vec::new();
        for (slot, sequence) in (0..).zip(&mut self.slots) {
            let Some(sequence) = sequence else { continue };
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
        self.turn = self.turn.wrapping_add(1);
        if let Some(first) = self.turn.checked_rem(prefilling.len()) {
            prefilling.rotate_left(first);
        }
        let mut left = self.prefill_budget;
        for (done, slot) in prefilling.iter().enumerate() {
            let others = prefilling.len().saturating_sub(done);
            let share = left.div_ceil(others.max(1)).min(left);
            left = left.saturating_sub(self.plan_prefill(*slot, share, &mut items));
        }
        items
    }

    fn plan_prefill(&self, slot: Slot, share: usize, items: &mut Vec<Item>) -> usize {
        let Some(sequence) = self.slots.get(slot).and_then(Option::as_ref) else { return 0 };
        let unseen = sequence.unseen_prompt();
        let chunk = unseen.get(..share.min(unseen.len())).unwrap_or_default();
        let last = chunk.len() == unseen.len();
        let end = sequence.position().saturating_add(chunk.len());
        items.extend((sequence.position()..end).zip(chunk).map(|(position, token)| Item {
            slot,
            token: *token,
            position,
            wants_logits: last && position.saturating_add(1) == end,
        }));
        chunk.len()
    }

    /// Takes in what a step of `items` computed; `logits` gives those of an item by its place in the step.
    /// Returns the slots to clear, and what was computed.
    pub(crate) fn apply<'a>(
        &mut self,
        items: &[Item],
        logits: impl Fn(usize) -> &'a [f32],
        vocabulary: &impl Vocabulary,
    ) -> (Vec<Slot>, Computed) {
        let mut computed = Computed::default();
        let mut done = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let Some(Some(sequence)) = self.slots.get_mut(item.slot) else { continue };
            let decoding = sequence.pending_token().is_some();
            sequence.advance(1);
            let count = if decoding { &mut computed.decoded } else { &mut computed.prefilled };
            *count = count.saturating_add(1);
            if item.wants_logits && sequence.step(logits(place), vocabulary) == Next::Done {
                done.push(item.slot);
            }
        }
        for slot in &done {
            if let Some(place) = self.slots.get_mut(*slot) {
                *place = None;
            }
        }
        (done, computed)
    }

    /// Takes every sequence out, after a failure.
    pub(crate) fn take_all(&mut self) -> Vec<Sequence> {
        self.slots.iter_mut().filter_map(Option::take).collect()
    }
}

/// Requests that wait for a slot, in turns of their clients.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    turns: VecDeque<u64>,
    requests: HashMap<u64, VecDeque<T>>,
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

    /// Removes the requests that `is_gone`; returns how many.
    pub(crate) fn reap(&mut self, is_gone: impl Fn(&T) -> bool) -> usize {
        let before = self.len();
        for requests in self.requests.values_mut() {
            requests.retain(|request| !is_gone(request));
        }
        self.requests.retain(|_, requests| !requests.is_empty());
        let Self { turns, requests } = self;
        turns.retain(|client| requests.contains_key(client));
        before.saturating_sub(self.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FinishReason, Generation, Output, Sampling,
        sequence::{Outputs, Prepared},
    };

    /// Ten tokens, one letter each; the last ends the answer.
    struct Letters;

    impl Vocabulary for Letters {
        fn piece(&self, token: Token) -> Vec<u8> {
            vec![b'a' + u8::try_from(token).unwrap()]
        }
        fn is_end(&self, token: Token) -> bool {
            token == 9
        }
    }

    /// Whoever asks, the next letter after the one just seen comes.
    fn fake_model(items: &[Item]) -> Vec<[f32; 10]> {
        let after = |item: &Item| usize::try_from(item.token + 1).unwrap().min(9);
        items.iter().map(|item| std::array::from_fn(|at| if at == after(item) { 1.0 } else { 0.0 })).collect()
    }

    fn sequence(prompt: Vec<Token>, max_tokens: Option<u32>) -> (Sequence, Generation) {
        let (outputs, generation) = Outputs::channel();
        let prepared = Prepared {
            prompt,
            dropped_messages: 0,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            seed: 0,
            stop: Vec::new(),
            max_tokens,
            context_window: 1000,
        };
        (Sequence::new(outputs, prepared), generation)
    }

    fn step(scheduler: &mut Scheduler) -> Vec<Item> {
        let items = scheduler.plan(Instant::now());
        let logits = fake_model(&items);
        scheduler.apply(&items, |place| &logits[place], &Letters);
        items
    }

    fn read(generation: &mut Generation) -> (String, Option<FinishReason>) {
        let mut text = String::new();
        let mut reason = None;
        while let Ok(output) = generation.outputs.try_recv() {
            match output {
                Output::Text { text: more, .. } => text.push_str(more.as_str()),
                Output::Finished { reason: why, .. } => reason = Some(why),
                Output::Started { .. } | Output::Failed(_) => {}
            }
        }
        (text, reason)
    }

    #[test]
    fn a_sequence_is_prefilled_decoded_and_ended() {
        let mut scheduler = Scheduler::new(1, 8);
        let (one, mut generation) = sequence(vec![0, 1, 5], None);
        assert!(scheduler.admit(one).is_none());
        let first = step(&mut scheduler);
        assert_eq!(first.iter().map(|item| item.wants_logits).collect::<Vec<_>>(), [false, false, true]);
        while scheduler.running() > 0 {
            step(&mut scheduler);
        }
        assert_eq!(read(&mut generation), ("ghi".into(), Some(FinishReason::Stop)));
    }

    #[test]
    fn sequences_join_between_two_steps() {
        let mut scheduler = Scheduler::new(2, 8);
        let (one, mut first) = sequence(vec![0], None);
        scheduler.admit(one);
        step(&mut scheduler);
        step(&mut scheduler);
        let (two, mut second) = sequence(vec![3], None);
        scheduler.admit(two);
        let items = step(&mut scheduler);
        assert_eq!(items.len(), 2, "one decodes while the other is prefilled");
        while scheduler.running() > 0 {
            step(&mut scheduler);
        }
        assert_eq!(read(&mut first).0, "bcdefghi");
        assert_eq!(read(&mut second).0, "efghi");
    }

    #[test]
    fn a_long_prompt_is_cut_into_chunks_and_holds_nobody_up() {
        let mut scheduler = Scheduler::new(3, 4);
        let (short, _short) = sequence(vec![0], None);
        scheduler.admit(short);
        step(&mut scheduler);
        let (long, _long) = sequence(vec![1; 10], None);
        let (longer, _longer) = sequence(vec![1; 20], None);
        scheduler.admit(long);
        scheduler.admit(longer);
        for _ in 0..3 {
            let items = step(&mut scheduler);
            let of = |slot| items.iter().filter(|item| item.slot == slot).count();
            assert_eq!((of(0), of(1), of(2)), (1, 2, 2), "the decode first, the budget shared evenly");
        }
    }

    #[test]
    fn a_cancelled_sequence_frees_its_slot() {
        let mut scheduler = Scheduler::new(1, 4);
        let (one, generation) = sequence(vec![0], None);
        scheduler.admit(one);
        step(&mut scheduler);
        drop(generation);
        assert_eq!(scheduler.reap(Duration::from_secs(9), Instant::now()), [0]);
        assert_eq!(scheduler.free_slots(), 1);
    }

    #[test]
    fn a_slow_reader_stops_only_itself_and_is_taken_out_in_the_end() {
        let mut scheduler = Scheduler::new(2, 64);
        // Token 8 comes again and again for this one: the prompt ends in 7 and the penalty is off.
        let (slow, _unread) = sequence(vec![0], None);
        scheduler.admit(slow);
        let fill = |sequence: &mut Sequence, now| {
            while sequence.is_ready(now) {
                sequence.advance(1);
                sequence.step(&[1.0, 0.0], &Letters);
            }
        };
        let start = Instant::now();
        fill(scheduler.slots[0].as_mut().unwrap(), start);
        let (quick, mut read_by_somebody) = sequence(vec![5], None);
        scheduler.admit(quick);
        while scheduler.slots[1].is_some() {
            assert!(step(&mut scheduler).iter().all(|item| item.slot == 1));
        }
        assert_eq!(read(&mut read_by_somebody).0, "ghi");
        let limit = Duration::from_secs(5);
        assert!(scheduler.reap(limit, start + Duration::from_secs(4)).is_empty());
        assert_eq!(scheduler.reap(limit, start + Duration::from_secs(6)), [0]);
    }

    #[test]
    fn max_tokens_ends_with_length() {
        let mut scheduler = Scheduler::new(1, 8);
        let (one, mut generation) = sequence(vec![0], Some(3));
        scheduler.admit(one);
        while scheduler.running() > 0 {
            step(&mut scheduler);
        }
        assert_eq!(read(&mut generation), ("bcd".into(), Some(FinishReason::Length)));
    }

    #[test]
    fn clients_take_turns() {
        let mut waiting = Waiting::new();
        for request in ["a1", "a2", "a3"] {
            waiting.push(1, request);
        }
        waiting.push(2, "b1");
        waiting.push(3, "c1");
        waiting.push(2, "b2");
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn requests_that_are_gone_leave_the_line() {
        let mut waiting = Waiting::new();
        waiting.push(1, "gone");
        waiting.push(2, "stays");
        assert_eq!(waiting.reap(|request| *request == "gone"), 1);
        assert_eq!((waiting.len(), waiting.pop(), waiting.pop()), (1, Some("stays"), None));
    }
}
