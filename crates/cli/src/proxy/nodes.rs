//! The nodes that are asked: the first that can be reached gets a new request, over the one session with it that all
//! requests share. What was sent to one is never sent to another.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fabstir_client::{Answer, Error, Op, Session};
use fabstir_protocol::ethereum::Address;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use super::{fault::Fault, page::Way};
use crate::{
    args::Connection,
    connect::{self, Prepared},
    failure::{Failure, complain},
    identity::{self, Pin},
};

/// How long one session is used: what lets this machine speak for its wallet lasts a day.
const LONGEST_SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// How long a session may be without a connection before another node is asked.
const GRACE: Duration = Duration::from_secs(1);
/// How long it may be where there is no other.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long a node that could not be reached is left alone; each time after that twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An attempt to open a session, which everybody who waits for one shares.
type Attempt = Shared<BoxFuture<'static, Result<Session, Fault>>>;

/// All of them, in the order in which they were given.
pub(super) struct Nodes(Vec<Arc<Node>>);

/// An answer, and who gives it.
pub(super) struct Asked {
    pub(super) node: Address,
    pub(super) session: Session,
    pub(super) answer: Answer,
}

struct Node {
    connection: Connection,
    address: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the time from when a new one takes its place.
    session: Option<(Session, Instant)>,
    attempt: Option<Attempt>,
    /// How long it is left alone; nothing where the last attempt went well.
    pause: Duration,
    /// When it may be tried again.
    again: Option<Instant>,
}

impl Nodes {
    /// Finds out who each node must be, and reaches them. One is enough; what is wrong with the others is said.
    pub(super) async fn reach(connections: Vec<Connection>) -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        for connection in connections {
            nodes.push(Arc::new(Node::of(connection).await?));
        }
        let opened = futures_util::future::join_all(nodes.iter().map(|node| node.open())).await;
        let reached = opened.iter().any(Result::is_ok);
        for (node, opened) in nodes.iter().zip(opened) {
            match opened {
                Ok(session) => node.state().opened(session),
                Err(failure) if reached => node.failed(failure.what()),
                // What is wrong with the first is said by whoever ends here.
                Err(failure) => return Err(failure),
            }
        }
        Ok(Self(nodes))
    }

    /// Who is asked, in order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.0.iter().map(|node| node.address)
    }

    /// The way to the first of them, for who seals by himself.
    pub(super) fn first(&self) -> Result<Way, Failure> {
        let node = self.0.first().ok_or(Failure::from(Error::Closed))?;
        let url = node.connection.node.clone();
        Ok(Way { url, roots: connect::roots(&node.connection.how)?, node: node.address })
    }

    /// Asks once, of the first node that can be reached: first of those of which nobody has to wait for, then of the others.
    pub(super) async fn ask(&self, op: Op, json: &str) -> Result<Asked, Fault> {
        let mut first = None;
        let mut passed_over = Vec::new();
        for node in &self.0 {
            let patience = if self.0.len() > 1 { Patience::Little } else { Patience::Endless };
            match node.ask(op, json, patience).await {
                Ok(asked) => return Ok(asked),
                Err(Unasked::Never(fault)) => return Err(fault),
                Err(Unasked::Unsent(fault)) => drop(first.get_or_insert(fault)),
                Err(Unasked::NotNow) => passed_over.push(node),
            }
        }
        for node in passed_over {
            match node.ask(op, json, Patience::Some).await {
                Ok(asked) => return Ok(asked),
                Err(Unasked::Never(fault)) => return Err(fault),
                Err(Unasked::Unsent(fault)) => drop(first.get_or_insert(fault)),
                Err(Unasked::NotNow) => {}
            }
        }
        Err(first.unwrap_or_else(|| Failure::from(Error::Closed).into()))
    }

    /// Says goodbye to all of them.
    pub(super) async fn close(&self) {
        let sessions = self.0.iter().filter_map(|node| node.state().session.take());
        futures_util::future::join_all(sessions.map(|(session, _)| session.close())).await;
    }
}

/// How long a node is waited for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Patience {
    /// It is there, or another one is asked.
    Little,
    /// As long as connecting may take.
    Some,
    /// There is no other.
    Endless,
}

/// Why a node was not asked.
enum Unasked {
    /// It could not be reached, and is tried again beside this when that is due.
    NotNow,
    /// Another one may be asked.
    Unsent(Fault),
    /// None would take the request.
    Never(Fault),
}

