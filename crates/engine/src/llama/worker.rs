//! The thread that computes: admit, plan, step, apply.

use std::{
    panic::resume_unwind,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::{Duration, Instant},
};

use super::{
    Command, InjectedFault, LoadError, Shared,
    context::{Context, SlotState, StepFailed},
    embedder::Embedder,
    model::Model,
    supervisor::{Ended, Inbox, Life, Progress, Supervised, open},
};
use crate::{
    LlamaConfig, Loading, MOST_SEQUENCES, Output, Request,
    in_flight::Outputs,
    prefix::{self, Costs, Found, Prefix, PrefixCache, State as _},
    scheduler::{Applied, Item, Scheduler, Slot, Waiting},
    sequence::Sequence,
};

/// How long the thread sleeps when every sequence waits for its reader.
const NAP: Duration = Duration::from_millis(5);

/// How long a step of prompts may take while every place is taken: whoever waits for one gets it a quarter of a second
/// after its client has gone.
const LONGEST_STEP: Duration = Duration::from_millis(200);

/// Loads the model, now or when it is asked for, and answers requests until it is told to stop or cannot go on.
pub(super) fn live(
    supervised: &Supervised,
    life: &Life,
    mut ready: Option<SyncSender<Result<u32, LoadError>>>,
    mut progress: Progress,
) -> Ended {
    let Supervised { config, inbox, shared } = supervised;
    let mut first = None;
    if config.loading == Loading::OnDemand {
        if let Some(ready) = ready.take() {
            let looked = Model::look(config);
            shared.healthy.store(looked.is_ok(), Ordering::Release);
            if ready.send(looked).is_err() {
                return Ended::Stopped;
            }
        }
        shared.slots.store(count(config.max_sequences.unwrap_or(MOST_SEQUENCES)), Ordering::Relaxed);
        let Some(command) = wait(shared, inbox) else { return Ended::Stopped };
        first = Some(command);
    }
    loop {
        let (on_demand, start) = (ready.is_none(), Instant::now());
        if on_demand {
            tracing::info!(model = config.name, "loading");
        }
        let model = match Model::load(config, progress) {
            Ok(model) => model,
            Err(error) => return Ended::NotLoaded(error),
        };
        if on_demand {
            tracing::info!(model = config.name, milliseconds = start.elapsed().as_millis(), "loaded");
        }
        shared.loaded.store(true, Ordering::Relaxed);
        let ended = serve(supervised, life, &model, ready.take(), &mut first);
        shared.loaded.store(false, Ordering::Relaxed);
        shared.kv_tokens.store(0, Ordering::Relaxed);
        shared.kv_tokens_used.store(0, Ordering::Relaxed);
        if let Some(ended) = ended {
            return ended;
        }
        drop(model);
        tracing::info!(model = config.name, "unloaded: nobody has asked for it");
        let Some(command) = wait(shared, inbox) else { return Ended::Stopped };
        first = Some(command);
        progress = Box::new(|_| {});
    }
}

/// Waits without the model in memory until it is asked for; `None` when the work is over.
fn wait(shared: &Shared, inbox: &Inbox) -> Option<Command> {
    shared.running.store(0, Ordering::Relaxed);
    shared.healthy.store(true, Ordering::Release);
    loop {
        let command = open(inbox).recv().ok()?;
        if shared.is_stopping() {
            return None;
        }
        // What ended had nothing in memory.
        drop(shared.take_forgotten());
        if matches!(command, Command::Generate(..) | Command::Embed(_)) {
            return Some(command);
        }
    }
}

