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
    v2::{
        Fault as WireFault, Flags, FromClient, Goodbye, Received, Record, RecordType, Requests, Shape, Sid,
        Welcome, encode,
    },
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use super::answer::{Answer, Piece};
use crate::{
    access::Access,
    answer::Asker,
    conversation::Conversation,
    crypto::lock,
    ledger::{self, Account, EndReason, Standing},
    limits::{Hit, Party, milliseconds},
};

/// Words are put together for so long once the first are out.
const TICK: Duration = Duration::from_millis(40);
/// Unsent bytes of an answer beyond which its making waits for the socket.
const UNSENT: usize = 256 << 10;
/// Bytes of one session's answers that are kept, sent or not.
const KEPT: usize = 1 << 20;

/// Answers that a client may leave unacknowledged, for each request that it may have open.
const UNACKNOWLEDGED: usize = 8;

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

/// What is sent beside answers.
#[derive(Debug)]
struct Control {
    kind: RecordType,
    flags: Flags,
    body: Zeroizing<Vec<u8>>,
}

/// The next record to seal.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) kind: RecordType,
    pub(super) flags: Flags,
    pub(super) request: u32,
    pub(super) index: u32,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// What a pump is to do.
pub(super) enum Next {
    Send(Outbound),
    /// Nothing before this moment.
    At(Instant),
    /// Nothing before somebody wakes it.
    Wait,
    /// Another connection has the session, or it is over.
    Over,
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

    /// Begins an answer; `None` where `most` are begun already, or the session has another connection by now, whose
    /// client sends the request again.
    pub(super) fn begin(&self, epoch: u64, request: u32, most: usize) -> Option<CancellationToken> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch || self.is_barred() {
            return None;
        }
        let running = inner.answers.values().filter(|answer| !answer.ended).count();
        if running >= most || inner.answers.len() >= most.saturating_mul(UNACKNOWLEDGED) {
            return None;
        }
        let cancel = self.ended.child_token();
        inner.answers.insert(request, Answer::new(cancel.clone()));
        Some(cancel)
    }

    /// Refuses a request: an answer that is an end and nothing more. False where so many answers are not acknowledged
    /// that there is no place to say even that.
    #[must_use]
    pub(super) fn refuse(&self, epoch: u64, request: u32, fault: &WireFault, most: usize) -> bool {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return true;
        }
        if inner.answers.len() >= most.saturating_mul(UNACKNOWLEDGED).saturating_mul(2) {
            return false;
        }
        let answer = inner.answers.entry(request).or_insert_with(|| Answer::new(CancellationToken::new()));
        answer.push(Piece::error(&encode(fault)));
        drop(inner);
        self.wake.notify_waiters();
        true
    }

    /// Adds to an answer, all of it or nothing. Waits while the socket does not take what there is.
    pub(super) async fn push(&self, request: u32, pieces: Vec<Piece>) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.has_room(request) {
                break;
            }
            room.await;
        }
        let mut inner = lock(&self.inner);
        inner.last_active = Instant::now();
        if let Some(answer) = inner.answers.get_mut(&request) {
            pieces.into_iter().for_each(|piece| answer.push(piece));
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    /// Ends an answer, whether there is room or not: its end is small.
    pub(super) fn end_answer(&self, request: u32, pieces: Vec<Piece>) {
        let mut inner = lock(&self.inner);
        if let Some(answer) = inner.answers.get_mut(&request) {
            pieces.into_iter().for_each(|piece| answer.push(piece));
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    fn has_room(&self, request: u32) -> bool {
        let inner = lock(&self.inner);
        let Some(answer) = inner.answers.get(&request) else { return true };
        let kept: usize = inner.answers.values().map(Answer::bytes).sum();
        if inner.attached.is_some() { answer.unsent_bytes() < UNSENT } else { kept < KEPT }
    }

    pub(super) fn cancel(&self, request: u32) {
        // Of an unknown answer, or one that has ended, there is nothing to cancel.
        if let Some(answer) = lock(&self.inner).answers.get(&request) {
            answer.cancel.cancel();
        }
    }

    pub(super) fn cancel_all(&self) {
        lock(&self.inner).answers.values().for_each(|answer| answer.cancel.cancel());
    }

    pub(super) fn drop_text(&self) {
        let mut inner = lock(&self.inner);
        inner.answers.values_mut().for_each(Answer::drop_text);
        if inner.attached.is_none() {
            self.account.stand(Standing::TicketOnly);
        }
        drop(inner);
        self.room.notify_waiters();
    }

    pub(super) fn acknowledge(&self, received: &[Received]) {
        lock(&self.inner).acknowledge(received);
        self.room.notify_waiters();
    }

    /// Says something that is of no request.
    pub(super) fn say(&self, kind: RecordType, flags: Flags, body: &impl serde::Serialize) {
        let mut inner = lock(&self.inner);
        // Behind the last word there is none.
        if inner.control.back().is_none_or(|last| !last.flags.last) {
            inner.control.push_back(Control { kind, flags, body: encode(body) });
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    pub(super) fn welcome(&self, welcome: &Welcome) {
        self.say(RecordType::Welcome, Flags::NONE, welcome);
    }

    /// Ends the session: the client is told, and the connection closed behind that.
    pub(crate) fn say_goodbye(&self, reason: &str, why: EndReason) {
        self.account.end(why);
        self.say(RecordType::Goodbye, Flags::LAST, &Goodbye { reason: reason.to_owned() });
    }

    /// The next record for the connection of `epoch`.
    pub(super) fn next(&self, epoch: u64) -> Next {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch || self.ended.is_cancelled() {
            return Next::Over;
        }
        if let Some(Control { kind, flags, body }) = inner.control.pop_front() {
            let index = inner.next_control;
            inner.next_control = index.saturating_add(1);
            drop(inner);
            self.room.notify_waiters();
            return Next::Send(Outbound { kind, flags, request: 0, index, body });
        }
        let tick = (inner.shape == Shape::Bucket).then_some(TICK);
        let now = Instant::now();
        let due =
            |(request, answer): (&u32, &Answer)| answer.due(tick, now).map(|due| (due.max(now), *request));
        // In turns: of those that may send now, the one after the one that did last.
        let turn = inner.turn;
        let Some((at, request)) = inner
            .answers
            .iter()
            .filter_map(due)
            .min_by_key(|(due, request)| (*due, *request <= turn, *request))
        else {
            return Next::Wait;
        };
        if at > now {
            return Next::At(at);
        }
        inner.turn = request;
        let Some(answer) = inner.answers.get_mut(&request) else { return Next::Wait };
        let outbound = answer.send().map(|(index, piece)| Outbound {
            kind: piece.kind,
            flags: piece.flags,
            request,
            index,
            body: piece.body.clone(),
        });
        inner.keep_within_bounds();
        drop(inner);
        self.room.notify_waiters();
        outbound.map_or(Next::Over, Next::Send)
    }

    /// Whether answers are being made or have not been sent.
    pub(super) fn is_busy(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.control.is_empty()
            || inner.answers.values().any(|answer| !answer.ended || answer.unsent_bytes() > 0)
    }

    /// Returns once nothing is being made or sent.
    pub(crate) async fn finished(&self) {
        while self.is_busy() {
            let sent = self.room.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            if !self.is_busy() || self.ended.is_cancelled() {
                return;
            }
            sent.await;
        }
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
