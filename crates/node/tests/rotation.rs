//! The identity changes while the node runs: sessions go on, old pins open for a while, and who holds one is told.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test is meant to panic")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fabstir_client::{Config, Error, Session};
use fabstir_custody::{KeyCustody, KeyFailure};
use fabstir_llm_node::crypto::{Keys, NodeKey, RotationError, TestKeys, state};
use fabstir_protocol::{
    identity::{Agreed, PrivateKey, PublicKey, Signature},
    v1::Dialect,
    v2::{AdvertisementError, AwaitingM2, AwsLc},
};
use support::{TestNode, echo, init, rng, settings, slow_echo, wallet};
use tokio::time::Instant;

fn fresh() -> (NodeKey, PrivateKey) {
    let key = PrivateKey::random(&mut rng());
    (NodeKey::read(&key.to_secret_hex(), TestKeys::Refused).unwrap(), key)
}

fn pinned(node: &TestNode, identity: fabstir_protocol::ethereum::Address) -> Config {
    let url = format!("ws://{}/v1/ws", node.address);
    Config { resume_for: Duration::from_secs(10), ..Config::new(url, identity, fabstir_client::anonymous()) }
}

async fn say(session: &Session, words: &str) -> String {
    let chat = fabstir_client::Request::prompt(words);
    session.ask(&chat).await.unwrap().text().await.unwrap().0.as_str().trim().to_owned()
}

#[tokio::test]
async fn a_rotation_drops_no_session_and_tells_who_pins_the_old_identity() {
    let node = TestNode::start(echo()).await;
    let old = node.key.address();
    let session = Session::connect(pinned(&node, old)).await.unwrap();
    assert_eq!(say(&session, "before").await, "before");
    let (next, _) = fresh();
    let new = next.address();
    assert_eq!(node.node.rotate_identity(next, None).unwrap(), new);
    assert_eq!(say(&session, "after").await, "after");
    // A connection that is lost is replaced by the ticket, though the node shows another identity by now.
    session.lose_connection();
    assert_eq!(say(&session, "and again").await, "and again");
    // A new session is a person's to allow.
    let refused = Session::connect(pinned(&node, old)).await.unwrap_err();
    let Error::Identity(AdvertisementError::Moved(to)) = refused else { panic!("{refused:?}") };
    assert_eq!(to, new);
    let anew = Session::connect(pinned(&node, new)).await.unwrap();
    assert_eq!(say(&anew, "hello").await, "hello");
    let shown = node.get_json("/v1/node").await;
    assert_eq!(
        (shown["node"]["rotation"]["from"].as_str(), shown["node"]["address"].as_str()),
        (Some(&*old.to_string()), Some(&*new.to_string()))
    );
    assert_eq!(node.get_json("/page.json").await["node"], new.to_string());
}

#[tokio::test]
async fn answers_run_through_a_rotation_in_both_versions() {
    let node = TestNode::start(slow_echo(Duration::from_millis(20))).await;
    let words = "one two three four five six seven eight nine ten";
    let mut peer = node.connect().await;
    let (frame, mut first) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    assert_eq!(peer.outcome(frame).await, "session_init_ack");
    peer.send(first.message(words.as_bytes(), &mut rng()).unwrap()).await;
    let session = Session::connect(pinned(&node, node.key.address())).await.unwrap();
    let mut answer = session.ask(&fabstir_client::Request::prompt(words)).await.unwrap();
    answer.next().await.unwrap();
    node.node.rotate_identity(fresh().0, None).unwrap();
    assert_eq!(peer.hear(&first).await.text.trim(), words);
    assert!(answer.text().await.unwrap().0.as_str().trim().ends_with("ten"));
}