/// Answers requests. `None` when nobody has asked for so long that the model may go.
fn serve(
    supervised: &Supervised,
    life: &Life,
    model: &Model,
    mut ready: Option<SyncSender<Result<u32, LoadError>>>,
    first: &mut Option<Command>,
) -> Option<Ended> {
    let Supervised { config, inbox, shared } = supervised;
    let mut cache = PrefixCache::new(config.prefix_cache_bytes);
    let sequences = model.sequences(config);
    shared.slots.store(count(sequences), Ordering::Relaxed);
    let room = count(sequences).saturating_mul(count(model.context_window()));
    shared.kv_tokens.store(room, Ordering::Relaxed);
    loop {
        let mut context = match model.context(config, sequences) {
            Ok(context) => context,
            Err(error) => return Some(Ended::NotLoaded(error)),
        };
        shared.healthy.store(true, Ordering::Release);
        if let Some(ready) = ready.take()
            && ready.send(Ok(model.context_window())).is_err()
        {
            return Some(Ended::Stopped);
        }
        let mut worker = Worker {
            model,
            config,
            shared,
            life,
            scheduler: Scheduler::new(count(sequences), count(config.prefill_chunk)),
            waiting: Waiting::new(),
            embedder: Embedder::new(model, config),
            cache: &mut cache,
            costs: Costs::default(),
            fault: None,
            active: Instant::now(),
        };
        if let Some(command) = first.take() {
            worker.take(command);
        }
        let result = worker.run(&mut context, inbox);
        life.rest();
        if life.is_abandoned() {
            return Some(Ended::Stopped);
        }
        if matches!(result, Ok(Rest::Idle)) {
            return None;
        }
        // Those who never had a slot too: their turn would come after a failure of unknown length. Before their
        // outputs close with the worker: who sees that asks again, and is not of this failure.
        shared.in_flight.fail_all();
        drop(worker);
        match result {
            Ok(_) => return Some(Ended::Stopped),
            Err(error) => tracing::error!(%error, "the engine failed and starts anew"),
        }
        shared.healthy.store(false, Ordering::Release);
        shared.running.store(0, Ordering::Relaxed);
        shared.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Why a worker rests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rest {
    /// The work is over.
    Over,
    /// Nobody has asked for long enough.
    Idle,
}

struct Worker<'a> {
    model: &'a Model,
    config: &'a LlamaConfig,
    shared: &'a Shared,
    life: &'a Life,
    scheduler: Scheduler,
    waiting: Waiting<(Box<Request>, Outputs)>,
    embedder: Embedder<'a>,
    cache: &'a mut PrefixCache<SlotState>,
    costs: Costs,
    fault: Option<InjectedFault>,
    /// When the last work was asked for or done.
    active: Instant,
}

impl Worker<'_> {
    /// Works until it is told to stop.
    fn run(&mut self, context: &mut Context<'_>, inbox: &Inbox) -> Result<Rest, StepFailed> {
        loop {
            // Before the thread may sleep, so that what is held is said while nothing runs.
            self.shared.kv_tokens_used.store(self.scheduler.held_tokens(), Ordering::Relaxed);
            if let Some(rest) = self.take_commands(inbox) {
                return Ok(rest);
            }
            self.life.work();
            for session in self.shared.take_forgotten() {
                clear(context, &self.scheduler.forget(session))?;
                self.cache.forget(session);
            }
            let now = tokio::time::Instant::now();
            clear(context, &self.scheduler.reap(self.config.stalled_reader, now))?;
            self.waiting.reap(|(_, outputs)| outputs.is_cancelled());
            self.admit(context)?;
            self.shared.running.store(self.scheduler.running(), Ordering::Relaxed);
            self.shared.prefix_cache_bytes.store(self.cache.bytes(), Ordering::Relaxed);
            self.step(context, now)?;
            self.embed()?;
        }
    }

    /// Takes what has come in; sleeps while there is nothing to do.
    fn take_commands(&mut self, inbox: &Inbox) -> Option<Rest> {
        if self.life.is_abandoned() {
            return Some(Rest::Over);
        }
        // Held for no longer than this: a step that hangs must not keep the inbox from the next life.
        let inbox = open(inbox);
        let idle = self.scheduler.running() == 0 && self.waiting.len() == 0 && self.embedder.is_idle();
        if idle {
            self.shared.running.store(0, Ordering::Relaxed);
            self.life.rest();
            let command = match self.config.unload_after {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                // What only wakes the thread, say the end of a session somewhere, is no work for this model.
                Some(limit) => inbox.recv_timeout(limit.saturating_sub(self.active.elapsed())),
            };
            match command {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => return Some(Rest::Idle),
                Err(RecvTimeoutError::Disconnected) => return Some(Rest::Over),
            }
        } else {
            self.active = Instant::now();
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => {
                    let over = self.shared.is_stopping() || self.life.is_abandoned();
                    return over.then_some(Rest::Over);
                }
                Err(TryRecvError::Disconnected) => return Some(Rest::Over),
            }
        }
    }

    fn take(&mut self, command: Command) {
        if matches!(command, Command::Generate(..) | Command::Embed(_)) {
            self.active = Instant::now();
        }
        match command {
            Command::Generate(request, outputs) => self.waiting.push(request.client, (request, outputs)),
            Command::Embed(job) => self.embedder.push(*job),
            Command::Fail(fault) => self.fault = Some(fault),
            Command::Wake => {}
        }
    }

    /// Gives free slots to those whose turn it is.
    fn admit(&mut self, context: &mut Context<'_>) -> Result<(), StepFailed> {
        while !self.scheduler.free_slots().is_empty()
            && let Some((request, outputs)) = self.waiting.pop()
        {
            // Of a stranger's making: their schema is compiled here.
            self.life.work();
            match self.model.prepare(*request) {
                Ok(prepared) => self.place(context, Sequence::new(outputs, prepared))?,
                Err(failure) => outputs.send(Output::Failed(failure)),
            }
        }
        Ok(())
    }

    /// Puts a sequence where most of its prompt is, or can be had for less than computing it.
    fn place(&mut self, context: &mut Context<'_>, mut sequence: Sequence) -> Result<(), StepFailed> {
        let (owner, prompt) = (sequence.owner(), sequence.prompt());
        let free = self.scheduler.free_slots();
        let Some(placement) = prefix::place(&free, self.cache, &self.costs, owner, prompt) else {
            return Err(StepFailed::Plan("there is no free slot"));
        };
        let slot = placement.slot;
        // Out of the cache first: what is kept now may push it out.
        let copy = match placement.found {
            Found::InCache { entry, tokens } => self.cache.take(entry).map(|entry| (entry, tokens)),
            Found::InSlot(_) | Found::Nothing => None,
        };
        if let Some(held) = self.scheduler.take_held(slot).filter(|_| placement.save) {
            self.keep_copy(context, slot, held);
        }
        let found = match (placement.found, copy) {
            (Found::InSlot(tokens), _) => context.keep(slot, tokens)?,
            (_, Some(((prefix, state), tokens))) => {
                context.clear(slot)?;
                let start = Instant::now();
                let restored = context.restore(slot, &state)?;
                self.costs.copied(state.bytes(), start.elapsed());
                // What the session goes on with is in the slot now; what others may begin with stays.
                if prefix.owner.session != owner.session || prefix.is_everyones() {
                    self.cache.insert(prefix, state);
                }
                if restored { context.keep(slot, tokens)? } else { 0 }
            }
            (Found::Nothing | Found::InCache { .. }, None) => context.clear(slot).map(|()| 0)?,
        };
        let known = |words| !self.cache.is_on() || self.cache.holds(owner, words, words.len());
        if sequence.shareable().is_some_and(known) {
            sequence.share_nothing();
        }
        self.shared.reused.fetch_add(u64::try_from(found).unwrap_or(0), Ordering::Relaxed);
        self.scheduler.start(slot, sequence, found);
        Ok(())
    }

    fn keep_copy(&mut self, context: &Context<'_>, slot: Slot, prefix: Prefix) {
        let start = Instant::now();
        if let Some(state) = context.save(slot) {
            self.costs.copied(state.bytes(), start.elapsed());
            self.cache.insert(prefix, state);
        }
    }

    /// One step of the model.
    fn step(&mut self, context: &mut Context<'_>, now: tokio::time::Instant) -> Result<(), StepFailed> {
        self.life.work();
        match self.fault.take() {
            Some(InjectedFault::Step) => return Err(StepFailed::Plan("injected")),
            Some(InjectedFault::Panic) => resume_unwind(Box::new("injected")),
            Some(InjectedFault::Hang) => self.hang(),
            // Kept for when there is a step to compute, or tokens to choose.
            Some(later @ (InjectedFault::NoRoom | InjectedFault::HangInChoice)) => self.fault = Some(later),
            None => {}
        }
        self.scheduler.limit_when_full(self.costs.tokens_in(LONGEST_STEP));
        let items = self.scheduler.plan(now);
        if items.is_empty() {
            if self.scheduler.running() > 0 && self.embedder.is_idle() {
                std::thread::sleep(NAP);
            }
            return Ok(());
        }
        let start = Instant::now();
        self.compute(context, &items)?;
        let took = start.elapsed();
        add_micros(&self.shared.compute_micros, took);
        self.life.work();
        if self.fault.take_if(|fault| *fault == InjectedFault::HangInChoice).is_some() {
            self.hang();
        }
        // Counted before the answers go on, so that who has read one finds it in the counts.
        let computed = self.scheduler.computed(&items);
        if computed.decoded == 0 {
            self.costs.computed(usize::try_from(computed.prefilled).unwrap_or(0), took);
        }
        self.shared.prefilled.fetch_add(computed.prefilled, Ordering::Relaxed);
        self.shared.decoded.fetch_add(computed.decoded, Ordering::Relaxed);
        let start = Instant::now();
        let Applied { shareable, to_clear } =
            self.scheduler.apply(&items, |place| context.logits(place), self.model);
        add_micros(&self.shared.choose_micros, start.elapsed());
        for (slot, prefix) in shareable {
            if !self.cache.holds(prefix.owner, &prefix.tokens, prefix.tokens.len()) {
                self.keep_copy(context, slot, prefix);
            }
        }
        clear(context, &to_clear)
    }

    /// A chunk of what is to be embedded.
    fn embed(&mut self) -> Result<(), StepFailed> {
        self.life.work();
        let budget = usize::try_from(self.config.prefill_chunk).unwrap_or(usize::MAX);
        let alone = self.scheduler.running() == 0;
        self.embedder.step(if alone { budget } else { budget.div_ceil(2) })
    }

    /// Where there is no room left, what idle slots hold makes way.
    fn compute(&mut self, context: &mut Context<'_>, items: &[Item]) -> Result<(), StepFailed> {
        let no_room = self.fault.take_if(|fault| *fault == InjectedFault::NoRoom).is_some();
        match if no_room { Err(StepFailed::NoRoom) } else { context.step(items) } {
            Err(StepFailed::NoRoom) => {
                let held = self.scheduler.take_all_held();
                if held.is_empty() {
                    return Err(StepFailed::NoRoom);
                }
                clear(context, &held)?;
                context.step(items)
            }
            result => result,
        }
    }

    fn hang(&self) {
        while !self.life.is_abandoned() && !self.shared.is_stopping() {
            std::thread::sleep(NAP);
        }
    }
}

impl Drop for Worker<'_> {
    /// In a panic the requests are told before their outputs are dropped: what is asked after that is not of
    /// this life.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.in_flight.fail_all();
        }
    }
}

fn add_micros(counter: &AtomicU64, took: Duration) {
    counter.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
}

fn clear(context: &mut Context<'_>, slots: &[Slot]) -> Result<(), StepFailed> {
    slots.iter().try_for_each(|slot| context.clear(*slot))
}
