//! One answer, from the question to its end.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use fabstir_client::{End, Error, Event, Request};
use tokio::time::timeout;

use crate::{
    connect::{Answer, Client},
    failure::printable,
};

/// How long a node may take to confirm that it stopped.
const CANCEL: Duration = Duration::from_secs(2);

/// An answer that was told, as far as it was.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) how: How,
    /// From the question to the first words.
    pub(crate) first_words: Option<Duration>,
    /// From the first words to the end.
    pub(crate) speaking: Duration,
}

#[derive(Debug)]
pub(crate) enum How {
    Ended(End),
    Interrupted,
    /// Nobody reads any more.
    Unread,
}

impl Told {
    /// Tokens of the answer by the time from its first words on; the node's count.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        let How::Ended(End { usage: Some(usage), .. }) = &self.how else { return None };
        let seconds = self.speaking.as_secs_f64();
        (seconds > 0.0).then(|| f64::from(usage.completion_tokens) / seconds)
    }

    pub(crate) fn first_words_ms(&self) -> Option<u64> {
        self.first_words.and_then(|time| u64::try_from(time.as_millis()).ok())
    }
}

/// Why nothing more is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TellError {
    #[error(transparent)]
    Client(#[from] Error),
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// Asks, and hands the words to `show` as they come, until Ctrl-C is pressed.
pub(crate) async fn tell(
    client: &mut Client,
    request: &Request,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> Result<Told, TellError> {
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let asked = Instant::now();
    let mut first: Option<Instant> = None;
    let mut answer = client.ask(request).await?;
    let how = loop {
        let event = tokio::select! {
            event = answer.next() => event?,
            _ = interrupt.as_mut() => {
                stop(&mut answer).await;
                break How::Interrupted;
            }
        };
        match event {
            // What is more than words was not asked for.
            Some(Event::Object(_)) => {}
            Some(Event::Text(words)) if words.as_str().is_empty() => {}
            Some(Event::Text(words)) => {
                first.get_or_insert_with(Instant::now);
                match show(words.as_str()) {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                        stop(&mut answer).await;
                        break How::Unread;
                    }
                    shown => shown?,
                }
            }
            Some(Event::End(end)) => break How::Ended(end),
            None => return Err(Error::Truncated.into()),
        }
    };
    let first_words = first.map(|first| first.duration_since(asked));
    Ok(Told { how, first_words, speaking: first.map_or(Duration::ZERO, |first| first.elapsed()) })
}

/// The person has left this answer: what becomes of its end changes nothing.
async fn stop(answer: &mut Answer<'_>) {
    let _ = timeout(CANCEL, answer.stop()).await;
}

/// Standard output for words that somebody else wrote: a terminal gets no escape sequences from them.
pub(crate) struct Words {
    terminal: bool,
    /// Whether the last line is without its end.
    open: bool,
}

impl Words {
    pub(crate) fn to_stdout() -> Self {
        Self { terminal: io::stdout().is_terminal(), open: false }
    }

    pub(crate) fn show(&mut self, words: &str) -> io::Result<()> {
        self.open = true;
        let mut out = io::stdout().lock();
        if self.terminal {
            out.write_all(printable(words).as_bytes())?;
        } else {
            out.write_all(words.as_bytes())?;
        }
        out.flush()
    }

    /// Ends the line.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.open = false;
        let mut out = io::stdout().lock();
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Ends the line if there is one, before something else is said.
    pub(crate) fn end_if_open(&mut self) {
        if self.open {
            // What is said next goes to standard error, which may well be another place.
            let _ = self.end();
        }
    }
}
