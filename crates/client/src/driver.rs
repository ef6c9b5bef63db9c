//! The task behind a session: it owns the channel, and gets it another connection when the one that it has is lost.

mod lost;

use std::{collections::BTreeMap, time::Duration};

use fabstir_protocol::{
    seal::SealError,
    v2::{
        Answers, Cancel, Channel, Claim, End as WireEnd, Fault, Flags, FromNode, Goodbye, Hello, MAX_BODY,
        Opener, RecordType, Sealer, Sid, Ticket, Welcome, encode,
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use zeroize::Zeroizing;

use crate::{
    Config, End, Error, Event,
    dial::{Heard, Line, Opened, reach, refused},
    session::{Least, Pulse},
};
use lost::LostSession;

/// How long is waited before a connection is tried for the second time; each time after that twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

type Events = mpsc::Sender<Result<Event, Error>>;

/// What a user wants.
#[derive(Debug)]
pub(crate) enum Command {
    Ask {
        body: Zeroizing<Vec<u8>>,
        events: Events,
        keeps: bool,
        reply: oneshot::Sender<u32>,
    },
    Cancel(u32),
    Goodbye(oneshot::Sender<()>),
    /// For so long; of the connection that there was, or was being made, at that moment: another one is not to blame.
    Lose(Duration, Instant),
}

/// A request that is made while the session is opened.
pub(crate) struct First {
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) events: Events,
    pub(crate) keeps: bool,
}

/// A request without its whole answer.
struct Asked {
    body: Zeroizing<Vec<u8>>,
    events: Events,
    /// Whether its user wants no more of it.
    cancelled: bool,
}

/// A connection with its keys.
struct Live {
    line: Line,
    sealer: Sealer,
    opener: Opener,
    next_control: u32,
    /// When it was begun to be made.
    begun: Instant,
    opened: Instant,
    /// Whether something of the session's came by it.
    heard: bool,
}

pub(crate) struct Driver {
    live: Live,
    kept: Kept,
}

/// What of a session outlives its connections.
struct Kept {
    config: Config,
    /// The session's name: that of its first full handshake.
    session: Sid,
    ticket: Option<Ticket>,
    answers: Answers,
    asked: BTreeMap<u32, Asked>,
    last_number: u32,
    /// Whether the node keeps a conversation for this session.
    keeps: bool,
    /// When the last full handshake was: a resumption is none.
    keyed: Instant,
    trying: Trying,
}

/// Since when no connection was of any use, and how long to wait before the next one. One that opens and is lost at
/// once must not be tried again at once, for ever.
#[derive(Clone, Copy)]
struct Trying {
    since: Instant,
    pause: Duration,
}

impl Trying {
    fn anew() -> Self {
        Self { since: Instant::now(), pause: Duration::ZERO }
    }

    fn again(&mut self) {
        self.pause = self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}

/// How a connection ended.
enum Lost {
    /// By accident: there may be another one.
    Connection,
    /// Nothing more may be taken: why, for every answer that is not whole.
    Broken(Error),
    /// The user is done.
    Done,
}

impl From<SealError> for Lost {
    fn from(SealError: SealError) -> Self {
        Self::Broken(Error::Closed)
    }
}

impl Driver {
    pub(crate) async fn open(
        mut config: Config,
        first: Option<First>,
    ) -> Result<(Self, Welcome, Least), Error> {
        let (capture, begun) = (config.capture.take(), Instant::now());
        let (mut line, shown) = reach(&config, capture).await.map_err(|(error, _)| error)?;
        let node = shown.pinned()?;
        let mut answers = Answers::default();
        let hello = hello(&config, None);
        let send_first = |channel: &mut Channel| match &first {
            Some(first) => Ok(sealed_request(&mut channel.sealer, 1, &first.body)?),
            None => Ok(Vec::new()),
        };
        if first.is_some() {
            answers.expect(1);
        }
        let opening = line.handshake(&config, &node, &hello, &mut answers, send_first);
        let opened = timeout(config.connect_timeout, opening).await;
        let (channel, welcome) = opened.map_err(|_| Error::Silent(config.connect_timeout))??;
        let session = channel.sid;
        let (live, ticket) = Live::of(Opened { line, channel, welcome: welcome.clone() }, begun);
        let mut asked = BTreeMap::new();
        let last_number = u32::from(first.is_some());
        let keeps = first.as_ref().is_some_and(|first| first.keeps);
        if let Some(First { body, events, .. }) = first {
            asked.insert(1, Asked { body, events, cancelled: false });
        }
        let least = Least { version: node.min_version, until: node.not_after };
        let trying = Trying::anew();
        let keyed = Instant::now();
        let kept = Kept { config, session, ticket, answers, asked, last_number, keeps, keyed, trying };
        Ok((Self { live, kept }, welcome, least))
    }

    /// Serves the session until its end, and says why it ended.
    pub(crate) async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        pulse: &watch::Sender<Pulse>,
    ) -> Error {
        loop {
            match self.serve(commands).await {
                Lost::Done => {
                    self.live.line.close().await;
                    return Error::Closed;
                }
                Lost::Broken(error) => {
                    let asked = std::mem::take(&mut self.kept.asked);
                    tell_all(asked, || error.again());
                    self.live.line.close().await;
                    return error;
                }
                Lost::Connection => {}
            }
            pulse.send_modify(|pulse| pulse.lost = Some(Instant::now()));
            match self.recover().await {
                Ok(recovered) => {
                    self = recovered;
                    pulse.send_modify(Pulse::beat);
                }
                Err(error) => return error,
            }
        }
    }

    /// Works until the connection is lost.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Lost {
        let mut heard_at = Instant::now();
        loop {
            let silent = heard_at.checked_add(self.kept.config.silence_timeout).unwrap_or(heard_at);
            let renew = self.kept.keyed.checked_add(self.kept.config.renew_after).unwrap_or(heard_at);
            let done = tokio::select! {
                // What came while something long was sent has come: it was not silent.
                biased;
                command = commands.recv() => self.command(command).await,
                heard = self.live.line.hear() => {
                    heard_at = Instant::now();
                    self.heard(heard).await
                }
                () = sleep_until(silent) => Err(Lost::Connection),
                () = sleep_until(renew) => {
                    // New keys by a new handshake: the claim takes the answers along.
                    self.kept.ticket = None;
                    Err(Lost::Connection)
                }
            };
            if let Err(lost) = done {
                return lost;
            }
        }
    }

    async fn command(&mut self, command: Option<Command>) -> Result<(), Lost> {
        match command {
            // Who asked has gone while there was no connection: nothing is computed for nobody.
            Some(Command::Ask { reply, .. }) if reply.is_closed() => Ok(()),
            Some(Command::Ask { body, events, keeps, reply }) => {
                let number = self.kept.last_number.saturating_add(1);
                // Who hears this knows that it goes out now; who has left may ask elsewhere, so that it must not.
                if reply.send(number).is_err() {
                    return Ok(());
                }
                self.kept.keeps |= keeps;
                self.kept.last_number = number;
                self.kept.answers.expect(number);
                let frames = sealed_request(&mut self.live.sealer, number, &body)?;
                self.kept.asked.insert(number, Asked { body, events, cancelled: false });
                for frame in frames {
                    self.say(frame).await?;
                }
                Ok(())
            }
            Some(Command::Cancel(request)) if self.kept.asked.contains_key(&request) => {
                self.kept.asked.entry(request).and_modify(|asked| asked.cancelled = true);
                self.control(RecordType::Cancel, Flags::NONE, &Cancel { request }).await
            }
            Some(Command::Cancel(_)) => Ok(()),
            Some(Command::Goodbye(said)) => {
                let _ = self.control(RecordType::Goodbye, Flags::LAST, &Goodbye::default()).await;
                let _ = said.send(());
                Err(Lost::Done)
            }
            Some(Command::Lose(_, at)) if at < self.live.begun => Ok(()),
            Some(Command::Lose(time, _)) if time.is_zero() => Err(Lost::Connection),
            Some(Command::Lose(time, _)) => {
                self.live.line.hang_up().await;
                sleep(time).await;
                Err(Lost::Connection)
            }
            None => {
                // Nobody is left to ask or to hear.
                let _ = self.control(RecordType::Goodbye, Flags::LAST, &Goodbye::default()).await;
                Err(Lost::Done)
            }
        }
    }

    async fn say(&mut self, frame: Vec<u8>) -> Result<(), Lost> {
        // A peer that takes nothing is as lost as one that says nothing.
        let said = timeout(self.kept.config.silence_timeout, self.live.line.say(frame)).await;
        said.map_err(|_| Lost::Connection)?.map_err(|_| Lost::Connection)
    }

    async fn control(
        &mut self,
        kind: RecordType,
        flags: Flags,
        body: &impl serde::Serialize,
    ) -> Result<(), Lost> {
        let index = self.live.next_control;
        self.live.next_control = index.saturating_add(1);
        let frame = self.live.sealer.seal(kind, flags, 0, index, &encode(body))?;
        self.say(frame).await
    }

    async fn heard(&mut self, heard: Heard) -> Result<(), Lost> {
        let frame = match heard {
            Heard::Binary(frame) => frame,
            // What is not sealed means nothing once the session is open.
            Heard::Text(_) | Heard::Ping => return Ok(()),
            Heard::Closed => return Err(Lost::Connection),
        };
        let led = self.live.opener.open(&frame).and_then(|record| self.kept.answers.take(record));
        let led = led.map_err(|_| Lost::Broken(Error::DidNotOpen))?;
        self.live.heard = true;
        match led {
            FromNode::Text(request, words) => self.tell(request, Event::Text(words)).await?,
            FromNode::Event(request, json) => self.tell(request, Event::Object(json)).await?,
            FromNode::End(request, end) => {
                // Nobody here cancelled it: the connection was gone for longer than the node goes on alone.
                let ours = self.kept.asked.get(&request).is_none_or(|asked| asked.cancelled);
                let cut = end.finish_reason == "cancelled" && !ours;
                self.end(request, if cut { Err(Error::Truncated) } else { Ok(Event::End(end_of(end))) });
            }
            FromNode::Failed(request, fault) => self.end(request, Err(error_of(fault))),
            FromNode::Fault(fault, true) => return Err(Lost::Broken(error_of(fault))),
            FromNode::Goodbye(_) => return Err(Lost::Broken(Error::Closed)),
            FromNode::Fault(_, false) | FromNode::Nothing => {}
            FromNode::Welcome(_) => return Err(Lost::Broken(Error::Protocol)),
        }
        if let Some(ack) = self.kept.answers.due_ack() {
            self.control(RecordType::Ack, Flags::NONE, &ack).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, request: u32, event: Event) -> Result<(), Lost> {
        let Some(asked) = self.kept.asked.get(&request) else { return Ok(()) };
        if asked.events.try_send(Ok(event)).is_ok() {
            return Ok(());
        }
        // Nobody reads, or not for long: what is missing cannot be made good, so the answer is cut off.
        self.kept.asked.remove(&request);
        self.control(RecordType::Cancel, Flags::NONE, &Cancel { request }).await
    }

    fn end(&mut self, request: u32, last: Result<Event, Error>) {
        if let Some(asked) = self.kept.asked.remove(&request) {
            // Without room for it the answer is cut off, which is what its reader then finds.
            let _ = asked.events.try_send(last);
        }
    }

    /// Gets the session another connection. Where that comes to nothing, everybody who waits for an answer was told.
    async fn recover(self) -> Result<Self, Error> {
        let Self { live, mut kept } = self;
        let served = live.heard || live.opened.elapsed() >= LONGEST_PAUSE;
        if served {
            kept.trying = Trying::anew();
        }
        let until = kept.trying.since.checked_add(kept.config.resume_for);
        let mut last = Error::Silent(kept.config.resume_for);
        let mut lost = LostSession { capture: live.line.into_capture(), kept };
        loop {
            sleep(lost.kept.trying.pause).await;
            lost.kept.trying.again();
            if until.is_some_and(|until| Instant::now() >= until) {
                tell_all(lost.kept.asked, || Error::Truncated);
                return Err(last);
            }
            let begun = Instant::now();
            match lost.attempt().await {
                Ok(opened) => return lost.open(opened, begun).await,
                Err(error) if error.is_passing() => last = error,
                // Who waits for an answer is told that it is cut off; why there is no session, who asks next.
                Err(error) => {
                    tell_all(lost.kept.asked, || Error::Truncated);
                    return Err(error);
                }
            }
        }
    }
}

impl Live {
    fn of(opened: Opened, begun: Instant) -> (Self, Option<Ticket>) {
        let Opened { line, channel, welcome } = opened;
        let Channel { sealer, opener, ticket, .. } = channel;
        let live =
            Self { line, sealer, opener, next_control: 0, begun, opened: Instant::now(), heard: false };
        (live, welcome.ticket.then_some(ticket))
    }
}

fn hello(config: &Config, claim: Option<Claim>) -> Hello {
    let client = concat!("fabstir-client/", env!("CARGO_PKG_VERSION")).to_owned();
    Hello { client, shape: config.shape, ticket: true, claim }
}

fn sealed_request(sealer: &mut Sealer, request: u32, body: &[u8]) -> Result<Vec<Vec<u8>>, SealError> {
    let parts: Vec<&[u8]> = if body.is_empty() { vec![&[]] } else { body.chunks(MAX_BODY).collect() };
    let last = parts.len().saturating_sub(1);
    let numbered = parts.iter().enumerate();
    numbered
        .map(|(at, part)| {
            let flags = if at == last { Flags::LAST } else { Flags::NONE };
            let index = u32::try_from(at).map_err(|_| SealError)?;
            sealer.seal(RecordType::Request, flags, request, index, part)
        })
        .collect()
}

fn end_of(end: WireEnd) -> End {
    let WireEnd { finish_reason, usage, dropped_messages } = end;
    End { finish_reason, code: None, usage: Some(usage), dropped_messages }
}

fn error_of(fault: Fault) -> Error {
    refused(fault.code, fault.message, fault.retry_after_ms)
}

fn tell_all(asked: BTreeMap<u32, Asked>, error: impl Fn() -> Error) {
    for one in asked.into_values() {
        let _ = one.events.try_send(Err(error()));
    }
}
