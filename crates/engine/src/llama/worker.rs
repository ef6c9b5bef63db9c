//! The engine's thread: admit, plan, compute, apply; and start again after a failure.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Command, InjectedFault, LoadError, Shared,
    model::{Context, Model},
};
use crate::{
    Failure, LlamaConfig, Output, Request,
    scheduler::{Scheduler, Slot, Waiting},
    sequence::{Outputs, Sequence},
};

/// How long the thread sleeps when every sequence waits for its reader.
const NAP: Duration = Duration::from_millis(5);
/// Pause between two attempts to start again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Why a run of the engine ended.
enum Ended {
    Stopped,
    Failed,
}

/// Runs the engine until it is told to stop. Reports the first start to `ready`.
pub(super) fn supervise(
    config: LlamaConfig,
    inbox: Receiver<Command>,
    shared: &Shared,
    ready: &SyncSender<Result<u32, LoadError>>,
    progress: impl FnMut(f32) + 'static,
) {
    let mut model = match Model::load(&config, progress) {
        Ok(model) => model,
        Err(error) => return drop(ready.send(Err(error))),
    };
    if let Err(error) = model.context(&config) {
        return drop(ready.send(Err(error)));
    }
    shared.healthy.store(true, Ordering::Release);
    if ready.send(Ok(model.context_window())).is_err() {
        return;
    }
    loop {
        let run = catch_unwind(AssertUnwindSafe(|| run(&model, &config, &inbox, shared)));
        shared.running.store(0, Ordering::Relaxed);
        let reload = match run {
            Ok(Ended::Stopped) => return shared.healthy.store(false, Ordering::Release),
            Ok(Ended::Failed) => false,
            Err(_) => true,
        };
        shared.healthy.store(false, Ordering::Release);
        shared.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::error!("the engine failed and is being started again");
        if reload {
            match load_again(&config, shared) {
                Some(fresh) => model = fresh,
                None => return,
            }
        }
    }
}

/// After a panic nothing of the model is trusted. `None` when the engine is to stop.
fn load_again(config: &LlamaConfig, shared: &Shared) -> Option<Model> {
    while !shared.stopping.load(Ordering::Acquire) {
        match Model::load(config, |_| {}) {
            Ok(model) => return Some(model),
            Err(error) => tracing::error!(%error, "the model could not be loaded again"),
        }
        std::thread::sleep(RESTART_PAUSE);
    }
    None
}

fn run(model: &Model, config: &LlamaConfig, inbox: &Receiver<Command>, shared: &Shared) -> Ended {
    let mut context = match model.context(config) {
        Ok(context) => context,
        Err(error) => {
            tracing::error!(%error, "no new context");
            std::thread::sleep(RESTART_PAUSE);
            return Ended::Failed;
        }
    };
    shared.healthy.store(true, Ordering::Release);
    let slots = usize::try_from(config.max_sequences).unwrap_or(1);
    let budget = usize::try_from(config.prefill_chunk).unwrap_or(usize::MAX);
    let mut worker = Worker {
        model,
        config,
        shared,
        scheduler: Scheduler::new(slots, budget),
        waiting: Waiting::new(),
        fault: None,
    };
    let ended = worker.run(&mut context, inbox);
    let failed = worker.scheduler.take_all();
    failed.iter().for_each(|sequence| sequence.fail(Failure::Engine));
    // Requests that never had a slot get the same answer: their turn would come after a failure of unknown length.
    while let Some((_, outputs)) = worker.waiting.pop() {
        shared.waiting.fetch_sub(1, Ordering::AcqRel);
        outputs.send(Output::Failed(Failure::Engine));
    }
    ended
}

struct Worker<'a> {
    model: &'a Model,
    config: &'a LlamaConfig,
    shared: &'a Shared,
    scheduler: Scheduler,
    waiting: Waiting<(Box<Request>, Outputs)>,
    fault: Option<InjectedFault>,
}

impl Worker<'_> {
    fn run(&mut self, context: &mut Context<'_>, inbox: &Receiver<Command>) -> Ended {
        loop {
            if self.shared.stopping.load(Ordering::Acquire) || !self.take_commands(inbox) {
                return Ended::Stopped;
            }
            let now = Instant::now();
            let reaped = self.scheduler.reap(self.config.stalled_reader, now);
            let gone = self.waiting.reap(|(_, outputs)| outputs.is_cancelled());
            self.shared.waiting.fetch_sub(gone, Ordering::AcqRel);
            if !clear(context, &reaped) {
                return Ended::Failed;
            }
            self.admit();
            self.shared.running.store(self.scheduler.running(), Ordering::Relaxed);
            if !self.step(context, now) {
                return Ended::Failed;
            }
        }
    }

    /// Takes what has come in; sleeps while there is nothing to do. False when the engine is to stop.
    fn take_commands(&mut self, inbox: &Receiver<Command>) -> bool {
        let idle = self.scheduler.running() == 0 && self.waiting.len() == 0;
        if idle {
            self.shared.running.store(0, Ordering::Relaxed);
            match inbox.recv() {
                Ok(command) => self.take(command),
                Err(_) => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return !self.shared.stopping.load(Ordering::Acquire),
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Generate(request, outputs) => self.waiting.push(request.client, (request, outputs)),
            Command::Fail(fault) => self.fault = Some(fault),
            Command::Stop => {}
        }
    }

    /// Gives free slots to those whose turn it is.
    fn admit(&mut self) {
        while self.scheduler.free_slots() > 0
            && let Some((request, outputs)) = self.waiting.pop()
        {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            match self.model.prepare(*request) {
                Ok(prepared) => drop(self.scheduler.admit(Sequence::new(outputs, prepared))),
                Err(failure) => outputs.send(Output::Failed(failure)),
            }
        }
    }

    /// One step of the model. False when it failed.
    fn step(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        match self.fault.take() {
            Some(InjectedFault::Step) => return false,
            Some(InjectedFault::Panic) => resume_unwind(Box::new("injected")),
            None => {}
        }
        let items = self.scheduler.plan(now);
        if items.is_empty() {
            if self.scheduler.running() > 0 {
                std::thread::sleep(NAP);
            }
            return true;
        }
        if let Err(error) = context.step(&items) {
            tracing::error!(%error, "step failed");
            return false;
        }
        let (done, computed) = self.scheduler.apply(&items, |place| context.logits(place), self.model);
        self.shared.prefilled.fetch_add(computed.prefilled, Ordering::Relaxed);
        self.shared.decoded.fetch_add(computed.decoded, Ordering::Relaxed);
        clear(context, &done)
    }
}

fn clear(context: &mut Context<'_>, slots: &[Slot]) -> bool {
    slots.iter().all(|slot| match context.clear(*slot) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "a slot could not be cleared");
            false
        }
    })
}
