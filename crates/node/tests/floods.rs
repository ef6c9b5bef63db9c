//! What garbage costs the node, counted and not timed; and what a flood of inits does to an answer that runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test is meant to panic"
)]

mod support;

use std::time::Instant;

use fabstir_protocol::{
    identity::PrivateKey,
    v1::{ClientSession, Dialect},
    v2::{AwaitingM2, AwsLc},
};
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use support::{Peer, TestNode, echo, edit, flip, init, llama, rng, wallet};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// One of the ways to send an init that opens nothing, and whether its form gives it away.
struct Garbage {
    what: &'static str,
    by_form: bool,
    code: &'static str,
    spoil: fn(&mut Value),
}

const KINDS: &[Garbage] = &[
    Garbage {
        what: "wrong hex",
        by_form: true,
        code: "INVALID_HEX_ENCODING",
        spoil: |frame| frame["payload"]["ciphertextHex"] = json!("zz"),
    },
    Garbage {
        what: "a nonce of another size",
        by_form: true,
        code: "INVALID_NONCE_SIZE",
        spoil: |frame| frame["payload"]["nonceHex"] = json!("00".repeat(12)),
    },
    Garbage {
        what: "a key of another size",
        by_form: true,
        code: "INVALID_PAYLOAD",
        spoil: |frame| frame["payload"]["ephPubHex"] = json!("02".repeat(32)),
    },
    Garbage {
        what: "an aad of no init",
        by_form: true,
        code: "DECRYPTION_FAILED",
        spoil: |frame| frame["payload"]["aadHex"] = json!(const_hex::encode("message_0")),
    },
    Garbage {
        what: "a signature of another size",
        by_form: true,
        code: "INVALID_SIGNATURE",
        spoil: |frame| frame["payload"]["signatureHex"] = json!("11".repeat(64)),
    },
    Garbage {
        // x³ + 7 is no square there: the x of a point of the twist.
        what: "a point off the curve",
        by_form: true,
        code: "INVALID_PAYLOAD",
        spoil: |frame| frame["payload"]["ephPubHex"] = json!(format!("02{:064x}", 5)),
    },
    Garbage {
        what: "a tag that is wrong",
        by_form: false,
        code: "DECRYPTION_FAILED",
        spoil: |frame| flip(&mut frame["payload"]["ciphertextHex"], 0, 0),
    },
    Garbage {
        what: "a signature by somebody else",
        by_form: false,
        code: "INVALID_SIGNATURE",
        spoil: |frame| flip(&mut frame["payload"]["signatureHex"], 40, 0),
    },
];

fn fresh(peer: &Peer, wallet: &PrivateKey) -> String {
    init(&peer.node_key, wallet, "1", Dialect::Deployed, true).0
}

#[tokio::test]
async fn fifty_inits_that_open_nothing_cost_one_agreement_each_at_most_and_none_where_the_form_is_wrong() {
    let node = TestNode::start(echo()).await;
    let wallet = wallet();
    let mut sent = 0;
    for kind in KINDS {
        let mut peer = node.connect().await;
        for _ in 0..6 {
            let before = node.node.key_work();
            let frame = edit(&fresh(&peer, &wallet), kind.spoil);
            assert_eq!(peer.outcome(frame).await, kind.code, "{}", kind.what);
            assert_eq!(node.node.key_work() - before, u64::from(!kind.by_form), "{}", kind.what);
            sent += 1;
        }
    }
    // A replay is known for one only once it has opened.
    let mut peer = node.connect().await;
    let replayed = fresh(&peer, &wallet);
    assert_eq!(peer.outcome(replayed.clone()).await, "session_init_ack");
    let before = node.node.key_work();
    for _ in 0..2 {
        assert_eq!(peer.outcome(replayed.clone()).await, "REPLAY_DETECTED");
        sent += 1;
    }
    assert_eq!((node.node.key_work() - before, sent), (2, 50));
}

