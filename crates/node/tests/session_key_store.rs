//! The registry of sessions, under a clock that is moved by hand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test is meant to panic")]

use std::{net::IpAddr, sync::Arc, time::Duration};

use fabstir_llm_node::{
    crypto::{ConnectionId, LiveSession, OpenRefused, SessionKeyStore, StoreLimits},
    node::Clock,
};
use fabstir_protocol::{
    Code, Error,
    id::SessionId,
    identity::PrivateKey,
    seal::Words,
    v1::{ClientFrame, ClientHello, Dialect, Established, Inbound, InitContext, Network},
};
use rand_core::UnwrapErr;
use tokio::time::{Instant, advance};

const ONE: ConnectionId = ConnectionId(1);
const TWO: ConnectionId = ConnectionId(2);
const TTL: Duration = Duration::from_secs(100);
const GRACE: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);

fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

fn limits() -> StoreLimits {
    StoreLimits { sessions: 4, per_connection: 3, ttl: TTL, session_max: LONGEST, grace: GRACE }
}

/// A store, its node's key and a client.
struct Bench {
    store: Arc<SessionKeyStore>,
    node: PrivateKey,
    wallet: PrivateKey,
}

impl Bench {
    fn new() -> Self {
        let store = SessionKeyStore::new(limits(), Clock::start(), &mut rng());
        Self {
            store: Arc::new(store),
            node: PrivateKey::random(&mut rng()),
            wallet: PrivateKey::random(&mut rng()),
        }
    }

    /// An init's text and what opens of it, by `wallet` with or without a claim.
    fn init(&self, id: &str, wallet: &PrivateKey, claim: bool) -> String {
        let hello = ClientHello {
            node_key: &self.node.public_key(),
            client_key: wallet,
            id: id.try_into().unwrap(),
            context: InitContext::default(),
            dialect: Dialect::Deployed,
            timestamp: None,
            claim,
        };
        hello.start(&mut rng()).unwrap().0
    }

    fn established(&self, text: &str) -> Established {
        let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(text) else {
            panic!("no init")
        };
        raw.read(id).unwrap().open(&self.node).unwrap().authenticate().unwrap()
    }

    fn admit(&self, text: &str, connection: ConnectionId) -> Result<Arc<LiveSession>, OpenRefused> {
        let network = Network::from(IpAddr::from([127, 0, 0, 1]));
        self.store.open(self.established(text), connection, network, Instant::now())
    }

    fn open(&self, id: &str, connection: ConnectionId) -> Arc<LiveSession> {
        self.admit(&self.init(id, &self.wallet, true), connection).unwrap()
    }

    fn open_unclaimed(&self, id: &str, connection: ConnectionId) -> Arc<LiveSession> {
        self.admit(&self.init(id, &self.wallet, false), connection).unwrap()
    }

    fn is_live(&self, id: &str, connection: ConnectionId) -> bool {
        let id = SessionId::try_from(id).unwrap();
        self.store.session(connection, &id, Instant::now()).is_some()
    }

    fn keys(&self) -> (usize, usize, u64) {
        let metrics = self.store.metrics();
        (metrics.active_sessions, metrics.total_keys_stored, metrics.expired_keys_cleaned)
    }

    fn sweep(&self) -> usize {
        self.store.sweep(Instant::now())
    }
}

fn code(refused: &OpenRefused) -> Code {
    match refused {
        OpenRefused::Protocol(fault) => Code::from(&Error::from(*fault)),
        OpenRefused::Full(_) => Code::NodeBusy,
    }
}

