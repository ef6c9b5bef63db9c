//! Which tokens go into the model's next step. Pure: no thread, no clock, no model; stepped by hand in tests.
//!
//! Sequences join and leave between any two steps. A step holds one token of every sequence that is decoding,
//! and then, up to the budget, chunks of the prompts that are not through yet: those with least left first, as
//! that makes the mean time to the first token least (Schrage 1968), but a quarter of the budget goes to who
//! has waited longest, so that a long prompt neither holds the others up nor is held up for ever. While
//! answers run, the budget is a quarter of what it is else: they wait for every step. Waiting requests are admitted
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
    uses: u64,
}

impl Scheduler {
    pub(crate) fn new(slots: usize, prefill_budget: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(Place::default).take(slots).collect(),
            prefill_budget: prefill_budget.max(1),
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
        // Running answers stutter by as much as a step takes.
        let budget =
            if items.is_empty() { self.prefill_budget } else { self.prefill_budget.div_ceil(BUSY_SHARE) };
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
mod tests {
    use super::*;
    use crate::{
        FinishReason, Generation, Output, Sampling,
        prefix::Owner,
        sequence::{Control, Outputs, Prepared},
    };

    /// Ten tokens, one letter each; the last ends the answer.
    struct Letters;

    impl Vocabulary for Letters {
        fn piece(&self, token: Token, _control: Control) -> Vec<u8> {
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
        (Sequence::new(outputs, prepared(prompt, max_tokens)), generation)
    }

    fn prepared(prompt: Vec<Token>, max_tokens: Option<u32>) -> Prepared {
        Prepared {
            prompt,
            dropped_messages: 0,
            sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
            seed: 0,
            stop: Vec::new(),
            max_tokens,
            context_window: 1000,
            owner: Owner { scope: 1, session: 1 },
            everyones: 0,
            shareable: 0,
            logprobs: None,
            constraint: None,
            tools: None,
        }
    }

    fn admit(scheduler: &mut Scheduler, sequence: Sequence) {
        let slot = scheduler.free_slots().first().unwrap().slot;
        scheduler.start(slot, sequence, 0);
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
                Output::Started { .. }
                | Output::Reasoning { .. }
                | Output::ToolCalls { .. }
                | Output::Failed(_) => {}
            }
        }
        (text, reason)
    }

    #[test]
    fn a_sequence_is_prefilled_decoded_and_ended() {
        let mut scheduler = Scheduler::new(1, 8);
        let (one, mut generation) = sequence(vec![0, 1, 5], None);
        admit(&mut scheduler, one);
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
        admit(&mut scheduler, one);
        step(&mut scheduler);
        step(&mut scheduler);
        let (two, mut second) = sequence(vec![3], None);
        admit(&mut scheduler, two);
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
        let mut scheduler = Scheduler::new(3, 16);
        let (short, _short) = sequence(vec![0], None);
        admit(&mut scheduler, short);
        step(&mut scheduler);
        let (longer, _longer) = sequence(vec![1; 40], None);
        let (long, _long) = sequence(vec![1; 12], None);
        admit(&mut scheduler, longer);
        admit(&mut scheduler, long);
        let mut planned = Vec::new();
        for _ in 0..3 {
            let items = step(&mut scheduler);
            let of = |slot| items.iter().filter(|item| item.slot == slot).count();
            planned.push((of(0), of(1), of(2)));
        }
        assert_eq!(
            planned,
            [(1, 1, 3), (1, 1, 3), (1, 1, 3)],
            "the decode, and a quarter of the budget: a quarter of that for the oldest, the rest for the shortest"
        );
    }

    #[test]
    fn all_of_the_budget_is_used_and_every_token_is_planned_once() {
        let mut scheduler = Scheduler::new(4, 10);
        let prompts = [25, 3, 14, 8];
        let generations: Vec<_> = prompts
            .iter()
            .map(|length| {
                let (one, generation) = sequence(vec![9; *length], Some(1));
                admit(&mut scheduler, one);
                generation
            })
            .collect();
        let mut seen = [0; 4];
        while scheduler.running() > 0 {
            let items = step(&mut scheduler);
            for item in &items {
                assert_eq!(item.position, seen[item.slot], "in order, none twice");
                seen[item.slot] += 1;
            }
            let left: usize = prompts.iter().sum::<usize>() - seen.iter().sum::<usize>();
            assert!(items.len() >= 5 || left == 0, "{} tokens, {left} left", items.len());
        }
        assert_eq!(seen, prompts);
        drop(generations);
    }

    #[test]
    fn a_cancelled_sequence_frees_its_slot() {
        let mut scheduler = Scheduler::new(1, 4);
        let (one, generation) = sequence(vec![0], None);
        admit(&mut scheduler, one);
        step(&mut scheduler);
        drop(generation);
        assert!(scheduler.reap(Duration::from_secs(9), Instant::now()).is_empty(), "what it computed stays");
        assert_eq!(scheduler.free_slots().len(), 1);
    }

    #[test]
    fn a_slow_reader_stops_only_itself_and_is_taken_out_in_the_end() {
        let mut scheduler = Scheduler::new(2, 64);
        // Token 8 comes again and again for this one: the prompt ends in 7 and the penalty is off.
        let (slow, _unread) = sequence(vec![0], None);
        admit(&mut scheduler, slow);
        let fill = |sequence: &mut Sequence, now| {
            while sequence.is_ready(now) {
                sequence.advance(1);
                sequence.step(&[1.0, 0.0], &Letters);
            }
        };
        let start = Instant::now();
        fill(scheduler.slots[0].running.as_mut().unwrap(), start);
        let (quick, mut read_by_somebody) = sequence(vec![5], None);
        admit(&mut scheduler, quick);
        while scheduler.slots[1].running.is_some() {
            assert!(step(&mut scheduler).iter().all(|item| item.slot == 1));
        }
        assert_eq!(read(&mut read_by_somebody).0, "ghi");
        let limit = Duration::from_secs(5);
        scheduler.reap(limit, start + Duration::from_secs(4));
        assert_eq!(scheduler.running(), 1);
        scheduler.reap(limit, start + Duration::from_secs(6));
        assert_eq!(scheduler.running(), 0);
    }

    #[test]
    fn what_was_computed_stays_in_its_slot() {
        let mut scheduler = Scheduler::new(1, 8);
        let (one, _generation) = sequence(vec![0, 1, 5], None);
        admit(&mut scheduler, one);
        while scheduler.running() > 0 {
            step(&mut scheduler);
        }
        let held = scheduler.free_slots()[0].holds.unwrap().tokens.clone();
        assert_eq!(held, [0, 1, 5, 6, 7, 8], "prompt and answer, as the model saw them");
        let (next, _generation) = sequence(vec![0, 1, 5, 6, 7, 8, 2, 3], None);
        scheduler.start(0, next, 6);
        assert_eq!(step(&mut scheduler).iter().map(|item| item.position).collect::<Vec<_>>(), [6, 7]);
    }

    #[test]
    fn what_is_to_be_forgotten_is_cleared_at_once_or_when_it_ends() {
        let mut scheduler = Scheduler::new(2, 8);
        for _ in 0..2 {
            let (one, _) = sequence(vec![0], None);
            admit(&mut scheduler, one);
        }
        assert!(scheduler.forget(1).is_empty(), "both run");
        assert_eq!(scheduler.reap(Duration::from_secs(9), Instant::now()), [0, 1]);
        let (one, _) = sequence(vec![0], None);
        admit(&mut scheduler, one);
        assert!(scheduler.reap(Duration::from_secs(9), Instant::now()).is_empty());
        assert!(scheduler.forget(2).is_empty(), "another session's");
        assert_eq!(scheduler.forget(1), [0]);
        assert!(scheduler.free_slots().iter().all(|slot| slot.holds.is_none()));
    }

    #[test]
    fn the_prefill_makes_a_stop_at_the_end_of_the_system_prompt() {
        let mut scheduler = Scheduler::new(1, 64);
        let (outputs, _generation) = Outputs::channel();
        let prompt = vec![3; 40];
        let one = Sequence::new(outputs, Prepared { shareable: 30, ..prepared(prompt, None) });
        admit(&mut scheduler, one);
        let items = scheduler.plan(Instant::now());
        assert!(items.len() == 30 && items.iter().all(|item| !item.wants_logits));
        let applied = scheduler.apply(&items, |_| &[], &Letters);
        assert_eq!(
            applied.shareable.iter().map(|(slot, prefix)| (*slot, prefix.tokens.len())).collect::<Vec<_>>(),
            [(0, 30)]
        );
        let items = step(&mut scheduler);
        assert!(items.len() == 10 && items[9].wants_logits);
    }

    #[test]
    fn max_tokens_ends_with_length() {
        let mut scheduler = Scheduler::new(1, 8);
        let (one, mut generation) = sequence(vec![0], Some(3));
        admit(&mut scheduler, one);
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
        waiting.reap(|request| *request == "gone");
        assert_eq!((waiting.len(), waiting.pop(), waiting.pop()), (1, Some("stays"), None));
    }

    #[test]
    fn a_client_that_fills_the_line_leaves_room_for_another() {
        let fill = |limit: usize| {
            let mut waiting = Waiting::new();
            while has_room(waiting.of(1), waiting.len(), limit) {
                waiting.push(1, ());
            }
            waiting
        };
        for limit in 1..=64 {
            let waiting = fill(limit);
            assert_eq!(waiting.len(), limit.div_ceil(2), "of {limit}");
            assert!(limit < 2 || has_room(waiting.of(2), waiting.len(), limit), "of {limit}");
        }
    }
}
