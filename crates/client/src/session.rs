//! A session of version 2 as its user has it: several answers at once, over whatever connection there is.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fabstir_protocol::{
    seal::Words,
    v2::{ModelEntry, Welcome},
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use crate::{
    Config, Error, Event, Request,
    driver::{Command, Driver, First},
};

/// Pieces of an answer that may wait for their reader. One that leaves more unread gets no more of it: the others share
/// the connection.
const UNREAD: usize = 4096;
/// What a user wants and the driver has not looked at yet.
const COMMANDS: usize = 256;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// An answer in a conversation.
    Chat,
    /// A text that goes on.
    Completions,
    /// Vectors.
    Embeddings,
    /// The list of models.
    Models,
}

impl Op {
    fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
        }
    }
}

/// An open session. Requests may be made side by side; a lost connection is replaced without their noticing. Dropping
/// it says goodbye.
#[derive(Clone)]
pub struct Session {
    commands: mpsc::Sender<Command>,
    welcome: Arc<Welcome>,
    least: Least,
    pulse: watch::Receiver<Pulse>,
    /// Why the session ended, once it has.
    ended: Arc<OnceLock<Error>>,
}

/// How a session's connections fare.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    /// Since when there is none.
    pub(crate) lost: Option<Instant>,
    /// How many took the place of a lost one.
    replaced: u64,
}

impl Pulse {
    /// There is one again.
    pub(crate) fn beat(&mut self) {
        *self = Self { lost: None, replaced: self.replaced.saturating_add(1) };
    }

    fn is_lost_for(&self, time: Duration) -> bool {
        self.lost.is_some_and(|since| since.elapsed() >= time)
    }
}

/// What the node certifies of the versions that it speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Least {
    /// The oldest one. Below it a client must not go, whoever offers it.
    pub version: u16,
    /// Until then, in unix seconds.
    pub until: u64,
}

impl Session {
    /// Connects, checks who the node is, and opens a channel.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Identity`], [`Error::Handshake`], [`Error::Refused`], [`Error::Silent`].
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let (driver, welcome, least) = Driver::open(config, None).await?;
        Ok(Self::driven(driver, welcome, least))
    }

    /// The same with a first request, which goes out in the same flight as the handshake's last message.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_asking(config: Config, request: &Request) -> Result<(Self, Answer), Error> {
        let (events, receiver) = mpsc::channel(UNREAD);
        let body = body(Op::Chat, request.to_json().as_str());
        let first = First { body, events, keeps: request.prompt.is_some() };
        let (driver, welcome, least) = Driver::open(config, Some(first)).await?;
        let session = Self::driven(driver, welcome, least);
        let answer = Answer { number: 1, commands: session.commands.clone(), events: receiver, done: false };
        Ok((session, answer))
    }

    fn driven(driver: Driver, welcome: Welcome, least: Least) -> Self {
        let (commands, mut receiver) = mpsc::channel(COMMANDS);
        let ended = Arc::new(OnceLock::new());
        let (beating, pulse) = watch::channel(Pulse::default());
        let session = Self { commands, welcome: Arc::new(welcome), least, pulse, ended: Arc::clone(&ended) };
        tokio::spawn(async move {
            let why = driver.run(&mut receiver, &beating).await;
            // Before the receiver goes: who finds nobody there also finds why.
            let _ = ended.set(why);
        });
        session
    }

    /// Sends a chat request. Answers come side by side.
    ///
    /// # Errors
    /// Why the session ended, where it has: [`Error::SessionLost`], [`Error::Closed`], or what stood in the way of another
    /// connection.
    pub async fn ask(&self, request: &Request) -> Result<Answer, Error> {
        self.send(Op::Chat, &request.to_json(), request.prompt.is_some()).await
    }

    /// Sends a request whose body is a JSON object in OpenAI's form.
    ///
    /// # Errors
    /// Why the session ended, where it has: [`Error::SessionLost`], [`Error::Closed`], or what stood in the way of another
    /// connection.
    pub async fn ask_json(&self, op: Op, json: &str) -> Result<Answer, Error> {
        self.send(op, json, keeps(op, json)).await
    }

    /// The same, for who can ask elsewhere: does not wait for another connection, once there has been none for `grace`.
    ///
    /// # Errors
    /// As [`Session::ask_json`]. [`Error::Silent`]: there is no connection, and the request was not and will not be sent.
    pub async fn ask_json_within(&self, op: Op, json: &str, grace: Duration) -> Result<Answer, Error> {
        let (asked, mut number) = self.hand_over(op, json, keeps(op, json)).await?;
        let sent = tokio::select! {
            biased;
            sent = &mut number => sent.ok(),
            () = self.lost_for(grace) => {
                // Either the driver has taken it by now, or finds nobody there.
                number.close();
                return match number.try_recv() {
                    Ok(sent) => Ok(asked.answer(sent)),
                    Err(_) if self.is_open() => Err(Error::Silent(grace)),
                    Err(_) => Err(self.why()),
                };
            }
        };
        sent.map(|sent| asked.answer(sent)).ok_or_else(|| self.why())
    }

    /// Returns once there has been no connection for so long.
    async fn lost_for(&self, grace: Duration) {
        let mut pulse = self.pulse.clone();
        loop {
            let lost = pulse.wait_for(|pulse| pulse.lost.is_some()).await.map(|pulse| pulse.lost);
            // With the driver its watch ends, and every number that is waited for.
            let Ok(Some(since)) = lost else { return std::future::pending().await };
            let left = grace.saturating_sub(since.elapsed());
            if timeout(left, pulse.wait_for(|pulse| pulse.lost.is_none())).await.is_err() {
                return;
            }
        }
    }

    /// Whether there has been a connection within the last `grace`.
    pub fn is_connected_within(&self, grace: Duration) -> bool {
        self.is_open() && !self.pulse.borrow().is_lost_for(grace)
    }

    /// How many connections took the place of a lost one.
    pub fn connections_replaced(&self) -> u64 {
        self.pulse.borrow().replaced
    }

    /// `keeps`: it is a turn of a conversation that the node keeps.
    async fn send(&self, op: Op, json: &str, keeps: bool) -> Result<Answer, Error> {
        let (asked, number) = self.hand_over(op, json, keeps).await?;
        Ok(asked.answer(number.await.map_err(|_| self.why())?))
    }

    /// Gives the driver a request; the number comes once it goes out.
    async fn hand_over(
        &self,
        op: Op,
        json: &str,
        keeps: bool,
    ) -> Result<(HandedOver, oneshot::Receiver<u32>), Error> {
        let body = body(op, json);
        // What the node would refuse need not be carried there.
        let most = self.welcome.limits.max_request_bytes;
        if u64::try_from(body.len()).is_ok_and(|bytes| bytes > most) {
            return Err(Error::TooLarge { most: Some(most) });
        }
        let (events, receiver) = mpsc::channel(UNREAD);
        let (reply, number) = oneshot::channel();
        let command = Command::Ask { body, events, keeps, reply };
        self.commands.send(command).await.map_err(|_| self.why())?;
        Ok((HandedOver { commands: self.commands.clone(), events: receiver }, number))
    }

    fn why(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }

    /// The models that may be asked of, with their digests.
    pub fn models(&self) -> &[ModelEntry] {
        &self.welcome.models
    }

    /// What the node said when the session was opened.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The oldest version that the node speaks, by its certificate.
    pub fn least(&self) -> Least {
        self.least
    }

    /// Whether requests can still be made.
    pub fn is_open(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Says goodbye: the node ends what it was answering and forgets the session. Returns when it was said.
    pub async fn close(self) {
        let (said, heard) = oneshot::channel();
        if self.commands.send(Command::Goodbye(said)).await.is_ok() {
            // Without a connection there is nobody to say it to.
            let _ = timeout(GOODBYE, heard).await;
        }
    }

    /// Loses the connection, as a network would. For tests.
    #[doc(hidden)]
    pub fn lose_connection(&self) {
        self.lose_connection_for(Duration::ZERO);
    }

    /// The same, and stays without one for a while.
    #[doc(hidden)]
    pub fn lose_connection_for(&self, time: Duration) {
        let _ = self.commands.try_send(Command::Lose(time, Instant::now()));
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("node", &self.welcome.node).finish_non_exhaustive()
    }
}