fn say(session: &LiveSession) {
    session.conversation().add(Words::from("asked"), Words::from("answered"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_expires_when_its_time_is_over_and_not_before() {
    let bench = Bench::new();
    drop(bench.open("a", ONE));
    advance(TTL - SECOND).await;
    assert_eq!(bench.sweep(), 0);
    assert!(bench.is_live("a", ONE));
    advance(SECOND).await;
    assert!(!bench.is_live("a", ONE), "expired, swept or not");
    assert_eq!(bench.keys(), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_removes_what_nobody_asks_for() {
    let bench = Bench::new();
    drop(bench.open("a", ONE));
    drop(bench.open("b", ONE));
    advance(TTL).await;
    assert_eq!(bench.sweep(), 2);
    assert_eq!(bench.keys(), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_running_answer_is_not_cut_and_its_end_counts_as_life() {
    let bench = Bench::new();
    let live = bench.open("a", ONE);
    let running = bench.store.begin(live, ONE, Instant::now());
    advance(TTL * 2).await;
    assert_eq!(bench.sweep(), 0);
    drop(running);
    advance(TTL - SECOND).await;
    assert!(bench.is_live("a", ONE));
    advance(SECOND).await;
    assert_eq!(bench.sweep(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_has_a_longest_life_that_inits_do_not_renew() {
    let bench = Bench::new();
    let mut passed = Duration::ZERO;
    while passed < LONGEST {
        bench.open("a", ONE);
        advance(TTL / 2).await;
        passed += TTL / 2;
    }
    assert!(!bench.is_live("a", ONE));
}

#[tokio::test(start_paused = true)]
async fn an_init_after_the_longest_life_begins_anew_though_an_answer_runs() {
    let bench = Bench::new();
    let live = bench.open("a", ONE);
    say(&live);
    let running = bench.store.begin(live, ONE, Instant::now());
    advance(LONGEST).await;
    let new = bench.open("a", ONE);
    assert!(new.conversation().is_empty() && bench.is_live("a", ONE));
    assert!(!running.live().ended().is_cancelled(), "what runs is not cut");
    drop(running);
    assert!(bench.is_live("a", ONE), "its end is not the new one's");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_opens_counts_as_life_whatever_becomes_of_it() {
    let bench = Bench::new();
    let live = bench.open("a", ONE);
    advance(TTL - SECOND).await;
    bench.store.touch(&live, ONE, Instant::now());
    advance(TTL - SECOND).await;
    assert!(bench.is_live("a", ONE));
}

#[tokio::test(start_paused = true)]
async fn a_probe_leaves_nothing_but_its_mark() {
    let bench = Bench::new();
    let init = bench.init("a", &bench.wallet, true);
    let network = Network::from(IpAddr::from([127, 0, 0, 1]));
    let probe = || bench.store.probe(&bench.established(&init), network, Instant::now());
    probe().unwrap();
    assert_eq!(code(&probe().unwrap_err()), Code::ReplayDetected);
    assert_eq!(code(&bench.admit(&init, ONE).unwrap_err()), Code::ReplayDetected);
    assert_eq!(bench.keys(), (0, 0, 0));
    advance(Duration::from_secs(700)).await;
    bench.sweep();
    assert_eq!(bench.store.remembered_inits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claimed_conversation_outlives_its_connection_by_the_grace() {
    let bench = Bench::new();
    say(&bench.open("a", ONE));
    bench.store.disconnect(ONE, Instant::now());
    assert_eq!(bench.keys(), (0, 0, 0), "its key is gone at once");
    advance(GRACE - SECOND).await;
    let lines = bench.store.lines_in_grace(Instant::now());
    let shown: Vec<_> = lines.iter().map(|line| (&*line.session_id, &*line.state, line.version)).collect();
    assert_eq!(shown, [("a", "grace", 1)], "the operator sees whose place it takes");
    assert_eq!(bench.open("a", TWO).conversation().len(), 1);
    assert_eq!(bench.store.lines_in_grace(Instant::now()), []);
    bench.store.disconnect(TWO, Instant::now());
    advance(GRACE).await;
    assert!(bench.open("a", ONE).conversation().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unclaimed_conversation_ends_with_its_connection() {
    let bench = Bench::new();
    say(&bench.open_unclaimed("a", ONE));
    bench.store.disconnect(ONE, Instant::now());
    assert!(bench.open_unclaimed("a", ONE).conversation().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_newest_connection_of_an_owner_wins() {
    let bench = Bench::new();
    let old = bench.open("a", ONE);
    say(&old);
    let new = bench.open("a", TWO);
    assert!(old.ended().is_cancelled() && !new.ended().is_cancelled());
    assert!(!bench.is_live("a", ONE) && bench.is_live("a", TWO));
    assert_eq!(new.conversation().len(), 1);
    drop(old);
    assert_eq!(bench.keys(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_under_the_same_id_has_a_conversation_of_their_own() {
    let bench = Bench::new();
    say(&bench.open("a", ONE));
    let stranger = PrivateKey::random(&mut rng());
    let theirs = bench.admit(&bench.init("a", &stranger, true), TWO).unwrap();
    assert!(theirs.conversation().is_empty());
    assert!(bench.is_live("a", ONE));
    let refused = bench.admit(&bench.init("a", &stranger, true), ONE).unwrap_err();
    assert_eq!(code(&refused), Code::InvalidSignature, "one id of a connection has one owner");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_replaces_the_old_one_and_keeps_the_conversation() {
    let bench = Bench::new();
    let old = bench.open("a", ONE);
    say(&old);
    let running = bench.store.begin(old, ONE, Instant::now());
    let new = bench.open("a", ONE);
    assert_eq!(new.conversation().len(), 1);
    assert!(!running.live().ended().is_cancelled(), "its answer goes on under its own key");
    assert_eq!(bench.keys(), (1, 2, 0));
    drop(running);
    assert_eq!(bench.keys(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_init_opens_once_whatever_became_of_its_session() {
    let bench = Bench::new();
    let init = bench.init("a", &bench.wallet, true);
    bench.admit(&init, ONE).unwrap();
    let again = |connection| code(&bench.admit(&init, connection).unwrap_err());
    assert_eq!(again(ONE), Code::ReplayDetected);
    bench.store.disconnect(ONE, Instant::now());
    assert_eq!(again(TWO), Code::ReplayDetected);
    advance(GRACE * 2).await;
    bench.sweep();
    assert_eq!(again(TWO), Code::ReplayDetected);
    // Ten minutes at least after its conversation is gone, the memory lets go of it.
    advance(Duration::from_secs(601) + TTL).await;
    bench.sweep();
    assert_eq!(bench.store.remembered_inits(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_bound_refuses_the_new_and_keeps_the_old() {
    let bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.open(id, ONE);
    }
    let refused = |id: &str, connection| {
        code(&bench.admit(&bench.init(id, &bench.wallet, true), connection).unwrap_err())
    };
    assert_eq!(refused("d", ONE), Code::NodeBusy, "three to a connection");
    bench.open("d", TWO);
    assert_eq!(refused("e", TWO), Code::NodeBusy, "four in all");
    bench.open("d", TWO);
    assert!(["a", "b", "c"].iter().all(|id| bench.is_live(id, ONE)));
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_after_a_wipe() {
    let bench = Bench::new();
    let live = bench.open("a", ONE);
    bench.store.wipe();
    assert!(live.ended().is_cancelled());
    drop(live);
    assert_eq!(bench.keys(), (0, 0, 0));
    assert_eq!(bench.store.metrics().memory_usage_estimate_bytes, 0);
}