#[tokio::test]
async fn beyond_the_rate_nothing_is_computed_and_a_wrong_form_is_not_on_anybodys_account() {
    let node = TestNode::with(echo(), &[], |config| config.inits_per_minute = 2.try_into().unwrap()).await;
    let wallet = wallet();
    let mut peer = node.connect().await;
    for _ in 0..10 {
        let frame = edit(&fresh(&peer, &wallet), KINDS[0].spoil);
        assert_eq!(peer.outcome(frame).await, "INVALID_HEX_ENCODING");
    }
    for _ in 0..2 {
        let frame = fresh(&peer, &wallet);
        assert_eq!(peer.outcome(frame).await, "session_init_ack");
    }
    // Not even whether the point is one.
    for spoil in [(|_| {}) as fn(&mut Value), KINDS[5].spoil, KINDS[6].spoil] {
        let frame = edit(&fresh(&peer, &wallet), spoil);
        assert_eq!(peer.outcome(frame).await, "RATE_LIMITED");
    }
    assert_eq!(node.node.key_work(), 2);
}

/// The first message of a handshake of version 2.
fn message_1(node: &TestNode) -> Vec<u8> {
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let advertisement = node.node.identities.as_ref().unwrap().advertisement();
    let verified = advertisement.verify(node.key.address(), now).unwrap();
    AwaitingM2::<AwsLc>::start(&verified, &mut rng()).unwrap().0
}

#[tokio::test]
async fn a_message_1_that_opens_nothing_costs_one_agreement_and_none_where_its_length_is_wrong() {
    let node = TestNode::start(echo()).await;
    for (at, cost) in [(usize::MAX, 0), (2, 0), (60, 1), (1200, 1)] {
        let mut peer = node.connect().await;
        let mut frame = message_1(&node);
        match frame.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => {
                frame.pop();
            }
        }
        let before = node.node.key_work();
        peer.socket.send(Message::binary(frame)).await.unwrap();
        assert_eq!(peer.receive().await["code"], "HANDSHAKE_FAILED");
        assert_eq!(node.node.key_work() - before, cost, "byte {at}");
    }
}

/// How long an answer of so many tokens takes.
async fn answer(peer: &mut Peer, session: &mut ClientSession) -> f64 {
    let request =
        json!({"prompt": "Count from one to a hundred.", "max_tokens": 96, "temperature": 0}).to_string();
    let begun = Instant::now();
    let heard = peer.ask(session, &request).await;
    assert_eq!(heard.finish_reason, "length");
    begun.elapsed().as_secs_f64()
}

/// Sends inits as fast as they are answered, until it is told to stop. How many were.
async fn flood(mut peer: Peer, inits: Vec<String>, stop: CancellationToken) -> usize {
    for (answered, init) in inits.into_iter().enumerate() {
        if stop.is_cancelled() {
            return answered;
        }
        assert_eq!(peer.outcome(init).await, "session_init_ack");
    }
    panic!("more inits are needed");
}

/// A measurement, and no verdict: what valid inits from eight connections do to the pace of one answer, alone and under
/// the flood by turns.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; says what it measured"]
async fn what_a_flood_of_valid_inits_does_to_a_running_answer() {
    let node = TestNode::with(llama(1), &[], |config| {
        config.inits_per_minute = 6_000_000.try_into().unwrap();
        config.inits_per_minute_per_address = 6_000_000.try_into().unwrap();
    })
    .await;
    let mut asking = node.connect().await;
    let mut session = asking.open("1").await.session;
    answer(&mut asking, &mut session).await;
    let mut ratios = Vec::new();
    for _ in 0..7 {
        let alone = answer(&mut asking, &mut session).await;
        let stop = CancellationToken::new();
        let mut floods = Vec::new();
        for _ in 0..8 {
            let (peer, wallet) = (node.connect().await, wallet());
            let inits = (0..4000).map(|_| fresh(&peer, &wallet)).collect();
            floods.push((peer, inits));
        }
        let floods: Vec<_> =
            floods.into_iter().map(|(peer, inits)| tokio::spawn(flood(peer, inits, stop.clone()))).collect();
        let under = answer(&mut asking, &mut session).await;
        stop.cancel();
        let mut answered = 0;
        for one in floods {
            answered += one.await.unwrap();
        }
        println!(
            "alone {alone:.2} s, under {:.0} inits a second {under:.2} s: {:.2} times",
            answered as f64 / under,
            under / alone
        );
        ratios.push(under / alone);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.2} times", ratios[3]);
}
