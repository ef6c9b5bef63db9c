//! A session of version 2: its answers, and the connection that it has at the moment, if any.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use fabstir_protocol::{
    Code,
    ethereum::Address,
    identity::PublicKey,
    seal::OpenError,
    v2::{Fault as WireFault, Flags, FromClient, Received, Record, RecordType, Requests, Shape, Sid, encode},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod answers;
mod sending;

pub(super) use sending::{Next, Outbound};

use sending::Control;

use super::answer::{Answer, Piece};
use crate::{
    access::Access,
    answer::Asker,
    conversation::Conversation,
    crypto::lock,
    ledger::{self, Account, EndReason, Standing},
    limits::{Hit, Party, milliseconds},
};

/// Bytes of one session's answers that are kept, sent or not.
const KEPT: usize = 1 << 20;

/// Who opened a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Client {
    /// A wallet, which vouches for the static key.
    Wallet(Address),
    /// Somebody with a key.
    Anonymous,
}

impl Client {
    /// The wallet's.
    pub(super) fn address(self) -> Option<Address> {
        match self {
            Self::Wallet(address) => Some(address),
            Self::Anonymous => None,
        }
    }
}

impl From<Client> for ledger::Client {
    fn from(client: Client) -> Self {
        match client {
            Client::Wallet(address) => Self::Wallet(address),
            Client::Anonymous => Self::Anonymous,
        }
    }
}

#[derive(Debug)]
struct Inner {
    /// Which connection has the session: the number of the last one that got it.
    epoch: u64,
    /// Ends that connection; `None` while there is none.
    attached: Option<CancellationToken>,
    requests: Requests,
    answers: BTreeMap<u32, Answer>,
    control: VecDeque<Control>,
    next_control: u32,
    shape: Shape,
    /// The answer that sent last: the others come first.
    turn: u32,
    last_active: Instant,
}

impl Inner {
    fn acknowledge(&mut self, received: &[Received]) {
        for Received(request, last) in received {
            if self.answers.get_mut(request).is_some_and(|answer| answer.acknowledge(*last)) {
                self.answers.remove(request);
            }
        }
    }

    /// Forgets the oldest of what was sent and not acknowledged, until no more is kept than a session may.
    fn keep_within_bounds(&mut self) {
        let mut kept: usize = self.answers.values().map(Answer::bytes).sum();
        for answer in self.answers.values_mut() {
            if kept <= KEPT {
                return;
            }
            let (before, others) = (answer.bytes(), kept.saturating_sub(answer.bytes()));
            answer.keep_at_most(KEPT.saturating_sub(others));
            kept = others.saturating_add(answer.bytes().min(before));
        }
    }

    /// What the client has goes; what it has not is to be sent again. The requests that the node knows.
    fn resume(&mut self, received: &[Received]) -> Vec<u32> {
        self.acknowledge(received);
        // Who says that more came than was sent is not to be sent anything.
        let honest = |request: &u32, answer: &mut Answer| {
            let more = received.iter().any(|Received(id, last)| id == request && !answer.has_sent(*last));
            if more {
                answer.cancel.cancel();
            }
            !more
        };
        self.answers.retain(honest);
        for (request, answer) in &mut self.answers {
            let last = received.iter().find_map(|Received(id, last)| (id == request).then_some(*last));
            if !answer.resume(last) {
                answer.replace(last, Piece::error(&encode(&wire_fault(Code::AnswerGone, None))));
            }
        }
        let known: Vec<u32> = self.answers.keys().copied().collect();
        self.requests.resume(known.iter().copied());
        known
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) name: Sid,
    pub(super) client: Client,
    pub(super) static_key: PublicKey,
    pub(super) opened: Instant,
    /// For whom what is asked counts.
    pub(super) party: Party,
    /// Cancelled once its client may no longer have it.
    barred: CancellationToken,
    pub(super) account: Arc<Account>,
    /// The engine's numbers: for fair queueing, and of whom may share what is computed.
    client_number: u64,
    scope: Option<u64>,
    conversation: Conversation,
    /// One turn of the conversation that the node keeps after the other.
    pub(super) turns: tokio::sync::Mutex<()>,
    pub(super) ended: CancellationToken,
    pub(super) tasks: TaskTracker,
    inner: Mutex<Inner>,
    pub(super) wake: Notify,
    room: Notify,
}

