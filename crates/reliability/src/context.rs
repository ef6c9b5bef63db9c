//! What a row is given.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use indicatif::ProgressBar;

use crate::{args::Run, node::Node};

/// How much is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    Long,
    Short,
}

/// In the short form the node is a debug build, and other work runs beside it.
const SHORT_PATIENCE: f64 = 10.0;

impl Form {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Short => "short",
        }
    }

    /// One or the other.
    pub(crate) fn of<T>(self, long: T, short: T) -> T {
        match self {
            Self::Long => long,
            Self::Short => short,
        }
    }

    /// How long something may take whose goal is `figure`.
    pub(crate) fn time(self, figure: f64) -> f64 {
        self.of(figure, figure * SHORT_PATIENCE)
    }
}

/// What a row is given: binaries, a form, and a bar to show how far it is.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) form: Form,
    pub(crate) binary: PathBuf,
    pub(crate) model: Option<PathBuf>,
    pub(crate) echo_server: Option<PathBuf>,
    pub(crate) conformance: Option<PathBuf>,
    bar: ProgressBar,
}

impl Context {
    pub(crate) fn new(run: &Run, bar: ProgressBar) -> anyhow::Result<Self> {
        let whole = |path: &Path| {
            path.canonicalize().with_context(|| format!("{} is not there: build it first", path.display()))
        };
        Ok(Self {
            form: if run.short { Form::Short } else { Form::Long },
            binary: whole(&run.node)?,
            model: run.model.as_deref().map(whole).transpose()?,
            echo_server: run.echo_server.as_deref().map(whole).transpose()?,
            conformance: run.conformance.as_deref().map(whole).transpose()?,
            bar,
        })
    }

    pub(crate) fn show(&self, words: impl Into<String>) {
        self.bar.set_message(words.into());
        self.bar.tick();
    }

    /// A node with the engine that says prompts back.
    pub(crate) async fn echo(&self, settings: &[(&str, &str)]) -> anyhow::Result<Node> {
        let settings = [&[("ENGINE", "echo")], settings].concat();
        Node::start(&self.binary, &settings).await
    }

    /// A node with the model.
    pub(crate) async fn real(&self, settings: &[(&str, &str)]) -> anyhow::Result<Node> {
        let model = self.model.as_deref().context("this row needs a model")?.to_string_lossy();
        let settings = [&[("MODEL_PATH", model.as_ref())], settings].concat();
        Node::start(&self.binary, &settings).await
    }
}

/// Asks until the answer is yes; how long that took, or `None` when it did not come in time.
pub(crate) async fn until<F: Future<Output = anyhow::Result<bool>>>(
    patience: Duration,
    pause: Duration,
    mut is_so: impl FnMut() -> F,
) -> anyhow::Result<Option<Duration>> {
    let start = tokio::time::Instant::now();
    loop {
        if is_so().await? {
            return Ok(Some(start.elapsed()));
        }
        if start.elapsed() >= patience {
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
    }
}