#[tokio::test]
async fn inits_open_under_either_identity_until_the_overlap_is_over() {
    let node = TestNode::start(echo()).await;
    let (next, next_key) = fresh();
    node.node.rotate_identity(next, None).unwrap();
    let mut peer = node.connect().await;
    for (id, key) in [("old", node.key), ("new", next_key.public_key())] {
        let (frame, _) = init(&key, &wallet(), id, Dialect::GuideTypescript, true);
        assert_eq!(peer.outcome(frame).await, "session_init_ack", "{id}");
    }
    let identities = node.node.identities.as_ref().unwrap();
    let later = Instant::now() + Duration::from_secs(604_801);
    assert_eq!((identities.live(Instant::now()).len(), identities.live(later).len()), (2, 1));
    identities.sweep(node.node.clock.unix(later), later, &mut rng()).unwrap();
    let (frame, _) = init(&node.key, &wallet(), "late", Dialect::Deployed, true);
    assert_eq!(peer.outcome(frame).await, "DECRYPTION_FAILED");
    let (frame, _) = init(&next_key.public_key(), &wallet(), "3", Dialect::Deployed, true);
    assert_eq!(peer.outcome(frame).await, "session_init_ack");
}

#[tokio::test]
async fn a_handshake_that_was_begun_before_a_rotation_ends_under_the_old_identity() {
    let node = TestNode::start(echo()).await;
    let now = || node.node.clock.unix(Instant::now());
    let shown: fabstir_protocol::v2::Advertisement =
        serde_json::from_value(node.get_json("/v1/node").await).unwrap();
    let before = shown.verify(node.key.address(), now()).unwrap();
    node.node.rotate_identity(fresh().0, None).unwrap();
    let (m1, _) = AwaitingM2::<AwsLc>::start(&before, &mut rng()).unwrap();
    let m1 = fabstir_protocol::v2::M1::read(&m1).unwrap();
    let (identity, key) = node.node.identities.as_ref().unwrap().find(m1.hint, Instant::now()).unwrap();
    assert_eq!(identity.key.address(), node.key.address());
    m1.open(key.private(), identity.channel_keys.prologue()).unwrap();
}