impl Session {
    pub(super) fn new(
        name: Sid,
        client: Client,
        static_key: PublicKey,
        (client_number, scope): (u64, Option<u64>),
        party: Party,
        max_request_bytes: usize,
    ) -> Self {
        let now = Instant::now();
        Self {
            name,
            client,
            static_key,
            opened: now,
            party,
            barred: CancellationToken::new(),
            account: Arc::new(Account::new(2, name.to_string(), client.into())),
            client_number,
            scope,
            conversation: Conversation::default(),
            turns: tokio::sync::Mutex::default(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            inner: Mutex::new(Inner {
                epoch: 0,
                attached: None,
                requests: Requests::new(max_request_bytes),
                answers: BTreeMap::new(),
                control: VecDeque::new(),
                next_control: 0,
                shape: Shape::default(),
                turn: 0,
                last_active: now,
            }),
            wake: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { conversation: &self.conversation, client: self.client_number, scope: self.scope }
    }

    pub(super) fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Lends the session a connection, which `close` ends, and takes it from the one before. The number of this lending,
    /// and where the client says what it has `received`, the requests that the node knows. In one step: what the
    /// connection before takes to send must not be missing on this one.
    pub(super) fn attach(
        &self,
        close: CancellationToken,
        shape: Shape,
        received: Option<&[Received]>,
    ) -> (u64, Option<Vec<u32>>) {
        let mut inner = lock(&self.inner);
        let known = received.map(|received| inner.resume(received));
        inner.epoch = inner.epoch.saturating_add(1);
        inner.control.clear();
        inner.next_control = 0;
        inner.shape = shape;
        inner.last_active = Instant::now();
        if let Some(before) = inner.attached.replace(close) {
            before.cancel();
        }
        let epoch = inner.epoch;
        self.account.stand(Standing::Attached);
        drop(inner);
        self.wake.notify_waiters();
        // What waited for room without a connection has other bounds now.
        self.room.notify_waiters();
        (epoch, known)
    }

    /// The connection of `epoch` is gone. False where another one had taken its place.
    pub(crate) fn detach(&self, epoch: u64) -> bool {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return false;
        }
        inner.attached = None;
        self.account.stand(Standing::Lost);
        inner.last_active = Instant::now();
        inner.requests.drop_unfinished();
        true
    }

    /// Whether nothing was ever asked: there is nothing to come back for.
    pub(crate) fn is_untouched(&self) -> bool {
        lock(&self.inner).requests.is_untouched()
    }

    /// Whether its client may have it.
    pub(super) fn is_admitted(&self, access: &Access) -> bool {
        match self.client {
            Client::Wallet(wallet) => access.admits_delegate(&wallet, &self.static_key),
            Client::Anonymous => access.admits_anonymous(&self.static_key),
        }
    }

    /// Shows its client out: what is being answered stops, and the last record says why. False where there is no
    /// connection to say it on.
    pub(super) fn bar(&self) -> bool {
        self.barred.cancel();
        self.cancel_all();
        let is_attached = lock(&self.inner).attached.is_some();
        if is_attached {
            self.say(RecordType::Error, Flags::LAST, &wire_fault(Code::ClientNotAllowed, None));
        }
        is_attached
    }

    /// Whether its client was shown out.
    pub(crate) fn is_barred(&self) -> bool {
        self.barred.is_cancelled()
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Whether nobody has the session since the lending of `epoch`.
    pub(super) fn is_lost_since(&self, epoch: u64) -> bool {
        let inner = lock(&self.inner);
        inner.epoch == epoch && inner.attached.is_none()
    }

    /// Takes a record of the client's: what it led to, and how many bytes of unfinished requests there are.
    pub(super) fn receive(&self, epoch: u64, record: Record) -> Result<(FromClient, usize), OpenError> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return Err(OpenError);
        }
        inner.last_active = Instant::now();
        let led = inner.requests.take(record)?;
        Ok((led, inner.requests.unfinished_bytes()))
    }

    /// How long nothing was said.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(lock(&self.inner).last_active)
    }

    /// Ends everything that the session has.
    pub(super) fn end(&self, reason: EndReason) {
        self.account.end(reason);
        self.ended.cancel();
        let mut inner = lock(&self.inner);
        inner.answers.clear();
        if let Some(close) = inner.attached.take() {
            close.cancel();
        }
        drop(inner);
        self.wake.notify_waiters();
        self.room.notify_waiters();
    }
}

/// The same with how long to wait.
pub(super) fn wire_hit(Hit { code, wait }: Hit) -> WireFault {
    WireFault { retry_after_ms: wait.map(milliseconds), ..wire_fault(code, None) }
}

/// A refusal as it is sealed.
pub(super) fn wire_fault(code: Code, field: Option<&str>) -> WireFault {
    WireFault {
        code: code.as_str().to_owned(),
        message: crate::answer::meaning(code, field),
        ..WireFault::default()
    }
}
