//! The scheduler, stepped by hand.

use super::*;
use crate::{
    FinishReason, Generation, Output, Sampling,
    in_flight::Outputs,
    prefix::Owner,
    sequence::{Control, Prepared},
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
fn steps_are_short_while_every_place_is_taken() {
    let mut scheduler = Scheduler::new(2, 64);
    scheduler.limit_when_full(12);
    let (one, _one) = sequence(vec![1; 200], None);
    admit(&mut scheduler, one);
    assert_eq!(step(&mut scheduler).len(), 64, "nobody has to wait for a place");
    let (two, two_is_read) = sequence(vec![1; 200], None);
    admit(&mut scheduler, two);
    assert_eq!(step(&mut scheduler).len(), 12);
    drop(two_is_read);
    let gone = scheduler.reap(Duration::from_secs(60), Instant::now());
    assert_eq!((gone.len(), step(&mut scheduler).len()), (0, 64), "its words stay, its place is free");
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