impl Node {
    async fn of(mut connection: Connection) -> Result<Self, Failure> {
        let pin = identity::node_key(&connection).await?.pin;
        // Whoever changes known_nodes later changes nothing for this proxy, and nobody is asked in the midst of it.
        connection.node_key = Some(pin);
        Ok(Self { address: Pin::address(&pin), connection, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Session, Failure> {
        Prepared::from(&self.connection).await?.session().await
    }

    /// The session. Where there is none, whoever comes first opens one and the others wait for the same. `None` where that
    /// takes more patience than there is.
    async fn session(self: &Arc<Self>, patience: Patience) -> Result<Option<Session>, Fault> {
        let hasty = patience == Patience::Little;
        let attempt = {
            let mut state = self.state();
            if let Some(session) = state.usable() {
                let lost = hasty && !session.is_connected_within(GRACE);
                return Ok((!lost).then_some(session));
            }
            let resting = state.again.is_some_and(|again| Instant::now() < again);
            if hasty && resting && state.attempt.is_none() {
                return Ok(None);
            }
            let attempt = state.attempt.get_or_insert_with(|| self.attempt()).clone();
            if hasty && !state.is_only_old() {
                return Ok(None);
            }
            attempt
        };
        attempt.await.map(Some)
    }

    /// Begins to open a session, and goes on with that even if nobody waits any longer.
    fn attempt(self: &Arc<Self>) -> Attempt {
        let node = Arc::clone(self);
        let opening = tokio::spawn(async move {
            let opened = node.open().await;
            match opened {
                Ok(session) => {
                    node.state().opened(session.clone());
                    Ok(session)
                }
                Err(failure) => {
                    node.failed(failure.what());
                    Err(Fault::from(failure))
                }
            }
        });
        opening.map(|opened| opened.unwrap_or_else(|_| Err(Error::Closed.into()))).boxed().shared()
    }

    /// Leaves it alone for a while, and says why when that begins.
    fn failed(&self, why: &str) {
        let mut state = self.state();
        if state.pause.is_zero() {
            complain(&format!("{}: {why}", self.connection.node));
        }
        state.failed(Instant::now());
    }

    /// Asks once; a session that ended before the question was sent is replaced.
    async fn ask(self: &Arc<Self>, op: Op, json: &str, patience: Patience) -> Result<Asked, Unasked> {
        let mut ended = false;
        loop {
            let session = self.session(patience).await.map_err(Unasked::Unsent)?.ok_or(Unasked::NotNow)?;
            match send(&session, op, json, patience).await {
                Ok(answer) => return Ok(Asked { node: self.address, session, answer }),
                Err(Sent::Never(error)) => return Err(Unasked::Never(error.into())),
                Err(Sent::No(_)) if !session.is_open() && !ended => ended = true,
                // It was not sent: whoever asks again asks once.
                Err(Sent::No(error)) => return Err(Unasked::Unsent(Failure::from(error).into())),
            }
        }
    }
}

/// Why a request was not sent.
enum Sent {
    /// The session is in the way.
    No(Error),
    /// The request is.
    Never(Error),
}

async fn send(session: &Session, op: Op, json: &str, patience: Patience) -> Result<Answer, Sent> {
    let sent = match patience {
        Patience::Little => session.ask_json_within(op, json, GRACE).await,
        Patience::Some => session.ask_json_within(op, json, CONNECTING).await,
        Patience::Endless => session.ask_json(op, json).await,
    };
    sent.map_err(|error| match error {
        Error::TooLarge { .. } => Sent::Never(error),
        Error::Address(_)
        | Error::Connect(_)
        | Error::Tls(_)
        | Error::Refused { .. }
        | Error::Identity(_)
        | Error::TooOld { .. }
        | Error::Handshake
        | Error::DidNotOpen
        | Error::Protocol
        | Error::Truncated
        | Error::Silent(_)
        | Error::SessionLost
        | Error::Closed => Sent::No(error),
    })
}

impl State {
    fn usable(&self) -> Option<Session> {
        let (session, until) = self.session.as_ref()?;
        (session.is_open() && Instant::now() < *until).then(|| session.clone())
    }

    /// Whether all that is wrong with the session is its age: the node is there.
    fn is_only_old(&self) -> bool {
        self.again.is_none() && self.session.as_ref().is_some_and(|(session, _)| session.is_open())
    }

    fn opened(&mut self, session: Session) {
        let now = Instant::now();
        // Answers that run in the old one have it until they end.
        *self = Self {
            session: Some((session, now.checked_add(LONGEST_SESSION).unwrap_or(now))),
            ..Self::default()
        };
    }

    fn failed(&mut self, now: Instant) {
        self.pause = self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.again = now.checked_add(self.pause);
        self.attempt = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_be_reached_is_left_alone_for_longer_each_time() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            state.failed(now);
            pauses.push(state.again.unwrap().duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