/// A request that the driver has.
struct HandedOver {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Result<Event, Error>>,
}

impl HandedOver {
    fn answer(self, number: u32) -> Answer {
        Answer { number, commands: self.commands, events: self.events, done: false }
    }
}

/// Whether the node keeps the conversation that this is a turn of.
fn keeps(op: Op, json: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Turn {
        prompt: Option<serde::de::IgnoredAny>,
    }
    op == Op::Chat && serde_json::from_str::<Turn>(json).is_ok_and(|turn| turn.prompt.is_some())
}

fn body(op: Op, json: &str) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct Body<'a> {
        op: &'a str,
        body: &'a serde_json::value::RawValue,
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(json.len().saturating_add(64)));
    // What is no JSON goes as it is: the node says what is wrong with it.
    match serde_json::from_str(json) {
        Ok(raw) => {
            let _ = serde_json::to_writer(&mut *bytes, &Body { op: op.as_str(), body: raw });
        }
        Err(_) => bytes.extend_from_slice(json.as_bytes()),
    }
    bytes
}

/// An answer as it comes. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub struct Answer {
    number: u32,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Result<Event, Error>>,
    done: bool,
}

impl Answer {
    /// The next step; `None` after the end.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Truncated`], [`Error::DidNotOpen`]: the answer is over then, and not whole.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.done {
            return Ok(None);
        }
        let event = self.events.recv().await.unwrap_or(Err(Error::Truncated));
        self.done = !matches!(event, Ok(Event::Text(_) | Event::Object(_)));
        event.map(Some)
    }

    /// Asks the node to stop; the end that follows says `cancelled`, or what was sooner.
    pub async fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel(self.number)).await;
    }

    /// All the words, once the answer is whole.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn text(mut self) -> Result<(Words, crate::End), Error> {
        let mut words = Zeroizing::new(String::new());
        while let Some(event) = self.next().await? {
            match event {
                Event::Text(more) => words.push_str(more.as_str()),
                Event::Object(_) => {}
                Event::End(end) => return Ok((Words::from(words.as_str()), end)),
            }
        }
        Err(Error::Truncated)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            // Where that does not fit, the driver sees that nobody reads any more.
            let _ = self.commands.try_send(Command::Cancel(self.number));
        }
    }
}
