//! Somebody in the middle, between our clients and a node: whatever is done, nothing is accepted. docs/attacks.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test is meant to panic, and the counts are to be seen"
)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fabstir_attack::{
    Act, Byte, Class, Expected, FALLS, Keep, Kind, Ledger, Pace, Place, Plan, Proxy, Reference, Report, Step,
    Subject, Suite, Target, Way, version_1, version_2,
};
use fabstir_client::{ClientIdentity, Config, Session, anonymous};
use fabstir_engine::{EchoEngine, Engine, Generation, ModelInfo, Prompt, Refused, Request, Status};
use fabstir_protocol::v2::{Advertisement, Answers, AwaitingM2, AwsLc, Claim, FromNode, Hello, Sid, Welcome};
use futures_util::{SinkExt as _, StreamExt as _};
use support::TestNode;
use tokio_tungstenite::tungstenite::Message;

/// The echo, and a list of what it was asked to say.
#[derive(Debug)]
struct Counted {
    echo: EchoEngine,
    prompts: Arc<Mutex<Vec<String>>>,
}

impl Engine for Counted {
    fn submit(&self, request: Request) -> Result<Generation, Refused> {
        let asked = match &request.prompt {
            Prompt::Raw(text) => text.as_str().to_owned(),
            Prompt::Chat(messages) => messages.last().unwrap().content.as_str().to_owned(),
        };
        self.prompts.lock().unwrap().push(asked);
        self.echo.submit(request)
    }

    fn models(&self) -> &[ModelInfo] {
        self.echo.models()
    }

    fn status(&self) -> Status {
        self.echo.status()
    }
}

/// A node that can be attacked, and the suite for it.
async fn suite(subject: Subject) -> (TestNode, Suite) {
    let prompts: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&prompts);
    let ledger =
        Ledger::new(move |text| seen.lock().unwrap().iter().filter(|prompt| prompt.contains(text)).count());
    // Words take their time, so that there is something left of an answer to attack.
    let echo = EchoEngine::new("echo", 2048).with_delay(Duration::from_millis(3));
    let node = TestNode::with(Arc::new(Counted { echo, prompts }), &[], |config| {
        config.max_connections = 4096;
    })
    .await;
    let suite = Suite {
        subject,
        target: Target {
            url: format!("ws://{}/v1/ws", node.address),
            identity: node.key.address(),
            key: Some(node.key),
        },
        expected: Expected::Echo,
        ledger: Some(ledger),
        pace: Pace::default(),
    };
    (node, suite)
}

fn show(name: &str, report: &Report) {
    println!("{name}, {} s\n{}\n{report}", report.took.as_secs(), Report::HEAD);
}

/// Runs the steps of some classes, and sees that nothing was accepted and nothing was left out.
async fn none_accepted(name: &str, subject: Subject, steps: Vec<Step>) -> Report {
    let (_node, suite) = suite(subject).await;
    let report = suite.run(steps).await.unwrap();
    show(name, &report);
    let list = |ended: Vec<String>| ended.join("\n");
    let accepted: Vec<String> = report.accepted().map(ToString::to_string).collect();
    assert!(accepted.is_empty(), "accepted:\n{}", list(accepted));
    let unreached: Vec<String> = report.unreached().map(ToString::to_string).collect();
    assert!(unreached.is_empty(), "never done:\n{}", list(unreached));
    let outdated: Vec<String> = report.outdated().map(ToString::to_string).collect();
    assert!(outdated.is_empty(), "said to succeed, and does not:\n{}", list(outdated));
    if std::env::var_os("ATTACKS_SHOW").is_some() {
        report.ended.iter().for_each(|one| println!("{one}"));
    }
    report
}

fn of(steps: Vec<Step>, classes: &[Class]) -> Vec<Step> {
    steps.into_iter().filter(|step| classes.contains(&step.class)).collect()
}

macro_rules! version_2_tests {
    ($($name:ident: $($class:ident)+;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let classes = [Class::Control, $(Class::$class),+];
            let steps = of(version_2(), &classes);
            let report = none_accepted(stringify!($name), Subject::Version2, steps).await;
            assert!(classes.iter().all(|class| report.counts()[class].steps > 0));
        })+
    };
}

version_2_tests! {
    nothing_repeated_is_accepted: Replay Duplicate;
    nothing_out_of_order_is_accepted: Reorder Drop;
    nothing_cut_passes_for_whole: Truncate;
    nothing_of_elsewhere_is_accepted: Splice;
    nothing_said_back_is_accepted: Reflect;
    no_flipped_bit_is_accepted: Flip;
    no_other_node_and_no_lesser_version_is_accepted: Downgrade Swap;
    no_recording_opens_anything: Elsewhere Ticket;
    nothing_in_the_clear_is_accepted: Inject;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_1_keeps_what_it_promises_and_no_more() {
    let report = none_accepted("version 1", Subject::Version1, version_1()).await;
    assert!(report.total().known > 0, "what version 1 cannot keep is not hidden");
}

/// The control of the suite itself: against the guide's unmended protocol it finds what there is to find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_unmended_protocol_falls() {
    let reference = Reference::start().await.unwrap();
    let suite = Suite {
        subject: Subject::Reference,
        target: reference.target(),
        expected: Expected::Echo,
        ledger: Some(reference.ledger()),
        pace: Pace::default(),
    };
    let steps = version_1().into_iter().map(|step| Step { known: None, ..step }).collect();
    let report = suite.run(steps).await.unwrap();
    show("the guide's protocol", &report);
    let counts = report.counts();
    for class in FALLS {
        assert!(counts[&class].accepted > 0, "{class} did not succeed");
    }
    assert_eq!(counts[&Class::Control].harmless, 1);
}

