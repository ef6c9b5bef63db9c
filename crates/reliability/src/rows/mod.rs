//! The rows.

mod conformance;
mod disconnect;
mod engine;
mod floods;
mod idle;
mod inside;
mod kill;
mod machine;
mod memory;
mod middle;
mod resume;
mod slow;
mod soak;

use clap::ValueEnum;

use crate::{
    context::{Context, Form},
    outcome::Outcome,
};

/// A row of the suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    Idle,
    Disconnect,
    Resume,
    Kill,
    Floods,
    Slow,
    Conformance,
    Machine,
    Engine,
    Soak,
    Memory,
    Middle,
}

impl Row {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Disconnect => "disconnect",
            Self::Resume => "resume",
            Self::Kill => "kill",
            Self::Floods => "floods",
            Self::Slow => "slow",
            Self::Conformance => "conformance",
            Self::Machine => "machine",
            Self::Engine => "engine",
            Self::Soak => "soak",
            Self::Memory => "memory",
            Self::Middle => "middle",
        }
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Idle => "many idle encrypted sessions: none is dropped, and what each of them weighs",
            Self::Disconnect => {
                "clients that leave: their place is free at once, and nobody hears another's words"
            }
            Self::Resume => {
                "connections cut at random bytes: every answer is the uncut one, its tokens counted once"
            }
            Self::Kill => {
                "kill -9 and SIGTERM in the middle of answers, and another node at once in its place"
            }
            Self::Floods => {
                "garbage and too many sessions: others keep their pace, nothing is taken, nothing stays"
            }
            Self::Slow => {
                "slow headers, bodies and readers: each is closed in time, and others do not notice"
            }
            Self::Conformance => "WebSocket by the letter, and frames, texts and hex that are meant to hurt",
            Self::Machine => "descriptors run out, clocks jump, disks are full, fetches are killed",
            Self::Engine => {
                "servers behind the node that do everything wrong, an engine that hangs or has no room: clients are told, the next is answered"
            }
            Self::Memory => "keys leave memory with their session, and nothing secret is in the log",
            Self::Middle => "somebody in the middle, and what fuzzing has come to",
            Self::Soak => "sessions come and go: memory, descriptors and threads stay as they are",
        }
    }

    /// How long the row may take.
    pub(crate) fn minutes(self, form: Form) -> u64 {
        match self {
            Self::Idle => form.of(30, 4),
            Self::Disconnect => form.of(40, 4),
            Self::Resume => form.of(60, 4),
            Self::Kill => form.of(15, 3),
            Self::Floods => form.of(20, 3),
            Self::Slow => form.of(10, 3),
            Self::Conformance => form.of(10, 3),
            Self::Machine => form.of(10, 4),
            Self::Engine => form.of(10, 5),
            Self::Memory => form.of(10, 5),
            Self::Middle => form.of(15, 5),
            Self::Soak => form.of(90, 5),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Idle => Box::pin(idle::run(context)).await,
            Self::Disconnect => Box::pin(disconnect::run(context)).await,
            Self::Resume => Box::pin(resume::run(context)).await,
            Self::Kill => Box::pin(kill::run(context)).await,
            Self::Floods => Box::pin(floods::run(context)).await,
            Self::Slow => Box::pin(slow::run(context)).await,
            Self::Conformance => Box::pin(conformance::run(context)).await,
            Self::Machine => Box::pin(machine::run(context)).await,
            Self::Engine => Box::pin(engine::run(context)).await,
            Self::Memory => Box::pin(memory::run(context)).await,
            Self::Middle => Box::pin(middle::run(context)).await,
            Self::Soak => Box::pin(soak::run(context)).await,
        }
    }
}