#[tokio::test]
async fn a_node_that_starts_again_in_the_overlap_serves_both_identities_for_what_is_left_of_it() {
    let ((old, old_key), (new, new_key)) = (fresh(), fresh());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let rotation = state(&old, new.address(), 0, now - 600_000).unwrap();
    let (config, ..) = settings(&[]);
    let keys = Keys { current: new, previous: Some(old), rotation: Some(rotation.clone()) };
    let node = fabstir_llm_node::node::Node::new(config.clone(), Some(keys), echo()).unwrap();
    let identities = node.identities.as_ref().unwrap();
    let live = |seconds| identities.live(Instant::now() + Duration::from_secs(seconds)).len();
    assert_eq!(
        (live(0), live(4_000), live(5_000)),
        (2, 2, 1),
        "604,800 seconds from the rotation, not from the start"
    );
    // A statement of other keys, or one that the old key never made, stops the start.
    let read = |key: &PrivateKey| NodeKey::read(&key.to_secret_hex(), TestKeys::Refused).unwrap();
    for (current, previous) in [(&old_key, &new_key), (&new_key, &PrivateKey::random(&mut rng()))] {
        let keys =
            Keys { current: read(current), previous: Some(read(previous)), rotation: Some(rotation.clone()) };
        let refused = fabstir_llm_node::node::Node::new(config.clone(), Some(keys), echo()).unwrap_err();
        assert!(matches!(refused, RotationError::Statement(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_rotation_to_the_same_key_changes_nothing() {
    let (config, key, text) = settings(&[]);
    let node = TestNode::run(config, key, echo()).await;
    let same = NodeKey::read(&text, TestKeys::Refused).unwrap();
    assert!(matches!(node.node.rotate_identity(same, None), Err(RotationError::Same(_))));
    assert!(node.get_json("/v1/node").await["node"].get("rotation").is_none());
}

/// A key that says how often it was used.
#[derive(Debug)]
struct Counted(fabstir_custody::LockedKey, Arc<AtomicUsize>);

impl KeyCustody for Counted {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.agree(their_key)
    }

    fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure> {
        self.0.sign(digest)
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

#[tokio::test]
async fn an_init_that_opens_under_nobody_costs_one_agreement_for_each_live_identity() {
    let agreed = Arc::new(AtomicUsize::new(0));
    let counted = |seed: u8| {
        let key = fabstir_custody::LockedKey::new(&[seed; 32]).unwrap();
        NodeKey::held_by(Box::new(Counted(key, Arc::clone(&agreed))))
    };
    let (config, ..) = settings(&[]);
    let node = TestNode::run(config, Some(counted(0x5a)), echo()).await;
    let stranger = PrivateKey::random(&mut rng()).public_key();
    let mut peer = node.connect().await;
    for live in [1, 2] {
        let before = agreed.load(Ordering::Relaxed);
        for number in 0..5 {
            let (frame, _) = init(&stranger, &wallet(), &number.to_string(), Dialect::Deployed, true);
            assert_eq!(peer.outcome(frame).await, "DECRYPTION_FAILED");
        }
        assert_eq!(agreed.load(Ordering::Relaxed) - before, 5 * live, "{live} identities");
        if live == 1 {
            node.node.rotate_identity(counted(0x5b), None).unwrap();
        }
    }
    // Who is meant by the current identity costs no more than before the rotation.
    let before = agreed.load(Ordering::Relaxed);
    let current = *node.node.identity().unwrap().key.public();
    let (frame, _) = init(&current, &wallet(), "mine", Dialect::GuideRust, true);
    assert_eq!(peer.outcome(frame).await, "session_init_ack");
    assert_eq!(agreed.load(Ordering::Relaxed) - before, 1);
}

/// A key in a token that can be pulled out.
#[derive(Debug)]
struct Removable(fabstir_custody::LockedKey, Arc<AtomicBool>);

impl Removable {
    fn there(&self) -> Result<(), KeyFailure> {
        if self.1.load(Ordering::Relaxed) { Ok(()) } else { Err(KeyFailure::Gone) }
    }
}

impl KeyCustody for Removable {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure> {
        self.there().and_then(|()| self.0.agree(their_key))
    }

    fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure> {
        self.there().and_then(|()| self.0.sign(digest))
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

#[tokio::test]
async fn a_key_that_is_away_is_said_and_asked_again_until_it_is_back() {
    let there = Arc::new(AtomicBool::new(true));
    let key = fabstir_custody::LockedKey::new(&[0x5a; 32]).unwrap();
    let (config, ..) = settings(&[]);
    let key = NodeKey::held_by(Box::new(Removable(key, Arc::clone(&there))));
    let node = TestNode::run(config, Some(key), echo()).await;
    let mut peer = node.connect().await;
    let ready = async || {
        (node.http("GET", "/ready", &[], "").await.0, node.get_json("/ready").await["status"].clone())
    };
    let counted = async |ready: &str| {
        let (_, page) = node.http("GET", "/metrics", &[], "").await;
        page.contains(&format!("fabstir_identity_key_ready {ready}\n"))
    };
    assert_eq!(ready().await, (200, "ready".into()));
    there.store(false, Ordering::Relaxed);
    let (frame, _) = init(&node.key, &wallet(), "away", Dialect::Deployed, true);
    assert_eq!(peer.outcome(frame).await, "INTERNAL_ERROR");
    assert_eq!(ready().await, (503, "key not ready".into()));
    assert!(counted("0").await);
    // Of version 2 the channel key is in memory: its sessions go on, and new ones open.
    let session = Session::connect(pinned(&node, node.key.address())).await.unwrap();
    assert_eq!(say(&session, "hello").await, "hello");
    let identities = node.node.identities.as_ref().unwrap();
    let sweep = |seconds| {
        let now = Instant::now() + Duration::from_secs(seconds);
        identities.sweep(node.node.clock.unix(now), now, &mut rng())
    };
    assert!(sweep(30).is_err(), "it is still away");
    there.store(true, Ordering::Relaxed);
    assert!(sweep(35).is_ok() && node.node.identity().unwrap().key.is_away(), "it is left alone for a while");
    assert!(sweep(60).is_ok());
    assert_eq!(ready().await, (200, "ready".into()));
    assert!(counted("1").await);
}