/// Message 2 proves nothing of the ML-KEM secret: only the welcome does, and before it no session is open.
#[tokio::test]
async fn without_its_welcome_no_session_is_open() {
    let node = TestNode::start(support::echo()).await;
    let welcome = Place::new(Way::ToClient, Kind::Record, 0);
    for act in [Act::Drop, Act::CloseAlways, Act::Flip(Byte::Front(9), 3), Act::Cut(Keep::Half)] {
        let plan = Plan { acts: vec![(welcome, act.clone())], ..Plan::default() };
        let proxy = Proxy::start(&format!("ws://{}/v1/ws", node.address), plan).await.unwrap();
        let config = Config {
            connect_timeout: Duration::from_millis(500),
            ..Config::new(proxy.url(), node.key.address(), anonymous())
        };
        let opened = Session::connect(config).await;
        assert!(opened.is_err(), "{act:?}");
    }
}

/// Whoever carries the frames can keep a client from its answer, and not make it hammer the node for it.
#[tokio::test]
async fn a_client_that_is_cut_off_each_time_waits_longer_each_time_and_gives_up() {
    let node = TestNode::start(support::slow_echo(Duration::from_millis(20))).await;
    let said = |nth| Place::new(Way::ToClient, Kind::Record, nth);
    // Each resumption is through, and nothing after it.
    let acts = vec![(said(1), Act::CloseAfter), (said(0).on(1), Act::CloseAlways)];
    let plan = Plan { acts, ..Plan::default() };
    let proxy = Proxy::start(&format!("ws://{}/v1/ws", node.address), plan).await.unwrap();
    let config = Config {
        resume_for: Duration::from_secs(1),
        ..Config::new(proxy.url(), node.key.address(), anonymous())
    };
    let session = Session::connect(config).await.unwrap();
    let answer = session.ask(&fabstir_client::Request::prompt("word ".repeat(100))).await.unwrap();
    let told = tokio::time::timeout(support::PATIENCE, answer.text()).await.expect("it gives up");
    assert!(matches!(told, Err(fabstir_client::Error::Truncated)), "{told:?}");
    let seen = proxy.into_log().seen;
    let resumptions = seen.iter().filter(|seen| seen.place.kind == Kind::R1).count();
    assert!((2..=7).contains(&resumptions), "{resumptions}");
}

/// A client that makes its own handshake, with a claim or without: what the node welcomes it with, and the session's name.
async fn greeted(
    node: &TestNode,
    who: &ClientIdentity,
    claim: Option<Claim>,
) -> (Welcome, Sid, support::Peer) {
    let shown: Advertisement = serde_json::from_value(node.get_json("/v1/node").await).unwrap();
    let now = node.node.clock.unix(tokio::time::Instant::now());
    let verified = shown.verify(node.key.address(), now).unwrap();
    let mut peer = node.connect().await;
    let (m1, waiting) = AwaitingM2::<AwsLc>::start(&verified, &mut support::rng()).unwrap();
    peer.socket.send(Message::binary(m1)).await.unwrap();
    let m2 = peer.socket.next().await.unwrap().unwrap().into_data();
    let hello = Hello { ticket: true, claim, ..Hello::default() };
    let (m3, mut channel) = waiting.finish(&m2, who, &hello, &mut support::rng()).unwrap();
    peer.socket.send(Message::binary(m3)).await.unwrap();
    let frame = peer.socket.next().await.unwrap().unwrap().into_data();
    let record = channel.opener.open(&frame).unwrap();
    let FromNode::Welcome(welcome) = Answers::default().take(record).unwrap() else { panic!() };
    (welcome, channel.sid, peer)
}

/// The name of a session is no secret to who sees a memory dump or a log: it is honoured for the key that opened it alone.
#[tokio::test]
async fn nobody_claims_the_session_of_another_key() {
    let node = TestNode::start(support::echo()).await;
    let (alice, mallory) = (anonymous(), anonymous());
    let (welcome, session, _hers) = greeted(&node, &alice, None).await;
    assert_eq!(welcome.known, None);
    let claim = || Some(Claim { session, received: Vec::new() });
    let (welcome, own, _his) = greeted(&node, &mallory, claim()).await;
    assert_eq!(welcome.known, None, "a session of his own");
    assert_ne!(own, session);
    assert_eq!(node.node.channels.count().0, 2);
    let (welcome, _, _again) = greeted(&node, &alice, claim()).await;
    assert_eq!(welcome.known, Some(Vec::new()), "she has hers");
    assert_eq!(node.node.channels.count().0, 2);
}
